/*
 * Who was told to look a name up again (ESTALE to open()), and has not opened it since.
 *
 * The kernel does that once. If the name has changed yet again by the time that it asks to open what it found, that is
 * served all the same: it was current after open() began, and the program must not get ESTALE.
 */
#ifndef CONSULFS_REOPENING_H
#define CONSULFS_REOPENING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REOPENING_MAX 256

struct reopening {
    atomic_size_t n; /* threads in the ring: nearly always none, and each open() looks */
    pthread_mutex_t lock;
    /* guarded by lock; a ring, the oldest is overwritten */
    struct reopening_thread {
        pid_t tid; /* 0: nobody */
        uint64_t dir;
        char *name;
    } ring[REOPENING_MAX];
    size_t next;
};

void reopening_init(struct reopening *reopening);
void reopening_destroy(struct reopening *reopening);
/* The thread is sent to look `name` up again in the directory of this inode number. */
void reopening_note(struct reopening *reopening, pid_t tid, uint64_t dir, const char *name);
/* True if it was, and comes back now; it is forgotten. */
bool reopening_ends(struct reopening *reopening, pid_t tid, uint64_t dir, const char *name);

#endif
