/*
 * The resource cache: one struct consul_resource for each GET URL, its newest snapshot, its watch and who waits for it.
 *
 * A resource is fresh for somebody who began at `since`
 *  - while it is watched: a blocking query on it is outstanding (or pauses, watch_paused), or broke less than
 *    BROKEN_GRACE ago;
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
 *  - state == WATCH_NONE if and only if it is not counted in cache.watches; then watch == NULL;
 *  - an answer never replaces the snapshot of a request that was sent later;
 *  - waiters are queued only while a GET is under way or due (refetch_ns).
 *
 * Threads: everything in a resource is guarded by cache.lock, save what is marked constant. Answers are decoded without
 * it, by the network thread, or, where that takes long, by one that others need not wait for (worker.h); then they
 * count as under way until they are taken. Callbacks are made on the network thread with no lock held. Lock order:
 * cache.lock, then http's.
 */
#include "resource.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FLOOR_PATIENCE (100 * MS)

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

/* A strict mount knows that the agent is gone before its blocking query does. */
static bool is_cut_off(const struct consul_resource *resource, uint64_t now)
{
    const struct cache *cache = resource->cache;

    return cache->disconnected_ns && resource->good_ns < cache->disconnected_ns && !stale_allowed(resource, now);
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
    resource_go_on_watching(resource);
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
    if (resource_is_new_enough(resource)) {
        watched = is_live(resource, now);
        serve = (watched && !is_cut_off(resource, now)) || resource->fetched_ns >= since_ns;
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
            r = resource_enqueue_get(resource);
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
    newer = resource_is_new_enough(resource) && resource->fetched_ns >= since_ns;
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
            (resource_is_new_enough(resource) && resource->fetched_ns >= since_ns);
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

struct consul_snapshot *consul_resource_current(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;
    struct consul_snapshot *snapshot = NULL;
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    if (resource_is_new_enough(resource) && is_live(resource, now) && !is_cut_off(resource, now)) {
        resource->used_ns = now;
        cache->hits++;
        snapshot = consul_snapshot_ref(resource->snapshot);
    }
    pthread_mutex_unlock(&cache->lock);
    return snapshot;
}

struct consul_snapshot *consul_resource_peek(struct consul_resource *resource, bool *ret_watched)
{
    struct consul_snapshot *snapshot;

    pthread_mutex_lock(&resource->cache->lock);
    snapshot = resource->snapshot ? consul_snapshot_ref(resource->snapshot) : NULL;
    *ret_watched = is_live(resource, consul_now_ns()) && resource_is_new_enough(resource);
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
    kv_index_clear(&cache->kv);
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
    stats->root_names_ns = cache_work_ns(cache, cache->root_names_ns);
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
