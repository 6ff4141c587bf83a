/*
 * Reading ahead over files, on a mount that is only read. There the kernel opens files without asking, so no open
 * brings their bytes along (pages.h), and who searches a thousand small files asks for each. But what he reads is what
 * a listing showed him, in its order, and is known here. So when a second file of a directory is asked for, the kernel
 * gets the bytes of those behind it that it knows of: as much as it reads ahead in one file, and four times as much
 * each time that he gets beyond that. Who comes from such a directory to another goes on so with its first.
 *
 * Files of kv/ only: of others a look at one says nothing of the next.
 */
#ifndef CONSULFS_AHEAD_H
#define CONSULFS_AHEAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As the kernel does by default in one file; what it keeps of a file is whole pages. */
#define AHEAD_FIRST ((size_t)128 * 1024)
#define AHEAD_MOST ((size_t)2048 * 1024)
#define AHEAD_SCANS 8 /* directories in which somebody reads, that are told apart */

struct content;
struct fs;
struct inode;

struct ahead {
    pthread_mutex_t lock; /* innermost */
    /* guarded by lock */
    struct ahead_scan {
        uint64_t dir; /* inode number; 0: free */
        size_t bytes; /* that were read ahead at last */
        bool filling; /* the notify thread is to fill, or does */
    } scans[AHEAD_SCANS];
    unsigned last; /* the scan that was begun last */
    bool scanning; /* in the directory of the last READ */
};

void ahead_init(struct ahead *ahead);
void ahead_destroy(struct ahead *ahead);

/* A READ of the file is about to be answered, on a mount that is only read, with bytes of this content. */
void ahead_is_read(struct fs *fs, struct inode *inode, struct content *content);
/* The notify thread does what that has asked for, behind this file. */
void ahead_fill(struct fs *fs, struct inode *inode);

#endif
