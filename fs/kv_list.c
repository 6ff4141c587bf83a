/* kv/: what a directory lists. */
#include "kv_parts.h"

#include "content.h"
#include "name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int emit(struct op *op, struct lister *lister, const char *component, size_t len, bool is_dir,
                struct consul_kv_entry *entry, uint64_t seen_ns)
{
    struct found found = {.kind = is_dir ? &kind_kv_dir : &kind_kv_file, .mtime_ns = seen_ns};
    char name[NAME_SIZE];

    if (name_kv_encode(component, len, name) < 0) {
        fs_name_left_out(op->fs);
        return 0;
    }
    if (entry && lister->with_content) {
        found.content = content_of_entry(entry);
        if (!found.content)
            return -ENOMEM;
    }
    return lister->emit(lister, name, &found);
}

static int emit_value(struct lister *lister, struct consul_kv_entry *value)
{
    struct found found = {.kind = &kind_kv_file};

    if (lister->with_content && !(found.content = content_of_entry(value)))
        return -ENOMEM;
    return lister->emit(lister, NAME_KV_VALUE, &found);
}

/* The names that no component has: the value of a key that is a prefix too, and what an empty component holds. */
static int list_special(struct op *op, const struct consul_snapshot *snapshot, const char *prefix,
                        struct consul_kv_entry *value, struct lister *lister)
{
    struct consul_kv_entry *marker = consul_kv_find(&snapshot->kv, prefix, strlen(prefix));
    int r = 0;

    if (value)
        r = emit_value(lister, value);
    if (r == 0 && kv_has_below(&snapshot->kv, prefix))
        r = emit(op, lister, "", 0, true, NULL, snapshot->seen_ns);
    else if (r == 0 && marker && marker->value_len > 0)
        r = emit(op, lister, "", 0, false, marker, snapshot->seen_ns);
    return r;
}

static int list_cover(struct op *op, const struct consul_snapshot *snapshot, const char *prefix,
                      struct consul_kv_entry *value, struct lister *lister)
{
    const struct consul_kv_list *list = &snapshot->kv;
    size_t len = strlen(prefix), i = consul_kv_lower_bound(list, prefix, len);
    int r = list_special(op, snapshot, prefix, value, lister);

    while (r == 0 && i < list->n && kv_begins_with(list->entries[i], prefix, len)) {
        struct consul_kv_entry *entry = list->entries[i];
        const char *key = consul_kv_key(entry), *component = key + len;
        const char *slash = memchr(component, '/', entry->key_len - len);

        if (slash) {
            size_t end = (size_t)(slash - key) + 1;
            char *next = strndup(key, end);

            if (!next)
                return -ENOMEM;
            if (slash > component)
                r = emit(op, lister, component, (size_t)(slash - component), true, NULL, snapshot->seen_ns);
            next[end - 1] = '/' + 1; /* the first key behind everything below */
            i = consul_kv_lower_bound(list, next, end);
            free(next);
        } else {
            if (entry->key_len > len && !kv_has_below(list, key))
                r = emit(op, lister, component, entry->key_len - len, false, entry, snapshot->seen_ns);
            i++;
        }
    }
    return r;
}

static void count_names(const struct consul_snapshot *names, size_t *ret_files, size_t *ret_dirs)
{
    const json_t *item;
    size_t i;

    *ret_files = *ret_dirs = 0;
    json_array_foreach(names->json, i, item)
    {
        size_t len = json_string_length(item);

        if (len > 0 && json_string_value(item)[len - 1] == '/')
            ++*ret_dirs;
        else
            ++*ret_files;
    }
}

/*
 * A key that is also this prefix shows here as %value. Its entry, counted by the snapshot that is read last; what was
 * read before is forgotten. In a large store nearly no prefix has one, which is known from where it was looked up.
 */
static int find_value(struct op *op, const char *prefix, struct consul_kv_entry **ret_value)
{
    size_t len = strlen(prefix);
    struct kv_place place = {0};
    bool has = true;
    char *key;
    int r;

    *ret_value = NULL;
    if (len == 0 || !kv_is_plain(prefix, len - 1))
        return 0;
    r = kv_has_value(op, prefix, &has);
    if (r == -EINPROGRESS)
        return r;
    op_rest_on_nothing(op);
    if (op->quiet || (r == 0 && !has)) /* who asks nobody may not know */
        return 0;
    key = strndup(prefix, len - 1);
    r = key ? kv_find_key(op, key, &place) : -ENOMEM;
    free(key);
    if (r == 0)
        *ret_value = place.entry;
    return r == -ENOENT || r == -EACCES ? 0 : r;
}

/* The folder marker's entry if it holds bytes, as find_value(): the names have only told that there is one. */
static int find_marker(struct op *op, const char *prefix, struct consul_kv_entry **ret_marker)
{
    struct kv_place place = {0};
    int r;

    *ret_marker = NULL;
    if (op->quiet)
        return 0;
    r = kv_find_key(op, prefix, &place);
    if (r == 0 && place.entry->value_len > 0)
        *ret_marker = place.entry;
    return r == -ENOENT || r == -EACCES ? 0 : r;
}

/* What shows the values can't be read, or is not known to who asks nobody. */
static bool is_to_be_named(const struct op *op, int err) { return kv_try_finer(err) || (op->quiet && err == -EAGAIN); }

/* There can be others between "a" and "a/", of which all begin with "a". */
static bool is_prefix_too(const json_t *names, size_t i)
{
    const char *name = json_string_value(json_array_get(names, i));
    const char *next = json_string_value(json_array_get(names, i + 1));

    return next && strncmp(next, name, strlen(name)) == 0 && kv_names_have_below(names, name);
}

static int list_names(struct op *op, const struct consul_snapshot *names, const char *prefix, struct lister *lister)
{
    size_t len = strlen(prefix), i;
    const json_t *item;
    int r = 0;

    json_array_foreach(names->json, i, item)
    {
        const char *key = json_string_value(item);
        size_t key_len = json_string_length(item);
        bool is_dir;

        if (!key || key_len < len || memcmp(key, prefix, len) != 0 || key_len == len)
            continue;
        is_dir = key[key_len - 1] == '/';
        if (!is_dir && is_prefix_too(names->json, i))
            continue; /* shown as the directory */
        r = emit(op, lister, key + len, key_len - len - is_dir, is_dir, NULL, names->seen_ns);
        if (r < 0)
            return r;
    }
    return 0;
}

/* What the names of a prefix leave open is asked for by its key; what was read before is forgotten. */
static int list_by_names(struct op *op, const char *prefix, bool has_marker, struct lister *lister)
{
    struct consul_kv_entry *value = NULL, *marker = NULL;
    struct consul_snapshot *names;
    int r = find_value(op, prefix, &value);

    if (value)
        consul_kv_entry_ref(value);
    if (r == 0 && has_marker)
        r = find_marker(op, prefix, &marker);
    if (marker)
        consul_kv_entry_ref(marker);
    op_rest_on_nothing(op);
    if (r == 0)
        r = kv_read_names(op, prefix, KV_LARGE, &names);
    if (r == 0 && value)
        r = emit_value(lister, value);
    if (r == 0 && marker && !kv_names_have_below(names->json, prefix))
        r = emit(op, lister, "", 0, false, marker, names->seen_ns);
    if (r == 0)
        r = list_names(op, names, prefix, lister);
    consul_kv_entry_unref(value);
    consul_kv_entry_unref(marker);
    return r;
}

/*
 * Names first: they say whether all the rest is of use. And they tell who watches the directory of what comes and goes,
 * also where it is made from all the rest, which changes too often to be watched.
 */
static int list_uncovered(struct op *op, struct inode *dir, const char *prefix, struct lister *lister)
{
    struct consul_kv_entry *value = NULL;
    struct consul_snapshot *names, *snapshot;
    size_t files, dirs;
    int r = kv_read_names(op, prefix, KV_LARGE, &names);

    if (r < 0)
        return r;
    if (!op->quiet && kv_is_restless(op, prefix, strlen(prefix)))
        inode_list_by(&op->fs->inodes, dir, op->read[op->read_n - 1].resource);
    count_names(names, &files, &dirs);
    if (!op->quiet && files > 0 && lister->with_content && kv_values_are_worth_it(op, prefix, files)) {
        r = kv_read_tree(op, prefix, strlen(prefix), dirs > 0 ? KV_MIXED : KV_LARGE, &snapshot);
        if (r == 0) {
            r = find_value(op, prefix, &value);
            if (r == 0)
                r = kv_read_tree(op, prefix, strlen(prefix), dirs > 0 ? KV_MIXED : KV_LARGE, &snapshot);
            return r < 0 ? r : list_cover(op, snapshot, prefix, value, lister);
        }
        if (!is_to_be_named(op, r))
            return r;
    }
    return list_by_names(op, prefix, kv_names_have(names->json, prefix), lister);
}

int kv_list(struct op *op, struct inode *dir, struct lister *lister)
{
    char *prefix = kv_prefix_of(op, dir);
    struct consul_kv_entry *value = NULL;
    struct consul_snapshot *snapshot;
    size_t covered, len;
    int r;

    if (!prefix)
        return -ENOMEM;
    len = strlen(prefix);
    /* All of it was asked for; but who lists the root of a large store has asked for names. */
    r = kv_read_listed(op, prefix, lister->with_content && len > 0 ? KV_MIXED : KV_SMALL, &snapshot, &covered);
    if (r == 0 && covered < len) {
        value = consul_kv_find(&snapshot->kv, prefix, len - 1);
    } else if (r == 0 && len > 0) {
        r = find_value(op, prefix, &value);
        if (r == 0)
            r = kv_read_cover(op, prefix, &snapshot, &covered);
        if (r == 0 && covered == len)
            kv_retire_names(op, prefix); /* by which it may have been found out that all the rest is of use */
    }
    if (r == 0)
        r = list_cover(op, snapshot, prefix, value, lister);
    else if (is_to_be_named(op, r))
        r = list_uncovered(op, dir, prefix, lister);
    free(prefix);
    return r;
}
