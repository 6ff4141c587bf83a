/*
 * kv/: RENAME_EXCHANGE of files and directories, as far as one transaction carries it.
 *
 * Each of the two has a base key and the entries on and below it; what is "below" is the same on both sides ("" or
 * "/…"), so that each side's key gets what the other side has there, or goes if it has nothing.
 */
#include "kv_parts.h"

#include "name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct side {
    char *key;
    size_t key_len;
    bool is_dir;
    struct kv_entries is; /* in the order of what is behind the base key */
};

static void side_free(struct side *side)
{
    kv_entries_clear(&side->is);
    free(side->key);
}

static int find_side(struct op *op, struct inode *dir, const char *name, struct side *side)
{
    char *above = kv_prefix_of(op, dir), *prefix = NULL;
    struct kv_place place = {0};
    int r = above ? kv_key_of(above, name, &side->key) : -ENOMEM;

    if (r == 0) {
        side->key_len = strlen(side->key);
        r = kv_find_place(op, dir, name, &place);
    }
    side->is_dir = place.is_dir;
    if (r == 0 && place.is_dir)
        r = asprintf(&prefix, "%s/", side->key) < 0 ? -ENOMEM : kv_gather(op, above, prefix, &side->is);
    else if (r == 0)
        r = kv_entries_add(&side->is, place.entry);
    free(prefix);
    free(above);
    return r;
}

/* What stands at `key`+`rest` becomes `to`; it was `from`. Either may be NULL. */
static int make_op(const char *key, const char *rest, const struct consul_kv_entry *from,
                   const struct consul_kv_entry *to, struct consul_kv_op *ret_op)
{
    struct consul_kv_op op = {.verb = to ? CONSUL_KV_CAS : CONSUL_KV_DELETE_CAS, .value = ""};
    char *full;

    if (asprintf(&full, "%s%s", key, rest) < 0)
        return -ENOMEM;
    if (to && *full == '\0') { /* the empty component of the root is a directory only */
        free(full);
        return -EINVAL;
    }
    op.key = full;
    op.index = from ? from->modify_index : 0;
    if (to) {
        op.value = consul_kv_value(to);
        op.value_len = to->value_len;
        op.flags = to->flags;
    }
    *ret_op = op;
    return 0;
}

static int begin(struct op *op, const struct side *a, const struct side *b)
{
    struct consul_kv_op *ops = calloc(a->is.n + b->is.n, 2 * sizeof(*ops));
    size_t i = 0, j = 0, n = 0;
    int r = ops ? 0 : -ENOMEM;

    while (r == 0 && (i < a->is.n || j < b->is.n)) {
        const struct consul_kv_entry *here = i < a->is.n ? a->is.entries[i] : NULL,
                                     *there = j < b->is.n ? b->is.entries[j] : NULL;
        const char *rest_here = here ? consul_kv_key(here) + a->key_len : NULL;
        const char *rest_there = there ? consul_kv_key(there) + b->key_len : NULL;
        int c = !here ? 1 : !there ? -1 : strcmp(rest_here, rest_there);

        if (c < 0)
            there = NULL;
        if (c > 0)
            here = NULL;
        i += here != NULL;
        j += there != NULL;
        r = make_op(a->key, here ? rest_here : rest_there, here, there, &ops[n]);
        n += r == 0;
        if (r == 0)
            r = make_op(b->key, here ? rest_here : rest_there, there, here, &ops[n]);
        n += r == 0;
    }
    if (r == 0)
        r = op_kv_txn(op, ops, n);
    for (i = 0; i < n; i++)
        free((char *)ops[i].key);
    free(ops);
    return r == -EFBIG ? -EXDEV : r;
}

int kv_exchange(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name)
{
    struct side a = {0}, b = {0};
    int r;

    if (op->stage > 0) {
        if ((op->result != -ESTALE && op->result != -EEXIST) || op->attempts >= KV_CONFLICTS_MAX)
            return op->result == -EEXIST ? -ESTALE : op->result;
        kv_distrust(op);
    }
    r = find_side(op, dir, name, &a);
    if (r == 0)
        r = find_side(op, new_dir, new_name, &b);
    if (r == 0 &&
        ((a.is_dir && strcmp(new_name, NAME_KV_VALUE) == 0) || (b.is_dir && strcmp(name, NAME_KV_VALUE) == 0)))
        r = -EINVAL; /* which is the name of a value only */
    if (r == 0)
        r = begin(op, &a, &b);
    side_free(&a);
    side_free(&b);
    return r;
}
