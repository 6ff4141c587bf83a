#include "instance.h"

#include "answer.h"
#include "catalog.h"
#include "moved.h"
#include "settle.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char register_path[] = "/v1/agent/service/register";
static const char deregister_path[] = "/v1/agent/service/deregister/";
static const char catalog_register_path[] = "/v1/catalog/register";
static const char catalog_deregister_path[] = "/v1/catalog/deregister";

struct change {
    struct settle settle;
    struct registration registration; /* without a document: a deregistration */
    char *node;                       /* NULL: not known, and any will do */
    char *id;                         /* of a deregistration */
    char *dir;                        /* its path, to be a phantom when it is empty, or NULL */
};

static void change_free(void *arg)
{
    struct change *change = arg;

    registration_clear(&change->registration);
    settle_clear(&change->settle);
    free(change->node);
    free(change->id);
    free(change->dir);
    free(change);
}

static bool is_shown(const json_t *health, const void *arg)
{
    const struct change *change = arg;
    const json_t *document = change->registration.document, *entry;
    size_t i;

    if (!document)
        return !view_find_instance(health, change->id, change->node);
    json_array_foreach(health, i, entry)
    {
        if (strcmp(view_instance_id(entry), change->registration.id) == 0 &&
            (!change->node || strcmp(view_instance_node(entry), change->node) == 0) &&
            view_shows_registration(entry, document))
            return true;
    }
    return false;
}

static struct change *change_new(struct op *op, const char *service)
{
    struct change *change = calloc(1, sizeof(*change));

    if (!change)
        return NULL;
    change->settle = (struct settle){
        .path = answer_path(INSTANCE_HEALTH, service, ""),
        .flags = CONSUL_BLOCKS,
        .is_shown = is_shown,
        .arg = change,
    };
    if (!change->settle.path) {
        change_free(change);
        return NULL;
    }
    op->state = change;
    op->state_free = change_free;
    return change;
}

static int read_health(struct op *op, const char *service, struct consul_snapshot **ret_snapshot)
{
    return answer_read(op, INSTANCE_HEALTH, service, "", CONSUL_BLOCKS | CONSUL_OBJECTS, ret_snapshot);
}

/* Before Consul can tell anybody that the directory is gone: who empties it still needs it. */
static void expect_phantom(struct op *op, const struct change *change)
{
    phantom_add(&op->fs->phantoms, change->dir, op->pid);
}

static void forget_phantom(struct op *op, const struct change *change)
{
    if (change->dir)
        phantom_remove(&op->fs->phantoms, change->dir, op->pid);
}

/* What was changed is done; when it was the last instance the directory stays a while for who emptied it. */
static int wait_shown(struct op *op, struct change *change)
{
    const json_t *health;
    int r = settle(op, &change->settle, &health);

    if (r == 0 && health && change->registration.document)
        moved_here(op->fs, health);
    if (r == 0 && health && change->dir && json_array_size(health) == 0)
        expect_phantom(op, change);
    return r;
}

/* ---- registering ------------------------------------------------------------------------------------------------- */

/* What the user wrote, for our agent. *ret_node is the caller's: our agent's, or NULL while it is not known. */
static int prepare_ours(struct op *op, const char *service, const char *id, const json_t *written,
                        struct registration *registration, char **ret_node, char **ret_why)
{
    char *local = answer_local_node(op);
    struct consul_snapshot *snapshot = NULL;
    int r = id && local ? read_health(op, service, &snapshot) : 0;

    if (r != -EINPROGRESS)
        r = view_registration(written, service, id,
                              r == 0 && snapshot ? view_find_instance(snapshot->json, id, local) : NULL, registration,
                              ret_why);
    if (r < 0)
        free(local);
    else
        *ret_node = local;
    return r;
}

static int prepare_external(const char *service, const char *id, const char *node, const json_t *written,
                            struct registration *registration, char **ret_node, char **ret_why)
{
    json_t *document;
    int r = view_catalog_service(written, service, id, &document, ret_why);

    if (r < 0)
        return r;
    *registration =
        (struct registration){.document = document, .id = json_string_value(json_object_get(document, "ID"))};
    *ret_node = strdup(node);
    if (!*ret_node)
        registration_clear(registration);
    return *ret_node ? 0 : -ENOMEM;
}

static int prepare(struct op *op, const char *service, const char *id, const char *external, const json_t *written)
{
    struct registration registration;
    char *why = NULL, *node = NULL;
    struct change *change;
    int r;

    if (!service)
        service = view_service_said(written);
    if (!service)
        service = id;
    r = external ? prepare_external(service, id, external, written, &registration, &node, &why)
                 : prepare_ours(op, service, id, written, &registration, &node, &why);
    if (r == -EINVAL)
        answer_refuse(op, external ? catalog_register_path : register_path, "%s", why ? why : "not a registration");
    free(why);
    if (r < 0)
        return r;
    change = change_new(op, service);
    if (!change) {
        registration_clear(&registration);
        free(node);
        return -ENOMEM;
    }
    change->registration = registration;
    change->node = node;
    return 0;
}

static int send_external(struct op *op, const struct change *change)
{
    json_t *document = json_pack("{s:s, s:b, s:O}", "Node", change->node, "SkipNodeUpdate", 1, "Service",
                                 change->registration.document);
    int r = document ? catalog_register(op, document) : -EINVAL;

    json_decref(document);
    return r;
}

static int send_registration(struct op *op, const struct change *change)
{
    struct consul_request request = {.method = "PUT", .intent = CONSUL_WRITE};
    char path[sizeof(register_path) + 40], *body;
    int r;

    snprintf(path, sizeof(path), "%s%s", register_path,
             change->registration.has_checks ? "?replace-existing-checks=true" : "");
    body = json_dumps(change->registration.document, JSON_COMPACT);
    if (!body)
        return -ENOMEM;
    request.path = path;
    request.body = body;
    request.body_len = strlen(body);
    r = op_request(op, &request);
    free(body);
    return r;
}

static int begin_registration(struct op *op, const char *service, const char *id, const char *node, const char *data,
                              size_t len)
{
    enum catalog_owner owner;
    json_t *written;
    int r = catalog_owner(op, node, &owner);

    if (r == 0 && owner == CATALOG_NOBODYS)
        r = catalog_has_node(op, node);
    if (r < 0)
        return r;
    written = json_loadb(data, len, 0, NULL);
    r = written ? prepare(op, service, id, owner == CATALOG_NOBODYS ? node : NULL, written) : -EINVAL;
    json_decref(written);
    if (r < 0)
        return r;
    return owner == CATALOG_NOBODYS ? send_external(op, op->state) : send_registration(op, op->state);
}

int instance_register(struct op *op, const char *service, const char *id, const char *node, const char *data,
                      size_t len)
{
    struct change *change = op->state;

    if (!change)
        return begin_registration(op, service, id, node, data, len);
    if (settle_is_new(&change->settle) && op->result < 0)
        return op->result;
    return wait_shown(op, change);
}

/* ---- deregistering ----------------------------------------------------------------------------------------------- */

/*
 * 0 where the agent itself has the instance. What only the catalog has for a node with a live agent (the service
 * "consul" of the servers) is not ours to remove: it comes back, or goes, by itself.
 */
static int check_local(struct op *op, const char *id, const char *node)
{
    struct consul_snapshot *snapshot;
    int r = answer_read(op, "/v1/agent/service/", id, "", 0, &snapshot);

    if (r == -ENOENT) {
        answer_refuse(op, deregister_path, "\"%s\" of node \"%s\" is not registered with its agent: Consul keeps it",
                      id, node);
        return -EPERM;
    }
    return r == -EINPROGRESS ? r : 0; /* whether it may be read does not matter */
}

static int check_foreign(struct op *op, const json_t *entry)
{
    if (!view_has_live_agent(entry))
        return 0;
    answer_refuse(op, catalog_deregister_path,
                  "\"%s\" belongs to the agent of node \"%s\", which is alive: deregister it there",
                  view_instance_id(entry), view_instance_node(entry));
    return -EPERM;
}

/* What is to be waited for: no instance of that ID on `node` (NULL: on any). */
static int expect_gone(struct op *op, const char *service, const char *id, const char *node, const struct inode *dir)
{
    struct change *change = change_new(op, service);

    if (!change)
        return -ENOMEM;
    change->node = node ? strdup(node) : NULL;
    change->id = strdup(id);
    change->dir = dir ? inode_path_below(&op->fs->inodes, dir, &kind_root) : NULL;
    return change->id && (change->node || !node) && (change->dir || !dir) ? 0 : -ENOMEM;
}

static int begin_deregistration(struct op *op, const char *service, const char *id, const char *node,
                                const struct inode *dir)
{
    struct consul_snapshot *snapshot;
    const json_t *entry;
    char *local;
    bool is_local;
    int r = read_health(op, service, &snapshot);

    if (r < 0)
        return r;
    entry = view_find_instance(snapshot->json, id, node);
    if (!entry)
        return -ENOENT;
    local = answer_local_node(op);
    is_local = local && strcmp(local, node) == 0;
    free(local);
    r = is_local ? check_local(op, id, node) : check_foreign(op, entry);
    if (r == 0)
        r = expect_gone(op, service, id, node, dir);
    if (r < 0)
        return r;
    if (dir && json_array_size(snapshot->json) == 1)
        expect_phantom(op, op->state);
    r = is_local ? answer_send(op, "PUT", deregister_path, id, NULL) : catalog_deregister(op, node, "ServiceID", id);
    if (r != -EINPROGRESS)
        forget_phantom(op, op->state);
    return r;
}

int instance_deregister_own(struct op *op, const char *service, const char *id)
{
    struct change *change = op->state;
    char *local;
    int r;

    if (change)
        return settle_is_new(&change->settle) && op->result < 0 ? op->result : wait_shown(op, change);
    local = answer_local_node(op);
    r = expect_gone(op, service, id, local, NULL);
    free(local);
    return r < 0 ? r : answer_send(op, "PUT", deregister_path, id, NULL);
}

int instance_deregister(struct op *op, const char *service, const char *id, const char *node, const struct inode *dir)
{
    struct change *change = op->state;

    if (!change)
        return begin_deregistration(op, service, id, node, dir);
    if (settle_is_new(&change->settle) && op->result < 0) {
        forget_phantom(op, change);
        return op->result;
    }
    return wait_shown(op, change);
}
