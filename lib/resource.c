/* The table of resources: one for each path, found by it, freed by the sweep in clock.c. */
#include "resource.h"

#include "snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct consul_resource **bucket_of(struct cache *cache, const char *path)
{
    return &cache->buckets[snapshot_hash(path, strlen(path)) % cache->bucket_n];
}

static int table_add(struct cache *cache, struct consul_resource *resource)
{
    struct consul_resource **bucket;

    if (resource->prefix && kv_index_add(&cache->kv, resource) < 0)
        return -ENOMEM;
    if (cache->n >= cache->bucket_n) {
        size_t bucket_n = cache->bucket_n * 2;
        struct consul_resource **buckets = calloc(bucket_n, sizeof(*buckets));

        if (buckets) { /* else the chains get longer, that is all */
            free(cache->buckets);
            cache->buckets = buckets;
            cache->bucket_n = bucket_n;
            for (struct consul_resource *r = cache->all; r; r = r->next) {
                bucket = bucket_of(cache, r->path);
                r->next_in_bucket = *bucket;
                *bucket = r;
            }
        }
    }
    bucket = bucket_of(cache, resource->path);
    resource->next_in_bucket = *bucket;
    *bucket = resource;
    resource->next = cache->all;
    if (cache->all)
        cache->all->prev = resource;
    cache->all = resource;
    cache->n++;
    return 0;
}

void too_big_add(struct cache *cache, struct consul_resource *resource)
{
    if (resource->is_too_big)
        return;
    resource->is_too_big = true;
    resource->next_too_big = cache->too_big;
    cache->too_big = resource;
}

static void too_big_remove(struct cache *cache, struct consul_resource *resource)
{
    struct consul_resource **at = &cache->too_big;

    if (!resource->is_too_big)
        return;
    while (*at != resource)
        at = &(*at)->next_too_big;
    *at = resource->next_too_big;
    resource->is_too_big = false;
}

void table_remove(struct cache *cache, struct consul_resource *resource)
{
    struct consul_resource **at = bucket_of(cache, resource->path);

    if (resource->prefix)
        kv_index_remove(&cache->kv, resource);
    too_big_remove(cache, resource);
    while (*at != resource)
        at = &(*at)->next_in_bucket;
    *at = resource->next_in_bucket;
    if (resource->prev)
        resource->prev->next = resource->next;
    else
        cache->all = resource->next;
    if (resource->next)
        resource->next->prev = resource->prev;
    cache->n--;
}

/* cache.lock is held. The reference is the caller's now. */
static struct consul_snapshot *take_snapshot(struct consul_resource *resource)
{
    struct consul_snapshot *snapshot = resource->snapshot;
    struct cache *cache = resource->cache;

    if (snapshot) {
        cache->snapshot_bytes -= snapshot->len;
        trim_freed(&cache->trim, snapshot->len, consul_now_ns());
    }
    resource->snapshot = NULL;
    return snapshot;
}

void set_snapshot(struct consul_resource *resource, struct consul_snapshot *snapshot)
{
    consul_snapshot_unref(take_snapshot(resource));
    resource->snapshot = snapshot;
    if (snapshot)
        resource->cache->snapshot_bytes += snapshot->len;
}

uint32_t resource_holders(const struct consul_resource *resource)
{
    return resource->refs - (resource->get ? 1 : 0) - (resource->watch ? 1 : 0);
}

void resource_free(struct consul_resource *resource)
{
    while (resource->pending) {
        struct pending *next = resource->pending->next;

        pending_free(resource->pending);
        resource->pending = next;
    }
    set_snapshot(resource, NULL);
    free(resource->path);
    free(resource->datacenter);
    free(resource->prefix);
    free(resource->too_big_in);
    free(resource);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static char *url_decode(const char *text, size_t len)
{
    char *out = malloc(len + 1), *to = out;

    for (size_t i = 0; out && i < len; i++) {
        if (text[i] == '%' && i + 2 < len && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
            *to++ = (char)(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
            i += 2;
        } else {
            *to++ = text[i];
        }
    }
    if (out)
        *to = '\0';
    return out;
}

char *url_parameter(const char *path, const char *name)
{
    size_t len = strlen(name);
    const char *at = strchr(path, '?');

    for (; at; at = strchr(at, '&')) {
        at++;
        if (strncmp(at, name, len) == 0 && at[len] == '=')
            return url_decode(at + len + 1, strcspn(at + len + 1, "&"));
    }
    return NULL;
}

/* A KV resource's own path says which keys it shows: "/v1/kv/PREFIX?recurse&dc=DC". */
static int parse_kv_path(struct consul_resource *resource)
{
    static const char kv[] = "/v1/kv/";
    const char *key = resource->path + sizeof(kv) - 1, *query = strchr(resource->path, '?');

    if (strncmp(resource->path, kv, sizeof(kv) - 1) != 0)
        return resource->format == CONSUL_KV ? -EINVAL : 0;
    resource->prefix = url_decode(key, query ? (size_t)(query - key) : strlen(key));
    if (!resource->prefix)
        return -ENOMEM;
    resource->recursive = query && (strstr(query, "recurse") || strstr(query, "keys"));
    resource->datacenter = url_parameter(resource->path, "dc");
    return 0;
}

/* cache.lock is held. */
static struct consul_resource *find(struct cache *cache, const char *path)
{
    struct consul_resource *resource = *bucket_of(cache, path);

    while (resource && strcmp(resource->path, path) != 0)
        resource = resource->next_in_bucket;
    return resource;
}

struct consul_resource *cache_find(struct cache *cache, const char *path)
{
    struct consul_resource *resource;

    pthread_mutex_lock(&cache->lock);
    resource = find(cache, path);
    if (resource)
        resource->refs++;
    pthread_mutex_unlock(&cache->lock);
    return resource;
}

int cache_get(struct cache *cache, const char *path, enum consul_format format, unsigned flags, size_t max,
              struct consul_resource **ret_resource)
{
    struct consul_resource *resource;
    int r = 0;

    pthread_mutex_lock(&cache->lock);
    resource = find(cache, path);
    if (resource) {
        resource->refs++;
        resource->is_covered = false;
        if (max > resource->max) {
            resource->max = max;
            resource->too_big_until_ns = 0;
            if (resource->error == -EFBIG) /* also for somebody who began before it was found to be that */
                resource->error = 0;
        }
        goto out;
    }
    r = -ENOMEM;
    resource = calloc(1, sizeof(*resource));
    if (!resource)
        goto out;
    resource->cache = cache;
    resource->path = strdup(path);
    resource->format = format;
    resource->flags = flags;
    resource->max = max;
    resource->refs = 1;
    resource->used_ns = consul_now_ns();
    r = resource->path ? 0 : -ENOMEM;
    if (r == 0)
        r = parse_kv_path(resource);
    if (r == 0)
        r = table_add(cache, resource);
    if (r < 0)
        resource_free(resource);
out:
    pthread_mutex_unlock(&cache->lock);
    if (r == 0)
        *ret_resource = resource;
    return r;
}

struct consul_resource *consul_resource_ref(struct consul_resource *resource)
{
    pthread_mutex_lock(&resource->cache->lock);
    resource->refs++;
    pthread_mutex_unlock(&resource->cache->lock);
    return resource;
}

/*
 * Only the sweep frees a resource: a snapshot without readers is what makes the next read cheap. One that was retired,
 * or dropped, lets its snapshot go.
 */
void consul_resource_unref(struct consul_resource *resource)
{
    struct consul_snapshot *unused = NULL;

    if (!resource)
        return;
    pthread_mutex_lock(&resource->cache->lock);
    if (--resource->refs == 0 && resource->used_ns == 0)
        unused = take_snapshot(resource);
    pthread_mutex_unlock(&resource->cache->lock);
    consul_snapshot_unref(unused); /* which takes a while if it is large */
}

struct consul_resource **cache_watched(struct cache *cache, const char *prefix, size_t *ret_n)
{
    struct consul_resource **at = NULL;
    size_t len = strlen(prefix), n = 0;

    pthread_mutex_lock(&cache->lock);
    if (cache->watches > 0)
        at = malloc(cache->watches * sizeof(*at));
    for (struct consul_resource *r = at ? cache->watched : NULL; r; r = r->next_watched) {
        if (strncmp(r->path, prefix, len) != 0)
            continue;
        r->refs++;
        at[n++] = r;
    }
    pthread_mutex_unlock(&cache->lock);
    *ret_n = n;
    return at;
}

const char *consul_resource_path(const struct consul_resource *resource) { return resource->path; }

bool resource_is_used(const struct consul_resource *resource)
{
    return resource->snapshot || resource->get || resource->state != WATCH_NONE;
}

bool consul_resource_is_used(struct consul_resource *resource)
{
    bool used;

    pthread_mutex_lock(&resource->cache->lock);
    used = resource_is_used(resource);
    pthread_mutex_unlock(&resource->cache->lock);
    return used;
}

enum consul_kv_scope consul_resource_kv_scope(const struct consul_resource *resource)
{
    if (!resource->prefix)
        return CONSUL_KV_NONE;
    if (resource->format != CONSUL_KV)
        return CONSUL_KV_NAMES;
    return resource->recursive ? CONSUL_KV_PREFIX : CONSUL_KV_KEY;
}

const char *consul_resource_kv_prefix(const struct consul_resource *resource) { return resource->prefix; }

const char *consul_resource_kv_datacenter(const struct consul_resource *resource) { return resource->datacenter; }

void **consul_resource_user(struct consul_resource *resource) { return &resource->user; }
