#define FUSE_USE_VERSION 314
#include "notify.h"

#include "announce.h"
#include "changes.h"
#include "content.h"
#include "device.h"
#include "interest.h"
#include "log.h"
#include "pollers.h"
#include "tree.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TELLERS 8
#define TELL_SECONDS 1
#define DROP_MAX 256
#define STOP_SECONDS 2

/* A resource that changed or lost its watch, or a directory to look at, with those above it; or who waits for these. */
struct job {
    struct consul_resource *resource; /* counted */
    enum consul_change change;
    struct consul_snapshot *before, *after; /* counted; before may be NULL */
    bool announced;                         /* of what changed */
    struct inode *dir;                      /* counted */
    struct op *op; /* to be run again once all before it has been told; with `dir`: what is about names in that */
    bool drops;    /* before that the kernel is to drop all that nobody uses */
    /* Not 0: to look whether somebody holds the directory, or one that the resource shows; how often that was done. */
    unsigned attempt;
    uint64_t due_ns;     /* of such a one */
    struct inode *ahead; /* counted: behind that in its directory files are read ahead */
    struct job *next;
};

/* Something to tell, of `name` in `dir`. */
struct telling {
    enum {
        TELL_GONE,       /* it no longer stands for `inode` */
        TELL_UNKNOWN,    /* what it stands for has to be asked again */
        TELL_ATTRIBUTES, /* those of `inode` have to be asked again */
        TELL_PAGES,      /* those of `inode` are stale (and `dir` is that, too) */
        TELL_POLLERS,    /* who polls `inode` (and `dir` is that, too) */
        TELL_WATCHERS,   /* to be announced: it was of kind `was`, with `content` */
        TELL_OP,         /* `op`, that all of `dir` before it was told */
    } what;
    struct inode *dir, *inode; /* counted; inode may be NULL */
    char *name;
    const struct kind *was;  /* NULL: nothing */
    struct content *content; /* counted, or NULL */
    struct op *op;           /* TELL_OP's */
    struct telling *next;
};

struct notify {
    struct fs *fs;                /* constant */
    struct fuse_session *session; /* constant */
    pthread_t scanner, tellers[TELLERS];
    size_t started;
    bool stopped;                 /* of main's thread */
    struct inode *drop[DROP_MAX]; /* the scanner's: to be dropped by the kernel; counted */
    size_t drop_n;

    pthread_mutex_t lock;
    pthread_cond_t to_scan; /* the scanner waits */
    pthread_cond_t to_tell; /* tellers wait; who is woken wakes the next if there may be more (wake_teller()) */
    pthread_cond_t told;    /* the scanner waits for tellers */
    /* guarded by lock */
    struct job *jobs, **jobs_end;
    struct job *later; /* by due_ns */
    struct telling *tellings, **tellings_end;
    uint32_t searches;
    unsigned telling; /* how many tellers are at work */
    bool scanning;
    bool stopping;
};

/* ---- dropping, on the scanner's thread ------------------------------------------------------------------------------
 */

static void drop_entries(struct notify *notify)
{
    struct inode_table *table = &notify->fs->inodes;

    for (size_t i = 0; i < notify->drop_n; i++) {
        struct inode *inode = notify->drop[i];
        struct inode *dir = NULL;
        char *name = NULL;

        pthread_mutex_lock(&table->lock);
        if (inode->parent && (name = strdup(inode->name))) {
            dir = inode->parent;
            dir->refs++;
        }
        pthread_mutex_unlock(&table->lock);
        if (dir)
            fuse_lowlevel_notify_inval_entry(notify->session, node_id(notify->fs, dir), name, strlen(name));
        inode_unref(table, dir);
        free(name);
    }
}

/* Linux before 6.18 can only drop names, also of what is used: who is in such a directory finds no way up for a moment.
 */
static void drop_all(struct notify *notify)
{
    uint64_t nodes[DROP_MAX];

    for (size_t i = 0; i < notify->drop_n; i++)
        nodes[i] = node_id(notify->fs, notify->drop[i]);
    if (notify->drop_n > 0 && device_prune(notify->session, nodes, notify->drop_n) == -EINVAL)
        drop_entries(notify);
    for (size_t i = 0; i < notify->drop_n; i++)
        inode_unref(&notify->fs->inodes, notify->drop[i]);
    notify->drop_n = 0;
}

void notify_drop(struct fs *fs, struct inode *inode)
{
    struct notify *notify = fs->notify;

    if (inode)
        notify->drop[notify->drop_n++] = inode_ref(&fs->inodes, inode);
    if (!inode || notify->drop_n == DROP_MAX)
        drop_all(notify);
}

/* ---- the scanner ------------------------------------------------------------------------------------------------- */

static void job_clear(struct notify *notify, const struct job *job)
{
    consul_resource_unref(job->resource);
    consul_snapshot_unref(job->before);
    consul_snapshot_unref(job->after);
    inode_unref(&notify->fs->inodes, job->dir);
    inode_unref(&notify->fs->inodes, job->ahead);
}

static void add_job(struct notify *notify, struct job job)
{
    struct job *copy = malloc(sizeof(*copy));

    if (!copy) { /* the entry stays until the kernel drops it by itself: say so */
        log_line(LOG_ERR, "out of memory: a change could not be told to the kernel");
        job_clear(notify, &job);
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
        job_clear(notify, &job);
        free(copy);
        return;
    }
    *notify->jobs_end = copy;
    notify->jobs_end = &copy->next;
    pthread_cond_signal(&notify->to_scan);
    pthread_mutex_unlock(&notify->lock);
}

void notify_changed(void *arg, struct consul_resource *resource, enum consul_change change,
                    struct consul_snapshot *before, struct consul_snapshot *after)
{
    struct fs *fs = arg;

    if (fs->notify)
        add_job(fs->notify, (struct job){.resource = consul_resource_ref(resource),
                                         .change = change,
                                         .announced = before && changes_are_announced(fs, resource),
                                         .before = before ? consul_snapshot_ref(before) : NULL,
                                         .after = after ? consul_snapshot_ref(after) : NULL});
}

/* Takes the references. */
static void add_later(struct notify *notify, struct job job, unsigned after_ms)
{
    struct job *copy = malloc(sizeof(*copy)), **at = &notify->later;

    if (!copy) {
        job_clear(notify, &job);
        return;
    }
    *copy = job;
    copy->due_ns = consul_now_ns() + after_ms * 1000000ull;
    pthread_mutex_lock(&notify->lock);
    while (*at && (*at)->due_ns <= copy->due_ns)
        at = &(*at)->next;
    copy->next = *at;
    *at = copy;
    if (at == &notify->later) /* else it comes back for what is due before */
        pthread_cond_signal(&notify->to_scan);
    pthread_mutex_unlock(&notify->lock);
}

void notify_looked_up(struct fs *fs, struct inode *dir)
{
    bool first;

    if (!fs->notify || !announcer_raises(fs))
        return;
    pthread_mutex_lock(&fs->inodes.lock);
    first = !dir->sounded && !dir->listed_by;
    dir->sounded = true;
    pthread_mutex_unlock(&fs->inodes.lock);
    if (first)
        add_later(fs->notify, (struct job){.dir = inode_ref(&fs->inodes, dir), .attempt = 1}, INTEREST_MOMENT_MS);
}

void notify_look(struct fs *fs, struct inode *dir)
{
    if (fs->notify)
        add_job(fs->notify, (struct job){.dir = inode_ref(&fs->inodes, dir)});
}

void notify_ahead(struct fs *fs, struct inode *inode)
{
    if (fs->notify)
        add_job(fs->notify, (struct job){.ahead = inode_ref(&fs->inodes, inode)});
}

/* notify.lock is held. Something is there to be told, or may be told now: one is enough for the first of it. */
static void wake_teller(struct notify *notify)
{
    if (notify->tellings)
        pthread_cond_signal(&notify->to_tell);
}

void notify_wake(struct fs *fs)
{
    pthread_mutex_lock(&fs->notify->lock);
    wake_teller(fs->notify);
    pthread_mutex_unlock(&fs->notify->lock);
}

int notify_wait(struct fs *fs, struct op *op)
{
    if (!fs->notify)
        return 0;
    add_job(fs->notify, (struct job){.op = op});
    return -EINPROGRESS;
}

int notify_drop_all(struct fs *fs, struct op *op)
{
    if (!fs->notify)
        return 0;
    add_job(fs->notify, (struct job){.op = op, .drops = true});
    return -EINPROGRESS;
}

int notify_wait_in(struct fs *fs, struct inode *dir, struct op *op)
{
    struct notify *notify = fs->notify;
    bool busy;

    if (!notify)
        return 0;
    pthread_mutex_lock(&notify->lock);
    busy = notify->jobs || notify->scanning || dir->tellings > 0;
    pthread_mutex_unlock(&notify->lock);
    if (!busy)
        return 0;
    add_job(notify, (struct job){.op = op, .dir = inode_ref(&fs->inodes, dir)});
    return -EINPROGRESS;
}

/* Takes the telling, whose other fields are set. Its name is copied; dir and inode are counted. */
static void queue_telling(struct notify *notify, struct telling telling)
{
    struct telling *copy = malloc(sizeof(*copy));
    char *name = strdup(telling.name);

    if (!copy || !name) {
        log_line(LOG_ERR, "out of memory: a change could not be told to the kernel");
        free(copy);
        free(name);
        inode_unref(&notify->fs->inodes, telling.dir);
        inode_unref(&notify->fs->inodes, telling.inode);
        content_unref(telling.content);
        if (telling.op)
            op_wake(telling.op);
        return;
    }
    *copy = telling;
    copy->name = name;
    copy->next = NULL;
    pthread_mutex_lock(&notify->lock);
    copy->dir->tellings++;
    *notify->tellings_end = copy;
    notify->tellings_end = &copy->next;
    wake_teller(notify);
    pthread_mutex_unlock(&notify->lock);
}

void notify_name(struct fs *fs, struct inode *dir, const char *name)
{
    if (fs->notify)
        queue_telling(fs->notify,
                      (struct telling){.what = TELL_UNKNOWN, .dir = inode_ref(&fs->inodes, dir), .name = (char *)name});
}

/* Of an inode that the kernel knows, by its place. */
static void tell_of(struct fs *fs, struct inode *inode, struct telling telling)
{
    struct inode_table *table = &fs->inodes;
    char *name = NULL;

    pthread_mutex_lock(&table->lock);
    if (inode->nlookup > 0 && inode->parent && (name = strdup(inode->name))) {
        telling.dir = inode->parent;
        telling.inode = inode;
        inode->refs++;
        inode->parent->refs++;
    }
    pthread_mutex_unlock(&table->lock);
    if (name) {
        telling.name = name;
        queue_telling(fs->notify, telling);
    }
    free(name);
}

void notify_inode(struct fs *fs, struct inode *inode, bool gone)
{
    tell_of(fs, inode, (struct telling){.what = gone ? TELL_GONE : TELL_UNKNOWN});
}

/* Of an inode, wherever it is; it may have no name any more. */
static void tell_of_itself(struct fs *fs, struct inode *inode, struct telling telling)
{
    telling.dir = inode_ref(&fs->inodes, inode);
    telling.inode = inode_ref(&fs->inodes, inode);
    telling.name = "";
    queue_telling(fs->notify, telling);
}

void notify_pollers(struct fs *fs, struct inode *inode)
{
    if (fs->notify && poll_has(fs, inode))
        tell_of_itself(fs, inode, (struct telling){.what = TELL_POLLERS});
}

void notify_pages(struct fs *fs, struct inode *inode)
{
    if (fs->notify)
        tell_of_itself(fs, inode, (struct telling){.what = TELL_PAGES});
}

void notify_lost(struct fs *fs, struct inode *inode)
{
    notify_pages(fs, inode);
    notify_inode(fs, inode, false);
}

void notify_attributes(struct fs *fs, struct inode *inode)
{
    tell_of(fs, inode, (struct telling){.what = TELL_ATTRIBUTES});
}

void notify_watchers_of(struct fs *fs, struct inode *dir, const char *name, const struct kind *was,
                        struct content *was_content)
{
    if (announcer_raises(fs))
        queue_telling(fs->notify, (struct telling){.what = TELL_WATCHERS,
                                                   .dir = inode_ref(&fs->inodes, dir),
                                                   .name = (char *)name,
                                                   .was = was,
                                                   .content = was_content ? content_ref(was_content) : NULL});
}

void notify_watchers(struct fs *fs, struct inode *inode, struct content *was_content)
{
    struct inode *dir;
    char *name = NULL;

    pthread_mutex_lock(&fs->inodes.lock);
    dir = inode->parent;
    if (dir && (name = strdup(inode->name)))
        dir->refs++;
    pthread_mutex_unlock(&fs->inodes.lock);
    if (!name)
        return;
    notify_watchers_of(fs, dir, name, inode->kind, was_content);
    inode_unref(&fs->inodes, dir);
    free(name);
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
        busy = notify->tellings || notify->telling > 0;
    } while (busy && !notify->stopping && pthread_cond_timedwait(&notify->told, &notify->lock, &until) == 0);
    pthread_mutex_unlock(&notify->lock);
}

/* A resource, or a directory, to look at again. */
static void look_again(struct notify *notify, struct job *job)
{
    unsigned after_ms = job->resource ? interest_revisit(notify->fs, job->resource, job->attempt++)
                                      : interest_visit(notify->fs, job->dir, &job->attempt);

    if (after_ms == 0) {
        job_clear(notify, job);
        return;
    }
    add_later(notify, *job, after_ms);
}

static void scan(struct notify *notify, struct job *job)
{
    struct fs *fs = notify->fs;

    if (job->attempt > 0) {
        look_again(notify, job);
        return;
    }
    if (job->ahead) {
        ahead_fill(fs, job->ahead);
        job_clear(notify, job);
        return;
    }
    /* Whoever replies from the older snapshot replies before we invalidate. */
    gate_synchronize(&fs->gate);
    if (job->resource && job->change == CONSUL_CHANGED) {
        changes_of(fs, job->resource, job->before, job->after, job->announced);
    } else if (job->resource) {
        changes_unknown(fs, job->resource);
        if (interest_sound(fs, job->resource))
            add_later(notify, (struct job){.resource = consul_resource_ref(job->resource), .attempt = 1},
                      INTEREST_MOMENT_MS);
    }
    if (job->op && job->dir) {
        queue_telling(notify, (struct telling){
                                  .what = TELL_OP, .dir = inode_ref(&fs->inodes, job->dir), .name = "", .op = job->op});
    } else if (job->op) {
        wait_until_told(notify);
        if (job->drops)
            interest_drop_all(fs);
        op_wake(job->op);
    } else if (job->dir) {
        changes_above(fs, job->dir);
    }
    job_clear(notify, job);
}

/* notify.lock is held. What came first, or is due; NULL after a wait, or when it is over. */
static struct job *take_job(struct notify *notify)
{
    uint64_t now = consul_now_ns();
    struct job *job = notify->jobs;

    if (job) {
        notify->jobs = job->next;
        if (!notify->jobs)
            notify->jobs_end = &notify->jobs;
    } else if (notify->later && notify->later->due_ns <= now && !notify->stopping) {
        job = notify->later;
        notify->later = job->next;
    } else if (notify->later && !notify->stopping) {
        struct timespec until;
        uint64_t left = notify->later->due_ns - now;

        clock_gettime(CLOCK_REALTIME, &until);
        left += (uint64_t)until.tv_nsec;
        until.tv_sec += (time_t)(left / 1000000000u);
        until.tv_nsec = (long)(left % 1000000000u);
        pthread_cond_timedwait(&notify->to_scan, &notify->lock, &until);
    } else if (!notify->stopping) {
        pthread_cond_wait(&notify->to_scan, &notify->lock);
    }
    return job;
}

static void *scanner_thread(void *arg)
{
    struct notify *notify = arg;

    pthread_mutex_lock(&notify->lock);
    while (notify->jobs || !notify->stopping) {
        struct job *job = take_job(notify);

        if (!job)
            continue;
        notify->scanning = true;
        pthread_mutex_unlock(&notify->lock);
        scan(notify, job);
        free(job);
        pthread_mutex_lock(&notify->lock);
        notify->scanning = false;
    }
    pthread_mutex_unlock(&notify->lock);
    return NULL;
}

/* ---- the tellers ------------------------------------------------------------------------------------------------- */

static int tell_attributes(struct notify *notify, struct inode *inode)
{
    return fuse_lowlevel_notify_inval_inode(notify->session, node_id(notify->fs, inode), -1, 0);
}

/*
 * The attributes first: an older answer to GETATTR that the kernel takes up only now would give the inode back the link
 * that it loses here, and its watchers would never hear that it is gone.
 */
static int tell_deleted(struct notify *notify, fuse_ino_t dir, const struct telling *telling)
{
    int r;

    (void)tell_attributes(notify, telling->inode);
    r = fuse_lowlevel_notify_delete(notify->session, dir, node_id(notify->fs, telling->inode), telling->name,
                                    strlen(telling->name));
    if (r == -ENOENT) /* somebody has looked, and what he found has its place */
        announce_gone(notify->fs, telling->inode);
    poll_wake(notify->fs, telling->inode); /* who opens it again now finds the new one */
    return r;
}

/*
 * The kernel is to look the name up again. It must not drop or delete it: a directory would be dead for who is in it,
 * such as the rm -r that has just emptied it, or a shell while Consul is away (getcwd() fails). Linux before 6.2 can
 * only drop it.
 */
static int ask_again(struct fuse_session *session, fuse_ino_t dir, const char *name, size_t len)
{
#ifdef FUSE_EXPIRE_TAKES_FLAGS
    return fuse_lowlevel_notify_expire_entry(session, dir, name, len, FUSE_LL_EXPIRE_ONLY);
#else
    int r = fuse_lowlevel_notify_expire_entry(session, dir, name, len);

    return r == -ENOSYS ? fuse_lowlevel_notify_inval_entry(session, dir, name, len) : r;
#endif
}

/*
 * The kernel takes no word of a name while it renames it, and then does not find it, or finds another: the one that is
 * meant has moved on, with what the kernel took its old name for.
 */
static void tell_where_it_is(struct notify *notify, const struct telling *telling)
{
    struct inode *inode = telling->inode;
    bool moved;

    pthread_mutex_lock(&notify->fs->inodes.lock);
    moved = inode->parent != telling->dir || strcmp(inode->name, telling->name) != 0;
    pthread_mutex_unlock(&notify->fs->inodes.lock);
    if (moved)
        notify_inode(notify->fs, inode, false);
}

static void tell(struct notify *notify, const struct telling *telling)
{
    struct fs *fs = notify->fs;
    fuse_ino_t dir = node_id(fs, telling->dir);
    size_t len = strlen(telling->name);
    int r;

    if (telling->what == TELL_POLLERS) {
        poll_wake(fs, telling->inode);
        return;
    }
    if (telling->what == TELL_WATCHERS) {
        announce(fs, telling->dir, telling->name, telling->was, telling->content);
        return;
    }
    if (telling->what == TELL_OP) {
        op_wake(telling->op);
        return;
    }
    if (telling->what == TELL_PAGES)
        r = fuse_lowlevel_notify_inval_inode(notify->session, node_id(fs, telling->inode), 0, 0);
    else if (telling->what == TELL_ATTRIBUTES)
        r = tell_attributes(notify, telling->inode);
    else if (telling->what == TELL_GONE && S_ISREG(telling->inode->kind->mode))
        r = tell_deleted(notify, dir, telling);
    else
        r = ask_again(notify->session, dir, telling->name, len);
    if (telling->inode && telling->inode != telling->dir)
        tell_where_it_is(notify, telling);
    fs_count(fs, COUNT_NOTIFIED);
    if (r < 0 && r != -ENOENT && r != -ENOTDIR && r != -EBADF && r != -ENODEV && r != -ENOTCONN)
        log_line(LOG_DEBUG, "notify: %s: %s", telling->name, strerror(-r));
}

static void telling_free(struct notify *notify, struct telling *telling)
{
    inode_unref(&notify->fs->inodes, telling->dir);
    inode_unref(&notify->fs->inodes, telling->inode);
    content_unref(telling->content);
    free(telling->name);
    free(telling);
}

/*
 * Once the kernel has dropped a directory's name it no longer finds what was in it, whose own watchers would not be
 * told: those come first. If not, the directory of the name is the caller's.
 */
static bool must_wait(struct notify *notify, const struct telling *telling)
{
    if (telling->inode && telling->inode != telling->dir && telling->inode->tellings > 0)
        return true;
    return !inode_occupy(&notify->fs->inodes, telling->dir);
}

/* notify.lock is held. The first telling that may be made now, in the order of each directory. */
static struct telling *take_telling(struct notify *notify)
{
    notify->searches++;
    for (struct telling **at = &notify->tellings; *at; at = &(*at)->next) {
        struct telling *telling = *at;

        /* What is behind one that waits is not to overtake it. */
        if (telling->dir->passed_over == notify->searches || must_wait(notify, telling)) {
            telling->dir->passed_over = notify->searches;
            continue;
        }
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

    pthread_mutex_lock(&notify->lock);
    for (;;) {
        struct telling *telling = NULL;

        while (!notify->stopping && !(telling = take_telling(notify)))
            pthread_cond_wait(&notify->to_tell, &notify->lock);
        if (!telling)
            break;
        notify->telling++;
        wake_teller(notify);
        pthread_mutex_unlock(&notify->lock);
        tell(notify, telling);
        inode_vacate(&notify->fs->inodes, telling->dir);
        announcer_wake(notify->fs);
        pthread_mutex_lock(&notify->lock);
        notify->telling--;
        telling->dir->tellings--;
        wake_teller(notify);
        pthread_cond_signal(&notify->told);
        pthread_mutex_unlock(&notify->lock);
        telling_free(notify, telling);
        pthread_mutex_lock(&notify->lock);
    }
    pthread_mutex_unlock(&notify->lock);
    return NULL;
}

/* ---- by whom it may be, at once ----------------------------------------------------------------------------------
 */

int notify_fill(struct fs *fs, struct inode *inode, struct content *content)
{
    struct fuse_bufvec bytes = FUSE_BUFVEC_INIT(content->len);

    if (!fs->notify)
        return -ENOTCONN;
    bytes.buf[0].mem = (void *)(uintptr_t)content->data; /* which is only read */
    return fuse_lowlevel_notify_store(fs->notify->session, node_id(fs, inode), 0, &bytes, FUSE_BUF_NO_SPLICE);
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
    pthread_cond_init(&notify->to_scan, NULL);
    pthread_cond_init(&notify->to_tell, NULL);
    pthread_cond_init(&notify->told, NULL);
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

/* Nobody takes any more of it, but the announcer's threads still look. */
static void drop_what_is_left(struct notify *notify)
{
    struct job *later;
    struct telling *tellings;

    pthread_mutex_lock(&notify->lock);
    later = notify->later;
    notify->later = NULL;
    tellings = notify->tellings;
    notify->tellings = NULL;
    notify->tellings_end = &notify->tellings;
    pthread_mutex_unlock(&notify->lock);
    while (later) {
        struct job *next = later->next;

        job_clear(notify, later);
        free(later);
        later = next;
    }
    while (tellings) {
        struct telling *next = tellings->next;

        if (tellings->op)
            op_wake(tellings->op);
        telling_free(notify, tellings);
        tellings = next;
    }
}

bool notify_stop(struct notify *notify)
{
    struct timespec until;

    if (!notify || notify->stopped)
        return true;
    pthread_mutex_lock(&notify->lock);
    notify->stopping = true;
    pthread_cond_broadcast(&notify->to_scan);
    pthread_cond_broadcast(&notify->to_tell);
    pthread_cond_broadcast(&notify->told);
    pthread_mutex_unlock(&notify->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_SECONDS;
    if (pthread_timedjoin_np(notify->scanner, NULL, &until) != 0)
        return false;
    for (size_t i = 0; i < notify->started; i++)
        if (pthread_timedjoin_np(notify->tellers[i], NULL, &until) != 0)
            return false;
    notify->stopped = true;
    drop_what_is_left(notify);
    return true;
}

void notify_free(struct notify *notify)
{
    if (!notify)
        return;
    (void)notify_stop(notify);
    pthread_cond_destroy(&notify->to_scan);
    pthread_cond_destroy(&notify->to_tell);
    pthread_cond_destroy(&notify->told);
    pthread_mutex_destroy(&notify->lock);
    free(notify);
}
