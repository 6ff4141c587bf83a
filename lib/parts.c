/*
 * Prefixes that show what others show in part: "a?recurse" of "?recurse". Which is used when is not decided here; but
 * no change is to be missed, or watched twice, when the whole takes over.
 */
#include "kv.h"
#include "resource.h"
#include "snapshot.h"

#include <pthread.h>
#include <string.h>

/* Does a prefix show all that another, longer one does? */
static bool is_part(const struct consul_resource *whole, const struct consul_resource *part)
{
    return whole->format == CONSUL_KV && whole->recursive && part->format == CONSUL_KV && part->recursive &&
           resource_covers(whole, part->datacenter, part->prefix) && strlen(part->prefix) > strlen(whole->prefix);
}

static size_t first_part(const struct consul_resource *whole)
{
    const struct kv_index *kv = &whole->cache->kv;

    return whole->format == CONSUL_KV && whole->recursive ? kv_index_find(kv, whole->prefix, strlen(whole->prefix))
                                                          : kv->n;
}

/* cache.lock is held. The next, from *i on, of which something is known; NULL: there is none. */
static struct consul_resource *next_part(const struct consul_resource *whole, size_t *i)
{
    const struct kv_index *kv = &whole->cache->kv;

    for (; *i < kv->n && kv_index_begins(kv, *i, whole->prefix, strlen(whole->prefix)); ++*i)
        if (kv->at[*i]->snapshot && is_part(whole, kv->at[*i]))
            return kv->at[(*i)++];
    return NULL;
}

void parts_cover(const struct consul_resource *resource)
{
    for (struct consul_resource *r = resource->cache->watched; r; r = r->next_watched)
        r->is_covered |= is_part(resource, r);
}

bool parts_knew_more(const struct consul_resource *resource, const struct http_request *request, uint64_t index)
{
    size_t i = first_part(resource);

    /* The index of what is not there is that of all keys. */
    for (struct consul_resource *r; (r = next_part(resource, &i));)
        if (r->snapshot->kv.n > 0 && resource_knew_more(r, request, index))
            return true;
    return false;
}

enum consul_kv_cover consul_resource_kv_cover(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;
    enum consul_kv_cover cover = CONSUL_KV_ALONE;
    struct kv_index_above above = {0};
    const struct consul_resource *r;
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    while (resource->prefix && cover != CONSUL_KV_COVERED_WATCHED &&
           (r = kv_index_next_above(&cache->kv, resource->prefix, &above))) {
        if (!is_part(r, resource) || !r->snapshot || watch_cost_is_demoted(&r->cost, now))
            continue;
        if (r->state == WATCH_LIVE)
            cover = CONSUL_KV_COVERED_WATCHED;
        else if (resource->state != WATCH_LIVE)
            cover = CONSUL_KV_COVERED;
    }
    pthread_mutex_unlock(&cache->lock);
    return cover;
}

/* What a part of a prefix shows, by a snapshot of the whole. NULL without memory. */
static struct consul_snapshot *part_of(const struct consul_snapshot *whole, const struct consul_resource *part)
{
    struct consul_snapshot *snapshot = snapshot_new();

    if (!snapshot || kv_list_part(&whole->kv, part->prefix, &snapshot->kv) < 0) {
        consul_snapshot_unref(snapshot);
        return NULL;
    }
    snapshot->filtered = whole->filtered;
    snapshot->index = part->snapshot->index; /* as its own blocking queries count */
    for (size_t i = 0; i < snapshot->kv.n; i++) {
        const struct consul_kv_entry *entry = snapshot->kv.entries[i];

        snapshot->len += entry->key_len + entry->value_len;
        if (entry->modify_index > snapshot->index)
            snapshot->index = entry->modify_index;
    }
    return snapshot;
}

/* cache.lock is held. */
static void hand_over(struct consul_resource *to, const struct consul_snapshot *whole,
                      const struct http_request *request, struct news *news)
{
    struct consul_snapshot *part;

    if (request->sent_ns < to->arrived_ns || whole->index < to->snapshot->index || !(part = part_of(whole, to)))
        return;
    if (resource_same_content(to, to->snapshot, part) || !news_add(news, to, part)) {
        consul_snapshot_unref(part);
        return;
    }
    set_snapshot(to, part);
    to->sent_ns = request->sent_ns;
    to->fetched_ns = to->arrived_ns = to->good_ns = request->done_ns;
}

void parts_hand_over(struct consul_resource *resource, struct consul_snapshot *snapshot,
                     const struct http_request *request)
{
    struct cache *cache = resource->cache;
    struct news news = NEWS_NONE(news);

    pthread_mutex_lock(&cache->lock);
    if (!resource->snapshot && resource->format == CONSUL_KV && resource->recursive && !cache->closing) {
        size_t i = first_part(resource);

        apply_pending(resource, snapshot, request->sent_ns, false);
        for (struct consul_resource *r; (r = next_part(resource, &i));)
            hand_over(r, snapshot, request, &news);
    }
    pthread_mutex_unlock(&cache->lock);
    cache_tell_news(cache, &news);
}
