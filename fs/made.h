/*
 * Directories of services/ that were made for instances to come. Consul knows no service without an instance, so they
 * are this mount's own, until the first instance is registered through it or rmdir removes them.
 */
#ifndef CONSULFS_MADE_H
#define CONSULFS_MADE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define MADE_MAX 4096

struct made {
    pthread_mutex_t lock; /* taken last */
    char **names;         /* guarded by lock; as in the directory */
    size_t n;             /* guarded by lock */
};

void made_init(struct made *made);
void made_destroy(struct made *made);

/* -EEXIST, -ENOSPC when there are too many, -ENOMEM. */
int made_add(struct made *made, const char *name);
bool made_has(struct made *made, const char *name);
/* True when there was one. */
bool made_remove(struct made *made, const char *name);
/* All names; the caller frees each and the array. NULL without memory. */
char **made_copy(struct made *made, size_t *ret_n);

#endif
