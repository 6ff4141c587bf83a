/*
 * checks/: every file is a view of one resource, /v1/health/state/any. A directory's name is the state that it shows.
 */
#include "checks.h"

#include "answer.h"
#include "check.h"
#include "document.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int read_checks(struct op *op, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, "/v1/health/state/any", CONSUL_JSON, CONSUL_BLOCKS | CONSUL_OBJECTS, 0, ret_snapshot);
}

static int find_summary(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = read_checks(op, &snapshot);

    (void)dir, (void)name;
    if (r == 0)
        r = view_checks_summary(snapshot->json, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int find_check(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE], node[NAME_SIZE], *local = answer_local_node(op);
    int r = view_owned_parse(name, local, NULL, id, node);

    free(local);
    if (r == 0)
        r = read_checks(op, &snapshot);
    if (r < 0)
        return r;
    return answer_show_document(found, snapshot, view_find_check(snapshot->json, dir->kind->name, id, node));
}

static int list_checks(struct op *op, struct inode *dir, struct lister *lister);

/* The check that a name means, if it may be written: *ret_node is `node`, or NULL for our agent's. */
static int parse_check(struct op *op, const char *name, char id[NAME_SIZE], char node[NAME_SIZE], const char **ret_node)
{
    char *local;
    int r;

    *ret_node = NULL;
    if (!strchr(name, '@')) /* our agent's, even if we don't know what its node is called */
        return view_owned_parse(name, "", NULL, id, node);
    local = answer_local_node(op);
    r = view_owned_parse(name, local, NULL, id, node);
    if (r == 0 && (!local || strcmp(local, node) != 0))
        *ret_node = node;
    free(local);
    return r;
}

static int may_create_check(struct op *op, struct inode *dir, const char *name)
{
    char id[NAME_SIZE], node[NAME_SIZE];
    const char *owner;

    (void)dir;
    if (!view_is_json_name(name))
        return -EPERM;
    return parse_check(op, name, id, node, &owner) < 0 ? -EINVAL : 0;
}

static int store_check(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char id[NAME_SIZE], node[NAME_SIZE];
    const char *owner;
    int r = parse_check(op, name, id, node, &owner);

    (void)dir;
    return r < 0 ? r : check_register(op, id, owner, data, len);
}

static int unlink_check(struct op *op, struct inode *dir, const char *name)
{
    char id[NAME_SIZE], node[NAME_SIZE];
    const char *owner;
    int r = parse_check(op, name, id, node, &owner);

    (void)dir;
    return r < 0 ? r : check_deregister(op, id, owner);
}

static const struct kind kind_check = {
    .mode = S_IFREG | 0644,
    .find = find_check,
    .list = list_checks,
    .store = store_check,
    .complete = document_complete,
    .may_create = may_create_check,
    .unlink = unlink_check,
};

static int list_checks(struct op *op, struct inode *dir, struct lister *lister)
{
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE], *local;
    json_t *check;
    size_t i;
    int r = read_checks(op, &snapshot);

    if (r < 0)
        return r;
    local = answer_local_node(op);
    json_array_foreach(snapshot->json, i, check)
    {
        if (!json_is_string(json_object_get(check, "CheckID"))) {
            r = -EIO;
            break;
        }
        if (!view_check_is(check, dir->kind->name))
            continue;
        r = view_owned_name(view_string(check, "CheckID"), view_string(check, "Node"), local, NULL, name);
        r = answer_list_document(op, lister, r, name, snapshot, check, &kind_check);
        if (r < 0)
            break;
    }
    free(local);
    return r;
}

static const struct kind *const state_rows[] = {&kind_check, NULL};

static const struct kind kind_any = {.name = "any", .mode = S_IFDIR | 0755, .rows = state_rows};
static const struct kind kind_passing = {.name = "passing", .mode = S_IFDIR | 0755, .rows = state_rows};
static const struct kind kind_warning = {.name = "warning", .mode = S_IFDIR | 0755, .rows = state_rows};
static const struct kind kind_critical = {.name = "critical", .mode = S_IFDIR | 0755, .rows = state_rows};
/* A state that the endpoint has and no check of today's is in. */
static const struct kind kind_unknown = {
    .name = "unknown", .mode = S_IFDIR | 0555, .flags = KIND_HIDDEN, .rows = state_rows};
static const struct kind kind_summary = {.name = "summary", .mode = S_IFREG | 0444, .find = find_summary};

static const struct kind *const checks_rows[] = {
    &kind_any, &kind_passing, &kind_warning, &kind_critical, &kind_unknown, &kind_summary, NULL,
};

const struct kind kind_checks = {.name = "checks", .mode = S_IFDIR | 0555, .rows = checks_rows};
