#include "reopening.h"

#include <stdlib.h>
#include <string.h>

void reopening_init(struct reopening *reopening)
{
    memset(reopening, 0, sizeof(*reopening));
    pthread_mutex_init(&reopening->lock, NULL);
}

void reopening_destroy(struct reopening *reopening)
{
    for (size_t i = 0; i < REOPENING_MAX; i++)
        free(reopening->ring[i].name);
    pthread_mutex_destroy(&reopening->lock);
}

/* reopening.lock is held. A thread opens one file at a time. */
static struct reopening_thread *find(struct reopening *reopening, pid_t tid)
{
    for (size_t i = 0; i < REOPENING_MAX; i++)
        if (reopening->ring[i].tid == tid)
            return &reopening->ring[i];
    return NULL;
}

void reopening_note(struct reopening *reopening, pid_t tid, uint64_t dir, const char *name)
{
    char *copy = tid != 0 ? strdup(name) : NULL;
    struct reopening_thread *thread;

    if (!copy)
        return;
    pthread_mutex_lock(&reopening->lock);
    thread = find(reopening, tid);
    if (!thread) {
        thread = &reopening->ring[reopening->next];
        reopening->next = (reopening->next + 1) % REOPENING_MAX;
    }
    if (thread->tid == 0)
        atomic_fetch_add(&reopening->n, 1);
    free(thread->name);
    *thread = (struct reopening_thread){.tid = tid, .dir = dir, .name = copy};
    pthread_mutex_unlock(&reopening->lock);
}

bool reopening_ends(struct reopening *reopening, pid_t tid, uint64_t dir, const char *name)
{
    struct reopening_thread *thread;
    bool ends;

    if (tid == 0 || atomic_load(&reopening->n) == 0)
        return false;
    pthread_mutex_lock(&reopening->lock);
    thread = find(reopening, tid);
    ends = thread && thread->dir == dir && strcmp(thread->name, name) == 0;
    if (ends) {
        free(thread->name);
        *thread = (struct reopening_thread){0};
        atomic_fetch_sub(&reopening->n, 1);
    }
    pthread_mutex_unlock(&reopening->lock);
    return ends;
}
