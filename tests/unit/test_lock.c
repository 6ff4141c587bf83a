/*
 * lib/lock and lib/session, against a server of which the test is the voice: it takes each request and says what is
 * answered. Time passes as the test says.
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

#include "client.h"
#include "http.h"

#define SECOND 1000000000ull
#define PATIENCE_S 20
#define CONNS 16
#define OURS "11111111-2222-3333-4444-555555555555"
#define THEIRS "99999999-2222-3333-4444-555555555555"
#define CREATED "{\"ID\":\"" OURS "\"}"

/* ---- the clocks: linked with --wrap --------------------------------------------------------------------------------
 */

int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

static _Atomic uint64_t ahead_s;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    int r = __real_clock_gettime(clock, ts);

    if (r == 0 && (clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME))
        ts->tv_sec += (time_t)atomic_load(&ahead_s);
    return r;
}

/* ---- the server ----------------------------------------------------------------------------------------------------
 */

struct request {
    int fd;
    char text[8192]; /* "GET /v1/… HTTP/1.1…", headers and body */
};

struct news {
    enum consul_lock_event event;
    int err;
    uint64_t index, before;
};

struct fixture {
    int listen_fd, conns[CONNS];
    struct consul *client;
    struct consul_lock *lock;
    struct request request; /* the newest */
    pthread_mutex_t mutex;
    pthread_cond_t told;
    struct news news[64]; /* guarded by mutex */
    size_t told_n, seen_n;
};

/* The next request, on whatever connection; it must begin so. */
static void expect(struct fixture *f, const char *begins)
{
    struct request *request = &f->request;
    const char *body, *length;
    size_t len = 0;

    for (;;) {
        struct pollfd fds[CONNS + 1] = {{.fd = f->listen_fd, .events = POLLIN}};

        for (size_t i = 0; i < CONNS; i++)
            fds[i + 1] = (struct pollfd){.fd = f->conns[i], .events = POLLIN};
        if (poll(fds, CONNS + 1, PATIENCE_S * 1000) <= 0)
            fail_msg("no request came; expected %s", begins);
        if (fds[0].revents) {
            size_t i = 0;

            while (i < CONNS - 1 && f->conns[i] >= 0)
                i++;
            f->conns[i] = accept(f->listen_fd, NULL, NULL);
            continue;
        }
        for (size_t i = 0; i < CONNS; i++) {
            ssize_t n;

            if (!fds[i + 1].revents)
                continue;
            n = recv(f->conns[i], request->text, sizeof(request->text) - 1, 0);
            if (n <= 0) {
                close(f->conns[i]);
                f->conns[i] = -1;
                continue;
            }
            len = (size_t)n;
            request->fd = f->conns[i];
            goto rest;
        }
    }
rest:
    for (;;) {
        ssize_t n;

        request->text[len] = '\0';
        body = strstr(request->text, "\r\n\r\n");
        length = strcasestr(request->text, "Content-Length: ");
        if (body && len >= (size_t)(body + 4 - request->text) + (length ? strtoul(length + 16, NULL, 10) : 0))
            break;
        n = recv(request->fd, request->text + len, sizeof(request->text) - 1 - len, 0);
        assert_true(n > 0);
        len += (size_t)n;
    }
    if (strncmp(request->text, begins, strlen(begins)) != 0)
        fail_msg("expected %s, got %.200s", begins, request->text);
}

static void expect_says(struct fixture *f, const char *text)
{
    if (!strstr(f->request.text, text))
        fail_msg("%s is not in %s", text, f->request.text);
}

static void reply(struct fixture *f, int status, uint64_t index, const char *body)
{
    char text[2048];
    int n =
        snprintf(text, sizeof(text), "HTTP/1.1 %d Whatever\r\nX-Consul-Index: %llu\r\nContent-Length: %zu\r\n\r\n%s",
                 status, (unsigned long long)index, strlen(body), body);

    assert_int_equal(send(f->request.fd, text, (size_t)n, MSG_NOSIGNAL), n);
}

/* What Consul says of the key: value "v", flags 7. */
static const char *entry(uint64_t index, const char *session)
{
    static char text[512];

    snprintf(
        text, sizeof(text),
        "{\"Key\":\"a\",\"Value\":\"dg==\",\"Flags\":7,\"LockIndex\":1,\"CreateIndex\":2,\"ModifyIndex\":%llu%s%s%s}",
        (unsigned long long)index, session ? ",\"Session\":\"" : "", session ? session : "", session ? "\"" : "");
    return text;
}

static void reply_key(struct fixture *f, uint64_t index, const char *session)
{
    char text[600];

    snprintf(text, sizeof(text), "[%s]", entry(index, session));
    reply(f, 200, index, text);
}

static void reply_txn(struct fixture *f, uint64_t index, const char *session)
{
    char text[2000], before[512];

    strcpy(before, entry(index, session));
    if (strstr(f->request.text, "check-not-exists"))
        snprintf(text, sizeof(text), "{\"Results\":[{\"KV\":%s}],\"Errors\":null}", before);
    else
        snprintf(text, sizeof(text), "{\"Results\":[{\"KV\":%s},{\"KV\":%s}],\"Errors\":null}", before, before);
    reply(f, 200, 0, text);
}

static void refuse_txn(struct fixture *f, unsigned op, const char *what)
{
    char text[512];

    snprintf(text, sizeof(text), "{\"Results\":null,\"Errors\":[{\"OpIndex\":%u,\"What\":\"%s\"}]}", op, what);
    reply(f, 409, 0, text);
}

static void pass_seconds(struct fixture *f, uint64_t seconds)
{
    atomic_fetch_add(&ahead_s, seconds);
    http_wakeup(f->client->http);
}

/* ---- the lock ------------------------------------------------------------------------------------------------------
 */

static void on_news(void *arg, struct consul_lock *lock, const struct consul_lock_news *news)
{
    struct fixture *f = arg;

    (void)lock;
    pthread_mutex_lock(&f->mutex);
    if (f->told_n < 64)
        f->news[f->told_n++] = (struct news){.event = news->event,
                                             .err = news->err,
                                             .index = news->entry ? news->entry->modify_index : 0,
                                             .before = news->before_index};
    pthread_cond_broadcast(&f->told);
    pthread_mutex_unlock(&f->mutex);
}

static struct news told(struct fixture *f, enum consul_lock_event event)
{
    struct timespec until;
    struct news news;

    __real_clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&f->mutex);
    while (f->seen_n == f->told_n)
        if (pthread_cond_timedwait(&f->told, &f->mutex, &until) != 0)
            fail_msg("event %d was not told", (int)event);
    news = f->news[f->seen_n++];
    pthread_mutex_unlock(&f->mutex);
    assert_int_equal(news.event, event);
    return news;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    struct consul_options options = {
        .watches = 8, .timeout_ms = 60000, .session_name = "the test", .session_ttl_s = 15};
    struct consul_config config = {0};
    char *error, text[64];

    for (size_t i = 0; i < CONNS; i++)
        f->conns[i] = -1;
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->told, NULL);
    f->listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(f->listen_fd, (struct sockaddr *)&address, len) < 0 || listen(f->listen_fd, 16) < 0 ||
        getsockname(f->listen_fd, (struct sockaddr *)&address, &len) < 0)
        return -1;
    snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(address.sin_port));
    if (consul_config_set_address(&config, text, &error) < 0 || consul_new(&config, &options, &f->client) < 0 ||
        consul_lock_new(f->client, NULL, "a", on_news, f, &f->lock) < 0)
        return -1;
    consul_config_clear(&config);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    consul_stop(f->client);
    consul_free(f->client);
    for (size_t i = 0; i < CONNS; i++)
        if (f->conns[i] >= 0)
            close(f->conns[i]);
    close(f->listen_fd);
    pthread_cond_destroy(&f->told);
    pthread_mutex_destroy(&f->mutex);
    free(f);
    return 0;
}

static void make_session(struct fixture *f)
{
    expect(f, "PUT /v1/session/create ");
    reply(f, 200, 0, CREATED);
}

/* The lock is asked for, and the key has been read: at index 5, locked by `session` or nobody. */
static void ask(struct fixture *f, bool wait, const char *session)
{
    consul_lock_acquire(f->lock, wait);
    make_session(f);
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 5, session);
}

/* Held from ModifyIndex 6 on. */
static void take(struct fixture *f)
{
    ask(f, true, NULL);
    expect(f, "PUT /v1/txn ");
    reply_txn(f, 6, OURS);
    told(f, CONSUL_LOCK_HELD);
}

/* ---- taking and giving back ----------------------------------------------------------------------------------------
 */

static void test_there_and_back(void **state)
{
    struct fixture *f = *state;
    struct consul_kv_entry *kv;
    struct news news;
    char id[40];

    consul_lock_acquire(f->lock, false);
    expect(f, "PUT /v1/session/create ");
    expect_says(f, "\"Name\": \"the test\"");
    expect_says(f, "\"TTL\": \"15s\"");
    expect_says(f, "\"LockDelay\": \"1s\"");
    expect_says(f, "\"Behavior\": \"release\"");
    expect_says(f, "\"Checks\": []");
    reply(f, 200, 0, CREATED);
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 5, NULL);
    expect(f, "PUT /v1/txn ");
    expect_says(f, "\"check-index\",\"Key\":\"a\",\"Index\":5");
    expect_says(f, "\"lock\",\"Key\":\"a\",\"Value\":\"dg==\",\"Flags\":7,\"Session\":\"" OURS "\"");
    reply_txn(f, 6, OURS);
    news = told(f, CONSUL_LOCK_HELD);
    assert_int_equal(news.index, 6);
    assert_int_equal(news.before, 5);
    assert_true(consul_lock_is_held(f->lock));
    consul_lock_session(f->client, NULL, id);
    assert_string_equal(id, OURS);
    kv = consul_lock_entry(f->lock);
    assert_int_equal(kv->modify_index, 6);
    consul_kv_entry_unref(kv);

    consul_lock_release(f->lock);
    expect(f, "PUT /v1/txn ");
    expect_says(f, "\"check-index\",\"Key\":\"a\",\"Index\":6");
    expect_says(f, "\"unlock\",\"Key\":\"a\",\"Value\":\"dg==\",\"Flags\":7,\"Session\":\"" OURS "\"");
    reply_txn(f, 7, NULL);
    news = told(f, CONSUL_LOCK_UNLOCKED);
    assert_int_equal(news.index, 7);
    assert_int_equal(news.before, 6);
    told(f, CONSUL_LOCK_AT_REST);
    assert_false(consul_lock_is_held(f->lock));

    pass_seconds(f, 8);
    for (;;) { /* a renewal may come first */
        expect(f, "PUT /v1/session/");
        reply(f, 200, 0, "[]");
        if (strstr(f->request.text, "/v1/session/destroy/" OURS " "))
            break;
    }
    consul_lock_session(f->client, NULL, id);
    assert_string_equal(id, "");
}

static void test_an_absent_key(void **state)
{
    struct fixture *f = *state;

    consul_lock_acquire(f->lock, false);
    make_session(f);
    expect(f, "GET /v1/kv/a ");
    reply(f, 404, 4, "");
    expect(f, "PUT /v1/txn ");
    expect_says(f, "check-not-exists");
    refuse_txn(f, 0, "key \\\"a\\\" exists");
    expect(f, "GET /v1/kv/a "); /* somebody was faster */
    reply(f, 404, 5, "");
    expect(f, "PUT /v1/txn ");
    expect_says(f, "\"lock\",\"Key\":\"a\",\"Value\":\"\",\"Flags\":0");
    reply_txn(f, 6, OURS);
    assert_int_equal(told(f, CONSUL_LOCK_HELD).before, 0);
}

static void test_changed_in_between(void **state)
{
    struct fixture *f = *state;

    ask(f, false, NULL);
    expect(f, "PUT /v1/txn ");
    refuse_txn(f, 0, "current modify index is different");
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 8, NULL);
    expect(f, "PUT /v1/txn ");
    expect_says(f, "\"Index\":8");
    reply_txn(f, 9, OURS);
    assert_int_equal(told(f, CONSUL_LOCK_HELD).before, 8);
}

/* ---- somebody else has it ------------------------------------------------------------------------------------------
 */

static void test_busy(void **state)
{
    struct fixture *f = *state;

    ask(f, false, THEIRS);
    told(f, CONSUL_LOCK_BUSY);
    told(f, CONSUL_LOCK_AT_REST);
}

static void begin_waiting(struct fixture *f)
{
    ask(f, true, THEIRS);
    told(f, CONSUL_LOCK_BUSY);
    expect(f, "GET /v1/kv/a?index=5&wait=60s ");
}

static void test_waiting(void **state)
{
    struct fixture *f = *state;

    begin_waiting(f);
    reply_key(f, 6, THEIRS); /* its value changed, that is all */
    expect(f, "GET /v1/kv/a?index=6&wait=60s ");
    reply_key(f, 7, NULL);
    expect(f, "PUT /v1/txn "); /* at once, with what the query brought */
    expect_says(f, "\"Index\":7");
    refuse_txn(f, 0, "current modify index is different");
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 8, THEIRS); /* somebody else was faster */
    told(f, CONSUL_LOCK_BUSY);
    expect(f, "GET /v1/kv/a?index=8&wait=60s ");
    reply(f, 404, 9, ""); /* removed */
    expect(f, "PUT /v1/txn ");
    expect_says(f, "check-not-exists");
    reply_txn(f, 10, OURS);
    told(f, CONSUL_LOCK_HELD);
}

static void test_giving_up(void **state)
{
    struct fixture *f = *state;
    char byte;

    begin_waiting(f);
    consul_lock_release(f->lock);
    told(f, CONSUL_LOCK_AT_REST);
    assert_int_equal(recv(f->request.fd, &byte, 1, 0), 0); /* the connection is free */
}

static void test_lock_delay(void **state)
{
    struct fixture *f = *state;

    ask(f, true, NULL);
    expect(f, "PUT /v1/txn ");
    refuse_txn(f, 1, "failed to lock key \\\"a\\\" due to lock delay");
    told(f, CONSUL_LOCK_BUSY);
    pass_seconds(f, 2);
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 5, NULL);
    expect(f, "PUT /v1/txn ");
    reply_txn(f, 6, OURS);
    told(f, CONSUL_LOCK_HELD);
}

/* ---- sessions ------------------------------------------------------------------------------------------------------
 */

static void test_renewed(void **state)
{
    struct fixture *f = *state;

    take(f);
    for (unsigned i = 0; i < 5; i++) { /* for longer than the TTL */
        pass_seconds(f, 5);
        expect(f, "PUT /v1/session/renew/" OURS " ");
        reply(f, 200, 0, "[]");
        expect(f, "GET /v1/kv/a "); /* no watch shows whether it is still ours */
        reply_key(f, 6, OURS);
    }
    assert_true(consul_lock_is_held(f->lock));
}

static void test_unknown_session(void **state)
{
    struct fixture *f = *state;

    take(f);
    pass_seconds(f, 5);
    expect(f, "PUT /v1/session/renew/" OURS " ");
    reply(f, 404, 0, "Session id not found");
    told(f, CONSUL_LOCK_LOST);
    assert_false(consul_lock_is_held(f->lock));
    told(f, CONSUL_LOCK_AT_REST);
    consul_lock_acquire(f->lock, false);
    make_session(f); /* another one */
    expect(f, "GET /v1/kv/a ");
}

/* Lost by our own clock, TTL after the last renewal that was answered had been sent. */
static void test_no_answer_to_renewals(void **state)
{
    struct fixture *f = *state;

    take(f);
    pass_seconds(f, 5);
    expect(f, "PUT /v1/session/renew/" OURS " ");
    assert_true(consul_lock_is_held(f->lock));
    pass_seconds(f, 8);
    assert_true(consul_lock_is_held(f->lock));
    pass_seconds(f, 2);
    assert_false(consul_lock_is_held(f->lock)); /* whether or not it was told yet */
    told(f, CONSUL_LOCK_LOST);
    told(f, CONSUL_LOCK_AT_REST);
}

static void test_taken_away(void **state)
{
    struct fixture *f = *state;

    take(f);
    pass_seconds(f, 5);
    expect(f, "PUT /v1/session/renew/" OURS " ");
    reply(f, 200, 0, "[]");
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 9, THEIRS);
    told(f, CONSUL_LOCK_LOST);
    told(f, CONSUL_LOCK_AT_REST);
}

static void test_denied(void **state)
{
    struct fixture *f = *state;

    consul_lock_acquire(f->lock, false);
    expect(f, "PUT /v1/session/create ");
    reply(f, 403, 0, "Permission denied");
    assert_int_equal(told(f, CONSUL_LOCK_FAILED).err, -EACCES);
    told(f, CONSUL_LOCK_AT_REST);
}

static void test_a_session_that_went_while_locking(void **state)
{
    struct fixture *f = *state;

    ask(f, false, NULL);
    expect(f, "PUT /v1/txn ");
    refuse_txn(f, 1, "invalid session \\\"" OURS "\\\"");
    expect(f, "PUT /v1/session/create ");
    reply(f, 200, 0, "{\"ID\":\"22222222-2222-3333-4444-555555555555\"}");
    expect(f, "GET /v1/kv/a ");
    reply_key(f, 5, NULL);
    expect(f, "PUT /v1/txn ");
    expect_says(f, "\"Session\":\"22222222-");
    reply_txn(f, 6, "22222222-2222-3333-4444-555555555555");
    told(f, CONSUL_LOCK_HELD);
}

static void test_a_node_elsewhere(void **state)
{
    struct fixture *f = *state;
    struct consul_lock *far;

    assert_int_equal(consul_lock_new(f->client, "dc2", "a", on_news, f, &far), 0);
    consul_lock_acquire(far, false);
    expect(f, "PUT /v1/session/create?dc=dc2 ");
    reply(f, 500, 0, "Missing node registration");
    expect(f, "GET /v1/catalog/service/consul?dc=dc2 ");
    reply(f, 200, 0, "[{\"Node\":\"far1\"}]");
    expect(f, "PUT /v1/session/create?dc=dc2 ");
    expect_says(f, "\"Node\": \"far1\"");
    reply(f, 200, 0, CREATED);
    expect(f, "GET /v1/kv/a?dc=dc2 ");
}

static void *release_all(void *arg)
{
    consul_release_locks(arg, 60000);
    return NULL;
}

static void test_the_end(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    take(f);
    assert_int_equal(pthread_create(&thread, NULL, release_all, f->client), 0);
    expect(f, "PUT /v1/txn ");
    expect_says(f, "\"unlock\"");
    reply_txn(f, 7, NULL);
    expect(f, "PUT /v1/session/destroy/" OURS " ");
    reply(f, 200, 0, "true");
    pthread_join(thread, NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_there_and_back),
        CASE(test_an_absent_key),
        CASE(test_changed_in_between),
        CASE(test_busy),
        CASE(test_waiting),
        CASE(test_giving_up),
        CASE(test_lock_delay),
        CASE(test_renewed),
        CASE(test_unknown_session),
        CASE(test_no_answer_to_renewals),
        CASE(test_taken_away),
        CASE(test_denied),
        CASE(test_a_session_that_went_while_locking),
        CASE(test_a_node_elsewhere),
        CASE(test_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
