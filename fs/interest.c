#include "interest.h"

#include "announce.h"
#include "content.h"
#include "kv.h"
#include "tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Inodes that the kernel knows, counted, those deeper in the tree first. */
struct known {
    struct known_inode {
        struct inode *inode;
        unsigned depth;
    } * at;
    size_t n, cap;
};

static void known_clear(struct fs *fs, struct known *known)
{
    for (size_t i = 0; i < known->n; i++)
        inode_unref(&fs->inodes, known->at[i].inode);
    free(known->at);
    *known = (struct known){0};
}

/* inode_table.lock is held. */
static bool known_add(struct known *known, struct inode *inode)
{
    struct known_inode *at;

    if (known->n == known->cap) {
        size_t cap = known->cap ? known->cap * 2 : 32;

        at = realloc(known->at, cap * sizeof(*at));
        if (!at)
            return false;
        known->at = at;
        known->cap = cap;
    }
    at = &known->at[known->n++];
    *at = (struct known_inode){.inode = inode};
    for (const struct inode *i = inode; i->parent; i = i->parent)
        at->depth++;
    inode->refs++;
    return true;
}

static int deeper_first(const void *a, const void *b)
{
    unsigned x = ((const struct known_inode *)a)->depth, y = ((const struct known_inode *)b)->depth;

    return (x < y) - (x > y);
}

/* inode_table.lock is held. Does the resource show what is in the directory? Of a prefix's keys: below `base`, too. */
static bool shows(const struct consul_resource *resource, const struct inode *dir, const struct inode *base)
{
    return dir == base || (resource && inode_is_listed_by(dir, resource));
}

static bool lists_any(struct fs *fs, const struct consul_resource *resource)
{
    bool any = false;

    pthread_mutex_lock(&fs->inodes.lock);
    for (const struct listed_by *by = fs->inodes.listed; by && !any; by = by->next)
        any = inode_is_listed_by(by->dir, resource);
    pthread_mutex_unlock(&fs->inodes.lock);
    return any;
}

/* All that is in, or below, directories that the resource shows, and `base`, and these; or only directories. With
 * neither, all there is. */
static void find_known_in(struct fs *fs, struct consul_resource *resource, struct inode *base, bool only_dirs,
                          struct known *known)
{
    pthread_mutex_lock(&fs->inodes.lock);
    for (struct inode *i = fs->inodes.all; i; i = i->next) {
        const struct inode *above = i;

        if ((i->nlookup == 0 && i != fs->root) || (only_dirs && !S_ISDIR(i->kind->mode)))
            continue;
        while ((resource || base) && above && !shows(resource, above, base))
            above = above->parent;
        if (above && !known_add(known, i))
            break;
    }
    pthread_mutex_unlock(&fs->inodes.lock);
    if (known->n > 0)
        qsort(known->at, known->n, sizeof(*known->at), deeper_first);
}

static void find_known(struct fs *fs, struct consul_resource *resource, bool only_dirs, struct known *known)
{
    bool is_prefix = resource && consul_resource_kv_scope(resource) == CONSUL_KV_PREFIX;
    struct inode *base = is_prefix ? kv_directory_of(fs, resource) : NULL;

    *known = (struct known){0};
    if (base && !S_ISDIR(base->kind->mode)) { /* what begins with a file's name */
        inode_unref(&fs->inodes, base);
        base = NULL;
    }
    if (!resource || base || lists_any(fs, resource)) /* else there is no need to look at all there is */
        find_known_in(fs, resource, base, only_dirs, known);
    inode_unref(&fs->inodes, base);
}

static void drop(struct fs *fs, const struct known *known)
{
    for (size_t i = 0; i < known->n; i++)
        if (known->at[i].inode != fs->root)
            notify_drop(fs, known->at[i].inode);
    notify_drop(fs, NULL);
}

void interest_drop_all(struct fs *fs)
{
    struct known known;

    find_known(fs, NULL, false, &known);
    drop(fs, &known);
    known_clear(fs, &known);
}

/* What it shows is. */
static bool is_watched(struct consul_resource *resource)
{
    return consul_resource_is_watched(resource) || consul_resource_kv_cover(resource) == CONSUL_KV_COVERED_WATCHED;
}

bool interest_sound(struct fs *fs, struct consul_resource *resource)
{
    struct known known;
    bool any;

    /* One that is only broken is being connected again. */
    if (!announcer_raises(fs) || is_watched(resource))
        return false;
    find_known(fs, resource, false, &known);
    any = known.n > 0;
    drop(fs, &known);
    known_clear(fs, &known);
    return any;
}

/* Between two times that a demoted one is asked. */
static unsigned pause_of(struct consul_resource *resource)
{
    size_t ms = consul_resource_weight(resource) / INTEREST_DEMOTED_BYTES_PER_MS;

    return ms < INTEREST_DEMOTED_FIRST_MS ? INTEREST_DEMOTED_FIRST_MS
           : ms < INTEREST_LAST_MS        ? (unsigned)ms
                                          : INTEREST_LAST_MS;
}

unsigned interest_revisit(struct fs *fs, struct consul_resource *resource, unsigned attempt)
{
    unsigned pause_ms = INTEREST_MOMENT_MS;
    struct known held;
    bool any, demoted = consul_resource_is_demoted(resource);

    find_known(fs, resource, true, &held);
    any = held.n > 0;
    known_clear(fs, &held);
    if (!any)
        return 0;
    /* Its changes are too much to be told of each: who waits for one hears of it some seconds later. */
    if (demoted && attempt == 1)
        return pause_of(resource);
    if (is_watched(resource) || consul_resource_keep(resource))
        return 0;
    if (demoted)
        return pause_of(resource);
    /* No watch may be free: then it is asked from time to time. */
    for (; attempt > 0 && pause_ms < INTEREST_LAST_MS; attempt--)
        pause_ms *= 2;
    return pause_ms < INTEREST_LAST_MS ? pause_ms : INTEREST_LAST_MS;
}

/* ---- directories that were never listed ----------------------------------------------------------------------------
 */

static int ignore(struct lister *lister, const char *name, const struct found *found)
{
    (void)lister, (void)name;
    content_unref(found->content);
    return 0;
}

/* Asks Consul, though nobody waits for the answer. */
static int run_list(struct op *op)
{
    struct lister lister = {.emit = ignore};
    int r = tree_list(op, op->inode, &lister);

    if (r < 0)
        return r;
    for (size_t i = 0; i < op->read_n; i++)
        inode_list_by(&op->fs->inodes, op->inode, op->read[i].resource);
    return 0;
}

/* Somebody is about to list a directory in or below this one: what he is told of it is not to be dropped meanwhile. */
static bool is_being_listed(struct fs *fs, const struct known *known)
{
    bool is = false;

    pthread_mutex_lock(&fs->inodes.lock);
    for (size_t i = 0; i < known->n; i++)
        is |= known->at[i].inode->listing && !known->at[i].inode->listed_by;
    pthread_mutex_unlock(&fs->inodes.lock);
    return is;
}

unsigned interest_visit(struct fs *fs, struct inode *dir, unsigned *attempt)
{
    struct known known = {0};
    struct op *op;
    bool held;

    pthread_mutex_lock(&fs->inodes.lock);
    /* One that was forgotten, and is known again, is busy, not held. */
    held = dir->nlookup > 0 && !dir->listed_by && !dir->listing && (*attempt == 1 || dir->to_forget);
    dir->to_forget = held;
    pthread_mutex_unlock(&fs->inodes.lock);
    if (!held)
        return 0;
    if (*attempt == 1) {
        find_known_in(fs, NULL, dir, false, &known); /* what is in it would keep it, too */
        held = known.n > INTEREST_DROP_MAX;
        if (!held && !is_being_listed(fs, &known)) {
            drop(fs, &known);
            *attempt = 2;
        }
        known_clear(fs, &known);
        if (!held)
            return INTEREST_MOMENT_MS;
    }
    op = op_new(fs, NULL, dir, NULL, run_list);
    if (op) {
        op->quiet = false;
        op_start(op);
    }
    return 0;
}
