/*
 * Resources of /v1/kv in the order of what they show, so that those that show a part of something, or it among others,
 * are found without a look at all of them: there is one for each key that was read, and may be a hundred thousand.
 *
 * No lock of its own: cache.lock.
 */
#ifndef CONSUL_LIB_KV_INDEX_H
#define CONSUL_LIB_KV_INDEX_H

#include <stdbool.h>
#include <stddef.h>

struct consul_resource;

/* Sorted by `prefix`, as bytes. */
struct kv_index {
    struct consul_resource **at; /* borrowed */
    size_t n, cap;
};

/* -ENOMEM. The resource's prefix is set, and stays. */
int kv_index_add(struct kv_index *index, struct consul_resource *resource);
void kv_index_remove(struct kv_index *index, struct consul_resource *resource);
void kv_index_clear(struct kv_index *index);
/*
 * Where those stand whose prefix begins with text[0..len), from here up to the first that does not
 * (kv_index_begins()). Those that have no other prefix than this are the first of them (kv_index_is()).
 */
size_t kv_index_find(const struct kv_index *index, const char *text, size_t len);
bool kv_index_begins(const struct kv_index *index, size_t i, const char *text, size_t len);
bool kv_index_is(const struct kv_index *index, size_t i, const char *text, size_t len);
/*
 * Those whose prefix is a beginning of the text, or all of it, one after the other, the shortest first; NULL: there are
 * no more. `above` is {0} at first.
 */
struct kv_index_above {
    size_t len, i;
    bool found; /* i is of this len */
};
struct consul_resource *kv_index_next_above(const struct kv_index *index, const char *text,
                                            struct kv_index_above *above);

#endif
