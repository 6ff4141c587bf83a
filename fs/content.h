/* The bytes of a file at one version. Immutable and counted; any thread. */
#ifndef CONSULFS_CONTENT_H
#define CONSULFS_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct consul_kv_entry;

struct content {
    uint32_t refs;
    uint32_t len;
    const char *data;
    struct consul_kv_entry *entry; /* a KV value's, counted, whose bytes they are; NULL for a view, which owns them */
};

/*
 * Takes ownership of data (malloc'd, or NULL when len is 0), also when it fails and returns NULL: without memory, or
 * from 4 GiB on.
 */
struct content *content_take(char *data, size_t len, uint64_t mtime_ns);
/* The value of a KV entry, shared, not copied. */
struct content *content_of_entry(struct consul_kv_entry *entry);
/* ModifyIndex of a KV value, a hash of a view's bytes. */
uint64_t content_version(const struct content *content);
/* CLOCK_REALTIME: when these bytes were first seen. */
uint64_t content_mtime_ns(const struct content *content);
bool content_same_version(const struct content *a, const struct content *b);
bool content_same_bytes(const struct content *a, const struct content *b);
struct content *content_ref(struct content *content);
void content_unref(struct content *content); /* NULL is fine */

#endif
