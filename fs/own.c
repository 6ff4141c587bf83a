#include "own.h"

#include "content.h"
#include "inode.h"

#include <consul.h>
#include <stdlib.h>
#include <string.h>

void own_init(struct own *own)
{
    memset(own, 0, sizeof(*own));
    pthread_mutex_init(&own->lock, NULL);
}

void own_destroy(struct own *own)
{
    for (size_t i = 0; i < OWN_MAX; i++)
        free(own->ring[i].name);
    pthread_mutex_destroy(&own->lock);
}

/* own.lock is held. */
static struct own_change *find(struct own *own, const struct inode *dir, const char *name)
{
    for (size_t i = 0; i < OWN_MAX; i++)
        if (own->ring[i].dir == dir->number && strcmp(own->ring[i].name, name) == 0)
            return &own->ring[i];
    return NULL;
}

/* own.lock is held. The oldest slot whose change is over. */
static struct own_change *take_slot(struct own *own)
{
    for (size_t tries = 0; tries < OWN_MAX; tries++) {
        struct own_change *change = &own->ring[own->next];

        own->next = (own->next + 1) % OWN_MAX;
        if (change->under_way == 0)
            return change;
    }
    return NULL;
}

/* own.lock is held. */
static struct own_change *find_or_add(struct own *own, const struct inode *dir, const char *name)
{
    struct own_change *change = find(own, dir, name);
    char *copy;

    if (change || !(change = take_slot(own)))
        return change;
    copy = strdup(name);
    if (!copy)
        return NULL;
    free(change->name);
    *change = (struct own_change){.dir = dir->number, .name = copy};
    return change;
}

bool own_begin(struct own *own, const struct inode *dir, const char *name)
{
    struct own_change *change;

    atomic_fetch_add(&own->begun, 1);
    pthread_mutex_lock(&own->lock);
    change = find_or_add(own, dir, name);
    if (change)
        change->under_way++;
    pthread_mutex_unlock(&own->lock);
    return change != NULL;
}

static struct own_state state_of(struct inode_table *table, struct inode *dir, const char *name)
{
    struct inode *inode = inode_peek(table, dir, name);
    struct own_state state = {0};

    if (!inode)
        return state;
    state.kind = inode->kind;
    pthread_mutex_lock(&table->lock);
    if (inode->content)
        state.version = content_version(inode->content);
    pthread_mutex_unlock(&table->lock);
    inode_unref(table, inode);
    return state;
}

/* own.lock is held. */
static void know(struct own_change *change, struct own_state state, enum own_outcome outcome)
{
    change->known = true;
    change->named = outcome == OWN_NAMED || (change->named && change->state.kind == state.kind);
    change->state = state;
    change->done_ns = consul_now_ns();
}

void own_end(struct own *own, struct inode_table *table, struct inode *dir, const char *name, enum own_outcome outcome)
{
    struct own_state state = outcome != OWN_FAILED ? state_of(table, dir, name) : (struct own_state){0};
    struct own_change *change;

    pthread_mutex_lock(&own->lock);
    change = find(own, dir, name); /* what is under way is not overwritten */
    change->under_way--;
    if (outcome != OWN_FAILED)
        know(change, state, outcome);
    pthread_mutex_unlock(&own->lock);
}

bool own_is_under_way(struct own *own, const struct inode *dir, const char *name)
{
    const struct own_change *change;
    bool under_way;

    pthread_mutex_lock(&own->lock);
    change = find(own, dir, name);
    under_way = change && change->under_way > 0;
    pthread_mutex_unlock(&own->lock);
    return under_way;
}

bool own_made(struct own *own, const struct inode *dir, const char *name, struct own_state now, bool came)
{
    const struct own_change *change;
    bool made;

    pthread_mutex_lock(&own->lock);
    change = find(own, dir, name);
    made = change && change->known && change->done_ns + OWN_SECONDS * 1000000000ull > consul_now_ns() &&
           change->state.kind == now.kind && (now.version == 0 || change->state.version == now.version) &&
           (change->named || !came);
    pthread_mutex_unlock(&own->lock);
    return made;
}

void own_told(struct own *own, const struct inode *dir, const char *name, struct own_state now,
              enum own_outcome outcome)
{
    struct own_change *change;

    pthread_mutex_lock(&own->lock);
    change = find_or_add(own, dir, name);
    if (change)
        know(change, now, outcome);
    pthread_mutex_unlock(&own->lock);
}

static bool is_there(const struct own_change *change, const struct inode *dir, uint64_t version)
{
    return change->dir == dir->number && change->known && change->named && change->state.kind &&
           change->state.version > 0 && change->state.version <= version;
}

char **own_names_in(struct own *own, const struct inode *dir, uint64_t version, size_t *ret_n)
{
    char **names = NULL;
    size_t n = 0;

    *ret_n = 0;
    pthread_mutex_lock(&own->lock);
    for (size_t i = 0; i < OWN_MAX; i++)
        n += is_there(&own->ring[i], dir, version);
    if (n > 0 && (names = calloc(n, sizeof(*names))))
        for (size_t i = 0; i < OWN_MAX; i++)
            if (is_there(&own->ring[i], dir, version) && (names[*ret_n] = strdup(own->ring[i].name)))
                ++*ret_n;
    pthread_mutex_unlock(&own->lock);
    return names;
}
