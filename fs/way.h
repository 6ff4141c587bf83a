/*
 * Ways down a path. Who opens a/b/c has each name looked up by itself, and where nothing is watched each look would ask
 * Consul, though the first one brought all that is below. So what was asked for by a thread's look at a directory is
 * new enough for its next look, into that directory, if that comes at once: it is still on its way.
 *
 * The kernel does not say which looks are of one path. A way ends with the first look that does not lead to another
 * directory, so that it never has two of them in one. A thread that holds a directory, looks at it by its name and
 * then, at once, into it, sees at most WAY_MOMENT_NS less than it would have; as it would through a watch.
 *
 * And who goes through a directory again and again (ls -l, by the path of each file) has that looked up each time: that
 * it is there is not asked again for a moment. What is in it is: that is another way.
 */
#ifndef CONSULFS_WAY_H
#define CONSULFS_WAY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define WAY_MOMENT_NS 5000000u
#define WAY_THREADS 64

struct ways {
    pthread_mutex_t lock;
    /* guarded by lock; by thread, a newer one takes an older one's place */
    struct way {
        pid_t tid;
        uint64_t dir;        /* the number of the inode that it has reached; 0: it has ended */
        uint64_t since_ns;   /* when the first look of its way began */
        uint64_t reached_ns; /* when it was told of the directory */
        /* The last directory that it had looked up: */
        uint64_t place;           /* name_hash() of where it stands */
        uint64_t looked_since_ns; /* what it was told of it is of then, or later */
        uint64_t looked_ns;       /* when it was told */
    } at[WAY_THREADS];
};

void ways_init(struct ways *ways);
void ways_destroy(struct ways *ways);

/*
 * The thread looks into the directory `dir` now, for what stands at `place`, the name_hash() of that; 0: for all that
 * is in it. Returns since when it has been on its way there, or, *ret_again, since when it is known what stands there;
 * now_ns if it has to ask. Its way ends with that, unless it reaches another directory. Times are consul_now_ns().
 */
uint64_t way_look(struct ways *ways, pid_t tid, uint64_t dir, uint64_t place, uint64_t now_ns, bool *ret_again);
/*
 * The thread is told of the directory `dir` now: before it is, as it may go on at once. It stands at `place`; 0: the
 * thread has looked at the directory itself. since_ns is what way_look() said, `again` whether that was of the place.
 */
void way_reach(struct ways *ways, pid_t tid, uint64_t dir, uint64_t place, uint64_t since_ns, bool again,
               uint64_t began_ns, uint64_t now_ns);

#endif
