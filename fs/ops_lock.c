/*
 * flock(2), and fcntl(2)'s and lockf(3)'s locks. lock.h says how they are kept.
 *
 * A lock is also what makes others' changes seen, as on NFS: who gets one finds the file as it is now, whatever it was
 * when he opened it, and all keys as they were left by who had it before; and what he has written is stored before he
 * gives it back.
 */
#include "ops.h"

#include "lock.h"
#include "notify.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define END_OF_FILE INT64_MAX

static void free_request(void *state)
{
    struct lock_request *request = state;

    free(request->key);
    free(request);
}

/* What is locked when this file is. */
static int find_key(struct op *op, struct lock_request *request)
{
    const struct kind *kind = op->inode->kind;
    bool unlinked = is_unlinked(&op->fs->inodes, op->inode);
    int r = 0;

    if (!op->new_parent)
        r = inode_place_of(&op->fs->inodes, op->inode, &op->new_parent, &op->new_name);
    if (r < 0)
        return r;
    op->row = kind;
    request->local = unlinked || !kind->lock_key;
    if (!request->local)
        return kind->lock_key(op, op->new_parent, op->new_name, &request->key);
    if (unlinked && asprintf(&request->key, "%llu", (unsigned long long)op->inode->number) < 0)
        request->key = NULL;
    else if (!unlinked)
        request->key = inode_path_below(&op->fs->inodes, op->inode, &kind_root);
    return request->key ? 0 : -ENOMEM;
}

static bool is_lost(struct op *op) { return op->handle ? handle_is_lost(op->handle) : lost_lock(op->fs, op->inode); }

/* ---- taking --------------------------------------------------------------------------------------------------------
 */

/* The file as it is now. True when the kernel has to be told first. */
static bool refresh(struct op *op, struct lock_request *request)
{
    struct inode_table *table = &op->fs->inodes;
    struct consul_kv_entry *entry = lock_entry(op, request);
    struct content *content = entry ? content_of_entry(entry) : NULL, *old;
    bool other, again;

    consul_kv_entry_unref(entry);
    if (!content)
        return false;
    old = inode_content(table, op->inode);
    if (!old || content_version(old) != content_version(content))
        inode_set_content(table, op->inode, content, content_mtime_ns(content));
    content_unref(old);
    again = inode_reattach(table, op->inode);
    other = forget_pages(table, op->inode);
    if (op->handle)
        handle_refresh(op->handle, content);
    content_unref(content);
    if (other)
        notify_pages(op->fs, op->inode);
    if (again)
        notify_name(op->fs, op->new_parent, op->new_name);
    return other || again;
}

static void on_caught_up(void *op) { op_wake(op); }

static int reply_granted(struct op *op, struct lock_request *request)
{
    if (request->err == 0 && !request->caught_up) {
        request->caught_up = request->catching = true;
        if (consul_catch_up(op->fs->consul, op_datacenter(op), on_caught_up, op) == -EINPROGRESS)
            return -EINPROGRESS;
    }
    if (request->catching) {
        request->catching = false;
        lock_caught_up(op, request);
        request->tell = true;
    }
    if (request->err == 0 && !request->refreshed) {
        request->refreshed = true;
        request->tell |= refresh(op, request);
        if (request->tell && notify_wait(op->fs, op) == -EINPROGRESS)
            return -EINPROGRESS;
    }
    fuse_reply_err(op->req, -request->err); /* lock.c has claimed it */
    return 0;
}

static int run_lock(struct op *op)
{
    struct lock_request *request = op->state;
    int r;

    if (request->stage == LOCK_GRANTED)
        return reply_granted(op, request);
    if (request->stage == LOCK_ENDED)
        return request->err;
    r = is_lost(op) ? -EIO : find_key(op, request);
    if (r == 0)
        r = op_park(op);
    if (r < 0)
        return r;
    r = lock_ask(op, request);
    if (r == -EINPROGRESS)
        return r;
    op_unpark(op);
    return request->stage == LOCK_GRANTED ? reply_granted(op, request) : r;
}

/* ---- giving back ---------------------------------------------------------------------------------------------------
 */

static int run_unlock(struct op *op)
{
    struct lock_request *request = op->state;
    bool parked;
    int r = 0;

    if (request->stage == LOCK_NEW && op->handle && op->inode->kind->lock_key && handle_writes(op->handle) &&
        !request->stored && (op->cleanup || !is_left_open(op))) {
        r = store(op);
        if (r == -EINPROGRESS)
            return r;
    }
    /* If that failed the lock ends all the same, and the writer learns it now. */
    if (request->stage == LOCK_NEW) {
        if (!request->stored)
            request->store_error = r;
        request->stored = true;
        r = request->key ? 0 : find_key(op, request);
        if (r < 0)
            return r;
        /* Interrupted, it does not wait for Consul; the lock ends all the same. */
        parked = op_park(op) == 0;
        r = lock_give_back(op, request);
        if (r == -EINPROGRESS)
            return r;
        if (parked)
            op_unpark(op);
    }
    if (r >= 0)
        r = request->store_error;
    return r < 0 ? r : reply_ok(op);
}

/* ---- upcalls -------------------------------------------------------------------------------------------------------
 */

static struct op *begin_lock(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi, op_run_fn *run)
{
    struct op *op = begin(req, COUNT_LOCK, ino, NULL, run);
    struct lock_request *request;

    if (!op)
        return NULL;
    request = calloc(1, sizeof(*request));
    if (!request) {
        fuse_reply_err(req, ENOMEM);
        op_free(op);
        return NULL;
    }
    op->state = request;
    op->state_free = free_request;
    op->withdraw = lock_withdraw;
    op->handle = handle_of(fi) ? handle_ref(handle_of(fi)) : NULL;
    request->op = op;
    request->lock = (struct lock){.owner = fi->lock_owner, .fh = fi->fh, .pid = op->pid, .end = END_OF_FILE};
    return op;
}

/*
 * Mounted read-only: whom an exclusive lock would keep out is on other mounts, too, and they would not see it. Shared
 * ones exclude nobody here.
 */
static void flock_read_only(fuse_req_t req, int operation)
{
    static const char words[] = "mounted read-only: an exclusive lock cannot be taken in Consul";
    struct fs *fs = fs_of(req);

    fs_count(fs, COUNT_LOCK);
    if ((operation & ~LOCK_NB) == LOCK_EX) {
        refusals_add(&fs->refusals, "lock", "", 0, words, strlen(words));
        fuse_reply_err(req, ENOLCK);
    } else {
        fuse_reply_err(req, 0);
    }
}

void on_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
    struct lock_request *request;
    struct op *op;

    if (fs_of(req)->options->read_only) {
        flock_read_only(req, operation);
        return;
    }
    op = begin_lock(req, ino, fi, (operation & ~LOCK_NB) == LOCK_UN ? run_unlock : run_lock);
    if (!op)
        return;
    request = op->state;
    request->wait = !(operation & LOCK_NB);
    request->lock.exclusive = (operation & ~LOCK_NB) == LOCK_EX;
    op_start(op);
}

static void set_range(struct lock *lock, const struct flock *range)
{
    lock->posix = true;
    lock->exclusive = range->l_type == F_WRLCK;
    lock->start = (uint64_t)range->l_start;
    lock->end = range->l_len == 0 ? END_OF_FILE : (uint64_t)(range->l_start + range->l_len - 1);
    if (range->l_pid)
        lock->pid = range->l_pid;
}

void on_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
    struct op *op = begin_lock(req, ino, fi, lock->l_type == F_UNLCK ? run_unlock : run_lock);
    struct lock_request *request;

    if (!op)
        return;
    request = op->state;
    request->wait = sleep;
    set_range(&request->lock, lock);
    op_start(op);
}

/* Whether another session has the key. */
static int test_elsewhere(struct op *op, struct lock_request *request, bool *ret_locked)
{
    struct found found = {0};
    char ours[40];
    int r;

    *ret_locked = false;
    if (request->local)
        return 0;
    r = tree_find(op, op->new_parent, op->new_name, &found);
    if (r == 0 && found.content && found.content->entry) {
        consul_lock_session(op->fs->consul, op_datacenter(op), ours);
        *ret_locked = found.content->entry->has_session && strcmp(consul_kv_session(found.content->entry), ours) != 0;
    }
    content_unref(found.content);
    return r == -ENOENT ? 0 : r;
}

static int run_test(struct op *op)
{
    struct lock_request *request = op->state;
    struct flock answer = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    struct lock other;
    bool elsewhere = false;
    int r = request->key ? 0 : find_key(op, request);

    if (r < 0)
        return r;
    if (lock_test(op, request, &other)) {
        answer.l_type = other.exclusive ? F_WRLCK : F_RDLCK;
        answer.l_start = (off_t)other.start;
        answer.l_len = other.end == END_OF_FILE ? 0 : (off_t)(other.end - other.start + 1);
        answer.l_pid = other.pid;
    } else {
        r = test_elsewhere(op, request, &elsewhere);
        if (r < 0)
            return r;
        if (elsewhere)
            answer.l_type = F_WRLCK; /* all of it; whose, only the session tells */
    }
    if (op_claim_reply(op))
        fuse_reply_lock(op->req, &answer);
    return 0;
}

void on_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    struct op *op = begin_lock(req, ino, fi, run_test);

    if (!op)
        return;
    set_range(&((struct lock_request *)op->state)->lock, lock);
    op_start(op);
}
