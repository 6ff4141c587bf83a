/*
 * What this client changed itself: every resource shows it at once, also when an answer that was already on its way
 * does not (read your own writes).
 */
#include "kv.h"
#include "resource.h"
#include "snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OWN_ROW_NS (20 * 1000000ull) /* what is written within so long of each other makes a row */
#define OWN_ROW_MIN 4

void pending_free(struct pending *pending)
{
    free(pending->key);
    consul_kv_entry_unref(pending->entry);
    free(pending);
}

static bool pending_shown(const struct pending *pending, const struct consul_snapshot *snapshot)
{
    const struct consul_kv_entry *entry = consul_kv_find(&snapshot->kv, pending->key, strlen(pending->key));

    if (!pending->entry)
        return !entry || entry->modify_index > pending->removed_index;
    return entry ? entry->modify_index >= pending->entry->modify_index
                 : snapshot->index >= pending->entry->modify_index;
}

/*
 * cache.lock is held. The leader's answer has all that was done before it was asked. Another server's may be of any
 * time before: it has what it shows, and what is taken after it is never older (see cache.c).
 */
void apply_pending(struct consul_resource *resource, struct consul_snapshot *snapshot, uint64_t sent_ns, bool stale)
{
    uint64_t oldest = UINT64_MAX;
    struct pending **at = &resource->pending;

    if (resource->get && resource->get_since_ns < oldest)
        oldest = resource->get_since_ns;
    if (resource->watch && !resource->watch_stale && resource->watch_since_ns < oldest)
        oldest = resource->watch_since_ns;
    while (*at) {
        struct pending *pending = *at;
        bool shown = (!stale && pending->done_ns <= sent_ns) || pending_shown(pending, snapshot);

        if (!shown)
            (void)snapshot_patch(snapshot, pending->key, pending->entry);
        if (shown && pending->done_ns < oldest) {
            *at = pending->next;
            pending_free(pending);
        } else {
            at = &pending->next;
        }
    }
}

uint64_t pending_since_ns(const struct consul_resource *resource)
{
    uint64_t since_ns = 0;

    for (const struct pending *pending = resource->pending; pending; pending = pending->next)
        if (since_ns == 0 || pending->done_ns < since_ns)
            since_ns = pending->done_ns;
    return since_ns;
}

void resource_expire(struct consul_resource *resource, uint64_t now, bool told)
{
    resource->not_before_ns = now;
    if (told)
        resource->floor_ns = now;
    resource->too_big_until_ns = 0;
    if (resource->get)
        resource->get_again = true;
}

void consul_resource_expire(struct consul_resource *resource)
{
    pthread_mutex_lock(&resource->cache->lock);
    resource_expire(resource, consul_now_ns(), true);
    pthread_mutex_unlock(&resource->cache->lock);
}

void cache_expire(struct cache *cache, const char *prefix, bool told)
{
    size_t len = strlen(prefix);
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    for (struct consul_resource *r = cache->all; r; r = r->next)
        if (strncmp(r->path, prefix, len) == 0)
            resource_expire(r, now, told);
    pthread_mutex_unlock(&cache->lock);
}

bool cache_same_datacenter(const char *one, const char *other)
{
    return one ? other && strcmp(one, other) == 0 : other == NULL;
}

bool resource_is_kv_of(const struct consul_resource *resource, const char *datacenter)
{
    return resource->prefix && cache_same_datacenter(resource->datacenter, datacenter);
}

bool resource_covers(const struct consul_resource *resource, const char *datacenter, const char *key)
{
    if (!resource_is_kv_of(resource, datacenter))
        return false;
    return resource->recursive ? strncmp(key, resource->prefix, strlen(resource->prefix)) == 0
                               : strcmp(key, resource->prefix) == 0;
}

static bool shows_now(const struct consul_resource *resource)
{
    return resource->state == WATCH_LIVE && !resource->cache->disconnected_ns &&
           resource->sent_ns >= resource->not_before_ns;
}

int cache_look_up(struct cache *cache, struct consul_resource *resource, const char *datacenter, const char *key,
                  struct consul_kv_entry **ret_entry, uint64_t *ret_index)
{
    struct consul_kv_entry *entry;
    int r = -EAGAIN;

    pthread_mutex_lock(&cache->lock);
    for (struct consul_resource *at = resource ? resource : cache->watched; at && r < 0;
         at = resource ? NULL : at->next_watched) {
        if (at->format != CONSUL_KV || !at->snapshot || !resource_covers(at, datacenter, key) ||
            (!resource && !shows_now(at)))
            continue;
        entry = consul_kv_find(&at->snapshot->kv, key, strlen(key));
        *ret_entry = entry ? consul_kv_entry_ref(entry) : NULL;
        *ret_index = at->snapshot->index;
        at->used_ns = resource ? at->used_ns : consul_now_ns();
        r = 0;
    }
    pthread_mutex_unlock(&cache->lock);
    return r;
}

static int pending_add(struct consul_resource *resource, const char *key, struct consul_kv_entry *entry,
                       uint64_t removed_index, uint64_t now)
{
    struct pending *pending, **at = &resource->pending;

    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    if (*at) { /* only the newest counts */
        pending = *at;
        consul_kv_entry_unref(pending->entry);
    } else {
        pending = calloc(1, sizeof(*pending));
        if (!pending || !(pending->key = strdup(key))) {
            free(pending);
            return -ENOMEM;
        }
        *at = pending;
    }
    pending->entry = entry ? consul_kv_entry_ref(entry) : NULL;
    pending->removed_index = removed_index;
    pending->done_ns = now;
    return 0;
}

/*
 * cache.lock is held. What a write of ours tells beside that: somebody else had created the key, and no answer has told
 * of it yet. None will, as the snapshots have the key from now on.
 */
static void note_news(struct consul_resource *resource, struct consul_snapshot *after,
                      const struct consul_kv_entry *entry, struct news *news)
{
    if (entry && entry->create_index != entry->modify_index &&
        !consul_kv_find(&resource->snapshot->kv, consul_kv_key(entry), entry->key_len))
        (void)news_add(news, resource, after);
}

/* cache.lock is held. */
static int apply_one(struct consul_resource *resource, const char *key, struct consul_kv_entry *entry,
                     uint64_t removed_index, uint64_t now, struct news *news)
{
    struct consul_snapshot *old = resource->snapshot, *snapshot;
    struct pending change = {.key = (char *)key, .entry = entry, .removed_index = removed_index};
    int r;

    if ((resource->get || resource->state != WATCH_NONE) &&
        (r = pending_add(resource, key, entry, removed_index, now)) < 0)
        return r;
    if (!old || pending_shown(&change, old))
        return 0;
    snapshot = snapshot_new();
    if (!snapshot)
        return -ENOMEM;
    snapshot->index = old->index;
    snapshot->hash = old->hash;
    snapshot->seen_ns = old->seen_ns;
    snapshot->filtered = old->filtered;
    snapshot->len = old->len;
    r = kv_list_patch(&old->kv, key, entry, &snapshot->kv);
    if (r < 0) {
        consul_snapshot_unref(snapshot);
        return r;
    }
    snapshot->hash = ~snapshot->hash + (entry ? entry->modify_index : 1);
    note_news(resource, snapshot, entry, news);
    set_snapshot(resource, snapshot);
    return 0;
}

/* cache.lock is held. */
static void note_write(struct cache *cache, uint64_t now)
{
    cache->wrote_in_row = now < cache->wrote_ns + OWN_ROW_NS ? cache->wrote_in_row + 1 : 0;
    cache->wrote_ns = now;
}

bool writes_often(const struct cache *cache, uint64_t now)
{
    return cache->wrote_in_row >= OWN_ROW_MIN && now < cache->wrote_ns + OWN_ROW_NS;
}

void cache_apply_kv(struct cache *cache, const char *datacenter, const char *key, struct consul_kv_entry *entry,
                    uint64_t removed_index)
{
    struct kv_index_above above = {0};
    struct news news = NEWS_NONE(news);
    struct consul_resource *r;
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    note_write(cache, now);
    while ((r = kv_index_next_above(&cache->kv, key, &above))) {
        if (!resource_covers(r, datacenter, key))
            continue;
        if (r->format != CONSUL_KV) { /* a listing of names */
            if (!entry || entry->create_index == entry->modify_index)
                resource_expire(r, now, true);
        } else if (apply_one(r, key, entry, removed_index, now, &news) < 0) {
            resource_expire(r, now, true);
        }
    }
    pthread_mutex_unlock(&cache->lock);
    cache_tell_news(cache, &news);
}
