/*
 * What comes of the resource cache's requests: whether an answer is believed, what it changes, who is told, and whether
 * the resource is asked again.
 */
#include "kv.h"
#include "resource.h"
#include "snapshot.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A server that has not heard of the leader for longer is not believed, nor is any for a while. */
#define LAST_CONTACT_MAX_MS 5000
#define CONSISTENT_FOR (60 * SECOND)
/* An answer that exceeded its maximum is not tried again for so long; twice as long each time it is found so. */
#define TOO_BIG_FIRST (1 * SECOND)
#define TOO_BIG_LAST (64 * SECOND)
/* Where there are parts to read, nobody waits for it to become small, and to ask is dear: the server makes the whole
 * answer first. It is asked no more than that one client keeps it busy for a hundred-thousandth of the time. */
#define TOO_BIG_FIRST_IN_PARTS (600 * SECOND)
#define TOO_BIG_LAST_IN_PARTS (9600 * SECOND)
#define TOO_BIG_SHARE 100000
/* What takes longer to decode than to hand over to another thread. */
#define DECODE_APART ((size_t)128 * 1024)
/* A watched answer of more than this is not fetched again at once: its prefix may change faster than it can be read. */
#define LARGE_ANSWER (64 * 1024)
#define NS_PER_LARGE_BYTE 50
#define COSTS_BETWEEN_CHANGES 4
/* While this client writes to /v1/kv again and again, most of what a watch there tells is what it wrote itself: the
 * watch rests so long after each answer. */
#define OWN_PAUSE_MS 4

/* ---- who is told ------------------------------------------------------------------------------------------------- */

void cache_tell_changed(const struct cache *cache, struct consul_resource *resource, struct consul_snapshot *before,
                        struct consul_snapshot *after)
{
    if (after && cache->options.changed)
        cache->options.changed(cache->options.changed_arg, resource, CONSUL_CHANGED, before, after);
    consul_snapshot_unref(before);
    consul_snapshot_unref(after);
}

struct news_item {
    struct consul_resource *resource; /* counted, as are the snapshots */
    struct consul_snapshot *before, *after;
    struct news_item *next;
};

bool news_add(struct news *news, struct consul_resource *resource, struct consul_snapshot *after)
{
    struct news_item *item = malloc(sizeof(*item));

    if (!item)
        return false;
    resource->refs++;
    *item = (struct news_item){resource, consul_snapshot_ref(resource->snapshot), consul_snapshot_ref(after), NULL};
    *news->end = item;
    news->end = &item->next;
    return true;
}

void cache_tell_news(const struct cache *cache, struct news *news)
{
    struct news_item *item;

    while ((item = news->first)) {
        news->first = item->next;
        cache_tell_changed(cache, item->resource, item->before, item->after);
        consul_resource_unref(item->resource);
        free(item);
    }
    news->end = &news->first;
}

static void tell_watch_ended(const struct cache *cache, struct consul_resource *resource)
{
    if (cache->options.changed)
        cache->options.changed(cache->options.changed_arg, resource, CONSUL_WATCH_ENDED, NULL, NULL);
}

void cache_tell_ended(struct cache *cache, struct consul_resource *loser)
{
    if (!loser)
        return;
    tell_watch_ended(cache, loser);
    consul_resource_unref(loser);
}

static void say(const struct cache *cache, enum consul_log_level level, const char *line)
{
    if (cache->options.log)
        cache->options.log(cache->options.log_arg, level, line);
}

/* ---- what an answer changes -------------------------------------------------------------------------------------- */

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

/* ---- whether the agent is there ---------------------------------------------------------------------------------- */

/* Was another datacenter asked than that of the configuration? */
static bool is_elsewhere(const struct cache *cache, const char *path)
{
    char *datacenter = url_parameter(path, "dc");
    bool elsewhere = datacenter && (!cache->datacenter || strcmp(cache->datacenter, datacenter) != 0);

    free(datacenter);
    return elsewhere;
}

/* cache.lock is held. */
static void note_trip(struct cache *cache, uint64_t took)
{
    if (cache->trip_ns == 0 || (took > 0 && took < cache->trip_ns))
        cache->trip_ns = took;
    else if (took > 0)
        cache->trip_ns += (took - cache->trip_ns) / 64;
}

void cache_note_served(struct cache *cache, const struct http_request *request)
{
    pthread_mutex_lock(&cache->lock);
    note_trip(cache, request->served_ns);
    pthread_mutex_unlock(&cache->lock);
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

/* ---- whether it is believed -------------------------------------------------------------------------------------- */

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

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

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

/* An answer on its way from the network to its resource. */
struct received {
    struct work work; /* first */
    struct http_request *request;
    void (*take)(struct received *received); /* frees the request, and gives the resource back */
    int err;
    struct consul_snapshot *snapshot; /* counted; with err 0 */
    size_t news;
    char *common; /* of an answer that was too large, what its keys begin with; or NULL */
};

static void decode_received(struct work *work)
{
    struct received *received = (struct received *)work;
    const struct http_request *request = received->request;
    const struct consul_resource *resource = request->arg;

    received->err = decode_answer(request->arg, request, &received->snapshot, &received->news);
    if (request->net == CONSUL_NET_TOO_BIG && resource->format == CONSUL_KV && request->answer.len > 0)
        received->common = kv_text_common(request->answer.data, request->answer.len);
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
    free(received->common);
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
        free(here.common);
    }
}

/* cache.lock is held. */
static void note_too_big(struct consul_resource *resource, struct received *received)
{
    bool in_parts = resource->flags & CONSUL_IN_PARTS;
    uint64_t first = in_parts ? TOO_BIG_FIRST_IN_PARTS : TOO_BIG_FIRST;
    uint64_t last = in_parts ? TOO_BIG_LAST_IN_PARTS : TOO_BIG_LAST;
    uint64_t pause = resource->too_big_pause_ns * 2;

    pause = pause < first ? first : pause > last ? last : pause;
    resource->too_big_pause_ns = pause;
    if (in_parts && pause < received->request->served_ns * TOO_BIG_SHARE)
        pause = received->request->served_ns * TOO_BIG_SHARE;
    resource->too_big_ns = received->request->done_ns;
    resource->too_big_seen_ns = realtime_ns();
    resource->too_big_until_ns = resource->too_big_ns + pause;
    free(resource->too_big_in);
    resource->too_big_in = received->common;
    received->common = NULL;
    too_big_add(resource->cache, resource);
}

/* ---- GETs -------------------------------------------------------------------------------------------------------- */

static bool is_dubious(struct consul_resource *resource, const struct http_request *request,
                       const struct consul_snapshot *snapshot)
{
    bool dubious;

    pthread_mutex_lock(&resource->cache->lock);
    dubious = !resource->get_consistent && goes_back(resource, request, snapshot);
    pthread_mutex_unlock(&resource->cache->lock);
    return dubious;
}

/* cache.lock is held. */
static void note_served(struct consul_resource *resource, const struct http_request *request)
{
    uint64_t took = request->served_ns;

    note_trip(resource->cache, took);
    if (took > 0 && resource->prefix && resource->format != CONSUL_KV)
        kv_note_names(resource, took);
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
        note_served(resource, request);
        accept(resource, snapshot, request, false, &before, &after);
        if (resource->sent_ns >= resource->not_before_ns)
            resource_maybe_watch(resource, &loser);
        if (resource->state == WATCH_LIVE && !resource_worth_watching(resource))
            ended = resource_end_watch(resource);
    } else {
        resource->error = err;
        resource->error_ns = request->done_ns;
        if (request->net == CONSUL_NET_TOO_BIG)
            note_too_big(resource, received);
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

void resource_on_get(struct http_request *request) { receive(request, take_got); }

/* ---- blocking queries -------------------------------------------------------------------------------------------- */

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

/*
 * cache.lock is held. For the names in a directory the server goes through all that is below it, once for the answer
 * and once to find that there is nothing newer, of which the answer shows nothing.
 */
static size_t work_as_bytes(const struct consul_resource *resource)
{
    return 2 * cache_work_ns(resource->cache, resource->served_ns) / NS_PER_LARGE_BYTE;
}

size_t consul_resource_weight(struct consul_resource *resource)
{
    size_t weight;

    pthread_mutex_lock(&resource->cache->lock);
    weight = (resource->snapshot ? resource->snapshot->len : 0) + work_as_bytes(resource);
    pthread_mutex_unlock(&resource->cache->lock);
    return weight;
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
    return resource->prefix && writes_often(resource->cache, now) && resource_is_new_enough(resource);
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
                note_too_big(resource, received);
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
    demoted =
        watch_cost_charge(&resource->cost, snapshot->len + work_as_bytes(resource), received->news, request->done_ns);
    if (resource->watch_stale && resource->snapshot && snapshot->index < resource->snapshot->index) {
        /* The leader has told more in the meantime. */
        cache->dropped++;
        (void)consul_index_read(&resource->index, resource->snapshot->index);
        consul_snapshot_unref(snapshot);
    } else {
        accept(resource, snapshot, request, resource->watch_stale, &before, &after);
    }
    if (resource_is_new_enough(resource))
        resource->refetch_ns = 0; /* what was due in case it did not come */
    if (!resource_worth_watching(resource)) {
        ended = resource_end_watch(resource);
    } else if (demoted) {
        ended = resource_end_watch(resource);
        resource->was_demoted = true;
        cache->demotions++;
    } else if (pause_ms > 0 || (after && changes_too_fast(resource, request->done_ns))) {
        resource_pause_watch(resource, pause_ms * MS + fetch_cost_ns(resource));
    } else if (tells_own(resource, request->done_ns)) {
        resource_pause_watch(resource, OWN_PAUSE_MS * MS);
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

void resource_on_watch(struct http_request *request) { receive(request, take_watched); }
