/*
 * Names that this mount remembers for what Consul gave an ID of its own choice: who writes acl/tokens/ci.json finds his
 * token again under that name, although Consul only knows its accessor. Forgotten with the mount, the oldest first.
 */
#ifndef CONSULFS_ALIAS_H
#define CONSULFS_ALIAS_H

#include <pthread.h>
#include <stddef.h>

#define ALIASES_MAX 4096

struct aliases {
    pthread_mutex_t lock; /* taken last */
    struct alias {
        char *path; /* of the collection, with its datacenter */
        char *name, *id;
    } * ring; /* guarded by lock; allocated when the first is added */
    size_t next;
};

void aliases_init(struct aliases *aliases);
void aliases_destroy(struct aliases *aliases);

/* From now on `name` in the collection stands for `id`, whatever it stood for. -ENOMEM. */
int alias_set(struct aliases *aliases, const char *path, const char *name, const char *id);
/* The ID; the caller frees it. NULL: there is none. */
char *alias_get(struct aliases *aliases, const char *path, const char *name);
/* Every name of this ID. */
void alias_forget(struct aliases *aliases, const char *path, const char *id);

#endif
