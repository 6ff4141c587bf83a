/* The resource cache; see cache.c. What the rest of the library may do with it. */
#ifndef CONSUL_LIB_CACHE_H
#define CONSUL_LIB_CACHE_H

#include "http.h"

struct cache;

int cache_new(const struct consul_options *options, struct cache **ret_cache);
/* Before the network thread starts. -ENOMEM. */
int cache_set_http(struct cache *cache, struct http *http);
/* That of the configuration (NULL: the agent's), which must outlive the cache. What another one does not answer does
 * not tell that the agent is gone. */
void cache_set_datacenter(struct cache *cache, const char *datacenter);
/* The network thread's hook: deadlines, retries, what is idle. */
uint64_t cache_tick(void *cache, uint64_t now_ns);
/* From now on nothing new is started and who waits gets -ECANCELED. */
void cache_close(struct cache *cache);
/* After the network thread has ended: what it left is ended, and who still waits gets -ECANCELED. */
void cache_cancel_waiters(struct cache *cache);
void cache_free(struct cache *cache);

/* Counted; NULL: nobody has asked for it. */
struct consul_resource *cache_find(struct cache *cache, const char *path);
/* See consul_watched(). */
struct consul_resource **cache_watched(struct cache *cache, const char *prefix, size_t *ret_n);
int cache_get(struct cache *cache, const char *path, enum consul_format format, unsigned flags, size_t max,
              struct consul_resource **ret_resource);
bool cache_cancel_waiter(struct cache *cache, struct consul_waiter *waiter);
/* told: this client knows that something changed, so that what it had must not even be served as stale. */
void cache_expire(struct cache *cache, const char *prefix, bool told);
void cache_drop(struct cache *cache);

/*
 * This client stored `entry` (or, entry NULL, removed `key` that was at ModifyIndex removed_index): every KV resource
 * of that datacenter shows it from now on, also when an answer that is already on its way does not.
 */
void cache_apply_kv(struct cache *cache, const char *datacenter, const char *key, struct consul_kv_entry *entry,
                    uint64_t removed_index);

/* See consul_kv_catch_up(). */
void cache_kv_catch_up(struct cache *cache, const char *datacenter, const char *key, uint64_t index);
/*
 * What a resource shows of a key now: this one, or, resource NULL, any that is watched. -EAGAIN: none does. *ret_entry
 * is counted, or NULL where there is no such key; *ret_index is the snapshot's.
 */
int cache_look_up(struct cache *cache, struct consul_resource *resource, const char *datacenter, const char *key,
                  struct consul_kv_entry **ret_entry, uint64_t *ret_index);

/* The same datacenter? NULL: that of the agent. */
bool cache_same_datacenter(const char *one, const char *other);
/* The answer has come. */
void cache_note_served(struct cache *cache, const struct http_request *request);
/* It was that of the names in the root of the configured datacenter. How long they took beyond a trip, at best. */
uint64_t cache_note_root_names(struct cache *cache, const struct http_request *request, bool anew);
/* See consul_kv_known(). */
struct consul_kv_known cache_kv_known(struct cache *cache, const char *datacenter, const char *prefix, size_t max);
size_t cache_kv_watched(struct cache *cache, const char *datacenter, const char *text, size_t from, size_t to);
/* See consul_kv_witness(). */
struct consul_resource *cache_kv_witness(struct cache *cache, const char *datacenter, const char *prefix);

/* See consul_catch_up(). */
int cache_catch_up(struct cache *cache, const char *datacenter, void (*done)(void *arg), void *arg);

/* Any answer, or its lack, tells whether the agent is there. */
void cache_note_contact(struct cache *cache, const struct http_request *request, int err);

char *cache_filtered(struct cache *cache);
void cache_add_stats(struct cache *cache, struct consul_stats *stats);

/* How many connections, watches, and blocking queries of those that wait for locks `watches=` stands for. */
void cache_split_connections(unsigned watches, unsigned *ret_connections, unsigned *ret_watches,
                             unsigned *ret_lock_waits);

#endif
