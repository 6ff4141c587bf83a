/*
 * Who has a directory watched, or sits in it, reads nothing; but what shows it must be kept up to date for him.
 *
 * The kernel does not tell of watchers. But it forgets an inode that it merely caches when it is asked to drop it, and
 * not one that somebody holds, be it by a watch, a descriptor or as present directory. So a directory that the kernel
 * has been told to drop, with what is in it, and still knows a moment later is held.
 *
 * That is found out when a watch on a resource has ended (it was idle, or others needed it more): if one of the
 * directories that it shows is held, it is fetched and watched again. And once for each directory that was looked up
 * and never listed: if it is held, it is listed, as its watcher would expect. There one that is looked up all the time
 * is told from one that is held: the kernel has forgotten it in between.
 *
 * All of this on the notify thread, which comes back after the time that each step asks for.
 */
#ifndef CONSULFS_INTEREST_H
#define CONSULFS_INTEREST_H

#include "notify.h"

#define INTEREST_MOMENT_MS 500
/* So much in a directory is dropped to find out whether somebody holds it; where there is more, it is listed at once.
 */
#define INTEREST_DROP_MAX 64
#define INTEREST_LAST_MS 60000
/* What changes too often to be watched is asked as often as it takes this much of the network, once a second at most.
 */
#define INTEREST_DEMOTED_FIRST_MS 1000
#define INTEREST_DEMOTED_BYTES_PER_MS 64

/* The watch on the resource has ended. True: come back after a moment, with attempt 1. */
bool interest_sound(struct fs *fs, struct consul_resource *resource);
/* Returns after how many ms to come back, with the next attempt; 0: not at all. */
unsigned interest_revisit(struct fs *fs, struct consul_resource *resource, unsigned attempt);

/* The kernel is to drop all that it caches and nobody uses. */
void interest_drop_all(struct fs *fs);

/* A directory that nothing has listed so far was looked up. Attempt 1, after a moment, and 2, which it sets; as above.
 */
unsigned interest_visit(struct fs *fs, struct inode *dir, unsigned *attempt);

#endif
