/*
 * Telling the kernel what changed elsewhere.
 *
 * One thread (the scanner) takes changed resources from a queue, waits for the gate, and finds the names that stand for
 * something else now (changes.h). A few more threads (the tellers) hand the invalidations to the kernel, because that
 * waits for the directory's lock, which a parked lookup there may hold: one slow directory must not hold back the
 * others. What the kernel has forgotten is then announced to who watches (announce.h).
 */
#ifndef CONSULFS_NOTIFY_H
#define CONSULFS_NOTIFY_H

#include "fs.h"

struct content;
struct fuse_session;
struct kind;
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
void notify_changed(void *fs, struct consul_resource *resource, enum consul_change change,
                    struct consul_snapshot *before, struct consul_snapshot *after);
/* What the kernel has under this name may be wrong: it is to ask again. */
void notify_name(struct fs *fs, struct inode *dir, const char *name);
/* A lock was lost: what the kernel has of the inode's bytes, and that its name stands for it, is no longer true. */
void notify_lost(struct fs *fs, struct inode *inode);
/* The inode has other bytes than the kernel may have read. */
void notify_pages(struct fs *fs, struct inode *inode);
/*
 * The kernel gets the inode's bytes into its page cache. On any thread, with what pages.h asks for. 0 or a negative
 * errno.
 */
int notify_fill(struct fs *fs, struct inode *inode, struct content *content);
/* ahead_fill() on the notify thread. Takes no reference. */
void notify_ahead(struct fs *fs, struct inode *inode);
/* This mount changed what is below the directory: it and those above it may be gone. Takes no reference. */
void notify_look(struct fs *fs, struct inode *dir);

/* A directory was looked up that nothing may ever list: see interest.h. Takes no reference. */
void notify_looked_up(struct fs *fs, struct inode *dir);

/*
 * What changes.c has found out, for the tellers to do, in this order for one directory. None takes a reference.
 */
/* The inode's name no longer stands for it (`gone`), or nobody knows. */
void notify_inode(struct fs *fs, struct inode *inode, bool gone);
/* The inode is what it was, but its time is not. */
void notify_attributes(struct fs *fs, struct inode *inode);
/*
 * On the notify thread only. The kernel is to drop what it caches of the inode and nobody uses. That is done for many
 * at once: NULL ends their number. What is in a directory comes before it.
 */
void notify_drop(struct fs *fs, struct inode *inode);
/* The inode's bytes are no longer those that descriptors on it were opened on, or its name stands for another. */
void notify_pollers(struct fs *fs, struct inode *inode);
/* Who watches the directory is to learn that `name` is no longer what it was: see announce(). */
void notify_watchers_of(struct fs *fs, struct inode *dir, const char *name, const struct kind *was,
                        struct content *was_content);
/* The same of where the inode stood, with this content. */
void notify_watchers(struct fs *fs, struct inode *inode, struct content *was_content);

/* A directory that somebody else was at work in is free (inode_vacate()). */
void notify_wake(struct fs *fs);

/*
 * Runs the operation again once the kernel has been told all that was to be told by now (or after a second, should it
 * not take it). -EINPROGRESS, or 0 when there is nothing to wait for.
 */
int notify_wait(struct fs *fs, struct op *op);
/* The same, when it also has dropped all that it caches and nobody uses. */
int notify_drop_all(struct fs *fs, struct op *op);
/*
 * As notify_wait(), of what concerns names in the directory and was found out by now; the scanner and the other
 * directories' tellers go on. It ends with the mount at the latest. The caller must not hold up the kernel's lock of
 * the directory.
 */
int notify_wait_in(struct fs *fs, struct inode *dir, struct op *op);

#endif
