/*
 * The resource cache with its network thread, against a small HTTP server of our own that does what a real agent does
 * not do on demand: hold an answer, lie, go away. Nothing sleeps: who waits, waits for what is to happen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"
#include "client.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MS 1000000ull
#define SECOND (1000 * MS)
#define PATIENCE_S 20 /* what has not happened by then does not happen */
#define MAX_CONNS 256
#define MAX_ROUTES 128

/* ---- the clock: linked with --wrap, time passes as we say ---------------------------------------------------------
 */

int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

static _Atomic uint64_t ahead_ns, stopped_ns; /* stopped_ns: when the real clock was stopped, or 0 */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    int r = __real_clock_gettime(clock, ts);

    if (r == 0 && clock == CLOCK_MONOTONIC) {
        uint64_t ns = (uint64_t)ts->tv_sec * SECOND + (uint64_t)ts->tv_nsec, stopped = atomic_load(&stopped_ns);

        ns = (stopped ? stopped : ns) + atomic_load(&ahead_ns);
        ts->tv_sec = (time_t)(ns / SECOND);
        ts->tv_nsec = (long)(ns % SECOND);
    }
    return r;
}

/* From now on time passes by pass() alone, until the clock goes on. */
static void stop_clock(void) { atomic_store(&stopped_ns, consul_now_ns() - atomic_load(&ahead_ns)); }

static void start_clock(void) { atomic_store(&stopped_ns, 0); }

/* ---- the server ---------------------------------------------------------------------------------------------------
 */

struct route {
    char path[128]; /* without index= and wait= */
    /* What is answered. A blocking query waits until its index is another one. */
    int status;
    uint64_t index;
    char *body;
    bool hold_get, hold_blocking; /* only server_release() answers */
    unsigned gets, blocking;      /* arrived so far */
    uint64_t asked_index;         /* by the newest blocking query */
    bool asked_stale;             /* likewise: any server may answer */
    unsigned asked_stale_n;       /* so many did, GETs included */
    unsigned asked_consistent_n;  /* so many GETs did */
    const char *confirmed_body;   /* not NULL: what these are answered, at confirmed_index */
    uint64_t confirmed_index;
    unsigned last_contact_ms; /* what is said of it */
    bool no_leader;
};

struct conn {
    int fd; /* -1: free */
    char in[4096];
    size_t len;
    struct route *waits; /* has asked for this and has no answer yet */
    bool blocking, consistent;
    uint64_t index;
};

struct server {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a request came, or a connection went */
    pthread_t thread;
    uint16_t port;
    int wake[2];
    bool running;
    /* guarded by lock */
    bool stop;
    int listen_fd;
    struct conn conns[MAX_CONNS];
    struct route routes[MAX_ROUTES];
    size_t route_n;
};

/* What a thread that is not the test's own finds wrong. */
#define BROKEN(what)                                                                                                   \
    do {                                                                                                               \
        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, what);                                                      \
        abort();                                                                                                       \
    } while (0)

/* The lock is held. */
static struct route *route_of(struct server *server, const char *path)
{
    for (size_t i = 0; i < server->route_n; i++)
        if (strcmp(server->routes[i].path, path) == 0)
            return &server->routes[i];
    if (server->route_n == MAX_ROUTES)
        BROKEN("too many routes");
    snprintf(server->routes[server->route_n].path, sizeof(server->routes[0].path), "%s", path);
    server->routes[server->route_n].status = 404;
    server->routes[server->route_n].body = strdup("");
    return &server->routes[server->route_n++];
}

static void conn_close(struct conn *conn)
{
    close(conn->fd);
    *conn = (struct conn){.fd = -1};
}

static void answer(struct conn *conn, int status, uint64_t index, const char *body)
{
    char *text;
    int n = asprintf(&text,
                     "HTTP/1.1 %d Whatever\r\nX-Consul-Index: %llu\r\nX-Consul-KnownLeader: %s\r\n"
                     "X-Consul-LastContact: %u\r\nContent-Length: %zu\r\n\r\n%s",
                     status, (unsigned long long)index, conn->waits->no_leader ? "false" : "true",
                     conn->waits->last_contact_ms, strlen(body), body);

    conn->waits = NULL;
    if (n < 0)
        BROKEN("no memory");
    if (send(conn->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        shutdown(conn->fd, SHUT_RDWR);
    free(text);
}

/* The lock is held. Answers who may be answered. */
static void serve(struct server *server)
{
    for (size_t i = 0; i < MAX_CONNS; i++) {
        struct conn *conn = &server->conns[i];
        struct route *route = conn->waits;

        if (!route || (conn->blocking ? route->hold_blocking || route->index == conn->index : route->hold_get))
            continue;
        if (conn->consistent && route->confirmed_body)
            answer(conn, route->status, route->confirmed_index, route->confirmed_body);
        else
            answer(conn, route->status, route->index, route->body);
    }
}

/* The lock is held. A whole request, without a body, is in conn->in. */
static void parse(struct server *server, struct conn *conn)
{
    char *target = strchr(conn->in, ' '), *end = target ? strchr(target + 1, ' ') : NULL, *query;
    bool stale;

    if (!end || strncmp(conn->in, "GET ", 4) != 0)
        BROKEN("not a GET");
    *end = '\0';
    query = strstr(++target, "index=");
    conn->blocking = query != NULL;
    conn->index = query ? strtoull(query + 6, NULL, 10) : 0;
    stale = strstr(target, "&stale") != NULL;
    if (!query)
        query = strstr(target, "consistent");
    conn->consistent = query && !conn->blocking;
    if (query)
        query[-1] = '\0';
    conn->waits = route_of(server, target);
    conn->waits->asked_consistent_n += conn->consistent;
    conn->waits->asked_stale = stale;
    conn->waits->asked_stale_n += stale;
    if (conn->blocking) {
        conn->waits->blocking++;
        conn->waits->asked_index = conn->index;
    } else {
        conn->waits->gets++;
    }
    conn->len = 0;
}

static void conn_read(struct server *server, struct conn *conn)
{
    ssize_t n = recv(conn->fd, conn->in + conn->len, sizeof(conn->in) - 1 - conn->len, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        conn_close(conn);
        return;
    }
    conn->len += (size_t)n;
    conn->in[conn->len] = '\0';
    if (strstr(conn->in, "\r\n\r\n"))
        parse(server, conn);
}

static void conn_accept(struct server *server)
{
    int fd = accept(server->listen_fd, NULL, NULL);

    if (fd < 0)
        return;
    for (size_t i = 0; i < MAX_CONNS; i++) {
        if (server->conns[i].fd < 0) {
            server->conns[i].fd = fd;
            return;
        }
    }
    BROKEN("too many connections");
}

static void *server_thread(void *arg)
{
    struct server *server = arg;

    for (;;) {
        struct pollfd fds[MAX_CONNS + 2];
        struct conn *of[MAX_CONNS + 2] = {NULL};
        nfds_t n = 2;

        pthread_mutex_lock(&server->lock);
        if (server->stop) {
            pthread_mutex_unlock(&server->lock);
            return NULL;
        }
        fds[0] = (struct pollfd){.fd = server->wake[0], .events = POLLIN};
        fds[1] = (struct pollfd){.fd = server->listen_fd, .events = POLLIN};
        for (size_t i = 0; i < MAX_CONNS; i++) {
            if (server->conns[i].fd >= 0) {
                of[n] = &server->conns[i];
                fds[n++] = (struct pollfd){.fd = server->conns[i].fd, .events = POLLIN};
            }
        }
        pthread_mutex_unlock(&server->lock);
        if (poll(fds, n, -1) < 0 && errno != EINTR)
            BROKEN("poll");
        pthread_mutex_lock(&server->lock);
        for (nfds_t i = 2; i < n; i++)
            if (fds[i].revents && of[i]->fd == fds[i].fd)
                conn_read(server, of[i]);
        if (fds[1].revents)
            conn_accept(server);
        serve(server);
        pthread_cond_broadcast(&server->changed);
        pthread_mutex_unlock(&server->lock);
    }
}

/* The same port as before, if there was one. */
static void server_start(struct server *server)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(server->port)};
    socklen_t len = sizeof(address);
    int one = 1;

    assert_int_equal(pipe(server->wake), 0);
    server->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(server->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(server->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(server->listen_fd, 128), 0);
    assert_int_equal(getsockname(server->listen_fd, (struct sockaddr *)&address, &len), 0);
    server->port = ntohs(address.sin_port);
    for (size_t i = 0; i < MAX_CONNS; i++)
        server->conns[i].fd = -1;
    server->stop = false;
    assert_int_equal(pthread_create(&server->thread, NULL, server_thread, server), 0);
    server->running = true;
}

/* Nobody listens any more, and every connection breaks. */
static void server_stop(struct server *server)
{
    if (!server->running)
        return;
    pthread_mutex_lock(&server->lock);
    server->stop = true;
    pthread_mutex_unlock(&server->lock);
    assert_int_equal(write(server->wake[1], "x", 1), 1);
    pthread_join(server->thread, NULL);
    close(server->listen_fd);
    for (size_t i = 0; i < MAX_CONNS; i++)
        if (server->conns[i].fd >= 0)
            conn_close(&server->conns[i]);
    close(server->wake[0]);
    close(server->wake[1]);
    server->running = false;
}

static void routes_clear(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < server->route_n; i++)
        free(server->routes[i].body);
    memset(server->routes, 0, sizeof(server->routes));
    server->route_n = 0;
    pthread_mutex_unlock(&server->lock);
}

static void server_set(struct server *server, const char *path, int status, uint64_t index, const char *body)
{
    struct route *route;

    pthread_mutex_lock(&server->lock);
    route = route_of(server, path);
    route->status = status;
    route->index = index;
    free(route->body);
    route->body = strdup(body);
    serve(server);
    pthread_mutex_unlock(&server->lock);
}

static void server_hold(struct server *server, const char *path, bool gets, bool blocking)
{
    struct route *route;

    pthread_mutex_lock(&server->lock);
    route = route_of(server, path);
    route->hold_get = gets;
    route->hold_blocking = blocking;
    serve(server);
    pthread_mutex_unlock(&server->lock);
}

/* Answers those that wait for the path with this, whatever the route says. */
static void server_release(struct server *server, const char *path, bool blocking, int status, uint64_t index,
                           const char *body)
{
    unsigned n = 0;

    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < MAX_CONNS; i++) {
        struct conn *conn = &server->conns[i];

        if (conn->waits && conn->blocking == blocking && strcmp(conn->waits->path, path) == 0) {
            answer(conn, status, index, body);
            n++;
        }
    }
    pthread_mutex_unlock(&server->lock);
    assert_int_equal(n, 1);
}

static struct timespec patience(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += PATIENCE_S;
    return ts;
}

/* Until so many have arrived in all. */
static void server_wait(struct server *server, const char *path, bool blocking, unsigned n)
{
    struct timespec until = patience();
    unsigned have = 0;
    int r = 0;

    pthread_mutex_lock(&server->lock);
    while (r == 0) {
        const struct route *route = route_of(server, path);

        have = blocking ? route->blocking : route->gets;
        if (have >= n)
            break;
        r = pthread_cond_timedwait(&server->changed, &server->lock, &until);
    }
    pthread_mutex_unlock(&server->lock);
    if (have < n)
        fail_msg("%u of %u %s of %s", have, n, blocking ? "blocking queries" : "GETs", path);
}

static void server_expect(struct server *server, const char *path, unsigned gets, unsigned blocking)
{
    struct route route;

    pthread_mutex_lock(&server->lock);
    route = *route_of(server, path);
    pthread_mutex_unlock(&server->lock);
    if (route.gets != gets || route.blocking != blocking)
        fail_msg("%s: %u GETs, %u blocking queries instead of %u and %u", path, route.gets, route.blocking, gets,
                 blocking);
}

static uint64_t server_asked_index(struct server *server, const char *path)
{
    uint64_t index;

    pthread_mutex_lock(&server->lock);
    index = route_of(server, path)->asked_index;
    pthread_mutex_unlock(&server->lock);
    return index;
}

/* Until nobody waits for the path any more: the other side has given up. */
static void server_wait_gone(struct server *server, const char *path)
{
    struct timespec until = patience();
    bool gone = false;
    int r = 0;

    pthread_mutex_lock(&server->lock);
    while (r == 0 && !gone) {
        gone = true;
        for (size_t i = 0; i < MAX_CONNS; i++)
            gone &= !server->conns[i].waits || strcmp(server->conns[i].waits->path, path) != 0;
        if (!gone)
            r = pthread_cond_timedwait(&server->changed, &server->lock, &until);
    }
    pthread_mutex_unlock(&server->lock);
    assert_true(gone);
}

/* ---- the client ---------------------------------------------------------------------------------------------------
 */

struct told {
    char path[128];
    enum consul_change change;
};

struct fixture {
    struct server server;
    struct consul *client;
    struct consul_resource *resources[MAX_ROUTES];
    size_t resource_n;

    pthread_mutex_t lock;
    pthread_cond_t happened;
    /* guarded by lock */
    struct told told[512];
    size_t told_n;
    char log[2048];
};

static void on_change(void *arg, struct consul_resource *resource, enum consul_change change,
                      struct consul_snapshot *before, struct consul_snapshot *after)
{
    struct fixture *f = arg;

    pthread_mutex_lock(&f->lock);
    if (change == CONSUL_CHANGED)
        assert_true(after && after != before);
    else
        assert_true(!after && !before);
    if (f->told_n < COUNT(f->told)) {
        snprintf(f->told[f->told_n].path, sizeof(f->told[0].path), "%s", consul_resource_path(resource));
        f->told[f->told_n++].change = change;
    }
    pthread_cond_broadcast(&f->happened);
    pthread_mutex_unlock(&f->lock);
}

static void on_log(void *arg, enum consul_log_level level, const char *line)
{
    struct fixture *f = arg;

    (void)level;
    pthread_mutex_lock(&f->lock);
    snprintf(f->log + strlen(f->log), sizeof(f->log) - strlen(f->log), "%s\n", line);
    pthread_mutex_unlock(&f->lock);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->happened, NULL);
    pthread_mutex_init(&f->server.lock, NULL);
    pthread_cond_init(&f->server.changed, NULL);
    server_start(&f->server);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    start_clock();
    for (size_t i = 0; i < f->resource_n; i++)
        consul_resource_unref(f->resources[i]);
    consul_free(f->client);
    server_stop(&f->server);
    routes_clear(&f->server);
    pthread_mutex_destroy(&f->server.lock);
    pthread_cond_destroy(&f->server.changed);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->happened);
    free(f);
    return 0;
}

static void start_client(struct fixture *f, unsigned watches, uint64_t stale_ms)
{
    char address[32];
    struct consul_config config = {.scheme = "http", .host_port = address, .tls_verify = true};
    struct consul_options options = {.watches = watches,
                                     .timeout_ms = 10000,
                                     .stale_ms = stale_ms,
                                     .log = on_log,
                                     .log_arg = f,
                                     .changed = on_change,
                                     .changed_arg = f};

    snprintf(address, sizeof(address), "127.0.0.1:%u", f->server.port);
    assert_int_equal(consul_new(&config, &options, &f->client), 0);
}

/* Time passes, and the network thread notices. */
static void pass(struct fixture *f, uint64_t ns)
{
    atomic_fetch_add(&ahead_ns, ns);
    http_wakeup(f->client->http);
}

static struct consul_resource *get(struct fixture *f, const char *path, enum consul_format format, unsigned flags)
{
    struct consul_resource *resource;

    assert_int_equal(consul_resource_get(f->client, path, format, flags, 200, &resource), 0);
    assert_true(f->resource_n < COUNT(f->resources));
    f->resources[f->resource_n++] = resource;
    return resource;
}

static size_t told_count(struct fixture *f, const char *path, enum consul_change change)
{
    size_t n = 0;

    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->told_n; i++)
        n += f->told[i].change == change && strcmp(f->told[i].path, path) == 0;
    pthread_mutex_unlock(&f->lock);
    return n;
}

static void wait_told(struct fixture *f, const char *path, enum consul_change change, size_t n)
{
    struct timespec until = patience();
    int r = 0;

    while (r == 0 && told_count(f, path, change) < n) {
        pthread_mutex_lock(&f->lock);
        r = pthread_cond_timedwait(&f->happened, &f->lock, &(struct timespec){until.tv_sec, until.tv_nsec});
        pthread_mutex_unlock(&f->lock);
    }
    assert_int_equal(told_count(f, path, change), n);
}

/* Time passes, in small steps, until it is told. */
static void pass_until_told(struct fixture *f, const char *path, enum consul_change change, size_t n)
{
    for (int i = 0; i < PATIENCE_S * 1000 && told_count(f, path, change) < n; i++) {
        pass(f, SECOND / 10);
        poll(NULL, 0, 1); /* so that the other threads have their turn */
    }
    assert_int_equal(told_count(f, path, change), n);
}

struct waiter {
    struct consul_waiter waiter; /* first */
    struct fixture *f;
    bool woken; /* guarded by f->lock */
    int err;    /* likewise */
};

static void on_wake(struct consul_waiter *arg, int err)
{
    struct waiter *waiter = (struct waiter *)arg;
    struct fixture *f = waiter->f;

    pthread_mutex_lock(&f->lock);
    if (waiter->woken)
        BROKEN("woken twice");
    waiter->woken = true;
    waiter->err = err;
    pthread_cond_broadcast(&f->happened);
    pthread_mutex_unlock(&f->lock);
}

static void waiter_init(struct fixture *f, struct waiter *waiter)
{
    *waiter =
        (struct waiter){.waiter = {.wake = on_wake, .deadline_ns = consul_now_ns() + 100 * SECOND}, .f = f, .err = 99};
}

static bool is_woken(struct waiter *waiter)
{
    bool woken;

    pthread_mutex_lock(&waiter->f->lock);
    woken = waiter->woken;
    pthread_mutex_unlock(&waiter->f->lock);
    return woken;
}

static int wait_woken(struct waiter *waiter)
{
    struct fixture *f = waiter->f;
    struct timespec until = patience();
    int err, r = 0;

    pthread_mutex_lock(&f->lock);
    while (r == 0 && !waiter->woken)
        r = pthread_cond_timedwait(&f->happened, &f->lock, &until);
    err = waiter->err;
    pthread_mutex_unlock(&f->lock);
    if (r != 0)
        BROKEN("not woken");
    return err;
}

/* As an operation does: begins now, and asks again when woken. */
static int read_since(struct fixture *f, struct consul_resource *resource, uint64_t since,
                      struct consul_snapshot **ret_snapshot, enum consul_freshness *ret_freshness)
{
    for (;;) {
        struct waiter waiter;
        int r;

        waiter_init(f, &waiter);
        r = consul_resource_read(resource, since, &waiter.waiter, ret_snapshot, ret_freshness);
        if (r != -EINPROGRESS)
            return r;
        r = wait_woken(&waiter);
        if (r < 0)
            return r;
    }
}

static int read_error(struct fixture *f, struct consul_resource *resource)
{
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    int r = read_since(f, resource, consul_now_ns(), &snapshot, &freshness);

    if (r == 0)
        consul_snapshot_unref(snapshot);
    return r;
}

/* {"v":1} is 1. */
static int value_of(const struct consul_snapshot *snapshot)
{
    return (int)json_integer_value(json_object_get(snapshot->json, "v"));
}

static void expect_read(struct fixture *f, struct consul_resource *resource, int value, enum consul_freshness expected)
{
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;

    assert_int_equal(read_since(f, resource, consul_now_ns(), &snapshot, &freshness), 0);
    assert_int_equal(value_of(snapshot), value);
    assert_int_equal(freshness, expected);
    consul_snapshot_unref(snapshot);
    /* What is watched is there without asking, and nothing else is. */
    snapshot = consul_resource_current(resource);
    assert_int_equal(snapshot != NULL, expected == CONSUL_WATCHED);
    if (snapshot)
        assert_int_equal(value_of(snapshot), value);
    consul_snapshot_unref(snapshot);
}

static enum consul_freshness freshness_of(struct fixture *f, struct consul_resource *resource)
{
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;

    assert_int_equal(read_since(f, resource, consul_now_ns(), &snapshot, &freshness), 0);
    consul_snapshot_unref(snapshot);
    return freshness;
}

/* Without asking. */
static void expect_known(struct consul_resource *resource, int value, bool expect_watched)
{
    bool watched;
    struct consul_snapshot *snapshot = consul_resource_peek(resource, &watched);

    assert_non_null(snapshot);
    assert_int_equal(value_of(snapshot), value);
    assert_int_equal(watched, expect_watched);
    consul_snapshot_unref(snapshot);
}

static struct consul_stats stats_of(struct fixture *f)
{
    struct consul_stats stats;

    consul_get_stats(f->client, &stats);
    return stats;
}

static struct route seen_of(struct fixture *f, const char *path)
{
    struct route route;

    pthread_mutex_lock(&f->server.lock);
    route = *route_of(&f->server, path);
    pthread_mutex_unlock(&f->server.lock);
    return route;
}

/* Its blocking query broke, and the first attempt to reconnect is a GET, after a moment. */
static void wait_reconnecting(struct fixture *f, const char *path)
{
    for (int i = 0; i < PATIENCE_S * 1000 && seen_of(f, path).gets < 2; i++) {
        pass(f, SECOND / 100);
        poll(NULL, 0, 1);
    }
}

/* A resource that is read and from then on watched; one GET, one blocking query. */
static struct consul_resource *watch(struct fixture *f, const char *path)
{
    struct consul_resource *resource = get(f, path, CONSUL_JSON, CONSUL_BLOCKS);

    server_set(&f->server, path, 200, 10, "{\"v\":1}");
    expect_read(f, resource, 1, CONSUL_WATCHED);
    server_wait(&f->server, path, true, 1);
    return resource;
}

/* ---- connections --------------------------------------------------------------------------------------------------
 */

static void test_split_connections(void **state)
{
    static const struct {
        unsigned asked, connections, watches, lock_waits;
    } cases[] = {
        {0, 2, 0, 1},       {1, 3, 1, 1},       {2, 4, 2, 1},          {4, 6, 4, 1},    {5, 5, 3, 1},
        {8, 8, 6, 1},       {16, 16, 14, 1},    {24, 24, 20, 1},       {64, 64, 53, 3}, {128, 128, 105, 7},
        {136, 136, 113, 7}, {144, 144, 120, 8}, {1000, 1000, 923, 61},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        unsigned connections = 99, watches = 99, lock_waits = 99;

        cache_split_connections(cases[i].asked, &connections, &watches, &lock_waits);
        assert_int_equal(lock_waits, cases[i].lock_waits);
        assert_int_equal(connections, cases[i].connections);
        assert_int_equal(watches, cases[i].watches);
    }
    for (unsigned asked = 0; asked < 2000; asked++) {
        unsigned connections, watches, lock_waits;

        cache_split_connections(asked, &connections, &watches, &lock_waits);
        assert_true(watches <= asked);
        assert_true(lock_waits >= 1);
        assert_true(connections >= watches + lock_waits + 1); /* others are never starved by the watches */
        assert_true(connections <= (asked > 4 ? asked : asked + 2));
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

#define READERS 50

struct reader {
    struct fixture *f;
    struct consul_resource *resource;
    struct waiter waiters[READERS / 5];
    uint64_t since;
    unsigned queued;
};

static void *queue_readers(void *arg)
{
    struct reader *reader = arg;

    for (size_t i = 0; i < COUNT(reader->waiters); i++) {
        struct consul_snapshot *snapshot;
        enum consul_freshness freshness;

        waiter_init(reader->f, &reader->waiters[i]);
        reader->queued += consul_resource_read(reader->resource, reader->since, &reader->waiters[i].waiter, &snapshot,
                                               &freshness) == -EINPROGRESS;
    }
    return NULL;
}

static void test_one_get_for_all(void **state)
{
    struct fixture *f = *state;
    struct reader readers[5];
    pthread_t threads[5];
    struct consul_resource *resource;

    start_client(f, 8, 0);
    server_set(&f->server, "/v1/x", 200, 10, "{\"v\":1}");
    server_hold(&f->server, "/v1/x", true, true);
    resource = get(f, "/v1/x", CONSUL_JSON, 0);
    assert_ptr_equal(get(f, "/v1/x", CONSUL_JSON, 0), resource); /* there is one for each path */
    for (size_t i = 0; i < COUNT(readers); i++) {
        readers[i] = (struct reader){.f = f, .resource = resource, .since = consul_now_ns()};
        assert_int_equal(pthread_create(&threads[i], NULL, queue_readers, &readers[i]), 0);
    }
    for (size_t i = 0; i < COUNT(readers); i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].queued, READERS / 5);
    }
    server_wait(&f->server, "/v1/x", false, 1);
    assert_int_equal(stats_of(f).waiters, READERS);
    for (size_t i = 0; i < COUNT(readers); i++)
        for (size_t j = 0; j < COUNT(readers[i].waiters); j++)
            assert_false(is_woken(&readers[i].waiters[j]));

    server_hold(&f->server, "/v1/x", false, false);
    for (size_t i = 0; i < COUNT(readers); i++) {
        for (size_t j = 0; j < COUNT(readers[i].waiters); j++) {
            struct consul_snapshot *snapshot;
            enum consul_freshness freshness;

            assert_int_equal(wait_woken(&readers[i].waiters[j]), 0);
            assert_int_equal(
                consul_resource_read(resource, readers[i].since, &readers[i].waiters[j].waiter, &snapshot, &freshness),
                0);
            assert_int_equal(freshness, CONSUL_FRESH);
            assert_int_equal(value_of(snapshot), 1);
            assert_int_equal(snapshot->index, 10);
            consul_snapshot_unref(snapshot);
        }
    }
    server_expect(&f->server, "/v1/x", 1, 0);
    assert_int_equal(stats_of(f).waiters, 0);
    assert_int_equal(stats_of(f).requests, 1);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_CHANGED), 1);

    /* Who begins later wants to know what is true then. */
    server_set(&f->server, "/v1/x", 200, 11, "{\"v\":2}");
    expect_read(f, resource, 2, CONSUL_FRESH);
    server_expect(&f->server, "/v1/x", 2, 0);
}

static void test_deadline(void **state)
{
    struct fixture *f = *state;
    struct waiter early, late, cancelled;
    struct consul_snapshot *snapshot = NULL;
    enum consul_freshness freshness;
    struct consul_resource *resource;
    uint64_t since = consul_now_ns();

    start_client(f, 8, 0);
    server_set(&f->server, "/v1/x", 200, 10, "{\"v\":1}");
    server_hold(&f->server, "/v1/x", true, false);
    resource = get(f, "/v1/x", CONSUL_JSON, 0);
    waiter_init(f, &late);
    waiter_init(f, &early);
    waiter_init(f, &cancelled);
    early.waiter.deadline_ns = consul_now_ns() + 3 * SECOND;
    cancelled.waiter.deadline_ns = early.waiter.deadline_ns - SECOND;
    assert_int_equal(consul_resource_read(resource, since, &late.waiter, &snapshot, &freshness), -EINPROGRESS);
    assert_int_equal(consul_resource_read(resource, since, &early.waiter, &snapshot, &freshness), -EINPROGRESS);
    assert_int_equal(consul_resource_read(resource, since, &cancelled.waiter, &snapshot, &freshness), -EINPROGRESS);
    assert_null(snapshot);
    assert_true(consul_waiter_cancel(f->client, &cancelled.waiter));
    assert_false(consul_waiter_cancel(f->client, &cancelled.waiter));
    server_wait(&f->server, "/v1/x", false, 1);
    pass(f, 4 * SECOND);
    assert_int_equal(wait_woken(&early), -ETIMEDOUT);
    assert_false(consul_waiter_cancel(f->client, &early.waiter));
    assert_false(is_woken(&late)); /* the request is still under way */
    server_hold(&f->server, "/v1/x", false, false);
    assert_int_equal(wait_woken(&late), 0);
    assert_int_equal(consul_resource_read(resource, since, &late.waiter, &snapshot, &freshness), 0);
    consul_snapshot_unref(snapshot);
    assert_false(is_woken(&cancelled));
    server_expect(&f->server, "/v1/x", 1, 0);
}

static void test_stop_wakes_all(void **state)
{
    struct fixture *f = *state;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct consul_resource *resource;
    struct waiter waiter;

    start_client(f, 8, 0);
    server_hold(&f->server, "/v1/x", true, false);
    resource = get(f, "/v1/x", CONSUL_JSON, 0);
    waiter_init(f, &waiter);
    assert_int_equal(consul_resource_read(resource, consul_now_ns(), &waiter.waiter, &snapshot, &freshness),
                     -EINPROGRESS);
    server_wait(&f->server, "/v1/x", false, 1);
    consul_stop(f->client);
    assert_true(is_woken(&waiter));
    assert_int_equal(waiter.err, -ECANCELED);
    assert_int_equal(read_error(f, resource), -ECANCELED);
}

/* Whatever goes wrong, what was known stays known. */
static void test_failure_keeps_the_snapshot(void **state)
{
    static const struct {
        int status;
        const char *body;
        int err;
        bool agent_is_there; /* it says no: what was known is not served instead */
    } cases[] = {
        {500, "something is wrong", -EIO, false},
        {200, "garbage", -EIO, false},
        {200, "{\"v\":2", -EIO, false},
        {200, "", -EIO, false},
        {200, "<html>", -EIO, false},
        {301, "", -EIO, false},
        {403, "Permission denied", -EACCES, true},
        {404, "Invalid URL path: not a GET", -EOPNOTSUPP, true},
        {404, "", -ENOENT, true},
        {400, "Bad request", -EINVAL, true},
        {200,
         "{\"v\":2,\"long\":"
         "\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
         "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678"
         "9"
         "\"}",
         -EFBIG, true},
    };
    static const uint64_t stale_ms[] = {0, CONSUL_STALE_FOREVER};
    struct fixture *f = *state;

    for (size_t s = 0; s < COUNT(stale_ms); s++) {
        start_client(f, 8, stale_ms[s]);
        for (size_t i = 0; i < COUNT(cases); i++) {
            char path[32];
            struct consul_resource *resource;

            snprintf(path, sizeof(path), "/v1/%zu/%zu", s, i);
            server_set(&f->server, path, 200, 10, "{\"v\":1}");
            resource = get(f, path, CONSUL_JSON, 0);
            expect_read(f, resource, 1, CONSUL_FRESH);
            server_set(&f->server, path, cases[i].status, 11, cases[i].body);
            if (stale_ms[s] && !cases[i].agent_is_there)
                expect_read(f, resource, 1, CONSUL_STALE);
            else
                assert_int_equal(read_error(f, resource), cases[i].err);
            assert_int_equal(consul_resource_error(resource), cases[i].err);
            expect_known(resource, 1, false);
            assert_int_equal(told_count(f, path, CONSUL_CHANGED), 1);

            pass(f, 2 * SECOND); /* what is too big is not tried again at once */
            server_set(&f->server, path, 200, 12, "{\"v\":3}");
            expect_read(f, resource, 3, CONSUL_FRESH);
            assert_int_equal(consul_resource_error(resource), 0);
            server_expect(&f->server, path, 3, 0);
        }
        while (f->resource_n > 0)
            consul_resource_unref(f->resources[--f->resource_n]);
        consul_free(f->client);
        f->client = NULL;
        f->told_n = 0;
    }
}

/* Nothing was ever known: an error is an error, even on a mount that serves stale content for ever. */
static void test_failure_without_snapshot(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;
    bool watched;

    start_client(f, 8, CONSUL_STALE_FOREVER);
    server_set(&f->server, "/v1/x", 200, 10, "garbage");
    resource = get(f, "/v1/x", CONSUL_JSON, CONSUL_BLOCKS);
    assert_int_equal(read_error(f, resource), -EIO);
    assert_null(consul_resource_peek(resource, &watched));
    assert_false(watched);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_CHANGED), 0);
    server_stop(&f->server);
    assert_int_equal(read_error(f, resource), -ECONNREFUSED);
}

static void test_too_big_is_not_asked_again_at_once(void **state)
{
    struct fixture *f = *state;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct consul_resource *resource;
    char body[256];
    uint64_t since;

    memset(body, 'x', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';
    start_client(f, 8, 0);
    server_set(&f->server, "/v1/x", 200, 10, body);
    resource = get(f, "/v1/x", CONSUL_TEXT, 0);
    assert_int_equal(read_error(f, resource), -EFBIG);
    assert_int_equal(read_error(f, resource), -EFBIG);
    server_expect(&f->server, "/v1/x", 1, 0);
    pass(f, SECOND);
    since = consul_now_ns();
    assert_int_equal(read_since(f, resource, since, &snapshot, &freshness), -EFBIG);
    server_expect(&f->server, "/v1/x", 2, 0);
    pass(f, SECOND); /* twice as long now */
    assert_int_equal(read_error(f, resource), -EFBIG);
    server_expect(&f->server, "/v1/x", 2, 0);

    /* Somebody takes more, maybe the one who has just been told. */
    assert_int_equal(consul_resource_get(f->client, "/v1/x", CONSUL_TEXT, 0, 1000, &f->resources[f->resource_n]), 0);
    assert_ptr_equal(f->resources[f->resource_n++], resource);
    assert_int_equal(read_since(f, resource, since, &snapshot, &freshness), 0);
    consul_snapshot_unref(snapshot);
    server_expect(&f->server, "/v1/x", 3, 0);
}

/* ---- watches ------------------------------------------------------------------------------------------------------
 */

static void test_watch(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;

    start_client(f, 8, 0);
    resource = watch(f, "/v1/x");
    assert_int_equal(server_asked_index(&f->server, "/v1/x"), 10);
    for (int i = 0; i < 10; i++)
        expect_read(f, resource, 1, CONSUL_WATCHED);
    server_expect(&f->server, "/v1/x", 1, 1);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_CHANGED), 1);

    server_set(&f->server, "/v1/x", 200, 11, "{\"v\":2}");
    wait_told(f, "/v1/x", CONSUL_CHANGED, 2);
    expect_known(resource, 2, true);
    expect_read(f, resource, 2, CONSUL_WATCHED);
    server_wait(&f->server, "/v1/x", true, 2);
    assert_int_equal(server_asked_index(&f->server, "/v1/x"), 11);

    /* Another index, the same content: nobody needs to know. */
    server_set(&f->server, "/v1/x", 200, 12, "{\"v\":2}");
    server_wait(&f->server, "/v1/x", true, 3);
    server_set(&f->server, "/v1/x", 200, 13, "{\"v\":3}");
    wait_told(f, "/v1/x", CONSUL_CHANGED, 3);
    server_wait(&f->server, "/v1/x", true, 4);
    server_expect(&f->server, "/v1/x", 1, 4);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_WATCH_ENDED), 0);
    assert_int_equal(stats_of(f).watches, 1);
    assert_int_equal(stats_of(f).blocking_queries, 4);
}

/* Who has the answer asks for more at once: the first blocking query comes after that, and not at all if it is not
 * needed any more. Until then it is watched all the same: with its index it misses nothing. */
static void test_the_first_query_of_a_watch_waits_a_moment(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource, *other;
    size_t told;

    start_client(f, 8, 0);
    resource = get(f, "/v1/x", CONSUL_JSON, CONSUL_BLOCKS);
    server_set(&f->server, "/v1/x", 200, 10, "{\"v\":1}");
    other = get(f, "/v1/y", CONSUL_JSON, 0);
    server_set(&f->server, "/v1/y", 200, 10, "{\"v\":1}");
    stop_clock();
    for (unsigned i = 0; i < 5; i++) {
        expect_read(f, resource, 1, CONSUL_WATCHED);
        expect_read(f, resource, 1, CONSUL_WATCHED);
        expect_read(f, other, 1, CONSUL_FRESH); /* what the network thread had to do, it has done */
        consul_drop_caches(f->client);
    }
    server_expect(&f->server, "/v1/x", 5, 0);
    assert_int_equal(stats_of(f).abandoned, 0);
    expect_read(f, resource, 1, CONSUL_WATCHED);
    server_set(&f->server, "/v1/x", 200, 11, "{\"v\":2}");
    expect_read(f, other, 1, CONSUL_FRESH);
    server_expect(&f->server, "/v1/x", 6, 0);
    told = told_count(f, "/v1/x", CONSUL_CHANGED);
    pass(f, SECOND / 100);
    wait_told(f, "/v1/x", CONSUL_CHANGED, told + 1);
    expect_known(resource, 2, true);
    server_wait(&f->server, "/v1/x", true, 2);
    server_expect(&f->server, "/v1/x", 6, 2);
}

/* After a restore: that it is one is confirmed, and then the watch goes on from there. */
static void goes_backwards(struct fixture *f, uint64_t stale_ms)
{
    struct consul_resource *resource;

    start_client(f, 8, stale_ms);
    resource = watch(f, "/v1/x");
    server_set(&f->server, "/v1/x", 200, 3, "{\"v\":2}");
    wait_reconnecting(f, "/v1/x");
    wait_told(f, "/v1/x", CONSUL_CHANGED, 2);
    expect_known(resource, 2, true);
    server_wait(&f->server, "/v1/x", true, 2);
    assert_int_equal(server_asked_index(&f->server, "/v1/x"), 3);
    assert_int_equal(seen_of(f, "/v1/x").asked_consistent_n, 1);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_WATCH_ENDED), 0);
}

static void test_index_goes_backwards(void **state) { goes_backwards(*state, 0); }

static void test_index_of_any_server_goes_backwards(void **state) { goes_backwards(*state, 10000); }

static void set_confirmed(struct fixture *f, const char *path, uint64_t index, const char *body)
{
    struct route *route;

    pthread_mutex_lock(&f->server.lock);
    route = route_of(&f->server, path);
    route->confirmed_index = index;
    route->confirmed_body = body;
    pthread_mutex_unlock(&f->server.lock);
}

/* One that has not seen all of its log yet answers as if there was less. */
static void test_a_new_leader_is_not_believed(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;

    start_client(f, 0, 10000);
    resource = get(f, "/v1/x", CONSUL_JSON, CONSUL_BLOCKS);
    server_set(&f->server, "/v1/x", 200, 10, "{\"v\":1}");
    expect_read(f, resource, 1, CONSUL_FRESH);
    set_confirmed(f, "/v1/x", 11, "{\"v\":3}");
    server_set(&f->server, "/v1/x", 200, 9, "{\"v\":0}");
    expect_read(f, resource, 3, CONSUL_FRESH);
    assert_int_equal(seen_of(f, "/v1/x").gets, 3);
    assert_int_equal(seen_of(f, "/v1/x").asked_consistent_n, 1);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_CHANGED), 2);
}

/* The agent answers them all the same, and its connections are limited. */
static void test_ended_watches_count_until_their_queries_end(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;
    unsigned before;

    start_client(f, 4, 10000);
    resource = get(f, "/v1/x", CONSUL_JSON, CONSUL_BLOCKS);
    server_set(&f->server, "/v1/x", 200, 10, "{\"v\":1}");
    for (unsigned i = 0; i < 8; i++) {
        expect_read(f, resource, 1, CONSUL_WATCHED);
        server_wait(&f->server, "/v1/x", true, i + 1);
        assert_int_equal(stats_of(f).abandoned, i);
        consul_drop_caches(f->client);
    }
    expect_read(f, resource, 1, CONSUL_FRESH);
    assert_int_equal(stats_of(f).watches, 0);
    assert_int_equal(stats_of(f).abandoned, 8);
    before = seen_of(f, "/v1/x").blocking;
    expect_read(f, resource, 1, CONSUL_FRESH);
    assert_int_equal(seen_of(f, "/v1/x").blocking, before);
    pass(f, 320 * SECOND);
    expect_read(f, resource, 1, CONSUL_WATCHED);
    assert_int_equal(stats_of(f).abandoned, 0);
}

static uint64_t modify_index_known(struct consul_resource *resource, const char *key)
{
    bool watched;
    struct consul_snapshot *snapshot = consul_resource_peek(resource, &watched);
    struct consul_kv_entry *entry = snapshot ? consul_kv_find(&snapshot->kv, key, strlen(key)) : NULL;
    uint64_t index = entry ? entry->modify_index : 0;

    consul_snapshot_unref(snapshot);
    return index;
}

static void test_a_new_leader_is_not_believed_about_the_whole(void **state)
{
    static const char part_path[] = "/v1/kv/a?recurse", whole_path[] = "/v1/kv/?recurse";
    static const char entry[] = "[{\"Key\":\"a\",\"ModifyIndex\":10}]";
    struct fixture *f = *state;
    struct consul_resource *part, *whole;

    start_client(f, 0, 10000);
    part = get(f, part_path, CONSUL_KV, CONSUL_BLOCKS);
    whole = get(f, whole_path, CONSUL_KV, CONSUL_BLOCKS);
    server_set(&f->server, part_path, 200, 10, entry);
    assert_int_equal(freshness_of(f, part), CONSUL_FRESH);
    set_confirmed(f, whole_path, 11, "[{\"Key\":\"a\",\"ModifyIndex\":10},{\"Key\":\"b\",\"ModifyIndex\":11}]");
    server_set(&f->server, whole_path, 200, 9, "[]");
    assert_int_equal(freshness_of(f, whole), CONSUL_FRESH);
    assert_int_equal(seen_of(f, whole_path).asked_consistent_n, 1);
    assert_int_equal(modify_index_known(whole, "b"), 11);
    assert_int_equal(modify_index_known(part, "a"), 10);
}

/* What has changed in a part until the whole was asked for, the part still tells; then it is not watched any more. */
static void test_a_part_is_handed_over_to_the_whole(void **state)
{
    static const char part_path[] = "/v1/kv/a?recurse", whole_path[] = "/v1/kv/?recurse";
    struct fixture *f = *state;
    struct consul_resource *part, *whole;

    start_client(f, 8, 10000);
    part = get(f, part_path, CONSUL_KV, CONSUL_BLOCKS);
    whole = get(f, whole_path, CONSUL_KV, CONSUL_BLOCKS);
    assert_int_equal(consul_kv_known(f->client, NULL, "", 1).used, 0);
    server_set(&f->server, part_path, 200, 10,
               "[{\"Key\":\"a/b\",\"ModifyIndex\":5},{\"Key\":\"a/c\",\"ModifyIndex\":6}]");
    assert_int_equal(freshness_of(f, part), CONSUL_WATCHED);
    server_wait(&f->server, part_path, true, 1);
    assert_int_equal(consul_kv_known(f->client, NULL, "", 1).used, 1);
    assert_int_equal(consul_kv_known(f->client, NULL, "a", 1).used, 1);
    assert_int_equal(consul_kv_known(f->client, NULL, "a/", 1).used, 0);
    assert_int_equal(consul_kv_known(f->client, "other", "", 1).used, 0);

    server_hold(&f->server, part_path, true, true); /* its blocking query's answer is late */
    server_set(&f->server, whole_path, 200, 20,
               "[{\"Key\":\"a/b\",\"ModifyIndex\":11},{\"Key\":\"b\",\"ModifyIndex\":20}]");
    assert_int_equal(freshness_of(f, whole), CONSUL_WATCHED);
    assert_int_equal(told_count(f, part_path, CONSUL_CHANGED), 2);
    assert_int_equal(modify_index_known(part, "a/b"), 11);
    assert_int_equal(modify_index_known(part, "a/c"), 0);
    assert_int_equal(modify_index_known(part, "b"), 0);

    /* What it then tells is nothing new, and counts as it always did. */
    server_release(&f->server, part_path, true, 200, 12, "[{\"Key\":\"a/b\",\"ModifyIndex\":11}]");
    server_wait(&f->server, part_path, true, 2);
    assert_int_equal(server_asked_index(&f->server, part_path), 12);
    assert_int_equal(told_count(f, part_path, CONSUL_CHANGED), 2);
    assert_int_equal(told_count(f, part_path, CONSUL_WATCH_ENDED), 0);
    pass(f, 6 * SECOND);
    wait_told(f, part_path, CONSUL_WATCH_ENDED, 1);
    assert_int_equal(stats_of(f).watches, 1);
}

static void test_not_everything_is_watched(void **state)
{
    static const struct {
        enum consul_format format;
        unsigned flags;
        int status;
        uint64_t index;
        const char *body;
        bool watched;
    } cases[] = {
        {CONSUL_JSON, CONSUL_BLOCKS, 200, 10, "[{}]", true},
        {CONSUL_JSON, CONSUL_BLOCKS, 200, 10, "{}", true}, /* e.g. the list of services */
        {CONSUL_JSON, CONSUL_BLOCKS, 200, 10, "[]", false},
        {CONSUL_JSON, CONSUL_BLOCKS, 200, 10, "null", false},
        {CONSUL_JSON, CONSUL_BLOCKS | CONSUL_WATCH_EMPTY, 200, 10, "[]", true},
        {CONSUL_JSON, CONSUL_BLOCKS, 200, 0, "[{}]", false}, /* no index: it can't be watched */
        {CONSUL_JSON, CONSUL_BLOCKS | CONSUL_WATCH_EMPTY, 200, 0, "[]", false},
        {CONSUL_JSON, 0, 200, 10, "[{}]", false},
        {CONSUL_JSON, CONSUL_WATCH_EMPTY, 200, 10, "[{}]", false},
        {CONSUL_KV, CONSUL_BLOCKS, 200, 10, "[{\"Key\":\"a\"}]", true},
        {CONSUL_KV, CONSUL_BLOCKS, 200, 10, "[]", false},
        {CONSUL_KV, CONSUL_BLOCKS, 404, 10, "", false}, /* nothing there is an answer */
        {CONSUL_KV, CONSUL_BLOCKS | CONSUL_WATCH_EMPTY, 404, 10, "", true},
        {CONSUL_KV, 0, 200, 10, "[{\"Key\":\"a\"}]", false},
    };
    struct fixture *f = *state;

    start_client(f, 64, 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct consul_snapshot *snapshot;
        enum consul_freshness freshness;
        struct consul_resource *resource;
        char path[64];

        snprintf(path, sizeof(path), "/v1/kv/%zu?recurse", i);
        server_set(&f->server, path, cases[i].status, cases[i].index, cases[i].body);
        resource = get(f, path, cases[i].format, cases[i].flags);
        for (int twice = 0; twice < 2; twice++) {
            assert_int_equal(read_since(f, resource, consul_now_ns(), &snapshot, &freshness), 0);
            if (freshness != (cases[i].watched ? CONSUL_WATCHED : CONSUL_FRESH))
                fail_msg("case %zu is %d", i, freshness);
            consul_snapshot_unref(snapshot);
        }
        if (cases[i].watched)
            server_wait(&f->server, path, true, 1);
        server_expect(&f->server, path, cases[i].watched ? 1 : 2, cases[i].watched);
    }
}

/* What was there and is no longer loses its watch. */
static void test_watch_ends_when_it_becomes_empty(void **state)
{
    struct fixture *f = *state;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct consul_resource *resource;

    start_client(f, 8, 0);
    server_set(&f->server, "/v1/kv/a?recurse", 200, 10, "[{\"Key\":\"a\",\"ModifyIndex\":5}]");
    resource = get(f, "/v1/kv/a?recurse", CONSUL_KV, CONSUL_BLOCKS);
    assert_int_equal(read_error(f, resource), 0);
    server_wait(&f->server, "/v1/kv/a?recurse", true, 1);
    server_set(&f->server, "/v1/kv/a?recurse", 404, 11, "");
    wait_told(f, "/v1/kv/a?recurse", CONSUL_CHANGED, 2);
    wait_told(f, "/v1/kv/a?recurse", CONSUL_WATCH_ENDED, 1);
    assert_int_equal(stats_of(f).watches, 0);
    assert_int_equal(read_since(f, resource, consul_now_ns(), &snapshot, &freshness), 0);
    assert_int_equal(freshness, CONSUL_FRESH);
    assert_int_equal(snapshot->kv.n, 0);
    consul_snapshot_unref(snapshot);
    server_expect(&f->server, "/v1/kv/a?recurse", 2, 1);
}

/* A blocking query that goes wrong is taken up again; a short break is nobody's business. */
static void test_watch_survives_garbage(void **state)
{
    static const struct {
        int status;
        const char *body;
    } cases[] = {{500, "something is wrong"}, {200, "garbage"}, {200, ""}, {429, "Too many"}, {503, ""}};
    struct fixture *f = *state;

    start_client(f, 8, 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct consul_resource *resource;
        char path[32];

        snprintf(path, sizeof(path), "/v1/%zu", i);
        resource = watch(f, path);
        server_release(&f->server, path, true, cases[i].status, 11, cases[i].body);
        server_wait(&f->server, path, false, 2); /* the attempt to reconnect, at once answered */
        server_wait(&f->server, path, true, 2);
        assert_int_equal(server_asked_index(&f->server, path), 10);
        expect_read(f, resource, 1, CONSUL_WATCHED);
        assert_int_equal(told_count(f, path, CONSUL_CHANGED), 1);
        assert_int_equal(told_count(f, path, CONSUL_WATCH_ENDED), 0);
    }
}

/* A denial is an answer: there is nothing to reconnect to. */
static void test_watch_ends_when_denied(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;

    start_client(f, 8, CONSUL_STALE_FOREVER);
    resource = watch(f, "/v1/x");
    server_set(&f->server, "/v1/x", 403, 11, "Permission denied");
    wait_told(f, "/v1/x", CONSUL_WATCH_ENDED, 1);
    expect_known(resource, 1, false);
    assert_int_equal(consul_resource_error(resource), -EACCES);
    assert_int_equal(read_error(f, resource), -EACCES);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_CHANGED), 1);
}

/* The blocking query was asked before the GET and is answered after it, by a server that lags behind. */
static void test_late_answer_is_dropped(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;
    uint64_t dropped;

    start_client(f, 8, 0);
    resource = watch(f, "/v1/x");
    server_hold(&f->server, "/v1/x", false, true);
    server_set(&f->server, "/v1/x", 200, 20, "{\"v\":3}");
    consul_resource_expire(resource); /* e.g. this program wrote it */
    expect_read(f, resource, 3, CONSUL_WATCHED);
    server_expect(&f->server, "/v1/x", 2, 1);
    dropped = stats_of(f).dropped_answers;
    server_release(&f->server, "/v1/x", true, 200, 15, "{\"v\":2}");
    server_wait(&f->server, "/v1/x", true, 2); /* it goes on watching */
    assert_int_equal(stats_of(f).dropped_answers, dropped + 1);
    expect_known(resource, 3, true);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_CHANGED), 2);
    server_hold(&f->server, "/v1/x", false, false);
    expect_read(f, resource, 3, CONSUL_WATCHED);
}

/* It changed, and no blocking query wakes: it has the same index. */
static void test_ask_again(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource, **watched;
    size_t n;

    start_client(f, 8, 0);
    resource = watch(f, "/v1/x/1");
    watch(f, "/v1/y");
    server_hold(&f->server, "/v1/x/1", false, true);
    server_set(&f->server, "/v1/x/1", 200, 10, "{\"v\":2}");
    watched = consul_watched(f->client, "/v1/x/", &n);
    assert_int_equal(n, 1);
    assert_ptr_equal(watched[0], resource);
    consul_resource_ask_again(watched[0]);
    wait_told(f, "/v1/x/1", CONSUL_CHANGED, 2); /* though nobody reads it */
    expect_read(f, resource, 2, CONSUL_WATCHED);
    server_expect(&f->server, "/v1/x/1", 2, 1);
    consul_resource_unref(watched[0]);
    free(watched);
    server_hold(&f->server, "/v1/x/1", false, false);
}

/* An answer to a request that was sent before the program's own change does not count as fresh. */
static void test_expire_while_asking(void **state)
{
    struct fixture *f = *state;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct consul_resource *resource;
    struct waiter waiter;
    uint64_t since = consul_now_ns();

    start_client(f, 8, 0);
    server_hold(&f->server, "/v1/x", true, false);
    resource = get(f, "/v1/x", CONSUL_JSON, 0);
    waiter_init(f, &waiter);
    assert_int_equal(consul_resource_read(resource, since, &waiter.waiter, &snapshot, &freshness), -EINPROGRESS);
    server_wait(&f->server, "/v1/x", false, 1);
    consul_expire(f->client, "/v1/y"); /* others' changes are no matter */
    consul_expire(f->client, "/v1/x");
    server_release(&f->server, "/v1/x", false, 200, 10, "{\"v\":1}");
    server_wait(&f->server, "/v1/x", false, 2);
    assert_false(is_woken(&waiter));
    server_release(&f->server, "/v1/x", false, 200, 11, "{\"v\":2}");
    assert_int_equal(wait_woken(&waiter), 0);
    assert_int_equal(consul_resource_read(resource, since, &waiter.waiter, &snapshot, &freshness), 0);
    assert_int_equal(value_of(snapshot), 2);
    consul_snapshot_unref(snapshot);
    server_expect(&f->server, "/v1/x", 2, 0);
}

/* Everyone reads their own writes, also when an answer that does not show them is already on its way. */
static void test_own_write_is_shown(void **state)
{
    static const char path[] = "/v1/kv/a/?recurse";
    struct fixture *f = *state;
    struct consul_kv_entry *entry = consul_kv_entry_new("a/b", 3, "mine", 4);
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct consul_resource *resource;
    struct waiter waiter;
    uint64_t since;

    start_client(f, 8, 0);
    server_set(&f->server, path, 200, 10, "[{\"Key\":\"a/a\",\"ModifyIndex\":9}]");
    resource = get(f, path, CONSUL_KV, 0);
    assert_int_equal(read_error(f, resource), 0);

    server_hold(&f->server, path, true, false);
    since = consul_now_ns();
    waiter_init(f, &waiter);
    assert_int_equal(consul_resource_read(resource, since, &waiter.waiter, &snapshot, &freshness), -EINPROGRESS);
    server_wait(&f->server, path, false, 2);
    entry->modify_index = entry->create_index = 12;
    cache_apply_kv(f->client->cache, NULL, "a/b", entry, 0);
    cache_apply_kv(f->client->cache, "other", "a/c", entry, 0); /* another datacenter's */
    cache_apply_kv(f->client->cache, NULL, "b/b", entry, 0);
    cache_apply_kv(f->client->cache, NULL, "a/a", NULL, 9);
    snapshot = consul_resource_peek(resource, &(bool){false});
    assert_int_equal(snapshot->kv.n, 1);
    assert_ptr_equal(snapshot->kv.entries[0], entry);
    consul_snapshot_unref(snapshot);

    server_release(&f->server, path, false, 200, 11, "[{\"Key\":\"a/a\",\"ModifyIndex\":9}]");
    assert_int_equal(wait_woken(&waiter), 0);
    assert_int_equal(consul_resource_read(resource, since, &waiter.waiter, &snapshot, &freshness), 0);
    assert_int_equal(snapshot->kv.n, 1);
    assert_ptr_equal(snapshot->kv.entries[0], entry);
    consul_snapshot_unref(snapshot);

    /* What was asked for afterwards counts as it is: others have changed it. */
    server_hold(&f->server, path, false, false);
    server_set(&f->server, path, 200, 13, "[{\"Key\":\"a/a\",\"ModifyIndex\":13}]");
    assert_int_equal(read_since(f, resource, consul_now_ns(), &snapshot, &freshness), 0);
    assert_int_equal(snapshot->kv.n, 1);
    assert_string_equal(consul_kv_key(snapshot->kv.entries[0]), "a/a");
    consul_snapshot_unref(snapshot);
    consul_kv_entry_unref(entry);
}

/* ---- any server may tell of changes --------------------------------------------------------------------------------
 */

static void say_of_leader(struct fixture *f, const char *path, unsigned last_contact_ms, bool none)
{
    pthread_mutex_lock(&f->server.lock);
    route_of(&f->server, path)->last_contact_ms = last_contact_ms;
    route_of(&f->server, path)->no_leader = none;
    pthread_mutex_unlock(&f->server.lock);
}

static void test_watches_may_be_stale(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;

    start_client(f, 8, 10000);
    resource = watch(f, "/v1/x");
    assert_true(seen_of(f, "/v1/x").asked_stale);
    assert_int_equal(seen_of(f, "/v1/x").asked_stale_n, 1); /* what a reader waits for is the leader's */
    server_set(&f->server, "/v1/x", 200, 11, "{\"v\":2}");
    wait_told(f, "/v1/x", CONSUL_CHANGED, 2);
    expect_read(f, resource, 2, CONSUL_WATCHED);

    /* Its answer is not fresh for who began before; nor after, once the watch is over. */
    consul_resource_expire(resource);
    server_hold(&f->server, "/v1/x", true, false);
    server_set(&f->server, "/v1/x", 200, 12, "{\"v\":3}");
    wait_told(f, "/v1/x", CONSUL_CHANGED, 3);
    server_hold(&f->server, "/v1/x", false, false);
    expect_read(f, resource, 3, CONSUL_WATCHED);
    assert_int_equal(seen_of(f, "/v1/x").gets, 2);
}

static void test_a_strict_mount_asks_the_leader(void **state)
{
    struct fixture *f = *state;

    start_client(f, 8, 0);
    watch(f, "/v1/x");
    assert_false(seen_of(f, "/v1/x").asked_stale);
}

/* An answer of a server that is not to be believed is not taken; the leader is asked, and for a while only he. */
static void distrusts(struct fixture *f, unsigned last_contact_ms, bool no_leader, uint64_t index)
{
    struct consul_resource *resource;

    start_client(f, 8, 10000);
    resource = watch(f, "/v1/x");
    server_hold(&f->server, "/v1/x", true, true);
    say_of_leader(f, "/v1/x", last_contact_ms, no_leader);
    server_release(&f->server, "/v1/x", true, 200, index, "{\"v\":2}");
    wait_reconnecting(f, "/v1/x");
    expect_known(resource, 1, true);
    say_of_leader(f, "/v1/x", 0, false);
    server_release(&f->server, "/v1/x", false, 200, 12, "{\"v\":3}");
    wait_told(f, "/v1/x", CONSUL_CHANGED, 2);
    expect_known(resource, 3, true);
    server_wait(&f->server, "/v1/x", true, 2);
    assert_false(seen_of(f, "/v1/x").asked_stale);
    assert_int_equal(server_asked_index(&f->server, "/v1/x"), 12);
    assert_int_equal(told_count(f, "/v1/x", CONSUL_WATCH_ENDED), 0);

    pass(f, 61 * SECOND);
    server_release(&f->server, "/v1/x", true, 200, 13, "{\"v\":4}");
    server_wait(&f->server, "/v1/x", true, 3);
    assert_true(seen_of(f, "/v1/x").asked_stale);
    expect_known(resource, 4, true);
}

static void test_a_server_that_lost_its_leader_is_not_believed(void **state) { distrusts(*state, 5001, false, 11); }

static void test_a_server_that_knows_no_leader_is_not_believed(void **state) { distrusts(*state, 0, true, 11); }

static void test_a_server_that_is_behind_is_not_believed(void **state) { distrusts(*state, 0, false, 9); }

/* The key was there, which no answer had told yet, nor will: the snapshot has it from now on. */
static void test_own_write_to_what_somebody_else_created(void **state)
{
    static const char path[] = "/v1/kv/a/?recurse";
    struct fixture *f = *state;
    struct consul_kv_entry *entry = consul_kv_entry_new("a/b", 3, "mine", 4);
    struct consul_resource *resource;

    start_client(f, 8, 0);
    server_set(&f->server, path, 200, 10, "[{\"Key\":\"a/a\",\"ModifyIndex\":9}]");
    resource = get(f, path, CONSUL_KV, 0);
    assert_int_equal(read_error(f, resource), 0);
    assert_int_equal(told_count(f, path, CONSUL_CHANGED), 1);
    entry->create_index = 11;
    entry->modify_index = 12;
    cache_apply_kv(f->client->cache, NULL, "a/b", entry, 0);
    assert_int_equal(told_count(f, path, CONSUL_CHANGED), 2);
    consul_kv_entry_unref(entry);

    /* Once, and not of what we created, or removed, ourselves. */
    entry = consul_kv_entry_new("a/b", 3, "again", 5);
    entry->create_index = 11;
    entry->modify_index = 13;
    cache_apply_kv(f->client->cache, NULL, "a/b", entry, 0);
    consul_kv_entry_unref(entry);
    entry = consul_kv_entry_new("a/c", 3, "mine", 4);
    entry->create_index = entry->modify_index = 14;
    cache_apply_kv(f->client->cache, NULL, "a/c", entry, 0);
    cache_apply_kv(f->client->cache, NULL, "a/a", NULL, 9);
    assert_int_equal(told_count(f, path, CONSUL_CHANGED), 2);
    consul_kv_entry_unref(entry);
}

/* Read your own writes: another server need not have heard of them yet, also when it is asked afterwards. */
static void test_own_write_is_shown_whoever_answers(void **state)
{
    static const char path[] = "/v1/kv/a/?recurse", list[] = "/v1/kv/a/?keys";
    struct fixture *f = *state;
    struct consul_kv_entry *entry = consul_kv_entry_new("a/b", 3, "mine", 4);
    struct consul_snapshot *snapshot;
    struct consul_resource *resource, *names;

    start_client(f, 8, 10000);
    server_set(&f->server, path, 200, 10, "[{\"Key\":\"a/a\",\"ModifyIndex\":9},{\"Key\":\"a/z\",\"ModifyIndex\":9}]");
    resource = get(f, path, CONSUL_KV, CONSUL_BLOCKS);
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
    server_set(&f->server, list, 200, 10, "[\"a/a\",\"a/z\"]");
    names = get(f, list, CONSUL_JSON, CONSUL_BLOCKS);
    assert_int_equal(freshness_of(f, names), CONSUL_WATCHED);
    server_wait(&f->server, path, true, 1);
    server_wait(&f->server, list, true, 1);
    server_hold(&f->server, path, false, true);
    server_hold(&f->server, list, false, true);
    entry->modify_index = entry->create_index = 15;
    cache_apply_kv(f->client->cache, NULL, "a/b", entry, 0);
    cache_apply_kv(f->client->cache, NULL, "a/z", NULL, 9);

    /* Twice something older than our writes, which were done before the second of these was asked for. */
    for (uint64_t index = 11; index < 13; index++) {
        server_release(&f->server, path, true, 200, index,
                       index == 11 ? "[{\"Key\":\"a/a\",\"ModifyIndex\":11},{\"Key\":\"a/z\",\"ModifyIndex\":9}]"
                                   : "[{\"Key\":\"a/a\",\"ModifyIndex\":12},{\"Key\":\"a/z\",\"ModifyIndex\":9}]");
        server_wait(&f->server, path, true, (unsigned)index - 9);
        assert_true(seen_of(f, path).asked_stale);
        snapshot = consul_resource_peek(resource, &(bool){false});
        assert_int_equal(snapshot->kv.n, 2);
        assert_int_equal(snapshot->kv.entries[0]->modify_index, index);
        assert_ptr_equal(snapshot->kv.entries[1], entry);
        consul_snapshot_unref(snapshot);
    }
    /* The names were asked for before and after, and both times told from before: who reads them asks the leader. */
    server_release(&f->server, list, true, 200, 11, "[\"a/a\",\"a/old\",\"a/z\"]");
    server_wait(&f->server, list, true, 2);
    server_release(&f->server, list, true, 200, 12, "[\"a/a\",\"a/z\"]");
    server_wait(&f->server, list, true, 3);
    server_set(&f->server, list, 200, 16, "[\"a/a\",\"a/b\"]");
    assert_int_equal(freshness_of(f, names), CONSUL_WATCHED);
    server_expect(&f->server, list, 2, 3);
    server_release(&f->server, list, true, 200, 14, "[\"a/a\",\"a/z\"]"); /* and after that, too */
    server_wait(&f->server, list, true, 4);
    assert_int_equal(server_asked_index(&f->server, list), 16);
    snapshot = consul_resource_peek(names, &(bool){false});
    assert_string_equal(json_string_value(json_array_get(snapshot->json, 1)), "a/b");
    consul_snapshot_unref(snapshot);

    /* What it shows in the end is what it is: others removed ours, and made again what we removed. */
    server_release(&f->server, path, true, 200, 20, "[{\"Key\":\"a/z\",\"ModifyIndex\":18}]");
    server_wait(&f->server, path, true, 4);
    snapshot = consul_resource_peek(resource, &(bool){false});
    assert_int_equal(snapshot->kv.n, 1);
    assert_int_equal(snapshot->kv.entries[0]->modify_index, 18);
    consul_snapshot_unref(snapshot);
    consul_kv_entry_unref(entry);
}

/* A write that no answer shows for long: the leader is asked. */
static void test_an_own_write_that_is_not_shown(void **state)
{
    static const char path[] = "/v1/kv/a/?recurse";
    struct fixture *f = *state;
    struct consul_kv_entry *entry = consul_kv_entry_new("a/b", 3, "mine", 4);
    struct consul_resource *resource;

    start_client(f, 8, 10000);
    server_set(&f->server, path, 200, 10, "[{\"Key\":\"a/a\",\"ModifyIndex\":9}]");
    resource = get(f, path, CONSUL_KV, CONSUL_BLOCKS);
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
    server_wait(&f->server, path, true, 1);
    entry->modify_index = entry->create_index = 15;
    cache_apply_kv(f->client->cache, NULL, "a/b", entry, 0);
    pass(f, 11 * SECOND);
    server_set(&f->server, path, 200, 11, "[{\"Key\":\"a/a\",\"ModifyIndex\":11}]");
    server_wait(&f->server, path, true, 2);
    assert_false(seen_of(f, path).asked_stale);
    /* By him it is not there. */
    server_set(&f->server, path, 200, 12, "[{\"Key\":\"a/a\",\"ModifyIndex\":12}]");
    server_wait(&f->server, path, true, 3);
    assert_true(seen_of(f, path).asked_stale);
    consul_kv_entry_unref(entry);
}

/* Who has got a lock waits for what its former owner did; not for long if that does not come from where it is asked. */
static void test_catching_up_asks_the_leader_in_the_end(void **state)
{
    static const char path[] = "/v1/kv/a/?recurse";
    struct fixture *f = *state;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct consul_resource *resource;
    struct waiter waiter;
    uint64_t since;

    start_client(f, 8, 10000);
    server_set(&f->server, path, 200, 10, "[{\"Key\":\"a/a\",\"ModifyIndex\":9}]");
    resource = get(f, path, CONSUL_KV, CONSUL_BLOCKS);
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
    server_wait(&f->server, path, true, 1);
    server_hold(&f->server, path, false, true);
    server_set(&f->server, path, 200, 15, "[{\"Key\":\"a/a\",\"ModifyIndex\":15}]");
    cache_kv_catch_up(f->client->cache, NULL, "a/a", 15);
    since = consul_now_ns();
    waiter_init(f, &waiter);
    assert_int_equal(consul_resource_read(resource, since, &waiter.waiter, &snapshot, &freshness), -EINPROGRESS);
    server_expect(&f->server, path, 1, 1);
    pass(f, SECOND / 10);
    assert_int_equal(wait_woken(&waiter), 0);
    assert_int_equal(consul_resource_read(resource, since, &waiter.waiter, &snapshot, &freshness), 0);
    assert_int_equal(snapshot->kv.entries[0]->modify_index, 15);
    consul_snapshot_unref(snapshot);
    server_expect(&f->server, path, 2, 1);
}

/* ---- watches that cost more than they bring -----------------------------------------------------------------------
 */

static const char hot[] = "/v1/kv/hot/?recurse";

/* A prefix of half a mebibyte; one small key of it is at this index. */
static void set_hot(struct fixture *f, uint64_t index)
{
    const int size = 400 * 1024;
    char *value = malloc((size_t)size + 1), *body;

    memset(value, 'A', (size_t)size);
    value[size] = '\0';
    assert_true(asprintf(&body,
                         "[{\"Key\":\"hot/big\",\"CreateIndex\":5,\"ModifyIndex\":5,\"Value\":\"%s\"},"
                         "{\"Key\":\"hot/key\",\"CreateIndex\":5,\"ModifyIndex\":%llu,\"Value\":null}]",
                         value, (unsigned long long)index) > 0);
    server_set(&f->server, hot, 200, index, body);
    free(body);
    free(value);
}

/* Changes it until its watch is given up; the index that it is at then. */
static uint64_t change_until_demoted(struct fixture *f, struct consul_resource *resource, uint64_t index,
                                     size_t demotions)
{
    for (size_t n = 0; n < 10; n++) {
        size_t before = told_count(f, hot, CONSUL_CHANGED);

        set_hot(f, ++index);
        for (int i = 0; i < PATIENCE_S * 1000 && told_count(f, hot, CONSUL_CHANGED) == before; i++) {
            pass(f, SECOND / 100); /* a large answer is not fetched again at once */
            poll(NULL, 0, 1);
        }
        if (told_count(f, hot, CONSUL_WATCH_ENDED) == demotions)
            return index;
        assert_false(consul_resource_is_demoted(resource));
    }
    fail_msg("it is watched as ever");
    return 0;
}

static void test_a_watch_that_brings_too_much_is_demoted(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;
    uint64_t index;
    struct route before;

    start_client(f, 8, 0);
    set_hot(f, 10);
    assert_int_equal(consul_resource_get(f->client, hot, CONSUL_KV, CONSUL_BLOCKS, 1 << 20, &resource), 0);
    f->resources[f->resource_n++] = resource;
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
    assert_int_equal(stats_of(f).watches_prefixes, 1);
    index = change_until_demoted(f, resource, 10, 1);

    /* It is known to be so, asks for nothing by itself, and is still read as it is. */
    assert_true(consul_resource_is_demoted(resource));
    assert_int_equal(stats_of(f).demotions, 1);
    assert_int_equal(stats_of(f).demoted, 1);
    assert_int_equal(stats_of(f).watches, 0);
    assert_int_equal(told_count(f, hot, CONSUL_WATCH_ENDED), 1);
    before = *route_of(&f->server, hot);
    set_hot(f, ++index);
    assert_int_equal(freshness_of(f, resource), CONSUL_FRESH);
    assert_int_equal(freshness_of(f, resource), CONSUL_FRESH);
    server_expect(&f->server, hot, before.gets + 2, before.blocking);

    /* It gets another chance, and a longer pause when it is no better. */
    pass(f, 61 * SECOND);
    assert_false(consul_resource_is_demoted(resource));
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
    assert_int_equal(stats_of(f).promotions, 1);
    change_until_demoted(f, resource, index, 2);
    pass(f, 61 * SECOND);
    assert_true(consul_resource_is_demoted(resource));
    pass(f, 60 * SECOND);
    assert_false(consul_resource_is_demoted(resource));
}

/* The names in a directory are a short answer that may be much work: each change costs that, too. */
static void test_names_that_take_the_server_long_are_demoted(void **state)
{
    static const char path[] = "/v1/kv/?keys&separator=%2F";
    struct fixture *f = *state;
    struct consul_resource *quick, *names;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct waiter waiter;
    size_t changes;

    start_client(f, 8, 0);
    quick = watch(f, "/v1/x"); /* how long any answer takes */
    server_set(&f->server, path, 200, 10, "[\"a/\"]");
    server_hold(&f->server, path, true, false);
    names = get(f, path, CONSUL_JSON, CONSUL_BLOCKS);
    waiter_init(f, &waiter);
    assert_int_equal(consul_resource_read(names, consul_now_ns(), &waiter.waiter, &snapshot, &freshness), -EINPROGRESS);
    server_wait(&f->server, path, false, 1);
    poll(NULL, 0, 50);
    server_release(&f->server, path, false, 200, 10, "[\"a/\"]");
    assert_int_equal(wait_woken(&waiter), 0);
    assert_in_range(consul_resource_weight(names), 1000000, 100000000); /* of 100 ms, twice 50 */
    assert_in_range(consul_resource_weight(quick), 1, 1000);
    for (changes = 0; changes < 5 && !consul_resource_is_demoted(names); changes++) {
        char body[32];

        pass(f, SECOND / 100);
        server_wait(&f->server, path, true, (unsigned)changes + 1);
        snprintf(body, sizeof(body), "[\"a/\",\"b%zu\"]", changes);
        server_set(&f->server, path, 200, 11 + changes, body);
        wait_told(f, path, CONSUL_CHANGED, changes + 2);
    }
    assert_in_range(changes, 1, 3);
    wait_told(f, path, CONSUL_WATCH_ENDED, 1);
    assert_int_equal(stats_of(f).demotions, 1);
}

/* A large answer is decoded by another thread: at whatever point of that the client ends, who waits is woken once. */
static void test_stop_while_a_large_answer_is_decoded(void **state)
{
    struct fixture *f = *state;

    set_hot(f, 10);
    for (int i = 0; i < 20; i++) {
        struct consul_resource *resource;
        struct consul_snapshot *snapshot;
        enum consul_freshness freshness;
        struct waiter waiter;
        int r;

        start_client(f, 8, 0);
        assert_int_equal(consul_resource_get(f->client, hot, CONSUL_KV, CONSUL_BLOCKS, 1 << 20, &resource), 0);
        waiter_init(f, &waiter);
        r = consul_resource_read(resource, consul_now_ns(), &waiter.waiter, &snapshot, &freshness);
        assert_int_equal(r, -EINPROGRESS);
        server_wait(&f->server, hot, false, (unsigned)i + 1);
        poll(NULL, 0, i / 2);
        consul_stop(f->client);
        r = wait_woken(&waiter);
        if (r != 0)
            assert_int_equal(r, -ECANCELED);
        consul_resource_unref(resource);
        consul_free(f->client);
        f->client = NULL;
    }
}

/* Who drops the caches begins anew. */
static void test_dropping_forgets_a_demotion(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;

    start_client(f, 8, 0);
    set_hot(f, 10);
    assert_int_equal(consul_resource_get(f->client, hot, CONSUL_KV, CONSUL_BLOCKS, 1 << 20, &resource), 0);
    f->resources[f->resource_n++] = resource;
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
    change_until_demoted(f, resource, 10, 1);
    consul_drop_caches(f->client);
    assert_int_equal(freshness_of(f, resource), CONSUL_WATCHED);
}

/*
 * Ten minutes, or a hundred thousand times as long as the server took, which is no longer than the whole: on a busy
 * machine that may be more.
 */
static uint64_t remembered_ns(uint64_t began_ns)
{
    uint64_t share_ns = (consul_now_ns() - began_ns) * 100000;

    return share_ns > 600 * SECOND ? share_ns : 600 * SECOND;
}

/* What can be read in parts is not tried again soon. */
static void test_too_big_in_parts(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;
    uint64_t began, remembered;
    char body[512];

    memset(body, 'x', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';
    start_client(f, 8, 0);
    server_set(&f->server, "/v1/x", 200, 10, body);
    resource = get(f, "/v1/x", CONSUL_TEXT, CONSUL_IN_PARTS);
    began = consul_now_ns();
    assert_int_equal(read_error(f, resource), -EFBIG);
    remembered = remembered_ns(began);
    assert_int_equal(stats_of(f).too_large, 1);
    pass(f, 595 * SECOND);
    assert_int_equal(read_error(f, resource), -EFBIG);
    server_expect(&f->server, "/v1/x", 1, 0);
    pass(f, remembered - 590 * SECOND);
    assert_int_equal(stats_of(f).too_large, 0);
    assert_int_equal(read_error(f, resource), -EFBIG);
    server_expect(&f->server, "/v1/x", 2, 0);
}

static void wait_for_no_resources(struct fixture *f)
{
    for (struct timespec until = patience(), now = {0}; stats_of(f).resources > 0 && now.tv_sec < until.tv_sec;
         clock_gettime(CLOCK_REALTIME, &now))
        sched_yield();
    assert_int_equal(stats_of(f).resources, 0);
}

#define TOO_MUCH 40000

static bool too_large(struct fixture *f, const char *prefix)
{
    return consul_kv_known(f->client, NULL, prefix, TOO_MUCH).too_large;
}

/* Of an answer that was too large is known what its keys begin with, as far as it came; also when nobody holds it. */
static void test_too_big_is_known_by_its_keys(void **state)
{
    const uint64_t began = consul_now_ns();
    struct fixture *f = *state;
    struct consul_resource *resource;
    struct consul_buf body;
    uint64_t asked, remembered;

    consul_buf_init(&body, 100000);
    for (int n = 0; n < 1000; n++) /* in more than one piece */
        assert_int_equal(consul_buf_printf(&body, "%s{\"Key\":\"big/su%c/%d\",\"Value\":\"YWFhYWFhYWFhYWFhYWFh\"}",
                                           n ? "," : "[", "bmn"[n % 3], n),
                         0);
    assert_int_equal(consul_buf_puts(&body, "]"), 0);
    start_client(f, 8, 0);
    server_set(&f->server, "/v1/kv/big?recurse", 200, 10, body.data);
    consul_buf_free(&body);
    assert_int_equal(
        consul_resource_get(f->client, "/v1/kv/big?recurse", CONSUL_KV, CONSUL_IN_PARTS, TOO_MUCH, &resource), 0);
    asked = consul_now_ns();
    assert_int_equal(read_error(f, resource), -EFBIG);
    remembered = remembered_ns(asked);
    consul_resource_unref(resource);
    assert_true(too_large(f, "") && too_large(f, "big") && too_large(f, "big/") && too_large(f, "big/su"));
    assert_false(too_large(f, "big/sub") || too_large(f, "bigger") || too_large(f, "c"));
    assert_true(consul_kv_known(f->client, NULL, "big/", TOO_MUCH).there_ns >= began);
    assert_int_equal(consul_kv_known(f->client, NULL, "big/sub", TOO_MUCH).there_ns, 0);
    assert_false(consul_kv_known(f->client, NULL, "big", TOO_MUCH + 1).too_large);
    assert_int_equal(consul_kv_known(f->client, NULL, "big", TOO_MUCH).used, 0);
    pass(f, 300 * SECOND);
    assert_true(too_large(f, "big/"));
    pass(f, remembered - 200 * SECOND);
    assert_false(too_large(f, "big/"));
    wait_for_no_resources(f);
}

/* It is asked the less often the longer the server needed to make it. */
static void test_too_big_that_took_long(void **state)
{
    static const char path[] = "/v1/kv/?recurse";
    struct fixture *f = *state;
    struct consul_resource *resource;
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness;
    struct waiter waiter;
    char body[512];

    memset(body, 'x', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';
    start_client(f, 8, 0);
    server_set(&f->server, path, 200, 10, body);
    server_hold(&f->server, path, true, false);
    resource = get(f, path, CONSUL_KV, CONSUL_IN_PARTS);
    waiter_init(f, &waiter);
    assert_int_equal(consul_resource_read(resource, consul_now_ns(), &waiter.waiter, &snapshot, &freshness),
                     -EINPROGRESS);
    server_wait(&f->server, path, false, 1);
    poll(NULL, 0, 50);
    server_release(&f->server, path, false, 200, 10, body);
    assert_int_equal(wait_woken(&waiter), 0);
    assert_int_equal(stats_of(f).too_large, 1);
    pass(f, 4900 * SECOND);
    assert_int_equal(stats_of(f).too_large, 1);
    assert_int_equal(read_error(f, resource), -EFBIG);
    server_expect(&f->server, path, 1, 0);
}

static void expect_witness(struct fixture *f, const char *prefix, struct consul_resource *expected)
{
    struct consul_resource *witness = consul_kv_witness(f->client, NULL, prefix);

    assert_ptr_equal(witness, expected);
    consul_resource_unref(witness);
}

#define W "{\"Key\":\"d/w\",\"Value\":\"YWFhYWFhYWFhYWFhYWFhYWFhYQ==\"}"

/* Of the keys below a prefix the one is asked for that costs nothing, or least. */
static void test_witness(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *whole, *one, *none, *watched;

    start_client(f, 1, 0);
    server_set(&f->server, "/v1/kv/d/w?recurse", 200, 10, "[" W "]");
    server_set(&f->server, "/v1/kv/d/?recurse", 200, 10, "[{\"Key\":\"d/a\"}," W "]");
    server_set(&f->server, "/v1/kv/d/a", 200, 10, "[{\"Key\":\"d/a\"}]");
    server_set(&f->server, "/v1/kv/d/none?recurse", 404, 10, "");
    expect_witness(f, "d/", NULL);
    none = get(f, "/v1/kv/d/none?recurse", CONSUL_KV, CONSUL_BLOCKS);
    (void)freshness_of(f, none);
    expect_witness(f, "d/", NULL);
    watched = get(f, "/v1/kv/d/w?recurse", CONSUL_KV, CONSUL_BLOCKS);
    assert_int_equal(freshness_of(f, watched), CONSUL_WATCHED);
    whole = get(f, "/v1/kv/d/?recurse", CONSUL_KV, CONSUL_BLOCKS);
    (void)freshness_of(f, whole);
    one = get(f, "/v1/kv/d/a", CONSUL_KV, CONSUL_BLOCKS);
    (void)freshness_of(f, one);
    expect_witness(f, "d/", watched);
    expect_witness(f, "d/a", one);
    expect_witness(f, "d/a/", NULL);
    expect_witness(f, "", watched);
    consul_drop_caches(f->client);
    expect_witness(f, "d/", NULL);
    (void)freshness_of(f, one);
    (void)freshness_of(f, whole);
    expect_witness(f, "d/", one);
}

/* ---- watches are few ----------------------------------------------------------------------------------------------
 */

static void test_watches_are_limited(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *a, *b, *c;

    start_client(f, 2, 0);
    a = watch(f, "/v1/a");
    b = watch(f, "/v1/b");
    server_set(&f->server, "/v1/c", 200, 10, "{\"v\":1}");
    c = get(f, "/v1/c", CONSUL_JSON, CONSUL_BLOCKS);
    expect_read(f, c, 1, CONSUL_FRESH);
    expect_read(f, c, 1, CONSUL_FRESH); /* all are hot: it is asked for each time */
    server_expect(&f->server, "/v1/c", 2, 0);
    assert_int_equal(stats_of(f).watches, 2);

    /* The one that was not read for longest gives its watch up, and that is told. */
    pass(f, 6 * SECOND);
    expect_read(f, a, 1, CONSUL_WATCHED);
    expect_read(f, c, 1, CONSUL_WATCHED);
    server_wait(&f->server, "/v1/c", true, 1);
    wait_told(f, "/v1/b", CONSUL_WATCH_ENDED, 1);
    server_wait_gone(&f->server, "/v1/b"); /* its connection is free */
    assert_int_equal(told_count(f, "/v1/a", CONSUL_WATCH_ENDED), 0);
    assert_int_equal(stats_of(f).watches, 2);
    assert_int_equal(stats_of(f).watches_ended, 1);
    assert_int_equal(stats_of(f).evictions, 1);
    expect_known(b, 1, false);

    server_set(&f->server, "/v1/b", 200, 11, "{\"v\":2}");
    expect_read(f, b, 2, CONSUL_FRESH);
    server_expect(&f->server, "/v1/a", 1, 1);
    server_expect(&f->server, "/v1/b", 2, 1);
    server_expect(&f->server, "/v1/c", 3, 1);
}

static void test_what_is_idle_goes(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;
    bool watched;

    start_client(f, 8, 0);
    watch(f, "/v1/x");
    consul_resource_unref(f->resources[--f->resource_n]);
    pass(f, 100 * SECOND); /* a watch keeps it */
    pass(f, 601 * SECOND); /* but not one that nobody wants */
    wait_told(f, "/v1/x", CONSUL_WATCH_ENDED, 1);
    server_wait_gone(&f->server, "/v1/x");
    assert_int_equal(stats_of(f).idle_ended, 1);
    pass(f, 6 * SECOND);
    wait_for_no_resources(f);
    assert_int_equal(stats_of(f).snapshot_bytes, 0);
    resource = get(f, "/v1/x", CONSUL_JSON, 0);
    assert_null(consul_resource_peek(resource, &watched));
}

static void test_drop_caches(void **state)
{
    enum { MANY = 70 }; /* more than are told in one go */
    struct fixture *f = *state;
    struct consul_resource *unwatched;
    char path[32];
    bool watched;

    start_client(f, 96, 0);
    for (int i = 0; i < MANY; i++) {
        snprintf(path, sizeof(path), "/v1/%d", i);
        watch(f, path);
    }
    server_set(&f->server, "/v1/unwatched", 200, 10, "{\"v\":1}");
    unwatched = get(f, "/v1/unwatched", CONSUL_JSON, 0);
    expect_read(f, unwatched, 1, CONSUL_FRESH);
    assert_int_equal(stats_of(f).watches, MANY);

    consul_drop_caches(f->client);
    assert_int_equal(stats_of(f).watches, 0);
    assert_int_equal(stats_of(f).snapshot_bytes, 0);
    for (int i = 0; i < MANY; i++) {
        snprintf(path, sizeof(path), "/v1/%d", i);
        assert_int_equal(told_count(f, path, CONSUL_WATCH_ENDED), 1);
        assert_null(consul_resource_peek(f->resources[i], &watched));
        assert_false(watched);
        server_wait_gone(&f->server, path);
    }
    assert_null(consul_resource_peek(unwatched, &watched));
    assert_int_equal(told_count(f, "/v1/unwatched", CONSUL_WATCH_ENDED), 0);

    /* It begins again from nothing. */
    server_set(&f->server, "/v1/0", 200, 11, "{\"v\":2}");
    expect_read(f, f->resources[0], 2, CONSUL_WATCHED);
    server_wait(&f->server, "/v1/0", true, 2);
    server_expect(&f->server, "/v1/0", 2, 2);
    consul_drop_caches(f->client);
    assert_int_equal(told_count(f, "/v1/0", CONSUL_WATCH_ENDED), 2);
    assert_int_equal(told_count(f, "/v1/1", CONSUL_WATCH_ENDED), 1);
}

static void test_what_is_retired_is_let_go_with_its_last_holder(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *retired, *kept;

    start_client(f, 0, 0);
    server_set(&f->server, "/v1/retired", 200, 10, "{\"v\":1}");
    server_set(&f->server, "/v1/kept", 200, 10, "{\"v\":1}");
    retired = get(f, "/v1/retired", CONSUL_JSON, 0);
    kept = get(f, "/v1/kept", CONSUL_JSON, 0);
    expect_read(f, retired, 1, CONSUL_FRESH);
    expect_read(f, kept, 1, CONSUL_FRESH);
    assert_int_equal(stats_of(f).snapshot_bytes, 2 * strlen("{\"v\":1}"));
    consul_resource_retire(retired);
    assert_int_equal(stats_of(f).snapshot_bytes, 2 * strlen("{\"v\":1}"));
    while (f->resource_n > 0)
        consul_resource_unref(f->resources[--f->resource_n]);
    assert_int_equal(stats_of(f).snapshot_bytes, strlen("{\"v\":1}"));
}

/* ---- Consul goes away ---------------------------------------------------------------------------------------------
 */

static void test_stale(void **state)
{
    static const struct {
        uint64_t stale_ms, away_ns;
        bool served;
    } cases[] = {
        {0, 2 * SECOND, false},
        {CONSUL_STALE_FOREVER, 2 * SECOND, true},
        {CONSUL_STALE_FOREVER, 500 * SECOND, true}, /* a watch that nobody asked for in 600 s ends */
        {60000, 2 * SECOND, true},
        {60000, 61 * SECOND, false},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct consul_resource *resource, *other;
        struct consul_snapshot *snapshot;
        enum consul_freshness freshness;
        int r;

        start_client(f, 8, cases[i].stale_ms);
        routes_clear(&f->server);
        resource = watch(f, "/v1/x");
        server_set(&f->server, "/v1/other", 200, 10, "{\"v\":7}");
        other = get(f, "/v1/other", CONSUL_JSON, 0);
        expect_read(f, other, 7, CONSUL_FRESH);

        server_stop(&f->server);
        pass_until_told(f, "/v1/x", CONSUL_WATCH_ENDED, 1); /* before anybody relies on it any longer */
        pass(f, cases[i].away_ns);
        for (int twice = 0; twice < 2; twice++) {
            r = read_since(f, resource, consul_now_ns(), &snapshot, &freshness);
            assert_int_equal(r, cases[i].served ? 0 : -ECONNREFUSED);
            if (r == 0) {
                assert_int_equal(value_of(snapshot), 1);
                assert_int_equal(freshness, CONSUL_STALE);
                consul_snapshot_unref(snapshot);
            }
            assert_int_equal(read_error(f, other), cases[i].served ? 0 : -ECONNREFUSED);
        }
        expect_known(resource, 1, false);
        assert_true(stats_of(f).disconnected_since_ns > 0);
        assert_int_equal(stats_of(f).stale_served > 0, cases[i].served);

        /* It comes back, with another value: nobody has to ask. */
        server_start(&f->server);
        server_set(&f->server, "/v1/x", 200, 11, "{\"v\":2}");
        pass_until_told(f, "/v1/x", CONSUL_CHANGED, 2); /* the back-off */
        expect_read(f, resource, 2, CONSUL_WATCHED);
        expect_read(f, other, 7, CONSUL_FRESH);
        assert_int_equal(stats_of(f).disconnected_since_ns, 0);
        pthread_mutex_lock(&f->lock);
        assert_non_null(strstr(f->log, "Consul does not answer"));
        assert_non_null(strstr(f->log, "Consul answers again"));
        f->log[0] = '\0';
        pthread_mutex_unlock(&f->lock);

        while (f->resource_n > 0)
            consul_resource_unref(f->resources[--f->resource_n]);
        consul_free(f->client);
        f->client = NULL;
        f->told_n = 0;
    }
}

/* What this program knows to be out of date is not served, whatever stale= says. */
static void test_stale_is_never_behind_an_own_change(void **state)
{
    struct fixture *f = *state;
    struct consul_resource *resource;

    start_client(f, 8, CONSUL_STALE_FOREVER);
    server_set(&f->server, "/v1/x", 200, 10, "{\"v\":1}");
    resource = get(f, "/v1/x", CONSUL_JSON, 0);
    expect_read(f, resource, 1, CONSUL_FRESH);
    server_stop(&f->server);
    expect_read(f, resource, 1, CONSUL_STALE);
    consul_resource_expire(resource);
    assert_int_equal(read_error(f, resource), -ECONNREFUSED);
    server_start(&f->server);
    server_set(&f->server, "/v1/x", 200, 11, "{\"v\":2}");
    expect_read(f, resource, 2, CONSUL_FRESH);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_connections),
        CASE(test_one_get_for_all),
        CASE(test_deadline),
        CASE(test_stop_wakes_all),
        CASE(test_failure_keeps_the_snapshot),
        CASE(test_failure_without_snapshot),
        CASE(test_too_big_is_not_asked_again_at_once),
        CASE(test_watch),
        CASE(test_the_first_query_of_a_watch_waits_a_moment),
        CASE(test_index_goes_backwards),
        CASE(test_index_of_any_server_goes_backwards),
        CASE(test_a_new_leader_is_not_believed),
        CASE(test_a_new_leader_is_not_believed_about_the_whole),
        CASE(test_a_part_is_handed_over_to_the_whole),
        CASE(test_ended_watches_count_until_their_queries_end),
        CASE(test_not_everything_is_watched),
        CASE(test_watch_ends_when_it_becomes_empty),
        CASE(test_watch_survives_garbage),
        CASE(test_watch_ends_when_denied),
        CASE(test_late_answer_is_dropped),
        CASE(test_ask_again),
        CASE(test_expire_while_asking),
        CASE(test_own_write_is_shown),
        CASE(test_watches_may_be_stale),
        CASE(test_a_strict_mount_asks_the_leader),
        CASE(test_a_server_that_lost_its_leader_is_not_believed),
        CASE(test_a_server_that_knows_no_leader_is_not_believed),
        CASE(test_a_server_that_is_behind_is_not_believed),
        CASE(test_own_write_to_what_somebody_else_created),
        CASE(test_own_write_is_shown_whoever_answers),
        CASE(test_an_own_write_that_is_not_shown),
        CASE(test_catching_up_asks_the_leader_in_the_end),
        CASE(test_a_watch_that_brings_too_much_is_demoted),
        CASE(test_names_that_take_the_server_long_are_demoted),
        CASE(test_stop_while_a_large_answer_is_decoded),
        CASE(test_dropping_forgets_a_demotion),
        CASE(test_too_big_in_parts),
        CASE(test_too_big_is_known_by_its_keys),
        CASE(test_too_big_that_took_long),
        CASE(test_witness),
        CASE(test_watches_are_limited),
        CASE(test_what_is_idle_goes),
        CASE(test_drop_caches),
        CASE(test_what_is_retired_is_let_go_with_its_last_holder),
        CASE(test_stale),
        CASE(test_stale_is_never_behind_an_own_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
