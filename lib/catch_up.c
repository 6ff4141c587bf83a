/*
 * What was done elsewhere, and is known to be done, is asked for, or waited for: by whoever got a key's lock, or made a
 * lock file, so that he sees what the one before left. Only what is watched can be behind; all else is asked for when
 * it is read.
 */
#include "resource.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000ull

/*
 * What shows the key itself will be at this index as soon as its blocking query answers, which it does for the change
 * that had the index; what shows other keys has to be asked.
 */
void cache_kv_catch_up(struct cache *cache, const char *datacenter, const char *key, uint64_t index)
{
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    for (struct consul_resource *r = cache->watched; r; r = r->next_watched) {
        if (!resource_is_kv_of(r, datacenter))
            continue;
        if (!resource_covers(r, datacenter, key)) {
            resource_expire(r, now, false);
        } else if (index > r->floor_index) {
            r->floor_index = index;
            r->floor_index_ns = now;
        }
    }
    pthread_mutex_unlock(&cache->lock);
}

void consul_resource_ask_again(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;

    pthread_mutex_lock(&cache->lock);
    resource_expire(resource, consul_now_ns(), false);
    if (!resource->get && !cache->closing)
        (void)resource_start_get(resource); /* without memory: by who reads it next */
    pthread_mutex_unlock(&cache->lock);
}

/* ---- all of a datacenter -------------------------------------------------------------------------------------------
 */

struct catch_up {
    void (*done)(void *arg);
    void *arg;
    atomic_size_t left; /* and one for who sets it up */
    struct catching {
        struct consul_waiter waiter;
        struct catch_up *all;
    } each[];
};

static bool catch_up_ended(struct catch_up *all, size_t n) { return atomic_fetch_sub(&all->left, n) == n; }

static void on_caught(struct consul_waiter *waiter, int err)
{
    struct catch_up *all = ((struct catching *)((char *)waiter - offsetof(struct catching, waiter)))->all;

    (void)err; /* whoever reads next finds out by himself */
    if (!catch_up_ended(all, 1))
        return;
    all->done(all->arg);
    free(all);
}

int cache_catch_up(struct cache *cache, const char *datacenter, void (*done)(void *arg), void *arg)
{
    uint64_t now = consul_now_ns();
    struct catch_up *all;
    size_t n = 0;

    pthread_mutex_lock(&cache->lock);
    for (const struct consul_resource *r = cache->watched; r; r = r->next_watched)
        n += resource_is_kv_of(r, datacenter);
    all = n > 0 && !cache->closing ? calloc(1, sizeof(*all) + n * sizeof(*all->each)) : NULL;
    if (!all) {
        pthread_mutex_unlock(&cache->lock);
        return n > 0 && !cache->closing ? -ENOMEM : 0;
    }
    all->done = done;
    all->arg = arg;
    atomic_init(&all->left, n + 1);
    n = 0;
    for (struct consul_resource *r = cache->watched; r; r = r->next_watched) {
        struct catching *each = &all->each[n];

        if (!resource_is_kv_of(r, datacenter))
            continue;
        n++;
        r->not_before_ns = r->floor_ns = now;
        if (!r->get && resource_start_get(r) < 0) {
            (void)catch_up_ended(all, 1);
            continue;
        }
        if (r->get_since_ns < now)
            r->get_again = true;
        each->all = all;
        each->waiter.wake = on_caught;
        each->waiter.deadline_ns = now + cache->options.timeout_ms * MS;
        resource_add_waiter(r, &each->waiter);
    }
    pthread_mutex_unlock(&cache->lock);
    if (!catch_up_ended(all, 1))
        return -EINPROGRESS;
    free(all);
    return 0;
}
