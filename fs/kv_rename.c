/* kv/: renaming files and directories. */
#include "kv_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#endif

static int begin_rename(struct op *op, const struct consul_kv_entry *entry, const char *new_key, unsigned flags)
{
    const char *key = consul_kv_key(entry);
    struct consul_kv_op ops[] = {
        {.verb = CONSUL_KV_CHECK_INDEX, .key = key, .index = entry->modify_index},
        {.verb = flags & RENAME_NOREPLACE ? CONSUL_KV_CAS : CONSUL_KV_SET,
         .key = new_key,
         .value = consul_kv_value(entry),
         .value_len = entry->value_len,
         .flags = entry->flags},
        {.verb = CONSUL_KV_DELETE, .key = key},
    };
    int r = op_kv_txn(op, ops, 3);

    return r == -EFBIG ? -EXDEV : r; /* does not fit a transaction: mv copies */
}

/* A value too large for a transaction: the new key is stored first, then the old one goes if it still is the same. */
static int continue_in_two_steps(struct op *op, const char *key, uint64_t index)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_DELETE_CAS, .key = key, .index = index};

    return op_kv_txn(op, &kv, 1);
}

static int begin_in_two_steps(struct op *op, const struct consul_kv_entry *entry, const char *new_key, unsigned flags)
{
    struct consul_kv_op kv = {
        .verb = flags & RENAME_NOREPLACE ? CONSUL_KV_CAS : CONSUL_KV_SET,
        .key = new_key,
        .value = consul_kv_value(entry),
        .value_len = entry->value_len,
        .flags = entry->flags,
    };

    op->in_two_steps = true;
    return op_kv_txn(op, &kv, 1);
}

int kv_rename_file(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                   unsigned flags)
{
    bool between = op->in_two_steps && op->stage == 1 && op->result == 0;
    struct kv_place place = {0};
    char *new_key;
    int r;

    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    if (op->stage > 0 && !between) {
        if (op->result != -ESTALE || op->attempts >= KV_CONFLICTS_MAX) {
            if (op->result == 0)
                kv_emptied(op, dir);
            return op->result;
        }
        op->in_two_steps = false;
        kv_distrust(op);
    }
    r = kv_find_place(op, dir, name, &place);
    if (r < 0)
        return r;
    if (place.is_dir)
        return -EXDEV;
    if (between)
        return continue_in_two_steps(op, consul_kv_key(place.entry), place.entry->modify_index);
    r = kv_key_of_file(op, new_dir, new_name, &new_key);
    if (r < 0)
        return r;
    r = begin_rename(op, place.entry, new_key, flags);
    if (r == -EXDEV)
        r = begin_in_two_steps(op, place.entry, new_key, flags);
    free(new_key);
    return r;
}

/* Every key below goes along, or none: two operations each, which limits how many fit. */
static int begin_rename_dir(struct op *op, const struct consul_snapshot *snapshot, const char *prefix,
                            const char *new_prefix)
{
    const struct consul_kv_list *list = &snapshot->kv;
    size_t len = strlen(prefix), first = consul_kv_lower_bound(list, prefix, len), n = 0, done = 0;
    const struct consul_kv_entry *value = consul_kv_find(list, prefix, len - 1); /* shown as %value */
    struct consul_kv_op *ops;
    int r = 0;

    while (first + n < list->n && kv_begins_with(list->entries[first + n], prefix, len))
        n++;
    if (n == 0)
        return -ENOENT;
    n += value != NULL;
    ops = calloc(n, 2 * sizeof(*ops));
    if (!ops)
        return -ENOMEM;
    for (; r == 0 && done < n; done++) {
        bool is_value = value && done == n - 1;
        const struct consul_kv_entry *entry = is_value ? value : list->entries[first + done];
        const char *key = consul_kv_key(entry);
        char *new_key;

        if (asprintf(&new_key, "%.*s%s", (int)strlen(new_prefix) - is_value, new_prefix, is_value ? "" : key + len) <
            0) {
            r = -ENOMEM;
            break;
        }
        ops[2 * done] = (struct consul_kv_op){
            .verb = !is_value && key[len] == '\0' ? CONSUL_KV_SET
                                                  : CONSUL_KV_CAS, /* the target's own marker may be there */
            .key = new_key,
            .value = consul_kv_value(entry),
            .value_len = entry->value_len,
            .flags = entry->flags,
        };
        ops[2 * done + 1] =
            (struct consul_kv_op){.verb = CONSUL_KV_DELETE_CAS, .key = key, .index = entry->modify_index};
    }
    if (r == 0)
        r = op_kv_txn(op, ops, 2 * n);
    for (size_t i = 0; i < done; i++)
        free((char *)ops[2 * i].key);
    free(ops);
    return r == -EFBIG ? -EXDEV : r; /* does not fit a transaction: mv copies */
}

int kv_rename_dir(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                  unsigned flags)
{
    char *prefix = NULL, *new_prefix = NULL, *above;
    struct consul_snapshot *snapshot;
    size_t covered;
    int r;

    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    if (op->stage > 0) {
        if (op->result != -ESTALE || op->attempts >= KV_CONFLICTS_MAX) {
            if (op->result == 0)
                kv_emptied(op, dir);
            return op->result == -EEXIST ? -ENOTEMPTY : op->result;
        }
        kv_distrust(op);
    }
    prefix = kv_marker_of(op, dir, name);
    new_prefix = kv_marker_of(op, new_dir, new_name);
    above = kv_prefix_of(op, dir); /* from there the value of a key that is a prefix too is seen as well */
    r = prefix && new_prefix && above ? kv_read_cover(op, above, &snapshot, &covered) : -EINVAL;
    if (r == 0)
        r = begin_rename_dir(op, snapshot, prefix, new_prefix);
    else if (kv_try_finer(r))
        r = -EXDEV;
    free(above);
    free(prefix);
    free(new_prefix);
    return r;
}
