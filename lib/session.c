/*
 * Sessions: one for each datacenter in which something is locked, made when the first lock is wanted, renewed while it
 * exists, destroyed when nothing has been locked under it for a while.
 *
 * When a lock counts as lost. A renewal that was answered was received by the leader after we submitted it, and from
 * then on the session lives for at least its TTL (Consul waits for twice as long). So TTL after that moment of
 * submission its locks are taken for lost, which is before anybody else can have them. The clock goes on while the
 * machine sleeps. A session depends on no health check: an agent that is only slow to gossip must not lose locks that
 * we still believe in.
 *
 * Its LockDelay matters where a session ends at another hand's will (session/destroy, deregistering the node): the key
 * shows this at once, and a second is time to notice before somebody else has the lock.
 */
#include "cache.h"
#include "client.h"
#include "locks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull
#define SECOND (1000 * MS)
#define LOCK_DELAY "1s"
#define RENEWALS_PER_TTL 3
#define RENEW_AGAIN SECOND

uint64_t boottime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void session_free(struct session *session)
{
    free(session->datacenter);
    free(session->node);
    free(session);
}

bool session_is_good(const struct session *session)
{
    return session->state == SESSION_ALIVE && boottime_ns() < session->good_until_ns;
}

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

/* The session's datacenter is added to the path. Repeating any of these does no harm. */
static struct http_request *session_request(struct session *session, const char *method, const char *path,
                                            void (*done)(struct http_request *))
{
    const struct consul *client = session->locks->client;
    struct http_request *request = http_request_new(method, NULL);
    uint64_t limit_ns = client->options.timeout_ms * MS, patience_ns = session->locks->ttl_ns / RENEWALS_PER_TTL;

    if (!request)
        return NULL;
    if (client_path_in(client, session->datacenter, path, &request->path) < 0) {
        http_request_free(request);
        return NULL;
    }
    request->intent = CONSUL_READ;
    request->max_answer = (size_t)4 << 20;
    request->deadline_ns = consul_now_ns() + (limit_ns < patience_ns ? limit_ns : patience_ns);
    request->done = done;
    request->arg = session;
    return request;
}

static void send(struct session *session, struct http_request *request)
{
    session->request = request;
    session->asked_ns = boottime_ns();
    http_submit(session->locks->client->http, request);
}

static struct consul_answer answer_of(const struct http_request *request)
{
    return (struct consul_answer){
        .err = http_errno(request),
        .status = request->status,
        .method = request->method,
        .path = request->path,
        .body = request->answer.data ? request->answer.data : "",
        .body_len = request->answer.len,
    };
}

static void begin_create(struct session *session);

static void create_failed(struct session *session, int err, const struct consul_answer *answer)
{
    session->state = SESSION_GONE;
    locks_session_changed(session, err, answer, NULL);
}

static char *string_member(const char *body, size_t len, bool first_of_array, const char *name)
{
    json_t *json = json_loadb(body, len, 0, NULL);
    const char *text = json_string_value(json_object_get(first_of_array ? json_array_get(json, 0) : json, name));
    char *copy = text ? strdup(text) : NULL;

    json_decref(json);
    return copy;
}

/* In another datacenter than its own the agent is no node: the session gets a server for its node. */
static void on_server(struct http_request *request)
{
    struct session *session = request->arg;
    struct locks *locks = session->locks;
    struct consul_answer answer = answer_of(request);

    pthread_mutex_lock(&locks->lock);
    session->request = NULL;
    if (answer.err == 0)
        session->node = string_member(answer.body, answer.body_len, true, "Node");
    if (session->node)
        begin_create(session);
    else
        create_failed(session, answer.err < 0 ? answer.err : -EIO, &answer);
    pthread_mutex_unlock(&locks->lock);
    http_request_free(request);
}

static void on_created(struct http_request *request)
{
    struct session *session = request->arg;
    struct locks *locks = session->locks;
    struct consul_answer answer = answer_of(request);
    struct http_request *find = NULL;
    char *id = NULL;

    cache_note_contact(locks->client->cache, request, answer.err);
    pthread_mutex_lock(&locks->lock);
    session->request = NULL;
    if (answer.err == 0)
        id = string_member(answer.body, answer.body_len, false, "ID");
    if (id && strlen(id) < sizeof(session->id)) {
        strcpy(session->id, id);
        session->state = SESSION_ALIVE;
        session->good_until_ns = session->asked_ns + locks->ttl_ns;
        session->renew_ns = consul_now_ns() + locks->ttl_ns / RENEWALS_PER_TTL;
        locks_timer(locks, session->renew_ns);
        locks_session_changed(session, 0, NULL, NULL);
    } else if (!session->node && strstr(answer.body, "Missing node registration") &&
               (find = session_request(session, "GET", "/v1/catalog/service/consul", on_server))) {
        send(session, find);
    } else {
        create_failed(session, answer.err < 0 ? answer.err : -EIO, &answer);
    }
    pthread_mutex_unlock(&locks->lock);
    free(id);
    http_request_free(request);
}

static void begin_create(struct session *session)
{
    struct http_request *request = session_request(session, "PUT", "/v1/session/create", on_created);
    char ttl[32];
    json_t *body;

    snprintf(ttl, sizeof(ttl), "%" PRIu64 "s", (uint64_t)(session->locks->ttl_ns / SECOND));
    body = json_pack("{s:s, s:s, s:s, s:s, s:[], s:s*}", "Name", session->locks->name, "TTL", ttl, "LockDelay",
                     LOCK_DELAY, "Behavior", "release", "Checks", "Node", session->node);
    if (request && body)
        request->body = json_dumps(body, 0);
    json_decref(body);
    if (!request || !request->body) {
        http_request_free(request);
        create_failed(session, -ENOMEM, NULL);
        return;
    }
    request->body_len = strlen(request->body);
    /* A repeated one makes a session that nobody knows; it expires. */
    send(session, request);
}

static struct http_request *request_on_id(struct session *session, const char *what,
                                          void (*done)(struct http_request *))
{
    char path[128];
    struct http_request *request;

    snprintf(path, sizeof(path), "/v1/session/%s/%s", what, session->id);
    request = session_request(session, "PUT", path, done);
    if (request && !(request->body = strdup(""))) {
        http_request_free(request);
        return NULL;
    }
    return request;
}

void session_lost(struct session *session, const char *why)
{
    if (session->state == SESSION_GONE)
        return;
    session->state = SESSION_GONE;
    locks_session_changed(session, -EIO, NULL, why);
}

static void on_renewed(struct http_request *request)
{
    struct session *session = request->arg;
    struct locks *locks = session->locks;
    int err = http_errno(request);

    cache_note_contact(locks->client->cache, request, err == -ENOENT ? 0 : err);
    pthread_mutex_lock(&locks->lock);
    session->request = NULL;
    if (session->state == SESSION_ALIVE) {
        if (err == 0) {
            session->good_until_ns = session->asked_ns + locks->ttl_ns;
            session->renew_ns = request->sent_ns + locks->ttl_ns / RENEWALS_PER_TTL;
            locks_verify(session);
        } else if (request->net == CONSUL_NET_OK && request->status == 404) {
            session_lost(session, "Consul does not know its session any more");
        } else {
            session->renew_ns = consul_now_ns() + RENEW_AGAIN;
        }
        locks_timer(locks, session->renew_ns);
    }
    locks->kicked = true;
    pthread_mutex_unlock(&locks->lock);
    http_request_free(request);
}

static void renew(struct session *session, uint64_t now)
{
    struct http_request *request = request_on_id(session, "renew", on_renewed);

    if (request)
        send(session, request);
    else
        session->renew_ns = now + RENEW_AGAIN;
}

static void on_destroyed(struct http_request *request)
{
    struct session *session = request->arg;
    struct locks *locks = session->locks;

    pthread_mutex_lock(&locks->lock);
    session->request = NULL; /* whatever came of it: it would expire */
    locks->kicked = true;
    pthread_mutex_unlock(&locks->lock);
    http_wakeup(locks->client->http);
    http_request_free(request);
}

static void destroy(struct session *session)
{
    struct http_request *request = request_on_id(session, "destroy", on_destroyed);

    session->state = SESSION_GONE;
    if (request)
        send(session, request);
}

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

static bool same_text(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

struct session *session_use(struct locks *locks, const char *datacenter)
{
    struct session *session = locks->sessions;

    while (session &&
           (session->state == SESSION_GONE || session->retired || !same_text(session->datacenter, datacenter)))
        session = session->next;
    if (!session) {
        session = calloc(1, sizeof(*session));
        if (!session)
            return NULL;
        session->locks = locks;
        session->datacenter = datacenter ? strdup(datacenter) : NULL;
        if (datacenter && !session->datacenter) {
            free(session);
            return NULL;
        }
        session->users = 1;
        session->next = locks->sessions;
        locks->sessions = session;
        begin_create(session);
        return session;
    }
    session->users++;
    return session;
}

void session_unuse(struct session *session)
{
    struct locks *locks = session->locks;

    if (--session->users > 0)
        return;
    session->idle_ns = consul_now_ns();
    locks_timer(locks, session->idle_ns + (session->retired || locks->closing ? 0 : locks->ttl_ns / 2));
}

static uint64_t next_of(const struct session *session, uint64_t now)
{
    const struct locks *locks = session->locks;
    uint64_t boot = boottime_ns(), left = session->good_until_ns > boot ? session->good_until_ns - boot : 0;
    uint64_t next = now + left, idle_end = session->idle_ns + locks->ttl_ns / 2;

    if (!session->request && session->renew_ns < next)
        next = session->renew_ns;
    if (session->users == 0 && idle_end < next)
        next = idle_end;
    return next;
}

void sessions_tick(struct locks *locks, uint64_t now)
{
    struct session **at = &locks->sessions;

    while (*at) {
        struct session *session = *at;

        if (session->state == SESSION_ALIVE && boottime_ns() >= session->good_until_ns)
            session_lost(session, "Consul did not answer its renewals for lock_ttl");
        if (session->state == SESSION_ALIVE && !session->request) {
            if (session->users == 0 &&
                (session->retired || locks->closing || session->idle_ns + locks->ttl_ns / 2 <= now))
                destroy(session);
            else if (session->renew_ns <= now)
                renew(session, now);
        }
        if (session->state == SESSION_GONE && session->users == 0 && !session->request) {
            /* callbacks above may have put others before it */
            for (at = &locks->sessions; *at != session; at = &(*at)->next)
                ;
            *at = session->next;
            session_free(session);
            continue;
        }
        if (session->state == SESSION_ALIVE)
            locks_timer(locks, next_of(session, now));
        at = &session->next;
    }
    if (!locks->sessions)
        pthread_cond_broadcast(&locks->closed);
}
