/*
 * nodes/: one directory for each node. Each of its files is a view of one resource, so that the kernel may keep it.
 */
#include "nodes.h"

#include "answer.h"
#include "view.h"

#include <errno.h>
#include <string.h>

/* ---- the node of a directory ------------------------------------------------------------------------------------- */

/* Directories here are never renamed, so their names need no lock. */
static int read_of_node(struct op *op, const struct inode *dir, const char *endpoint, unsigned flags,
                        struct consul_snapshot **ret_snapshot)
{
    char node[NAME_SIZE];
    int r = name_decode(dir->name, NULL, node, sizeof(node));

    return r < 0 ? r : answer_read(op, endpoint, node, "", CONSUL_BLOCKS | flags, ret_snapshot);
}

/* {"Node":…, "Services":…}, or null for a node that is not there. */
static int read_catalog(struct op *op, const struct inode *dir, struct consul_snapshot **ret_snapshot)
{
    int r = read_of_node(op, dir, "/v1/catalog/node/", CONSUL_OBJECT, ret_snapshot);

    return r == 0 && !json_is_object((*ret_snapshot)->json) ? -ENOENT : r;
}

/* ---- files of a node --------------------------------------------------------------------------------------------- */

static int find_address(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = read_catalog(op, dir, &snapshot);

    (void)name;
    if (r == 0)
        r = view_line(view_string(json_object_get(snapshot->json, "Node"), "Address"), &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int find_document(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    int r = read_catalog(op, dir, &snapshot);

    (void)name;
    return r < 0 ? r : answer_show_document(found, snapshot, json_object_get(snapshot->json, "Node"));
}

/* Only agents have coordinates: 404 for other nodes, and for a while after an agent has started. */
static int read_coordinate(struct op *op, const struct inode *dir, struct consul_snapshot **ret_snapshot)
{
    int r = read_of_node(op, dir, "/v1/coordinate/node/", 0, ret_snapshot);

    return r == 0 && json_array_size((*ret_snapshot)->json) == 0 ? -ENOENT : r;
}

static int find_coordinate(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    int r = read_coordinate(op, dir, &snapshot);

    (void)name;
    return r < 0 ? r : answer_show_document(found, snapshot, snapshot->json);
}

/* A token that may not read coordinates can list the rest all the same. */
static int list_coordinate(struct op *op, struct inode *dir, struct lister *lister);

/* ---- services ---------------------------------------------------------------------------------------------------- */

static const struct kind kind_service;

static int find_service(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    if (r == 0)
        r = read_catalog(op, dir->parent, &snapshot);
    if (r < 0)
        return r;
    return answer_show_document(found, snapshot, json_object_get(json_object_get(snapshot->json, "Services"), id));
}

static int list_services(struct op *op, struct inode *dir, struct lister *lister)
{
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    const char *id;
    json_t *service;
    int r = read_catalog(op, dir->parent, &snapshot);

    if (r < 0)
        return r;
    json_object_foreach(json_object_get(snapshot->json, "Services"), id, service)
    {
        r = answer_list_document(op, lister, view_json_name(id, name), name, snapshot, service, &kind_service);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- checks and sessions: arrays of objects with an ID ----------------------------------------------------------- */

struct collection {
    const char *endpoint, *id;
    const struct kind *kind;
};

static int find_in(const struct collection *collection, struct op *op, struct inode *dir, const char *name,
                   struct found *found)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    if (r == 0)
        r = read_of_node(op, dir->parent, collection->endpoint, CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &snapshot);
    return r < 0 ? r : answer_show_document(found, snapshot, view_select(snapshot->json, collection->id, id));
}

static int list_of(const struct collection *collection, struct op *op, struct inode *dir, struct lister *lister)
{
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    json_t *object;
    size_t i;
    int r = read_of_node(op, dir->parent, collection->endpoint, CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &snapshot);

    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, object)
    {
        if (!json_is_string(json_object_get(object, collection->id)))
            return -EIO;
        r = view_json_name(view_string(object, collection->id), name);
        r = answer_list_document(op, lister, r, name, snapshot, object, collection->kind);
        if (r < 0)
            return r;
    }
    return 0;
}

static const struct kind kind_check, kind_session;
static const struct collection checks = {"/v1/health/node/", "CheckID", &kind_check};
static const struct collection sessions = {"/v1/session/node/", "ID", &kind_session};

static int find_check(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    return find_in(&checks, op, dir, name, found);
}

static int list_checks(struct op *op, struct inode *dir, struct lister *lister)
{
    return list_of(&checks, op, dir, lister);
}

static int find_session(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    return find_in(&sessions, op, dir, name, found);
}

static int list_sessions(struct op *op, struct inode *dir, struct lister *lister)
{
    return list_of(&sessions, op, dir, lister);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static const struct kind kind_node;

static int read_nodes(struct op *op, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, "/v1/catalog/nodes", CONSUL_JSON, CONSUL_BLOCKS | CONSUL_OBJECTS, 0, ret_snapshot);
}

static int find_node(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char node[NAME_SIZE];
    int r = name_decode(name, NULL, node, sizeof(node));

    (void)dir, (void)found;
    if (r == 0)
        r = read_nodes(op, &snapshot);
    if (r < 0)
        return r;
    return view_select(snapshot->json, "Node", node) ? 0 : -ENOENT;
}

static int list_nodes(struct op *op, struct inode *dir, struct lister *lister)
{
    struct found found = {.kind = &kind_node};
    struct consul_snapshot *snapshot;
    json_t *object;
    size_t i;
    int r = read_nodes(op, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, object)
    {
        const char *node = json_string_value(json_object_get(object, "Node"));

        if (!node)
            return -EIO;
        r = answer_list_name(op, lister, node, &found);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

static const struct kind kind_address = {.name = "address", .mode = S_IFREG | 0444, .find = find_address};
static const struct kind kind_document = {.name = "node.json", .mode = S_IFREG | 0444, .find = find_document};
static const struct kind kind_coordinate = {
    .name = "coordinate.json", .mode = S_IFREG | 0444, .find = find_coordinate, .list = list_coordinate};

static int list_coordinate(struct op *op, struct inode *dir, struct lister *lister)
{
    struct found found = {.kind = &kind_coordinate};
    struct consul_snapshot *snapshot;
    int r = read_coordinate(op, dir, &snapshot);

    if (r == -ENOENT)
        return 0;
    if (r == 0 && lister->with_content)
        r = answer_show_document(&found, snapshot, snapshot->json);
    return r < 0 && r != -EACCES ? r : lister->emit(lister, kind_coordinate.name, &found);
}

static const struct kind kind_service = {.mode = S_IFREG | 0444, .find = find_service, .list = list_services};
static const struct kind kind_check = {.mode = S_IFREG | 0444, .find = find_check, .list = list_checks};
static const struct kind kind_session = {.mode = S_IFREG | 0444, .find = find_session, .list = list_sessions};

static const struct kind *const services_rows[] = {&kind_service, NULL};
static const struct kind *const checks_rows[] = {&kind_check, NULL};
static const struct kind *const sessions_rows[] = {&kind_session, NULL};

static const struct kind kind_services_dir = {.name = "services", .mode = S_IFDIR | 0555, .rows = services_rows};
static const struct kind kind_checks_dir = {.name = "checks", .mode = S_IFDIR | 0555, .rows = checks_rows};
static const struct kind kind_sessions_dir = {.name = "sessions", .mode = S_IFDIR | 0555, .rows = sessions_rows};

static const struct kind *const node_rows[] = {
    &kind_address, &kind_document, &kind_services_dir, &kind_checks_dir, &kind_coordinate, &kind_sessions_dir, NULL,
};

static const struct kind kind_node = {.mode = S_IFDIR | 0555, .rows = node_rows, .find = find_node, .list = list_nodes};

static const struct kind *const nodes_rows[] = {&kind_node, NULL};

const struct kind kind_nodes = {.name = "nodes", .mode = S_IFDIR | 0555, .rows = nodes_rows};
