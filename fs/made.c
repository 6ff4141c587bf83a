#include "made.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void made_init(struct made *made)
{
    *made = (struct made){0};
    pthread_mutex_init(&made->lock, NULL);
}

void made_destroy(struct made *made)
{
    for (size_t i = 0; i < made->n; i++)
        free(made->names[i]);
    free(made->names);
    pthread_mutex_destroy(&made->lock);
}

/* made.lock is held. */
static char **find(struct made *made, const char *name)
{
    for (size_t i = 0; i < made->n; i++)
        if (strcmp(made->names[i], name) == 0)
            return &made->names[i];
    return NULL;
}

/* made.lock is held. */
static int add(struct made *made, const char *name)
{
    char **names, *copy;

    if (find(made, name))
        return -EEXIST;
    if (made->n >= MADE_MAX)
        return -ENOSPC;
    names = realloc(made->names, (made->n + 1) * sizeof(*names));
    if (!names)
        return -ENOMEM;
    made->names = names;
    copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    made->names[made->n++] = copy;
    return 0;
}

int made_add(struct made *made, const char *name)
{
    int r;

    pthread_mutex_lock(&made->lock);
    r = add(made, name);
    pthread_mutex_unlock(&made->lock);
    return r;
}

bool made_has(struct made *made, const char *name)
{
    bool has;

    pthread_mutex_lock(&made->lock);
    has = find(made, name) != NULL;
    pthread_mutex_unlock(&made->lock);
    return has;
}

bool made_remove(struct made *made, const char *name)
{
    char **at;

    pthread_mutex_lock(&made->lock);
    at = find(made, name);
    if (at) {
        free(*at);
        *at = made->names[--made->n];
    }
    pthread_mutex_unlock(&made->lock);
    return at != NULL;
}

char **made_copy(struct made *made, size_t *ret_n)
{
    char **names;
    size_t n = 0;

    pthread_mutex_lock(&made->lock);
    names = calloc(made->n + 1, sizeof(*names));
    while (names && n < made->n && (names[n] = strdup(made->names[n])))
        n++;
    pthread_mutex_unlock(&made->lock);
    *ret_n = n;
    return names;
}
