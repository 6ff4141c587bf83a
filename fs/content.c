#include "content.h"

#include <consul.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct view {
    struct content content;
    uint64_t version, mtime_ns;
};

struct content *content_take(char *data, size_t len, uint64_t mtime_ns)
{
    struct view *view = len <= UINT32_MAX ? calloc(1, sizeof(*view)) : NULL;
    uint64_t hash = 0xcbf29ce484222325u;

    if (!view) {
        free(data);
        return NULL;
    }
    for (size_t i = 0; i < len; i++) /* FNV-1a */
        hash = (hash ^ (unsigned char)data[i]) * 0x100000001b3u;
    view->content = (struct content){.refs = 1, .data = data, .len = (uint32_t)len};
    view->version = hash;
    view->mtime_ns = mtime_ns;
    return &view->content;
}

struct content *content_of_entry(struct consul_kv_entry *entry)
{
    struct content *content = malloc(sizeof(*content));

    if (content)
        *content = (struct content){
            .refs = 1, .entry = consul_kv_entry_ref(entry), .data = consul_kv_value(entry), .len = entry->value_len};
    return content;
}

static const struct view *view_of(const struct content *content)
{
    return (const struct view *)((const char *)content - offsetof(struct view, content));
}

uint64_t content_version(const struct content *content)
{
    return content->entry ? content->entry->modify_index : view_of(content)->version;
}

uint64_t content_mtime_ns(const struct content *content)
{
    return content->entry ? content->entry->seen_ns : view_of(content)->mtime_ns;
}

bool content_same_version(const struct content *a, const struct content *b)
{
    return content_version(a) == content_version(b) && a->len == b->len;
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
    if (content->entry)
        consul_kv_entry_unref(content->entry);
    else
        free((char *)content->data);
    free(content);
}
