/* Making snapshots: from an answer, or from another snapshot and a change of our own. */
#ifndef CONSUL_LIB_SNAPSHOT_H
#define CONSUL_LIB_SNAPSHOT_H

#include "http.h"

/* CLOCK_REALTIME in nanoseconds. */
uint64_t realtime_ns(void);
/* Tells an unchanged answer from a changed one, in this process. Not for adversaries: they own the content anyway. */
uint64_t snapshot_hash(const void *data, size_t len);
/* An empty one, first seen now. NULL without memory. */
struct consul_snapshot *snapshot_new(void);
/*
 * Decodes a good answer; -EIO for one that is not what `flags` say it has to be. `old`, or NULL, lends its unchanged
 * entries. Called without a lock: it may take long.
 */
int snapshot_decode(enum consul_format format, unsigned flags, const struct http_request *request,
                    const struct consul_snapshot *old, struct consul_snapshot **ret_snapshot);
/* Changes a snapshot that nobody else sees yet: `key` has this entry, or, with entry NULL, is gone. */
int snapshot_patch(struct consul_snapshot *snapshot, const char *key, struct consul_kv_entry *entry);

#endif
