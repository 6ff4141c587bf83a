/* kv/: removing files, making and removing directories. */
#include "kv_parts.h"

#include "name.h"
#include "notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void kv_emptied(struct op *op, struct inode *dir)
{
    char *path = inode_path_below(&op->fs->inodes, dir, &kind_root), *slash;

    for (; path && (slash = strrchr(path, '/')); *slash = '\0')
        phantom_add(&op->fs->phantoms, path, op->pid);
    free(path);
    notify_look(op->fs, dir);
}

int kv_remove_file(struct op *op, struct inode *dir, const char *name)
{
    if (op->stage > 0) {
        if (op->result == 0)
            kv_emptied(op, dir);
        return op->result;
    }
    return kv_begin_on_key(op, dir, name, CONSUL_KV_DELETE);
}

int kv_make_dir(struct op *op, struct inode *dir, const char *name)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_CAS, .value = ""};
    struct kv_place place;
    char *marker;
    bool plain;
    int r;

    if (op->stage > 0)
        return op->result;
    r = kv_find_place(op, dir, name, &place);
    if (r != -ENOENT)
        return r < 0 ? r : -EEXIST;
    marker = kv_marker_of(op, dir, name);
    if (!marker)
        return -EINVAL;
    kv.key = marker;
    r = consul_kv_key_valid(marker, &plain) ? op_kv_txn(op, &kv, 1) : -EINVAL;
    free(marker);
    return r;
}

/*
 * Removing a directory: what is below it is asked afresh, then its marker goes. `stage` counts the two requests.
 */
int kv_ask_below(struct op *op, const char *marker)
{
    struct consul_request request = {.method = "GET", .intent = CONSUL_READ};
    char *url = kv_url_of(marker, strlen(marker), "?keys&separator=%2F");
    int r;

    if (!url)
        return -ENOMEM;
    request.path = url;
    r = op_request(op, &request);
    free(url);
    return r;
}

int kv_is_known_empty(struct op *op, const char *marker, uint64_t *ret_index)
{
    struct consul_snapshot *snapshot;
    size_t covered, len = strlen(marker), i;
    int r = kv_read_cover(op, marker, &snapshot, &covered);

    *ret_index = 0;
    if (r < 0)
        return r;
    i = consul_kv_lower_bound(&snapshot->kv, marker, len);
    if (i == snapshot->kv.n || !kv_begins_with(snapshot->kv.entries[i], marker, len))
        return 0;
    if (covered < len && consul_kv_find(&snapshot->kv, marker, len - 1)) /* shown in it as %value */
        return -ENOTEMPTY;
    if (snapshot->kv.entries[i]->key_len == len && snapshot->kv.entries[i]->value_len == 0)
        *ret_index = snapshot->kv.entries[i++]->modify_index;
    return i < snapshot->kv.n && kv_begins_with(snapshot->kv.entries[i], marker, len) ? -ENOTEMPTY : 0;
}

/* Its own value is shown in a directory as %value, and its marker's as %empty. */
static int has_no_value(struct op *op, const char *prefix, const char *marker, uint64_t *ret_index)
{
    struct kv_place place;
    char *key = strndup(marker, strlen(marker) - 1);
    int r = !key ? -ENOMEM : *key ? kv_find_entry(op, prefix, key, &place) : -ENOENT;

    free(key);
    if (r != -ENOENT && r != -EACCES)
        return r == 0 ? -ENOTEMPTY : r;
    r = kv_find_entry(op, prefix, marker, &place);
    if (r == -ENOENT) /* what is known is older than the answer that has it */
        r = kv_find_key(op, marker, &place);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    *ret_index = place.entry->modify_index;
    return place.entry->value_len > 0 ? -ENOTEMPTY : 0;
}

int kv_is_empty(struct op *op, struct inode *dir, const char *marker, uint64_t *ret_index)
{
    json_t *names = json_loads(op->answer ? op->answer : "", 0, NULL);
    size_t n = json_array_size(names);
    const char *first = json_string_value(json_array_get(names, 0));
    bool empty = op->result == -ENOENT || n == 0 || (n == 1 && first && strcmp(first, marker) == 0);
    char *prefix;
    int r = op->result < 0 && op->result != -ENOENT ? op->result : empty ? 0 : -ENOTEMPTY;

    json_decref(names);
    *ret_index = 0;
    if (r < 0 || n == 0)
        return r;
    prefix = kv_prefix_of(op, dir);
    r = prefix ? has_no_value(op, prefix, marker, ret_index) : -ENOMEM;
    free(prefix);
    return r;
}

static int removed_dir(struct op *op, struct inode *dir, const char *name)
{
    /* No marker: the directory vanished with its last key, and this process may have seen it do so. */
    char *path = tree_path_of(op->fs, dir, name);

    if (path && phantom_remove(&op->fs->phantoms, path, op->pid) && op->result == -ENOENT)
        op->result = 0;
    free(path);
    if (op->result == 0)
        kv_emptied(op, dir);
    return op->result;
}

int kv_remove_dir(struct op *op, struct inode *dir, const char *name)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_DELETE};
    char *marker;
    int r;

    if (op->stage == 2 && op->result == -ESTALE && op->attempts < KV_CONFLICTS_MAX)
        kv_distrust(op); /* something was stored in it just now */
    if (op->stage == 2)
        return op->result == -ESTALE ? -ENOTEMPTY : removed_dir(op, dir, name);
    marker = kv_marker_of(op, dir, name);
    if (!marker)
        return -ENOENT;
    kv.key = marker;
    if (op->stage == 0 && kv_is_plain(marker, strlen(marker))) {
        r = kv_ask_below(op, marker);
        free(marker);
        return r;
    }
    if (op->stage == 0) { /* it can't be asked for: what is known above it has to do */
        r = kv_is_known_empty(op, marker, &kv.index);
        op->stage = r == 0 ? 1 : 0;
    } else {
        r = kv_is_empty(op, dir, marker, &kv.index);
    }
    if (kv.index > 0)
        kv.verb = CONSUL_KV_DELETE_CAS;
    if (r == 0)
        r = op_kv_txn(op, &kv, 1);
    free(marker);
    return r;
}
