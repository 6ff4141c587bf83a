/* The last refusals of writes, for .consulfs/errors: time, request, status and the server's own words. */
#ifndef CONSULFS_REFUSALS_H
#define CONSULFS_REFUSALS_H

#include <pthread.h>
#include <stddef.h>

#define REFUSALS_KEPT 100

struct refusals {
    pthread_mutex_t lock;
    char *lines[REFUSALS_KEPT]; /* guarded by lock; a ring */
    size_t next;                /* guarded by lock */
};

void refusals_init(struct refusals *refusals);
void refusals_destroy(struct refusals *refusals);

/* One refusal; words need not be terminated, and only their first 500 bytes, on one line, are kept. Any thread. */
void refusals_add(struct refusals *refusals, const char *method, const char *path, int status, const char *words,
                  size_t len);
/* All lines, the oldest first; the caller frees it. NULL without memory. */
char *refusals_text(struct refusals *refusals, size_t *ret_len);

#endif
