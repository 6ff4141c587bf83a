#define FUSE_USE_VERSION 314
#include "notify.h"

#include "content.h"
#include "log.h"
#include "tree.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TELLERS 8
#define TELL_SECONDS 1
#define STOP_SECONDS 2

/* A resource that changed or lost its watch, or a directory to look at, with those above it; or who waits for these. */
struct job {
    struct consul_resource *resource; /* counted */
    enum consul_change change;
    struct inode *dir; /* counted */
    struct op *op;     /* to be run again once all before it has been told */
    struct job *next;
};

/* Something to tell the kernel: `name` in `dir` no longer stands for `inode`. */
struct telling {
    struct inode *dir, *inode; /* counted; inode may be NULL */
    char *name;
    bool gone;  /* false: it may still be true, but ask again */
    bool pages; /* the inode's pages, and no name; dir is the inode then */
    struct telling *next;
};

struct notify {
    struct fs *fs;                /* constant */
    struct fuse_session *session; /* constant */
    pthread_t scanner, tellers[TELLERS];
    size_t started;
    bool stopped; /* of main's thread */

    pthread_mutex_t lock;
    pthread_cond_t work;
    /* guarded by lock */
    struct job *jobs, **jobs_end;
    struct telling *tellings, **tellings_end;
    struct inode *busy[TELLERS]; /* the directories that a teller waits for; borrowed from its telling */
    size_t teller_n;             /* who has taken a slot */
    bool stopping;
};

/* ---- the scanner ------------------------------------------------------------------------------------------------- */

static void add_job(struct notify *notify, struct job job)
{
    struct job *copy = malloc(sizeof(*copy));

    if (!copy) { /* the entry stays until the kernel drops it by itself: say so */
        log_line(LOG_ERR, "out of memory: a change could not be told to the kernel");
        consul_resource_unref(job.resource);
        inode_unref(&notify->fs->inodes, job.dir);
        if (job.op)
            op_wake(job.op);
        return;
    }
    *copy = job;
    copy->next = NULL;
    pthread_mutex_lock(&notify->lock);
    if (notify->stopping) { /* nobody would look at it */
        pthread_mutex_unlock(&notify->lock);
        if (job.op)
            op_wake(job.op);
        consul_resource_unref(job.resource);
        inode_unref(&notify->fs->inodes, job.dir);
        free(copy);
        return;
    }
    *notify->jobs_end = copy;
    notify->jobs_end = &copy->next;
    pthread_cond_broadcast(&notify->work);
    pthread_mutex_unlock(&notify->lock);
}

void notify_changed(void *arg, struct consul_resource *resource, enum consul_change change)
{
    struct fs *fs = arg;

    if (fs->notify)
        add_job(fs->notify, (struct job){.resource = consul_resource_ref(resource), .change = change});
}

void notify_look(struct fs *fs, struct inode *dir)
{
    if (fs->notify)
        add_job(fs->notify, (struct job){.dir = inode_ref(&fs->inodes, dir)});
}

int notify_wait(struct fs *fs, struct op *op)
{
    if (!fs->notify)
        return 0;
    add_job(fs->notify, (struct job){.op = op});
    return -EINPROGRESS;
}

static void queue_telling(struct notify *notify, struct telling *telling)
{
    pthread_mutex_lock(&notify->lock);
    *notify->tellings_end = telling;
    notify->tellings_end = &telling->next;
    pthread_cond_broadcast(&notify->work);
    pthread_mutex_unlock(&notify->lock);
}

void notify_name(struct fs *fs, struct inode *dir, const char *name)
{
    struct telling *telling = fs->notify ? calloc(1, sizeof(*telling)) : NULL;

    if (!telling)
        return;
    telling->name = strdup(name);
    if (!telling->name) {
        free(telling);
        return;
    }
    telling->dir = inode_ref(&fs->inodes, dir);
    queue_telling(fs->notify, telling);
}

static void add_telling(struct notify *notify, struct inode *inode, bool gone)
{
    struct inode_table *table = &notify->fs->inodes;
    struct telling *telling = calloc(1, sizeof(*telling));

    if (telling) {
        pthread_mutex_lock(&table->lock);
        if (inode->nlookup > 0 && inode->parent) {
            telling->name = strdup(inode->name);
            telling->dir = inode->parent;
            telling->inode = inode;
            inode->refs++;
            inode->parent->refs++;
        }
        pthread_mutex_unlock(&table->lock);
    }
    if (!telling || !telling->name) { /* the kernel does not know it (any more) */
        if (telling && telling->inode) {
            inode_unref(table, telling->dir);
            inode_unref(table, telling->inode);
        }
        free(telling);
        return;
    }
    telling->gone = gone;
    queue_telling(notify, telling);
}

void notify_pages(struct fs *fs, struct inode *inode)
{
    struct telling *telling = fs->notify ? calloc(1, sizeof(*telling)) : NULL;

    if (!telling)
        return;
    telling->pages = true;
    telling->dir = inode_ref(&fs->inodes, inode);
    telling->inode = inode_ref(&fs->inodes, inode);
    queue_telling(fs->notify, telling);
}

void notify_lost(struct fs *fs, struct inode *inode)
{
    notify_pages(fs, inode);
    if (fs->notify)
        add_telling(fs->notify, inode, false);
}

enum verdict { STANDS, CHANGED, UNKNOWN };

static bool same_version(struct fs *fs, struct inode *inode, const struct found *found)
{
    bool same;

    if (inode->kind != found->kind)
        return false;
    pthread_mutex_lock(&fs->inodes.lock);
    same = !inode->current || inode->storing > 0 || !found->content ||
           (inode->content && inode->content->version == found->content->version &&
            inode->content->len == found->content->len);
    pthread_mutex_unlock(&fs->inodes.lock);
    return same;
}

static int look(struct op *op)
{
    struct found found = {0};
    enum verdict *verdict = op->state;
    int r = tree_find(op, op->inode, op->name, &found);

    if (r == 0)
        r = tree_content(op, op->inode, op->name, &found, false);
    if (r == 0)
        *verdict = same_version(op->fs, op->new_parent, &found) ? STANDS : CHANGED;
    else
        *verdict = r == -ENOENT ? CHANGED : UNKNOWN;
    content_unref(found.content);
    return 0;
}

/* What the name of the inode stands for, from what is known now. */
static enum verdict judge(struct fs *fs, struct inode *inode)
{
    enum verdict verdict = UNKNOWN;
    struct inode *parent = NULL;
    char *name = NULL;
    struct op *op;

    pthread_mutex_lock(&fs->inodes.lock);
    if (inode->parent && inode->storing == 0) {
        parent = inode->parent;
        parent->refs++;
        name = strdup(inode->name);
    }
    pthread_mutex_unlock(&fs->inodes.lock);
    if (!parent || !name) {
        inode_unref(&fs->inodes, parent);
        free(name);
        return STANDS;
    }
    op = op_new(fs, NULL, parent, name, look);
    if (op) {
        op->state = &verdict;
        op->new_parent = inode_ref(&fs->inodes, inode);
        op_start(op);
    }
    inode_unref(&fs->inodes, parent);
    free(name);
    return verdict;
}

static void check_inode(struct notify *notify, struct inode *inode)
{
    struct fs *fs = notify->fs;
    enum verdict verdict = judge(fs, inode);

    if (verdict == STANDS)
        return;
    inode_rest_on(&fs->inodes, inode, NULL);
    if (verdict == CHANGED)
        inode_detach(&fs->inodes, inode);
    add_telling(notify, inode, verdict == CHANGED);
}

static void scan_resource(struct notify *notify, struct consul_resource *resource, enum consul_change change)
{
    struct fs *fs = notify->fs;
    struct inode **inodes = NULL;
    size_t n = 0;

    if (inode_resting_on(&fs->inodes, resource, &inodes, &n) < 0)
        log_line(LOG_ERR, "out of memory: changes could not be told to the kernel");
    for (size_t i = 0; i < n; i++) {
        if (change == CONSUL_CHANGED) {
            check_inode(notify, inodes[i]);
        } else {
            inode_rest_on(&fs->inodes, inodes[i], NULL);
            add_telling(notify, inodes[i], false);
        }
        inode_unref(&fs->inodes, inodes[i]);
    }
    free(inodes);
}

/* The directory, and those above it that it may have taken along. */
static void scan_upwards(struct notify *notify, struct inode *dir)
{
    struct inode_table *table = &notify->fs->inodes;
    struct inode *at = inode_ref(table, dir);

    while (at && at != notify->fs->root) {
        struct inode *parent;

        check_inode(notify, at);
        pthread_mutex_lock(&table->lock);
        parent = at->parent;
        if (parent)
            parent->refs++;
        pthread_mutex_unlock(&table->lock);
        inode_unref(table, at);
        at = parent;
    }
    inode_unref(table, at);
}

/* Until every telling has been handed to the kernel; not for ever, since a parked lookup can hold one up. */
static void wait_until_told(struct notify *notify)
{
    struct timespec until;
    bool busy;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += TELL_SECONDS;
    pthread_mutex_lock(&notify->lock);
    do {
        busy = notify->tellings != NULL;
        for (size_t i = 0; i < TELLERS; i++)
            busy |= notify->busy[i] != NULL;
    } while (busy && !notify->stopping && pthread_cond_timedwait(&notify->work, &notify->lock, &until) == 0);
    pthread_mutex_unlock(&notify->lock);
}

static void *scanner_thread(void *arg)
{
    struct notify *notify = arg;

    for (;;) {
        struct job *job;

        pthread_mutex_lock(&notify->lock);
        while (!notify->jobs && !notify->stopping)
            pthread_cond_wait(&notify->work, &notify->lock);
        job = notify->jobs;
        if (job) {
            notify->jobs = job->next;
            if (!notify->jobs)
                notify->jobs_end = &notify->jobs;
        }
        pthread_mutex_unlock(&notify->lock);
        if (!job)
            return NULL;
        /* Whoever replies from the older snapshot replies before we invalidate. */
        gate_synchronize(&notify->fs->gate);
        if (job->resource)
            scan_resource(notify, job->resource, job->change);
        if (job->dir)
            scan_upwards(notify, job->dir);
        if (job->op) {
            wait_until_told(notify);
            op_wake(job->op);
        }
        consul_resource_unref(job->resource);
        inode_unref(&notify->fs->inodes, job->dir);
        free(job);
    }
}

/* ---- the tellers ------------------------------------------------------------------------------------------------- */

static void tell(struct notify *notify, const struct telling *telling)
{
    struct fs *fs = notify->fs;
    fuse_ino_t dir = telling->dir == fs->root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)telling->dir;
    size_t len = telling->name ? strlen(telling->name) : 0;
    int r;

    fs_count(fs, COUNT_NOTIFIED);
    if (telling->pages) {
        (void)fuse_lowlevel_notify_inval_inode(notify->session, (fuse_ino_t)(uintptr_t)telling->inode, 0, 0);
        return;
    }
    /* Deleting a directory would make it dead for who is in it, such as the rm -r that has just emptied it. */
    if (telling->gone && S_ISREG(telling->inode->kind->mode))
        r = fuse_lowlevel_notify_delete(notify->session, dir, (fuse_ino_t)(uintptr_t)telling->inode, telling->name,
                                        len);
    else
        r = fuse_lowlevel_notify_inval_entry(notify->session, dir, telling->name, len);
    if (r < 0 && r != -ENOENT && r != -ENOTDIR && r != -EBADF && r != -ENODEV && r != -ENOTCONN)
        log_line(LOG_DEBUG, "notify: %s: %s", telling->name, strerror(-r));
}

/* notify.lock is held. The first telling whose directory no other teller waits for, in order. */
static struct telling *take_telling(struct notify *notify)
{
    for (struct telling **at = &notify->tellings; *at; at = &(*at)->next) {
        struct telling *telling = *at;
        bool busy = false;

        for (size_t i = 0; i < TELLERS; i++)
            busy |= notify->busy[i] == telling->dir;
        if (busy)
            continue;
        *at = telling->next;
        if (notify->tellings_end == &telling->next)
            notify->tellings_end = at;
        return telling;
    }
    return NULL;
}

static void *teller_thread(void *arg)
{
    struct notify *notify = arg;
    size_t slot;

    pthread_mutex_lock(&notify->lock);
    slot = notify->teller_n++;
    for (;;) {
        struct telling *telling = NULL;

        while (!notify->stopping && !(telling = take_telling(notify)))
            pthread_cond_wait(&notify->work, &notify->lock);
        if (!telling)
            break;
        notify->busy[slot] = telling->dir;
        pthread_mutex_unlock(&notify->lock);
        tell(notify, telling);
        pthread_mutex_lock(&notify->lock);
        notify->busy[slot] = NULL;
        pthread_cond_broadcast(&notify->work);
        pthread_mutex_unlock(&notify->lock);
        inode_unref(&notify->fs->inodes, telling->dir);
        inode_unref(&notify->fs->inodes, telling->inode);
        free(telling->name);
        free(telling);
        pthread_mutex_lock(&notify->lock);
    }
    pthread_mutex_unlock(&notify->lock);
    return NULL;
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

int notify_new(struct fs *fs, struct fuse_session *session, struct notify **ret_notify)
{
    struct notify *notify = calloc(1, sizeof(*notify));

    if (!notify)
        return -ENOMEM;
    notify->fs = fs;
    notify->session = session;
    notify->jobs_end = &notify->jobs;
    notify->tellings_end = &notify->tellings;
    pthread_mutex_init(&notify->lock, NULL);
    pthread_cond_init(&notify->work, NULL);
    if (pthread_create(&notify->scanner, NULL, scanner_thread, notify) != 0) {
        free(notify);
        return -EAGAIN;
    }
    for (size_t i = 0; i < TELLERS; i++) {
        if (pthread_create(&notify->tellers[i], NULL, teller_thread, notify) != 0) {
            notify_free(notify);
            return -EAGAIN;
        }
        notify->started++;
    }
    *ret_notify = notify;
    return 0;
}

bool notify_stop(struct notify *notify)
{
    struct timespec until;

    if (!notify || notify->stopped)
        return true;
    pthread_mutex_lock(&notify->lock);
    notify->stopping = true;
    pthread_cond_broadcast(&notify->work);
    pthread_mutex_unlock(&notify->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_SECONDS;
    if (pthread_timedjoin_np(notify->scanner, NULL, &until) != 0)
        return false;
    for (size_t i = 0; i < notify->started; i++)
        if (pthread_timedjoin_np(notify->tellers[i], NULL, &until) != 0)
            return false;
    notify->stopped = true;
    while (notify->tellings) {
        struct telling *next = notify->tellings->next;

        inode_unref(&notify->fs->inodes, notify->tellings->dir);
        inode_unref(&notify->fs->inodes, notify->tellings->inode);
        free(notify->tellings->name);
        free(notify->tellings);
        notify->tellings = next;
    }
    return true;
}

void notify_free(struct notify *notify)
{
    if (!notify)
        return;
    (void)notify_stop(notify);
    pthread_cond_destroy(&notify->work);
    pthread_mutex_destroy(&notify->lock);
    free(notify);
}
