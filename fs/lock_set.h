/*
 * The locks that processes of this mount hold on one file. Pure: no I/O, no threads of its own; whoever owns the set
 * guards it.
 *
 * As on Linux there are two kinds that do not see each other: flock(2)'s belong to an open file and cover all of it,
 * POSIX's (fcntl, lockf) belong to a process and cover a range of bytes.
 */
#ifndef CONSULFS_LOCK_SET_H
#define CONSULFS_LOCK_SET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct lock {
    bool posix, exclusive;
    uint64_t owner; /* as the kernel names it */
    uint64_t fh;    /* of the descriptor through which it was taken */
    pid_t pid;
    uint64_t start, end; /* both inclusive */
    struct lock *next;   /* in the order of (kind, owner, start) */
};

struct lock_set {
    struct lock *first;
};

/* Of somebody else, that keeps `wanted` from being granted; NULL: none. */
const struct lock *lock_set_conflict(const struct lock_set *set, const struct lock *wanted);
/* The owner has this lock from now on, instead of what he had of its range. -ENOMEM: nothing changed. */
int lock_set_put(struct lock_set *set, const struct lock *wanted);
/* The owner has nothing of that range any more. True if he had. -ENOMEM (as above) when one would have to be split. */
int lock_set_clear(struct lock_set *set, const struct lock *range);
/* The descriptor is closed. */
void lock_set_close(struct lock_set *set, uint64_t fh);
bool lock_set_has(const struct lock_set *set, uint64_t fh);
void lock_set_empty(struct lock_set *set);

#endif
