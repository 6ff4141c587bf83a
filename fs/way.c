#include "way.h"

#include <string.h>

void ways_init(struct ways *ways)
{
    memset(ways, 0, sizeof(*ways));
    pthread_mutex_init(&ways->lock, NULL);
}

void ways_destroy(struct ways *ways) { pthread_mutex_destroy(&ways->lock); }

static struct way *place_of(struct ways *ways, pid_t tid) { return &ways->at[(unsigned)tid % WAY_THREADS]; }

void way_reach(struct ways *ways, pid_t tid, uint64_t dir, uint64_t since_ns, uint64_t now_ns)
{
    if (tid == 0)
        return;
    pthread_mutex_lock(&ways->lock);
    *place_of(ways, tid) = (struct way){.tid = tid, .dir = dir, .since_ns = since_ns, .reached_ns = now_ns};
    pthread_mutex_unlock(&ways->lock);
}

uint64_t way_end(struct ways *ways, pid_t tid, uint64_t dir, uint64_t now_ns)
{
    struct way *way = place_of(ways, tid);
    uint64_t since_ns = now_ns;

    if (tid == 0)
        return now_ns;
    pthread_mutex_lock(&ways->lock);
    if (way->tid == tid) {
        if (way->dir == dir && now_ns < way->reached_ns + WAY_MOMENT_NS)
            since_ns = way->since_ns;
        *way = (struct way){0};
    }
    pthread_mutex_unlock(&ways->lock);
    return since_ns;
}
