/*
 * Telling watchers (inotify, fanotify) of changes that were made elsewhere.
 *
 * The kernel raises events for what goes through it, and has no call for "this has changed by itself". So threads of
 * our own do to the mount what would have made the change: create the file, open it for writing, truncate it to the
 * length that it has, close it, remove it. Their upcalls are known by the thread's id and answered at once from what is
 * known; Consul is not asked. A change of a value raises on its directory what any writer's would: IN_OPEN, IN_MODIFY,
 * IN_CLOSE_WRITE.
 *
 * Only directories that the kernel holds are announced in, for nobody can watch another. A name is announced once for
 * all its changes that have not been announced yet, from what was told last to what is there at that moment; and not if
 * this mount's own operations made it so (own.h).
 *
 * The threads wait for a directory's lock as anybody does, which a parked operation may hold; so there are a few, and
 * no two work in one directory. How they reach the mount without making it busy: passage.h.
 */
#ifndef CONSULFS_ANNOUNCE_H
#define CONSULFS_ANNOUNCE_H

#include "tree.h"

struct announcer;
struct fuse_session;

/* At most `rate` announcements a second, at least 1; `mountpoint` is absolute. */
int announcer_new(struct fs *fs, struct fuse_session *session, const char *mountpoint, unsigned rate,
                  struct announcer **ret_announcer);
/* The mount is there; it need not be served yet. NULL is fine. */
void announcer_mounted(struct announcer *announcer);
/* Ends the threads, once nothing more serves the mount. False when one of them cannot end: only the process can. */
bool announcer_stop(struct announcer *announcer);
void announcer_free(struct announcer *announcer); /* NULL is fine */

/*
 * What stood under `name` in `dir` (kind NULL: nothing), as far as its watchers know, is no longer so. Takes no
 * reference. Any thread, no lock held. The kernel was told already to forget what it had under the name.
 */
void announce(struct fs *fs, struct inode *dir, const char *name, const struct kind *was, struct content *was_content);

/*
 * The name stands for another file than `inode` now, and it could not be deleted under it because the kernel had found
 * that out already. If it has the inode all the same, its own watchers are told (IN_DELETE_SELF). Takes no reference;
 * any thread, no lock held.
 */
void announce_gone(struct fs *fs, struct inode *inode);

/* Whether changes raise events in directories: not on a mount that nothing can be written to, nor with inotify=0. */
bool announcer_raises(const struct fs *fs);

/* A directory that somebody else was at work in is free (inode_vacate()). */
void announcer_wake(struct fs *fs);

struct announcer_figures {
    uint64_t announced, failed, dropped, queued;
};
void announcer_get_figures(struct fs *fs, struct announcer_figures *ret_figures);

/* ---- for the upcalls ----------------------------------------------------------------------------------------------
 */

enum announced_act { ANNOUNCE_CREATE, ANNOUNCE_MODIFY, ANNOUNCE_REMOVE, ANNOUNCE_GONE };

/* Does this upcall come from an announcing thread? Costs a look at a few numbers. */
bool announcing_is(struct fs *fs, pid_t tid);
/* The same, and it is about to do this to `name` in `dir`. */
bool announcing_of(struct fs *fs, pid_t tid, struct inode *dir, const char *name, enum announced_act *ret_act,
                   bool *ret_directory);
/* The inode that the thread is about to look up as a name of its own, so that it can be deleted; counted, or NULL. */
struct inode *announcing_gone(struct fs *fs, pid_t tid);
/*
 * The kernel was shown something in the place of what the thread is about to remove; and whether it may do so: it was,
 * or it is no directory. One that the kernel has not asked for is the one that is there, and would be dead to
 * everybody.
 */
void announcing_showed(struct fs *fs, pid_t tid);
bool announcing_may_remove(struct fs *fs, pid_t tid);
/* An announcing thread asks for the root's attributes: that we are asked shows it that the mount is ours. */
void announcing_sees_root(struct fs *fs, pid_t tid);

#endif
