/*
 * The first open of a small file puts its bytes into the kernel's page cache, before it is answered: whoever opens a
 * file reads it, as a rule, and a READ for each of a thousand files costs as much as opening them.
 *
 * Only the very first one may. Pages are locked while a READ or WRITE of theirs is under way, which this waits for, and
 * what somebody writes here must not be covered by what was there before. So whatever else opens the inode or changes
 * its size waits here until that is done. Nobody else has its pages locked then, and the wait is short.
 */
#ifndef CONSULFS_PAGES_H
#define CONSULFS_PAGES_H

#include <pthread.h>

#define PAGES_LOCKS 16

struct fs;
struct inode;

/* By inode number. Outermost: the kernel is called while one is held, which asks for nothing then. */
struct pages {
    pthread_mutex_t locks[PAGES_LOCKS];
};

void pages_init(struct pages *pages);
void pages_destroy(struct pages *pages);

/* Before an open for reading is answered, whose bytes are those of the inode, and for which the kernel keeps pages. */
void pages_read(struct fs *fs, struct inode *inode);
/* Before any other open, or a change of size. */
void pages_touch(struct fs *fs, struct inode *inode);

#endif
