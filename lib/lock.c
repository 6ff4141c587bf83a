/*
 * One key's lock: takes it by a transaction that keeps value and flags, waits for it by a blocking query on the key,
 * sees when it is taken away, gives it back likewise.
 *
 *    IDLE ──▶ TRYING ──▶ HELD ──▶ UNLOCKING ──▶ IDLE
 *              │  ▲
 *    another   ▼  │ the key changed
 *    has it  QUEUED ──▶ WAITING
 *
 * TRYING and UNLOCKING first use what a watched resource shows of the key, if any; the transaction fails when that is
 * outdated, and then the key is read. `want` is what the program asked for last; it is looked at whenever something has
 * come to an end. At most locks.wait_max blocking queries run; when more keys are waited for they take turns.
 */
#include "cache.h"
#include "client.h"
#include "kv.h"
#include "locks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull
#define SECOND (1000 * MS)
#define CONFLICTS_MAX 100
#define PAUSE_FIRST_MS 100
#define PAUSE_LAST_MS 4000
/* Who held it for so long and wants it again at once lets other clients go first. */
#define HELD_LONG SECOND
#define LET_IN_MS 50
#define WAIT_ALONE_S 60
/* How long one key may keep others waiting for their turn to be waited for. */
#define WAIT_TURN_S 2
/* So many that were given up may be at the agent before they are left to end by themselves. */
#define ABANDONED_MAX 16

enum lock_state { LOCK_IDLE, LOCK_TRYING, LOCK_QUEUED, LOCK_WAITING, LOCK_HELD, LOCK_UNLOCKING };
enum lock_want { WANT_NOTHING, WANT_TRY, WANT_WAIT };

struct consul_lock {
    struct locks *locks; /* constant, as is all up to the empty line */
    char *datacenter, *key;
    bool plain; /* /v1/kv takes the key in a path */
    consul_lock_fn *tell;
    void *arg;

    /* guarded by locks.lock; changed on the network thread, but for these five */
    enum lock_want want;
    bool at_once; /* somebody new asks: don't sit out a pause */
    bool freed;
    bool look;         /* HELD: it is to be verified */
    unsigned removing; /* this client's own removals of the key under way */
    enum lock_state state;
    struct session *session;        /* used; not NULL while HELD or UNLOCKING */
    struct http_request *request;   /* a read or a blocking query */
    bool in_txn;                    /* a transaction is under way */
    struct consul_kv_entry *entry;  /* what was last seen of the key, counted; NULL with `known`: it is absent */
    bool known;                     /* not yet found to be outdated */
    bool in_doubt;                  /* a transaction without an answer may have locked it */
    bool rest_told;                 /* that nothing is held or wanted */
    uint64_t locked_index;          /* the key's ModifyIndex when it was certainly ours */
    uint64_t deadline_ns;           /* of an attempt's requests */
    uint64_t retry_ns;              /* TRYING, UNLOCKING: pauses until then */
    unsigned failures, conflicts;   /* in a row */
    uint64_t queued_ns, waiting_ns; /* since when it is QUEUED or WAITING */
    bool given_up;                  /* the blocking query that is under way */
    uint64_t held_ns;               /* since when it was held last */
    bool had_long;                  /* and so long that others are to be let in before it is taken again */
    struct consul_index index;
    struct consul_lock *prev, *next;
};

static void step(struct consul_lock *lock);

/* ---- telling -------------------------------------------------------------------------------------------------------
 */

static void tell(struct consul_lock *lock, const struct consul_lock_news *news)
{
    struct locks *locks = lock->locks;

    if (lock->freed)
        return;
    pthread_mutex_unlock(&locks->lock);
    lock->tell(lock->arg, lock, news);
    pthread_mutex_lock(&locks->lock);
}

static void tell_event(struct consul_lock *lock, enum consul_lock_event event)
{
    tell(lock, &(struct consul_lock_news){.event = event});
}

void locks_timer(struct locks *locks, uint64_t at_ns)
{
    if (locks->timer_ns == 0 || at_ns < locks->timer_ns)
        locks->timer_ns = at_ns;
}

static enum lock_want want_of(const struct consul_lock *lock)
{
    return lock->freed || lock->locks->closing ? WANT_NOTHING : lock->want;
}

static void forget_session(struct consul_lock *lock)
{
    struct session *session = lock->session;

    lock->session = NULL;
    if (session)
        session_unuse(session);
}

/* Takes the reference; NULL: there is no such key. */
static void see(struct consul_lock *lock, struct consul_kv_entry *entry)
{
    consul_kv_entry_unref(lock->entry);
    lock->entry = entry;
    lock->known = true;
}

static bool is_ours(const struct consul_lock *lock, const struct consul_kv_entry *entry)
{
    return entry && lock->session && strcmp(consul_kv_session(entry), lock->session->id) == 0;
}

static void pause_for(struct consul_lock *lock, uint64_t ms)
{
    lock->retry_ns = consul_now_ns() + ms * MS;
    locks_timer(lock->locks, lock->retry_ns);
}

static uint64_t backoff_ms(struct consul_lock *lock)
{
    uint64_t ms = PAUSE_FIRST_MS;

    for (unsigned i = 0; i < lock->failures && ms < PAUSE_LAST_MS; i++)
        ms *= 2;
    lock->failures++;
    return ms / 2 + (uint64_t)rand() % ms; /* a fleet must not come back in step */
}

/* The attempt failed; who waits goes on trying. */
static void failed(struct consul_lock *lock, int err, const struct consul_answer *answer)
{
    lock->known = false;
    if (lock->want == WANT_TRY)
        lock->want = WANT_NOTHING;
    pause_for(lock, backoff_ms(lock));
    tell(lock, &(struct consul_lock_news){.event = CONSUL_LOCK_FAILED, .err = err, .answer = answer});
}

/* Another session has it, or had it until its end less than a LockDelay ago. */
static void is_busy(struct consul_lock *lock, bool delayed)
{
    if (delayed) {
        lock->known = false;
        pause_for(lock, backoff_ms(lock) % 1000);
    } else {
        lock->failures = 0;
        lock->state = LOCK_QUEUED;
        lock->queued_ns = consul_now_ns();
        consul_index_init(&lock->index, false, WAIT_ALONE_S);
        lock->locks->kicked = true;
    }
    if (lock->want == WANT_TRY)
        lock->want = WANT_NOTHING;
    tell_event(lock, CONSUL_LOCK_BUSY);
}

static void is_lost(struct consul_lock *lock, const char *why)
{
    lock->state = LOCK_IDLE;
    lock->rest_told = lock->known = false;
    lock->want = WANT_NOTHING;
    lock->locks->kicked = true;
    forget_session(lock);
    tell(lock, &(struct consul_lock_news){.event = CONSUL_LOCK_LOST, .why = why});
}

/* ---- reading the key -----------------------------------------------------------------------------------------------
 */

/* The transaction that reads a key which no path can name. */
static int read_by_txn(const struct consul_lock *lock, struct http_request *request)
{
    json_t *body = json_pack("[{s:{s:s, s:s}}]", "KV", "Verb", "get", "Key", lock->key);

    request->body = body ? json_dumps(body, 0) : NULL;
    json_decref(body);
    if (!request->body)
        return -ENOMEM;
    request->body_len = strlen(request->body);
    return client_path_in(lock->locks->client, lock->datacenter, "/v1/txn", &request->path);
}

/* 0: *ret_entry is counted, or NULL where there is no such key. */
static int take_answer(const struct consul_lock *lock, const struct http_request *request,
                       struct consul_kv_entry **ret_entry)
{
    bool by_txn = strcmp(request->method, "PUT") == 0;
    int err = http_errno(request), r = -EIO;
    const json_t *found;
    json_t *json;

    if (request->net == CONSUL_NET_OK && request->status == (by_txn ? 409 : 404) &&
        (!by_txn || (request->answer.data && strstr(request->answer.data, "doesn't exist")))) {
        *ret_entry = NULL;
        return 0;
    }
    if (err < 0)
        return err;
    json = kv_json_parse(request->answer.data ? request->answer.data : "", request->answer.len);
    found =
        by_txn ? json_object_get(json_array_get(json_object_get(json, "Results"), 0), "KV") : json_array_get(json, 0);
    if (found)
        r = kv_entry_decode(found, ret_entry);
    if (found && r == 0 && strcmp(consul_kv_key(*ret_entry), lock->key) != 0) {
        consul_kv_entry_unref(*ret_entry);
        r = -EIO;
    }
    json_decref(json);
    return r;
}

/* HELD: what was seen of the key, by a watch or a read. */
static void check(struct consul_lock *lock, struct consul_kv_entry *entry, uint64_t index)
{
    if (is_ours(lock, entry)) {
        see(lock, consul_kv_entry_ref(entry));
        if (entry->modify_index > lock->locked_index)
            lock->locked_index = entry->modify_index;
    } else if (entry && entry->modify_index > lock->locked_index) {
        is_lost(lock, entry->has_session ? "another session has it" : "somebody released it");
    } else if (!entry && index >= lock->locked_index && lock->removing == 0) {
        is_lost(lock, "somebody removed the key");
    }
}

static void on_read(struct http_request *request)
{
    struct consul_lock *lock = request->arg;
    struct locks *locks = lock->locks;
    struct consul_kv_entry *entry = NULL;
    struct consul_answer answer = {
        .status = request->status, .method = request->method, .path = request->path, .body_len = request->answer.len};

    answer.err = take_answer(lock, request, &entry);
    answer.body = request->answer.data ? request->answer.data : "";
    cache_note_contact(locks->client->cache, request, answer.err);
    pthread_mutex_lock(&locks->lock);
    lock->request = NULL;
    if (lock->state == LOCK_HELD) { /* it was to be verified */
        if (answer.err == 0)
            check(lock, entry, request->index ? request->index : UINT64_MAX);
        consul_kv_entry_unref(entry);
    } else if (lock->state != LOCK_TRYING && lock->state != LOCK_UNLOCKING) { /* it was lost meanwhile */
        consul_kv_entry_unref(entry);
    } else if (answer.err < 0) {
        failed(lock, answer.err, &answer);
    } else {
        see(lock, entry);
    }
    step(lock);
    pthread_mutex_unlock(&locks->lock);
    http_request_free(request);
}

static int send_read(struct consul_lock *lock)
{
    struct http_request *request = http_request_new(lock->plain ? "GET" : "PUT", NULL);
    int r;

    if (!request)
        return -ENOMEM;
    r = lock->plain ? client_kv_path(lock->locks->client, lock->datacenter, lock->key, "", &request->path)
                    : read_by_txn(lock, request);
    if (r < 0) {
        http_request_free(request);
        return r;
    }
    request->intent = CONSUL_READ;
    request->max_answer = (size_t)64 << 20;
    request->deadline_ns = lock->deadline_ns;
    request->done = on_read;
    request->arg = lock;
    lock->request = request;
    http_submit(lock->locks->client->http, request);
    return 0;
}

/* ---- waiting -------------------------------------------------------------------------------------------------------
 */

static void on_wait(struct http_request *request)
{
    struct consul_lock *lock = request->arg;
    struct locks *locks = lock->locks;
    struct consul_kv_entry *entry = NULL;
    uint64_t elapsed_ms = (request->done_ns - request->sent_ns) / MS;
    unsigned pause_ms = 0;
    int err = take_answer(lock, request, &entry);

    if (request->net != CONSUL_NET_RESET)
        cache_note_contact(locks->client->cache, request, err);
    pthread_mutex_lock(&locks->lock);
    lock->request = NULL;
    locks->waiting--;
    locks->kicked = true; /* another one's turn, perhaps */
    lock->state = LOCK_TRYING;
    lock->retry_ns = 0;
    if (request->net == CONSUL_NET_CANCELLED) {
        lock->state = LOCK_QUEUED;
        lock->queued_ns = consul_now_ns();
    } else if (err < 0) {
        lock->known = false;
        pause_for(lock,
                  consul_index_failed(&lock->index, request->net == CONSUL_NET_RESET, elapsed_ms, (uint32_t)rand()));
    } else {
        (void)consul_index_answer(&lock->index, request->index, elapsed_ms, (uint32_t)rand(), &pause_ms);
        see(lock, entry);
        if (entry && entry->has_session) {
            lock->state = LOCK_QUEUED;
            lock->queued_ns = consul_now_ns();
            lock->retry_ns = pause_ms ? consul_now_ns() + pause_ms * MS : 0;
        }
    }
    step(lock);
    pthread_mutex_unlock(&locks->lock);
    http_request_free(request);
}

static bool others_queue(const struct consul_lock *lock)
{
    for (const struct consul_lock *l = lock->locks->all; l; l = l->next)
        if (l != lock && l->state == LOCK_QUEUED && want_of(l) != WANT_NOTHING)
            return true;
    return false;
}

static int send_wait(struct consul_lock *lock)
{
    struct locks *locks = lock->locks;
    struct http_request *request = http_request_new("GET", NULL);
    char query[96];
    uint64_t index;
    unsigned wait_s;
    int r;

    if (!request)
        return -ENOMEM;
    if (lock->index.index == 0)
        consul_index_read(&lock->index, lock->entry->modify_index); /* an existing key's index is its ModifyIndex */
    consul_index_next(&lock->index, &index, &wait_s);
    if (others_queue(lock) && wait_s > WAIT_TURN_S)
        wait_s = WAIT_TURN_S;
    snprintf(query, sizeof(query), "?index=%" PRIu64 "&wait=%us", index, wait_s);
    r = client_kv_path(lock->locks->client, lock->datacenter, lock->key, query, &request->path);
    if (r < 0) {
        http_request_free(request);
        return r;
    }
    request->intent = CONSUL_READ;
    request->blocking = true;
    request->max_answer = (size_t)64 << 20;
    request->deadline_ns =
        consul_now_ns() + consul_index_deadline_ms(&lock->index, (unsigned)locks->client->options.timeout_ms) * MS;
    request->done = on_wait;
    request->arg = lock;
    lock->request = request;
    lock->state = LOCK_WAITING;
    lock->waiting_ns = consul_now_ns();
    lock->given_up = false;
    locks->waiting++;
    http_submit(locks->client->http, request);
    return 0;
}

static void give_up_wait(struct consul_lock *lock)
{
    struct locks *locks = lock->locks;
    uint64_t wait_ns = consul_index_deadline_ms(&lock->index, 0) * MS;

    if (lock->given_up)
        return;
    lock->given_up = true;
    abandoned_add(&locks->abandoned, lock->waiting_ns + wait_ns, consul_now_ns());
    http_cancel(locks->client->http, lock->request);
}

/*
 * Nobody waits any more. Where that happens again and again (flock -w) the query goes on, for who waits next: the agent
 * does not notice that it was given up (abandoned.h).
 */
static void may_give_up_wait(struct consul_lock *lock)
{
    struct locks *locks = lock->locks;

    if (locks->closing || abandoned_count(&locks->abandoned, consul_now_ns()) < ABANDONED_MAX)
        give_up_wait(lock);
}

/* Is it this one's turn? Who has queued for longest goes first. */
static bool has_turn(const struct consul_lock *lock)
{
    const struct locks *locks = lock->locks;

    if (locks->waiting >= locks->wait_max)
        return false;
    for (const struct consul_lock *l = locks->all; l; l = l->next)
        if (l != lock && l->state == LOCK_QUEUED && !l->retry_ns && l->queued_ns < lock->queued_ns &&
            want_of(l) == WANT_WAIT)
            return false;
    return true;
}

/* Somebody queues: who has been waited for for longest makes room. */
static void make_room(struct locks *locks, uint64_t now)
{
    struct consul_lock *longest = NULL;
    bool queued = false;

    for (struct consul_lock *l = locks->all; l; l = l->next) {
        queued |= l->state == LOCK_QUEUED && want_of(l) == WANT_WAIT;
        if (l->state == LOCK_WAITING && (!longest || l->waiting_ns < longest->waiting_ns))
            longest = l;
    }
    if (!queued || !longest || locks->waiting < locks->wait_max)
        return;
    if (longest->waiting_ns + WAIT_TURN_S * SECOND <= now)
        give_up_wait(longest);
    else
        locks_timer(locks, longest->waiting_ns + WAIT_TURN_S * SECOND);
}

/* ---- transactions --------------------------------------------------------------------------------------------------
 */

/* The key is not as it was seen, so look again. True when that is not to be tried any more for a while. */
static bool lost_race(struct consul_lock *lock)
{
    lock->known = false;
    return ++lock->conflicts >= CONFLICTS_MAX;
}

static bool may_have_happened(const struct consul_answer *answer)
{
    return answer->err != -EACCES && answer->err != -EINVAL && answer->err != -ECONNREFUSED && answer->status != 409;
}

static void on_locked(void *arg, const struct consul_answer *answer, struct consul_kv_entry *const *entries, size_t n)
{
    struct consul_lock *lock = arg;
    struct locks *locks = lock->locks;
    uint64_t before;

    pthread_mutex_lock(&locks->lock);
    lock->in_txn = false;
    if (answer->err == 0 && n == 2 && entries[1]) {
        before = lock->entry ? lock->entry->modify_index : 0;
        see(lock, consul_kv_entry_ref(entries[1]));
        lock->locked_index = lock->entry->modify_index;
        lock->in_doubt = false;
        lock->failures = lock->conflicts = 0;
        if (lock->session->state == SESSION_ALIVE) {
            struct consul_kv_entry *entry = consul_kv_entry_ref(lock->entry);

            lock->state = LOCK_HELD;
            lock->held_ns = consul_now_ns();
            if (want_of(lock) != WANT_NOTHING)
                tell(lock,
                     &(struct consul_lock_news){.event = CONSUL_LOCK_HELD, .entry = entry, .before_index = before});
            consul_kv_entry_unref(entry);
        } /* else it was lost while it was taken: try again under another session */
    } else if (answer->err == 0) {
        lock->in_doubt = true; /* an answer that makes no sense */
        failed(lock, -EIO, answer);
    } else if (answer->err == -ESTALE || answer->err == -EEXIST || answer->err == -ENOENT || answer->err == -EBUSY) {
        if (lost_race(lock))
            failed(lock, -EAGAIN, answer);
    } else if (answer->err == -EAGAIN && answer->status == 409) {
        is_busy(lock, true);
    } else if (answer->err == -EINVAL && strstr(answer->body, "session")) {
        session_lost(lock->session, "Consul does not know its session any more");
        if (lost_race(lock))
            failed(lock, -EIO, answer);
    } else {
        lock->in_doubt |= may_have_happened(answer);
        failed(lock, answer->err, answer);
    }
    step(lock);
    pthread_mutex_unlock(&locks->lock);
}

static void on_unlocked(void *arg, const struct consul_answer *answer, struct consul_kv_entry *const *entries, size_t n)
{
    struct consul_lock *lock = arg;
    struct locks *locks = lock->locks;

    pthread_mutex_lock(&locks->lock);
    lock->in_txn = false;
    if (lock->state != LOCK_UNLOCKING) { /* its session went meanwhile */
    } else if (answer->err == 0) {
        uint64_t before = lock->entry ? lock->entry->modify_index : 0;

        lock->state = LOCK_IDLE;
        lock->in_doubt = false;
        lock->failures = 0;
        forget_session(lock);
        if (n == 2 && entries[1]) {
            see(lock, consul_kv_entry_ref(entries[1]));
            tell(lock, &(struct consul_lock_news){
                           .event = CONSUL_LOCK_UNLOCKED, .entry = entries[1], .before_index = before});
        }
    } else if (answer->err == -ESTALE || answer->err == -EPERM || answer->err == -ENOENT) {
        if (lost_race(lock))
            failed(lock, -EAGAIN, answer);
    } else {
        failed(lock, answer->err, answer);
    }
    step(lock);
    pthread_mutex_unlock(&locks->lock);
}

/* The same value and flags, locked or unlocked; nobody may have changed them in between. */
static int send_txn(struct consul_lock *lock, enum consul_kv_verb verb, consul_kv_done_fn *done)
{
    const struct consul_kv_entry *entry = lock->entry;
    struct consul_kv_op ops[] = {
        {.verb = entry ? CONSUL_KV_CHECK_INDEX : CONSUL_KV_CHECK_NOT_EXISTS,
         .key = lock->key,
         .index = entry ? entry->modify_index : 0},
        {.verb = verb,
         .key = lock->key,
         .value = entry ? consul_kv_value(entry) : "",
         .value_len = entry ? entry->value_len : 0,
         .flags = entry ? entry->flags : 0,
         .session = lock->session->id},
    };
    int r = consul_kv_txn(lock->locks->client, lock->datacenter, ops, 2, done, lock);

    lock->in_txn = r == 0;
    return r;
}

/* ---- the state machine ---------------------------------------------------------------------------------------------
 */

/* From a resource that is watched, if one shows the key. */
static void peek(struct consul_lock *lock)
{
    struct consul_kv_entry *entry;
    uint64_t index;

    if (cache_look_up(lock->locks->client->cache, NULL, lock->datacenter, lock->key, &entry, &index) < 0)
        return;
    /* That it is free may be a moment old: then the transaction fails. That it is locked must not be. */
    if (!entry || !entry->has_session || is_ours(lock, entry))
        see(lock, entry);
    else
        consul_kv_entry_unref(entry);
}

static bool pauses(struct consul_lock *lock)
{
    if (lock->retry_ns > consul_now_ns()) {
        locks_timer(lock->locks, lock->retry_ns);
        return true;
    }
    lock->retry_ns = 0;
    return false;
}

static void begin_attempt(struct consul_lock *lock, enum lock_state state)
{
    lock->state = state;
    lock->deadline_ns = consul_now_ns() + lock->locks->client->options.timeout_ms * MS;
    lock->retry_ns = 0;
    lock->failures = lock->conflicts = 0;
    lock->known = state == LOCK_UNLOCKING && is_ours(lock, lock->entry);
    peek(lock);
}

/* True: look again. */
static bool step_trying(struct consul_lock *lock)
{
    int r;

    if (want_of(lock) == WANT_NOTHING) {
        if (lock->in_doubt && lock->session)
            begin_attempt(lock, LOCK_UNLOCKING);
        else
            lock->state = LOCK_IDLE;
        return true;
    }
    if (lock->at_once)
        lock->retry_ns = 0;
    if (pauses(lock))
        return false;
    if (lock->at_once || consul_now_ns() >= lock->deadline_ns)
        lock->deadline_ns = consul_now_ns() + lock->locks->client->options.timeout_ms * MS;
    lock->at_once = false;
    if (lock->session && (lock->session->state == SESSION_GONE || lock->session->retired))
        forget_session(lock);
    if (!lock->session)
        lock->session = session_use(lock->locks, lock->datacenter);
    if (!lock->session || lock->session->state == SESSION_GONE) {
        failed(lock, -ENOMEM, NULL);
        return true;
    }
    if (lock->session->state != SESSION_ALIVE) /* it will tell */
        return false;
    if (!lock->known) {
        r = send_read(lock);
    } else if (lock->entry && lock->entry->has_session && !is_ours(lock, lock->entry)) {
        is_busy(lock, false);
        return true;
    } else {
        r = send_txn(lock, CONSUL_KV_LOCK, on_locked);
    }
    if (r < 0)
        failed(lock, r, NULL);
    return r < 0;
}

static bool step_unlocking(struct consul_lock *lock)
{
    int r;

    if (pauses(lock)) {
        if (want_of(lock) == WANT_NOTHING)
            return false;
        begin_attempt(lock, LOCK_TRYING); /* wanted again, and perhaps still ours */
        return true;
    }
    if (consul_now_ns() >= lock->deadline_ns)
        lock->deadline_ns = consul_now_ns() + lock->locks->client->options.timeout_ms * MS;
    if (lock->known && !is_ours(lock, lock->entry)) {
        lock->state = LOCK_IDLE;
        lock->in_doubt = false;
        return true;
    }
    r = lock->known ? send_txn(lock, CONSUL_KV_UNLOCK, on_unlocked) : send_read(lock);
    if (r == -EFBIG) {
        /* The value has grown too large for a transaction: with its session the lock goes, too. */
        lock->session->retired = true;
        lock->state = LOCK_IDLE;
        lock->in_doubt = false;
        return true;
    }
    if (r < 0)
        failed(lock, r, NULL);
    return r < 0;
}

static bool step_queued(struct consul_lock *lock)
{
    int r;

    if (want_of(lock) == WANT_NOTHING) {
        lock->state = LOCK_IDLE;
        return true;
    }
    if (pauses(lock))
        return false;
    if (!lock->known || !lock->entry) {
        lock->state = LOCK_TRYING;
        return true;
    }
    if (!lock->plain) { /* there is no blocking query on such a key */
        lock->state = LOCK_TRYING;
        lock->known = false;
        pause_for(lock, 1000);
        return false;
    }
    if (!has_turn(lock)) {
        make_room(lock->locks, consul_now_ns());
        return false;
    }
    r = send_wait(lock);
    if (r < 0)
        failed(lock, r, NULL);
    return false;
}

static void verify(struct consul_lock *lock, struct consul_resource *resource)
{
    struct consul_kv_entry *entry;
    uint64_t index;

    if (lock->state != LOCK_HELD)
        return;
    if (cache_look_up(lock->locks->client->cache, resource, lock->datacenter, lock->key, &entry, &index) == 0) {
        check(lock, entry, index);
        consul_kv_entry_unref(entry);
    } else if (!resource && !lock->request && !lock->in_txn) {
        lock->deadline_ns = consul_now_ns() + lock->locks->client->options.timeout_ms * MS;
        (void)send_read(lock);
    }
}

static bool step_once(struct consul_lock *lock)
{
    if (lock->in_txn)
        return false;
    if (lock->request) {
        if (lock->state == LOCK_WAITING && want_of(lock) == WANT_NOTHING)
            may_give_up_wait(lock);
        return false;
    }
    switch (lock->state) {
    case LOCK_IDLE:
        forget_session(lock);
        if (want_of(lock) != WANT_NOTHING) {
            lock->rest_told = lock->at_once = false;
            begin_attempt(lock, LOCK_TRYING);
            if (lock->had_long && want_of(lock) == WANT_WAIT)
                pause_for(lock, LET_IN_MS); /* their blocking queries have just been answered */
            lock->had_long = false;
            return true;
        }
        if (lock->rest_told)
            return false;
        lock->rest_told = true;
        tell_event(lock, CONSUL_LOCK_AT_REST);
        return true;
    case LOCK_TRYING:
        return step_trying(lock);
    case LOCK_QUEUED:
        return step_queued(lock);
    case LOCK_HELD:
        if (want_of(lock) != WANT_NOTHING) {
            if (lock->look)
                verify(lock, NULL);
            lock->look = false;
            return lock->state != LOCK_HELD;
        }
        lock->had_long = lock->held_ns + HELD_LONG < consul_now_ns();
        begin_attempt(lock, LOCK_UNLOCKING);
        return true;
    case LOCK_UNLOCKING:
        return step_unlocking(lock);
    case LOCK_WAITING: /* its query has just ended */
        lock->state = LOCK_TRYING;
        return true;
    }
    return false;
}

static void step(struct consul_lock *lock)
{
    while (step_once(lock))
        ;
}

void locks_session_changed(struct session *session, int err, const struct consul_answer *answer, const char *why)
{
    struct locks *locks = session->locks;

    locks->kicked = true;
    if (err == 0)
        return;
    for (struct consul_lock *lock = locks->all; lock; lock = lock->next) {
        if (lock->session != session)
            continue;
        if (lock->state == LOCK_HELD)
            is_lost(lock, why);
        else if (lock->state == LOCK_UNLOCKING)
            lock->state = LOCK_IDLE; /* it is gone with the session */
        else if (lock->state == LOCK_TRYING && !why)
            failed(lock, err, answer);
        lock->in_doubt = false;
    }
}

static struct consul_lock *same_key(struct locks *locks, const char *datacenter, const char *key)
{
    struct consul_lock *lock = locks->all;

    while (lock && (lock->freed || strcmp(lock->key, key) != 0 || !cache_same_datacenter(lock->datacenter, datacenter)))
        lock = lock->next;
    return lock;
}

void locks_stored(struct locks *locks, const char *datacenter, const char *key, struct consul_kv_entry *entry)
{
    struct consul_lock *lock;

    pthread_mutex_lock(&locks->lock);
    lock = same_key(locks, datacenter, key);
    if (lock && lock->state == LOCK_HELD && entry) {
        check(lock, entry, 0);
    } else if (lock && lock->state == LOCK_HELD) {
        lock->state = LOCK_IDLE;
        lock->rest_told = lock->known = false;
        lock->want = WANT_NOTHING;
        locks->kicked = true;
        forget_session(lock);
        tell_event(lock, CONSUL_LOCK_REMOVED);
    }
    pthread_mutex_unlock(&locks->lock);
}

void locks_removing(struct locks *locks, const char *datacenter, const char *key, bool begins)
{
    struct consul_lock *lock;

    pthread_mutex_lock(&locks->lock);
    lock = same_key(locks, datacenter, key);
    if (lock && begins) {
        lock->removing++;
    } else if (lock && lock->removing > 0 && --lock->removing == 0) {
        lock->look = locks->kicked = true; /* if it failed somebody else may have removed it */
        http_wakeup(locks->client->http);
    }
    pthread_mutex_unlock(&locks->lock);
}

void locks_changed(struct locks *locks, struct consul_resource *resource)
{
    pthread_mutex_lock(&locks->lock);
    for (struct consul_lock *lock = locks->all; lock; lock = lock->next)
        verify(lock, resource);
    pthread_mutex_unlock(&locks->lock);
}

void locks_verify(struct session *session)
{
    for (struct consul_lock *lock = session->locks->all; lock; lock = lock->next)
        if (lock->session == session)
            verify(lock, NULL);
}

static void lock_free(struct consul_lock *lock)
{
    struct locks *locks = lock->locks;

    if (lock->prev)
        lock->prev->next = lock->next;
    else
        locks->all = lock->next;
    if (lock->next)
        lock->next->prev = lock->prev;
    consul_kv_entry_unref(lock->entry);
    free(lock->datacenter);
    free(lock->key);
    free(lock);
}

uint64_t locks_tick(struct locks *locks, uint64_t now)
{
    uint64_t next;

    pthread_mutex_lock(&locks->lock);
    for (unsigned round = 0; (locks->kicked || (locks->timer_ns && locks->timer_ns <= now)) && round < 8; round++) {
        locks->kicked = false;
        locks->timer_ns = 0;
        for (struct consul_lock *lock = locks->all, *after; lock; lock = after) {
            step(lock);
            after = lock->next;
            if (lock->freed && lock->state == LOCK_IDLE && !lock->request && !lock->in_txn)
                lock_free(lock);
        }
        sessions_tick(locks, now);
    }
    next = locks->kicked ? now : locks->timer_ns ? locks->timer_ns : UINT64_MAX;
    pthread_mutex_unlock(&locks->lock);
    return next;
}

/* ---- for the program -----------------------------------------------------------------------------------------------
 */

int consul_lock_new(struct consul *client, const char *datacenter, const char *key, consul_lock_fn *tell_fn, void *arg,
                    struct consul_lock **ret_lock)
{
    struct locks *locks = client->locks;
    struct consul_lock *lock = calloc(1, sizeof(*lock));
    bool plain;

    if (!consul_kv_key_valid(key, &plain)) {
        free(lock);
        return -EINVAL;
    }
    if (!datacenter)
        datacenter = client->datacenter;
    if (!lock)
        return -ENOMEM;
    lock->locks = locks;
    lock->plain = plain;
    lock->tell = tell_fn;
    lock->arg = arg;
    lock->rest_told = true;
    lock->key = strdup(key);
    lock->datacenter = datacenter ? strdup(datacenter) : NULL;
    if (!lock->key || (datacenter && !lock->datacenter)) {
        free(lock->key);
        free(lock->datacenter);
        free(lock);
        return -ENOMEM;
    }
    pthread_mutex_lock(&locks->lock);
    lock->next = locks->all;
    if (locks->all)
        locks->all->prev = lock;
    locks->all = lock;
    pthread_mutex_unlock(&locks->lock);
    *ret_lock = lock;
    return 0;
}

static void kick(struct consul_lock *lock)
{
    lock->locks->kicked = true;
    http_wakeup(lock->locks->client->http);
}

void consul_lock_acquire(struct consul_lock *lock, bool wait)
{
    pthread_mutex_lock(&lock->locks->lock);
    lock->want = wait || lock->want == WANT_WAIT ? WANT_WAIT : WANT_TRY;
    lock->at_once = true;
    kick(lock);
    pthread_mutex_unlock(&lock->locks->lock);
}

void consul_lock_release(struct consul_lock *lock)
{
    pthread_mutex_lock(&lock->locks->lock);
    lock->want = WANT_NOTHING;
    lock->rest_told = false;
    kick(lock);
    pthread_mutex_unlock(&lock->locks->lock);
}

void consul_lock_free(struct consul_lock *lock)
{
    struct locks *locks;

    if (!lock)
        return;
    locks = lock->locks;
    pthread_mutex_lock(&locks->lock);
    lock->freed = true;
    kick(lock);
    pthread_mutex_unlock(&locks->lock);
}

bool consul_lock_is_held(struct consul_lock *lock)
{
    bool held;

    pthread_mutex_lock(&lock->locks->lock);
    held = lock->state == LOCK_HELD && session_is_good(lock->session);
    pthread_mutex_unlock(&lock->locks->lock);
    return held;
}

struct consul_kv_entry *consul_lock_entry(struct consul_lock *lock)
{
    struct consul_kv_entry *entry = NULL;

    pthread_mutex_lock(&lock->locks->lock);
    if (lock->state == LOCK_HELD && lock->entry)
        entry = consul_kv_entry_ref(lock->entry);
    pthread_mutex_unlock(&lock->locks->lock);
    return entry;
}

void consul_lock_session(struct consul *client, const char *datacenter, char ret_id[40])
{
    struct locks *locks = client->locks;

    *ret_id = '\0';
    if (!datacenter)
        datacenter = client->datacenter;
    pthread_mutex_lock(&locks->lock);
    for (const struct session *session = locks->sessions; session; session = session->next)
        if (session->state == SESSION_ALIVE && !session->retired &&
            (datacenter && session->datacenter ? strcmp(datacenter, session->datacenter) == 0
                                               : datacenter == session->datacenter))
            strcpy(ret_id, session->id);
    pthread_mutex_unlock(&locks->lock);
}

void locks_close(struct locks *locks)
{
    pthread_mutex_lock(&locks->lock);
    locks->closing = locks->kicked = true;
    pthread_mutex_unlock(&locks->lock);
}

void consul_release_locks(struct consul *client, uint64_t timeout_ms)
{
    struct locks *locks = client->locks;
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(timeout_ms / 1000);
    pthread_mutex_lock(&locks->lock);
    locks->closing = locks->kicked = true;
    http_wakeup(client->http);
    while (locks->sessions && pthread_cond_timedwait(&locks->closed, &locks->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&locks->lock);
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------
 */

int locks_new(struct consul *client, const struct consul_options *options, unsigned wait_max, struct locks **ret_locks)
{
    struct locks *locks = calloc(1, sizeof(*locks));

    if (!locks)
        return -ENOMEM;
    locks->client = client;
    locks->ttl_ns = (options->session_ttl_s ? options->session_ttl_s : CONSUL_SESSION_TTL_S) * SECOND;
    locks->wait_max = wait_max;
    locks->name = strdup(options->session_name ? options->session_name : "libconsul");
    if (!locks->name || abandoned_init(&locks->abandoned, 2 * ABANDONED_MAX) < 0) {
        free(locks->name);
        free(locks);
        return -ENOMEM;
    }
    pthread_mutex_init(&locks->lock, NULL);
    pthread_cond_init(&locks->closed, NULL);
    *ret_locks = locks;
    return 0;
}

void locks_free(struct locks *locks)
{
    if (!locks)
        return;
    while (locks->all)
        lock_free(locks->all);
    while (locks->sessions) {
        struct session *session = locks->sessions;

        locks->sessions = session->next;
        free(session->datacenter);
        free(session->node);
        free(session);
    }
    pthread_cond_destroy(&locks->closed);
    pthread_mutex_destroy(&locks->lock);
    abandoned_clear(&locks->abandoned);
    free(locks->name);
    free(locks);
}
