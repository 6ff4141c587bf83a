/*
 * The prober: asks several targets at once which answers first. Runs on the network thread after consul_probe().
 */
#include "client.h"
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE 64

struct probe;

struct target {
    struct probe *probe;
    struct http_request *request; /* until it is submitted */
    bool connect_only;
};

struct probe {
    struct consul *client;
    struct target *targets;
    struct consul_probe_result *results;
    size_t n, started, ended;
    bool won;
    uint64_t deadline_ns;
    void (*first)(void *arg, size_t index, uint64_t ns);
    void (*all)(void *arg, const struct consul_probe_result *results, size_t n);
    void *arg;
};

static void probe_free(struct probe *probe)
{
    if (!probe)
        return;
    for (size_t i = 0; probe->targets && i < probe->n; i++)
        http_request_free(probe->targets[i].request);
    free(probe->targets);
    free(probe->results);
    free(probe);
}

/* Consul holds 2xx for healthy. A server that does not know HEAD, or redirects (we do not follow), is alive as well. */
static bool answered_well(const struct target *target, const struct http_request *request)
{
    if (request->net != CONSUL_NET_OK)
        return false;
    if (target->connect_only)
        return true;
    return (request->status >= 200 && request->status < 400) || request->status == 405 || request->status == 501;
}

/* The request is the network thread's from here on. */
static void start(struct target *target)
{
    struct http_request *request = target->request;

    target->request = NULL;
    http_submit(target->probe->client->http, request);
}

static void on_probe(struct http_request *request)
{
    struct target *target = request->arg;
    struct probe *probe = target->probe;
    size_t index = (size_t)(target - probe->targets);
    struct consul_probe_result *result = &probe->results[index];

    result->status = request->status;
    if (answered_well(target, request)) {
        result->ns = request->done_ns - request->sent_ns;
        result->err = 0;
        if (!probe->won) {
            probe->won = true;
            probe->first(probe->arg, index, result->ns);
        }
    } else {
        result->err = request->net == CONSUL_NET_OK ? -EIO : http_errno(request);
    }
    http_request_free(request);
    probe->ended++;
    if (probe->started < probe->n) {
        start(&probe->targets[probe->started++]);
    } else if (probe->ended == probe->n) {
        probe->all(probe->arg, probe->results, probe->n);
        probe_free(probe);
    }
}

static char *url_of(const struct consul_probe_target *target)
{
    static const char scheme[] = "http://";
    char *url;

    if (target->kind == CONSUL_PROBE_HEAD)
        return strdup(target->url);
    url = malloc(sizeof(scheme) + strlen(target->url));
    if (url) {
        strcpy(url, scheme);
        strcat(url, target->url);
    }
    return url;
}

static int prepare(struct target *target, const struct consul_probe_target *wanted)
{
    struct http_request *request = http_request_new(wanted->kind == CONSUL_PROBE_HEAD ? "HEAD" : "GET", NULL);

    if (!request)
        return -ENOMEM;
    target->request = request;
    target->connect_only = request->connect_only = wanted->kind == CONSUL_PROBE_TCP;
    request->url = url_of(wanted);
    request->intent = CONSUL_READ;
    request->max_answer = 4096;
    request->deadline_ns = target->probe->deadline_ns;
    request->done = on_probe;
    request->arg = target;
    return request->url ? 0 : -ENOMEM;
}

int consul_probe(struct consul *client, const struct consul_probe_target *targets, size_t n, uint64_t timeout_ms,
                 void (*first)(void *arg, size_t index, uint64_t ns),
                 void (*all)(void *arg, const struct consul_probe_result *results, size_t n), void *arg)
{
    struct probe *probe = calloc(1, sizeof(*probe));
    size_t at_once = n < AT_ONCE ? n : AT_ONCE;

    if (!probe)
        return -ENOMEM;
    probe->client = client;
    probe->n = n;
    probe->first = first;
    probe->all = all;
    probe->arg = arg;
    probe->deadline_ns = consul_now_ns() + timeout_ms * 1000000;
    probe->targets = calloc(n, sizeof(*probe->targets));
    probe->results = calloc(n, sizeof(*probe->results));
    if (n == 0 || !probe->targets || !probe->results)
        goto fail;
    for (size_t i = 0; i < n; i++) {
        probe->targets[i].probe = probe;
        probe->results[i].err = -ETIMEDOUT;
        if (prepare(&probe->targets[i], &targets[i]) < 0)
            goto fail;
    }
    /* The last submission may end the probe on the network thread: it is not touched afterwards. */
    probe->started = at_once;
    for (size_t i = 0; i < at_once; i++)
        start(&probe->targets[i]);
    return 0;
fail:
    probe_free(probe);
    return n == 0 ? -EINVAL : -ENOMEM;
}
