/*
 * The FUSE callbacks and what they share. ops.c has the table and what is about names and attributes, ops_file.c open
 * files, ops_dir.c directories. Here, and only here, errnos lose their sign.
 */
#ifndef CONSULFS_OPS_H
#define CONSULFS_OPS_H

#define FUSE_USE_VERSION 314
#include "content.h"
#include "handle.h"
#include "op.h"
#include "tree.h"

#include <errno.h>
#include <fuse_lowlevel.h>

extern const struct fuse_lowlevel_ops consulfs_ops;

/* Longer than the kernel's clock runs: as long as nobody says otherwise. */
#define TIMEOUT_UNLIMITED 1e9
/*
 * A listing's entries whose resource is not watched, long enough for the stat() of each that follows; and what is
 * watched only in part (op.for_a_moment).
 */
#define TIMEOUT_MOMENT 1.0

static inline struct fs *fs_of(fuse_req_t req) { return fuse_req_userdata(req); }
struct inode *inode_of(struct fs *fs, fuse_ino_t ino);

/* The handle of a descriptor; NULL for one that has only a number (pollers.h). */
struct handle *handle_of(const struct fuse_file_info *fi);

/* Counts the upcall, makes the operation and starts it; replies ENOMEM if it can't. `set` may fill it in first. */
struct op *begin(fuse_req_t req, enum counter counter, fuse_ino_t ino, const char *name, op_run_fn *run);

/* The attributes as `pid` sees them: a writer sees what it has written. */
void fill_attr(struct fs *fs, struct inode *inode, pid_t pid, struct stat *attr);
/* A lookup's answer for an inode, counted. entry_timeout 0: ask again each time. */
void fill_entry(struct op *op, struct inode *inode, double entry_timeout, struct fuse_entry_param *entry);
/* How long the kernel may rely on what this run has found; binds the inode to what that rests on. */
double entry_timeout(struct op *op, struct inode *inode);
/* The inode of what was found under `name` in op->inode, counted; NULL without memory. */
struct inode *inode_of_found(struct op *op, const char *name, const struct found *found);
/* Replies and gives the caller's reference to the inode back. */
int reply_entry(struct op *op, struct inode *inode, double timeout);
int reply_ok(struct op *op);
int reply_attr(struct op *op, struct inode *inode);

/* ops_announce.c: each says whether it has answered the upcall, as one of an announcing thread. */
bool is_announcing(fuse_req_t req);
bool announced_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
bool announced_getattr(fuse_req_t req, fuse_ino_t ino);
bool announced_remove(fuse_req_t req);
bool announced_create(fuse_req_t req, fuse_ino_t parent, const char *name, const struct fuse_file_info *fi);
bool announced_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name);
int open_announced(struct op *op);

/* ops_file.c */
/* Stores what the descriptor of the operation holds, if anything. 0 when that is done; parks. */
int store(struct op *op);
/* The kernel is about to forget the inode's pages. True: they may be older than its bytes. */
bool forget_pages(struct inode_table *table, struct inode *inode);
/* Whether a lock that was taken on it, by a descriptor without a handle, is lost. */
bool lost_lock(struct fs *fs, struct inode *inode);
bool is_unlinked(struct inode_table *table, const struct inode *inode);
/* Nothing was written yet, and the process has the descriptor elsewhere, too: it is too early to store. */
bool is_left_open(struct op *op);
/* Takes the handle. */
int reply_open(struct op *op, struct handle *handle, struct fuse_file_info *fi);
void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void on_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi);
void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void on_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len, struct fuse_file_info *fi);
void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
/* SETATTR with a size. */
void set_size(fuse_req_t req, fuse_ino_t ino, uint64_t size, struct fuse_file_info *fi);

/* ops_poll.c */
void on_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph);

/* ops_xattr.c */
void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void on_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ops_lock.c */
void on_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation);
void on_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep);
void on_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);

/* ops_dir.c */
/* Frees those that the kernel did not release before the mount ended. No other thread may be left. */
void dir_handle_free_all(struct fs *fs);
void on_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void on_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void on_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void on_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
               unsigned flags);

#endif
