/*
 * KV writes: one transaction, or, for a value too large for one, a plain PUT and the GET that tells its ModifyIndex.
 *
 * A write's struct belongs to the network thread once it is submitted, or to the queue of those that are to go together
 * with others (write_queue.h). Limits are those of CONSUL.md, "KV".
 */
#include "cache.h"
#include "client.h"
#include "consul.h"
#include "http.h"
#include "kv.h"
#include "locks.h"
#include "write_queue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct write_op {
    enum consul_kv_verb verb;
    char *key, *value;
    size_t value_len;
    uint64_t flags, index;
    bool removing;  /* the lock on the key, if any, was told */
    unsigned first; /* its place in the transaction as sent */
};

struct write {
    struct queued_write queued; /* first; its `next`: what goes in the same transaction */
    struct consul *client;
    char *datacenter; /* NULL: the agent's */
    struct write_op *ops;
    size_t n;
    struct consul_kv_entry **entries;
    char *body; /* the transaction with this alone */
    size_t body_len;
    consul_kv_done_fn *done;
    void *arg;
};

static struct write *next_of(const struct write *write) { return (struct write *)write->queued.next; }

static void write_free(struct write *write)
{
    if (!write)
        return;
    for (size_t i = 0; write->ops && i < write->n; i++) {
        if (write->ops[i].removing)
            locks_removing(write->client->locks, write->datacenter, write->ops[i].key, false);
        free(write->ops[i].key);
        free(write->ops[i].value);
    }
    for (size_t i = 0; write->entries && i < write->n; i++)
        consul_kv_entry_unref(write->entries[i]);
    free(write->ops);
    free(write->entries);
    free(write->datacenter);
    free(write->body);
    free(write);
}

static struct write *write_new(struct consul *client, const char *datacenter, const struct consul_kv_op *ops, size_t n,
                               consul_kv_done_fn *done, void *arg)
{
    struct write *write = calloc(1, sizeof(*write));
    unsigned at = 0;

    if (!write)
        return NULL;
    if (!datacenter)
        datacenter = client->datacenter;
    write->client = client;
    write->queued.deadline_ns = consul_now_ns() + client->options.timeout_ms * 1000000;
    write->done = done;
    write->arg = arg;
    write->n = n;
    write->ops = calloc(n, sizeof(*write->ops));
    write->entries = calloc(n, sizeof(*write->entries));
    if (!write->ops || !write->entries || (datacenter && !(write->datacenter = strdup(datacenter))))
        goto fail;
    for (size_t i = 0; i < n; i++) {
        struct write_op *op = &write->ops[i];

        op->verb = ops[i].verb;
        op->flags = ops[i].flags;
        op->index = ops[i].index;
        op->value_len = ops[i].value_len;
        op->first = at;
        at += kv_op_count(ops[i].verb);
        op->key = strdup(ops[i].key);
        op->value = malloc(op->value_len + 1);
        if (!op->key || !op->value)
            goto fail;
        if (op->value_len > 0)
            memcpy(op->value, ops[i].value, op->value_len);
    }
    return write;
fail:
    write_free(write);
    return NULL;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void finish(struct write *write, struct consul_answer *answer)
{
    write->done(write->arg, answer, write->entries, write->n);
    write_free(write);
}

/* What the agent says of one refused operation. Texts: Consul's agent/consul/state/kvs.go and txn.go. */
static int errno_of_what(const struct write *write, int64_t op_index, const char *what)
{
    const struct write_op *op = NULL;

    for (size_t i = 0; i < write->n; i++)
        if ((int64_t)write->ops[i].first <= op_index)
            op = &write->ops[i];
    if (strstr(what, "Permission denied") || strstr(what, "ACL not found"))
        return -EACCES;
    if (strstr(what, "doesn't exist"))
        return op && (op->verb == CONSUL_KV_CHECK_INDEX || op->verb == CONSUL_KV_DELETE_CAS) ? -ESTALE : -ENOENT;
    if (strstr(what, "index is stale") || strstr(what, "current modify index") || strstr(what, "failed index check"))
        return op && op->verb == CONSUL_KV_CAS && op->index == 0 ? -EEXIST : -ESTALE;
    if (strstr(what, "due to lock delay"))
        return -EAGAIN;
    if (strstr(what, "failed session check"))
        return -EPERM;
    if (strstr(what, "lock is already held"))
        return -EBUSY;
    if (strstr(what, "lock isn't held"))
        return -EPERM;
    if (strstr(what, "invalid session") || strstr(what, "missing session") || strstr(what, "UUID must be"))
        return -EINVAL;
    if (strstr(what, "exists"))
        return -EEXIST;
    if (strstr(what, "invalid key name") || strstr(what, "Missing key"))
        return -EINVAL;
    return -EIO;
}

/* The first refusal of a 409; *ret_what is borrowed from `json`. */
static int errno_of_refusal(const struct write *write, const json_t *json, const char **ret_what)
{
    const json_t *error = json_array_get(json_object_get(json, "Errors"), 0);
    const char *what = json_string_value(json_object_get(error, "What"));

    if (!what)
        return -EIO;
    *ret_what = what;
    return errno_of_what(write, json_integer_value(json_object_get(error, "OpIndex")), what);
}

/* A stored entry: what we sent, with the indices that the agent gave it. */
static struct consul_kv_entry *stored_entry(const struct write_op *op, const struct consul_kv_entry *meta)
{
    struct consul_kv_entry *entry =
        kv_entry_new(op->key, strlen(op->key), op->value, op->value_len, consul_kv_session(meta));

    if (!entry)
        return NULL;
    entry->create_index = meta->create_index;
    entry->modify_index = meta->modify_index;
    entry->lock_index = meta->lock_index;
    entry->flags = meta->flags;
    return entry;
}

static void forget(struct write *write, bool stored)
{
    /* What was stored is not known in detail: have it read again. */
    cache_expire(write->client->cache, "/v1/kv/", stored);
}

/*
 * Operations that have no result (deletes) are left out of the array, so it is matched by key. *at is the place in it
 * of the write's first.
 */
static int take_results(struct write *write, const json_t *results, size_t *at)
{
    for (size_t i = 0; i < write->n; i++) {
        struct write_op *op = &write->ops[i];
        struct consul_kv_entry *meta = NULL;
        uint64_t removed_index = 0;
        const json_t *kv = json_object_get(json_array_get(results, *at), "KV");
        const char *key = json_string_value(json_object_get(kv, "Key"));

        if (key && strcmp(key, op->key) == 0 && op->verb != CONSUL_KV_CHECK_NOT_EXISTS) {
            if (kv_entry_decode(kv, &meta) < 0)
                return -EIO;
            ++*at;
        }
        switch (op->verb) {
        case CONSUL_KV_SET:
        case CONSUL_KV_CAS:
        case CONSUL_KV_LOCK:
        case CONSUL_KV_UNLOCK:
            write->entries[i] = meta ? stored_entry(op, meta) : NULL;
            if (!write->entries[i]) {
                consul_kv_entry_unref(meta);
                return -EIO;
            }
            cache_apply_kv(write->client->cache, write->datacenter, op->key, write->entries[i], 0);
            locks_stored(write->client->locks, write->datacenter, op->key, write->entries[i]);
            break;
        case CONSUL_KV_DELETE:
        case CONSUL_KV_DELETE_CAS:
            removed_index = meta ? meta->modify_index : op->index;
            cache_apply_kv(write->client->cache, write->datacenter, op->key, NULL, removed_index);
            locks_stored(write->client->locks, write->datacenter, op->key, NULL);
            break;
        case CONSUL_KV_CHECK_INDEX:
        case CONSUL_KV_CHECK_SESSION:
        case CONSUL_KV_CHECK_NOT_EXISTS:
            break;
        }
        consul_kv_entry_unref(meta);
    }
    return 0;
}

static void submit(struct write *first);

/* What waited for the end of a transaction, which took so long (0: without an answer), goes now. */
static void end_queued(struct write *write, uint64_t took_ns)
{
    struct consul *client = write->client;
    struct queued_write *next = write_queue_end(client->writes, &write->queued, took_ns,
                                                atomic_load(&client->txn_max_ops), atomic_load(&client->kv_max_value));

    if (next)
        submit((struct write *)next);
}

/* Which of those that went together was refused is of no interest to the others: each by itself. */
static void submit_each(struct write *first)
{
    struct write *next;

    for (struct write *write = first; write; write = next) {
        next = next_of(write);
        write->queued = (struct queued_write){.deadline_ns = write->queued.deadline_ns};
        submit(write);
    }
}

static void on_txn(struct http_request *request)
{
    struct write *first = request->arg, *next;
    struct consul *client = first->client;
    const char *what = request->answer.data ? request->answer.data : "";
    json_t *json = NULL;
    struct consul_answer answer = {.status = request->status, .method = request->method, .path = request->path};
    bool stored = request->net == CONSUL_NET_OK && request->status == 200;
    size_t at = 0;

    answer.err = http_errno(request);
    cache_note_contact(client->cache, request, answer.err);
    end_queued(first, request->net == CONSUL_NET_OK ? request->done_ns - request->sent_ns : 0);
    if (next_of(first) && request->net == CONSUL_NET_OK && request->status >= 400 && request->status < 500) {
        submit_each(first);
        http_request_free(request);
        return;
    }
    if (request->net == CONSUL_NET_OK && (request->status == 200 || request->status == 409))
        json = kv_json_parse(what, request->answer.len);
    if (json && request->status == 409)
        answer.err = errno_of_refusal(first, json, &what);
    answer.body = what;
    answer.body_len = strlen(what);
    for (struct write *write = first; write; write = next) {
        next = next_of(write);
        /* It is stored; if we can't tell what, it has to be read again. */
        if (stored && (!json || take_results(write, json_object_get(json, "Results"), &at) < 0))
            forget(write, true);
        else if (!stored && !json && answer.err != -EACCES && answer.err != -EINVAL)
            forget(write, false); /* a time-out may have stored it */
        finish(write, &answer);
    }
    json_decref(json);
    http_request_free(request);
}

/* ---- values too large for a transaction --------------------------------------------------------------------- */

/*
 * `present` (or NULL) was there a moment after our PUT. If it is another value, somebody has replaced ours since, and
 * nothing tells which ModifyIndex it had: 1, which no key has, so that whoever compares with it finds out.
 */
static struct consul_kv_entry *stored_by_put(const struct write *write, struct consul_kv_entry *present)
{
    const struct write_op *op = &write->ops[0];
    struct consul_kv_entry unknown = {.create_index = 1, .modify_index = 1, .flags = op->flags};

    if (present && present->value_len == op->value_len && present->flags == op->flags &&
        memcmp(consul_kv_value(present), op->value, op->value_len) == 0)
        return consul_kv_entry_ref(present);
    return op->value ? stored_entry(op, &unknown) : NULL;
}

static void on_reread(struct http_request *request)
{
    struct write *write = request->arg;
    struct consul_answer answer = {
        .status = request->status, .method = "PUT", .path = request->path, .body = "", .body_len = 0};
    struct consul_kv_entry *present = NULL;
    json_t *json = NULL;

    if (request->net == CONSUL_NET_OK && request->status == 200)
        json = kv_json_parse(request->answer.data ? request->answer.data : "", request->answer.len);
    if (json && kv_entry_decode(json_array_get(json, 0), &present) == 0) {
        cache_apply_kv(write->client->cache, write->datacenter, write->ops[0].key, present, 0);
        locks_stored(write->client->locks, write->datacenter, write->ops[0].key, present);
    } else {
        forget(write, true);
    }
    write->entries[0] = stored_by_put(write, present);
    consul_kv_entry_unref(present);
    cache_note_contact(write->client->cache, request, 0);
    finish(write, &answer);
    json_decref(json);
    http_request_free(request);
}

static int plain_path(const struct write *write, bool with_put_parameters, char **ret_path)
{
    const struct write_op *op = &write->ops[0];
    char query[80] = ""; /* two numbers of 20 digits */

    if (with_put_parameters && op->verb == CONSUL_KV_CAS)
        snprintf(query, sizeof(query), "?flags=%" PRIu64 "&cas=%" PRIu64, op->flags, op->index);
    else if (with_put_parameters)
        snprintf(query, sizeof(query), "?flags=%" PRIu64, op->flags);
    return client_kv_path(write->client, write->datacenter, op->key, query, ret_path);
}

static struct http_request *write_request(struct write *write, const char *method, void (*done)(struct http_request *))
{
    struct http_request *request = http_request_new(method, NULL);

    if (!request)
        return NULL;
    request->intent = strcmp(method, "GET") == 0 ? CONSUL_READ : CONSUL_WRITE;
    request->max_answer = (size_t)64 << 20;
    request->deadline_ns = consul_now_ns() + write->client->options.timeout_ms * 1000000;
    request->done = done;
    request->arg = write;
    return request;
}

static void on_put(struct http_request *request)
{
    struct write *write = request->arg;
    const char *body = request->answer.data ? request->answer.data : "";
    struct http_request *reread = NULL;
    struct consul_answer answer = {.status = request->status,
                                   .method = request->method,
                                   .path = request->path,
                                   .body = body,
                                   .body_len = request->answer.len};

    answer.err = http_errno(request);
    cache_note_contact(write->client->cache, request, answer.err);
    if (request->net == CONSUL_NET_OK && request->status == 200 && strncmp(body, "true", 4) != 0)
        answer.err = write->ops[0].verb == CONSUL_KV_CAS && write->ops[0].index == 0 ? -EEXIST : -ESTALE;
    if (answer.err == 0) {
        reread = write_request(write, "GET", on_reread);
        if (reread && plain_path(write, false, &reread->path) < 0) {
            http_request_free(reread);
            reread = NULL;
        }
    }
    if (reread) {
        write->ops[0].value = request->body; /* to compare */
        request->body = NULL;
        http_submit(write->client->http, reread);
    } else {
        if (answer.err != -EACCES)
            forget(write, answer.err == 0);
        finish(write, &answer);
    }
    http_request_free(request);
}

static int submit_put(struct write *write)
{
    struct http_request *request = write_request(write, "PUT", on_put);
    int r;

    if (!request)
        return -ENOMEM;
    r = plain_path(write, true, &request->path);
    if (r < 0) {
        http_request_free(request);
        return r;
    }
    request->body = write->ops[0].value;
    request->body_len = write->ops[0].value_len;
    request->content_type = "application/octet-stream";
    write->ops[0].value = NULL; /* the request's now */
    free(write->body);
    write->body = NULL;
    http_submit(write->client->http, request);
    return 0;
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

/* All of them as one array. */
static int join_bodies(const struct write *first, struct http_request *request)
{
    struct consul_buf buf;
    int r = 0;

    consul_buf_init(&buf, WRITE_QUEUE_TOGETHER + WRITE_QUEUE_SMALL);
    for (const struct write *write = first; r == 0 && write; write = next_of(write)) {
        r = consul_buf_append(&buf, write == first ? "[" : ",", 1);
        if (r == 0)
            r = consul_buf_append(&buf, write->body + 1, write->body_len - 2); /* without its brackets */
    }
    if (r == 0)
        r = consul_buf_append(&buf, "]", 1);
    if (r < 0) {
        consul_buf_free(&buf);
        return r;
    }
    request->body = consul_buf_take(&buf, &request->body_len);
    return 0;
}

static int send_txn(struct write *first)
{
    struct http_request *request = write_request(first, "PUT", on_txn);
    int r = 0;

    if (!request)
        return -ENOMEM;
    request->deadline_ns = first->queued.deadline_ns; /* of those that go together, the first began first */
    if (next_of(first)) {
        r = join_bodies(first, request);
    } else {
        request->body = first->body;
        request->body_len = first->body_len;
        first->body = NULL;
    }
    if (r == 0)
        r = client_path_in(first->client, first->datacenter, "/v1/txn", &request->path);
    if (r < 0) {
        http_request_free(request);
        return r;
    }
    http_enqueue(first->client->http, request);
    http_send(first->client->http);
    return 0;
}

static void submit(struct write *first)
{
    struct consul_answer answer = {.err = send_txn(first), .method = "PUT", .path = "/v1/txn", .body = ""};
    struct write *next;

    if (answer.err == 0)
        return;
    end_queued(first, 0);
    for (struct write *write = first; write; write = next) {
        next = next_of(write);
        finish(write, &answer);
    }
}

/* By itself a small one may go at once, or wait for others. */
static int submit_txn(struct write *write)
{
    const struct write_op *op = &write->ops[0];
    int r;

    if (write->n == 1 && op->verb == CONSUL_KV_SET && write->body_len <= WRITE_QUEUE_SMALL) {
        write->queued.key = op->key;
        write->queued.len = write->body_len;
        if (!write_queue_begin(write->client->writes, write->datacenter, &write->queued))
            return 0;
    }
    r = send_txn(write);
    if (r < 0)
        end_queued(write, 0);
    return r;
}

int consul_kv_txn(struct consul *client, const char *datacenter, const struct consul_kv_op *ops, size_t n,
                  consul_kv_done_fn *done, void *arg)
{
    size_t len, max_value = atomic_load(&client->kv_max_value), sent = 0;
    struct write *write;
    char *body;
    bool plain;
    int r;

    for (size_t i = 0; i < n; i++) {
        sent += kv_op_count(ops[i].verb);
        if (ops[i].value_len > max_value)
            return -EFBIG;
    }
    if (n == 0 || sent > atomic_load(&client->txn_max_ops))
        return n == 0 ? -EINVAL : -EFBIG;
    r = kv_txn_encode(ops, n, &body, &len);
    if (r < 0)
        return r;
    write = write_new(client, datacenter, ops, n, done, arg);
    for (size_t i = 0; write && i < n; i++) {
        write->ops[i].removing = ops[i].verb == CONSUL_KV_DELETE || ops[i].verb == CONSUL_KV_DELETE_CAS;
        if (write->ops[i].removing)
            locks_removing(client->locks, write->datacenter, write->ops[i].key, true);
    }
    if (write) {
        write->body = body;
        write->body_len = len;
    } else {
        free(body);
    }
    if (!write)
        r = -ENOMEM;
    else if (len <= max_value)
        r = submit_txn(write);
    else if (n == 1 && (ops->verb == CONSUL_KV_SET || ops->verb == CONSUL_KV_CAS) &&
             consul_kv_key_valid(ops->key, &plain) && plain)
        r = submit_put(write);
    else
        r = -EFBIG;
    if (r < 0)
        write_free(write);
    return r;
}
