#include "kv_index.h"

#include "resource.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

size_t kv_index_find(const struct kv_index *index, const char *text, size_t len)
{
    size_t low = 0, high = index->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strncmp(index->at[middle]->prefix, text, len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool kv_index_begins(const struct kv_index *index, size_t i, const char *text, size_t len)
{
    return i < index->n && strncmp(index->at[i]->prefix, text, len) == 0;
}

bool kv_index_is(const struct kv_index *index, size_t i, const char *text, size_t len)
{
    return kv_index_begins(index, i, text, len) && index->at[i]->prefix[len] == '\0';
}

struct consul_resource *kv_index_next_above(const struct kv_index *index, const char *text,
                                            struct kv_index_above *above)
{
    for (;;) {
        if (!above->found)
            above->i = kv_index_find(index, text, above->len);
        above->found = kv_index_is(index, above->i, text, above->len);
        if (above->found)
            return index->at[above->i++];
        if (text[above->len] == '\0')
            return NULL;
        above->len++;
    }
}

int kv_index_add(struct kv_index *index, struct consul_resource *resource)
{
    size_t i;

    if (index->n == index->cap) {
        size_t cap = index->cap ? index->cap * 2 : 64;
        struct consul_resource **at = realloc(index->at, cap * sizeof(*at));

        if (!at)
            return -ENOMEM;
        index->at = at;
        index->cap = cap;
    }
    i = kv_index_find(index, resource->prefix, strlen(resource->prefix));
    memmove(&index->at[i + 1], &index->at[i], (index->n - i) * sizeof(*index->at));
    index->at[i] = resource;
    index->n++;
    return 0;
}

void kv_index_remove(struct kv_index *index, struct consul_resource *resource)
{
    size_t i = kv_index_find(index, resource->prefix, strlen(resource->prefix));

    while (i < index->n && index->at[i] != resource)
        i++;
    if (i == index->n)
        return;
    index->n--;
    memmove(&index->at[i], &index->at[i + 1], (index->n - i) * sizeof(*index->at));
}

void kv_index_clear(struct kv_index *index)
{
    free(index->at);
    *index = (struct kv_index){0};
}
