#include "alias.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void aliases_init(struct aliases *aliases)
{
    *aliases = (struct aliases){0};
    pthread_mutex_init(&aliases->lock, NULL);
}

static void clear(struct alias *alias)
{
    free(alias->path);
    free(alias->name);
    free(alias->id);
    *alias = (struct alias){0};
}

void aliases_destroy(struct aliases *aliases)
{
    for (size_t i = 0; aliases->ring && i < ALIASES_MAX; i++)
        clear(&aliases->ring[i]);
    free(aliases->ring);
    pthread_mutex_destroy(&aliases->lock);
}

/* aliases.lock is held. */
static struct alias *find(struct aliases *aliases, const char *path, const char *name)
{
    for (size_t i = 0; aliases->ring && i < ALIASES_MAX; i++) {
        struct alias *alias = &aliases->ring[i];

        if (alias->path && strcmp(alias->name, name) == 0 && strcmp(alias->path, path) == 0)
            return alias;
    }
    return NULL;
}

/* aliases.lock is held. */
static struct alias *oldest(struct aliases *aliases)
{
    if (!aliases->ring)
        aliases->ring = calloc(ALIASES_MAX, sizeof(*aliases->ring));
    return aliases->ring ? &aliases->ring[aliases->next++ % ALIASES_MAX] : NULL;
}

int alias_set(struct aliases *aliases, const char *path, const char *name, const char *id)
{
    struct alias made = {.path = strdup(path), .name = strdup(name), .id = strdup(id)}, *alias = NULL;

    if (made.path && made.name && made.id) {
        pthread_mutex_lock(&aliases->lock);
        alias = find(aliases, path, name);
        if (!alias)
            alias = oldest(aliases);
        if (alias) {
            clear(alias);
            *alias = made;
        }
        pthread_mutex_unlock(&aliases->lock);
    }
    if (!alias)
        clear(&made);
    return alias ? 0 : -ENOMEM;
}

char *alias_get(struct aliases *aliases, const char *path, const char *name)
{
    struct alias *alias;
    char *id;

    pthread_mutex_lock(&aliases->lock);
    alias = find(aliases, path, name);
    id = alias ? strdup(alias->id) : NULL;
    pthread_mutex_unlock(&aliases->lock);
    return id;
}

void alias_forget(struct aliases *aliases, const char *path, const char *id)
{
    pthread_mutex_lock(&aliases->lock);
    for (size_t i = 0; aliases->ring && i < ALIASES_MAX; i++) {
        struct alias *alias = &aliases->ring[i];

        if (alias->path && strcmp(alias->id, id) == 0 && strcmp(alias->path, path) == 0)
            clear(alias);
    }
    pthread_mutex_unlock(&aliases->lock);
}
