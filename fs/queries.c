/*
 * queries/: NAME.json is the definition, NAME/ is what it answers at the moment; each look there executes it. A query
 * without a name is called by its ID.
 */
#include "queries.h"

#include "answer.h"
#include "collection.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct collection queries = {
    .list = "/v1/query",
    .name = "Name",
    .id = "ID",
    .create = {.method = "POST", .path = "/v1/query"},
    .update = {.method = "PUT", .path = "/v1/query/"},
    .destroy = {.method = "DELETE", .path = "/v1/query/"},
};

/* ---- results ----------------------------------------------------------------------------------------------------- */

static int execute(struct op *op, const struct inode *dir, const char *what, struct consul_snapshot **ret_snapshot)
{
    char query[NAME_SIZE];
    int r = name_decode(dir->name, NULL, query, sizeof(query));

    return r < 0 ? r : answer_read(op, "/v1/query/", query, what, CONSUL_OBJECT, ret_snapshot);
}

static int find_passing(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = execute(op, dir, "/execute", &snapshot);

    (void)name;
    if (r == 0)
        r = view_addresses(json_object_get(snapshot->json, "Nodes"), VIEW_PASSING, VIEW_PASSING, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int find_result(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    int r = execute(op, dir, "/execute", &snapshot);

    (void)name;
    return r < 0 ? r : answer_show_document(found, snapshot, snapshot->json);
}

static const struct kind kind_passing = {.name = "passing", .mode = S_IFREG | 0444, .find = find_passing};
static const struct kind kind_result = {.name = "result.json", .mode = S_IFREG | 0444, .find = find_result};
static const struct kind *const query_rows[] = {&kind_passing, &kind_result, NULL};

/* ---- a query's directory ----------------------------------------------------------------------------------------- */

static bool is_template(const json_t *query)
{
    return *view_string(json_object_get(query, "Template"), "Type") != '\0';
}

/* A template answers to names that are not listed; Consul knows to which. */
static int find_by_template(struct op *op, const char *query, const json_t *list)
{
    struct consul_snapshot *snapshot;
    const json_t *one;
    size_t i;

    json_array_foreach(list, i, one)
    {
        if (is_template(one))
            return answer_read(op, "/v1/query/", query, "/explain", CONSUL_OBJECT, &snapshot);
    }
    return -ENOENT;
}

static int find_query(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot = NULL;
    char query[NAME_SIZE];
    const json_t *object;
    int r = name_decode(name, NULL, query, sizeof(query));

    (void)dir, (void)found;
    if (r == 0)
        r = collection_select(op, &queries, query, &object, &snapshot);
    return r == -ENOENT && snapshot ? find_by_template(op, query, snapshot->json) : r;
}

static int list_queries(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    json_t *query;
    size_t i;
    int r = op_read(op, queries.list, CONSUL_JSON, CONSUL_OBJECTS, 0, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, query)
    {
        r = answer_list_name(op, lister, collection_name(&queries, query), &(struct found){.kind = row});
        if (r < 0)
            return r;
    }
    return 0;
}

static const struct kind kind_document = {COLLECTION_FILES(queries, 0644)};
static const struct kind kind_query = {
    .mode = S_IFDIR | 0555, .rows = query_rows, .find = find_query, .list = list_queries};

static const struct kind *const queries_rows[] = {&kind_document, &kind_query, NULL};

const struct kind kind_queries = {.name = "queries", .mode = S_IFDIR | 0755, .rows = queries_rows};
