/*
 * Both lists are objects by ID. Writing goes the same way as in services/ and checks/: what is registered here appears
 * there.
 */
#include "agent_items.h"

#include "answer.h"
#include "check.h"
#include "document.h"
#include "instance.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char services_path[] = "/v1/agent/services", checks_path[] = "/v1/agent/checks";

/* ---- ID.json ----------------------------------------------------------------------------------------------------- */

static int read_list(struct op *op, const char *path, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, path, CONSUL_JSON, CONSUL_OBJECT, 0, ret_snapshot);
}

static int find_item(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    (void)dir;
    if (r == 0)
        r = read_list(op, op->row->of, &snapshot);
    return r < 0 ? r : answer_show_document(found, snapshot, json_object_get(snapshot->json, id));
}

static int list_items(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    const char *id;
    json_t *item;
    int r = read_list(op, row->of, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_object_foreach(snapshot->json, id, item)
    {
        r = answer_list_document(op, lister, view_json_name(id, name), name, snapshot, item, row);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- a line beside it: ID.maintenance, ID.status ----------------------------------------------------------------- */

/* Lists ID.suffix for each item; what is in it is found out when it is looked up. */
static int list_lines(struct op *op, const char *path, const char *suffix, struct lister *lister)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    const char *id;
    json_t *item;
    int r = read_list(op, path, &snapshot);

    if (r < 0)
        return r;
    json_object_foreach(snapshot->json, id, item)
    {
        r = answer_list_suffixed(op, lister, id, suffix, row);
        if (r < 0)
            return r;
    }
    return 0;
}

static int has_item(struct op *op, const char *path, const char *id)
{
    struct consul_snapshot *snapshot;
    int r = read_list(op, path, &snapshot);

    return r < 0 ? r : json_object_get(snapshot->json, id) ? 0 : -ENOENT;
}

/* ---- maintenance ------------------------------------------------------------------------------------------------- */

int agent_maintenance_find(struct op *op, const char *check_id, struct found *found)
{
    struct consul_snapshot *snapshot;
    const json_t *check;
    char *line;
    int r = read_list(op, checks_path, &snapshot), len;

    if (r < 0)
        return r;
    check = json_object_get(snapshot->json, check_id);
    len = check ? asprintf(&line, "on %s\n", view_string(check, "Notes")) : asprintf(&line, "off\n");
    return len < 0 ? -ENOMEM : answer_show(found, snapshot, line, (size_t)len);
}

/* "on", "on REASON" or "off". */
static int send_maintenance(struct op *op, const char *path, const char *name, const char *data, size_t len)
{
    struct consul_request request = {.method = "PUT", .intent = CONSUL_WRITE_STRICT};
    char *reason, *query = NULL, *whole;
    bool on;
    int r;

    while (len > 0 && data[len - 1] == '\n')
        len--;
    on = len >= 2 && memcmp(data, "on", 2) == 0 && (len == 2 || data[2] == ' ');
    if (!on && (len != 3 || memcmp(data, "off", 3) != 0)) {
        answer_refuse(op, path, "\"on\", with a reason if you like, or \"off\" is expected");
        return -EINVAL;
    }
    reason = on && len > 3 ? strndup(data + 3, len - 3) : strdup("");
    if (reason)
        query = answer_path(on ? "?enable=true&reason=" : "?enable=false&reason=", reason, "");
    free(reason);
    whole = query ? answer_path(path, name, query) : NULL;
    free(query);
    if (!whole)
        return -ENOMEM;
    request.path = whole;
    r = op_request(op, &request);
    free(whole);
    return r;
}

int agent_maintenance_store(struct op *op, const char *path, const char *name, const char *check_id, const char *data,
                            size_t len)
{
    if (op->state)
        return check_settle(op);
    if (op->stage > 0) {
        if (op->result < 0)
            return op->result;
        return check_expect(op, check_id, data[1] == 'f');
    }
    return send_maintenance(op, path, name, data, len);
}

static void maintenance_check(const char *id, char out[NAME_SIZE + 32])
{
    snprintf(out, NAME_SIZE + 32, "_service_maintenance:%s", id);
}

static const char maintenance_suffix[] = ".maintenance";

static int find_maintenance(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    char id[NAME_SIZE], check[NAME_SIZE + 32];
    int r = view_file_parse(name, maintenance_suffix, id);

    (void)dir;
    if (r == 0)
        r = has_item(op, services_path, id);
    if (r < 0)
        return r;
    maintenance_check(id, check);
    return agent_maintenance_find(op, check, found);
}

static int list_maintenance(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)dir;
    return list_lines(op, services_path, maintenance_suffix, lister);
}

static int store_maintenance(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char id[NAME_SIZE], check[NAME_SIZE + 32];
    int r = view_file_parse(name, maintenance_suffix, id);

    (void)dir;
    if (r < 0)
        return r;
    maintenance_check(id, check);
    return agent_maintenance_store(op, "/v1/agent/service/maintenance/", id, check, data, len);
}

/* ---- services ---------------------------------------------------------------------------------------------------- */

static int store_service(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    (void)dir;
    return r < 0 ? r : instance_register(op, NULL, id, NULL, data, len);
}

static int unlink_service(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE];
    const json_t *service;
    int r = view_json_parse(name, id);

    (void)dir;
    if (op->state) /* only what was found out when it began is needed */
        return instance_deregister_own(op, "", id);
    if (r == 0)
        r = read_list(op, services_path, &snapshot);
    if (r < 0)
        return r;
    service = json_object_get(snapshot->json, id);
    return service ? instance_deregister_own(op, view_string(service, "Service"), id) : -ENOENT;
}

static const struct kind kind_service = {
    .mode = S_IFREG | 0644,
    .of = services_path,
    .find = find_item,
    .list = list_items,
    .store = store_service,
    .complete = document_complete,
    .may_create = answer_may_create_json,
    .unlink = unlink_service,
};

static const struct kind kind_maintenance = {
    .mode = S_IFREG | 0644,
    .find = find_maintenance,
    .list = list_maintenance,
    .store = store_maintenance,
};

static const struct kind *const services_rows[] = {&kind_service, &kind_maintenance, NULL};

const struct kind kind_agent_services = {.name = "services", .mode = S_IFDIR | 0755, .rows = services_rows};

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static const char status_suffix[] = ".status";

static int store_check(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    (void)dir;
    return r < 0 ? r : check_register(op, id, NULL, data, len);
}

static int unlink_check(struct op *op, struct inode *dir, const char *name)
{
    char id[NAME_SIZE];
    int r = view_json_parse(name, id);

    (void)dir;
    if (r == 0 && !op->state) /* the agent deregisters what it does not have without a word */
        r = has_item(op, checks_path, id);
    return r < 0 ? r : check_deregister(op, id, NULL);
}

static int find_status(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    const json_t *check;
    char id[NAME_SIZE], *data;
    size_t len;
    int r = view_file_parse(name, status_suffix, id);

    (void)dir;
    if (r == 0)
        r = read_list(op, checks_path, &snapshot);
    if (r < 0)
        return r;
    check = json_object_get(snapshot->json, id);
    if (!check)
        return -ENOENT;
    r = view_line(view_string(check, "Status"), &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int list_status(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)dir;
    return list_lines(op, checks_path, status_suffix, lister);
}

static int store_status(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char id[NAME_SIZE];
    int r = view_file_parse(name, status_suffix, id);

    (void)dir;
    return r < 0 ? r : check_update(op, id, data, len);
}

static const struct kind kind_check = {
    .mode = S_IFREG | 0644,
    .of = checks_path,
    .find = find_item,
    .list = list_items,
    .store = store_check,
    .complete = document_complete,
    .may_create = answer_may_create_json,
    .unlink = unlink_check,
};

static const struct kind kind_status = {
    .mode = S_IFREG | 0644,
    .find = find_status,
    .list = list_status,
    .store = store_status,
};

static const struct kind *const checks_rows[] = {&kind_check, &kind_status, NULL};

const struct kind kind_agent_checks = {.name = "checks", .mode = S_IFDIR | 0755, .rows = checks_rows};
