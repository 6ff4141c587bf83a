/* kv/: which resource shows a directory, or a name in it: all of a prefix, or what begins with the name. */
#include "kv_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- resources ----------------------------------------------------------------------------------------------------
 */

static const char tree[] = "?recurse", whole[] = "?recurse=whole", names_of[] = "?keys&separator=%2F";

static int read_tree_by(struct op *op, const char *query, const char *prefix, size_t len, unsigned flags, size_t max,
                        struct consul_snapshot **ret_snapshot)
{
    char *url = kv_url_of(prefix, len, query);
    int r;

    if (!url)
        return -ENOMEM;
    /* A watch on the empty root wakes only for what concerns it. */
    flags |= CONSUL_BLOCKS | CONSUL_IN_PARTS | (len == 0 ? CONSUL_WATCH_EMPTY : 0);
    r = op_read(op, url, CONSUL_KV, flags, max, ret_snapshot);
    free(url);
    return r;
}

int kv_read_tree(struct op *op, const char *prefix, size_t len, size_t max, struct consul_snapshot **ret_snapshot)
{
    return read_tree_by(op, tree, prefix, len, 0, max, ret_snapshot);
}

static int read_names_by(struct op *op, const char *prefix, unsigned flags, size_t max,
                         struct consul_snapshot **ret_snapshot)
{
    char *url = kv_url_of(prefix, strlen(prefix), names_of);
    int r;

    if (!url)
        return -ENOMEM;
    r = op_read(op, url, CONSUL_JSON, CONSUL_BLOCKS | CONSUL_STRINGS | flags, max, ret_snapshot);
    free(url);
    return r;
}

void kv_retire_names(struct op *op, const char *prefix)
{
    char *url = kv_url_of(prefix, strlen(prefix), names_of);

    if (url)
        op_retire(op, url);
    free(url);
}

int kv_read_names(struct op *op, const char *prefix, size_t max, struct consul_snapshot **ret_snapshot)
{
    return read_names_by(op, prefix, 0, max, ret_snapshot);
}

int kv_read_few_names(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot)
{
    return read_names_by(op, prefix, OP_UNLESS_DEMOTED, KV_SMALL, ret_snapshot);
}

bool kv_is_whole(const struct consul_resource *resource)
{
    return strstr(consul_resource_path(resource), whole) != NULL;
}

bool kv_try_finer(int err) { return err == -EFBIG || err == -EACCES; }

static bool url_is(struct op *op, const char *prefix, size_t len, const char *query,
                   bool (*is)(struct op *op, const char *path))
{
    char *url = kv_url_of(prefix, len, query);
    bool yes = url && is(op, url);

    free(url);
    return yes;
}

/* op_is_known(), op_is_used(), op_is_at_hand()… of all keys of the prefix. */
static bool tree_is(struct op *op, const char *prefix, size_t len, bool (*is)(struct op *op, const char *path))
{
    return url_is(op, prefix, len, tree, is);
}

bool kv_names_are_watched(struct op *op, const char *prefix, size_t len)
{
    return url_is(op, prefix, len, names_of, op_is_watched);
}

struct consul_kv_known kv_known_of(struct op *op, const char *prefix, size_t len, size_t max)
{
    struct consul_kv_known known = {.used = CONSUL_KV_USED_MAX};
    char *copy = strndup(prefix, len);

    if (copy)
        known = consul_kv_known(op->fs->consul, op_datacenter(op), copy, max);
    free(copy);
    return known;
}

/* ---- which of them ------------------------------------------------------------------------------------------------
 */

bool kv_is_restless(struct op *op, const char *path, size_t at)
{
    return tree_is(op, path, at, op_is_demoted) || (at > 0 && tree_is(op, path, at - 1, op_is_demoted));
}

/*
 * For the names in a directory the server goes through all keys below it, and answers with a line for each name; for
 * these keys it puts together one answer of all of them, in memory, even if nobody takes it: of 100 MB, seconds and
 * gigabytes. So where the names took long, or those of what is around the directory did, it is not asked for before its
 * own names were, by who lists it or looks into it.
 */
#define HEAVY_NS 10000000u /* some 30,000 keys */
/* Then not even what begins with a name is asked for before it is known what that is. */
#define VERY_HEAVY_NS 100000000u
#define FILE_NS 4000u /* what the names may take for each file among them, whose values are wanted */

enum weight { LIGHT, UNKNOWN, HEAVY };

/* `known` is of the directory path[0..at). */
static enum weight weight_of(struct op *op, const char *path, size_t at, struct consul_kv_known known)
{
    while (!tree_is(op, path, at, op_is_used)) {
        if (known.names_known)
            return known.names_ns < HEAVY_NS ? LIGHT : HEAVY;
        if (at == 0)
            return UNKNOWN;
        do
            at--;
        while (at > 0 && path[at - 1] != '/');
        known = kv_known_of(op, path, at, KV_SMALL);
    }
    return LIGHT;
}

bool kv_values_are_worth_it(struct op *op, const char *prefix, size_t files)
{
    return kv_known_of(op, prefix, strlen(prefix), KV_SMALL).names_ns <= HEAVY_NS + files * FILE_NS;
}

bool kv_names_are_quick(struct op *op, const char *prefix)
{
    size_t len = strlen(prefix);

    return kv_names_are_watched(op, prefix, len) || kv_known_of(op, prefix, len, KV_SMALL).names_ns < HEAVY_NS;
}

/* Names first, for who looks at one of them? Where these were too many, what begins with a name is less. */
static bool are_names_less(size_t at, const struct consul_kv_known *known)
{
    return at == 0 ? known->names_ns >= VERY_HEAVY_NS : !known->too_large && !known->names_too_large;
}

/* How much of the path[0..end) begins what has just told of it, if that is more than `at`; 0: nothing has. */
static size_t told_of(struct op *op, const char *path, size_t at, size_t end)
{
    const char *prefix = op->told ? consul_resource_kv_prefix(op->told) : NULL;
    size_t len = prefix ? strlen(prefix) : 0;

    return len > at && len <= end && strncmp(prefix, path, len) == 0 && tree_is(op, path, len, op_is_told) ? len : 0;
}

/* How much of path[0..end) begins what has just told of it or is kept up to date, if that is more than `at`; or `at`.
 */
static size_t kept(struct op *op, const char *path, size_t at, size_t end)
{
    size_t len = told_of(op, path, at, end);

    if (len > 0)
        return len;
    len = consul_kv_watched(op->fs->consul, op_datacenter(op), path, at, end);
    return len > 0 && tree_is(op, path, len, op_is_watched) ? len : at;
}

/*
 * How large a store is is not known before it was asked for, and for an answer that is too large the server works as
 * for any. So what begins with a name is asked for when that is looked at, until a few have been: one request brings
 * the key, or all of a directory. Who looks at more of them has all asked for, of which one watch is enough.
 *
 * Below the root there is nothing to be gained, as all of a directory is asked for then; unless it is the one that was
 * asked for by its name, and too large. In a directory that is too large, or changes too often to be watched
 * (`in_parts`), each name that is looked at is asked for and watched like that: its answer is not empty, and tells of
 * the key and of what comes to be below it; and of others that begin with the name, which then need not be asked for.
 * Only where the names are watched for who lists them, these and the key are as good.
 *
 * Neither the directory path[0..at), of which this many resources are used, nor what begins with the name is kept up to
 * date.
 */
static bool is_asked_by_name(struct op *op, const char *path, size_t at, size_t end, bool in_parts, unsigned used)
{
    if (in_parts)
        return !op->quiet && !kv_names_are_watched(op, path, at) && !kv_known_of(op, path, end, KV_SMALL).too_large;
    if (tree_is(op, path, at, op_is_known))
        return false;
    if (op->quiet)
        return tree_is(op, path, end, op_is_known);
    if (tree_is(op, path, end, op_is_at_hand))
        return true;
    if (at > 0 && !kv_known_of(op, path, at - 1, KV_SMALL).too_large)
        return false;
    return used < CONSUL_KV_USED_MAX;
}

/* The keys that begin with path[0..at), or at least those of them that begin with path[0..end). */
static int read_step(struct op *op, const char *path, size_t at, size_t end, size_t max, bool listed,
                     struct consul_snapshot **ret_snapshot)
{
    bool named = end > at && kv_is_plain(path, end), restless, too_large;
    struct consul_kv_known known;
    enum weight weight;
    size_t len = at;

    if (!tree_is(op, path, at, op_is_watched)) {
        if (named)
            len = kept(op, path, at, end);
        if (len == at) {
            known = kv_known_of(op, path, at, max);
            weight = weight_of(op, path, at, known);
            restless = kv_is_restless(op, path, at);
            too_large = known.too_large || (at == 0 && weight == HEAVY);
            if ((named && weight == HEAVY && are_names_less(at, &known)) || (listed && weight != LIGHT))
                return -EFBIG;
            if (named && is_asked_by_name(op, path, at, end, restless || too_large, known.used))
                len = end;
            else if (restless || (too_large && !tree_is(op, path, at, op_is_used)))
                return -EFBIG;
        }
    }
    return read_tree_by(op, tree, path, len, OP_UNLESS_DEMOTED, len > at ? KV_SMALL : max, ret_snapshot);
}

static int read_path(struct op *op, const char *path, size_t len, size_t max, bool listed,
                     struct consul_snapshot **ret_snapshot, size_t *ret_covered)
{
    size_t last = 0;
    int r = -EFBIG;

    for (size_t i = 0; i <= len; i++) {
        if (i > 0 && path[i - 1] != '/')
            continue;
        if (!kv_is_plain(path, i)) {
            /* A resource of its own: the small one's maximum is not to grow with it. */
            r = read_tree_by(op, whole, path, last, 0, KV_LARGE, ret_snapshot);
            *ret_covered = last;
            return r;
        }
        last = i;
        r = read_step(op, path, i, i + strcspn(path + i, "/"), i < len ? KV_SMALL : max, listed && i == len,
                      ret_snapshot);
        *ret_covered = i;
        if (!kv_try_finer(r))
            return r;
    }
    return r;
}

int kv_read_path(struct op *op, const char *path, size_t len, size_t max, struct consul_snapshot **ret_snapshot,
                 size_t *ret_covered)
{
    return read_path(op, path, len, max, false, ret_snapshot, ret_covered);
}

int kv_read_cover(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot, size_t *ret_covered)
{
    return read_path(op, prefix, strlen(prefix), KV_SMALL, false, ret_snapshot, ret_covered);
}

int kv_read_listed(struct op *op, const char *prefix, size_t max, struct consul_snapshot **ret_snapshot,
                   size_t *ret_covered)
{
    return read_path(op, prefix, strlen(prefix), max, true, ret_snapshot, ret_covered);
}

int kv_read_to_move(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot)
{
    size_t covered;
    int r = kv_read_cover(op, prefix, ret_snapshot, &covered);

    return kv_try_finer(r) ? kv_read_tree(op, prefix, strlen(prefix), KV_SMALL, ret_snapshot) : r;
}
