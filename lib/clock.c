/*
 * The resource cache's clock: what is due (a request after a pause, the end of a break's grace), what is idle, and the
 * end of what may be served while Consul is away. On the network thread.
 */
#include "resource.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define IDLE_WATCH (600 * SECOND)       /* a watch that nobody asked for ends */
#define IDLE_UNREFERENCED (60 * SECOND) /* what nobody holds either is freed, and was watched until then */
#define SWEEP_EVERY (5 * SECOND)

/* cache.lock is held. Starts what is due; *ret_ended, counted, lost its watch. Returns when to look again. */
static uint64_t run_timers(struct cache *cache, uint64_t now, struct consul_resource **ended, size_t max, size_t *ret_n)
{
    struct consul_resource *after;
    uint64_t next = 0;
    size_t n = 0;

    for (struct consul_resource *r = cache->watched; r; r = after) {
        uint64_t due = 0;

        after = r->next_watched;
        if (r->refetch_ns && r->refetch_ns <= now) {
            r->refetch_ns = 0;
            if (r->watch_paused) {
                if (resource_start_blocking_query(r) < 0 && resource_end_watch(r) && n < max) {
                    r->refs++;
                    ended[n++] = r;
                }
            } else if (!r->get) {
                (void)resource_start_get(r);
            }
        }
        due = r->refetch_ns;
        if (r->state == WATCH_BROKEN && r->broken_ns) {
            uint64_t grace_end = r->broken_ns + BROKEN_GRACE;

            if (grace_end > now) {
                due = due && due < grace_end ? due : grace_end;
            } else if (n < max) {
                /* Still BROKEN, so that reconnecting goes on, but nothing may rely on it any more. */
                r->broken_ns = 0;
                r->good_ns = grace_end - BROKEN_GRACE;
                r->refs++;
                ended[n++] = r;
                cache->ended++;
            } else {
                due = now;
            }
        }
        if (due && (next == 0 || due < next))
            next = due;
    }
    *ret_n = n;
    return next;
}

/* cache.lock is held. Frees what nobody holds and nobody has asked for in a while. */
static void sweep(struct cache *cache, uint64_t now, struct consul_resource **ended, size_t max, size_t *n)
{
    struct consul_resource *next;

    cache->swept_ns = now;
    for (struct consul_resource *r = cache->all; r; r = next) {
        uint64_t idle = resource_holders(r) > 0 ? IDLE_WATCH : IDLE_UNREFERENCED;

        next = r->next;
        if (r->state != WATCH_NONE && (r->is_covered || r->used_ns + idle < now) && *n < max) {
            resource_end_watch(r);
            cache->idle_ended += !r->is_covered;
            r->is_covered = false;
            r->refetch_ns = 0;
            r->refs++;
            ended[(*n)++] = r;
        }
        if (r->refs > 0 || r->state != WATCH_NONE || r->get || r->first || now <= r->used_ns + IDLE_UNREFERENCED)
            continue;
        if (now < r->too_big_until_ns) { /* to find that out was dear */
            set_snapshot(r, NULL);
        } else {
            table_remove(cache, r);
            resource_free(r);
        }
    }
}

/*
 * cache.lock is held. When Consul has been away for longer than stale= allows, and for longer than a break that is
 * nobody's business; UINT64_MAX: never.
 */
static uint64_t strict_end_ns(const struct cache *cache)
{
    uint64_t allowed = cache->options.stale_ms;

    if (!cache->disconnected_ns || allowed == CONSUL_STALE_FOREVER || cache->broke_all)
        return UINT64_MAX;
    return cache->disconnected_ns + (allowed * MS < BROKEN_GRACE ? BROKEN_GRACE : allowed * MS);
}

/* cache.lock is held. Nothing may rely on blocking queries that will not be answered; reconnecting goes on. */
static void break_all(struct cache *cache, uint64_t now, struct consul_resource **ended, size_t max, size_t *n)
{
    struct consul_resource *r;

    for (r = cache->watched; r && *n < max; r = r->next_watched) {
        if (r->state != WATCH_LIVE)
            continue;
        resource_abandon_query(r);
        r->watch_paused = false;
        r->state = WATCH_BROKEN;
        r->broken_ns = 0;
        r->good_ns = cache->disconnected_ns;
        r->refetch_ns = now + consul_index_failed(&r->index, false, 0, (uint32_t)rand()) * MS;
        cache_set_timer(cache, r->refetch_ns);
        r->refs++;
        ended[(*n)++] = r;
        cache->ended++;
    }
    cache->broke_all = !r; /* else the rest at the next tick */
}

uint64_t cache_tick(void *arg, uint64_t now)
{
    struct cache *cache = arg;
    struct consul_resource *ended[32];
    struct consul_waiter *overdue;
    size_t n = 0;
    uint64_t next;
    bool do_trim;

    worker_deliver(cache->worker);
    pthread_mutex_lock(&cache->lock);
    overdue = waiters_take_overdue(cache, now);
    if (cache->timer_ns && cache->timer_ns <= now)
        cache->timer_ns = run_timers(cache, now, ended, sizeof(ended) / sizeof(*ended), &n);
    if (strict_end_ns(cache) <= now)
        break_all(cache, now, ended, sizeof(ended) / sizeof(*ended), &n);
    if (cache->swept_ns + SWEEP_EVERY <= now)
        sweep(cache, now, ended, sizeof(ended) / sizeof(*ended), &n);
    do_trim = trim_begin(&cache->trim, now) && !cache->closing; /* in any case it is not due any more */
    pthread_mutex_unlock(&cache->lock);

    for (size_t i = 0; i < n; i++)
        cache_tell_ended(cache, ended[i]);
    waiters_wake(overdue, -ETIMEDOUT);
    if (do_trim)
        worker_submit(cache->worker, &cache->trim.work);

    pthread_mutex_lock(&cache->lock);
    next = cache->swept_ns + SWEEP_EVERY;
    if (cache->timer_ns && cache->timer_ns < next)
        next = cache->timer_ns;
    if (strict_end_ns(cache) < next)
        next = strict_end_ns(cache);
    if (trim_due_ns(&cache->trim) < next)
        next = trim_due_ns(&cache->trim);
    if (cache->soonest && cache->soonest->deadline_ns < next)
        next = cache->soonest->deadline_ns;
    pthread_mutex_unlock(&cache->lock);
    return next;
}
