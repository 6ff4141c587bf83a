#include "pages.h"

#include "content.h"
#include "fs.h"
#include "notify.h"

#define LEN_MAX ((size_t)128 * 1024) /* one READ brings as much */

void pages_init(struct pages *pages)
{
    for (size_t i = 0; i < PAGES_LOCKS; i++)
        pthread_mutex_init(&pages->locks[i], NULL);
}

void pages_destroy(struct pages *pages)
{
    for (size_t i = 0; i < PAGES_LOCKS; i++)
        pthread_mutex_destroy(&pages->locks[i]);
}

/* True the first time. */
static bool touch(struct inode_table *table, struct inode *inode)
{
    bool first;

    pthread_mutex_lock(&table->lock);
    first = !inode->touched;
    inode->touched = true;
    pthread_mutex_unlock(&table->lock);
    return first;
}

static void fill(struct fs *fs, struct inode *inode)
{
    struct content *content = inode_content(&fs->inodes, inode);

    if (content && content->len > 0 && content->len <= LEN_MAX && notify_fill(fs, inode, content) == 0)
        fs_count(fs, COUNT_FILLED);
    content_unref(content);
}

static void pass(struct fs *fs, struct inode *inode, bool reads)
{
    pthread_mutex_t *lock = &fs->pages.locks[inode->number % PAGES_LOCKS];

    pthread_mutex_lock(lock);
    if (touch(&fs->inodes, inode) && reads)
        fill(fs, inode);
    pthread_mutex_unlock(lock);
}

void pages_read(struct fs *fs, struct inode *inode) { pass(fs, inode, true); }

void pages_touch(struct fs *fs, struct inode *inode) { pass(fs, inode, false); }
