/* What the cache tells of the keys that begin with a prefix, for who decides how to ask for them. */
#include "cache.h"
#include "resource.h"

#include <pthread.h>
#include <string.h>

#define MEASURED_FOR (3600 * SECOND) /* a store does not grow out of hand in less */

uint64_t cache_work_ns(const struct cache *cache, uint64_t served_ns)
{
    return served_ns > cache->trip_ns ? served_ns - cache->trip_ns : 0;
}

/* cache.lock is held. */
static void note_root_names(struct cache *cache, uint64_t served_ns, bool anew)
{
    if (served_ns == 0 || (!anew && served_ns >= cache->root_names_ns))
        return;
    cache->root_names_ns = served_ns;
    cache->root_names_at_ns = consul_now_ns();
}

void kv_note_names(struct consul_resource *resource, uint64_t served_ns)
{
    resource->served_ns = resource->served_ns ? (resource->served_ns * 3 + served_ns) / 4 : served_ns;
    if (*resource->prefix == '\0' && cache_same_datacenter(resource->cache->datacenter, resource->datacenter))
        note_root_names(resource->cache, served_ns, true);
}

uint64_t cache_note_root_names(struct cache *cache, const struct http_request *request, bool anew)
{
    uint64_t work_ns;

    pthread_mutex_lock(&cache->lock);
    if (request->net == CONSUL_NET_OK || request->net == CONSUL_NET_TOO_BIG)
        note_root_names(cache, request->served_ns, anew);
    else if (request->net == CONSUL_NET_TIMEOUT) /* at least */
        note_root_names(cache, request->done_ns - request->sent_ns, anew);
    work_ns = cache_work_ns(cache, cache->root_names_ns);
    pthread_mutex_unlock(&cache->lock);
    return work_ns;
}

/* cache.lock is held; `i` is the first resource of the prefix. */
static void know_names(struct cache *cache, size_t i, const char *datacenter, const char *prefix,
                       struct consul_kv_known *known)
{
    uint64_t now = consul_now_ns(), served_ns = 0;

    for (; served_ns == 0 && kv_index_is(&cache->kv, i, prefix, strlen(prefix)); i++) {
        const struct consul_resource *r = cache->kv.at[i];

        if (r->format == CONSUL_KV || !resource_is_kv_of(r, datacenter))
            continue;
        known->names_too_large |= now < r->too_big_until_ns;
        served_ns = r->served_ns;
    }
    if (served_ns == 0 && *prefix == '\0' && cache->root_names_ns > 0 && now - cache->root_names_at_ns < MEASURED_FOR &&
        cache_same_datacenter(cache->datacenter, datacenter))
        served_ns = cache->root_names_ns;
    known->names_known = served_ns > 0;
    known->names_ns = cache_work_ns(cache, served_ns);
}

struct consul_kv_known cache_kv_known(struct cache *cache, const char *datacenter, const char *prefix, size_t max)
{
    struct consul_kv_known known = {0};
    uint64_t now = consul_now_ns();
    size_t len = strlen(prefix), i;

    pthread_mutex_lock(&cache->lock);
    i = kv_index_find(&cache->kv, prefix, len);
    know_names(cache, i, datacenter, prefix, &known);
    for (; known.used < CONSUL_KV_USED_MAX && kv_index_begins(&cache->kv, i, prefix, len); i++)
        known.used += resource_is_kv_of(cache->kv.at[i], datacenter) && resource_is_used(cache->kv.at[i]);
    for (const struct consul_resource *r = cache->too_big; r; r = r->next_too_big) {
        if (now >= r->too_big_until_ns || !resource_is_kv_of(r, datacenter) ||
            strncmp(r->too_big_in ? r->too_big_in : r->prefix, prefix, len) != 0)
            continue;
        known.too_large |= r->format == CONSUL_KV && r->recursive && r->max >= max;
        if (r->too_big_in && r->too_big_ns > known.there_ns) { /* else no key of it was seen */
            known.there_ns = r->too_big_ns;
            known.seen_ns = r->too_big_seen_ns;
        }
    }
    pthread_mutex_unlock(&cache->lock);
    return known;
}

size_t cache_kv_watched(struct cache *cache, const char *datacenter, const char *text, size_t from, size_t to)
{
    size_t best = 0;

    pthread_mutex_lock(&cache->lock);
    for (const struct consul_resource *r = cache->watched; r; r = r->next_watched) {
        size_t len = r->prefix && r->format == CONSUL_KV && r->recursive ? strlen(r->prefix) : 0;

        if (len > from && len <= to && (best == 0 || len < best) && strncmp(r->prefix, text, len) == 0 &&
            r->state == WATCH_LIVE && resource_is_kv_of(r, datacenter))
            best = len;
    }
    pthread_mutex_unlock(&cache->lock);
    return best;
}

/* cache.lock is held. */
static bool is_witness(const struct consul_resource *resource, const char *datacenter, const char *prefix)
{
    return resource->format == CONSUL_KV && resource->snapshot && resource->snapshot->kv.n > 0 &&
           resource_is_kv_of(resource, datacenter) && strncmp(resource->prefix, prefix, strlen(prefix)) == 0;
}

/* What is not larger need not be compared with what else there is. */
#define SHORT_ANSWER 4096

struct consul_resource *cache_kv_witness(struct cache *cache, const char *datacenter, const char *prefix)
{
    struct consul_resource *best = NULL;
    size_t len = strlen(prefix), i;

    pthread_mutex_lock(&cache->lock);
    for (struct consul_resource *r = cache->watched; r && !best; r = r->next_watched)
        if (r->state == WATCH_LIVE && is_witness(r, datacenter, prefix))
            best = r;
    i = kv_index_find(&cache->kv, prefix, len);
    while ((!best || (best->state == WATCH_NONE && best->snapshot->len > SHORT_ANSWER)) &&
           kv_index_begins(&cache->kv, i, prefix, len)) {
        struct consul_resource *r = cache->kv.at[i++];

        if (is_witness(r, datacenter, prefix) && (!best || r->snapshot->len < best->snapshot->len))
            best = r;
    }
    if (best)
        best->refs++;
    pthread_mutex_unlock(&cache->lock);
    return best;
}
