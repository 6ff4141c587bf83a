#define FUSE_USE_VERSION 314
#include "pollers.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>

/* In the list of its inode, guarded by inode_table.lock. */
struct poller {
    uint64_t fh;
    struct fuse_pollhandle *ph;
    /* Of those without a number: how many there are from here on, and since when the last one waits. */
    uint32_t n;
    uint64_t since_ns;
    struct poller *next;
};

/* Who still waits comes again at the price of an upcall each: so not sooner, however many they are. */
#define MANY 1024
#define MANY_AFTER_NS 10000000000u

#define GENERATION_BITS 24

uint64_t poll_new_id(struct fs *fs, struct inode *inode)
{
    uint64_t n = atomic_fetch_add(&fs->opened, 1), generation;

    pthread_mutex_lock(&fs->inodes.lock);
    generation = inode->generation & ((1u << GENERATION_BITS) - 1);
    pthread_mutex_unlock(&fs->inodes.lock);
    return n << (GENERATION_BITS + 1) | generation << 1 | 1;
}

bool poll_id_is_outdated(struct fs *fs, struct inode *inode, uint64_t fh)
{
    uint64_t then = fh >> 1 & ((1u << GENERATION_BITS) - 1), now;

    if (fh == 0)
        return false;
    pthread_mutex_lock(&fs->inodes.lock);
    now = inode->generation & ((1u << GENERATION_BITS) - 1);
    pthread_mutex_unlock(&fs->inodes.lock);
    return then != now;
}

/* inode_table.lock is held. */
static struct poller **find(struct inode *inode, uint64_t fh)
{
    struct poller **at = &inode->pollers;

    while (*at && (*at)->fh != fh)
        at = &(*at)->next;
    return at;
}

static void poller_free(struct poller *poller)
{
    if (!poller)
        return;
    fuse_pollhandle_destroy(poller->ph);
    free(poller);
}

static int add_nameless(struct fs *fs, struct inode *inode, struct poller *poller)
{
    uint64_t now = consul_now_ns();
    int many;

    pthread_mutex_lock(&fs->inodes.lock);
    poller->next = inode->pollers;
    poller->n = poller->next ? poller->next->n + 1 : 1;
    poller->since_ns = poller->next ? poller->next->since_ns : now;
    inode->pollers = poller;
    many = poller->n % MANY == 0 && now - poller->since_ns >= MANY_AFTER_NS;
    pthread_mutex_unlock(&fs->inodes.lock);
    return many;
}

int poll_add(struct fs *fs, struct inode *inode, uint64_t fh, struct fuse_pollhandle *ph)
{
    struct poller *poller = malloc(sizeof(*poller)), **at, *old;

    if (!poller) {
        fuse_pollhandle_destroy(ph);
        return -ENOMEM;
    }
    *poller = (struct poller){.fh = fh, .ph = ph};
    if (fh == 0)
        return add_nameless(fs, inode, poller);
    pthread_mutex_lock(&fs->inodes.lock);
    at = find(inode, fh);
    old = *at;
    poller->next = old ? old->next : NULL;
    *at = poller;
    pthread_mutex_unlock(&fs->inodes.lock);
    poller_free(old);
    return 0;
}

void poll_remove(struct fs *fs, struct inode *inode, uint64_t fh)
{
    struct poller **at, *poller;

    pthread_mutex_lock(&fs->inodes.lock);
    at = find(inode, fh);
    poller = *at;
    if (poller)
        *at = poller->next;
    pthread_mutex_unlock(&fs->inodes.lock);
    poller_free(poller);
}

bool poll_has(struct fs *fs, struct inode *inode)
{
    bool has;

    pthread_mutex_lock(&fs->inodes.lock);
    has = inode->pollers != NULL;
    pthread_mutex_unlock(&fs->inodes.lock);
    return has;
}

void poll_wake(struct fs *fs, struct inode *inode)
{
    struct poller *pollers;

    pthread_mutex_lock(&fs->inodes.lock);
    pollers = inode->pollers;
    inode->pollers = NULL;
    pthread_mutex_unlock(&fs->inodes.lock);
    for (const struct poller *poller = pollers; poller; poller = poller->next)
        fuse_lowlevel_notify_poll(poller->ph);
    poll_free_all(pollers);
}

void poll_free_all(struct poller *poller)
{
    while (poller) {
        struct poller *next = poller->next;

        poller_free(poller);
        poller = next;
    }
}
