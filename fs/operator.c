/*
 * operator/: what changes the servers, or holds secrets, is found by name and not listed.
 */
#include "operator.h"

#include "answer.h"
#include "order.h"
#include "single.h"
#include "spool.h"
#include "stream.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Raft -------------------------------------------------------------------------------------------------------- */

static const struct single raft = {.path = "/v1/operator/raft/configuration", .flags = CONSUL_OBJECT};
static const struct kind kind_raft_configuration = {SINGLE_FILE("configuration.json", raft, 0444)};

static json_t *peer_cells(const json_t *servers)
{
    json_t *rows = json_array(), *row;
    const json_t *server;
    size_t i;

    json_array_foreach(servers, i, server)
    {
        row = json_pack(
            "[s, s, s, s, s, s]", view_string(server, "Node"), view_string(server, "ID"),
            view_string(server, "Address"), json_is_true(json_object_get(server, "Leader")) ? "leader" : "follower",
            json_is_true(json_object_get(server, "Voter")) ? "true" : "false", view_string(server, "ProtocolVersion"));
        if (json_array_append_new(rows, row) < 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

static int find_peers(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    static const char *const titles[] = {"NODE", "ID", "ADDRESS", "STATE", "VOTER", "PROTOCOL", NULL};
    struct consul_snapshot *snapshot;
    json_t *rows;
    size_t len;
    char *data;
    int r = op_read(op, raft.path, CONSUL_JSON, raft.flags, 0, &snapshot);

    (void)dir, (void)name;
    if (r < 0)
        return r;
    rows = peer_cells(json_object_get(snapshot->json, "Servers"));
    r = view_table(titles, rows, &data, &len);
    json_decref(rows);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static const struct kind kind_raft_peers = {.name = "peers", .mode = S_IFREG | 0444, .find = find_peers};

static int remove_peer(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    static const struct order by_address = {"DELETE", "/v1/operator/raft/peer?address=", NULL, NULL};
    static const struct order by_id = {"DELETE", "/v1/operator/raft/peer?id=", NULL, NULL};

    (void)dir, (void)name;
    if (op->stage > 0)
        consul_expire(op->fs->consul, raft.path);
    return order_send(op, memchr(data, ':', len) ? &by_address : &by_id, data, len); /* an address has a port */
}

static const struct kind kind_raft_remove_peer = {ORDER_FILE("remove-peer"), .store = remove_peer};

/* Written: the ID of the server that is to lead, or an empty line for any. */
static int transfer_leader(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    static const struct order order = {"POST", "/v1/operator/raft/transfer-leader?id=", NULL, NULL};

    (void)dir, (void)name;
    if (op->stage > 0) {
        consul_expire(op->fs->consul, raft.path);
        return op->result == -ENOENT ? -EOPNOTSUPP : op->result; /* there since Consul 1.15 */
    }
    if (len == 0 || (len == 1 && data[0] == '\n'))
        return answer_send(op, "POST", "/v1/operator/raft/transfer-leader", "", NULL);
    return order_send(op, &order, data, len);
}

static const struct kind kind_raft_transfer_leader = {ORDER_FILE("transfer-leader"), .store = transfer_leader};

static const struct kind *const raft_rows[] = {
    &kind_raft_configuration, &kind_raft_peers, &kind_raft_remove_peer, &kind_raft_transfer_leader, NULL,
};

static const struct kind kind_raft = {.name = "raft", .mode = S_IFDIR | 0555, .rows = raft_rows};

/* ---- autopilot --------------------------------------------------------------------------------------------------- */

static const struct single autopilot = {
    .path = "/v1/operator/autopilot/configuration",
    .flags = CONSUL_OBJECT,
    .method = "PUT",
    .write = "/v1/operator/autopilot/configuration",
};

static const struct kind kind_autopilot_configuration = {
    SINGLE_FILE("configuration.json", autopilot, 0644),
    .store = single_store,
    .complete = document_complete,
};

/* 429 where the servers are not healthy. */
static const struct single health = {
    .path = "/v1/operator/autopilot/health",
    .flags = CONSUL_OBJECT | CONSUL_HEALTH_BY_STATUS,
};
static const struct kind kind_autopilot_health = {SINGLE_FILE("health.json", health, 0444)};

/* Since Consul 1.9. */
static const struct single state = {
    .path = "/v1/operator/autopilot/state",
    .flags = CONSUL_OBJECT | CONSUL_HEALTH_BY_STATUS,
};
static const struct kind kind_autopilot_state = {SINGLE_FILE("state.json", state, 0444)};

static const struct kind *const autopilot_rows[] = {
    &kind_autopilot_configuration,
    &kind_autopilot_health,
    &kind_autopilot_state,
    NULL,
};

static const struct kind kind_autopilot = {.name = "autopilot", .mode = S_IFDIR | 0555, .rows = autopilot_rows};

/* ---- gossip keys: secrets ---------------------------------------------------------------------------------------- */

static const struct single keys = {.path = "/v1/operator/keyring", .flags = CONSUL_OBJECTS};
static const struct kind kind_keys = {SINGLE_FILE("keys.json", keys, 0600)};

static int change_keys(struct op *op, const char *method, const char *data, size_t len)
{
    json_t *document;
    char *key;
    int r;

    if (op->stage > 0) {
        consul_expire(op->fs->consul, keys.path);
        return op->result;
    }
    key = order_word(data, len);
    if (!key)
        return -EINVAL;
    document = json_pack("{s:s}", "Key", key);
    r = document ? answer_send(op, method, keys.path, "", document) : -EINVAL;
    json_decref(document);
    free(key);
    return r;
}

static int install_key(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name;
    return change_keys(op, "POST", data, len);
}

static int use_key(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name;
    return change_keys(op, "PUT", data, len);
}

static int remove_key(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name;
    return change_keys(op, "DELETE", data, len);
}

static const struct kind kind_install = {ORDER_FILE("install"), .store = install_key};
static const struct kind kind_use = {ORDER_FILE("use"), .store = use_key};
static const struct kind kind_remove = {ORDER_FILE("remove"), .store = remove_key};

static const struct kind *const keyring_rows[] = {&kind_keys, &kind_install, &kind_use, &kind_remove, NULL};

static const struct kind kind_keyring = {
    .name = "keyring",
    .mode = S_IFDIR | 0700,
    .flags = KIND_HIDDEN,
    .rows = keyring_rows,
};

/* ---- backups ----------------------------------------------------------------------------------------------------- */

static int may_restore(struct op *op)
{
    if (op->fs->options->allow_restore)
        return 0;
    answer_refuse(op, "/v1/snapshot", "restoring replaces all that Consul has: the mount needs -o allow_restore");
    return -EPERM;
}

/* Consul's indexes have gone back, so that blocking queries would see nothing of it until they end. */
static void restored(struct op *op) { consul_drop_caches(op->fs->consul); }

static const struct spool_target restore = {
    .method = "PUT",
    .path = "/v1/snapshot",
    .may_write = may_restore,
    .sent = restored,
    .magic = "\x1f\x8b", /* gzip */
    .magic_len = 2,
};

/* The whole state of the servers, with its secrets; making one costs them. */
static const struct stream_source snapshot = {"/v1/snapshot", false};

static const struct kind kind_snapshot = {
    .name = "snapshot",
    .mode = S_IFREG | 0600,
    .flags = KIND_HIDDEN | KIND_DIRECT,
    .stream = &snapshot,
    .spool = &restore,
};

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

/* Since Consul 1.14. */
static const struct single usage = {.path = "/v1/operator/usage", .flags = CONSUL_OBJECT};
static const struct kind kind_usage = {SINGLE_FILE("usage.json", usage, 0444)};

static const struct kind *const operator_rows[] = {&kind_raft,  &kind_autopilot, &kind_keyring,
                                                   &kind_usage, &kind_snapshot,  NULL};

const struct kind kind_operator = {.name = "operator", .mode = S_IFDIR | 0555, .rows = operator_rows};
