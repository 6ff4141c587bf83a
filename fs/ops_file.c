/*
 * Open files: open, create, read, write, and storing what was written. handle.h says when a value is stored.
 */
#include "ops.h"

#include "lock.h"
#include "notify.h"
#include "pollers.h"
#include "process.h"
#include "spool.h"
#include "stream.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LEN ((size_t)1 << 20) /* of a document, where the node kind says nothing else */
#define FULL_BUFFER 512
#define TRUNCATE_ATTEMPTS 100

struct handle *handle_of(const struct fuse_file_info *fi)
{
    return fi && !poll_is_id(fi->fh) ? (struct handle *)(uintptr_t)fi->fh : NULL;
}

static size_t max_len(struct fs *fs, const struct kind *kind) { return kind->max_len ? kind->max_len(fs) : MAX_LEN; }

/* ---- open -------------------------------------------------------------------------------------------------------- */

static void set_writer(struct handle *handle)
{
    struct inode_table *table = &handle->fs->inodes;

    bool is_it;

    if (handle->inode->kind->flags & KIND_ORDERS) /* it holds nothing that is still to be stored */
        return;
    pthread_mutex_lock(&table->lock);
    is_it = handle->inode->writer == handle;
    pthread_mutex_unlock(&table->lock);
    if (is_it)
        return;
    pthread_mutex_lock(&handle->fs->open_lock);
    handle->is_writer = true;
    pthread_mutex_lock(&table->lock);
    handle->inode->writer = handle;
    pthread_mutex_unlock(&table->lock);
    pthread_mutex_unlock(&handle->fs->open_lock);
}

/* Another one that has the file open for writing. fs.open_lock is held. */
static struct handle *another_writer(const struct handle *handle)
{
    struct handle *other = handle->fs->handles;

    while (other && (other->inode != handle->inode || !other->is_writer))
        other = other->next;
    return other;
}

static void unset_writer(struct handle *handle)
{
    struct inode_table *table = &handle->fs->inodes;
    struct handle *other;

    pthread_mutex_lock(&handle->fs->open_lock);
    handle->is_writer = false;
    other = another_writer(handle);
    pthread_mutex_lock(&table->lock);
    if (handle->inode->writer == handle)
        handle->inode->writer = other;
    handle->inode->pages_stale = true; /* it may have mapped what was not stored in the end */
    pthread_mutex_unlock(&table->lock);
    pthread_mutex_unlock(&handle->fs->open_lock);
}

/* Without a handle the descriptor has the inode's bytes. */
int reply_open(struct op *op, struct handle *handle, struct fuse_file_info *fi)
{
    fi->fh = handle ? (uintptr_t)handle : poll_new_id(op->fs, op->inode);
    if (!handle && fi->keep_cache)
        pages_read(op->fs, op->inode);
    else if (!handle || !handle->announces)
        pages_touch(op->fs, op->inode);
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
        handle_begin(handle, true, true);
    set_writer(handle);
    return reply_open(op, handle, &fi);
}

/* Bytes of this moment, for this descriptor alone. */
static int open_made_now(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .direct_io = 1, .noflush = 1};
    struct found found = {.kind = op->inode->kind};
    struct handle *handle;
    int r;

    if (!op->new_parent) {
        r = inode_place_of(&op->fs->inodes, op->inode, &op->new_parent, &op->new_name);
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

bool forget_pages(struct inode_table *table, struct inode *inode)
{
    bool stale;

    pthread_mutex_lock(&table->lock);
    stale = inode->pages_stale;
    inode->pages_stale = false;
    pthread_mutex_unlock(&table->lock);
    return stale;
}

static int run_open(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .keep_cache = 1, .noflush = 1};
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = op->inode;
    struct content *content;
    struct handle *handle;
    struct handle *writer;
    bool being_written;
    int r;

    if (op->quiet && (op->flags & O_ACCMODE) != O_RDONLY)
        return open_announced(op);
    if (inode->kind->check) {
        r = inode->kind->check(op, inode);
        if (r < 0)
            return r;
    }
    if ((op->flags & O_ACCMODE) != O_RDONLY && op->fs->options->read_only)
        return -EROFS;
    if ((op->flags & O_ACCMODE) != O_RDONLY)
        return inode->kind->spool ? open_spool(op) : open_for_writing(op);
    if (inode->kind->stream)
        return open_stream(op);
    content = inode_content(table, inode);
    if (!content)
        return open_made_now(op);
    pthread_mutex_lock(&table->lock);
    being_written = inode->storing > 0;
    writer = inode->writer ? handle_ref(inode->writer) : NULL;
    pthread_mutex_unlock(&table->lock);
    being_written |= writer && !handle_is_flushed(writer);
    if (!being_written && forget_pages(table, inode))
        fi.keep_cache = 0;
    handle_unref(writer);
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
    struct op *op;

    if (fs_of(req)->no_open) { /* it asks once */
        fs_count(fs_of(req), COUNT_OPEN);
        fuse_reply_err(req, ENOSYS);
        return;
    }
    op = begin(req, COUNT_OPEN, ino, NULL, run_open);
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

bool lost_lock(struct fs *fs, struct inode *inode)
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

        if (content)
            ahead_is_read(fs, inode_of(fs, ino), content);
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

/* Our own write gave the inode these bytes. */
static void set_content(struct fs *fs, struct inode *inode, struct content *content)
{
    inode_set_content(&fs->inodes, inode, content, content_mtime_ns(content));
    notify_pollers(fs, inode);
}

/* Another of the file that was stored, or maybe: its inode may differ, since it was opened the name had others. */
static bool may_be_of_stored(const struct handle *handle, const void *what)
{
    const struct op *op = what;

    return handle != op->handle && handle_writes(handle) &&
           (handle->inode == op->handle->inode || handle_has_version(handle, op->before));
}

static bool is_of_stored(struct op *op, struct inode *inode)
{
    if (inode == op->handle->inode)
        return true;
    return inode->kind->stands_at && op->new_parent && !is_unlinked(&op->fs->inodes, inode) &&
           inode->kind->stands_at(op, inode, op->new_parent, op->new_name);
}

/* A process that has the file open twice sees in one descriptor what it wrote through the other, as on any disk. */
static void tell_own_handles(struct op *op, struct content *content)
{
    struct handle **handles;
    size_t n;

    if (!content || handle_all(op->fs, may_be_of_stored, op, &handles, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        if (is_of_stored(op, handles[i]->inode) && process_is_same(handles[i]->pid, op->handle->pid))
            handle_see(handles[i], op->before, content);
        handle_unref(handles[i]);
    }
    free(handles);
}

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
        if (op->stored && content)
            set_content(op->fs, inode, content);
    }
    if (inode_end_storing(table, inode))
        notify_look(op->fs, inode);
    handle_end_store(op->handle, op->stored_done ? 0 : op->store_error ? op->store_error : -EIO, content);
    tell_own_handles(op, content);
    content_unref(content);
    if (inode->kind->store_ended)
        inode->kind->store_ended(op);
}

bool is_unlinked(struct inode_table *table, const struct inode *inode)
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
    r = inode_place_of(&op->fs->inodes, op->handle->inode, &op->new_parent, &op->new_name);
    if (r == 0 && op->new_parent)
        op_stores_in(op, op->new_parent, op->new_name);
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
        set_content(op->fs, op->handle->inode, found.content);
    content_unref(found.content);
    return r == -EINPROGRESS ? r : 0; /* it is stored, whatever we can see of it */
}

/*
 * The name, or one above, has had another inode since the descriptor was opened: what is stored is not what the kernel
 * has in that place either.
 */
static bool tell_others(struct op *op)
{
    struct inode *inode = op->handle->inode;

    if (!op->new_parent || is_unlinked(&op->fs->inodes, inode) || inode_is_reached(&op->fs->inodes, inode))
        return false;
    notify_name(op->fs, op->new_parent, op->new_name);
    if (inode->kind->tell_others)
        inode->kind->tell_others(op, op->new_parent, op->new_name);
    return true;
}

/* By what was stored names stand for something else than the kernel has there; it is told. */
static bool has_changed_names(struct op *op)
{
    const struct kind *kind = op->handle->inode->kind;
    bool others = tell_others(op), vanished = kind->vanishes && kind->vanishes(op, op->new_name);
    /* It may have brought back a directory that somebody replaced by a file. */
    bool revived = !inode_is_reached(&op->fs->inodes, op->new_parent);

    if (vanished)
        notify_name(op->fs, op->new_parent, op->new_name);
    if (revived)
        notify_look(op->fs, op->new_parent);
    return others || vanished || revived;
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
    if (!op->looked) {
        op->looked = true;
        if (has_changed_names(op) && notify_wait(op->fs, op) == -EINPROGRESS)
            return -EINPROGRESS;
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
static int is_complete(struct handle *handle, size_t size, pid_t pid)
{
    const struct kind *kind = handle->inode->kind;
    int r;

    pthread_mutex_lock(&handle->lock);
    handle->wrote = pid;
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
    int r = op->new_parent ? 0 : inode_place_of(&op->fs->inodes, op->inode, &op->new_parent, &op->new_name);

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

    if (fs->options->read_only)
        r = -EROFS; /* see changes_something() */
    else
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
        set_writer(handle);
    if (r == 0)
        r = is_complete(handle, size, fuse_req_ctx(req)->pid);
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
bool is_left_open(struct op *op)
{
    struct handle *handle = op->handle;
    bool only_opened;
    pid_t wrote;

    pthread_mutex_lock(&handle->lock);
    only_opened = handle->dirty && !handle->data;
    wrote = handle->wrote;
    pthread_mutex_unlock(&handle->lock);
    /* Whoever inherited a descriptor closes it by ending, or by exec(). Unless it wrote, the value is not complete. */
    if (!process_is_same(handle->pid, op->pid) && !process_is_same(wrote, op->pid) &&
        process_has_open(handle->pid, handle->inode->number, node_id(op->fs, handle->inode)))
        return true;
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
    int r = op->cleanup || !is_left_open(op) ? store(op) : 0;

    if (r == -EINPROGRESS)
        return r;
    if (r == 0)
        handle_set_flushed(op->handle);
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

    if (fs_of(req)->no_open) { /* likewise */
        fs_count(fs_of(req), COUNT_FLUSH);
        fuse_reply_err(req, ENOSYS);
    } else if (handle && handle_writes(handle)) {
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

    poll_remove(fs_of(req), inode_of(fs_of(req), ino), fi->fh);
    if (!handle) {
        fs_count(fs_of(req), COUNT_RELEASE);
        lock_closed(fs_of(req), fi->fh);
        fuse_reply_err(req, 0);
        return;
    }
    if (handle->stream)
        stream_wake(handle->stream); /* a read that was interrupted still holds it */
    op = begin(req, handle->announces ? COUNT_ANNOUNCING : COUNT_RELEASE, ino, NULL, run_release);
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
    pages_touch(op->fs, inode);
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

    inode =
        inode_get(&op->fs->inodes, op->inode, op->name, kind, content, content ? content_mtime_ns(content) : 0, &new);
    if (!inode)
        return -ENOMEM;
    handle = handle_new(op->fs, inode, op->flags, op->pid, content);
    if (!handle) {
        inode_unref(&op->fs->inodes, inode);
        return -ENOMEM;
    }
    /* A new file that is appended to may have been created by another host meanwhile. */
    if (!(kind->flags & KIND_ORDERS))
        handle_begin(handle, (fresh && !(op->flags & O_APPEND)) || op->flags & O_TRUNC,
                     fresh ? !content : (op->flags & O_TRUNC) != 0);
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
    struct op *op;

    (void)mode;
    if (announced_create(req, parent, name, fi))
        return;
    op = begin(req, COUNT_CREATE, parent, name, run_create);
    if (!op)
        return;
    op_owns(op, op->inode, name);
    op->flags = (unsigned)fi->flags;
    op_start(op);
}

/* ---- truncate ---------------------------------------------------------------------------------------------------- */

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
        handle_begin(op->handle, true, false);
    return handle_truncate(op->handle, size, max_len(op->fs, op->inode->kind));
}

/* It has read nothing: if the value is another by now, that one is cut. */
static int truncate_again(struct op *op)
{
    struct inode *dir = op->new_parent;
    struct found found = {0};
    struct handle *handle;
    int r = tree_find(op, dir, op->new_name, &found);

    if (r == 0 && (found.kind != op->inode->kind || !found.content))
        r = -ESTALE;
    if (r == 0) {
        handle = handle_new(op->fs, op->inode, O_RDWR, op->pid, found.content);
        r = handle ? handle_truncate(handle, (uint64_t)op->offset, max_len(op->fs, op->inode->kind)) : -ENOMEM;
        handle_unref(op->handle);
        op->handle = handle;
        op->again = false;
    }
    content_unref(found.content);
    if (r == 0) {
        inode_unref(&op->fs->inodes, dir);
        op->new_parent = NULL;
        free(op->new_name);
        op->new_name = NULL;
    }
    return r;
}

static int run_truncate(struct op *op)
{
    int r = op->again ? truncate_again(op) : 0;

    if (r == 0 && op->handle) /* there is nothing of an order */
        r = store(op);
    while (r == -ESTALE && !op->again && op->cleanup && op->attempts < TRUNCATE_ATTEMPTS) {
        void (*end)(struct op *) = op->cleanup;

        op->cleanup = NULL;
        end(op);
        op->again = true;
        op->attempts++;
        op->store_error = 0;
        free(op->data);
        op->data = NULL;
        r = truncate_again(op);
        if (r == 0)
            r = store(op);
    }
    return r < 0 ? r : reply_attr(op, op->inode);
}

void set_size(fuse_req_t req, fuse_ino_t ino, uint64_t size, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);
    struct op *op = begin(req, COUNT_SETATTR, ino, NULL, run_truncate);
    int r;

    if (!op)
        return;
    pages_touch(op->fs, op->inode);
    if (handle && handle->announces) {
        reply_attr(op, op->inode);
        op_free(op);
        return;
    }
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
            set_writer(handle);
            reply_attr(op, op->inode);
            op_free(op);
            return;
        }
    } else {
        op->offset = (off_t)size;
        r = truncate_by_name(op, size);
    }
    if (r < 0) {
        fuse_reply_err(req, -r);
        op_free(op);
        return;
    }
    op_start(op);
}

/* ---- fallocate --------------------------------------------------------------------------------------------------- */

void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len, struct fuse_file_info *fi)
{
    struct handle *handle = handle_of(fi);
    const struct kind *kind = inode_of(fs_of(req), ino)->kind;
    bool zero = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    int r = -EOPNOTSUPP;

    fs_count(fs_of(req), COUNT_WRITE);
    if (!handle || !handle_writes(handle))
        r = -EBADF;
    else if (kind->store && !kind->complete && !(kind->flags & KIND_ORDERS) && /* no zeros in a document */
             !(mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
        r = handle_allocate(handle, (uint64_t)offset, (uint64_t)len, mode & FALLOC_FL_KEEP_SIZE, zero,
                            max_len(handle->fs, kind));
    if (r == 0)
        set_writer(handle);
    fuse_reply_err(req, -r); /* stored with what is written next, or by close() */
}
