/* kv/: storing values: whole, by compare-and-set, appending, creating. */
#include "kv_parts.h"

#include "content.h"
#include "handle.h"
#include "lock.h"
#include "name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void kv_distrust(struct op *op)
{
    consul_expire(op->fs->consul, "/v1/kv/");
    op->since_ns = consul_now_ns();
    op->stage = 0;
    op->attempts++;
}

/* Those that were set while the value was being written win. */
static uint64_t flags_of(struct op *op, uint64_t present)
{
    uint64_t flags;

    pthread_mutex_lock(&op->handle->lock);
    flags = op->handle->kv_flags_given ? op->handle->kv_flags : present;
    pthread_mutex_unlock(&op->handle->lock);
    return flags;
}

/*
 * One operation that stores. Through a descriptor that holds the key's lock it is stored only if the lock is still ours
 * when Consul does it: it may be lost while the request is on its way. (A value too large for a transaction goes
 * without this.)
 */
static int begin_store(struct op *op, const struct consul_kv_op *kv)
{
    char session[40];
    struct consul_kv_op ops[] = {{.verb = CONSUL_KV_CHECK_SESSION, .key = kv->key, .session = session}, *kv};
    int r = -EFBIG;

    lock_session(op->fs, (uintptr_t)op->handle, session);
    if (*session)
        r = op_kv_txn(op, ops, 2);
    return r == -EFBIG ? op_kv_txn(op, kv, 1) : r;
}

/* O_APPEND: what is there now, and the new bytes; compare-and-set, so that nobody's bytes are lost. */
static int begin_append(struct op *op, struct inode *dir, const char *name, const char *key, const char *data,
                        size_t len)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_CAS, .key = key};
    struct kv_place place = {0};
    char *value;
    int r = kv_find_place(op, dir, name, &place);

    if (r < 0 && r != -ENOENT)
        return r;
    if (place.entry) {
        kv.index = place.entry->modify_index;
        kv.flags = place.entry->flags;
        kv.value_len = place.entry->value_len;
    }
    if (kv.value_len + len > consul_kv_max_value(op->fs->consul))
        return -EFBIG;
    value = malloc(kv.value_len + len + 1);
    if (!value)
        return -ENOMEM;
    if (place.entry)
        memcpy(value, consul_kv_value(place.entry), kv.value_len);
    if (len > 0)
        memcpy(value + kv.value_len, data, len);
    kv.value = value;
    kv.value_len += len;
    kv.flags = flags_of(op, kv.flags);
    r = begin_store(op, &kv);
    free(value);
    return r;
}

/*
 * Somebody was faster. If all that he did was to lock or unlock the key, it still is what was read, and its present
 * ModifyIndex is as good.
 */
static int find_unchanged(struct op *op, struct inode *dir, const char *name, const struct consul_kv_entry *old,
                          uint64_t *ret_index)
{
    struct kv_place place = {0};
    const struct consul_kv_entry *now;
    int r = kv_find_place(op, dir, name, &place);

    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    now = place.entry;
    if (!now || now->value_len != old->value_len || now->flags != old->flags ||
        now->create_index != old->create_index ||
        memcmp(consul_kv_value(now), consul_kv_value(old), old->value_len) != 0)
        return -ESTALE;
    *ret_index = now->modify_index;
    return 0;
}

static int begin_set(struct op *op, struct inode *dir, const char *name, const char *key, const char *data, size_t len)
{
    const struct consul_kv_entry *old = op->handle->content ? op->handle->content->entry : NULL;
    struct consul_kv_op kv = {.verb = CONSUL_KV_SET, .key = key, .value = data, .value_len = len};
    int r;

    kv.flags = flags_of(op, old ? old->flags : 0);
    if (!op->handle->replaces) { /* it was read before: nobody may have changed it */
        kv.verb = CONSUL_KV_CAS;
        kv.index = old ? old->modify_index : 0;
        r = old && op->attempts > 0 ? find_unchanged(op, dir, name, old, &kv.index) : 0;
        if (r < 0)
            return r;
    }
    return begin_store(op, &kv);
}

int kv_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    bool append = handle_appends(op->handle);
    bool again = append || (op->result == -ESTALE && op->handle->content && op->handle->content->entry);
    char *key;
    int r;

    if (op->stage > 0 && op->result == -EPERM)
        return -EIO; /* the lock was lost: begin_store() */
    if (op->stage > 0) {
        if (!again || (op->result != -ESTALE && op->result != -EEXIST)) {
            if (op->result == -ESTALE || op->result == -EEXIST)
                kv_distrust(op); /* who lost the race is to see what won it */
            return op->result == -EEXIST ? -ESTALE : op->result;
        }
        if (op->attempts >= KV_CONFLICTS_MAX)
            return -EAGAIN;
        kv_distrust(op);
    }
    if (handle_is_lost(op->handle))
        return -EIO; /* since the first attempt */
    r = kv_key_of_file(op, dir, name, &key);
    if (r < 0)
        return r;
    r = append ? begin_append(op, dir, name, key, data, len) : begin_set(op, dir, name, key, data, len);
    free(key);
    return r;
}

int kv_begin_on_key(struct op *op, struct inode *dir, const char *name, enum consul_kv_verb verb)
{
    struct consul_kv_op kv = {.verb = verb, .value = ""};
    char *key;
    int r = kv_key_of_file(op, dir, name, &key);

    if (r < 0)
        return r;
    kv.key = key;
    r = op_kv_txn(op, &kv, 1);
    free(key);
    return r;
}

/* O_CREAT|O_EXCL: one of all hosts wins. */
int kv_create_exclusive(struct op *op, struct inode *dir, const char *name)
{
    if (op->stage > 0)
        return op->result;
    /* The directory's marker may be there, and is no file as long as it is empty: this is one when it is stored. */
    if (strcmp(name, NAME_KV_EMPTY) == 0)
        return 0;
    return kv_begin_on_key(op, dir, name, CONSUL_KV_CAS);
}

size_t kv_max_len(struct fs *fs) { return consul_kv_max_value(fs->consul); }

/* A key that the agent can hold. The name must be one that a lookup would find again. */
int kv_may_create(struct op *op, struct inode *dir, const char *name)
{
    char *key;
    bool plain;
    int r = kv_key_of_file(op, dir, name, &key);

    if (r < 0)
        return r;
    r = consul_kv_key_valid(key, &plain) ? 0 : -EINVAL;
    free(key);
    return r;
}
