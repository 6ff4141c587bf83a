/* Who waits for a resource: queued at it in order, and in the cache by deadline. */
#include "resource.h"

#include <pthread.h>
#include <stddef.h>

static void deadline_add(struct cache *cache, struct consul_waiter *waiter)
{
    struct consul_waiter *after = cache->latest;

    /* Nearly always the last: all have the same time-out. */
    while (after && after->deadline_ns > waiter->deadline_ns)
        after = after->sooner;
    waiter->sooner = after;
    waiter->later = after ? after->later : cache->soonest;
    if (waiter->sooner)
        waiter->sooner->later = waiter;
    else
        cache->soonest = waiter;
    if (waiter->later)
        waiter->later->sooner = waiter;
    else
        cache->latest = waiter;
}

void resource_add_waiter(struct consul_resource *resource, struct consul_waiter *waiter)
{
    struct cache *cache = resource->cache;

    waiter->resource = resource;
    waiter->next = NULL;
    waiter->prev = resource->last;
    if (resource->last)
        resource->last->next = waiter;
    else
        resource->first = waiter;
    resource->last = waiter;
    deadline_add(cache, waiter);
    cache->waiters++;
}

static void waiter_remove(struct consul_waiter *waiter)
{
    struct consul_resource *resource = waiter->resource;
    struct cache *cache = resource->cache;

    if (waiter->prev)
        waiter->prev->next = waiter->next;
    else
        resource->first = waiter->next;
    if (waiter->next)
        waiter->next->prev = waiter->prev;
    else
        resource->last = waiter->prev;
    if (waiter->sooner)
        waiter->sooner->later = waiter->later;
    else
        cache->soonest = waiter->later;
    if (waiter->later)
        waiter->later->sooner = waiter->sooner;
    else
        cache->latest = waiter->sooner;
    waiter->resource = NULL;
    waiter->prev = waiter->next = NULL;
    cache->waiters--;
}

struct consul_waiter *waiters_take(struct consul_resource *resource)
{
    struct consul_waiter *chain = NULL;

    while (resource->last) {
        struct consul_waiter *waiter = resource->last;

        waiter_remove(waiter);
        waiter->next = chain;
        chain = waiter;
    }
    return chain;
}

void waiters_wake(struct consul_waiter *chain, int err)
{
    while (chain) {
        struct consul_waiter *next = chain->next; /* a woken waiter may be gone */

        chain->next = NULL;
        chain->wake(chain, err);
        chain = next;
    }
}

struct consul_waiter *waiters_take_overdue(struct cache *cache, uint64_t now)
{
    struct consul_waiter *chain = NULL, **end = &chain;

    while (cache->soonest && cache->soonest->deadline_ns <= now) {
        struct consul_waiter *waiter = cache->soonest;

        waiter_remove(waiter);
        *end = waiter;
        end = &waiter->next;
    }
    return chain;
}

bool cache_cancel_waiter(struct cache *cache, struct consul_waiter *waiter)
{
    bool queued;

    pthread_mutex_lock(&cache->lock);
    queued = waiter->resource != NULL;
    if (queued)
        waiter_remove(waiter);
    pthread_mutex_unlock(&cache->lock);
    return queued;
}
