/*
 * Telling the kernel what changed elsewhere.
 *
 * One thread (the scanner) takes changed resources from a queue, waits for the gate, looks again at every inode that
 * rests on them and finds those whose name stands for something else now. A few more threads (the tellers) hand the
 * invalidations to the kernel, because that waits for the directory's lock, which a parked lookup there may hold: one
 * slow directory must not hold back the others.
 */
#ifndef CONSULFS_NOTIFY_H
#define CONSULFS_NOTIFY_H

#include "fs.h"

struct fuse_session;
struct op;

int notify_new(struct fs *fs, struct fuse_session *session, struct notify **ret_notify);
/*
 * Ends the threads; what is queued is dropped, and what comes later. False when one of them cannot end: the kernel
 * keeps it waiting for a lock whose holder waits for a reply that nobody will give any more. Then only the process can
 * end.
 */
bool notify_stop(struct notify *notify);
void notify_free(struct notify *notify); /* NULL is fine */

/* consul_options.changed. */
void notify_changed(void *fs, struct consul_resource *resource, enum consul_change change);
/* What the kernel has under this name may be wrong: it is to ask again. */
void notify_name(struct fs *fs, struct inode *dir, const char *name);
/* A lock was lost: what the kernel has of the inode's bytes, and that its name stands for it, is no longer true. */
void notify_lost(struct fs *fs, struct inode *inode);
/* The inode has other bytes than the kernel may have read. */
void notify_pages(struct fs *fs, struct inode *inode);
/* This mount changed what is below the directory: it and those above it may be gone. Takes no reference. */
void notify_look(struct fs *fs, struct inode *dir);

/*
 * Runs the operation again once the kernel has been told all that was to be told by now (or after a second, should it
 * not take it). -EINPROGRESS, or 0 when there is nothing to wait for.
 */
int notify_wait(struct fs *fs, struct op *op);

#endif
