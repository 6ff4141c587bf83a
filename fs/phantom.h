/*
 * Directories that this mount has just emptied.
 *
 * A KV prefix or a service vanishes from Consul with its last entry. `rm -r` removes the entries and then the
 * directory, which is no longer there. So who emptied it still finds it for a while, and may remove it; everybody else
 * sees the truth.
 */
#ifndef CONSULFS_PHANTOM_H
#define CONSULFS_PHANTOM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PHANTOM_MAX 1024
#define PHANTOM_SECONDS 10

struct phantoms {
    pthread_mutex_t lock;
    /* guarded by lock; a ring, the oldest is overwritten */
    struct phantom {
        char *path;
        pid_t pid;
        uint64_t until_ns; /* CLOCK_MONOTONIC */
    } ring[PHANTOM_MAX];
    size_t next;
};

void phantoms_init(struct phantoms *phantoms);
void phantoms_destroy(struct phantoms *phantoms);
/* `pid` has taken the last entry out of the directory `path`. */
void phantom_add(struct phantoms *phantoms, const char *path, pid_t pid);
bool phantom_has(struct phantoms *phantoms, const char *path, pid_t pid);
/* Whether it has taken the last entry out of a directory below `path`, which it has not removed yet. */
bool phantom_has_below(struct phantoms *phantoms, const char *path, pid_t pid);
/* The same of any process that is not over, and of `path` itself, too: it may be about to remove the directory. */
bool phantom_any(struct phantoms *phantoms, const char *path);
/* True when there was one. */
bool phantom_remove(struct phantoms *phantoms, const char *path, pid_t pid);

#endif
