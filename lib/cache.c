/*
 * The resource cache: one struct consul_resource for each GET URL, its newest snapshot, its watch and who waits for it.
 *
 * A resource is fresh for somebody who began at `since`
 *  - while it is watched: a blocking query on it is outstanding, or broke less than BROKEN_GRACE ago;
 *  - or when its snapshot's request ended after `since`;
 * and never while its index is below one that it is known to have (floor_index; its blocking query is waited for), or
 * this program itself changed it after the snapshot's request was sent (not_before_ns). Otherwise the reader waits for
 * one GET, which all readers of the resource share.
 *
 * A resource that is read becomes watched as soon as a watch is free. The least recently read one gives its watch up
 * when it has not been read for EVICT_AFTER; while all are hot the others are revalidated on each read. As the agent
 * does not notice that a watch ended (abandoned.h), no more begin once these and the ended ones are twice the allowed
 * number. One whose blocking query brings far more than what changed is demoted for a while: revalidated, or read in
 * parts.
 *
 * Blocking queries may be answered by any server (`stale`), so that many mounts do not load the leader, unless this
 * mount is strict (stale= of 0). Such an answer tells of changes, and of nothing else: it is not fresh for anybody, and
 * it is taken only if it is not behind what is known and its server hears the leader; what this client wrote and it
 * does not show is put in (own_writes.c). If it is not taken that is a break: the leader is asked. All other GETs are
 * answered by the leader, or for it. One that has just been elected may answer before it has seen all of its log: what
 * takes the index back is believed only of a `consistent` answer, for which a leader waits until it has.
 *
 * Invariants:
 *  - at most one GET and one blocking query of a resource are under way;
 *  - state == WATCH_NONE if and only if watch == NULL and it is not counted in cache.watches;
 *  - an answer never replaces the snapshot of a request that was sent later;
 *  - waiters are queued only while a GET is under way or due (refetch_ns).
 *
 * Threads: everything in a resource is guarded by cache.lock, save what is marked constant. Answers are decoded without
 * it, by the network thread, or, where that takes long, by one that others need not wait for (worker.h); then they
 * count as under way until they are taken. Callbacks are made on the network thread with no lock held. Lock order:
 * cache.lock, then http's.
 */
#include "kv.h"
#include "resource.h"
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EVICT_AFTER (5 * SECOND)
/* A server that has not heard of the leader for longer is not believed, nor is any for a while. */
#define LAST_CONTACT_MAX_MS 5000
#define CONSISTENT_FOR (60 * SECOND)
/* Servers show what was written within so long, or the leader is asked. */
#define PENDING_MAX (10 * SECOND)
#define FLOOR_PATIENCE (100 * MS)
/* An answer that exceeded its maximum is not tried again for so long; twice as long each time it is found so. */
#define TOO_BIG_FIRST (1 * SECOND)
#define TOO_BIG_LAST (64 * SECOND)
/* Where there are parts to read, nobody waits for it to become small. */
#define TOO_BIG_FIRST_IN_PARTS (64 * SECOND)
#define TOO_BIG_LAST_IN_PARTS (4096 * SECOND)
#define WAIT_MIN_S 10
/* What takes longer to decode than to hand over to another thread. */
#define DECODE_APART ((size_t)128 * 1024)
/* A watched answer of more than this is not fetched again at once: its prefix may change faster than it can be read. */
#define LARGE_ANSWER (64 * 1024)
#define NS_PER_LARGE_BYTE 50
#define COSTS_BETWEEN_CHANGES 4
/* While this client writes to /v1/kv again and again, most of what a watch there tells is what it wrote itself: the
 * watch rests so long after each answer. */
#define OWN_PAUSE_MS 4
/* Who has waited for an answer mostly asks more at once (of a path, each name; then the file). The first blocking
 * query, with a connection of its own, stays out of his way for so long; with its index it misses nothing. */
#define FIRST_PAUSE_MS 2

void cache_tell_changed(const struct cache *cache, struct consul_resource *resource, struct consul_snapshot *before,
                        struct consul_snapshot *after)
{
    if (after && cache->options.changed)
        cache->options.changed(cache->options.changed_arg, resource, CONSUL_CHANGED, before, after);
    consul_snapshot_unref(before);
    consul_snapshot_unref(after);
}

static void tell_watch_ended(const struct cache *cache, struct consul_resource *resource)
{
    if (cache->options.changed)
        cache->options.changed(cache->options.changed_arg, resource, CONSUL_WATCH_ENDED, NULL, NULL);
}

static void say(const struct cache *cache, enum consul_log_level level, const char *line)
{
    if (cache->options.log)
        cache->options.log(cache->options.log_arg, level, line);
}

/* An empty answer is not worth a watch: old servers wake it on every write (CONSUL.md, "Blocking queries"). */
static bool worth_watching(const struct consul_resource *resource)
{
    const struct consul_snapshot *snapshot = resource->snapshot;

    if (!(resource->flags & CONSUL_BLOCKS) || !snapshot || snapshot->index == 0)
        return false;
    if (resource->flags & CONSUL_WATCH_EMPTY)
        return true;
    if (resource->format == CONSUL_KV)
        return snapshot->kv.n > 0;
    if (json_is_array(snapshot->json))
        return json_array_size(snapshot->json) > 0;
    return json_is_object(snapshot->json);
}

uint32_t resource_holders(const struct consul_resource *resource)
{
    return resource->refs - (resource->get ? 1 : 0) - (resource->watch ? 1 : 0);
}

/* ---- asking the agent ------------------------------------------------------------------------------------------ */

void cache_set_timer(struct cache *cache, uint64_t at_ns)
{
    if (cache->timer_ns == 0 || at_ns < cache->timer_ns) {
        cache->timer_ns = at_ns;
        http_wakeup(cache->http);
    }
}

static void on_get(struct http_request *request);
static void on_watch(struct http_request *request);

/* cache.lock is held. */
static int start_get(struct consul_resource *resource, void (*submit)(struct http *, struct http_request *))
{
    struct cache *cache = resource->cache;
    char separator = strchr(resource->path, '?') ? '&' : '?', *path = NULL;
    struct http_request *request;

    if (resource->confirm && asprintf(&path, "%s%cconsistent", resource->path, separator) < 0)
        return -ENOMEM;
    request = http_request_new("GET", path ? path : resource->path);
    free(path);
    if (!request)
        return -ENOMEM;
    resource->get_consistent = resource->confirm;
    resource->confirm = false;
    request->intent = CONSUL_READ;
    request->health_by_status = resource->flags & CONSUL_HEALTH_BY_STATUS;
    request->max_answer = resource->max;
    request->deadline_ns = consul_now_ns() + cache->options.timeout_ms * MS;
    request->done = on_get;
    request->arg = resource;
    resource->get = request;
    resource->get_since_ns = consul_now_ns();
    resource->get_again = false;
    if (!resource->watch_paused) /* else it says when the blocking query goes on */
        resource->refetch_ns = 0;
    resource->refs++; /* the request's */
    submit(cache->http, request);
    return 0;
}

int resource_start_get(struct consul_resource *resource) { return start_get(resource, http_submit); }

/*
 * How long a blocking query asks to wait. An agent that has gone silent is noticed when it does not answer one; a mount
 * that may serve stale content only for so long has to notice as soon.
 */
static unsigned wait_of(const struct cache *cache)
{
    uint64_t stale_s = cache->options.stale_ms / 1000;

    if (stale_s >= CONSUL_INDEX_WAIT_DEFAULT_S)
        return CONSUL_INDEX_WAIT_DEFAULT_S;
    return stale_s < WAIT_MIN_S ? WAIT_MIN_S : (unsigned)stale_s;
}

/* cache.lock is held. */
static bool may_be_stale(const struct consul_resource *resource, uint64_t now)
{
    uint64_t pending_ns = pending_since_ns(resource);

    return resource->cache->options.stale_ms > 0 && now >= resource->cache->consistent_until_ns &&
           (pending_ns == 0 || now - pending_ns < PENDING_MAX);
}

/* cache.lock is held. The blocking query goes out with the index that we know. */
int resource_start_blocking_query(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;
    char separator = strchr(resource->path, '?') ? '&' : '?';
    size_t size = strlen(resource->path) + 64;
    struct http_request *request;
    char *path = malloc(size);
    uint64_t index;
    unsigned wait_s;

    if (!path)
        return -ENOMEM;
    consul_index_next(&resource->index, &index, &wait_s);
    resource->watch_stale = wait_s > 0 && may_be_stale(resource, consul_now_ns());
    if (wait_s > 0)
        snprintf(path, size, "%s%cindex=%" PRIu64 "&wait=%us%s", resource->path, separator, index, wait_s,
                 resource->watch_stale ? "&stale" : "");
    else
        strcpy(path, resource->path);
    request = http_request_new("GET", path);
    free(path);
    if (!request)
        return -ENOMEM;
    request->intent = CONSUL_READ;
    request->blocking = true;
    request->apart = resource->watch_begins; /* later ones have that of the one before */
    resource->watch_begins = false;
    request->max_answer = resource->max;
    request->deadline_ns =
        consul_now_ns() + consul_index_deadline_ms(&resource->index, (unsigned)cache->options.timeout_ms) * MS;
    request->done = on_watch;
    request->arg = resource;
    resource->watch = request;
    resource->watch_since_ns = consul_now_ns();
    resource->watch_paused = false;
    resource->refs++;
    http_submit(cache->http, request);
    return 0;
}

/* cache.lock is held. Nothing that this client knows of happened after what the snapshot shows. */
static bool is_new_enough(const struct consul_resource *resource)
{
    return resource->snapshot && resource->sent_ns >= resource->not_before_ns &&
           resource->snapshot->index >= resource->floor_index;
}

/* cache.lock is held. The blocking query that is under way is not ours any more; its on_watch sees that. */
void resource_abandon_query(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;

    if (!resource->watch)
        return;
    http_cancel(cache->http, resource->watch);
    resource->watch = NULL;
    abandoned_add(&cache->abandoned, resource->watch_since_ns + consul_index_deadline_ms(&resource->index, 0) * MS,
                  consul_now_ns());
}

bool resource_end_watch(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;

    if (resource->state == WATCH_NONE)
        return false;
    /* What it had was current until Consul went away, or is until now. */
    if (resource->state == WATCH_LIVE)
        resource->good_ns = cache->disconnected_ns ? cache->disconnected_ns : consul_now_ns();
    else if (resource->broken_ns)
        resource->good_ns = resource->broken_ns;
    resource_abandon_query(resource);
    resource->refetch_ns = 0; /* what was due was due to the watch */
    resource->watch_paused = false;
    resource->state = WATCH_NONE;
    cache->watches--;
    cache->ended++;
    if (resource->first && !resource->get && !cache->closing) /* they waited for the blocking query's answer */
        (void)resource_start_get(resource);
    return true;
}

/* cache.lock is held. Frees a watch for `taker` if one has been cold for long enough; *ret_loser is to be told,
 * counted. */
static bool evict_one(struct cache *cache, const struct consul_resource *taker, uint64_t now,
                      struct consul_resource **ret_loser)
{
    struct consul_resource *coldest = NULL;

    for (struct consul_resource *r = cache->all; r; r = r->next)
        if (r != taker && r->state != WATCH_NONE && (!coldest || r->used_ns < coldest->used_ns))
            coldest = r;
    if (!coldest || coldest->used_ns + EVICT_AFTER > now)
        return false;
    resource_end_watch(coldest);
    cache->evicted++;
    coldest->refs++;
    *ret_loser = coldest;
    return true;
}

/* cache.lock is held. The next blocking query is sent so much later. */
static void pause_watch(struct consul_resource *resource, uint64_t pause_ns)
{
    resource->watch_paused = true;
    resource->refetch_ns = consul_now_ns() + pause_ns;
    cache_set_timer(resource->cache, resource->refetch_ns);
}

/* cache.lock is held; the snapshot is current. */
static void maybe_watch(struct consul_resource *resource, struct consul_resource **ret_loser)
{
    struct cache *cache = resource->cache;
    uint64_t now = consul_now_ns();

    if (resource->state == WATCH_LIVE || cache->closing || !worth_watching(resource) ||
        watch_cost_is_demoted(&resource->cost, now))
        return;
    if (resource->state == WATCH_NONE) {
        if (cache->watches + abandoned_count(&cache->abandoned, now) >= 2 * cache->watch_limit ||
            (cache->watches >= cache->watch_limit && !evict_one(cache, resource, now, ret_loser)))
            return;
        cache->watches++;
        cache->promotions += resource->was_demoted;
        resource->was_demoted = false;
        consul_index_init(&resource->index, false, wait_of(cache));
        parts_cover(resource);
    }
    consul_index_read(&resource->index, resource->snapshot->index);
    resource->watch_begins = resource->state == WATCH_NONE;
    resource->state = WATCH_LIVE;
    if (resource->watch_begins)
        pause_watch(resource, FIRST_PAUSE_MS * MS);
    else if (resource_start_blocking_query(resource) < 0)
        resource_end_watch(resource); /* nothing was told under it yet */
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

bool resource_same_content(const struct consul_resource *resource, const struct consul_snapshot *a,
                           const struct consul_snapshot *b)
{
    if (resource->format == CONSUL_KV)
        return kv_list_same(&a->kv, &b->kv);
    return a->hash == b->hash;
}

bool resource_knew_more(const struct consul_resource *resource, const struct http_request *request, uint64_t index)
{
    return resource->snapshot && index < resource->snapshot->index && request->sent_ns >= resource->arrived_ns;
}

/*
 * cache.lock is held. Takes the decoded answer; *ret_before and *ret_after, counted, are set only if the content
 * changed. An answer that was overtaken by a later request's is dropped.
 */
static void accept(struct consul_resource *resource, struct consul_snapshot *snapshot,
                   const struct http_request *request, bool stale, struct consul_snapshot **ret_before,
                   struct consul_snapshot **ret_after)
{
    /* What another server than the leader shows may be of before the request was sent. */
    uint64_t sent_ns = stale ? resource->sent_ns : request->sent_ns;
    bool changed, behind = resource->snapshot && snapshot->index < resource->snapshot->index;

    resource->error = 0;
    resource->too_big_pause_ns = 0;
    if ((resource->snapshot && sent_ns < resource->sent_ns && snapshot->index <= resource->snapshot->index) ||
        (behind && request->sent_ns < resource->arrived_ns)) {
        resource->cache->dropped++;
        consul_snapshot_unref(snapshot);
        return;
    }
    if (sent_ns >= resource->floor_index_ns || behind)
        resource->floor_index = 0; /* it is reached, or indexes mean something else by now (a restore) */
    trim_freed(&resource->cache->trim, request->answer.len, request->done_ns);
    apply_pending(resource, snapshot, request->sent_ns, stale);
    changed = !resource->snapshot || !resource_same_content(resource, resource->snapshot, snapshot);
    if (snapshot->filtered)
        resource->cache->filtered++;
    filtered_note(&resource->cache->filtered_paths, resource->path, snapshot->filtered);
    if (!changed) {
        snapshot->seen_ns = resource->snapshot->seen_ns;
        snapshot->hash = resource->format == CONSUL_KV ? snapshot->hash : resource->snapshot->hash;
    } else {
        *ret_before = resource->snapshot ? consul_snapshot_ref(resource->snapshot) : NULL;
        *ret_after = consul_snapshot_ref(snapshot);
    }
    set_snapshot(resource, snapshot);
    resource->sent_ns = sent_ns > resource->sent_ns ? sent_ns : resource->sent_ns;
    if (!stale)
        resource->fetched_ns = request->done_ns;
    resource->arrived_ns = resource->good_ns = request->done_ns;
}

/* cache.lock is held. Not to be taken: the server does not know what it should, or less than we do. */
static bool is_unreliable(const struct consul_resource *resource, const struct http_request *request,
                          const struct consul_snapshot *snapshot)
{
    const struct cache *cache = resource->cache;
    uint64_t allowed = cache->options.stale_ms < LAST_CONTACT_MAX_MS ? cache->options.stale_ms : LAST_CONTACT_MAX_MS;

    if (request->tells_leader && !request->known_leader)
        return true;
    return request->last_contact_ms > allowed || snapshot->index < resource->index.index;
}

/*
 * cache.lock is held. The answer says that there is less than was known, of the resource or, if it is its first, in
 * parts: so it is after a restore, but a leader that has not caught up with its own log says so, too.
 */
static bool goes_back(const struct consul_resource *resource, const struct http_request *request,
                      const struct consul_snapshot *snapshot)
{
    if (!(resource->flags & CONSUL_BLOCKS))
        return false;
    return resource->snapshot ? resource_knew_more(resource, request, snapshot->index)
                              : parts_knew_more(resource, request, snapshot->index);
}

/* The newest snapshot as it was before the answer, for decode() to share entries with. */
static struct consul_snapshot *peek_locked(struct consul_resource *resource)
{
    struct consul_snapshot *snapshot;

    pthread_mutex_lock(&resource->cache->lock);
    snapshot = resource->snapshot ? consul_snapshot_ref(resource->snapshot) : NULL;
    pthread_mutex_unlock(&resource->cache->lock);
    return snapshot;
}

static int errno_of(const struct consul_resource *resource, const struct http_request *request)
{
    if (resource->format == CONSUL_KV && request->net == CONSUL_NET_OK && request->status == 404)
        return 0;
    return http_errno(request);
}

static size_t news_in(enum consul_format format, const struct consul_snapshot *old, const struct consul_snapshot *new)
{
    if (!old)
        return new->len;
    if (format == CONSUL_KV)
        return kv_list_news(&old->kv, old->index, &new->kv);
    return old->hash == new->hash ? 0 : new->len; /* of other answers it is not known which part is new */
}

/* *ret_news is roughly how many of its bytes tell what was not known before. */
static int decode_answer(struct consul_resource *resource, const struct http_request *request,
                         struct consul_snapshot **ret_snapshot, size_t *ret_news)
{
    int err = errno_of(resource, request);
    struct consul_snapshot *old;

    if (err < 0)
        return err;
    old = peek_locked(resource);
    err = snapshot_decode(resource->format, resource->flags, request, old, ret_snapshot);
    if (err == 0)
        *ret_news = news_in(resource->format, old, *ret_snapshot);
    consul_snapshot_unref(old);
    return err;
}

/* Was another datacenter asked than that of the configuration? */
static bool is_elsewhere(const struct cache *cache, const char *path)
{
    char *datacenter = url_parameter(path, "dc");
    bool elsewhere = datacenter && (!cache->datacenter || strcmp(cache->datacenter, datacenter) != 0);

    free(datacenter);
    return elsewhere;
}

void cache_note_contact(struct cache *cache, const struct http_request *request, int err)
{
    bool lost =
        request->net != CONSUL_NET_OK && request->net != CONSUL_NET_TOO_BIG && request->net != CONSUL_NET_CANCELLED;
    const char *line = NULL;

    /* An agent without servers or leader answers, but knows nothing. */
    if (request->net == CONSUL_NET_OK && err < 0 && request->status >= 500 && http_is_transient(request))
        lost = true;
    if (request->net == CONSUL_NET_CANCELLED || (lost && is_elsewhere(cache, request->path)))
        return;
    pthread_mutex_lock(&cache->lock);
    if (lost && cache->disconnected_ns == 0) {
        cache->disconnected_ns = request->done_ns;
        cache->disconnected_realtime_ns = realtime_ns();
        if (cache->contacted)
            line = "Consul does not answer; what is known is served as stale= allows";
    } else if (!lost && cache->disconnected_ns != 0 && request->sent_ns >= cache->disconnected_ns) {
        cache->disconnected_ns = cache->disconnected_realtime_ns = 0;
        cache->broke_all = false;
        line = cache->contacted ? "Consul answers again" : "Consul answers";
    }
    cache->contacted |= !lost;
    if (!lost && request->index > 0)
        cache->known_leader = request->known_leader;
    pthread_mutex_unlock(&cache->lock);
    if (line)
        say(cache, CONSUL_LOG_WARNING, line);
}

void cache_tell_ended(struct cache *cache, struct consul_resource *loser)
{
    if (!loser)
        return;
    tell_watch_ended(cache, loser);
    consul_resource_unref(loser);
}

/* cache.lock is held. */
static void is_too_big(struct consul_resource *resource, uint64_t now)
{
    bool in_parts = resource->flags & CONSUL_IN_PARTS;
    uint64_t first = in_parts ? TOO_BIG_FIRST_IN_PARTS : TOO_BIG_FIRST;
    uint64_t last = in_parts ? TOO_BIG_LAST_IN_PARTS : TOO_BIG_LAST;
    uint64_t pause = resource->too_big_pause_ns * 2;

    pause = pause < first ? first : pause > last ? last : pause;
    resource->too_big_pause_ns = pause;
    resource->too_big_until_ns = now + pause;
}

/* An answer on its way from the network to its resource. */
struct received {
    struct work work; /* first */
    struct http_request *request;
    void (*take)(struct received *received); /* frees the request, and gives the resource back */
    int err;
    struct consul_snapshot *snapshot; /* counted; with err 0 */
    size_t news;
};

static void decode_received(struct work *work)
{
    struct received *received = (struct received *)work;

    received->err = decode_answer(received->request->arg, received->request, &received->snapshot, &received->news);
}

static void decoded(struct work *work, bool ran)
{
    struct received *received = (struct received *)work;
    struct cache *cache = ((struct consul_resource *)received->request->arg)->cache;
    bool closing;

    pthread_mutex_lock(&cache->lock);
    closing = cache->closing;
    pthread_mutex_unlock(&cache->lock);
    if (!ran || closing) { /* as if it had not come any more */
        if (ran)
            consul_snapshot_unref(received->snapshot);
        received->snapshot = NULL;
        received->request->net = CONSUL_NET_CANCELLED;
        received->err = -ECANCELED;
    }
    received->take(received);
    free(received);
}

static void receive(struct http_request *request, void (*take)(struct received *received))
{
    struct cache *cache = ((struct consul_resource *)request->arg)->cache;
    struct received here = {.request = request, .take = take}, *apart = NULL;

    if (request->answer.len >= DECODE_APART)
        apart = malloc(sizeof(*apart));
    if (apart) {
        *apart = here;
        apart->work.run = decode_received;
        apart->work.done = decoded;
        worker_submit(cache->worker, &apart->work);
    } else {
        decode_received(&here.work);
        take(&here);
    }
}

static bool is_dubious(struct consul_resource *resource, const struct http_request *request,
                       const struct consul_snapshot *snapshot)
{
    bool dubious;

    pthread_mutex_lock(&resource->cache->lock);
    dubious = !resource->get_consistent && goes_back(resource, request, snapshot);
    pthread_mutex_unlock(&resource->cache->lock);
    return dubious;
}

static void take_got(struct received *received)
{
    struct http_request *request = received->request;
    struct consul_resource *resource = request->arg, *loser = NULL;
    struct cache *cache = resource->cache;
    struct consul_snapshot *snapshot = received->snapshot, *before = NULL, *after = NULL;
    struct consul_waiter *woken = NULL;
    bool ended = false, dubious = false, closing;
    int err = received->err;

    cache_note_contact(cache, request, err);
    if (err == 0 && !(dubious = is_dubious(resource, request, snapshot)))
        parts_hand_over(resource, snapshot, request);
    pthread_mutex_lock(&cache->lock);
    resource->get = NULL;
    if (dubious) {
        cache->dropped++;
        consul_snapshot_unref(snapshot);
        resource->confirm = resource->get_again = true;
    } else if (err == 0) {
        accept(resource, snapshot, request, false, &before, &after);
        if (resource->sent_ns >= resource->not_before_ns)
            maybe_watch(resource, &loser);
        if (resource->state == WATCH_LIVE && !worth_watching(resource))
            ended = resource_end_watch(resource);
    } else {
        resource->error = err;
        resource->error_ns = request->done_ns;
        if (request->net == CONSUL_NET_TOO_BIG)
            is_too_big(resource, request->done_ns);
        if (resource->state == WATCH_BROKEN) { /* the attempt to reconnect failed too */
            resource->refetch_ns =
                consul_now_ns() + consul_index_failed(&resource->index, false, 0, (uint32_t)rand()) * MS;
            cache_set_timer(cache, resource->refetch_ns);
        }
    }
    if (resource->get_again && !cache->closing && resource_start_get(resource) == 0)
        ; /* who waits now began after this request was sent, or changed the resource himself */
    else
        woken = waiters_take(resource);
    closing = cache->closing;
    pthread_mutex_unlock(&cache->lock);

    cache_tell_changed(cache, resource, before, after);
    if (ended)
        tell_watch_ended(cache, resource);
    cache_tell_ended(cache, loser);
    waiters_wake(woken, closing ? -ECANCELED : 0);
    consul_resource_unref(resource);
    http_request_free(request);
}

static void on_get(struct http_request *request) { receive(request, take_got); }

/* cache.lock is held: the blocking query failed. The next attempt is a GET that answers at once. */
static void watch_broke(struct consul_resource *resource, const struct http_request *request)
{
    struct cache *cache = resource->cache;
    bool early_eof = request->net == CONSUL_NET_RESET;
    unsigned elapsed_ms = (unsigned)((request->done_ns - request->sent_ns) / MS);
    uint64_t delay_ms = consul_index_failed(&resource->index, early_eof, elapsed_ms, (uint32_t)rand());

    resource->state = WATCH_BROKEN;
    resource->broken_ns = request->done_ns;
    resource->refetch_ns = consul_now_ns() + delay_ms * MS;
    cache_set_timer(cache, resource->refetch_ns);
    cache_set_timer(cache, resource->broken_ns + BROKEN_GRACE);
}

/* What fetching the resource once more costs, roughly. */
static uint64_t fetch_cost_ns(const struct consul_resource *resource)
{
    return resource->snapshot->len * NS_PER_LARGE_BYTE;
}

/* A large answer that changes again within a few times its cost is not fetched again for each change. */
static bool changes_too_fast(struct consul_resource *resource, uint64_t now)
{
    uint64_t before = resource->changed_ns;

    resource->changed_ns = now;
    return resource->snapshot->len > LARGE_ANSWER && before &&
           now - before < COSTS_BETWEEN_CHANGES * fetch_cost_ns(resource);
}

/* cache.lock is held; what somebody waits for is not put off. */
static bool tells_own(const struct consul_resource *resource, uint64_t now)
{
    return resource->prefix && writes_often(resource->cache, now) && is_new_enough(resource);
}

static void take_watched(struct received *received)
{
    struct http_request *request = received->request;
    struct consul_resource *resource = request->arg;
    struct cache *cache = resource->cache;
    struct consul_snapshot *snapshot = received->snapshot, *before = NULL, *after = NULL;
    struct consul_waiter *woken = NULL;
    bool ended = false, demoted, behind;
    unsigned pause_ms = 0;
    int err = received->err;

    if (request->net != CONSUL_NET_RESET) /* a broken connection is judged by the attempt to reconnect */
        cache_note_contact(cache, request, err);
    pthread_mutex_lock(&cache->lock);
    if (resource->watch != request) { /* ended in the meantime */
        consul_snapshot_unref(snapshot);
        goto out;
    }
    resource->watch = NULL;
    if (err < 0) {
        if (err == -EFBIG || err == -EACCES || err == -EINVAL || err == -EOPNOTSUPP) {
            ended = resource_end_watch(resource);
            resource->error = err;
            resource->error_ns = request->done_ns;
            if (request->net == CONSUL_NET_TOO_BIG)
                is_too_big(resource, request->done_ns);
        } else {
            watch_broke(resource, request);
        }
        goto out;
    }
    behind = resource_knew_more(resource, request, snapshot->index);
    if (resource->watch_stale ? is_unreliable(resource, request, snapshot) : behind) {
        cache->dropped++;
        if (resource->watch_stale)
            cache->consistent_until_ns = request->done_ns + CONSISTENT_FOR;
        resource->confirm = behind;
        consul_snapshot_unref(snapshot);
        watch_broke(resource, request);
        goto out;
    }
    /* The query was sent long ago and answered now: what it shows is as new as its answer, save what this client wrote
     * while the answer was on its way; apply_pending() knows that. */
    (void)consul_index_answer(&resource->index, snapshot->index, (unsigned)((request->done_ns - request->sent_ns) / MS),
                              (uint32_t)rand(), &pause_ms);
    /* A wait that ended with its time brought the whole as well, but that is rare. */
    demoted = watch_cost_charge(&resource->cost, snapshot->len, received->news, request->done_ns);
    if (resource->watch_stale && resource->snapshot && snapshot->index < resource->snapshot->index) {
        /* The leader has told more in the meantime. */
        cache->dropped++;
        (void)consul_index_read(&resource->index, resource->snapshot->index);
        consul_snapshot_unref(snapshot);
    } else {
        accept(resource, snapshot, request, resource->watch_stale, &before, &after);
    }
    if (is_new_enough(resource))
        resource->refetch_ns = 0; /* what was due in case it did not come */
    if (!worth_watching(resource)) {
        ended = resource_end_watch(resource);
    } else if (demoted) {
        ended = resource_end_watch(resource);
        resource->was_demoted = true;
        cache->demotions++;
    } else if (pause_ms > 0 || (after && changes_too_fast(resource, request->done_ns))) {
        pause_watch(resource, pause_ms * MS + fetch_cost_ns(resource));
    } else if (tells_own(resource, request->done_ns)) {
        pause_watch(resource, OWN_PAUSE_MS * MS);
    } else if (resource_start_blocking_query(resource) < 0) {
        ended = resource_end_watch(resource);
    }
    if (resource->first && !resource->get && (!resource->refetch_ns || resource->watch_paused))
        woken = waiters_take(resource);
out:
    pthread_mutex_unlock(&cache->lock);
    cache_tell_changed(cache, resource, before, after);
    if (ended)
        tell_watch_ended(cache, resource);
    waiters_wake(woken, 0);
    consul_resource_unref(resource);
    http_request_free(request);
}

static void on_watch(struct http_request *request) { receive(request, take_watched); }

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

/* Which failures mean that the agent is not there, rather than that it says no. */
static bool is_absence_of_agent(int err)
{
    return err != -EACCES && err != -EINVAL && err != -EOPNOTSUPP && err != -EFBIG && err != -ENOENT;
}

static bool stale_allowed(const struct consul_resource *resource, uint64_t now)
{
    uint64_t stale_ms = resource->cache->options.stale_ms;

    if (!resource->snapshot || resource->sent_ns < resource->floor_ns || stale_ms == 0)
        return false;
    return stale_ms == CONSUL_STALE_FOREVER || now - resource->good_ns <= stale_ms * MS;
}

static bool is_live(const struct consul_resource *resource, uint64_t now)
{
    return resource->state == WATCH_LIVE ||
           (resource->state == WATCH_BROKEN && resource->broken_ns && now < resource->broken_ns + BROKEN_GRACE &&
            !resource->cache->disconnected_ns);
}

/* cache.lock is held. Ends a pause of the watch. */
static void go_on_watching(struct consul_resource *resource)
{
    if (!resource->watch_paused || resource_start_blocking_query(resource) < 0)
        return;
    resource->refetch_ns = 0;
}

/*
 * cache.lock is held. A blocking query is about to bring what is waited for: an index that is known to be there. A
 * server that is not the leader may be late: then the leader is asked.
 */
static bool is_coming(struct consul_resource *resource, uint64_t now)
{
    uint64_t late_ns = resource->floor_index_ns + FLOOR_PATIENCE;

    if (resource->state != WATCH_LIVE || !resource->snapshot || resource->sent_ns < resource->not_before_ns ||
        resource->snapshot->index >= resource->floor_index || resource->cache->disconnected_ns)
        return false;
    go_on_watching(resource);
    if (!resource->watch)
        return false;
    if (!resource->watch_stale)
        return true;
    if (now >= late_ns)
        return false;
    resource->refetch_ns = late_ns;
    cache_set_timer(resource->cache, late_ns);
    return true;
}

int consul_resource_read(struct consul_resource *resource, uint64_t since_ns, struct consul_waiter *waiter,
                         struct consul_snapshot **ret_snapshot, enum consul_freshness *ret_freshness)
{
    struct cache *cache = resource->cache;
    uint64_t now = consul_now_ns();
    bool serve = false, watched = false, stale = false, enqueued = false;
    int r = 0;

    pthread_mutex_lock(&cache->lock);
    resource->used_ns = now;
    if (is_new_enough(resource)) {
        watched = is_live(resource, now);
        serve = watched || resource->fetched_ns >= since_ns;
        /* A strict mount knows that the agent is gone before its blocking query does. */
        if (watched && cache->disconnected_ns && resource->good_ns < cache->disconnected_ns &&
            !stale_allowed(resource, now))
            serve = resource->fetched_ns >= since_ns;
    }
    if (serve) {
        cache->hits++;
    } else if (now < resource->too_big_until_ns) {
        r = -EFBIG;
    } else if (resource->error && resource->error_ns >= since_ns) {
        serve = is_absence_of_agent(resource->error) && stale_allowed(resource, now);
        r = serve ? 0 : resource->error;
        stale = serve;
    } else if (cache->closing) {
        r = -ECANCELED;
    } else {
        if (!resource->get && !is_coming(resource, now)) {
            r = start_get(resource, http_enqueue);
            enqueued = r == 0;
        } else if (resource->get && resource->get_since_ns < resource->not_before_ns) {
            resource->get_again = true;
        }
        serve = stale = r == 0 && cache->disconnected_ns && stale_allowed(resource, now);
        cache->misses += !serve;
        if (r == 0 && !serve) {
            r = -EINPROGRESS;
            if (waiter)
                resource_add_waiter(resource, waiter);
        }
    }
    if (serve) {
        *ret_snapshot = consul_snapshot_ref(resource->snapshot);
        *ret_freshness = stale ? CONSUL_STALE : watched ? CONSUL_WATCHED : CONSUL_FRESH;
        cache->stale_served += stale;
    }
    pthread_mutex_unlock(&cache->lock);
    if (enqueued)
        http_send(cache->http);
    return r;
}

bool consul_resource_is_newer(struct consul_resource *resource, uint64_t since_ns)
{
    bool newer;

    pthread_mutex_lock(&resource->cache->lock);
    newer = is_new_enough(resource) && resource->fetched_ns >= since_ns;
    pthread_mutex_unlock(&resource->cache->lock);
    return newer;
}

bool consul_resource_is_watched(struct consul_resource *resource)
{
    bool watched;

    pthread_mutex_lock(&resource->cache->lock);
    watched = resource->state != WATCH_NONE;
    pthread_mutex_unlock(&resource->cache->lock);
    return watched;
}

bool consul_resource_is_at_hand(struct consul_resource *resource, uint64_t since_ns)
{
    uint64_t now = consul_now_ns();
    bool known;

    pthread_mutex_lock(&resource->cache->lock);
    known = resource->get || resource->state != WATCH_NONE || now < resource->too_big_until_ns ||
            (resource->snapshot && resource->cache->disconnected_ns) ||
            (resource->error && resource->error_ns >= since_ns) ||
            (is_new_enough(resource) && resource->fetched_ns >= since_ns);
    pthread_mutex_unlock(&resource->cache->lock);
    return known;
}

bool consul_resource_is_demoted(struct consul_resource *resource)
{
    bool demoted;

    pthread_mutex_lock(&resource->cache->lock);
    demoted = watch_cost_is_demoted(&resource->cost, consul_now_ns());
    pthread_mutex_unlock(&resource->cache->lock);
    return demoted;
}

bool consul_resource_keep(struct consul_resource *resource)
{
    bool watched;

    pthread_mutex_lock(&resource->cache->lock);
    resource->used_ns = consul_now_ns();
    watched = resource->state != WATCH_NONE;
    if (!watched && !resource->get && !resource->cache->closing)
        (void)resource_start_get(resource);
    pthread_mutex_unlock(&resource->cache->lock);
    return watched;
}

struct consul_snapshot *consul_resource_peek(struct consul_resource *resource, bool *ret_watched)
{
    struct consul_snapshot *snapshot;

    pthread_mutex_lock(&resource->cache->lock);
    snapshot = resource->snapshot ? consul_snapshot_ref(resource->snapshot) : NULL;
    *ret_watched = is_live(resource, consul_now_ns()) && is_new_enough(resource);
    pthread_mutex_unlock(&resource->cache->lock);
    return snapshot;
}

void consul_resource_retire(struct consul_resource *resource)
{
    pthread_mutex_lock(&resource->cache->lock);
    if (resource_holders(resource) == 1 && !resource->first) {
        (void)resource_end_watch(resource); /* nobody is to be told: nothing rests on it */
        resource->used_ns = 0;
    }
    pthread_mutex_unlock(&resource->cache->lock);
}

int consul_resource_error(struct consul_resource *resource)
{
    int err;

    pthread_mutex_lock(&resource->cache->lock);
    err = resource->error;
    pthread_mutex_unlock(&resource->cache->lock);
    return err;
}

void cache_drop(struct cache *cache)
{
    struct consul_resource *told[64];
    size_t n;

    /* In portions: nobody is told while the lock is held. */
    do {
        n = 0;
        pthread_mutex_lock(&cache->lock);
        for (struct consul_resource *r = cache->all; r && n < sizeof(told) / sizeof(*told); r = r->next) {
            if (resource_end_watch(r)) {
                r->refs++;
                told[n++] = r;
            }
            r->used_ns = 0; /* the sweep frees it if nobody holds it */
            watch_cost_forget(&r->cost);
            r->too_big_until_ns = 0;
            if (!r->get)
                set_snapshot(r, NULL);
        }
        cache->swept_ns = 0;
        pthread_mutex_unlock(&cache->lock);
        for (size_t i = 0; i < n; i++)
            cache_tell_ended(cache, told[i]);
    } while (n > 0);
    http_wakeup(cache->http);
}

/* ---- beginning and end --------------------------------------------------------------------------------------------
 */

/*
 * `watches` connections in all, so that a host's other clients keep their share of http_max_conns_per_client: an eighth
 * of them (2 to 16) serves ordinary requests, the rest may carry blocking queries. A sixteenth of these, at least one,
 * may wait for locks; where there are few the one is taken from the reserve, of which one is always left.
 */
void cache_split_connections(unsigned watches, unsigned *ret_connections, unsigned *ret_watches,
                             unsigned *ret_lock_waits)
{
    unsigned reserve = watches / 8 < 2 ? 2 : watches / 8 > 16 ? 16 : watches / 8;

    *ret_watches = watches > reserve * 2 ? watches - reserve : watches;
    *ret_connections = *ret_watches + reserve;
    *ret_lock_waits = *ret_watches >= 16 ? *ret_watches / 16 : 1;
    if (*ret_watches >= 16)
        *ret_watches -= *ret_lock_waits;
}

int cache_new(const struct consul_options *options, struct cache **ret_cache)
{
    struct cache *cache = calloc(1, sizeof(*cache));
    unsigned connections, lock_waits;

    if (!cache)
        return -ENOMEM;
    cache->options = *options;
    cache_split_connections(options->watches, &connections, &cache->watch_limit, &lock_waits);
    cache->bucket_n = 256;
    cache->buckets = calloc(cache->bucket_n, sizeof(*cache->buckets));
    if (!cache->buckets || abandoned_init(&cache->abandoned, 2 * cache->watch_limit) < 0) {
        free(cache->buckets);
        free(cache);
        return -ENOMEM;
    }
    pthread_mutex_init(&cache->lock, NULL);
    cache->swept_ns = consul_now_ns();
    *ret_cache = cache;
    return 0;
}

static void wake_network(void *arg) { http_wakeup(((struct cache *)arg)->http); }

int cache_set_http(struct cache *cache, struct http *http)
{
    cache->http = http;
    cache->worker = worker_new(wake_network, cache);
    return cache->worker ? 0 : -ENOMEM;
}

void cache_set_datacenter(struct cache *cache, const char *datacenter) { cache->datacenter = datacenter; }

void cache_close(struct cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    cache->closing = true;
    pthread_mutex_unlock(&cache->lock);
}

void cache_cancel_waiters(struct cache *cache)
{
    struct consul_waiter *all;

    if (cache->worker)
        worker_stop(cache->worker);
    pthread_mutex_lock(&cache->lock);
    all = waiters_take_overdue(cache, UINT64_MAX);
    pthread_mutex_unlock(&cache->lock);
    waiters_wake(all, -ECANCELED);
}

void cache_free(struct cache *cache)
{
    if (!cache)
        return;
    while (cache->all) {
        struct consul_resource *resource = cache->all;

        table_remove(cache, resource);
        resource_free(resource);
    }
    worker_free(cache->worker);
    filtered_clear(&cache->filtered_paths);
    abandoned_clear(&cache->abandoned);
    free(cache->buckets);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

char *cache_filtered(struct cache *cache)
{
    char *text;

    pthread_mutex_lock(&cache->lock);
    text = filtered_text(&cache->filtered_paths);
    pthread_mutex_unlock(&cache->lock);
    return text;
}

/* cache.lock is held. */
static void count_by_sort(const struct cache *cache, struct consul_stats *stats)
{
    uint64_t now = consul_now_ns();

    for (const struct consul_resource *r = cache->all; r; r = r->next) {
        stats->demoted += watch_cost_is_demoted(&r->cost, now);
        stats->too_large += now < r->too_big_until_ns;
        if (r->state == WATCH_NONE || !r->prefix)
            continue;
        if (r->format != CONSUL_KV)
            stats->watches_names++;
        else if (r->recursive)
            stats->watches_prefixes++;
        else
            stats->watches_keys++;
    }
}

void cache_add_stats(struct cache *cache, struct consul_stats *stats)
{
    pthread_mutex_lock(&cache->lock);
    count_by_sort(cache, stats);
    stats->evictions = cache->evicted;
    stats->abandoned = abandoned_count(&cache->abandoned, consul_now_ns());
    stats->idle_ended = cache->idle_ended;
    stats->demotions = cache->demotions;
    stats->promotions = cache->promotions;
    stats->watches = cache->watches;
    stats->resources = cache->n;
    stats->snapshot_bytes = cache->snapshot_bytes;
    stats->waiters = cache->waiters;
    stats->watches_ended = cache->ended;
    stats->cache_hits = cache->hits;
    stats->cache_misses = cache->misses;
    stats->dropped_answers = cache->dropped;
    stats->stale_served = cache->stale_served;
    stats->filtered = cache->filtered;
    stats->disconnected_since_ns = cache->disconnected_realtime_ns;
    stats->known_leader = cache->known_leader;
    pthread_mutex_unlock(&cache->lock);
}
