/*
 * The resource cache: one struct consul_resource for each GET URL, its newest snapshot, its watch and who waits for it.
 *
 * A resource is fresh for somebody who began at `since`
 *  - while it is watched: a blocking query on it is outstanding, or broke less than BROKEN_GRACE ago;
 *  - or when its snapshot's request ended after `since`;
 * and never while this program itself changed it after the snapshot's request was sent (not_before_ns).
 * Otherwise the reader waits for one GET, which all readers of the resource share.
 *
 * A resource that is read becomes watched as soon as a watch is free. The least recently read one gives its watch up
 * when it has not been read for EVICT_AFTER; while all are hot the others are revalidated on each read.
 *
 * Invariants:
 *  - at most one GET and one blocking query of a resource are under way;
 *  - state == WATCH_NONE if and only if watch == NULL and it is not counted in cache.watches;
 *  - an answer never replaces the snapshot of a request that was sent later;
 *  - waiters are queued only while a GET is under way or due (refetch_ns).
 *
 * Threads: everything in a resource is guarded by cache.lock, save what is marked constant. Answers are decoded without
 * it: only the network thread does that. Callbacks are made on the network thread with no lock held. Lock order:
 * cache.lock, then http's.
 */
#include "cache.h"

#include "index.h"
#include "kv.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull
#define SECOND (1000 * MS)
#define BROKEN_GRACE SECOND /* a break shorter than this is nobody's business */
#define EVICT_AFTER (5 * SECOND)
#define IDLE_WATCH (600 * SECOND)       /* a watch that nobody asked for ends */
#define IDLE_UNREFERENCED (60 * SECOND) /* a snapshot that nobody holds or asked for is freed */
#define SWEEP_EVERY (5 * SECOND)
/* An answer that exceeded its maximum is not tried again for so long; twice as long each time it is found so. */
#define TOO_BIG_FIRST (1 * SECOND)
#define TOO_BIG_LAST (64 * SECOND)
#define WAIT_MIN_S 10
/* A watched answer of more than this is not fetched again at once: its prefix may change faster than it can be read. */
#define LARGE_ANSWER (64 * 1024)
#define NS_PER_LARGE_BYTE 50

enum watch_state { WATCH_NONE, WATCH_LIVE, WATCH_BROKEN };

/* What this client stored or removed and answers under way may not show yet. */
struct pending {
    char *key;
    struct consul_kv_entry *entry; /* NULL: removed */
    uint64_t removed_index;
    uint64_t done_ns;
    struct pending *next;
};

struct consul_resource {
    /* constant */
    struct cache *cache;
    char *path;
    enum consul_format format;
    char *datacenter; /* of a path under /v1/kv, from its ?dc=; NULL: the agent's */
    char *prefix;     /* of a path under /v1/kv: what its keys begin with, or the key; else NULL */
    bool recursive;   /* it is a prefix */
    void *user;       /* the program's */

    /* guarded by cache.lock */
    unsigned flags;
    uint32_t refs;
    size_t max;
    struct consul_snapshot *snapshot;
    uint64_t sent_ns, fetched_ns; /* of the request that brought (or confirmed) the snapshot */
    uint64_t not_before_ns;       /* a request sent before this does not count */
    uint64_t floor_ns;            /* the same, also when Consul is away: a write was told to have succeeded */
    uint64_t good_ns;             /* the snapshot was last known to be current */
    uint64_t used_ns;
    int error;
    uint64_t error_ns;
    uint64_t too_big_until_ns, too_big_pause_ns;
    struct http_request *get, *watch;
    uint64_t get_since_ns, watch_since_ns; /* when these were submitted: they show at least what was true then */
    bool get_again;
    uint64_t refetch_ns; /* a GET is due; 0: none */
    enum watch_state state;
    bool watch_paused;  /* the next blocking query waits for refetch_ns */
    uint64_t broken_ns; /* 0 once the grace is over */
    struct consul_index index;
    struct consul_waiter *first, *last;
    struct pending *pending;
    struct consul_resource *next_in_bucket;
    struct consul_resource *prev, *next; /* all resources */
};

struct cache {
    struct consul_options options; /* constant */
    unsigned watch_limit;          /* constant */
    struct http *http;             /* constant once set */

    pthread_mutex_t lock;
    /* guarded by lock */
    struct consul_resource **buckets;
    size_t bucket_n, n;
    struct consul_resource *all;
    unsigned watches;
    struct consul_waiter *soonest, *latest; /* by deadline */
    uint64_t timer_ns;                      /* the earliest refetch or end of a grace; a tick is due then */
    uint64_t swept_ns, disconnected_ns, disconnected_realtime_ns;
    uint64_t hits, misses, dropped, ended, stale_served, filtered, snapshot_bytes, waiters;
    bool known_leader, contacted;
    bool closing;
};

static uint64_t realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

static void tell(const struct cache *cache, struct consul_resource *resource, enum consul_change change)
{
    if (cache->options.changed)
        cache->options.changed(cache->options.changed_arg, resource, change);
}

static void say(const struct cache *cache, enum consul_log_level level, const char *line)
{
    if (cache->options.log)
        cache->options.log(cache->options.log_arg, level, line);
}

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

struct consul_snapshot *consul_snapshot_ref(struct consul_snapshot *snapshot)
{
    __atomic_fetch_add(&snapshot->refs, 1, __ATOMIC_RELAXED);
    return snapshot;
}

void consul_snapshot_unref(struct consul_snapshot *snapshot)
{
    if (!snapshot || __atomic_sub_fetch(&snapshot->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    json_decref(snapshot->json);
    kv_list_clear(&snapshot->kv);
    free(snapshot->text);
    free(snapshot);
}

/* FNV-1a, 64 bits: tells an unchanged answer from a changed one. Not for adversaries: they own the content anyway. */
static uint64_t hash_bytes(const void *data, size_t len)
{
    const unsigned char *bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static struct consul_snapshot *snapshot_new(void)
{
    struct consul_snapshot *snapshot = calloc(1, sizeof(*snapshot));

    if (snapshot) {
        snapshot->refs = 1;
        snapshot->seen_ns = realtime_ns();
    }
    return snapshot;
}

/* Network thread, no lock. `old` lends its unchanged entries. */
static int decode(const struct consul_resource *resource, const struct http_request *request,
                  const struct consul_snapshot *old, struct consul_snapshot **ret_snapshot)
{
    const char *body = request->answer.len > 0 ? request->answer.data : "";
    struct consul_snapshot *snapshot = snapshot_new();
    int r = 0;

    if (!snapshot)
        return -ENOMEM;
    snapshot->index = request->index;
    snapshot->filtered = request->filtered;
    snapshot->len = request->answer.len;
    snapshot->hash = hash_bytes(body, request->answer.len) ^ (uint64_t)request->status;
    switch (resource->format) {
    case CONSUL_JSON:
        snapshot->json = json_loadb(body, request->answer.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        if (!snapshot->json)
            r = -EIO;
        break;
    case CONSUL_KV:
        if (request->status != 404) { /* 404: nothing there, which is an answer */
            json_t *json = kv_json_parse(body, request->answer.len);

            r = json ? kv_list_decode(json, old ? &old->kv : NULL, &snapshot->kv) : -EIO;
            json_decref(json);
        }
        break;
    case CONSUL_TEXT:
        snapshot->text = strndup(body, request->answer.len);
        if (!snapshot->text)
            r = -ENOMEM;
        break;
    }
    if (r < 0) {
        consul_snapshot_unref(snapshot);
        return r;
    }
    *ret_snapshot = snapshot;
    return 0;
}

/* An empty answer is not worth a watch: old servers wake it on every write (CONSUL.md, "Blocking queries"). */
static bool worth_watching(const struct consul_resource *resource)
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

/* ---- the table of resources ---------------------------------------------------------------------------------- */

static struct consul_resource **bucket_of(struct cache *cache, const char *path)
{
    return &cache->buckets[hash_bytes(path, strlen(path)) % cache->bucket_n];
}

static void table_add(struct cache *cache, struct consul_resource *resource)
{
    struct consul_resource **bucket;

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
}

static void table_remove(struct cache *cache, struct consul_resource *resource)
{
    struct consul_resource **at = bucket_of(cache, resource->path);

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

static void pending_free(struct pending *pending)
{
    free(pending->key);
    consul_kv_entry_unref(pending->entry);
    free(pending);
}

static void set_snapshot(struct consul_resource *resource, struct consul_snapshot *snapshot)
{
    struct cache *cache = resource->cache;

    if (resource->snapshot)
        cache->snapshot_bytes -= resource->snapshot->len;
    consul_snapshot_unref(resource->snapshot);
    resource->snapshot = snapshot;
    if (snapshot)
        cache->snapshot_bytes += snapshot->len;
}

static void resource_free(struct consul_resource *resource)
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

/* A KV resource's own path says which keys it shows: "/v1/kv/PREFIX?recurse&dc=DC". */
static int parse_kv_path(struct consul_resource *resource)
{
    static const char kv[] = "/v1/kv/";
    const char *key = resource->path + sizeof(kv) - 1, *query = strchr(resource->path, '?'), *dc;

    if (strncmp(resource->path, kv, sizeof(kv) - 1) != 0)
        return resource->format == CONSUL_KV ? -EINVAL : 0;
    resource->prefix = url_decode(key, query ? (size_t)(query - key) : strlen(key));
    if (!resource->prefix)
        return -ENOMEM;
    resource->recursive = query && (strstr(query, "recurse") || strstr(query, "keys"));
    dc = query ? strstr(query, "dc=") : NULL;
    if (dc) {
        resource->datacenter = url_decode(dc + 3, strcspn(dc + 3, "&"));
        if (!resource->datacenter)
            return -ENOMEM;
    }
    return 0;
}

int cache_get(struct cache *cache, const char *path, enum consul_format format, unsigned flags, size_t max,
              struct consul_resource **ret_resource)
{
    struct consul_resource *resource;
    int r = 0;

    pthread_mutex_lock(&cache->lock);
    for (resource = *bucket_of(cache, path); resource; resource = resource->next_in_bucket)
        if (strcmp(resource->path, path) == 0)
            break;
    if (resource) {
        resource->refs++;
        if (max > resource->max) {
            resource->max = max;
            resource->too_big_until_ns = 0;
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
    if (r < 0)
        resource_free(resource);
    else
        table_add(cache, resource);
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

/* Only the sweep frees: a snapshot without readers is what makes the next read cheap. */
void consul_resource_unref(struct consul_resource *resource)
{
    if (!resource)
        return;
    pthread_mutex_lock(&resource->cache->lock);
    resource->refs--;
    pthread_mutex_unlock(&resource->cache->lock);
}

const char *consul_resource_path(const struct consul_resource *resource) { return resource->path; }

void **consul_resource_user(struct consul_resource *resource) { return &resource->user; }

/* ---- waiters -------------------------------------------------------------------------------------------------- */

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

static void waiter_add(struct consul_resource *resource, struct consul_waiter *waiter)
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

/* Takes all waiters off the resource and chains them through `next`. */
static struct consul_waiter *waiters_take(struct consul_resource *resource)
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

static void waiters_wake(struct consul_waiter *chain, int err)
{
    while (chain) {
        struct consul_waiter *next = chain->next; /* a woken waiter may be gone */

        chain->next = NULL;
        chain->wake(chain, err);
        chain = next;
    }
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

/* ---- asking the agent ------------------------------------------------------------------------------------------ */

static void set_timer(struct cache *cache, uint64_t at_ns)
{
    if (cache->timer_ns == 0 || at_ns < cache->timer_ns) {
        cache->timer_ns = at_ns;
        http_wakeup(cache->http);
    }
}

static void on_get(struct http_request *request);
static void on_watch(struct http_request *request);

/* cache.lock is held. */
static int start_get(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;
    struct http_request *request = http_request_new("GET", resource->path);

    if (!request)
        return -ENOMEM;
    request->intent = CONSUL_READ;
    request->max_answer = resource->max;
    request->deadline_ns = consul_now_ns() + cache->options.timeout_ms * MS;
    request->done = on_get;
    request->arg = resource;
    resource->get = request;
    resource->get_since_ns = consul_now_ns();
    resource->get_again = false;
    resource->refetch_ns = 0;
    resource->refs++; /* the request's */
    http_submit(cache->http, request);
    return 0;
}

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

/* cache.lock is held. The blocking query goes out with the index that we know. */
static int start_blocking_query(struct consul_resource *resource)
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
    if (wait_s > 0)
        snprintf(path, size, "%s%cindex=%" PRIu64 "&wait=%us", resource->path, separator, index, wait_s);
    else
        strcpy(path, resource->path);
    request = http_request_new("GET", path);
    free(path);
    if (!request)
        return -ENOMEM;
    request->intent = CONSUL_READ;
    request->blocking = true;
    request->max_answer = resource->max;
    request->deadline_ns =
        consul_now_ns() + consul_index_deadline_ms(&resource->index, (unsigned)cache->options.timeout_ms) * MS;
    request->done = on_watch;
    request->arg = resource;
    resource->watch = request;
    resource->watch_since_ns = consul_now_ns();
    resource->watch_paused = false;
    resource->refs++;
    http_submit(cache->http, request);
    return 0;
}

/* cache.lock is held. True when somebody must be told (CONSUL_WATCH_ENDED). */
static bool end_watch(struct consul_resource *resource)
{
    struct cache *cache = resource->cache;

    if (resource->state == WATCH_NONE)
        return false;
    if (resource->watch)
        http_cancel(cache->http, resource->watch);
    resource->watch = NULL; /* on_watch sees that it is no longer ours */
    resource->watch_paused = false;
    resource->state = WATCH_NONE;
    resource->good_ns = consul_now_ns();
    cache->watches--;
    cache->ended++;
    return true;
}

/* cache.lock is held. Frees a watch for `taker` if one has been cold for long enough; *ret_loser is to be told,
 * counted. */
static bool evict_one(struct cache *cache, const struct consul_resource *taker, uint64_t now,
                      struct consul_resource **ret_loser)
{
    struct consul_resource *coldest = NULL;

    for (struct consul_resource *r = cache->all; r; r = r->next)
        if (r != taker && r->state != WATCH_NONE && (!coldest || r->used_ns < coldest->used_ns))
            coldest = r;
    if (!coldest || coldest->used_ns + EVICT_AFTER > now)
        return false;
    end_watch(coldest);
    coldest->refs++;
    *ret_loser = coldest;
    return true;
}

/* cache.lock is held; the snapshot is current. */
static void maybe_watch(struct consul_resource *resource, struct consul_resource **ret_loser)
{
    struct cache *cache = resource->cache;
    uint64_t now = consul_now_ns();

    if (resource->state == WATCH_LIVE || cache->closing || !worth_watching(resource))
        return;
    if (resource->state == WATCH_NONE) {
        if (cache->watch_limit == 0 ||
            (cache->watches >= cache->watch_limit && !evict_one(cache, resource, now, ret_loser)))
            return;
        cache->watches++;
        consul_index_init(&resource->index, false, wait_of(cache));
    }
    consul_index_read(&resource->index, resource->snapshot->index);
    resource->state = WATCH_LIVE;
    if (start_blocking_query(resource) < 0)
        end_watch(resource); /* nothing was told under it yet */
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static bool pending_shown(const struct pending *pending, const struct consul_snapshot *snapshot)
{
    const struct consul_kv_entry *entry = consul_kv_find(&snapshot->kv, pending->key, strlen(pending->key));

    if (!pending->entry)
        return !entry || entry->modify_index > pending->removed_index;
    return entry ? entry->modify_index >= pending->entry->modify_index
                 : snapshot->index >= pending->entry->modify_index;
}

/* Changes a snapshot that nobody else sees yet. */
static int snapshot_patch(struct consul_snapshot *snapshot, const char *key, struct consul_kv_entry *entry)
{
    struct consul_kv_list list;
    int r = kv_list_patch(&snapshot->kv, key, entry, &list);

    if (r < 0)
        return r;
    kv_list_clear(&snapshot->kv);
    snapshot->kv = list;
    snapshot->hash = ~snapshot->hash + (entry ? entry->modify_index : 1); /* the next answer will differ */
    return 0;
}

/* cache.lock is held. An answer to a request of sent_ns gets what this client did in the meantime. */
static void apply_pending(struct consul_resource *resource, struct consul_snapshot *snapshot, uint64_t sent_ns)
{
    uint64_t oldest = UINT64_MAX;
    struct pending **at = &resource->pending;

    if (resource->get && resource->get_since_ns < oldest)
        oldest = resource->get_since_ns;
    if (resource->watch && resource->watch_since_ns < oldest)
        oldest = resource->watch_since_ns;
    while (*at) {
        struct pending *pending = *at;

        if (pending->done_ns > sent_ns && !pending_shown(pending, snapshot))
            (void)snapshot_patch(snapshot, pending->key, pending->entry);
        if (pending->done_ns < oldest) {
            *at = pending->next;
            pending_free(pending);
        } else {
            at = &pending->next;
        }
    }
}

static bool same_content(const struct consul_resource *resource, const struct consul_snapshot *a,
                         const struct consul_snapshot *b)
{
    if (resource->format == CONSUL_KV)
        return kv_list_same(&a->kv, &b->kv);
    return a->hash == b->hash;
}

/*
 * cache.lock is held. Takes the decoded answer; says whether the content changed. An answer that was overtaken by a
 * later request's is dropped.
 */
static bool accept(struct consul_resource *resource, struct consul_snapshot *snapshot, uint64_t sent_ns,
                   uint64_t done_ns)
{
    bool changed;

    resource->error = 0;
    resource->too_big_pause_ns = 0;
    if (resource->snapshot && sent_ns < resource->sent_ns && snapshot->index <= resource->snapshot->index) {
        resource->cache->dropped++;
        consul_snapshot_unref(snapshot);
        return false;
    }
    apply_pending(resource, snapshot, sent_ns);
    changed = !resource->snapshot || !same_content(resource, resource->snapshot, snapshot);
    if (snapshot->filtered)
        resource->cache->filtered++;
    if (!changed) {
        snapshot->seen_ns = resource->snapshot->seen_ns;
        snapshot->hash = resource->format == CONSUL_KV ? snapshot->hash : resource->snapshot->hash;
    }
    set_snapshot(resource, snapshot);
    resource->sent_ns = sent_ns > resource->sent_ns ? sent_ns : resource->sent_ns;
    resource->fetched_ns = resource->good_ns = done_ns;
    return changed;
}

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
    int err;

    if (resource->format == CONSUL_KV && request->net == CONSUL_NET_OK && request->status == 404)
        return 0;
    err = http_errno(request);
    return err;
}

static int decode_answer(struct consul_resource *resource, const struct http_request *request,
                         struct consul_snapshot **ret_snapshot)
{
    int err = errno_of(resource, request);
    struct consul_snapshot *old;

    if (err < 0)
        return err;
    old = peek_locked(resource);
    err = decode(resource, request, old, ret_snapshot);
    consul_snapshot_unref(old);
    return err;
}

void cache_note_contact(struct cache *cache, const struct http_request *request, int err)
{
    bool lost =
        request->net != CONSUL_NET_OK && request->net != CONSUL_NET_TOO_BIG && request->net != CONSUL_NET_CANCELLED;
    const char *line = NULL;

    /* An agent without servers or leader answers, but knows nothing. */
    if (request->net == CONSUL_NET_OK && err < 0 && request->status >= 500 && http_is_transient(request))
        lost = true;
    if (request->net == CONSUL_NET_CANCELLED)
        return;
    pthread_mutex_lock(&cache->lock);
    if (lost && cache->disconnected_ns == 0) {
        cache->disconnected_ns = request->done_ns;
        cache->disconnected_realtime_ns = realtime_ns();
        if (cache->contacted)
            line = "Consul does not answer; what is known is served as stale= allows";
    } else if (!lost && cache->disconnected_ns != 0 && request->sent_ns >= cache->disconnected_ns) {
        cache->disconnected_ns = cache->disconnected_realtime_ns = 0;
        line = cache->contacted ? "Consul answers again" : "Consul answers";
    }
    cache->contacted |= !lost;
    if (!lost && request->index > 0)
        cache->known_leader = request->known_leader;
    pthread_mutex_unlock(&cache->lock);
    if (line)
        say(cache, CONSUL_LOG_WARNING, line);
}

/* Tells and gives back a counted resource whose watch ended. */
static void tell_ended(struct cache *cache, struct consul_resource *loser)
{
    if (!loser)
        return;
    tell(cache, loser, CONSUL_WATCH_ENDED);
    consul_resource_unref(loser);
}

/* cache.lock is held. */
static void is_too_big(struct consul_resource *resource, uint64_t now)
{
    uint64_t pause = resource->too_big_pause_ns * 2;

    pause = pause < TOO_BIG_FIRST ? TOO_BIG_FIRST : pause > TOO_BIG_LAST ? TOO_BIG_LAST : pause;
    resource->too_big_pause_ns = pause;
    resource->too_big_until_ns = now + pause;
}

static void on_get(struct http_request *request)
{
    struct consul_resource *resource = request->arg, *loser = NULL;
    struct cache *cache = resource->cache;
    struct consul_snapshot *snapshot = NULL;
    struct consul_waiter *woken = NULL;
    bool changed = false, ended = false;
    int err = decode_answer(resource, request, &snapshot);

    cache_note_contact(cache, request, err);
    pthread_mutex_lock(&cache->lock);
    resource->get = NULL;
    if (err == 0) {
        changed = accept(resource, snapshot, request->sent_ns, request->done_ns);
        if (resource->sent_ns >= resource->not_before_ns)
            maybe_watch(resource, &loser);
        if (resource->state == WATCH_LIVE && !worth_watching(resource))
            ended = end_watch(resource);
    } else {
        resource->error = err;
        resource->error_ns = request->done_ns;
        if (request->net == CONSUL_NET_TOO_BIG)
            is_too_big(resource, request->done_ns);
        if (resource->state == WATCH_BROKEN) { /* the attempt to reconnect failed too */
            resource->refetch_ns =
                consul_now_ns() + consul_index_failed(&resource->index, false, 0, (uint32_t)rand()) * MS;
            set_timer(cache, resource->refetch_ns);
        }
    }
    if (resource->get_again && !cache->closing && start_get(resource) == 0)
        ; /* who waits now began after this request was sent, or changed the resource himself */
    else
        woken = waiters_take(resource);
    pthread_mutex_unlock(&cache->lock);

    if (changed)
        tell(cache, resource, CONSUL_CHANGED);
    if (ended)
        tell(cache, resource, CONSUL_WATCH_ENDED);
    tell_ended(cache, loser);
    waiters_wake(woken, cache->closing ? -ECANCELED : 0);
    consul_resource_unref(resource);
    http_request_free(request);
}

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
    set_timer(cache, resource->refetch_ns);
    set_timer(cache, resource->broken_ns + BROKEN_GRACE);
}

static void on_watch(struct http_request *request)
{
    struct consul_resource *resource = request->arg;
    struct cache *cache = resource->cache;
    struct consul_snapshot *snapshot = NULL;
    struct consul_waiter *woken = NULL;
    bool changed = false, ended = false;
    unsigned pause_ms = 0;
    int err = decode_answer(resource, request, &snapshot);

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
            ended = end_watch(resource);
            resource->error = err;
            resource->error_ns = request->done_ns;
            if (request->net == CONSUL_NET_TOO_BIG)
                is_too_big(resource, request->done_ns);
        } else {
            watch_broke(resource, request);
        }
        goto out;
    }
    /* The query was sent long ago and answered now: what it shows is as new as its answer, save what this client wrote
     * while the answer was on its way; apply_pending() knows that. */
    (void)consul_index_answer(&resource->index, snapshot->index, (unsigned)((request->done_ns - request->sent_ns) / MS),
                              (uint32_t)rand(), &pause_ms);
    changed = accept(resource, snapshot, request->sent_ns, request->done_ns);
    if (!worth_watching(resource)) {
        ended = end_watch(resource);
    } else if (pause_ms > 0 || (changed && resource->snapshot->len > LARGE_ANSWER)) {
        resource->watch_paused = true;
        resource->refetch_ns = consul_now_ns() + pause_ms * MS + resource->snapshot->len * NS_PER_LARGE_BYTE;
        set_timer(cache, resource->refetch_ns);
    } else if (start_blocking_query(resource) < 0) {
        ended = end_watch(resource);
    }
    if (resource->first && !resource->get && !resource->refetch_ns)
        woken = waiters_take(resource);
out:
    pthread_mutex_unlock(&cache->lock);
    if (changed)
        tell(cache, resource, CONSUL_CHANGED);
    if (ended)
        tell(cache, resource, CONSUL_WATCH_ENDED);
    waiters_wake(woken, 0);
    consul_resource_unref(resource);
    http_request_free(request);
}

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

int consul_resource_read(struct consul_resource *resource, uint64_t since_ns, struct consul_waiter *waiter,
                         struct consul_snapshot **ret_snapshot, enum consul_freshness *ret_freshness)
{
    struct cache *cache = resource->cache;
    uint64_t now = consul_now_ns();
    bool serve = false, watched = false, stale = false;
    int r = 0;

    pthread_mutex_lock(&cache->lock);
    resource->used_ns = now;
    if (resource->snapshot && resource->sent_ns >= resource->not_before_ns) {
        watched = is_live(resource, now);
        serve = watched || resource->fetched_ns >= since_ns;
        /* A strict mount knows that the agent is gone before its blocking query does. */
        if (watched && cache->disconnected_ns && resource->good_ns < cache->disconnected_ns &&
            !stale_allowed(resource, now))
            serve = resource->fetched_ns >= since_ns;
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
        if (!resource->get)
            r = start_get(resource);
        else if (resource->get_since_ns < resource->not_before_ns)
            resource->get_again = true;
        serve = stale = r == 0 && cache->disconnected_ns && stale_allowed(resource, now);
        cache->misses += !serve;
        if (r == 0 && !serve) {
            r = -EINPROGRESS;
            if (waiter)
                waiter_add(resource, waiter);
        }
    }
    if (serve) {
        *ret_snapshot = consul_snapshot_ref(resource->snapshot);
        *ret_freshness = stale ? CONSUL_STALE : watched ? CONSUL_WATCHED : CONSUL_FRESH;
        cache->stale_served += stale;
    }
    pthread_mutex_unlock(&cache->lock);
    return r;
}

struct consul_snapshot *consul_resource_peek(struct consul_resource *resource, bool *ret_watched)
{
    struct consul_snapshot *snapshot;

    pthread_mutex_lock(&resource->cache->lock);
    snapshot = resource->snapshot ? consul_snapshot_ref(resource->snapshot) : NULL;
    *ret_watched = is_live(resource, consul_now_ns()) && resource->sent_ns >= resource->not_before_ns;
    pthread_mutex_unlock(&resource->cache->lock);
    return snapshot;
}

int consul_resource_error(struct consul_resource *resource)
{
    int err;

    pthread_mutex_lock(&resource->cache->lock);
    err = resource->error;
    pthread_mutex_unlock(&resource->cache->lock);
    return err;
}

/* ---- changes that this client makes ---------------------------------------------------------------------------- */

/* cache.lock is held. */
static void expire_one(struct consul_resource *resource, uint64_t now, bool told)
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
    expire_one(resource, consul_now_ns(), true);
    pthread_mutex_unlock(&resource->cache->lock);
}

void cache_expire(struct cache *cache, const char *prefix, bool told)
{
    size_t len = strlen(prefix);
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    for (struct consul_resource *r = cache->all; r; r = r->next)
        if (strncmp(r->path, prefix, len) == 0)
            expire_one(r, now, told);
    pthread_mutex_unlock(&cache->lock);
}

static bool covers(const struct consul_resource *resource, const char *datacenter, const char *key)
{
    if (!resource->prefix)
        return false;
    if (resource->datacenter ? !datacenter || strcmp(resource->datacenter, datacenter) != 0 : datacenter != NULL)
        return false;
    return resource->recursive ? strncmp(key, resource->prefix, strlen(resource->prefix)) == 0
                               : strcmp(key, resource->prefix) == 0;
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

/* cache.lock is held. */
static int apply_one(struct consul_resource *resource, const char *key, struct consul_kv_entry *entry,
                     uint64_t removed_index, uint64_t now)
{
    struct consul_snapshot *old = resource->snapshot, *snapshot;
    struct pending change = {.key = (char *)key, .entry = entry, .removed_index = removed_index};
    int r;

    if ((resource->get || resource->watch) && (r = pending_add(resource, key, entry, removed_index, now)) < 0)
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
    set_snapshot(resource, snapshot);
    return 0;
}

void cache_apply_kv(struct cache *cache, const char *datacenter, const char *key, struct consul_kv_entry *entry,
                    uint64_t removed_index)
{
    uint64_t now = consul_now_ns();

    pthread_mutex_lock(&cache->lock);
    for (struct consul_resource *r = cache->all; r; r = r->next) {
        if (!covers(r, datacenter, key))
            continue;
        if (r->format != CONSUL_KV) { /* a listing of names */
            if (!entry || entry->create_index == entry->modify_index)
                expire_one(r, now, true);
        } else if (apply_one(r, key, entry, removed_index, now) < 0) {
            expire_one(r, now, true);
        }
    }
    pthread_mutex_unlock(&cache->lock);
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
            if (end_watch(r)) {
                r->refs++;
                told[n++] = r;
            }
            r->used_ns = 0; /* the sweep frees it if nobody holds it */
            r->too_big_until_ns = 0;
            if (!r->get)
                set_snapshot(r, NULL);
        }
        cache->swept_ns = 0;
        pthread_mutex_unlock(&cache->lock);
        for (size_t i = 0; i < n; i++)
            tell_ended(cache, told[i]);
    } while (n > 0);
    http_wakeup(cache->http);
}

/* ---- the clock -----------------------------------------------------------------------------------------------------
 */

static struct consul_waiter *take_overdue(struct cache *cache, uint64_t now)
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

/* cache.lock is held. Starts what is due; *ret_ended, counted, lost its watch. Returns when to look again. */
static uint64_t run_timers(struct cache *cache, uint64_t now, struct consul_resource **ended, size_t max, size_t *ret_n)
{
    uint64_t next = 0;
    size_t n = 0;

    for (struct consul_resource *r = cache->all; r; r = r->next) {
        uint64_t due = 0;

        if (r->refetch_ns && r->refetch_ns <= now) {
            r->refetch_ns = 0;
            if (r->watch_paused) {
                if (start_blocking_query(r) < 0 && end_watch(r) && n < max) {
                    r->refs++;
                    ended[n++] = r;
                }
            } else if (!r->get) {
                (void)start_get(r);
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
        next = r->next;
        if (r->state != WATCH_NONE && r->used_ns + IDLE_WATCH < now && *n < max) {
            end_watch(r);
            r->refetch_ns = 0;
            r->refs++;
            ended[(*n)++] = r;
        }
        if (r->refs == 0 && r->state == WATCH_NONE && !r->get && !r->first && r->used_ns + IDLE_UNREFERENCED < now) {
            table_remove(cache, r);
            resource_free(r);
        }
    }
}

uint64_t cache_tick(void *arg, uint64_t now)
{
    struct cache *cache = arg;
    struct consul_resource *ended[32];
    struct consul_waiter *overdue;
    size_t n = 0;
    uint64_t next;

    pthread_mutex_lock(&cache->lock);
    overdue = take_overdue(cache, now);
    if (cache->timer_ns && cache->timer_ns <= now)
        cache->timer_ns = run_timers(cache, now, ended, sizeof(ended) / sizeof(*ended), &n);
    if (cache->swept_ns + SWEEP_EVERY <= now)
        sweep(cache, now, ended, sizeof(ended) / sizeof(*ended), &n);
    pthread_mutex_unlock(&cache->lock);

    for (size_t i = 0; i < n; i++)
        tell_ended(cache, ended[i]);
    waiters_wake(overdue, -ETIMEDOUT);

    pthread_mutex_lock(&cache->lock);
    next = cache->swept_ns + SWEEP_EVERY;
    if (cache->timer_ns && cache->timer_ns < next)
        next = cache->timer_ns;
    if (cache->soonest && cache->soonest->deadline_ns < next)
        next = cache->soonest->deadline_ns;
    pthread_mutex_unlock(&cache->lock);
    return next;
}

/* ---- beginning and end --------------------------------------------------------------------------------------------
 */

/*
 * `watches` connections in all, so that a host's other clients keep their share of http_max_conns_per_client: an eighth
 * of them (2 to 16) serves ordinary requests, the rest may carry blocking queries.
 */
void cache_split_connections(unsigned watches, unsigned *ret_connections, unsigned *ret_watches)
{
    unsigned reserve = watches / 8 < 2 ? 2 : watches / 8 > 16 ? 16 : watches / 8;

    *ret_watches = watches > reserve * 2 ? watches - reserve : watches;
    *ret_connections = *ret_watches + reserve;
}

int cache_new(const struct consul_options *options, struct cache **ret_cache)
{
    struct cache *cache = calloc(1, sizeof(*cache));
    unsigned connections;

    if (!cache)
        return -ENOMEM;
    cache->options = *options;
    cache_split_connections(options->watches, &connections, &cache->watch_limit);
    cache->bucket_n = 256;
    cache->buckets = calloc(cache->bucket_n, sizeof(*cache->buckets));
    if (!cache->buckets) {
        free(cache);
        return -ENOMEM;
    }
    pthread_mutex_init(&cache->lock, NULL);
    cache->swept_ns = consul_now_ns();
    *ret_cache = cache;
    return 0;
}

void cache_set_http(struct cache *cache, struct http *http) { cache->http = http; }

void cache_close(struct cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    cache->closing = true;
    pthread_mutex_unlock(&cache->lock);
}

void cache_cancel_waiters(struct cache *cache)
{
    struct consul_waiter *all;

    pthread_mutex_lock(&cache->lock);
    all = take_overdue(cache, UINT64_MAX);
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
    free(cache->buckets);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

void cache_add_stats(struct cache *cache, struct consul_stats *stats)
{
    pthread_mutex_lock(&cache->lock);
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
