/*
 * The queue of announcements, and the threads that make them. A place is in the queue at most once.
 *
 * Nothing here is done inside a request, and no lock is held over a system call on the mount.
 */
#define FUSE_USE_VERSION 314
#include "announce.h"

#include "content.h"
#include "log.h"
#include "name.h"
#include "notify.h"
#include "passage.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define QUEUE_MAX 65536
#define BUCKETS 1024
#define STOP_SECONDS 2
#define SECOND_NS 1000000000ull
#define OWN_PAUSE_NS (10 * 1000000ull) /* until an operation of ours on the same place may be over */
#define OWN_PAUSES_MAX 1000
#define EMPTIED_DOUBLES 7               /* of that, for who empties a directory */
#define GONE_AFTER_NS (50 * 1000000ull) /* what nobody holds the kernel has forgotten by then */
#define BURST 50                        /* announcements that may come at once after a quiet time */

/* A change to be announced. */
struct announcement {
    struct inode *dir;           /* counted */
    char *name;                  /* */
    const struct kind *was;      /* what the watchers know; NULL: nothing */
    struct content *was_content; /* counted, or NULL */
    struct inode *gone;          /* counted; NULL: it is not about one's own watchers */
    uint64_t not_before_ns;
    unsigned pauses;
    struct announcement *prev, *next;    /* in the order of coming */
    struct announcement *next_in_bucket; /* by place */
};

/* One of the threads. */
struct slot {
    struct announcer *announcer; /* constant */
    pthread_t thread;            /* constant once started */
    _Atomic pid_t tid;
    int root_fd; /* the thread's own: the mount's root, during an announcement */
    /* guarded by announcer.lock */
    struct inode *busy_in; /* where it is at work; borrowed from its announcement */
    const char *name;      /* what it does there at the moment; NULL between two acts; borrowed likewise */
    enum announced_act act;
    bool directory;
    bool showed;        /* the kernel has asked what is to be removed */
    struct inode *gone; /* borrowed from its announcement */
    bool saw_root;
};

struct announcer {
    struct fs *fs;                /* constant */
    struct fuse_session *session; /* constant */
    struct passage *passage;      /* constant */
    uint64_t interval_ns;         /* constant: between two announcements */
    struct slot slots[THREADS];
    size_t started;
    bool stopped; /* main's */

    pthread_mutex_t lock; /* before inode_table.lock */
    pthread_cond_t work;
    /* guarded by lock */
    struct announcement *first, *last;
    struct announcement *buckets[BUCKETS];
    size_t n;
    uint64_t free_ns; /* when the next one may be made */
    bool stopping, dropped_logged;

    _Atomic uint64_t announced, failed, dropped;
};

/* ---- the queue; announcer.lock is held --------------------------------------------------------------------------- */

static struct announcement **bucket_of(struct announcer *announcer, const struct inode *dir, const char *name)
{
    uint64_t hash = name_hash(dir->number, name);

    return &announcer->buckets[(hash ^ hash >> 32) % BUCKETS];
}

static struct announcement *find(struct announcer *announcer, const struct inode *dir, const char *name)
{
    struct announcement *a = *bucket_of(announcer, dir, name);

    while (a && (a->dir != dir || strcmp(a->name, name) != 0))
        a = a->next_in_bucket;
    return a;
}

static void append(struct announcer *announcer, struct announcement *a)
{
    struct announcement **bucket = bucket_of(announcer, a->dir, a->name);

    a->next_in_bucket = *bucket;
    *bucket = a;
    a->next = NULL;
    a->prev = announcer->last;
    if (announcer->last)
        announcer->last->next = a;
    else
        announcer->first = a;
    announcer->last = a;
    announcer->n++;
}

static void take_out(struct announcer *announcer, struct announcement *a)
{
    struct announcement **at = bucket_of(announcer, a->dir, a->name);

    while (*at != a)
        at = &(*at)->next_in_bucket;
    *at = a->next_in_bucket;
    if (a->prev)
        a->prev->next = a->next;
    else
        announcer->first = a->next;
    if (a->next)
        a->next->prev = a->prev;
    else
        announcer->last = a->prev;
    announcer->n--;
}

static void announcement_free(struct announcer *announcer, struct announcement *a)
{
    inode_unref(&announcer->fs->inodes, a->dir);
    inode_unref(&announcer->fs->inodes, a->gone);
    content_unref(a->was_content);
    free(a->name);
    free(a);
}

static bool is_held(struct fs *fs, const struct inode *dir)
{
    bool held;

    pthread_mutex_lock(&fs->inodes.lock);
    held = dir == fs->root || dir->nlookup > 0;
    pthread_mutex_unlock(&fs->inodes.lock);
    return held;
}

bool announcer_raises(const struct fs *fs) { return fs->announcer && !fs->options->read_only; }

/* Without content. */
static struct announcement *announcement_new(struct fs *fs, struct inode *dir, const char *name)
{
    struct announcement *a = calloc(1, sizeof(*a));

    if (!a)
        return NULL;
    a->name = strdup(name);
    if (!a->name) {
        free(a);
        return NULL;
    }
    a->dir = inode_ref(&fs->inodes, dir);
    return a;
}

/*
 * announcer.lock is held. Something is there to be made, or may be made now: one sees to the first of it, or to when
 * it is due, and has the next one woken when it begins.
 */
static void wake_one(struct announcer *announcer)
{
    if (announcer->n > 0)
        pthread_cond_signal(&announcer->work);
}

/* Takes the announcement; NULL: there was no memory for it. */
static void enqueue(struct announcer *announcer, struct announcement *a)
{
    bool log = false;

    pthread_mutex_lock(&announcer->lock);
    if (a && !announcer->stopping && find(announcer, a->dir, a->name)) {
        ; /* what the watchers know of it is on record already */
    } else if (!a || announcer->n >= QUEUE_MAX) {
        announcer->dropped++;
        log = !announcer->dropped_logged;
        announcer->dropped_logged = true;
    } else if (!announcer->stopping) {
        append(announcer, a);
        a = NULL;
        wake_one(announcer);
    }
    pthread_mutex_unlock(&announcer->lock);
    if (a)
        announcement_free(announcer, a);
    if (log)
        log_line(LOG_WARNING, "changes come faster than they can be announced to watchers; .consulfs/stats counts what "
                              "is left out");
}

void announce(struct fs *fs, struct inode *dir, const char *name, const struct kind *was, struct content *was_content)
{
    struct announcement *a;

    if (!announcer_raises(fs) || !is_held(fs, dir))
        return;
    a = announcement_new(fs, dir, name);
    if (a) {
        a->was = was;
        a->was_content = was_content ? content_ref(was_content) : NULL;
    }
    enqueue(fs->announcer, a);
}

void announce_gone(struct fs *fs, struct inode *inode)
{
    struct announcement *a = NULL;
    struct inode *dir;
    char name[40];
    bool new;

    if (!fs->announcer || !S_ISREG(inode->kind->mode) || !is_held(fs, inode))
        return;
    dir = inode_get(&fs->inodes, fs->root, kind_self.name, &kind_self, NULL, 0, &new);
    if (!dir)
        return;
    /* In there nothing waits for Consul. */
    snprintf(name, sizeof(name), "gone-%" PRIu64, inode->number);
    a = announcement_new(fs, dir, name);
    if (a) {
        a->gone = inode_ref(&fs->inodes, inode);
        a->not_before_ns = consul_now_ns() + GONE_AFTER_NS;
    }
    enqueue(fs->announcer, a);
    inode_unref(&fs->inodes, dir);
}

/* Is what the descriptor leads to our mount, and not what somebody has put over it? Whoever serves it is asked. */
static bool is_ours(void *arg, int fd)
{
    struct slot *slot = arg;
    struct announcer *announcer = slot->announcer;
    struct statx stx;
    bool ours;

    pthread_mutex_lock(&announcer->lock);
    slot->saw_root = false;
    pthread_mutex_unlock(&announcer->lock);
    ours = statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx) == 0;
    pthread_mutex_lock(&announcer->lock);
    ours = ours && slot->saw_root;
    pthread_mutex_unlock(&announcer->lock);
    return ours;
}

/* ---- what is done to it ------------------------------------------------------------------------------------------ */

static void begin_act(struct announcer *announcer, struct slot *slot, enum announced_act act, bool directory,
                      const struct announcement *a)
{
    pthread_mutex_lock(&announcer->lock);
    slot->act = act;
    slot->directory = directory;
    slot->showed = false;
    slot->name = a ? a->name : NULL;
    slot->gone = a ? a->gone : NULL;
    pthread_mutex_unlock(&announcer->lock);
}

static void end_act(struct announcer *announcer, struct slot *slot) { begin_act(announcer, slot, 0, false, NULL); }

/* The inode gets a name for this moment, under which it is deleted. */
static int delete_named(struct announcer *announcer, const struct announcement *a, int root_fd, const char *path)
{
    struct stat st;
    int r;

    if (fstatat(root_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    r = fuse_lowlevel_notify_delete(announcer->session, node_id(announcer->fs, a->dir), node_id(announcer->fs, a->gone),
                                    a->name, strlen(a->name));
    return r == -ENOENT ? 0 : r; /* it may have been dropped for lack of memory */
}

/* IN_MODIFY comes of a truncation that leaves the length as it is: unlike a write it can't make the file any longer. */
static int rewrite(int root_fd, const char *path, int flags, bool modified)
{
    int fd = openat(root_fd, path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | flags, 0644), r;
    struct stat st;

    if (fd < 0)
        return -errno;
    r = fstat(fd, &st);
    if (r == 0 && (modified || st.st_size > 0))
        r = ftruncate(fd, st.st_size);
    r = r < 0 ? -errno : 0;
    close(fd);
    return r;
}

static int create(struct announcer *announcer, const struct announcement *a, int root_fd, const char *path,
                  bool directory)
{
    fuse_ino_t dir = node_id(announcer->fs, a->dir);
    int r = 0;

    for (int tries = 0; tries < 3; tries++) {
        if (directory)
            r = mkdirat(root_fd, path, 0755) < 0 ? -errno : 0;
        else
            r = rewrite(root_fd, path, O_CREAT | O_EXCL, false);
        if (r != -EEXIST)
            break;
        /* Somebody has looked it up in the meantime. */
        fuse_lowlevel_notify_inval_entry(announcer->session, dir, a->name, strlen(a->name));
    }
    return r;
}

static int act(struct announcer *announcer, struct slot *slot, const struct announcement *a, const char *path,
               enum announced_act act, bool directory)
{
    int root_fd = slot->root_fd, r = 0;

    begin_act(announcer, slot, act, directory, a);
    switch (act) {
    case ANNOUNCE_CREATE:
        r = create(announcer, a, root_fd, path, directory);
        break;
    case ANNOUNCE_MODIFY:
        r = rewrite(root_fd, path, 0, true);
        break;
    case ANNOUNCE_REMOVE:
        r = unlinkat(root_fd, path, directory ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
        break;
    case ANNOUNCE_GONE:
        r = delete_named(announcer, a, root_fd, path);
        break;
    }
    end_act(announcer, slot);
    return r;
}

struct looking {
    struct found found;
    int r;
};

static int run_look(struct op *op)
{
    struct looking *looking = op->state;

    looking->r = tree_find(op, op->inode, op->name, &looking->found);
    if (looking->r == 0) /* bytes that are not known are no reason not to tell of the name */
        (void)tree_content(op, op->inode, op->name, &looking->found, false);
    return 0;
}

/* What stands there now, from what is known: 0, with kind NULL for nothing, or -EAGAIN. The content is counted. */
static int look(struct announcer *announcer, const struct announcement *a, struct found *ret_found)
{
    struct looking looking = {.r = -ENOMEM};
    struct op *op = op_new(announcer->fs, NULL, a->dir, a->name, run_look);

    if (op) {
        op->announces = true;
        op->state = &looking;
        op_start(op);
    }
    if (looking.r < 0) {
        content_unref(looking.found.content);
        looking.found = (struct found){0};
    }
    *ret_found = looking.found;
    return looking.r == -ENOENT ? 0 : looking.r;
}

static struct own_state state_of(const struct found *found)
{
    return (struct own_state){.kind = found->kind, .version = found->content ? content_version(found->content) : 0};
}

static bool is_as_it_was(const struct announcement *a, const struct found *now)
{
    if (now->kind != a->was)
        return false;
    return !now->content || !a->was_content || content_same_bytes(now->content, a->was_content);
}

/* What was there goes, and what is there comes. */
static int replace(struct announcer *announcer, struct slot *slot, const struct announcement *a, const char *path,
                   const struct kind *now)
{
    int r = 0;

    if (a->was)
        r = act(announcer, slot, a, path, ANNOUNCE_REMOVE, S_ISDIR(a->was->mode));
    if (r == 0 && now)
        r = act(announcer, slot, a, path, ANNOUNCE_CREATE, S_ISDIR(now->mode));
    return r;
}

/* Created here, and not stored yet: the kernel has the file, and Consul has nothing. */
static bool is_unstored(struct fs *fs, const struct announcement *a)
{
    struct inode *inode = inode_peek(&fs->inodes, a->dir, a->name);
    bool unstored;

    if (!inode)
        return false;
    pthread_mutex_lock(&fs->inodes.lock);
    unstored = inode->writer && !inode->content;
    pthread_mutex_unlock(&fs->inodes.lock);
    inode_unref(&fs->inodes, inode);
    return unstored;
}

/* What is there now is as the watchers know it: as it was, by this mount's own doing, or as it was announced. */
static bool is_known(struct fs *fs, const struct announcement *a, const struct found *now)
{
    return is_as_it_was(a, now) || own_made(&fs->own, a->dir, a->name, state_of(now), !a->was) ||
           (!now->kind && is_unstored(fs, a));
}

/* From what the watchers know to what is there now. */
static int announce_one(struct announcer *announcer, struct slot *slot, const struct announcement *a)
{
    struct fs *fs = announcer->fs;
    struct found now;
    char *path;
    int r = look(announcer, a, &now);

    if (r < 0)
        return r;
    if (is_known(fs, a, &now)) {
        content_unref(now.content);
        return 0;
    }
    own_told(&fs->own, a->dir, a->name, state_of(&now), now.kind == a->was ? OWN_STORED : OWN_NAMED);
    path = inode_path_from(&fs->inodes, a->dir, fs->root, a->name);
    r = path ? 0 : -ENOMEM;
    if (r == 0 && now.kind == a->was) {
        r = act(announcer, slot, a, path, ANNOUNCE_MODIFY, false);
        if (r == -EACCES) /* a file that its owner may not write, who is not root: then it is replaced */
            r = replace(announcer, slot, a, path, now.kind);
    } else if (r == 0) {
        r = replace(announcer, slot, a, path, now.kind);
    }
    if (r == 0)
        announcer->announced++;
    else
        log_line(LOG_DEBUG, "announce: %s: %s", path ? path : a->name, strerror(-r));
    free(path);
    content_unref(now.content);
    return r;
}

static int tell_gone(struct announcer *announcer, struct slot *slot, const struct announcement *a)
{
    char *path = inode_path_from(&announcer->fs->inodes, a->dir, announcer->fs->root, a->name);
    int r = -ENOMEM;

    if (path)
        r = act(announcer, slot, a, path, ANNOUNCE_GONE, false);
    free(path);
    return r;
}

/* ---- the threads ------------------------------------------------------------------------------------------------- */

/*
 * announcer.lock is held. The first that may be made now, whose directory is the caller's then; *ret_wait_ns: otherwise
 * when, or 0 for not before work.
 */
static struct announcement *next_due(struct announcer *announcer, uint64_t now, uint64_t *ret_wait_ns)
{
    uint64_t wait = 0;

    for (struct announcement *a = announcer->first; a; a = a->next) {
        uint64_t due = a->not_before_ns > announcer->free_ns ? a->not_before_ns : announcer->free_ns;

        if (due <= now && inode_occupy(&announcer->fs->inodes, a->dir))
            return a;
        if (due <= now)
            continue; /* who is at work there wakes us */
        if (wait == 0 || due < wait)
            wait = due;
        if (announcer->free_ns > now)
            break; /* nor may any other */
    }
    *ret_wait_ns = wait;
    return NULL;
}

/* announcer.lock is held. */
static void wait_for_work(struct announcer *announcer, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / SECOND_NS), .tv_nsec = (long)(until_ns % SECOND_NS)};

    if (until_ns)
        pthread_cond_timedwait(&announcer->work, &announcer->lock, &until);
    else
        pthread_cond_wait(&announcer->work, &announcer->lock);
}

/* announcer.lock is held. Time that was not used allows for a burst. */
static void use_turn(struct announcer *announcer, uint64_t now)
{
    uint64_t earliest = now > BURST * announcer->interval_ns ? now - BURST * announcer->interval_ns : 0;

    if (announcer->free_ns < earliest)
        announcer->free_ns = earliest;
    announcer->free_ns += announcer->interval_ns;
}

/*
 * A directory that has become a file while somebody here goes on removing what was in it, by its path; or that went
 * with what he removed last, and that he may remove, too, as rm -r does.
 */
static bool is_being_emptied(struct fs *fs, const struct announcement *a)
{
    char *path;
    bool is;

    if (!a->was || !S_ISDIR(a->was->mode))
        return false;
    path = tree_path_of(fs, a->dir, a->name);
    is = path && phantom_any(&fs->phantoms, path);
    free(path);
    return is;
}

/* The directory is being moved by us: what is gone where it was is not gone in it. */
static bool moves(struct fs *fs, struct inode *dir)
{
    bool moves;

    pthread_mutex_lock(&fs->inodes.lock);
    moves = dir->storing > 0 || inode_is_moving(dir);
    pthread_mutex_unlock(&fs->inodes.lock);
    return moves;
}

/*
 * announcer.lock is held. An operation of ours is changing the place, or may soon: what it leaves there is to be seen
 * first. Who empties a directory is mostly over at once, or has many to empty.
 */
static bool put_off(struct announcer *announcer, struct announcement *a, uint64_t now)
{
    struct fs *fs = announcer->fs;

    if (a->pauses >= OWN_PAUSES_MAX)
        return false;
    if (own_is_under_way(&fs->own, a->dir, a->name) || moves(fs, a->dir))
        a->not_before_ns = now + OWN_PAUSE_NS;
    else if (is_being_emptied(fs, a))
        a->not_before_ns = now + (OWN_PAUSE_NS << (a->pauses < EMPTIED_DOUBLES ? a->pauses : EMPTIED_DOUBLES));
    else
        return false;
    a->pauses++;
    return true;
}

static void make(struct announcer *announcer, struct slot *slot, const struct announcement *a)
{
    int r = -ENOENT;

    slot->root_fd = passage_enter(announcer->passage, is_ours, slot);
    if (slot->root_fd >= 0) {
        r = a->gone ? tell_gone(announcer, slot, a) : announce_one(announcer, slot, a);
        passage_leave(announcer->passage, slot->root_fd);
    }
    if (r < 0)
        announcer->failed++;
}

/* Most of what is gone nobody holds, and the kernel has forgotten it by now. */
static bool is_needed(struct announcer *announcer, const struct announcement *a)
{
    return !a->gone || is_held(announcer->fs, a->gone);
}

static void *announcing_thread(void *arg)
{
    struct slot *slot = arg;
    struct announcer *announcer = slot->announcer;

    atomic_store(&slot->tid, gettid());
    pthread_mutex_lock(&announcer->lock);
    while (!announcer->stopping) {
        uint64_t now = consul_now_ns(), until = 0;
        struct announcement *a = next_due(announcer, now, &until);

        if (a && put_off(announcer, a, now)) {
            inode_vacate(&announcer->fs->inodes, a->dir);
            continue;
        }
        if (!a) {
            wait_for_work(announcer, until);
            continue;
        }
        take_out(announcer, a);
        wake_one(announcer);
        slot->busy_in = a->dir;
        if (is_needed(announcer, a)) {
            use_turn(announcer, now);
            pthread_mutex_unlock(&announcer->lock);
            make(announcer, slot, a);
            pthread_mutex_lock(&announcer->lock);
        }
        slot->busy_in = NULL;
        inode_vacate(&announcer->fs->inodes, a->dir);
        wake_one(announcer);
        pthread_mutex_unlock(&announcer->lock);
        notify_wake(announcer->fs);
        announcement_free(announcer, a);
        pthread_mutex_lock(&announcer->lock);
    }
    pthread_mutex_unlock(&announcer->lock);
    return NULL;
}

/* ---- for the upcalls ----------------------------------------------------------------------------------------------
 */

static struct slot *slot_of(struct fs *fs, pid_t tid)
{
    struct announcer *announcer = fs->announcer;

    for (size_t i = 0; announcer && i < THREADS; i++)
        if (atomic_load_explicit(&announcer->slots[i].tid, memory_order_relaxed) == tid)
            return &announcer->slots[i];
    return NULL;
}

bool announcing_is(struct fs *fs, pid_t tid) { return tid != 0 && slot_of(fs, tid) != NULL; }

bool announcing_of(struct fs *fs, pid_t tid, struct inode *dir, const char *name, enum announced_act *ret_act,
                   bool *ret_directory)
{
    struct slot *slot = tid != 0 ? slot_of(fs, tid) : NULL;
    bool is_it = false;

    if (!slot)
        return false;
    pthread_mutex_lock(&slot->announcer->lock);
    if (slot->name && slot->busy_in == dir && strcmp(slot->name, name) == 0) {
        *ret_act = slot->act;
        *ret_directory = slot->directory;
        is_it = true;
    }
    pthread_mutex_unlock(&slot->announcer->lock);
    return is_it;
}

struct inode *announcing_gone(struct fs *fs, pid_t tid)
{
    struct slot *slot = tid != 0 ? slot_of(fs, tid) : NULL;
    struct inode *gone = NULL;

    if (!slot)
        return NULL;
    pthread_mutex_lock(&slot->announcer->lock);
    if (slot->gone)
        gone = inode_ref(&fs->inodes, slot->gone);
    pthread_mutex_unlock(&slot->announcer->lock);
    return gone;
}

void announcing_showed(struct fs *fs, pid_t tid)
{
    struct slot *slot = tid != 0 ? slot_of(fs, tid) : NULL;

    if (!slot)
        return;
    pthread_mutex_lock(&slot->announcer->lock);
    slot->showed = true;
    pthread_mutex_unlock(&slot->announcer->lock);
}

bool announcing_may_remove(struct fs *fs, pid_t tid)
{
    struct slot *slot = tid != 0 ? slot_of(fs, tid) : NULL;
    bool may;

    if (!slot)
        return true;
    pthread_mutex_lock(&slot->announcer->lock);
    may = slot->showed || !slot->directory;
    pthread_mutex_unlock(&slot->announcer->lock);
    return may;
}

void announcing_sees_root(struct fs *fs, pid_t tid)
{
    struct slot *slot = tid != 0 ? slot_of(fs, tid) : NULL;

    if (!slot)
        return;
    pthread_mutex_lock(&slot->announcer->lock);
    slot->saw_root = true;
    pthread_mutex_unlock(&slot->announcer->lock);
}

void announcer_wake(struct fs *fs)
{
    if (!fs->announcer)
        return;
    pthread_mutex_lock(&fs->announcer->lock);
    wake_one(fs->announcer);
    pthread_mutex_unlock(&fs->announcer->lock);
}

void announcer_get_figures(struct fs *fs, struct announcer_figures *ret_figures)
{
    struct announcer *announcer = fs->announcer;

    *ret_figures = (struct announcer_figures){0};
    if (!announcer)
        return;
    ret_figures->announced = announcer->announced;
    ret_figures->failed = announcer->failed;
    ret_figures->dropped = announcer->dropped;
    pthread_mutex_lock(&announcer->lock);
    ret_figures->queued = announcer->n;
    pthread_mutex_unlock(&announcer->lock);
}

/* ---- beginning and end --------------------------------------------------------------------------------------------
 */

int announcer_new(struct fs *fs, struct fuse_session *session, const char *mountpoint, unsigned rate,
                  struct announcer **ret_announcer)
{
    struct announcer *announcer = calloc(1, sizeof(*announcer));
    pthread_condattr_t monotonic;

    if (!announcer)
        return -ENOMEM;
    announcer->fs = fs;
    announcer->session = session;
    announcer->interval_ns = SECOND_NS / rate;
    pthread_mutex_init(&announcer->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&announcer->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (passage_new(mountpoint, &announcer->passage) < 0) {
        announcer_free(announcer);
        return -EAGAIN;
    }
    for (size_t i = 0; i < THREADS; i++)
        announcer->slots[i].announcer = announcer;
    for (; announcer->started < THREADS; announcer->started++) {
        struct slot *slot = &announcer->slots[announcer->started];

        if (pthread_create(&slot->thread, NULL, announcing_thread, slot) != 0) {
            announcer_free(announcer);
            return -EAGAIN;
        }
    }
    *ret_announcer = announcer;
    return 0;
}

void announcer_mounted(struct announcer *announcer)
{
    if (announcer)
        passage_prepare(announcer->passage);
}

bool announcer_stop(struct announcer *announcer)
{
    struct timespec until;

    if (!announcer || announcer->stopped)
        return true;
    pthread_mutex_lock(&announcer->lock);
    announcer->stopping = true;
    pthread_cond_broadcast(&announcer->work);
    pthread_mutex_unlock(&announcer->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_SECONDS;
    for (size_t i = 0; i < announcer->started; i++)
        if (pthread_timedjoin_np(announcer->slots[i].thread, NULL, &until) != 0)
            return false;
    announcer->stopped = true;
    while (announcer->first) {
        struct announcement *a = announcer->first;

        take_out(announcer, a);
        announcement_free(announcer, a);
    }
    return true;
}

void announcer_free(struct announcer *announcer)
{
    if (!announcer)
        return;
    (void)announcer_stop(announcer);
    pthread_cond_destroy(&announcer->work);
    pthread_mutex_destroy(&announcer->lock);
    passage_free(announcer->passage);
    free(announcer);
}
