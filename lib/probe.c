/*
 * The prober: asks several targets at once which answers first. Runs on the network thread after consul_probe().
 *
 * Targets that never answer must not hold back one that would: all of a probe are under way together. The sum over all
 * probes has a limit, and while that is reached they take turns.
 */
#include "probe.h"

#include "client.h"
#include "http.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE 512 /* well below the 1,024 files that a process may have open where nobody has set another limit */

struct prober {
    pthread_mutex_t lock; /* http.lock is taken inside */
    /* guarded by lock */
    struct probe *first, *last; /* with targets that have not had their turn */
    size_t running;             /* targets */
};

struct target {
    struct probe *probe;
    struct http_request *request; /* until it is submitted */
    bool connect_only;
};

struct probe {
    struct consul *client;
    struct target *targets;
    struct consul_probe_result *results;
    size_t n;
    size_t started;     /* guarded by prober.lock, as is next */
    struct probe *next; /* of those that have more to start */
    size_t ended;       /* network thread only, as is won */
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

int prober_new(struct prober **ret_prober)
{
    struct prober *prober = calloc(1, sizeof(*prober));

    if (!prober)
        return -ENOMEM;
    pthread_mutex_init(&prober->lock, NULL);
    *ret_prober = prober;
    return 0;
}

void prober_free(struct prober *prober)
{
    if (!prober)
        return;
    pthread_mutex_destroy(&prober->lock);
    free(prober);
}

/* prober.lock is held. */
static void wait_for_turn(struct prober *prober, struct probe *probe)
{
    probe->next = NULL;
    if (prober->last)
        prober->last->next = probe;
    else
        prober->first = probe;
    prober->last = probe;
}

/* prober.lock is held. Whose turn it is, or NULL. */
static struct target *take_turn(struct prober *prober)
{
    struct probe *probe = prober->first;
    struct target *target;

    if (!probe || prober->running == AT_ONCE)
        return NULL;
    prober->first = probe->next;
    if (!prober->first)
        prober->last = NULL;
    target = &probe->targets[probe->started++];
    if (probe->started < probe->n)
        wait_for_turn(prober, probe);
    prober->running++;
    return target;
}

/* The last submission may end a probe on the network thread: it is not touched afterwards. */
static void start_all(struct consul *client)
{
    struct prober *prober = client->prober;
    struct http *http = client->http;
    struct target *target;
    bool any = false;

    pthread_mutex_lock(&prober->lock);
    while ((target = take_turn(prober))) {
        struct http_request *request = target->request;

        target->request = NULL;
        http_enqueue(http, request);
        any = true;
    }
    pthread_mutex_unlock(&prober->lock);
    if (any)
        http_send(http);
}

static void end_one(struct prober *prober)
{
    pthread_mutex_lock(&prober->lock);
    prober->running--;
    pthread_mutex_unlock(&prober->lock);
}

static void on_probe(struct http_request *request)
{
    struct target *target = request->arg;
    struct probe *probe = target->probe;
    struct consul *client = probe->client;
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
    end_one(client->prober);
    if (++probe->ended == probe->n) {
        probe->all(probe->arg, probe->results, probe->n);
        probe_free(probe);
    }
    start_all(client);
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
    pthread_mutex_lock(&client->prober->lock);
    wait_for_turn(client->prober, probe);
    pthread_mutex_unlock(&client->prober->lock);
    start_all(client);
    return 0;
fail:
    probe_free(probe);
    return n == 0 ? -EINVAL : -ENOMEM;
}
