/* The bytes of a file at one version. Immutable and counted; any thread. */
#ifndef CONSULFS_CONTENT_H
#define CONSULFS_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct consul_kv_entry;

struct content {
    uint32_t refs;
    const char *data;
    size_t len;
    uint64_t version;              /* ModifyIndex of a KV value, a hash of a view's bytes */
    uint64_t mtime_ns;             /* CLOCK_REALTIME: when these bytes were first seen */
    struct consul_kv_entry *entry; /* a KV value's, counted; NULL for a view */
    char *owned;
};

/* Takes ownership of data (malloc'd, or NULL when len is 0), also when it fails and returns NULL. */
struct content *content_take(char *data, size_t len, uint64_t mtime_ns);
/* The value of a KV entry, shared, not copied. */
struct content *content_of_entry(struct consul_kv_entry *entry);
bool content_same_bytes(const struct content *a, const struct content *b);
struct content *content_ref(struct content *content);
void content_unref(struct content *content); /* NULL is fine */

#endif
