#include "content.h"

#include <consul.h>
#include <stdlib.h>
#include <string.h>

struct content *content_take(char *data, size_t len, uint64_t mtime_ns)
{
    struct content *content = calloc(1, sizeof(*content));
    uint64_t hash = 0xcbf29ce484222325u;

    if (!content) {
        free(data);
        return NULL;
    }
    for (size_t i = 0; i < len; i++) /* FNV-1a */
        hash = (hash ^ (unsigned char)data[i]) * 0x100000001b3u;
    content->refs = 1;
    content->data = content->owned = data;
    content->len = len;
    content->version = hash;
    content->mtime_ns = mtime_ns;
    return content;
}

struct content *content_of_entry(struct consul_kv_entry *entry)
{
    struct content *content = calloc(1, sizeof(*content));

    if (!content)
        return NULL;
    content->refs = 1;
    content->entry = consul_kv_entry_ref(entry);
    content->data = consul_kv_value(entry);
    content->len = entry->value_len;
    content->version = entry->modify_index;
    content->mtime_ns = entry->seen_ns;
    return content;
}

bool content_same_bytes(const struct content *a, const struct content *b)
{
    return a == b || (a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0));
}

struct content *content_ref(struct content *content)
{
    __atomic_fetch_add(&content->refs, 1, __ATOMIC_RELAXED);
    return content;
}

void content_unref(struct content *content)
{
    if (!content || __atomic_sub_fetch(&content->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    consul_kv_entry_unref(content->entry);
    free(content->owned);
    free(content);
}
