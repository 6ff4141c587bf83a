#include "ahead.h"

#include "content.h"
#include "fs.h"
#include "name.h"
#include "notify.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 4096

void ahead_init(struct ahead *ahead) { pthread_mutex_init(&ahead->lock, NULL); }

void ahead_destroy(struct ahead *ahead) { pthread_mutex_destroy(&ahead->lock); }

/* ahead.lock is held. */
static struct ahead_scan *find_scan(struct ahead *ahead, uint64_t dir)
{
    for (size_t i = 0; i < AHEAD_SCANS; i++)
        if (ahead->scans[i].dir == dir)
            return &ahead->scans[i];
    return NULL;
}

/* True when the notify thread has something to do there now. */
static bool read_in(struct ahead *ahead, uint64_t dir)
{
    struct ahead_scan *scan;
    bool known, fills;

    pthread_mutex_lock(&ahead->lock);
    scan = find_scan(ahead, dir);
    known = scan != NULL;
    if (!known) {
        scan = &ahead->scans[++ahead->last % AHEAD_SCANS];
        *scan = (struct ahead_scan){.dir = dir};
    }
    fills = !scan->filling && (known || ahead->scanning);
    if (fills) {
        scan->bytes = scan->bytes == 0 ? AHEAD_FIRST : scan->bytes < AHEAD_MOST ? scan->bytes * 4 : AHEAD_MOST;
        scan->filling = true;
    }
    ahead->scanning = scan->bytes > 0;
    pthread_mutex_unlock(&ahead->lock);
    return fills;
}

void ahead_is_read(struct fs *fs, struct inode *inode, struct content *content)
{
    uint64_t dir;

    if (!content->entry)
        return;
    pthread_mutex_lock(&fs->inodes.lock);
    inode->touched = true;
    dir = inode->parent ? inode->parent->number : 0;
    pthread_mutex_unlock(&fs->inodes.lock);
    if (dir != 0 && read_in(&fs->ahead, dir))
        notify_ahead(fs, inode);
}

/* ---- on the notify thread ---------------------------------------------------------------------------------------- */

/* The kernel gets the entry's bytes, if it is the file of that name and the kernel knows that; how much it keeps. */
static size_t fill(struct fs *fs, struct inode *dir, const char *component, const struct consul_kv_entry *entry)
{
    struct inode *inode = NULL;
    char name[NAME_SIZE];
    bool fills = false;

    if (name_kv_encode(component, strlen(component), name) == 0)
        inode = inode_peek(&fs->inodes, dir, name);
    if (!inode)
        return 0;
    pthread_mutex_lock(&fs->inodes.lock);
    fills = inode->nlookup > 0 && inode->content && inode->content->entry == entry;
    pthread_mutex_unlock(&fs->inodes.lock);
    if (fills)
        pages_read(fs, inode);
    inode_unref(&fs->inodes, inode);
    return fills ? (entry->value_len + PAGE - 1) / PAGE * PAGE : 0;
}

/* What the list has in the directory behind the entry, at most so much. */
static void fill_behind(struct fs *fs, struct inode *dir, const struct consul_kv_list *list,
                        const struct consul_kv_entry *entry, size_t bytes)
{
    const char *slash = strrchr(consul_kv_key(entry), '/');
    size_t prefix_len = slash ? (size_t)(slash + 1 - consul_kv_key(entry)) : 0, filled = 0;

    for (size_t i = consul_kv_lower_bound(list, consul_kv_key(entry), entry->key_len); i < list->n; i++) {
        const char *key = consul_kv_key(list->entries[i]);

        if (strncmp(key, consul_kv_key(entry), prefix_len) != 0 || filled >= bytes)
            break;
        if (!strchr(key + prefix_len, '/'))
            filled += fill(fs, dir, key + prefix_len, list->entries[i]);
    }
}

static struct inode *parent_of(struct inode_table *table, struct inode *inode)
{
    struct inode *dir;

    pthread_mutex_lock(&table->lock);
    dir = inode->parent;
    if (dir)
        dir->refs++;
    pthread_mutex_unlock(&table->lock);
    return dir;
}

/* How much is to be read ahead in the directory. */
static size_t bytes_in(struct ahead *ahead, const struct inode *dir)
{
    struct ahead_scan *scan;
    size_t bytes;

    pthread_mutex_lock(&ahead->lock);
    scan = find_scan(ahead, dir->number);
    bytes = scan ? scan->bytes : 0;
    pthread_mutex_unlock(&ahead->lock);
    return bytes;
}

static void end_filling(struct ahead *ahead, const struct inode *dir)
{
    struct ahead_scan *scan;

    pthread_mutex_lock(&ahead->lock);
    scan = find_scan(ahead, dir->number);
    if (scan)
        scan->filling = false;
    pthread_mutex_unlock(&ahead->lock);
}

void ahead_fill(struct fs *fs, struct inode *inode)
{
    struct inode *dir = parent_of(&fs->inodes, inode);
    struct consul_resource *resource = inode_rests_on(&fs->inodes, inode);
    struct content *content = inode_content(&fs->inodes, inode);
    struct consul_snapshot *snapshot;
    bool watched;

    if (dir && resource && content) {
        snapshot = consul_resource_peek(resource, &watched);
        if (snapshot && watched)
            fill_behind(fs, dir, &snapshot->kv, content->entry, bytes_in(&fs->ahead, dir));
        consul_snapshot_unref(snapshot);
    }
    if (dir)
        end_filling(&fs->ahead, dir);
    content_unref(content);
    consul_resource_unref(resource);
    inode_unref(&fs->inodes, dir);
}
