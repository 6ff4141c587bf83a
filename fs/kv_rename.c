/* kv/: renaming files and directories. */
#include "kv_parts.h"

#include "changes.h"
#include "content.h"
#include "handle.h"
#include "log.h"
#include "name.h"
#include "notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#endif

/* The marker of a directory may be there, and is no file as long as it is empty. */
static enum consul_kv_verb verb_for(const char *new_key, unsigned flags)
{
    size_t len = strlen(new_key);

    return flags & RENAME_NOREPLACE && new_key[len - 1] != '/' ? CONSUL_KV_CAS : CONSUL_KV_SET;
}

static int begin_rename(struct op *op, const struct consul_kv_entry *entry, const char *new_key, unsigned flags)
{
    const char *key = consul_kv_key(entry);
    struct consul_kv_op ops[] = {
        {.verb = CONSUL_KV_CHECK_INDEX, .key = key, .index = entry->modify_index},
        {.verb = verb_for(new_key, flags),
         .key = new_key,
         .value = consul_kv_value(entry),
         .value_len = entry->value_len,
         .flags = entry->flags},
        {.verb = CONSUL_KV_DELETE, .key = key},
    };
    int r = op_kv_txn(op, ops, 3);

    return r == -EFBIG ? -EXDEV : r; /* does not fit a transaction: mv copies */
}

/*
 * A value too large for a transaction: the new key is stored first, then the old one goes if it still is the same. If
 * it is not, somebody was faster, and what was at the new key comes back, unless that has been changed since.
 */
enum { AT_ONCE, COPY, REMOVE, UNDO };

static int begin_copy(struct op *op, struct consul_kv_entry *entry, struct consul_kv_entry *replaced,
                      const char *new_key, unsigned flags)
{
    struct consul_kv_op kv = {
        .verb = verb_for(new_key, flags),
        .key = new_key,
        .value = consul_kv_value(entry),
        .value_len = entry->value_len,
        .flags = entry->flags,
    };

    consul_kv_entry_unref(op->moving);
    consul_kv_entry_unref(op->replaced);
    /* What it replaces may have to come back, so it must be just that. */
    if (kv.verb == CONSUL_KV_SET && new_key[strlen(new_key) - 1] != '/') {
        kv.verb = CONSUL_KV_CAS;
        kv.index = replaced ? replaced->modify_index : 0;
    }
    op->moving = consul_kv_entry_ref(entry);
    op->replaced = replaced ? consul_kv_entry_ref(replaced) : NULL;
    op->rename_step = COPY;
    return op_kv_txn(op, &kv, 1);
}

static int begin_remove(struct op *op)
{
    struct consul_kv_op kv = {
        .verb = CONSUL_KV_DELETE_CAS, .key = consul_kv_key(op->moving), .index = op->moving->modify_index};

    op->rename_step = REMOVE;
    return op_kv_txn(op, &kv, 1);
}

static int begin_undo(struct op *op)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_DELETE_CAS, .key = consul_kv_key(op->stored), .value = ""};

    kv.index = op->stored->modify_index;
    if (op->replaced) {
        kv.verb = CONSUL_KV_CAS;
        kv.value = consul_kv_value(op->replaced);
        kv.value_len = op->replaced->value_len;
        kv.flags = op->replaced->flags;
    }
    op->rename_step = UNDO;
    return op_kv_txn(op, &kv, 1);
}

/* 1: the operation is to begin (anew). */
static int go_on(struct op *op, struct inode *dir)
{
    if (op->stage == 0)
        return 1;
    if (op->rename_step == COPY && op->result == 0)
        return op->stored ? begin_remove(op) : -EIO;
    if (op->rename_step == REMOVE && op->result == -ESTALE)
        return begin_undo(op);
    if (op->rename_step == COPY && op->result == -EEXIST && !(op->flags & RENAME_NOREPLACE))
        op->result = -ESTALE; /* it was not known to be there */
    if (op->rename_step != UNDO && op->result != -ESTALE) {
        if (op->result == 0)
            kv_emptied(op, dir);
        return op->result;
    }
    if (op->attempts >= KV_CONFLICTS_MAX)
        return -ESTALE;
    op->rename_step = AT_ONCE;
    kv_distrust(op);
    return 1;
}

int kv_rename_file(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                   unsigned flags)
{
    struct kv_place place = {0}, target = {0};
    struct consul_kv_entry *entry;
    char *new_key;
    int r;

    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    r = go_on(op, dir);
    if (r <= 0)
        return r;
    r = kv_find_place(op, dir, name, &place);
    if (r < 0)
        return r;
    if (place.is_dir)
        return -EXDEV;
    r = kv_key_of_file(op, new_dir, new_name, &new_key);
    if (r < 0)
        return r;
    entry = consul_kv_entry_ref(place.entry); /* looking for the target may end what it was borrowed from */
    r = begin_rename(op, entry, new_key, flags);
    if (r == -EXDEV) {
        r = kv_find_place(op, new_dir, new_name, &target);
        if (r == 0 || r == -ENOENT)
            r = begin_copy(op, entry, r == 0 && !target.is_dir ? target.entry : NULL, new_key, flags);
    }
    consul_kv_entry_unref(entry);
    free(new_key);
    return r;
}

/* ---- directories -------------------------------------------------------------------------------------------------
 */

/* How far a directory's rename has got. It stands in op->stage, one higher with each request. */
enum { ASK_TARGET, MOVE, MOVED };

/* The place of the target has no keys, but may have an empty marker, with this ModifyIndex. */
static int check_target(struct op *op, struct inode *new_dir, const char *new_prefix, uint64_t *ret_index)
{
    return kv_is_plain(new_prefix, strlen(new_prefix)) ? kv_is_empty(op, new_dir, new_prefix, ret_index)
                                                       : kv_is_known_empty(op, new_prefix, ret_index);
}

/* The directory's own value, and all keys below it, go along, or none: each takes three operations. */
static int begin_rename_dir(struct op *op, const struct kv_entries *moved, const char *prefix, const char *new_prefix,
                            uint64_t new_marker_index, unsigned flags)
{
    struct consul_kv_op *ops = calloc(moved->n, 2 * sizeof(*ops));
    size_t len = strlen(prefix), done = 0;
    int r = ops ? 0 : -ENOMEM;

    for (; r == 0 && done < moved->n; done++) {
        const struct consul_kv_entry *entry = moved->entries[done];
        const char *key = consul_kv_key(entry);
        bool is_value = entry->key_len < len, is_marker = entry->key_len == len;
        char *new_key;

        if (asprintf(&new_key, "%.*s%s", (int)strlen(new_prefix) - is_value, new_prefix, is_value ? "" : key + len) <
            0) {
            r = -ENOMEM;
            break;
        }
        if (*new_key == '\0') /* the empty component of the root is a directory only */
            r = -EINVAL;
        ops[2 * done] = (struct consul_kv_op){
            .verb = is_value ? verb_for(new_key, RENAME_NOREPLACE) : CONSUL_KV_CAS,
            .key = new_key,
            .value = consul_kv_value(entry),
            .value_len = entry->value_len,
            .flags = entry->flags,
            /* The target's own marker may be there: an empty directory, which is replaced. */
            .index = is_marker && !(flags & RENAME_NOREPLACE) ? new_marker_index : 0,
        };
        ops[2 * done + 1] =
            (struct consul_kv_op){.verb = CONSUL_KV_DELETE_CAS, .key = key, .index = entry->modify_index};
    }
    if (r == 0)
        r = op_kv_txn(op, ops, 2 * done);
    for (size_t i = 0; i < done; i++)
        free((char *)ops[2 * i].key);
    free(ops);
    return r == -EFBIG ? -EXDEV : r; /* does not fit a transaction: mv copies */
}

static int find_and_rename_dir(struct op *op, struct inode *dir, const char *prefix, const char *new_prefix,
                               uint64_t new_marker_index, unsigned flags)
{
    char *above = kv_prefix_of(op, dir);
    struct kv_entries moved = {0};
    int r = above ? kv_gather(op, above, prefix, &moved) : -ENOMEM;

    if (r == 0)
        r = begin_rename_dir(op, &moved, prefix, new_prefix, new_marker_index, flags);
    kv_entries_clear(&moved);
    free(above);
    return r;
}

int kv_rename_dir(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                  unsigned flags)
{
    char *prefix = NULL, *new_prefix = NULL;
    uint64_t index = 0;
    int r, taken = flags & RENAME_NOREPLACE ? -EEXIST : -ENOTEMPTY;

    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    if (op->stage == MOVED) {
        if (op->result != -ESTALE || op->attempts >= KV_CONFLICTS_MAX) {
            if (op->result == 0)
                kv_emptied(op, dir);
            return op->result == -EEXIST ? taken : op->result;
        }
        kv_distrust(op);
    }
    prefix = kv_marker_of(op, dir, name);
    new_prefix = kv_marker_of(op, new_dir, new_name);
    r = prefix && new_prefix ? 0 : -EINVAL;
    if (r == 0 && op->stage == ASK_TARGET && kv_is_plain(new_prefix, strlen(new_prefix))) {
        r = kv_ask_below(op, new_prefix);
        goto out;
    }
    if (r == 0)
        r = check_target(op, new_dir, new_prefix, &index);
    if (r == -ENOTEMPTY)
        r = taken;
    if (r == 0) {
        op->stage = MOVE;
        r = find_and_rename_dir(op, dir, prefix, new_prefix, index, flags);
    }
out:
    free(prefix);
    free(new_prefix);
    return r;
}

/* ---- open files -------------------------------------------------------------------------------------------------- */

static const struct inode *kv_root_of(struct inode_table *table, const struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    while (inode && inode->kind != &kind_kv)
        inode = inode->parent;
    pthread_mutex_unlock(&table->lock);
    return inode;
}

/* The key of a file, NULL if it is none of this store. */
static char *key_of_inode(struct op *op, struct inode *inode)
{
    struct inode_table *table = &op->fs->inodes;
    char *key = NULL, *prefix, *name;
    struct inode *parent;
    int r;

    if (inode->kind != &kind_kv_file || kv_root_of(table, inode) != kv_root_of(table, op->inode))
        return NULL;
    r = inode_place_of(table, inode, &parent, &name);
    prefix = kv_prefix_of(op, parent);
    if (r == 0 && prefix && kv_key_of(prefix, name, &key) < 0)
        key = NULL;
    inode_unref(table, parent);
    free(prefix);
    free(name);
    return key;
}

/* What the move stored under the key of the file, borrowed, or NULL. */
static struct consul_kv_entry *stored_at(struct op *op, struct inode *inode)
{
    char *key = key_of_inode(op, inode);
    struct consul_kv_entry *entry = NULL;

    for (size_t i = 0; key && !entry && i < op->stored_n; i++)
        if (strcmp(consul_kv_key(op->stored_all[i]), key) == 0)
            entry = op->stored_all[i];
    free(key);
    return entry;
}

/* The version that the move made is that of whoever has the same bytes: what is written next is compared with it. */
static void follow(struct op *op, struct inode *inode, struct consul_kv_entry *entry, struct handle *handle)
{
    struct content *content = entry ? content_of_entry(entry) : NULL, *present;
    bool same = false;

    if (!content)
        return;
    if (handle) {
        pthread_mutex_lock(&handle->lock);
        same = handle->content && content_same_bytes(handle->content, content);
        pthread_mutex_unlock(&handle->lock);
    }
    if (same)
        handle_set_content(handle, content);
    present = inode_content(&op->fs->inodes, inode);
    if (present)
        (void)inode_take_same_bytes(&op->fs->inodes, inode, inode->kind, content, content_mtime_ns(present));
    content_unref(present);
    content_unref(content);
}

/* The kernel has a file there, and what it holds is a directory's marker by now. */
static void tell_marker(struct op *op, struct inode *dir, const char *name)
{
    struct inode *inode = strcmp(name, NAME_KV_EMPTY) == 0 ? inode_peek(&op->fs->inodes, dir, name) : NULL;
    struct content *content = inode ? inode_content(&op->fs->inodes, inode) : NULL;

    if (content && content->len == 0)
        notify_name(op->fs, dir, name);
    content_unref(content);
    inode_unref(&op->fs->inodes, inode);
}

/* What told the kernel of changes where the inode was may know nothing of where it is now. */
static void rest_anew(struct op *op, struct inode *inode)
{
    struct consul_resource *resource = inode_rests_on(&op->fs->inodes, inode);
    const char *covered = resource ? consul_resource_kv_prefix(resource) : NULL;
    char *key = NULL;

    if (covered && consul_resource_kv_scope(resource) == CONSUL_KV_PREFIX)
        key = S_ISDIR(inode->kind->mode) ? kv_prefix_of(op, inode) : key_of_inode(op, inode);
    if (resource && (!key || strncmp(key, covered, strlen(covered)) != 0))
        changes_doubt(op->fs, inode);
    free(key);
    consul_resource_unref(resource);
}

static void all_rest_anew(struct op *op, struct inode *dir, const char *name)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = inode_peek(table, dir, name), **below = NULL;
    size_t n = 0;

    if (!inode)
        return;
    rest_anew(op, inode);
    if (S_ISDIR(inode->kind->mode) && inode_all_below(table, inode, &below, &n) < 0)
        log_line(LOG_ERR, "out of memory: changes could not be told to the kernel");
    for (size_t i = 0; i < n; i++) {
        rest_anew(op, below[i]);
        inode_unref(table, below[i]);
    }
    free(below);
    inode_unref(table, inode);
}

void kv_moved(struct op *op)
{
    struct handle **handles;
    struct inode *inode;
    size_t n;

    for (size_t i = 0; i < op->stored_n; i++) {
        inode = kv_inode_of(op, consul_kv_key(op->stored_all[i]));
        if (inode)
            follow(op, inode, op->stored_all[i], NULL);
        inode_unref(&op->fs->inodes, inode);
    }
    tell_marker(op, op->inode, op->name);
    tell_marker(op, op->new_parent, op->new_name);
    all_rest_anew(op, op->inode, op->name); /* there is one in an exchange */
    all_rest_anew(op, op->new_parent, op->new_name);
    if (handle_all(op->fs, NULL, NULL, &handles, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        follow(op, handles[i]->inode, stored_at(op, handles[i]->inode), handles[i]);
        handle_unref(handles[i]);
    }
    free(handles);
}

/* By the key: "a" and "a/%value" are one. */
bool kv_stands_at(struct op *op, struct inode *file, struct inode *dir, const char *name)
{
    char *key = key_of_inode(op, file), *prefix = key ? kv_prefix_of(op, dir) : NULL, *other = NULL;
    bool same = prefix && kv_key_of(prefix, name, &other) == 0 && strcmp(key, other) == 0;

    free(key);
    free(prefix);
    free(other);
    return same;
}
