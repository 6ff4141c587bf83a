#include "interest.h"

#include "content.h"
#include "kv.h"
#include "tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Does the resource show what is in the directory? Of a prefix's keys: in its directory and all below. */
static bool shows(struct consul_resource *resource, const struct inode *dir, const struct inode *base)
{
    if (!S_ISDIR(dir->kind->mode))
        return false;
    if (base) {
        while (dir && dir != base)
            dir = dir->parent;
        return dir != NULL;
    }
    for (size_t i = 0; i < dir->listed_by_n; i++)
        if (dir->listed_by[i] == resource)
            return true;
    return false;
}

/* The directories that the resource shows and the kernel knows, counted; the caller frees the array. */
static struct inode **known_dirs(struct fs *fs, struct consul_resource *resource, size_t *ret_n)
{
    struct inode *base = NULL, **dirs = NULL;
    size_t n = 0, cap = 0;

    *ret_n = 0;
    if (consul_resource_kv_scope(resource) == CONSUL_KV_PREFIX) {
        base = kv_directory_of(fs, resource);
        if (!base)
            return NULL;
    }
    pthread_mutex_lock(&fs->inodes.lock);
    for (struct inode *i = fs->inodes.all; i; i = i->next) {
        if ((i->nlookup == 0 && i != fs->root) || !shows(resource, i, base))
            continue;
        if (n == cap) {
            size_t more = cap ? cap * 2 : 32;
            struct inode **grown = realloc(dirs, more * sizeof(*grown));

            if (!grown)
                break;
            dirs = grown;
            cap = more;
        }
        i->refs++;
        dirs[n++] = i;
    }
    pthread_mutex_unlock(&fs->inodes.lock);
    inode_unref(&fs->inodes, base);
    *ret_n = n;
    return dirs;
}

bool interest_sound(struct fs *fs, struct consul_resource *resource)
{
    size_t n;
    struct inode **dirs;

    if (!fs->announcer)
        return false;
    dirs = known_dirs(fs, resource, &n);
    for (size_t i = 0; i < n; i++) {
        notify_inode(fs, dirs[i], false);
        inode_unref(&fs->inodes, dirs[i]);
    }
    free(dirs);
    return n > 0;
}

unsigned interest_revisit(struct fs *fs, struct consul_resource *resource, unsigned attempt)
{
    unsigned pause_ms = INTEREST_MOMENT_MS;
    struct inode **dirs;
    size_t n;

    dirs = known_dirs(fs, resource, &n);
    for (size_t i = 0; i < n; i++)
        inode_unref(&fs->inodes, dirs[i]);
    free(dirs);
    if (n == 0 || consul_resource_keep(resource))
        return 0;
    /* No watch may be free: then it is asked from time to time. */
    for (; attempt > 0 && pause_ms < INTEREST_LAST_MS; attempt--)
        pause_ms *= 2;
    return pause_ms < INTEREST_LAST_MS ? pause_ms : INTEREST_LAST_MS;
}

/* ---- directories that were never listed ----------------------------------------------------------------------------
 */

static int drop(struct lister *lister, const char *name, const struct found *found)
{
    (void)lister, (void)name;
    content_unref(found->content);
    return 0;
}

/* Asks Consul, though nobody waits for the answer. */
static int run_list(struct op *op)
{
    struct lister lister = {.emit = drop};
    int r = tree_list(op, op->inode, &lister);

    if (r < 0)
        return r;
    for (size_t i = 0; i < op->read_n; i++)
        inode_list_by(&op->fs->inodes, op->inode, op->read[i].resource);
    return 0;
}

unsigned interest_visit(struct fs *fs, struct inode *dir, unsigned attempt)
{
    struct op *op;
    bool held;

    pthread_mutex_lock(&fs->inodes.lock);
    held = dir->nlookup > 0 && dir->listed_by_n == 0;
    pthread_mutex_unlock(&fs->inodes.lock);
    if (!held)
        return 0;
    if (attempt == 1) {
        notify_inode(fs, dir, false);
        return INTEREST_MOMENT_MS;
    }
    op = op_new(fs, NULL, dir, NULL, run_list);
    if (op) {
        op->quiet = false;
        op_start(op);
    }
    return 0;
}
