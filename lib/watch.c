/* The resource cache's requests: the GET and the blocking query of a resource, and which resources have one. */
#include "resource.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EVICT_AFTER (5 * SECOND)
/* Servers show what was written within so long, or the leader is asked. */
#define PENDING_MAX (10 * SECOND)
#define WAIT_MIN_S 10
/* Who has waited for an answer mostly asks more at once (of a path, each name; then the file). The first blocking
 * query, with a connection of its own, stays out of his way for so long; with its index it misses nothing. */
#define FIRST_PAUSE_MS 2

void cache_set_timer(struct cache *cache, uint64_t at_ns)
{
    if (cache->timer_ns == 0 || at_ns < cache->timer_ns) {
        cache->timer_ns = at_ns;
        http_wakeup(cache->http);
    }
}

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
    request->done = resource_on_get;
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

int resource_enqueue_get(struct consul_resource *resource) { return start_get(resource, http_enqueue); }

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

/* It goes out with the index that we know. */
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
    request->done = resource_on_watch;
    request->arg = resource;
    resource->watch = request;
    resource->watch_since_ns = consul_now_ns();
    resource->watch_paused = false;
    resource->refs++;
    http_submit(cache->http, request);
    return 0;
}

bool resource_is_new_enough(const struct consul_resource *resource)
{
    return resource->snapshot && resource->sent_ns >= resource->not_before_ns &&
           resource->snapshot->index >= resource->floor_index;
}

/* resource_on_watch() sees that it is not ours any more. */
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

static void watched_add(struct cache *cache, struct consul_resource *resource)
{
    resource->prev_watched = NULL;
    resource->next_watched = cache->watched;
    if (cache->watched)
        cache->watched->prev_watched = resource;
    cache->watched = resource;
    cache->watches++;
}

static void watched_remove(struct cache *cache, struct consul_resource *resource)
{
    if (resource->prev_watched)
        resource->prev_watched->next_watched = resource->next_watched;
    else
        cache->watched = resource->next_watched;
    if (resource->next_watched)
        resource->next_watched->prev_watched = resource->prev_watched;
    cache->watches--;
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
    watched_remove(cache, resource);
    cache->ended++;
    if (resource->first && !resource->get && !cache->closing) /* they waited for the blocking query's answer */
        (void)resource_start_get(resource);
    return true;
}

/* An empty answer is not: old servers wake it on every write (CONSUL.md, "Blocking queries"). */
bool resource_worth_watching(const struct consul_resource *resource)
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

/* cache.lock is held. Frees a watch for `taker` if one has been cold for long enough; *ret_loser is to be told,
 * counted. */
static bool evict_one(struct cache *cache, const struct consul_resource *taker, uint64_t now,
                      struct consul_resource **ret_loser)
{
    struct consul_resource *coldest = NULL;

    for (struct consul_resource *r = cache->watched; r; r = r->next_watched)
        if (r != taker && (!coldest || r->used_ns < coldest->used_ns))
            coldest = r;
    if (!coldest || coldest->used_ns + EVICT_AFTER > now)
        return false;
    resource_end_watch(coldest);
    cache->evicted++;
    coldest->refs++;
    *ret_loser = coldest;
    return true;
}

void resource_pause_watch(struct consul_resource *resource, uint64_t pause_ns)
{
    resource->watch_paused = true;
    resource->refetch_ns = consul_now_ns() + pause_ns;
    cache_set_timer(resource->cache, resource->refetch_ns);
}

void resource_maybe_watch(struct consul_resource *resource, struct consul_resource **ret_loser)
{
    struct cache *cache = resource->cache;
    uint64_t now = consul_now_ns();

    if (resource->state == WATCH_LIVE || cache->closing || !resource_worth_watching(resource) ||
        watch_cost_is_demoted(&resource->cost, now))
        return;
    if (resource->state == WATCH_NONE) {
        if (cache->watches + abandoned_count(&cache->abandoned, now) >= 2 * cache->watch_limit ||
            (cache->watches >= cache->watch_limit && !evict_one(cache, resource, now, ret_loser)))
            return;
        watched_add(cache, resource);
        cache->promotions += resource->was_demoted;
        resource->was_demoted = false;
        consul_index_init(&resource->index, false, wait_of(cache));
        parts_cover(resource);
    }
    consul_index_read(&resource->index, resource->snapshot->index);
    resource->watch_begins = resource->state == WATCH_NONE;
    resource->state = WATCH_LIVE;
    if (resource->watch_begins)
        resource_pause_watch(resource, FIRST_PAUSE_MS * MS);
    else if (resource_start_blocking_query(resource) < 0)
        resource_end_watch(resource); /* nothing was told under it yet */
}

void resource_go_on_watching(struct consul_resource *resource)
{
    if (!resource->watch_paused || resource_start_blocking_query(resource) < 0)
        return;
    resource->refetch_ns = 0;
}
