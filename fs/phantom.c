#include "phantom.h"

#include "process.h"

#include <consul.h>
#include <stdlib.h>
#include <string.h>

void phantoms_init(struct phantoms *phantoms)
{
    memset(phantoms, 0, sizeof(*phantoms));
    pthread_mutex_init(&phantoms->lock, NULL);
}

void phantoms_destroy(struct phantoms *phantoms)
{
    for (size_t i = 0; i < PHANTOM_MAX; i++)
        free(phantoms->ring[i].path);
    pthread_mutex_destroy(&phantoms->lock);
}

/* phantoms.lock is held, as for is_at(). */
static bool is_there(const struct phantom *phantom, uint64_t now) { return phantom->path && phantom->until_ns > now; }

static bool is_at(const struct phantom *phantom, const char *path, uint64_t now)
{
    return is_there(phantom, now) && strcmp(phantom->path, path) == 0;
}

/* phantoms.lock is held. */
static struct phantom *find(struct phantoms *phantoms, const char *path, pid_t pid)
{
    uint64_t now = consul_now_ns();

    for (size_t i = 0; i < PHANTOM_MAX; i++) {
        struct phantom *phantom = &phantoms->ring[i];

        if (is_at(phantom, path, now) && process_is_same(phantom->pid, pid))
            return phantom;
    }
    return NULL;
}

void phantom_add(struct phantoms *phantoms, const char *path, pid_t pid)
{
    struct phantom *phantom;
    char *copy = strdup(path);

    if (!copy)
        return;
    pthread_mutex_lock(&phantoms->lock);
    phantom = find(phantoms, path, pid);
    if (!phantom) {
        phantom = &phantoms->ring[phantoms->next];
        phantoms->next = (phantoms->next + 1) % PHANTOM_MAX;
    }
    free(phantom->path);
    phantom->path = copy;
    phantom->pid = pid;
    phantom->until_ns = consul_now_ns() + PHANTOM_SECONDS * 1000000000ull;
    pthread_mutex_unlock(&phantoms->lock);
}

bool phantom_has(struct phantoms *phantoms, const char *path, pid_t pid)
{
    bool has;

    pthread_mutex_lock(&phantoms->lock);
    has = find(phantoms, path, pid) != NULL;
    pthread_mutex_unlock(&phantoms->lock);
    return has;
}

/* phantoms.lock is held. */
static bool is_below(const struct phantom *phantom, const char *path, uint64_t now)
{
    size_t len = strlen(path);

    return is_there(phantom, now) && strncmp(phantom->path, path, len) == 0 && phantom->path[len] == '/';
}

bool phantom_has_below(struct phantoms *phantoms, const char *path, pid_t pid)
{
    uint64_t now = consul_now_ns();
    bool has = false;

    pthread_mutex_lock(&phantoms->lock);
    for (size_t i = 0; !has && i < PHANTOM_MAX; i++)
        has = is_below(&phantoms->ring[i], path, now) && process_is_same(phantoms->ring[i].pid, pid);
    pthread_mutex_unlock(&phantoms->lock);
    return has;
}

bool phantom_any(struct phantoms *phantoms, const char *path)
{
    uint64_t now = consul_now_ns();
    bool any = false;

    pthread_mutex_lock(&phantoms->lock);
    for (size_t i = 0; !any && i < PHANTOM_MAX; i++) {
        const struct phantom *phantom = &phantoms->ring[i];

        any = (is_at(phantom, path, now) || is_below(phantom, path, now)) && process_is_there(phantom->pid);
    }
    pthread_mutex_unlock(&phantoms->lock);
    return any;
}

bool phantom_remove(struct phantoms *phantoms, const char *path, pid_t pid)
{
    struct phantom *phantom;

    pthread_mutex_lock(&phantoms->lock);
    phantom = find(phantoms, path, pid);
    if (phantom) {
        free(phantom->path);
        phantom->path = NULL;
    }
    pthread_mutex_unlock(&phantoms->lock);
    return phantom != NULL;
}
