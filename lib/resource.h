/*
 * What the files of the resource cache share: cache.c (reading; it says how all of it works), watch.c (asking, and who
 * is watched), answers.c (what comes of that), parts.c (prefixes that show the same), clock.c (what is due or idle),
 * waiters.c (who waits), resource.c (the table of resources), kv_index.c (those of /v1/kv in order), kv_known.c (what
 * they tell of a prefix), own_writes.c (what this client changed itself).
 */
#ifndef CONSUL_LIB_RESOURCE_H
#define CONSUL_LIB_RESOURCE_H

#include "abandoned.h"
#include "cache.h"
#include "filtered.h"
#include "index.h"
#include "kv_index.h"
#include "trim.h"
#include "watch_cost.h"
#include "worker.h"

#include <pthread.h>

#define MS 1000000ull
#define SECOND (1000 * MS)
#define BROKEN_GRACE SECOND /* a break shorter than this is nobody's business */

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
    unsigned flags;
    void *user; /* the program's */

    /* guarded by cache.lock */
    uint32_t refs;
    size_t max;
    struct consul_snapshot *snapshot;
    uint64_t sent_ns, fetched_ns; /* of the request that brought (or confirmed) the snapshot */
    uint64_t not_before_ns;       /* a request sent before this does not count */
    uint64_t floor_ns;            /* the same, also when Consul is away: a write was told to have succeeded */
    uint64_t floor_index;         /* a snapshot with a lower index does not count; 0: any does */
    uint64_t floor_index_ns;      /* but the answer to a request sent since then does */
    uint64_t good_ns;             /* the snapshot was last known to be current */
    uint64_t arrived_ns;          /* the snapshot did */
    uint64_t used_ns;
    uint64_t changed_ns; /* a blocking query last brought something new */
    struct watch_cost cost;
    uint64_t served_ns; /* of names: how long the server takes to gather them, on average */
    bool was_demoted;   /* and was not watched since */
    bool is_covered;    /* a prefix that shows it, too, has become watched, and nobody got it since */
    int error;
    uint64_t error_ns;
    uint64_t too_big_until_ns, too_big_pause_ns;
    uint64_t too_big_ns, too_big_seen_ns; /* the answer that was came then; the same as CLOCK_REALTIME */
    char *too_big_in;                     /* what all of its keys began with, as far as it came; NULL: not known */
    struct http_request *get, *watch;
    uint64_t get_since_ns, watch_since_ns; /* when these were submitted: they show at least what was true then */
    bool get_again;
    bool confirm;        /* the next GET asks the leader to make sure that it is one: see goes_back() */
    bool get_consistent; /* the one under way does */
    uint64_t refetch_ns; /* a GET is due; 0: none */
    enum watch_state state;
    bool watch_paused;  /* the next blocking query waits for refetch_ns */
    bool watch_begins;  /* its first blocking query is about to be sent */
    bool watch_stale;   /* any server may answer the one that is under way */
    uint64_t broken_ns; /* 0 once the grace is over */
    struct consul_index index;
    struct consul_waiter *first, *last;
    struct pending *pending;
    struct consul_resource *next_in_bucket;
    struct consul_resource *prev, *next;                 /* all resources */
    struct consul_resource *prev_watched, *next_watched; /* those that are counted in cache.watches */
    struct consul_resource *next_too_big;                /* those with too_big_until_ns, for a while longer */
    bool is_too_big;                                     /* it is one of these */
};

struct cache {
    struct consul_options options; /* constant */
    unsigned watch_limit;          /* constant */
    struct http *http;             /* constant once set */
    struct worker *worker;         /* constant once set; decodes large answers */
    const char *datacenter;        /* constant once set, borrowed: that of the configuration, or NULL */

    pthread_mutex_t lock;
    /* guarded by lock */
    struct consul_resource **buckets;
    size_t bucket_n, n;
    struct consul_resource *all, *watched, *too_big;
    struct kv_index kv;
    unsigned watches;
    struct abandoned abandoned;               /* the queries of watches that were ended */
    struct consul_waiter *soonest, *latest;   /* by deadline */
    uint64_t trip_ns;                         /* what an answer takes at least, lately; 0: none came */
    uint64_t root_names_ns, root_names_at_ns; /* see consul_kv_measure(): how long they took, and when; 0: not known */
    uint64_t timer_ns;                        /* the earliest refetch or end of a grace; a tick is due then */
    uint64_t wrote_ns;                        /* when this client last learnt that it had written to /v1/kv */
    unsigned wrote_in_row;                    /* how often it did so before that, each shortly before the next */
    uint64_t swept_ns, disconnected_ns, disconnected_realtime_ns;
    uint64_t hits, misses, dropped, ended, stale_served, filtered, snapshot_bytes, waiters;
    uint64_t evicted, idle_ended, demotions, promotions;
    struct trim trim;
    struct filtered filtered_paths;
    bool known_leader, contacted;
    uint64_t consistent_until_ns; /* until then only the leader's answers are taken */
    bool broke_all;               /* Consul has been away for longer than stale= allows, and every watch was given up */
    bool closing;
};

/* kv_known.c; cache.lock is held. What a server took beyond what any request takes. */
uint64_t cache_work_ns(const struct cache *cache, uint64_t served_ns);
/* The resource shows names, which the server took so long to gather. */
void kv_note_names(struct consul_resource *resource, uint64_t served_ns);

/* resource.c; cache.lock is held by the caller of each. */
void table_remove(struct cache *cache, struct consul_resource *resource);
void resource_free(struct consul_resource *resource);
/* Takes the reference to snapshot, which may be NULL. */
void set_snapshot(struct consul_resource *resource, struct consul_snapshot *snapshot);

/* It is known to be too big from now on. */
void too_big_add(struct cache *cache, struct consul_resource *resource);

/* The decoded value of a path's query parameter, the caller's; NULL: none, or no memory. */
char *url_parameter(const char *path, const char *name);

/* There is a snapshot, or one is being asked for. */
bool resource_is_used(const struct consul_resource *resource);

/* How many others than our own requests hold it. */
uint32_t resource_holders(const struct consul_resource *resource);

/* watch.c; likewise. */
/* cache_tick() is to be called by then. */
void cache_set_timer(struct cache *cache, uint64_t at_ns);
int resource_start_get(struct consul_resource *resource);
/* The same, but http_send() is to send it, when the lock is not held any more. */
int resource_enqueue_get(struct consul_resource *resource);
int resource_start_blocking_query(struct consul_resource *resource);
/* The blocking query that is under way is not ours any more. */
void resource_abandon_query(struct consul_resource *resource);
/* Nothing that this client knows of happened after what the snapshot shows. */
bool resource_is_new_enough(const struct consul_resource *resource);
bool resource_worth_watching(const struct consul_resource *resource);
/* The snapshot is current: from now on it is watched, if it may be and a watch is free. *ret_loser, counted, gave up
 * its own for that and is to be told. */
void resource_maybe_watch(struct consul_resource *resource, struct consul_resource **ret_loser);
/* It stays watched, but the next blocking query is sent so much later; and the end of that. */
void resource_pause_watch(struct consul_resource *resource, uint64_t pause_ns);
void resource_go_on_watching(struct consul_resource *resource);
/* True when somebody must be told (CONSUL_WATCH_ENDED). */
bool resource_end_watch(struct consul_resource *resource);

/* answers.c; likewise, save where it says something else. */
/* What http.c calls when these requests are over: no lock is held. */
void resource_on_get(struct http_request *request);
void resource_on_watch(struct http_request *request);
bool resource_same_content(const struct consul_resource *resource, const struct consul_snapshot *a,
                           const struct consul_snapshot *b);
/* Something was known when the request was sent that its answer, of this index, does not know yet, or any more. */
bool resource_knew_more(const struct consul_resource *resource, const struct http_request *request, uint64_t index);
/* No lock is held. Takes the references to the snapshots. */
void cache_tell_changed(const struct cache *cache, struct consul_resource *resource, struct consul_snapshot *before,
                        struct consul_snapshot *after);
/* Changes that are found under cache.lock, of several resources, to be told without it, in their order. */
struct news {
    struct news_item *first, **end;
};
#define NEWS_NONE(news) ((struct news){.end = &(news).first})
/* cache.lock is held: `after` is about to take the place of the resource's snapshot. False: there is no memory. */
bool news_add(struct news *news, struct consul_resource *resource, struct consul_snapshot *after);
/* No lock is held. Nothing is left to tell. */
void cache_tell_news(const struct cache *cache, struct news *news);
/* No lock is held. Tells and gives back a counted resource whose watch ended; NULL is fine. */
void cache_tell_ended(struct cache *cache, struct consul_resource *loser);

/* parts.c; likewise, save where it says something else. */
/* What a watched prefix shows need not be watched in parts: their watches end with the next sweep. */
void parts_cover(const struct consul_resource *resource);
/* resource_knew_more() of what is known in parts. */
bool parts_knew_more(const struct consul_resource *resource, const struct http_request *request, uint64_t index);
/*
 * No lock is held. If it is the first snapshot of a prefix, that is from now on what tells of changes in all of its
 * parts that are known; what has changed since these were last asked, they still tell.
 */
void parts_hand_over(struct consul_resource *resource, struct consul_snapshot *snapshot,
                     const struct http_request *request);

/* waiters.c; likewise, save where it says something else. */
void resource_add_waiter(struct consul_resource *resource, struct consul_waiter *waiter);
/* Takes all waiters off the resource and chains them through `next`. */
struct consul_waiter *waiters_take(struct consul_resource *resource);
/* The same of those of all resources whose deadline is over. */
struct consul_waiter *waiters_take_overdue(struct cache *cache, uint64_t now);
/* No lock is held. */
void waiters_wake(struct consul_waiter *chain, int err);

/* own_writes.c; likewise. */
/* This client is writing to /v1/kv, and not for the first time. */
bool writes_often(const struct cache *cache, uint64_t now);
void resource_expire(struct consul_resource *resource, uint64_t now, bool told);
/* A resource of /v1/kv of that datacenter; and whether it shows the key. */
bool resource_is_kv_of(const struct consul_resource *resource, const char *datacenter);
bool resource_covers(const struct consul_resource *resource, const char *datacenter, const char *key);
void pending_free(struct pending *pending);
/* An answer to a request of sent_ns, `stale` if any server gave it, gets what this client did and it does not show. */
void apply_pending(struct consul_resource *resource, struct consul_snapshot *snapshot, uint64_t sent_ns, bool stale);
/* Since when something that this client did has not been shown by any answer; 0: there is no such thing. */
uint64_t pending_since_ns(const struct consul_resource *resource);

#endif
