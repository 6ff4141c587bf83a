/*
 * nodes/: one directory for each node. Each of its files is a view of one resource, so that the kernel may keep it.
 *
 * Nodes, services and checks are written to the catalog where no agent answers for the node; for our agent's node
 * services and checks go to the agent. A node's own files are views of it and go with it.
 */
#include "nodes.h"

#include "answer.h"
#include "catalog.h"
#include "check.h"
#include "content.h"
#include "document.h"
#include "instance.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char register_path[] = "/v1/catalog/register";

/* ---- the node of a directory ------------------------------------------------------------------------------------- */

/* Directories here are never renamed, so their names need no lock. */
static int node_of(const struct inode *dir, char node[NAME_SIZE])
{
    return name_decode(dir->name, NULL, node, NAME_SIZE);
}

static int read_of_node(struct op *op, const struct inode *dir, const char *endpoint, unsigned flags,
                        struct consul_snapshot **ret_snapshot)
{
    char node[NAME_SIZE];
    int r = node_of(dir, node);

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

/* The node and ID of NODE/services/ID.json and NODE/checks/ID.json. */
static int parse_item(const struct inode *dir, const char *name, char node[NAME_SIZE], char id[NAME_SIZE])
{
    int r = node_of(dir->parent, node);

    return r < 0 ? r : view_json_parse(name, id);
}

static int store_service(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char node[NAME_SIZE], id[NAME_SIZE];
    int r = parse_item(dir, name, node, id);

    return r < 0 ? r : instance_register(op, NULL, id, node, data, len);
}

/* Deregistering goes by the service's name, which only the catalog says. */
static int unlink_service(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    char node[NAME_SIZE], id[NAME_SIZE];
    const json_t *service;
    int r = parse_item(dir, name, node, id);

    if (op->state) /* only what was found out when it began is needed */
        return instance_deregister(op, "", id, node, NULL);
    if (r == 0)
        r = read_catalog(op, dir->parent, &snapshot);
    if (r < 0)
        return r;
    service = json_object_get(json_object_get(snapshot->json, "Services"), id);
    return service ? instance_deregister(op, view_string(service, "Service"), id, node, NULL) : -ENOENT;
}

/* ---- checks and sessions: arrays of objects with an ID ----------------------------------------------------------- */

struct items {
    const char *endpoint, *id;
    const struct kind *kind;
};

static int find_in(const struct items *items, struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    if (r == 0)
        r = read_of_node(op, dir->parent, items->endpoint, CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &snapshot);
    return r < 0 ? r : answer_show_document(found, snapshot, view_select(snapshot->json, items->id, id));
}

static int list_of(const struct items *items, struct op *op, struct inode *dir, struct lister *lister)
{
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    json_t *object;
    size_t i;
    int r = read_of_node(op, dir->parent, items->endpoint, CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &snapshot);

    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, object)
    {
        if (!json_is_string(json_object_get(object, items->id)))
            return -EIO;
        r = view_json_name(view_string(object, items->id), name);
        r = answer_list_document(op, lister, r, name, snapshot, object, items->kind);
        if (r < 0)
            return r;
    }
    return 0;
}

static const struct kind kind_check, kind_session;
static const struct items checks = {"/v1/health/node/", "CheckID", &kind_check};
static const struct items sessions = {"/v1/session/node/", "ID", &kind_session};

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

static int store_check(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char node[NAME_SIZE], id[NAME_SIZE];
    int r = parse_item(dir, name, node, id);

    return r < 0 ? r : check_register(op, id, node, data, len);
}

static int unlink_check(struct op *op, struct inode *dir, const char *name)
{
    char node[NAME_SIZE], id[NAME_SIZE];
    int r = parse_item(dir, name, node, id);

    return r < 0 ? r : check_deregister(op, id, node);
}

static int unlink_session(struct op *op, struct inode *dir, const char *name)
{
    char node[NAME_SIZE], id[NAME_SIZE];
    int r = parse_item(dir, name, node, id);

    if (op->stage > 0) {
        if (op->result == 0)
            consul_expire(op->fs->consul, "/v1/session/");
        return op->result;
    }
    return r < 0 ? r : answer_send(op, "PUT", "/v1/session/destroy/", id, NULL);
}

/* ---- removing a node's files and directories, as `rm -r` does --------------------------------------------------- */

/* 1 when nothing is registered on the node any more. */
static int is_bare(struct op *op, const struct inode *node_dir)
{
    struct consul_snapshot *catalog, *health;
    int r = read_catalog(op, node_dir, &catalog);

    if (r == 0)
        r = read_of_node(op, node_dir, checks.endpoint, CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &health);
    if (r < 0)
        return r;
    return json_object_size(json_object_get(catalog->json, "Services")) == 0 && json_array_size(health->json) == 0;
}

/* A view goes with its node: once nothing is left but that, it is as good as gone. */
static int unlink_view(struct op *op, struct inode *dir, const char *name)
{
    int r = is_bare(op, dir);

    (void)name;
    return r < 0 ? r : r > 0 ? 0 : -EPERM;
}

/* They hold what the node has; empty, they go with it. */
static int remove_services_dir(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    int r = read_catalog(op, dir, &snapshot);

    (void)name;
    if (r < 0)
        return r;
    return json_object_size(json_object_get(snapshot->json, "Services")) > 0 ? -ENOTEMPTY : 0;
}

static int remove_items_dir(struct op *op, struct inode *dir, const struct items *items)
{
    struct consul_snapshot *snapshot;
    int r = read_of_node(op, dir, items->endpoint, CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &snapshot);

    if (r < 0)
        return r;
    return json_array_size(snapshot->json) > 0 ? -ENOTEMPTY : 0;
}

static int remove_checks_dir(struct op *op, struct inode *dir, const char *name)
{
    (void)name;
    return remove_items_dir(op, dir, &checks);
}

static int remove_sessions_dir(struct op *op, struct inode *dir, const char *name)
{
    (void)name;
    return remove_items_dir(op, dir, &sessions);
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

static int remove_node(struct op *op, const char *node)
{
    enum catalog_owner owner;
    int r;

    if (op->stage > 0) {
        catalog_expire(op);
        return op->result;
    }
    r = catalog_owner(op, node, &owner);
    if (r == 0 && owner == CATALOG_OURS) {
        answer_refuse(op, "/v1/catalog/deregister", "node \"%s\" is that of our agent, which would come back", node);
        r = -EPERM;
    }
    return r < 0 ? r : catalog_deregister(op, node, NULL, NULL);
}

/* There is none without an address. */
static int make_node(struct op *op, struct inode *dir, const char *name)
{
    (void)dir;
    answer_refuse(op, register_path, "a node has an address: write nodes/%s.json", name);
    return -EPERM;
}

static int rmdir_node(struct op *op, struct inode *dir, const char *name)
{
    char node[NAME_SIZE];
    int r = name_decode(name, NULL, node, sizeof(node));

    (void)dir;
    return r < 0 ? r : remove_node(op, node);
}

/* ---- NODE.json: the whole of it, and what /v1/catalog/register takes --------------------------------------------- */

static int find_node_document(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char node[NAME_SIZE];
    int r = view_json_parse(name, node);

    (void)dir;
    if (r == 0)
        r = answer_read(op, "/v1/catalog/node/", node, "", CONSUL_BLOCKS | CONSUL_OBJECT, &snapshot);
    if (r < 0)
        return r;
    return answer_show_document(found, snapshot, json_is_object(snapshot->json) ? snapshot->json : NULL);
}

static int send_node(struct op *op, const char *node, const char *data, size_t len)
{
    char *why = NULL, *datacenter;
    json_t *written, *document = NULL;
    struct consul_snapshot *snapshot;
    int r = answer_read(op, "/v1/catalog/node/", node, "", CONSUL_BLOCKS | CONSUL_OBJECT, &snapshot);

    if (r < 0)
        return r;
    datacenter = answer_datacenter(op);
    written = json_loadb(data, len, 0, NULL);
    r = written ? view_node_registration(written, node, datacenter, snapshot->json, &document, &why) : -EINVAL;
    json_decref(written);
    free(datacenter);
    if (r == -EINVAL)
        answer_refuse(op, register_path, "%s", why ? why : "not JSON");
    free(why);
    if (r == 0)
        r = catalog_register(op, document);
    json_decref(document);
    return r;
}

static int store_node(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    enum catalog_owner owner;
    char node[NAME_SIZE];
    int r = view_json_parse(name, node);

    (void)dir;
    if (op->stage > 0) {
        catalog_expire(op);
        return op->result;
    }
    if (r == 0)
        r = catalog_owner(op, node, &owner);
    if (r == 0 && owner == CATALOG_OURS) {
        answer_refuse(op, register_path, "node \"%s\" is that of our agent, which says what it is", node);
        r = -EPERM;
    }
    return r < 0 ? r : send_node(op, node, data, len);
}

static int unlink_node(struct op *op, struct inode *dir, const char *name)
{
    char node[NAME_SIZE];
    int r = view_json_parse(name, node);

    (void)dir;
    return r < 0 ? r : remove_node(op, node);
}

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

static const struct kind kind_address = {
    .name = "address", .mode = S_IFREG | 0444, .find = find_address, .unlink = unlink_view};
static const struct kind kind_document = {
    .name = "node.json", .mode = S_IFREG | 0444, .find = find_document, .unlink = unlink_view};
static const struct kind kind_coordinate = {.name = "coordinate.json",
                                            .mode = S_IFREG | 0444,
                                            .find = find_coordinate,
                                            .list = list_coordinate,
                                            .unlink = unlink_view};

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

static const struct kind kind_service = {
    .mode = S_IFREG | 0644,
    .find = find_service,
    .list = list_services,
    .store = store_service,
    .complete = document_complete,
    .may_create = answer_may_create_json,
    .unlink = unlink_service,
};

static const struct kind kind_check = {
    .mode = S_IFREG | 0644,
    .find = find_check,
    .list = list_checks,
    .store = store_check,
    .complete = document_complete,
    .may_create = answer_may_create_json,
    .unlink = unlink_check,
};

static const struct kind kind_session = {
    .mode = S_IFREG | 0444,
    .find = find_session,
    .list = list_sessions,
    .unlink = unlink_session,
};

static const struct kind *const services_rows[] = {&kind_service, NULL};
static const struct kind *const checks_rows[] = {&kind_check, NULL};
static const struct kind *const sessions_rows[] = {&kind_session, NULL};

static const struct kind kind_services_dir = {
    .name = "services", .mode = S_IFDIR | 0755, .rows = services_rows, .rmdir = remove_services_dir};
static const struct kind kind_checks_dir = {
    .name = "checks", .mode = S_IFDIR | 0755, .rows = checks_rows, .rmdir = remove_checks_dir};
static const struct kind kind_sessions_dir = {
    .name = "sessions", .mode = S_IFDIR | 0755, .rows = sessions_rows, .rmdir = remove_sessions_dir};

/* Directories first: `rm -r` removes in the order of the listing, and the views when nothing is left to view. */
static const struct kind *const node_rows[] = {
    &kind_services_dir, &kind_checks_dir, &kind_sessions_dir, &kind_coordinate, &kind_document, &kind_address, NULL,
};

static const struct kind kind_node = {
    .mode = S_IFDIR | 0755,
    .rows = node_rows,
    .find = find_node,
    .list = list_nodes,
    .mkdir = make_node,
    .rmdir = rmdir_node,
};

static const struct kind kind_node_document = {
    .mode = S_IFREG | 0644,
    .flags = KIND_HIDDEN,
    .find = find_node_document,
    .store = store_node,
    .complete = document_complete,
    .may_create = answer_may_create_json,
    .unlink = unlink_node,
};

/* A node may be called "db07.json": what is listed wins over what is not. */
static const struct kind *const nodes_rows[] = {&kind_node, &kind_node_document, NULL};

const struct kind kind_nodes = {.name = "nodes", .mode = S_IFDIR | 0755, .rows = nodes_rows};
