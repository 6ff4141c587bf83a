/*
 * agent/: what /v1/agent/ has. Nothing here can be watched, so each look asks the agent. What makes it do something is
 * found by name and not listed.
 */
#include "agent_dir.h"

#include "agent_items.h"
#include "answer.h"
#include "order.h"
#include "single.h"
#include "stream.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- documents --------------------------------------------------------------------------------------------------- */

static const struct single self = {.path = "/v1/agent/self", .flags = CONSUL_OBJECT};
static const struct single members = {.path = "/v1/agent/members", .flags = CONSUL_OBJECTS};
static const struct single metrics = {.path = "/v1/agent/metrics", .flags = CONSUL_OBJECT};
static const struct single prometheus = {.path = "/v1/agent/metrics?format=prometheus", .format = CONSUL_TEXT};
static const struct single host = {.path = "/v1/agent/host", .flags = CONSUL_OBJECT};

static const struct kind kind_self_document = {SINGLE_FILE("self.json", self, 0444)};
static const struct kind kind_members_document = {SINGLE_FILE("members.json", members, 0444)};
static const struct kind kind_metrics = {SINGLE_FILE("metrics.json", metrics, 0444)};
/* Where the agent keeps none for Prometheus it is not there. */
static const struct kind kind_prometheus = {SINGLE_FILE("metrics.prom", prometheus, 0444)};
static const struct kind kind_host = {SINGLE_FILE("host.json", host, 0444)};

static int find_members(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = op_read(op, members.path, CONSUL_JSON, members.flags, 0, &snapshot);

    (void)dir, (void)name;
    if (r == 0)
        r = view_members(snapshot->json, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static const struct kind kind_members = {.name = "members", .mode = S_IFREG | 0444, .find = find_members};

/* ---- maintenance of the node ------------------------------------------------------------------------------------- */

static int find_maintenance(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)dir, (void)name;
    return agent_maintenance_find(op, "_node_maintenance", found);
}

static int store_maintenance(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name;
    return agent_maintenance_store(op, "/v1/agent/maintenance", "", "_node_maintenance", data, len);
}

static const struct kind kind_maintenance = {
    .name = "maintenance",
    .mode = S_IFREG | 0644,
    .find = find_maintenance,
    .store = store_maintenance,
};

/* ---- orders ------------------------------------------------------------------------------------------------------ */

/* "ADDRESS" or "ADDRESS wan". */
static int join(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    static const struct order order = {"PUT", "/v1/agent/join/", "wan", "?wan=1"};

    (void)dir, (void)name;
    return order_send(op, &order, data, len);
}

/* "NODE" or "NODE prune". */
static int force_leave(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    static const struct order order = {"PUT", "/v1/agent/force-leave/", "prune", "?prune=true"};

    (void)dir, (void)name;
    return order_send(op, &order, data, len);
}

/* Leaving takes an agent 5 s on the LAN and 5 s on the WAN before it answers. */
#define BARE_TIMEOUT_MS 60000

/* Whatever is written, as long as it is a line: `echo > agent/leave`. */
static int send_bare(struct op *op, const char *path)
{
    struct consul_request request = {
        .method = "PUT", .path = path, .timeout_ms = BARE_TIMEOUT_MS, .intent = CONSUL_WRITE_STRICT};

    return op->stage > 0 ? op->result : op_request(op, &request);
}

static int leave(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name, (void)data, (void)len;
    return send_bare(op, "/v1/agent/leave");
}

static int reload(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name, (void)data, (void)len;
    return send_bare(op, "/v1/agent/reload");
}

static const struct kind kind_join = {ORDER_FILE("join"), .store = join};
static const struct kind kind_force_leave = {ORDER_FILE("force-leave"), .store = force_leave};
static const struct kind kind_leave = {ORDER_FILE("leave"), .store = leave};
static const struct kind kind_reload = {ORDER_FILE("reload"), .store = reload};

/* ---- the log ----------------------------------------------------------------------------------------------------- */

/* Without an end, so that nothing that goes through a tree may meet it. What it says may be nobody else's business. */
#define LOG(file, source)                                                                                              \
    {                                                                                                                  \
        .name = (file), .mode = S_IFREG | 0400, .flags = KIND_HIDDEN | KIND_DIRECT, .stream = &(source)                \
    }

static const struct stream_source log_info = {"/v1/agent/monitor?loglevel=info", true};
static const struct stream_source log_trace = {"/v1/agent/monitor?loglevel=trace", true};
static const struct stream_source log_debug = {"/v1/agent/monitor?loglevel=debug", true};
static const struct stream_source log_warn = {"/v1/agent/monitor?loglevel=warn", true};
static const struct stream_source log_err = {"/v1/agent/monitor?loglevel=err", true};

static const struct kind kind_log = LOG("log", log_info);
static const struct kind kind_log_trace = LOG("log.trace", log_trace);
static const struct kind kind_log_debug = LOG("log.debug", log_debug);
static const struct kind kind_log_warn = LOG("log.warn", log_warn);
static const struct kind kind_log_err = LOG("log.err", log_err);

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

static const struct kind *const agent_rows[] = {
    &kind_self_document,
    &kind_members,
    &kind_members_document,
    &kind_agent_services,
    &kind_agent_checks,
    &kind_metrics,
    &kind_prometheus,
    &kind_host,
    &kind_maintenance,
    &kind_join,
    &kind_force_leave,
    &kind_leave,
    &kind_reload,
    &kind_log,
    &kind_log_trace,
    &kind_log_debug,
    &kind_log_warn,
    &kind_log_err,
    NULL,
};

const struct kind kind_agent_dir = {.name = "agent", .mode = S_IFDIR | 0755, .rows = agent_rows};
