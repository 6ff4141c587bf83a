/* kv/: the entries that a directory stands for, and those that no name shows. */
#include "kv_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int kv_find_entry(struct op *op, const char *prefix, const char *key, struct kv_place *ret_place)
{
    struct consul_snapshot *snapshot;
    size_t covered, len = strlen(key);
    int r = kv_read_cover(op, prefix, &snapshot, &covered);

    if (kv_try_finer(r) && kv_is_plain(key, len))
        return kv_find_key(op, key, ret_place);
    if (r < 0)
        return r;
    ret_place->is_dir = false;
    ret_place->entry = consul_kv_find(&snapshot->kv, key, len);
    ret_place->seen_ns = snapshot->seen_ns;
    return ret_place->entry ? 0 : -ENOENT;
}

int kv_entries_add(struct kv_entries *entries, struct consul_kv_entry *entry)
{
    struct consul_kv_entry **more = realloc(entries->entries, (entries->n + 1) * sizeof(*more));

    if (!more)
        return -ENOMEM;
    entries->entries = more;
    more[entries->n++] = consul_kv_entry_ref(entry);
    return 0;
}

static int add_below(struct kv_entries *entries, const struct consul_kv_list *list, const char *prefix, size_t len)
{
    int r = 0;

    for (size_t i = consul_kv_lower_bound(list, prefix, len);
         r == 0 && i < list->n && kv_begins_with(list->entries[i], prefix, len); i++)
        r = kv_entries_add(entries, list->entries[i]);
    return r;
}

/* All of it from one snapshot, which shows the directory's own value, too. */
static int gather_at_once(struct op *op, const char *above, const char *prefix, struct kv_entries *entries)
{
    struct consul_kv_entry *value;
    struct consul_snapshot *snapshot;
    size_t len = strlen(prefix);
    int r = kv_read_to_move(op, above, &snapshot);

    if (r < 0)
        return r;
    value = consul_kv_find(&snapshot->kv, prefix, len - 1);
    r = value ? kv_entries_add(entries, value) : 0;
    return r == 0 ? add_below(entries, &snapshot->kv, prefix, len) : r;
}

/* What is above is too much, but this may not be. That the two reads are of one moment is for the caller to check. */
static int gather_in_parts(struct op *op, const char *prefix, struct kv_entries *entries)
{
    size_t len = strlen(prefix), covered;
    struct consul_snapshot *snapshot;
    struct kv_place value;
    char *key = strndup(prefix, len - 1);
    int r = key ? -ENOENT : -ENOMEM;

    if (key && kv_is_plain(key, len - 1))
        r = kv_find_key(op, key, &value);
    free(key);
    if (r == 0)
        r = kv_entries_add(entries, value.entry);
    else if (r == -ENOENT || r == -EACCES)
        r = 0;
    if (r == 0)
        r = kv_read_cover(op, prefix, &snapshot, &covered);
    return r == 0 ? add_below(entries, &snapshot->kv, prefix, len) : r;
}

int kv_gather(struct op *op, const char *above, const char *prefix, struct kv_entries *entries)
{
    int r = gather_at_once(op, above, prefix, entries);

    if (kv_try_finer(r))
        r = gather_in_parts(op, prefix, entries);
    if (kv_try_finer(r))
        return -EXDEV;
    return r == 0 && entries->n == 0 ? -ENOENT : r;
}

void kv_entries_clear(struct kv_entries *entries)
{
    for (size_t i = 0; i < entries->n; i++)
        consul_kv_entry_unref(entries->entries[i]);
    free(entries->entries);
    *entries = (struct kv_entries){0};
}
