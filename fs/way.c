#include "way.h"

#include <string.h>

void ways_init(struct ways *ways)
{
    memset(ways, 0, sizeof(*ways));
    pthread_mutex_init(&ways->lock, NULL);
}

void ways_destroy(struct ways *ways) { pthread_mutex_destroy(&ways->lock); }

static struct way *way_of(struct ways *ways, pid_t tid) { return &ways->at[(unsigned)tid % WAY_THREADS]; }

uint64_t way_look(struct ways *ways, pid_t tid, uint64_t dir, uint64_t place, uint64_t now_ns, bool *ret_again)
{
    struct way *way = way_of(ways, tid);
    uint64_t since_ns = now_ns;

    *ret_again = false;
    if (tid == 0)
        return now_ns;
    pthread_mutex_lock(&ways->lock);
    if (way->tid == tid) {
        if (way->dir == dir && now_ns < way->reached_ns + WAY_MOMENT_NS) {
            since_ns = way->since_ns;
        } else if (place != 0 && way->place == place && now_ns < way->looked_ns + WAY_MOMENT_NS) {
            since_ns = way->looked_since_ns;
            *ret_again = true;
        }
        way->dir = 0;
    }
    pthread_mutex_unlock(&ways->lock);
    return since_ns;
}

void way_reach(struct ways *ways, pid_t tid, uint64_t dir, uint64_t place, uint64_t since_ns, bool again,
               uint64_t began_ns, uint64_t now_ns)
{
    struct way *way = way_of(ways, tid);

    if (tid == 0)
        return;
    pthread_mutex_lock(&ways->lock);
    if (way->tid != tid)
        *way = (struct way){.tid = tid};
    way->dir = dir;
    way->since_ns = again ? began_ns : since_ns; /* of what is in it nothing has been asked for this time */
    way->reached_ns = now_ns;
    if (place != 0 && !again) {
        way->place = place;
        way->looked_since_ns = since_ns;
        way->looked_ns = now_ns;
    }
    pthread_mutex_unlock(&ways->lock);
}
