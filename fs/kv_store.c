/* kv/: storing values: whole, by compare-and-set, appending, creating. */
#include "kv_parts.h"

#include "content.h"
#include "handle.h"
#include "lock.h"
#include "name.h"
#include "options.h"

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
 * Those who append to one key through this mount take turns. They would get in each other's way else: of n that compare
 * and set at the same time n-1 begin anew. Hosts still do, but there are fewer of them.
 */
static int take_turn(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = op->handle->inode;
    struct op **end = &inode->appenders;

    pthread_mutex_lock(&table->lock);
    op->has_turn = !inode->appending;
    if (inode->appending) {
        while (*end)
            end = &(*end)->next;
        op->next = NULL;
        *end = op;
    }
    inode->appending = true;
    pthread_mutex_unlock(&table->lock);
    return op->has_turn ? 0 : -EINPROGRESS;
}

void kv_end_turn(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = op->handle->inode;
    struct op *next;

    if (!op->has_turn)
        return;
    op->has_turn = false;
    pthread_mutex_lock(&table->lock);
    next = inode->appenders;
    if (next) {
        inode->appenders = next->next;
        next->next = NULL;
        next->has_turn = true;
    } else {
        inode->appending = false;
    }
    pthread_mutex_unlock(&table->lock);
    if (next)
        op_wake(next);
}

/* Who lost the race asks for the key alone. There is no end to it while the operation has time: somebody always won. */
static int ask_again(struct op *op, const char *key)
{
    char *url;

    if (op->attempts >= KV_CONFLICTS_MAX && consul_now_ns() > op->began_ns + op->fs->options->timeout_ms * 1000000)
        return -EAGAIN;
    url = kv_url_of(key, strlen(key), "");
    if (!url)
        return -ENOMEM;
    consul_expire(op->fs->consul, kv_is_plain(key, strlen(key)) ? url : "/v1/kv/");
    free(url);
    op->since_ns = consul_now_ns();
    op->stage = 0;
    op->attempts++;
    return 0;
}

static int find_present(struct op *op, struct inode *dir, const char *name, const char *key, struct kv_place *ret_place)
{
    if (op->attempts > 0 && kv_is_plain(key, strlen(key)))
        return kv_find_key(op, key, ret_place);
    if (strcmp(name, NAME_KV_EMPTY) == 0)
        return kv_find_entry(op, key, key, ret_place);
    return kv_find_place(op, dir, name, ret_place);
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
    int r = find_present(op, dir, name, key, &place);

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
    op->before = kv.index;
    r = begin_store(op, &kv);
    free(value);
    return r;
}

/* One of the two shows that the key was locked or unlocked in between, though not how often. */
static bool was_locked(const struct consul_kv_entry *old, const struct consul_kv_entry *now)
{
    return now->lock_index != old->lock_index || strcmp(consul_kv_session(now), consul_kv_session(old)) != 0;
}

/* Changed, if at all, by who locked or unlocked it. */
static bool is_the_same(const struct consul_kv_entry *old, const struct consul_kv_entry *now)
{
    if (now->modify_index == old->modify_index)
        return true;
    return now->create_index == old->create_index && now->flags == old->flags && now->value_len == old->value_len &&
           memcmp(consul_kv_value(now), consul_kv_value(old), old->value_len) == 0 && was_locked(old, now);
}

/*
 * Somebody was faster. If all that he did was to lock or unlock the key, it still is what was read, and its present
 * ModifyIndex is as good. The same bytes alone do not say so: they may have been replaced, and put back.
 */
static int find_unchanged(struct op *op, struct inode *dir, const char *name, const char *key,
                          const struct consul_kv_entry *old, uint64_t *ret_index)
{
    struct kv_place place = {0};
    const struct consul_kv_entry *now;
    int r = find_present(op, dir, name, key, &place);

    if (r < 0 && r != -ENOENT)
        return r;
    now = place.entry;
    if (r < 0 || !now || !is_the_same(old, now)) {
        kv_distrust(op); /* who lost the race is to see what won it */
        return -ESTALE;
    }
    *ret_index = now->modify_index;
    return 0;
}

static int begin_set(struct op *op, struct inode *dir, const char *name, const char *key, const char *data, size_t len)
{
    const struct consul_kv_entry *old = op->handle->content ? op->handle->content->entry : NULL;
    struct consul_kv_op kv = {.verb = CONSUL_KV_SET, .key = key, .value = data, .value_len = len};
    struct kv_place marker = {0};
    int r;

    if (!old && strcmp(name, NAME_KV_EMPTY) == 0) { /* the file is new, and its key may be there with flags */
        r = kv_find_entry(op, key, key, &marker);
        if (r < 0 && r != -ENOENT)
            return r;
        if (r == 0)
            kv.flags = marker.entry->flags;
    }
    op->before = old ? old->modify_index : 0;
    kv.flags = flags_of(op, old ? old->flags : kv.flags);
    if (!op->handle->replaces) { /* it was read before: nobody may have changed it */
        kv.verb = CONSUL_KV_CAS;
        kv.index = old ? old->modify_index : 0;
        r = old && op->attempts > 0 ? find_unchanged(op, dir, name, key, old, &kv.index) : 0;
        if (r < 0)
            return r;
    }
    return begin_store(op, &kv);
}

int kv_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    bool append = op->handle->appends, lost = op->result == -ESTALE || op->result == -EEXIST;
    bool again = append || (op->result == -ESTALE && op->handle->content && op->handle->content->entry);
    char *key;
    int r;

    if (op->stage > 0 && op->result == -EPERM)
        return -EIO; /* the lock was lost: begin_store() */
    if (op->stage > 0 && !(again && lost)) {
        if (lost)
            kv_distrust(op); /* who lost the race is to see what won it */
        return op->result == -EEXIST ? -ESTALE : op->result;
    }
    if (append && !op->has_turn) {
        r = take_turn(op);
        if (r < 0)
            return r;
    }
    if (handle_is_lost(op->handle))
        return -EIO; /* since the first attempt */
    r = kv_key_of_file(op, dir, name, &key);
    if (r < 0)
        return r == -EINVAL ? -ESTALE : r; /* it had one, and was moved to where none can be */
    if (op->stage > 0)
        r = ask_again(op, key);
    if (r == 0)
        r = append ? begin_append(op, dir, name, key, data, len) : begin_set(op, dir, name, key, data, len);
    free(key);
    return r;
}

/* A directory's marker is no file as long as it is empty. */
bool kv_vanishes(const struct op *op, const char *name)
{
    return op->stored && op->stored->value_len == 0 && strcmp(name, NAME_KV_EMPTY) == 0;
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

/*
 * Who creates a lock file is to see what its former owner did, and read it: the watches may not have told of it yet.
 */
void kv_catch_up(struct op *op, const struct consul_kv_entry *stored)
{
    consul_kv_catch_up(op->fs->consul, op_datacenter(op), consul_kv_key(stored), stored->modify_index);
}

/* O_CREAT|O_EXCL: one of all hosts wins. */
int kv_create_exclusive(struct op *op, struct inode *dir, const char *name)
{
    if (op->stage > 0) {
        if (op->result == 0 && op->stored)
            kv_catch_up(op, op->stored);
        return op->result;
    }
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
