/*
 * Open files: open, create, read, write, and storing what was written. handle.h says when a value is stored.
 */
#include "ops.h"

#include "lock.h"
#include "process.h"
#include "spool.h"
#include "stream.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LEN ((size_t)1 << 20) /* of a document, where the node kind says nothing else */
#define FULL_BUFFER 512

struct handle *handle_of(const struct fuse_file_info *fi)
{
    return fi && !(fi->fh & 1) ? (struct handle *)(uintptr_t)fi->fh : NULL;
}

static uint64_t fh_without_handle(struct fs *fs) { return atomic_fetch_add(&fs->opens, 1) << 1 | 1; }

static size_t max_len(struct fs *fs, const struct kind *kind) { return kind->max_len ? kind->max_len(fs) : MAX_LEN; }

/* ---- open -------------------------------------------------------------------------------------------------------- */

static void set_writer(struct handle *handle)
{
    struct inode_table *table = &handle->fs->inodes;

    if (handle->inode->kind->flags & KIND_ORDERS) /* it holds nothing that is still to be stored */
        return;
    pthread_mutex_lock(&table->lock);
    handle->inode->writer = handle;
    pthread_mutex_unlock(&table->lock);
}

static void unset_writer(struct handle *handle)
{
    struct inode_table *table = &handle->fs->inodes;

    pthread_mutex_lock(&table->lock);
    if (handle->inode->writer == handle)
        handle->inode->writer = NULL;
    pthread_mutex_unlock(&table->lock);
}

/* Takes the handle. */
static int reply_open(struct op *op, struct handle *handle, struct fuse_file_info *fi)
{
    fi->fh = handle ? (uintptr_t)handle : fh_without_handle(op->fs);
    if (!op_claim_reply(op) || fuse_reply_open(op->req, fi) != 0) {
        if (handle) {
            unset_writer(handle);
            handle_unref(handle);
        }
    }
    return 0;
}

/* For writing only: what is read there is another stream. */
static int open_spool(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .direct_io = 1};
    const struct spool_target *target = op->inode->kind->spool;
    struct handle *handle;
    int r = target->may_write ? target->may_write(op) : 0;

    if (r == 0 && (op->flags & O_ACCMODE) != O_WRONLY)
        r = -EINVAL;
    if (r < 0)
        return r;
    handle = handle_new(op->fs, op->inode, op->flags, op->pid, NULL);
    if (!handle)
        return -ENOMEM;
    r = spool_new(target, &handle->spool);
    if (r < 0) {
        handle_unref(handle);
        return r;
    }
    return reply_open(op, handle, &fi);
}

static int open_for_writing(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .direct_io = 1};
    struct content *content = inode_content(&op->fs->inodes, op->inode);
    struct handle *handle;

    if (!op->inode->kind->store) {
        content_unref(content);
        return -EPERM;
    }
    handle = handle_new(op->fs, op->inode, op->flags, op->pid, content);
    content_unref(content);
    if (!handle)
        return -ENOMEM;
    if (op->flags & O_TRUNC && !(op->inode->kind->flags & KIND_ORDERS))
        handle->replaces = handle->dirty = true;
    set_writer(handle);
    return reply_open(op, handle, &fi);
}

int place_of(struct fs *fs, struct inode *inode, struct inode **ret_dir, char **ret_name)
{
    pthread_mutex_lock(&fs->inodes.lock);
    *ret_dir = inode->parent;
    if (inode->parent)
        inode->parent->refs++;
    *ret_name = strdup(inode->name);
    pthread_mutex_unlock(&fs->inodes.lock);
    return *ret_name ? 0 : -ENOMEM;
}

/* Bytes of this moment, for this descriptor alone. */
static int open_made_now(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .direct_io = 1, .noflush = 1};
    struct found found = {.kind = op->inode->kind};
    struct handle *handle;
    int r;

    if (!op->new_parent) {
        r = place_of(op->fs, op->inode, &op->new_parent, &op->new_name);
        if (r < 0)
            return r;
    }
    op->row = found.kind;
    if (found.kind->flags & KIND_DIRECT)
        r = found.kind->read ? found.kind->read(op, op->new_parent, op->new_name, &found.content) : -EACCES;
    else if ((r = tree_find(op, op->new_parent, op->new_name, &found)) == 0)
        r = tree_content(op, op->new_parent, op->new_name, &found, true);
    if (r == 0 && !found.content && !found.kind->read)
        r = -EACCES; /* it is there, but Consul denies what is in it */
    if (r < 0)
        return r;
    handle = handle_new(op->fs, op->inode, op->flags, op->pid, found.content);
    content_unref(found.content);
    return handle ? reply_open(op, handle, &fi) : -ENOMEM;
}

/* Until there is something, or it is known why not: so that open() fails, and a stream that is read has a size. */
static int open_stream(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .direct_io = 1, .noflush = 1};
    char *data;
    size_t len;
    int r = 0;

    if (!op_wanted(op))
        return -EINTR;
    if (!op->handle) {
        struct stream *stream;

        op->handle = handle_new(op->fs, op->inode, op->flags, op->pid, NULL);
        if (!op->handle)
            return -ENOMEM;
        r = stream_open(op->fs, op->inode->kind->stream, &stream);
        if (r == 0)
            handle_set_stream(op->handle, stream);
    }
    if (r == 0)
        r = stream_read(op->handle->stream, op, 0, 0, false, &data, &len);
    if (r < 0)
        return r;
    free(data);
    return reply_open(op, handle_ref(op->handle), &fi);
}

static int run_open(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .keep_cache = 1, .noflush = 1};
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = op->inode;
    struct content *content;
    struct handle *handle;
    bool being_written;

    if ((op->flags & O_ACCMODE) != O_RDONLY)
        return inode->kind->spool ? open_spool(op) : open_for_writing(op);
    if (inode->kind->stream)
        return open_stream(op);
    content = inode_content(table, inode);
    if (!content)
        return open_made_now(op);
    pthread_mutex_lock(&table->lock);
    being_written = inode->writer != NULL || inode->storing > 0;
    if (inode->pages_stale && !being_written) {
        fi.keep_cache = 0;
        inode->pages_stale = false;
    }
    pthread_mutex_unlock(&table->lock);
    if (!being_written) {
        content_unref(content);
        return reply_open(op, NULL, &fi);
    }
    /* The kernel's pages and size of this inode are the writer's; who reads meanwhile gets the stored value, whole. */
    handle = handle_new(op->fs, inode, op->flags, op->pid, content);
    content_unref(content);
    fi.keep_cache = 0;
    fi.direct_io = 1;
    return handle ? reply_open(op, handle, &fi) : -ENOMEM;
}

void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct op *op = begin(req, COUNT_OPEN, ino, NULL, run_open);

    if (!op)
        return;
    op->flags = (unsigned)fi->flags;
    op_start(op);
}

/* ---- read -------------------------------------------------------------------------------------------------------- */

static int run_read_stream(struct op *op)
{
    char *data;
    size_t len;
    int r = op_wanted(op) ? 0 : -EINTR;

    if (r == 0)
        r = stream_read(op->handle->stream, op, (uint64_t)op->offset, op->size, op->flags & O_NONBLOCK, &data, &len);
    if (r < 0)
        return r;
    if (op_claim_reply(op))
        fuse_reply_buf(op->req, data, len);
    free(data);
    return 0;
}

static void read_stream(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct op *op = begin(req, COUNT_READ, ino, NULL, run_read_stream);

    if (!op)
        return;
    op->handle = handle_ref(handle_of(fi));
    op->size = size;
    op->offset = offset;
    op->flags = (unsigned)fi->flags;
    op_start(op);
}

static bool lost_lock(struct fs *fs, struct inode *inode)
{
    bool lost;

    pthread_mutex_lock(&fs->inodes.lock);
    lost = inode->lock_lost;
    pthread_mutex_unlock(&fs->inodes.lock);
    return lost;
}

void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    struct handle *handle = handle_of(fi);

    if (handle && handle->stream) {
        read_stream(req, ino, size, offset, fi);
        return;
    }
    fs_count(fs, COUNT_READ);
    if (!lock_is_good(fs, fi->fh)) {
        fuse_reply_err(req, EIO);
    } else if (handle) {
        char *data;
        size_t len;
        int r = handle_read(handle, (uint64_t)offset, size, &data, &len);

        if (r < 0) {
            fuse_reply_err(req, -r);
            return;
        }
        fuse_reply_buf(req, data, len);
        free(data);
    } else if (lost_lock(fs, inode_of(fs, ino))) {
        fuse_reply_err(req, EIO);
    } else {
        struct content *content = inode_content(&fs->inodes, inode_of(fs, ino));
        size_t len = content && (uint64_t)offset < content->len ? content->len - (size_t)offset : 0;

        fuse_reply_buf(req, len > 0 ? content->data + offset : NULL, len < size ? len : size);
        content_unref(content);
    }
}

/* ---- refusals that Consul was not asked about ---------------------------------------------------------------------
 */

static void note_words(struct handle *handle, const char *words)
{
    char *path = inode_path_below(&handle->fs->inodes, handle->inode, &kind_root);

    refusals_add(&handle->fs->refusals, "write", path ? path : "", 0, words, strlen(words));
    free(path);
}

static void note_refused(struct handle *handle, int err) { note_words(handle, strerror(-err)); }

/* ---- storing ----------------------------------------------------------------------------------------------------- */

/* The operation that stores ends, one way or another. */
static void end_store(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = op->handle->inode;
    struct content *content = NULL;

    if (op->stored_done) {
        if (op->stored)
            content = content_of_entry(op->stored);
        else
            content = inode_content(table, inode);
        if (op->stored)
            inode_set_content(table, inode, content, content ? content->mtime_ns : 0);
    }
    inode_end_storing(table, inode);
    handle_end_store(op->handle, op->stored_done ? 0 : op->store_error ? op->store_error : -EIO, content);
    content_unref(content);
}

static bool is_unlinked(struct inode_table *table, const struct inode *inode)
{
    bool unlinked;

    pthread_mutex_lock(&table->lock);
    unlinked = inode->unlinked;
    pthread_mutex_unlock(&table->lock);
    return unlinked;
}

/* 1: there is something to store, and this operation is the one to do it. */
static int begin_store(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    int r;

    if (is_unlinked(table, op->handle->inode))
        return 0;
    r = handle_begin_store(op->handle, op, &op->data, &op->size);
    if (r <= 0)
        return r;
    op->cleanup = end_store;
    inode_begin_storing(table, op->handle->inode);
    r = place_of(op->fs, op->handle->inode, &op->new_parent, &op->new_name);
    return r < 0 ? r : 1;
}

/* What the document looks like now, so that the writer's next read shows it. */
static int reread(struct op *op)
{
    struct found found = {0};
    int r = tree_find(op, op->new_parent, op->new_name, &found);

    if (r == 0)
        r = tree_content(op, op->new_parent, op->new_name, &found, false);
    if (r == 0 && found.content)
        inode_set_content(&op->fs->inodes, op->handle->inode, found.content, found.content->mtime_ns);
    content_unref(found.content);
    return r == -EINPROGRESS ? r : 0; /* it is stored, whatever we can see of it */
}

/* Stores what the handle holds, if anything. 0 when that is done. */
int store(struct op *op)
{
    struct handle *handle = op->handle;
    const struct kind *kind = handle->inode->kind;
    int r;

    if (!op->cleanup) {
        r = begin_store(op);
        if (r <= 0)
            return r;
    }
    if (!op->stored_done) {
        r = kind->complete ? kind->complete(op->data, op->size) : 1;
        if (r == 0) {
            note_words(handle, "the document ends too early");
            r = -EINVAL;
        }
        op->row = kind;
        if (r > 0)
            r = kind->store(op, op->new_parent, op->new_name, op->data, op->size);
        if (r == -EINPROGRESS)
            return r; /* it may be running again by now */
        if (r < 0) {
            op->store_error = r;
            return r;
        }
        op->stored_done = true;
        op_rest_on_nothing(op);
    }
    if (!op->stored && !(kind->flags & KIND_DIRECT)) {
        r = reread(op);
        if (r < 0)
            return r;
    }
    op->cleanup = NULL;
    end_store(op);
    return 0;
}

/* ---- write ------------------------------------------------------------------------------------------------------- */

static int run_write(struct op *op)
{
    size_t written = (size_t)op->offset; /* of the upcall; op->size becomes the whole value's */
    int r = store(op);

    if (r < 0)
        return r;
    if (op_claim_reply(op))
        fuse_reply_write(op->req, written);
    return 0;
}

/* Is the value complete with this write? <0: it never will be. */
static int is_complete(struct handle *handle, size_t size)
{
    const struct kind *kind = handle->inode->kind;
    int r;

    pthread_mutex_lock(&handle->lock);
    if (kind->complete)
        r = kind->complete(handle->data, handle->len);
    else if (handle_appends(handle))
        r = 1; /* a line of a log: each is whole */
    else
        r = !handle->stored_by_write && size % FULL_BUFFER != 0;
    if (r > 0)
        handle->stored_by_write = true;
    pthread_mutex_unlock(&handle->lock);
    return r;
}

/* What is written is no value but an order, carried out and forgotten. */
static int run_order(struct op *op)
{
    const struct kind *kind = op->inode->kind;
    int r = op->new_parent ? 0 : place_of(op->fs, op->inode, &op->new_parent, &op->new_name);

    op->row = kind;
    if (r == 0 && !op->stored_done)
        r = kind->store(op, op->new_parent, op->new_name, op->data, op->size);
    if (r == 0 && !op->stored_done) {
        op->stored_done = true;
        op_rest_on_nothing(op);
    }
    if (r == 0 && !(kind->flags & KIND_DIRECT))
        r = reread(op);
    if (r < 0)
        return r;
    if (op_claim_reply(op))
        fuse_reply_write(op->req, op->size);
    return 0;
}

static void begin_order(fuse_req_t req, fuse_ino_t ino, struct handle *handle, const char *data, size_t size)
{
    struct op *op = begin(req, COUNT_WRITE, ino, NULL, run_order);

    if (!op)
        return;
    op->handle = handle_ref(handle);
    op->data = malloc(size + 1);
    if (!op->data) {
        fuse_reply_err(req, ENOMEM);
        op_free(op);
        return;
    }
    memcpy(op->data, data, size);
    op->data[size] = '\0';
    op->size = size;
    op_start(op);
}

void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);
    struct fs *fs = fs_of(req);
    struct op *op;
    int r;

    r = !handle || !handle_writes(handle) ? -EBADF : lock_is_good(fs, fi->fh) ? 0 : -EIO;
    if (r == 0 && handle->spool) {
        fs_count(fs, COUNT_WRITE);
        r = spool_write(handle->spool, data, size, (uint64_t)offset);
        if (r < 0) {
            if (handle_refuse(handle, r))
                note_refused(handle, r);
            fuse_reply_err(req, -r);
        } else {
            fuse_reply_write(req, size);
        }
        return;
    }
    if (r == 0 && handle->inode->kind->flags & KIND_ORDERS) {
        begin_order(req, ino, handle, data, size);
        return;
    }
    if (r == 0)
        r = handle_write(handle, data, size, (uint64_t)offset, max_len(fs, handle->inode->kind));
    if (r == 0)
        r = is_complete(handle, size);
    if (r <= 0) {
        fs_count(fs, COUNT_WRITE);
        if (r < 0) {
            if (handle && handle_refuse(handle, r))
                note_refused(handle, r);
            fuse_reply_err(req, -r);
        } else {
            fuse_reply_write(req, size);
        }
        return;
    }
    op = begin(req, COUNT_WRITE, ino, NULL, run_write);
    if (!op)
        return;
    op->handle = handle_ref(handle);
    op->offset = (off_t)size;
    op_start(op);
}

/* ---- flush, fsync, release --------------------------------------------------------------------------------------- */

/*
 * A shell's `> file` opens the file, duplicates the descriptor and closes the first one before anything is written.
 * That is no reason to store an empty value: who closes has another descriptor, and its write or close will come.
 */
bool is_only_opened(struct op *op)
{
    struct handle *handle = op->handle;
    bool only_opened;

    pthread_mutex_lock(&handle->lock);
    only_opened = handle->dirty && !handle->data;
    pthread_mutex_unlock(&handle->lock);
    if (only_opened && handle->inode->kind->complete)
        return true; /* nothing is no document */
    return only_opened && process_has_open(op->pid, handle->inode->number, node_id(op->fs, handle->inode));
}

static int run_send(struct op *op)
{
    int r = spool_send(op->handle->spool, op);

    return r < 0 ? r : reply_ok(op);
}

/* What was written under a lock is stored before the lock ends. */
static int run_close(struct op *op)
{
    int r = op->cleanup || !is_only_opened(op) ? store(op) : 0;

    if (r == -EINPROGRESS)
        return r;
    lock_flushed(op->fs, op->inode, (uintptr_t)op->handle, op->lock_owner);
    if (r == 0 && handle_lost_data(op->handle))
        r = -EIO;
    return r < 0 ? r : reply_ok(op);
}

static int run_fsync(struct op *op)
{
    int r = handle_is_lost(op->handle) ? -EIO : store(op);

    return r < 0 ? r : reply_ok(op);
}

static void begin_flush(fuse_req_t req, enum counter counter, fuse_ino_t ino, const struct fuse_file_info *fi,
                        op_run_fn *run)
{
    struct op *op = begin(req, counter, ino, NULL, run);

    if (!op)
        return;
    op->handle = handle_ref(handle_of(fi));
    op->lock_owner = fi->lock_owner;
    op_start(op);
}

void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);

    if (handle && handle_writes(handle)) {
        begin_flush(req, COUNT_FLUSH, ino, fi, handle->spool ? run_send : run_close);
    } else {
        lock_flushed(fs_of(req), inode_of(fs_of(req), ino), fi->fh, fi->lock_owner);
        fs_count(fs_of(req), COUNT_FLUSH);
        fuse_reply_err(req, 0);
    }
}

void on_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);

    (void)datasync;
    if (handle && handle_writes(handle)) {
        begin_flush(req, COUNT_FSYNC, ino, fi, handle->spool ? run_send : run_fsync);
    } else {
        fs_count(fs_of(req), COUNT_FSYNC);
        fuse_reply_err(req, 0);
    }
}

/* What an interrupted close() left: nobody waits for it any more, but it was written. */
static int run_release(struct op *op)
{
    int r = store(op);

    if (r == -EINPROGRESS)
        return r;
    if (r < 0)
        note_refused(op->handle, r);
    unset_writer(op->handle);
    lock_closed(op->fs, (uintptr_t)op->handle);
    return reply_ok(op);
}

void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);
    struct op *op;

    if (!handle) {
        fs_count(fs_of(req), COUNT_RELEASE);
        lock_closed(fs_of(req), fi->fh);
        fuse_reply_err(req, 0);
        return;
    }
    if (handle->stream)
        stream_wake(handle->stream); /* a read that was interrupted still holds it */
    op = begin(req, COUNT_RELEASE, ino, NULL, run_release);
    if (!op) {
        lock_closed(fs_of(req), fi->fh);
        handle_unref(handle);
        return;
    }
    op->handle = handle; /* the kernel's reference */
    op_start(op);
}

/* ---- create -------------------------------------------------------------------------------------------------------
 */

static int reply_created(struct op *op, struct inode *inode, struct handle *handle)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .direct_io = 1, .fh = (uintptr_t)handle};
    struct inode_table *table = &op->fs->inodes;
    struct fuse_entry_param entry;

    set_writer(handle);
    fill_entry(op, inode, 0, &entry);
    inode_looked_up(table, inode);
    if (!op_claim_reply(op) || fuse_reply_create(op->req, &entry, &fi) != 0) {
        inode_forget(table, inode, 1);
        unset_writer(handle);
        handle_unref(handle);
    }
    inode_unref(table, inode);
    return 0;
}

/*
 * An inode with a descriptor on it, for a file that this operation creates (`fresh`; stored already if it has content)
 * or has found to be there.
 */
static int create_inode(struct op *op, const struct kind *kind, struct content *content, bool fresh)
{
    struct inode *inode;
    struct handle *handle;
    bool new;

    inode = inode_get(&op->fs->inodes, op->inode, op->name, kind, content, content ? content->mtime_ns : 0, &new);
    if (!inode)
        return -ENOMEM;
    handle = handle_new(op->fs, inode, op->flags, op->pid, content);
    if (!handle) {
        inode_unref(&op->fs->inodes, inode);
        return -ENOMEM;
    }
    /* A new file that is appended to may have been created by another host meanwhile. */
    handle->replaces = (fresh && !(op->flags & O_APPEND)) || op->flags & O_TRUNC;
    handle->dirty = fresh ? !content : (op->flags & O_TRUNC) != 0;
    if (kind->flags & KIND_ORDERS)
        handle->replaces = handle->dirty = false;
    return reply_created(op, inode, handle);
}

static int create_new(struct op *op)
{
    struct content *content = NULL;
    int r = 0;

    /* Who cannot write to it either would store nothing before it is closed: a file to be locked is made at once. */
    if ((op->flags & O_EXCL || (op->flags & O_ACCMODE) == O_RDONLY) && op->kind->create_exclusive) {
        op->row = op->kind;
        r = op->kind->create_exclusive(op, op->inode, op->name);
        if (r < 0)
            return r;
        content = op->stored ? content_of_entry(op->stored) : NULL;
    }
    r = create_inode(op, op->kind, content, true);
    content_unref(content);
    return r;
}

static int run_create(struct op *op)
{
    struct found found = {0};
    int r;

    if (op->kind) {
        r = create_new(op);
        if (r != -EEXIST || op->flags & O_EXCL)
            return r;
        op->kind = NULL; /* somebody was faster */
        op->stage = 0;
        op_rest_on_nothing(op);
        consul_expire(op->fs->consul, "/v1/kv/");
    }
    r = tree_find(op, op->inode, op->name, &found);
    if (r == 0 && S_ISDIR(found.kind->mode))
        r = -EISDIR;
    else if (r == 0 && op->flags & O_EXCL)
        r = -EEXIST;
    else if (r == 0 && !found.kind->store)
        r = -EPERM;
    if (r == 0) { /* it appeared since the kernel looked */
        r = tree_content(op, op->inode, op->name, &found, false);
        if (r == 0)
            r = create_inode(op, found.kind, found.content, false);
    } else if (r == -ENOENT) {
        r = tree_row_for_new(op, op->inode, op->name, false, &op->kind);
        if (r == 0)
            r = create_new(op);
    }
    content_unref(found.content);
    return r;
}

void on_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct op *op = begin(req, COUNT_CREATE, parent, name, run_create);

    (void)mode;
    if (!op)
        return;
    op->flags = (unsigned)fi->flags;
    op_start(op);
}

/* ---- truncate ---------------------------------------------------------------------------------------------------- */

static int run_truncate(struct op *op)
{
    int r = op->handle ? store(op) : 0; /* there is nothing of an order */

    return r < 0 ? r : reply_attr(op, op->inode);
}

/* truncate(2) by name: a descriptor of its own that lives as long as the operation. */
static int truncate_by_name(struct op *op, uint64_t size)
{
    struct content *content;

    if (!op->inode->kind->store)
        return -EPERM;
    if (op->inode->kind->flags & KIND_ORDERS)
        return 0;
    content = inode_content(&op->fs->inodes, op->inode);
    op->handle = handle_new(op->fs, op->inode, O_RDWR, op->pid, content);
    content_unref(content);
    if (!op->handle)
        return -ENOMEM;
    if (size == 0)
        op->handle->replaces = true;
    return handle_truncate(op->handle, size, max_len(op->fs, op->inode->kind));
}

void set_size(fuse_req_t req, fuse_ino_t ino, uint64_t size, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);
    struct op *op = begin(req, COUNT_SETATTR, ino, NULL, run_truncate);
    int r;

    if (!op)
        return;
    if (op->inode->kind->spool) { /* each open() begins anew */
        if (handle && handle->spool)
            spool_clear(handle->spool);
        reply_attr(op, op->inode);
        op_free(op);
        return;
    }
    if (handle && handle_writes(handle) && !(op->inode->kind->flags & KIND_ORDERS)) {
        r = handle_truncate(handle, size, max_len(op->fs, op->inode->kind));
        if (r == 0) { /* stored with what is written next, or by close() */
            reply_attr(op, op->inode);
            op_free(op);
            return;
        }
    } else {
        r = truncate_by_name(op, size);
    }
    if (r < 0) {
        fuse_reply_err(req, -r);
        op_free(op);
        return;
    }
    op_start(op);
}
