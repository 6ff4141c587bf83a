/*
 * acl/: collections, whose lists decide what is there: servers before 1.15 answer 403 for a single token or policy that
 * they do not have. None of it can be watched.
 *
 * Everything here may hold a secret: nothing is readable but by the mount's owner, whatever umask= says.
 */
#include "acl.h"

#include "answer.h"
#include "collection.h"
#include "content.h"
#include "order.h"
#include "single.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What Consul adds to a document, and does not take for a new one. */
static void drop_shown(json_t *document)
{
    static const char *const shown[] = {"Hash", "CreateTime", "CreateIndex", "ModifyIndex"};

    for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
        json_object_del(document, shown[i]);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool is_uuid(const char *text)
{
    size_t i;

    for (i = 0; text[i]; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-' : !strchr("0123456789abcdefABCDEF", text[i]))
            return false;
    }
    return i == 36;
}

/*
 * A new token gets the accessor that the path says, if it says one. A document that has an accessor is a copy: unless
 * it is put back where it came from, neither that nor the secret is the new token's.
 */
static int prepare_token(struct op *op, const char *name, json_t *document, const json_t *current)
{
    const char *said = view_string(document, "AccessorID");
    bool is_copy = *said && strcmp(said, name) != 0;

    if (current && *said && strcmp(said, view_string(current, "AccessorID")) != 0) {
        answer_refuse(op, "/v1/acl/token/", "\"AccessorID\" says \"%s\", the token's is \"%s\"", said,
                      view_string(current, "AccessorID"));
        return -EINVAL;
    }
    if (current)
        return 0;
    drop_shown(document);
    if (is_copy)
        json_object_del(document, "SecretID");
    json_object_del(document, "AccessorID");
    if (is_uuid(name) && json_object_set_new(document, "AccessorID", json_string(name)) < 0)
        return -ENOMEM;
    return 0;
}

static const struct collection tokens = {
    .list = "/v1/acl/tokens",
    .name = "AccessorID",
    .read = "/v1/acl/token/",
    .create = {"PUT", "/v1/acl/token", false},
    .update = {"PUT", "/v1/acl/token/", false},
    .destroy = {"DELETE", "/v1/acl/token/", false},
    .names_itself = true,
    .prepare = prepare_token,
};

static const struct collection_links by_description = {&tokens, "Description"};

static const struct kind kind_token = {COLLECTION_FILES(tokens, 0600)};
static const struct kind kind_description = {COLLECTION_LINKS(by_description)};
static const struct kind *const description_rows[] = {&kind_description, NULL};
static const struct kind kind_descriptions = {
    .name = "by-description", .mode = S_IFDIR | 0700, .rows = description_rows};
static const struct kind *const tokens_rows[] = {&kind_descriptions, &kind_token, NULL};
static const struct kind kind_tokens = {.name = "tokens", .mode = S_IFDIR | 0700, .rows = tokens_rows};

/* ---- policies, roles, auth methods, binding rules ---------------------------------------------------------------- */

static int prepare_document(struct op *op, const char *name, json_t *document, const json_t *current)
{
    const struct collection *collection = collection_of(op);

    (void)name;
    if (!current) {
        drop_shown(document);
        json_object_del(document, collection->id ? collection->id : "ID"); /* Consul picks it */
    }
    return 0;
}

static const struct collection policies = {
    .list = "/v1/acl/policies",
    .name = "Name",
    .id = "ID",
    .read = "/v1/acl/policy/",
    .create = {"PUT", "/v1/acl/policy", false},
    .update = {"PUT", "/v1/acl/policy/", false},
    .destroy = {"DELETE", "/v1/acl/policy/", false},
    .prepare = prepare_document,
};

static const struct collection roles = {
    .list = "/v1/acl/roles",
    .name = "Name",
    .id = "ID",
    .read = "/v1/acl/role/",
    .create = {"PUT", "/v1/acl/role", false},
    .update = {"PUT", "/v1/acl/role/", false},
    .destroy = {"DELETE", "/v1/acl/role/", false},
    .prepare = prepare_document,
};

static const struct collection auth_methods = {
    .list = "/v1/acl/auth-methods",
    .name = "Name",
    .read = "/v1/acl/auth-method/",
    .create = {"PUT", "/v1/acl/auth-method", false},
    .update = {"PUT", "/v1/acl/auth-method/", false},
    .destroy = {"DELETE", "/v1/acl/auth-method/", false},
    .prepare = prepare_document,
};

static const struct collection binding_rules = {
    .list = "/v1/acl/binding-rules",
    .name = "ID",
    .read = "/v1/acl/binding-rule/",
    .create = {"PUT", "/v1/acl/binding-rule", false},
    .update = {"PUT", "/v1/acl/binding-rule/", false},
    .destroy = {"DELETE", "/v1/acl/binding-rule/", false},
    .names_itself = true,
    .prepare = prepare_document,
};

/* ---- NAME.hcl: a policy's rules alone ---------------------------------------------------------------------------- */

static const char rules_suffix[] = ".hcl";

static int read_policy(struct op *op, const char *name, const json_t **ret_policy,
                       struct consul_snapshot **ret_snapshot)
{
    const json_t *listed;
    int r = collection_select(op, &policies, name, &listed, NULL);

    return r < 0 ? r : collection_read(op, &policies, collection_id(&policies, listed), ret_policy, ret_snapshot);
}

static int find_rules(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    const json_t *policy;
    char key[NAME_SIZE], *data;
    const char *rules;
    int r = view_file_parse(name, rules_suffix, key);

    (void)dir;
    if (r == 0)
        r = read_policy(op, key, &policy, &snapshot);
    if (r < 0)
        return r;
    rules = view_string(policy, "Rules");
    data = strdup(rules);
    return data ? answer_show(found, snapshot, data, strlen(rules)) : -ENOMEM;
}

static int list_rules(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    json_t *policy;
    size_t i;
    int r = op_read(op, policies.list, CONSUL_JSON, CONSUL_OBJECTS, 0, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, policy)
    {
        r = answer_list_suffixed(op, lister, view_string(policy, "Name"), rules_suffix, row);
        if (r < 0)
            return r;
    }
    return 0;
}

static int may_create_rules(struct op *op, struct inode *dir, const char *name)
{
    char policy[NAME_SIZE];

    (void)op, (void)dir;
    return view_file_parse(name, rules_suffix, policy) < 0 ? -EPERM : 0;
}

/* The rest of the policy stays as it is. */
static int send_rules(struct op *op, const char *name, const json_t *current, const char *data, size_t len)
{
    json_t *document = current ? json_copy((json_t *)current) : json_pack("{s:s}", "Name", name);
    json_t *rules = json_stringn(data, len);
    int r;

    if (!document || !rules) { /* not UTF-8 */
        json_decref(document);
        json_decref(rules);
        return -EINVAL;
    }
    r = json_object_set_new(document, "Rules", rules) < 0 ? -ENOMEM : 0;
    if (r == 0)
        r = current
                ? answer_send(op, policies.update.method, policies.update.path, view_string(current, "ID"), document)
                : answer_send(op, policies.create.method, policies.create.path, "", document);
    json_decref(document);
    return r;
}

static int store_rules(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    struct consul_snapshot *snapshot;
    const json_t *current = NULL;
    char policy[NAME_SIZE];
    int r = view_file_parse(name, rules_suffix, policy);

    (void)dir;
    if (op->stage > 0) {
        collection_expire(op, &policies);
        return op->result;
    }
    if (r == 0)
        r = read_policy(op, policy, &current, &snapshot);
    if (r < 0 && r != -ENOENT)
        return r;
    return send_rules(op, policy, current, data, len);
}

static const struct kind kind_rules = {
    .mode = S_IFREG | 0600,
    .find = find_rules,
    .list = list_rules,
    .store = store_rules,
    .may_create = may_create_rules,
};

/* ---- their directories ------------------------------------------------------------------------------------------- */

static const struct kind kind_policy = {COLLECTION_FILES(policies, 0600)};
static const struct kind *const policies_rows[] = {&kind_policy, &kind_rules, NULL};
static const struct kind kind_policies = {.name = "policies", .mode = S_IFDIR | 0700, .rows = policies_rows};

static const struct kind kind_role = {COLLECTION_FILES(roles, 0600)};
static const struct kind *const roles_rows[] = {&kind_role, NULL};
static const struct kind kind_roles = {.name = "roles", .mode = S_IFDIR | 0700, .rows = roles_rows};

static const struct kind kind_auth_method = {COLLECTION_FILES(auth_methods, 0600)};
static const struct kind *const auth_methods_rows[] = {&kind_auth_method, NULL};
static const struct kind kind_auth_methods = {
    .name = "auth-methods", .mode = S_IFDIR | 0700, .rows = auth_methods_rows};

static const struct kind kind_binding_rule = {COLLECTION_FILES(binding_rules, 0600)};
static const struct kind *const binding_rules_rows[] = {&kind_binding_rule, NULL};
static const struct kind kind_binding_rules = {
    .name = "binding-rules", .mode = S_IFDIR | 0700, .rows = binding_rules_rows};

/* ---- self.json, replication.json --------------------------------------------------------------------------------- */

static const struct single self = {.path = "/v1/acl/token/self", .flags = CONSUL_OBJECT};
static const struct kind kind_self_token = {SINGLE_FILE("self.json", self, 0600)};

static const struct single replication = {.path = "/v1/acl/replication", .flags = CONSUL_OBJECT};
static const struct kind kind_replication = {SINGLE_FILE("replication.json", replication, 0600)};

/* ---- bootstrap --------------------------------------------------------------------------------------------------- */

/* Writing makes the first management token, which only the answer tells. This mount shows it to its owner until its
 * end. */
static int bootstrap(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char *kept;

    (void)dir, (void)name, (void)data, (void)len;
    if (op->stage == 0)
        return answer_send(op, "PUT", "/v1/acl/bootstrap", "", NULL);
    if (op->result < 0)
        return op->result;
    kept = strdup(op->answer);
    if (!kept)
        return -ENOMEM;
    pthread_mutex_lock(&op->fs->open_lock);
    free(op->fs->bootstrapped);
    op->fs->bootstrapped = kept;
    pthread_mutex_unlock(&op->fs->open_lock);
    collection_expire(op, &tokens);
    return 0;
}

static int read_bootstrap(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    json_t *document;
    size_t len;
    char *data;
    int r;

    (void)dir, (void)name;
    pthread_mutex_lock(&op->fs->open_lock);
    document = op->fs->bootstrapped ? json_loads(op->fs->bootstrapped, 0, NULL) : NULL;
    pthread_mutex_unlock(&op->fs->open_lock);
    if (!document)
        return -ENODATA;
    r = view_document(document, &data, &len);
    json_decref(document);
    if (r < 0)
        return r;
    *ret_content = content_take(data, len, 0);
    return *ret_content ? 0 : -ENOMEM;
}

static const struct kind kind_bootstrap = {
    .name = "bootstrap",
    .mode = S_IFREG | 0600,
    .flags = KIND_HIDDEN | KIND_DIRECT | KIND_ORDERS,
    .read = read_bootstrap,
    .store = bootstrap,
};

/* ---- the directory ----------------------------------------------------------------------------------------------- */

/* Where the agent has said that ACLs are off there is no acl/. Costs no request: the top level is always there. */
static int find_acl(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)dir, (void)name, (void)found;
    if (op->fs->acl != ACL_ON)
        op->watched_all = false; /* it may yet be told, or be found out by a refusal */
    return op->fs->acl == ACL_OFF ? -ENOENT : 0;
}

static const struct kind *const acl_rows[] = {
    &kind_tokens,      &kind_policies,  &kind_roles, &kind_auth_methods, &kind_binding_rules, &kind_self_token,
    &kind_replication, &kind_bootstrap, NULL,
};

const struct kind kind_acl = {.name = "acl", .mode = S_IFDIR | 0700, .rows = acl_rows, .find = find_acl};
