/*
 * Ways down a path. Who opens a/b/c has each name looked up by itself, and where nothing is watched each look would ask
 * Consul, though the first one brought all that is below. So what was asked for by a thread's look at a directory is
 * new enough for its next look, into that directory, if that comes at once: it is still on its way.
 *
 * The kernel does not say which looks are of one path. A way ends with the first look that does not lead to another
 * directory, so that it never has two of them in one. A thread that holds a directory, looks at it by its name and
 * then, at once, into it, sees at most WAY_MOMENT_NS less than it would have; as it would through a watch.
 */
#ifndef CONSULFS_WAY_H
#define CONSULFS_WAY_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#define WAY_MOMENT_NS 5000000u
#define WAY_THREADS 64

struct ways {
    pthread_mutex_t lock;
    /* guarded by lock; by thread, a newer one takes an older one's place */
    struct way {
        pid_t tid;
        uint64_t dir;        /* the number of the inode that it has reached */
        uint64_t since_ns;   /* when the first look of its way began */
        uint64_t reached_ns; /* when it was told of the directory */
    } at[WAY_THREADS];
};

void ways_init(struct ways *ways);
void ways_destroy(struct ways *ways);
/* The thread is told of the directory now: before it is, as it may go on at once. Times are consul_now_ns(). */
void way_reach(struct ways *ways, pid_t tid, uint64_t dir, uint64_t since_ns, uint64_t now_ns);
/* Since when the thread, which looks into the directory now, has been on its way there; now_ns if it begins there. The
 * way ends with that, unless it reaches another. */
uint64_t way_end(struct ways *ways, pid_t tid, uint64_t dir, uint64_t now_ns);

#endif
