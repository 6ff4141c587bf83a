/*
 * Open files. A descriptor for reading a known version needs no handle: its inode has the bytes. A handle is made for
 *  - writing: the new value is gathered here until it is complete and then stored whole;
 *  - bytes that are made at each open, and opens while another descriptor is writing: the bytes of that moment.
 *
 * When a value is stored: by the write() that completes it, so that the shell learns of a refusal (it ignores what
 * close() returns), else by fsync() and close(). A write is taken for complete when the node kind can tell (a JSON
 * document) or when its length is no multiple of 512: programs that write in pieces use full buffers. A descriptor of
 * which this was wrong once (it went on writing) stores on close() from then on.
 */
#ifndef CONSULFS_HANDLE_H
#define CONSULFS_HANDLE_H

#include "op.h"

struct content;
struct spool;
struct stream;

struct handle {
    struct fs *fs;
    struct inode *inode;        /* counted, constant */
    unsigned flags;             /* of open, constant */
    pid_t pid;                  /* who opened it, constant */
    bool announces;             /* an announcing thread's: nothing comes of it; constant */
    struct stream *stream;      /* guarded by fs.open_lock until open() has succeeded, then constant; or NULL */
    struct spool *spool;        /* constant once it is open; NULL for all that is not written so */
    struct handle *prev, *next; /* guarded by fs.open_lock */
    bool is_writer;             /* guarded by fs.open_lock: somebody has it open for writing */

    pthread_mutex_t lock;
    /* guarded by lock */
    uint32_t refs;
    struct content *content; /* what was there when it was opened, and after each store what is there now; or NULL */
    char *data;              /* the value being written, or with O_APPEND the new bytes; NULL: no change */
    size_t len, cap;
    bool replaces; /* opened with O_TRUNC, or created: the old value does not matter */
    bool rewrites; /* opened with O_APPEND, but truncated since: the whole value is stored */
    bool dirty;    /* data (or its absence) is to be stored */
    pid_t wrote;   /* who wrote last: it may have inherited the descriptor; 0: nobody yet */
    bool stored_by_write;
    bool flushed;        /* a descriptor was closed, perhaps the last one, and nothing was written since */
    bool kv_flags_given; /* a KV value's flags were set before it was stored: */
    uint64_t kv_flags;
    int refused;  /* why nothing of this descriptor will be stored any more; 0 */
    bool lost;    /* a lock that was taken through it was lost: it must not be used any more */
    bool dropped; /* and then there was something that had not been stored */
    bool storing; /* an operation is storing; the others queue */
    bool appends; /* what it stores goes behind what is there */
    struct op *queue;
};

struct handle *handle_new(struct fs *fs, struct inode *inode, unsigned flags, pid_t pid, struct content *content);
/* It has just been opened: it replaces what is there, and that is to be stored (`dirty`) even if nothing is written. */
void handle_begin(struct handle *handle, bool replaces, bool dirty);
struct handle *handle_ref(struct handle *handle);
void handle_unref(struct handle *handle); /* NULL is fine */
/* What is there now, if nothing newer is being written: takes a reference of its own. */
void handle_set_content(struct handle *handle, struct content *content);
/* Whether it shows that version; handle.lock is held. */
bool handle_has_version(const struct handle *handle, uint64_t version);
/*
 * The same process has stored another value, in place of the version `before`, through another descriptor: this one
 * goes on from there if it had that version and has nothing of its own to store.
 */
void handle_see(struct handle *handle, uint64_t before, struct content *content);
/* What is there now that it is locked: unless something is being written, the descriptor begins anew with it. */
void handle_refresh(struct handle *handle, struct content *content);
/*
 * A key's same bytes have another ModifyIndex than `before`, because this mount locked or unlocked it: every descriptor
 * that has them goes on from there. `content` has a KV entry; datacenter as in op_datacenter().
 */
void handle_reindex(struct fs *fs, const char *datacenter, uint64_t before, struct content *content);
/* A lock that was taken through it is lost: reads and writes fail with -EIO from now on. */
void handle_lose(struct handle *handle);
bool handle_is_lost(struct handle *handle);
/* The same, at close(): only if something was not stored. */
bool handle_lost_data(struct handle *handle);
/* The handle's from now on. */
void handle_set_stream(struct handle *handle, struct stream *stream);
/*
 * How far the stream has come that `pid` has open on the inode, or if he has none the newest there is; 0 without. The
 * kernel does not say through which descriptor somebody asks for a file's size.
 */
uint64_t handle_stream_size(struct fs *fs, const struct inode *inode, pid_t pid);
/*
 * All there are, or those that are wanted, each counted; the caller frees the array and its references. `wanted` is
 * called with fs.open_lock and the handle's lock held. -ENOMEM.
 */
typedef bool handle_wanted(const struct handle *handle, const void *what);
int handle_all(struct fs *fs, handle_wanted *wanted, const void *what, struct handle ***ret_handles, size_t *ret_n);
/* Frees those that the kernel did not release before the mount ended. No other thread may be left. */
void handle_free_all(struct fs *fs);

/* What is written goes behind what is there at that moment. handle.lock, or the right to store, is held. */
static inline bool handle_appends(const struct handle *handle)
{
    return handle->flags & 02000 /* O_APPEND */ && !handle->replaces && !handle->rewrites;
}

static inline bool handle_writes(const struct handle *handle) { return (handle->flags & 3 /* O_ACCMODE */) != 0; }

/* Puts bytes at offset; beyond the end the gap is zeros. -EFBIG above max, -ENOMEM. */
int handle_write(struct handle *handle, const char *data, size_t len, uint64_t offset, size_t max);
int handle_truncate(struct handle *handle, uint64_t len, size_t max);
/* As fallocate(2): the file reaches as far as the range, unless it is to keep its size, and `zero` clears the range. */
int handle_allocate(struct handle *handle, uint64_t offset, uint64_t len, bool keep_size, bool zero, size_t max);
/* What a read through this descriptor sees; the caller frees *ret_data. */
int handle_read(struct handle *handle, uint64_t offset, size_t size, char **ret_data, size_t *ret_len);
/* A write was refused (err < 0): what is left of the value is not to be stored behind the writer's back. True if it is
 * the first. */
bool handle_refuse(struct handle *handle, int err);
size_t handle_len(struct handle *handle);
/* All is stored and a descriptor was closed: that it was the last one is told later. */
void handle_set_flushed(struct handle *handle);
bool handle_is_flushed(struct handle *handle);

/*
 * 0: there is nothing to store. 1: the operation is to store *ret_data (the caller's). -EINPROGRESS: it was queued
 * behind another one and is woken when that is done. -ENOMEM.
 */
int handle_begin_store(struct handle *handle, struct op *op, char **ret_data, size_t *ret_len);
/* `content` (or NULL) is what is there now; err is how it ended. Wakes the queue: hold no lock. */
void handle_end_store(struct handle *handle, int err, struct content *content);

#endif
