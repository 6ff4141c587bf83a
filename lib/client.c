/*
 * struct consul: the configuration, the network thread and the cache of one client; single requests.
 *
 * Constant after consul_new(), save the KV limits, which are atomic.
 */
#include "client.h"

#include "cache.h"
#include "consul.h"
#include "kv.h"
#include "locks.h"
#include "probe.h"
#include "write_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ANSWER ((size_t)64 << 20)
#define KV_MAX_VALUE (512 * 1024)
#define TXN_MAX_OPS 64 /* until the agent is known to be 1.14 or newer */

/* The network thread's hook. */
static uint64_t tick(void *arg, uint64_t now_ns)
{
    struct consul *client = arg;
    uint64_t of_cache = cache_tick(client->cache, now_ns), of_locks = locks_tick(client->locks, now_ns);

    return of_cache < of_locks ? of_cache : of_locks;
}

static void on_changed(void *arg, struct consul_resource *resource, enum consul_change change,
                       struct consul_snapshot *before, struct consul_snapshot *after)
{
    struct consul *client = arg;

    if (change == CONSUL_CHANGED)
        locks_changed(client->locks, resource);
    if (client->options.changed)
        client->options.changed(client->options.changed_arg, resource, change, before, after);
}

int consul_new(const struct consul_config *config, const struct consul_options *options, struct consul **ret_client)
{
    struct consul *client = calloc(1, sizeof(*client));
    struct consul_options with_locks = *options;
    unsigned connections, watches, lock_waits;
    int r = -ENOMEM;

    if (!client)
        return -ENOMEM;
    client->options = *options;
    atomic_init(&client->kv_max_value, KV_MAX_VALUE);
    atomic_init(&client->txn_max_ops, TXN_MAX_OPS);
    if ((config->datacenter && !(client->datacenter = strdup(config->datacenter))) ||
        (config->namespace_ && !(client->namespace_ = strdup(config->namespace_))) ||
        (config->partition && !(client->partition = strdup(config->partition))))
        goto fail;
    with_locks.changed = on_changed;
    with_locks.changed_arg = client;
    client->writes = write_queues_new();
    if (!client->writes)
        goto fail;
    r = cache_new(&with_locks, &client->cache);
    if (r < 0)
        goto fail;
    cache_split_connections(options->watches, &connections, &watches, &lock_waits);
    r = locks_new(client, options, lock_waits, &client->locks);
    if (r < 0)
        goto fail;
    r = prober_new(&client->prober);
    if (r < 0)
        goto fail;
    r = http_new(config, connections, tick, client, &client->http);
    if (r < 0)
        goto fail;
    r = cache_set_http(client->cache, client->http);
    if (r < 0)
        goto fail;
    cache_set_datacenter(client->cache, client->datacenter);
    r = http_start(client->http);
    if (r < 0)
        goto fail;
    *ret_client = client;
    return 0;
fail:
    consul_free(client);
    return r;
}

void consul_stop(struct consul *client)
{
    cache_close(client->cache);
    locks_close(client->locks);
    http_stop(client->http);
    cache_cancel_waiters(client->cache);
}

void consul_free(struct consul *client)
{
    if (!client)
        return;
    if (client->cache && client->http)
        consul_stop(client);
    http_free(client->http);
    prober_free(client->prober);
    locks_free(client->locks);
    write_queues_free(client->writes);
    cache_free(client->cache);
    free(client->datacenter);
    free(client->namespace_);
    free(client->partition);
    free(client);
}

/* ---- paths ------------------------------------------------------------------------------------------------------ */

static int add_parameter(struct consul_buf *buf, const char *name, const char *value)
{
    int r;

    if (!value)
        return 0;
    r = consul_buf_printf(buf, "%c%s=", strchr(buf->data, '?') ? '&' : '?', name);
    return r < 0 ? r : consul_buf_append_urlencoded(buf, value, strlen(value), NULL);
}

static bool has_parameter(const char *path, const char *name)
{
    size_t len = strlen(name);
    const char *at = strchr(path, '?');

    for (; at; at = strchr(at, '&')) {
        at++;
        if (strncmp(at, name, len) == 0 && at[len] == '=')
            return true;
    }
    return false;
}

/* The namespace and partition of the configuration, and a datacenter, where the endpoint takes them. */
int client_path_in(const struct consul *client, const char *datacenter, const char *path, char **ret_path)
{
    bool agent = strncmp(path, "/v1/agent/", 10) == 0, status = strncmp(path, "/v1/status/", 11) == 0;
    struct consul_buf buf;
    int r;

    consul_buf_init(&buf, 1 << 20);
    r = consul_buf_puts(&buf, path);
    if (r == 0 && !agent && !has_parameter(path, "dc"))
        r = add_parameter(&buf, "dc", datacenter ? datacenter : client->datacenter);
    if (r == 0 && !status)
        r = add_parameter(&buf, "ns", client->namespace_);
    if (r == 0 && !status)
        r = add_parameter(&buf, "partition", client->partition);
    if (r < 0) {
        consul_buf_free(&buf);
        return r;
    }
    *ret_path = consul_buf_take(&buf, NULL);
    return 0;
}

int client_path(const struct consul *client, const char *path, char **ret_path)
{
    return client_path_in(client, NULL, path, ret_path);
}

int client_kv_path(const struct consul *client, const char *datacenter, const char *key, const char *query,
                   char **ret_path)
{
    struct consul_buf buf;
    int r;

    consul_buf_init(&buf, 1 << 20);
    r = consul_buf_puts(&buf, "/v1/kv/");
    if (r == 0)
        r = consul_buf_append_urlencoded(&buf, key, strlen(key), "/");
    if (r == 0)
        r = consul_buf_puts(&buf, query);
    if (r == 0)
        r = client_path_in(client, datacenter, buf.data, ret_path);
    consul_buf_free(&buf);
    return r;
}

void consul_urlencode(const char *text, const char *safe, char *out)
{
    struct consul_buf buf;

    *out = '\0';
    consul_buf_init(&buf, strlen(text) * 3 + 1);
    if (consul_buf_append_urlencoded(&buf, text, strlen(text), safe) == 0 && buf.len > 0)
        memcpy(out, buf.data, buf.len + 1);
    consul_buf_free(&buf);
}

/* ---- single requests ----------------------------------------------------------------------------------------------
 */

struct call {
    struct consul *client;
    consul_done_fn *done;
    void *arg;
};

static void on_call(struct http_request *request)
{
    struct call *call = request->arg;
    struct consul_answer answer = {
        .err = http_errno(request),
        .status = request->status,
        .index = request->index,
        .filtered = request->filtered,
        .body = request->answer.data ? request->answer.data : "",
        .body_len = request->answer.len,
        .method = request->method,
        .path = request->path,
    };

    cache_note_contact(call->client->cache, request, answer.err);
    cache_note_served(call->client->cache, request);
    call->done(call->arg, &answer);
    free(call);
    http_request_free(request);
}

int consul_request(struct consul *client, const struct consul_request *wanted, consul_done_fn *done, void *arg)
{
    struct http_request *request = http_request_new(wanted->method, NULL);
    struct call *call = malloc(sizeof(*call));
    uint64_t timeout_ms = wanted->timeout_ms ? wanted->timeout_ms : client->options.timeout_ms;
    int r = -ENOMEM;

    if (!request || !call)
        goto fail;
    r = client_path(client, wanted->path, &request->path);
    if (r < 0)
        goto fail;
    if (wanted->body) {
        r = -ENOMEM;
        request->body = malloc(wanted->body_len + 1);
        if (!request->body)
            goto fail;
        memcpy(request->body, wanted->body, wanted->body_len);
        request->body_len = wanted->body_len;
    } else if (wanted->body_is_file) {
        request->body_is_file = true;
        request->body_fd = wanted->body_fd;
        request->body_len = wanted->body_len;
    } else if (wanted->intent != CONSUL_READ) {
        request->body = strdup(""); /* a PUT without a body still says its length */
        if (!request->body)
            goto fail;
    }
    request->content_type = wanted->content_type;
    request->intent = wanted->intent;
    request->max_answer = wanted->max_answer ? wanted->max_answer : MAX_ANSWER;
    request->deadline_ns = consul_now_ns() + timeout_ms * 1000000;
    *call = (struct call){.client = client, .done = done, .arg = arg};
    request->done = on_call;
    request->arg = call;
    http_enqueue(client->http, request);
    http_send(client->http);
    return 0;
fail:
    http_request_free(request);
    free(call);
    return r;
}

/* ---- the cache and the figures, for who holds a client ------------------------------------------------------------
 */

struct consul_resource *consul_resource_find(struct consul *client, const char *path)
{
    struct consul_resource *resource;
    char *full;

    if (client_path(client, path, &full) < 0)
        return NULL;
    resource = cache_find(client->cache, full);
    free(full);
    return resource;
}

int consul_resource_get(struct consul *client, const char *path, enum consul_format format, unsigned flags, size_t max,
                        struct consul_resource **ret_resource)
{
    char *full;
    int r = client_path(client, path, &full);

    if (r < 0)
        return r;
    r = cache_get(client->cache, full, format, flags, max ? max : MAX_ANSWER, ret_resource);
    free(full);
    return r;
}

bool consul_waiter_cancel(struct consul *client, struct consul_waiter *waiter)
{
    return cache_cancel_waiter(client->cache, waiter);
}

struct consul_resource **consul_watched(struct consul *client, const char *prefix, size_t *ret_n)
{
    return cache_watched(client->cache, prefix, ret_n);
}

void consul_expire(struct consul *client, const char *prefix) { cache_expire(client->cache, prefix, true); }

void consul_kv_catch_up(struct consul *client, const char *datacenter, const char *key, uint64_t index)
{
    cache_kv_catch_up(client->cache, datacenter ? datacenter : client->datacenter, key, index);
}

int consul_catch_up(struct consul *client, const char *datacenter, void (*done)(void *arg), void *arg)
{
    return cache_catch_up(client->cache, datacenter ? datacenter : client->datacenter, done, arg);
}

struct consul_kv_known consul_kv_known(struct consul *client, const char *datacenter, const char *prefix, size_t max)
{
    return cache_kv_known(client->cache, datacenter ? datacenter : client->datacenter, prefix, max);
}

#define MEASURE_TIMES 3
#define MEASURE_AGAIN_MS 5  /* from here on, */
#define MEASURE_SURE_MS 100 /* up to here */
#define MEASURE_LAST_MS 1000
#define MEASURE_ANSWER ((size_t)1 << 20)

struct measuring {
    struct consul *client;
    unsigned times;
    void (*done)(void *arg);
    void *arg;
};

static void on_measured(struct http_request *request);

static int measure(struct measuring *measuring)
{
    struct consul *client = measuring->client;
    struct http_request *request = http_request_new("GET", NULL);

    if (!request || client_path(client, "/v1/kv/?keys&separator=%2F&stale", &request->path) < 0) {
        http_request_free(request);
        return -ENOMEM;
    }
    request->intent = CONSUL_READ;
    request->max_answer = MEASURE_ANSWER;
    request->deadline_ns = consul_now_ns() + MEASURE_LAST_MS * 1000000;
    request->done = on_measured;
    request->arg = measuring;
    measuring->times++;
    http_enqueue(client->http, request);
    http_send(client->http);
    return 0;
}

/* However many names there are, or none that may be seen: it took as long. That it took too long is no break. */
static void on_measured(struct http_request *request)
{
    struct measuring *measuring = request->arg;
    uint64_t took_ms = cache_note_root_names(measuring->client->cache, request, measuring->times == 1) / 1000000;
    bool again = took_ms >= MEASURE_AGAIN_MS && took_ms < MEASURE_SURE_MS && measuring->times < MEASURE_TIMES;

    http_request_free(request);
    if (again && measure(measuring) == 0)
        return;
    measuring->done(measuring->arg);
    free(measuring);
}

int consul_kv_measure(struct consul *client, void (*done)(void *arg), void *arg)
{
    struct measuring *measuring = malloc(sizeof(*measuring));
    int r = -ENOMEM;

    if (measuring) {
        *measuring = (struct measuring){.client = client, .done = done, .arg = arg};
        r = measure(measuring);
    }
    if (r < 0)
        free(measuring);
    return r;
}

size_t consul_kv_watched(struct consul *client, const char *datacenter, const char *text, size_t from, size_t to)
{
    return cache_kv_watched(client->cache, datacenter ? datacenter : client->datacenter, text, from, to);
}

struct consul_resource *consul_kv_witness(struct consul *client, const char *datacenter, const char *prefix)
{
    return cache_kv_witness(client->cache, datacenter ? datacenter : client->datacenter, prefix);
}

void consul_drop_caches(struct consul *client) { cache_drop(client->cache); }

void consul_set_kv_limits(struct consul *client, size_t max_value, size_t max_txn_ops)
{
    atomic_store(&client->kv_max_value, max_value);
    atomic_store(&client->txn_max_ops, max_txn_ops);
}

size_t consul_kv_max_value(const struct consul *client) { return atomic_load(&client->kv_max_value); }

char *consul_filtered(struct consul *client) { return cache_filtered(client->cache); }

void consul_get_stats(struct consul *client, struct consul_stats *ret_stats)
{
    struct consul_stats stats = {0};

    http_add_stats(client->http, &stats);
    cache_add_stats(client->cache, &stats);
    stats.writes_together = write_queues_together(client->writes);
    *ret_stats = stats;
}
