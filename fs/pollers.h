/*
 * poll(2), select(2) and epoll on files: as in sysfs, a file can always be read and written, and POLLPRI with POLLERR
 * says that what the descriptor was opened on is no longer what the name stands for. Opening it again shows the new
 * value.
 */
#ifndef CONSULFS_POLLERS_H
#define CONSULFS_POLLERS_H

#include "fs.h"

struct fuse_pollhandle;
struct poller;

/*
 * A descriptor that has no handle is known by a number, which also says how often this mount itself had changed the
 * inode when it was opened. It is odd, which the address of a handle never is. 0: one that was opened without us
 * (fs.no_open); nothing tells these apart, and the mount changes nothing.
 */
uint64_t poll_new_id(struct fs *fs, struct inode *inode);
static inline bool poll_is_id(uint64_t fh) { return fh & 1; }
bool poll_id_is_outdated(struct fs *fs, struct inode *inode, uint64_t fh);

/*
 * The descriptor waits for a change; takes the poll handle, and frees the one that it had before.
 *
 * Of descriptors without a number we never hear that they were closed, or that it is one of them again: there is a poll
 * handle for each time one of them began to wait. 1: these are many by now, and old. If all are woken, those who still
 * wait come again, and the others are gone.
 */
int poll_add(struct fs *fs, struct inode *inode, uint64_t fh, struct fuse_pollhandle *ph);
/* The descriptor is closed. */
void poll_remove(struct fs *fs, struct inode *inode, uint64_t fh);
bool poll_has(struct fs *fs, struct inode *inode);
/* Wakes all who wait. Not inside a request. */
void poll_wake(struct fs *fs, struct inode *inode);
/* The inode is no more; nobody else knows it. */
void poll_free_all(struct poller *poller);

#endif
