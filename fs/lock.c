#include "lock.h"

#include "content.h"
#include "handle.h"
#include "log.h"
#include "notify.h"
#include "tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HELD_LONG_NS 1000000000ull

enum file_state { FILE_FREE, FILE_TAKING, FILE_HELD, FILE_RELEASING };

/* A descriptor through which something was locked; until it is closed. */
struct user {
    uint64_t fh;
    struct inode *inode; /* counted */
    struct user *next;
};

struct queue {
    struct lock_request *first, **end;
};

/* One file that has, or had a moment ago, locks or who waits for them. All but the constants: guarded by table.lock. */
struct lock_file {
    struct lock_table *table; /* constant, as are these */
    char *datacenter, *key;
    bool local;
    struct consul_lock *lock; /* NULL if local */

    struct inode *inode; /* the newest that was locked, counted; or NULL */
    bool detached;       /* this mount removed the key: its name is another file's from now on */
    enum file_state state;
    bool caught_up;     /* HELD: what this mount shows is as new as the lock, or nobody else had it meanwhile: */
    uint64_t held_ns;   /* HELD: since when */
    uint64_t own_index; /* the key's ModifyIndex when this mount gave it back last */
    bool busy;          /* TAKING: another session has it */
    struct lock_set set;
    struct user *users;
    struct queue waiting, unlocking;
    struct lock_file *next;
};

struct lock_table {
    struct fs *fs;
    atomic_size_t users;  /* open descriptors through which something was locked: nearly always none */
    pthread_mutex_t lock; /* before op.lock and the library's; nothing is replied or told while it is held */
    bool stopping;
    struct lock_file *files;
};

/* ---- queues --------------------------------------------------------------------------------------------------------
 */

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

static void queue_add(struct queue *queue, struct lock_request *request)
{
    request->next = NULL;
    *queue->end = request;
    queue->end = &request->next;
}

/* *at is taken out. */
static struct lock_request *queue_take(struct queue *queue, struct lock_request **at)
{
    struct lock_request *request = *at;

    *at = request->next;
    if (queue->end == &request->next)
        queue->end = at;
    request->next = NULL;
    return request;
}

static void end_one(struct queue *from, struct lock_request **at, int err, struct queue *woken)
{
    struct lock_request *request = queue_take(from, at);

    request->stage = LOCK_ENDED;
    request->err = err;
    queue_add(woken, request);
}

/* Without table.lock: each may be gone as soon as it is woken. */
static void wake(struct queue *woken)
{
    struct lock_request *request = woken->first;

    while (request) {
        struct lock_request *next = request->next;

        op_wake(request->op);
        request = next;
    }
}

/* ---- files; table.lock is held throughout --------------------------------------------------------------------------
 */

static void on_news(void *arg, struct consul_lock *lock, const struct consul_lock_news *news);

static bool is_local(const struct lock_file *file) { return file->local || file->detached; }

static struct user *find_user(const struct lock_file *file, uint64_t fh)
{
    struct user *user = file->users;

    while (user && user->fh != fh)
        user = user->next;
    return user;
}

static void drop_user(struct lock_file *file, uint64_t fh)
{
    struct user **at = &file->users, *user;

    while (*at && (*at)->fh != fh)
        at = &(*at)->next;
    user = *at;
    if (!user)
        return;
    *at = user->next;
    atomic_fetch_sub(&file->table->users, 1);
    inode_unref(&file->table->fs->inodes, user->inode);
    free(user);
}

static int add_user(struct lock_file *file, uint64_t fh, struct inode *inode)
{
    struct user *user = find_user(file, fh);

    if (user)
        return 0;
    user = malloc(sizeof(*user));
    if (!user)
        return -ENOMEM;
    *user = (struct user){.fh = fh, .inode = inode_ref(&file->table->fs->inodes, inode), .next = file->users};
    file->users = user;
    atomic_fetch_add(&file->table->users, 1);
    return 0;
}

static bool same_text(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

/* By the descriptor first: what it locked may have been renamed. */
static struct lock_file *find_file(struct lock_table *table, uint64_t fh, const char *datacenter,
                                   const struct lock_request *request)
{
    struct lock_file *file;

    for (file = table->files; file; file = file->next) {
        if (!find_user(file, fh))
            continue;
        if (!file->detached || lock_set_has(&file->set, fh))
            return file;
        drop_user(file, fh);
    }
    for (file = table->files; file; file = file->next)
        if (!file->detached && file->local == request->local && strcmp(file->key, request->key) == 0 &&
            same_text(file->datacenter, datacenter))
            return file;
    return NULL;
}

static void free_file(struct lock_file *file)
{
    struct lock_file **at = &file->table->files;

    while (*at != file)
        at = &(*at)->next;
    *at = file->next;
    while (file->users)
        drop_user(file, file->users->fh);
    lock_set_empty(&file->set);
    inode_unref(&file->table->fs->inodes, file->inode);
    consul_lock_free(file->lock);
    free(file->datacenter);
    free(file->key);
    free(file);
}

static int new_file(struct lock_table *table, const char *datacenter, const struct lock_request *request,
                    struct lock_file **ret_file)
{
    struct lock_file *file = calloc(1, sizeof(*file));
    int r = -ENOMEM;

    if (!file)
        return r;
    file->table = table;
    file->local = request->local;
    queue_init(&file->waiting);
    queue_init(&file->unlocking);
    file->key = strdup(request->key);
    file->datacenter = datacenter ? strdup(datacenter) : NULL;
    file->next = table->files;
    table->files = file;
    if (file->key && (!datacenter || file->datacenter))
        r = request->local ? 0
                           : consul_lock_new(table->fs->consul, datacenter, request->key, on_news, file, &file->lock);
    if (r < 0)
        free_file(file);
    else
        *ret_file = file;
    return r;
}

/* Who got it may reply now; nobody else will. */
static bool grant(struct lock_file *file, struct lock_request *request)
{
    if (!op_claim_reply(request->op))
        return false;
    request->stage = LOCK_GRANTED;
    request->caught_up = file->caught_up || is_local(file);
    if (file->inode != request->op->inode) {
        inode_unref(&file->table->fs->inodes, file->inode);
        file->inode = inode_ref(&file->table->fs->inodes, request->op->inode);
    }
    request->err = add_user(file, request->lock.fh, request->op->inode);
    if (request->err == 0)
        request->err = lock_set_put(&file->set, &request->lock);
    return true;
}

static void grant_all(struct lock_file *file, struct queue *woken)
{
    struct lock_request **at = &file->waiting.first;

    while (*at) {
        struct lock_request *request = *at;

        if (lock_set_conflict(&file->set, &request->lock)) {
            if (request->wait)
                at = &request->next;
            else
                end_one(&file->waiting, at, -EAGAIN, woken);
        } else if (grant(file, request)) {
            queue_add(woken, queue_take(&file->waiting, at));
        } else { /* interrupted at this very moment */
            end_one(&file->waiting, at, -EINTR, woken);
        }
    }
}

static bool any_waits(const struct lock_file *file)
{
    for (const struct lock_request *request = file->waiting.first; request; request = request->next)
        if (request->wait)
            return true;
    return false;
}

static void end_all(struct queue *queue, bool also_who_waits, int err, struct queue *woken)
{
    struct lock_request **at = &queue->first;

    while (*at) {
        if (also_who_waits || !(*at)->wait)
            end_one(queue, at, err, woken);
        else
            at = &(*at)->next;
    }
}

/* However many wait here: after a while the next may be one of another mount (the library lets them go first). */
static bool is_others_turn(const struct lock_file *file)
{
    return file->state == FILE_HELD && !file->set.first && file->waiting.first &&
           file->held_ns + HELD_LONG_NS < consul_now_ns();
}

/* Does what is to be done now; the file may be gone then. */
static void settle(struct lock_file *file, struct queue *woken)
{
    if (is_local(file) || (file->state == FILE_HELD && !is_others_turn(file)))
        grant_all(file, woken);
    switch (file->state) {
    case FILE_FREE:
        if (file->waiting.first && !is_local(file) && !file->table->stopping) {
            file->state = FILE_TAKING;
            file->busy = false;
            consul_lock_acquire(file->lock, any_waits(file));
        }
        break;
    case FILE_TAKING:
        if (!file->waiting.first) {
            file->state = FILE_RELEASING;
            consul_lock_release(file->lock);
        }
        break;
    case FILE_HELD:
        if (!file->set.first) {
            file->state = FILE_RELEASING;
            consul_lock_release(file->lock);
        }
        break;
    case FILE_RELEASING:
        break;
    }
    if (file->state != FILE_RELEASING)
        end_all(&file->unlocking, true, 0, woken);
    if (file->state == FILE_FREE && !file->waiting.first && !file->set.first && !file->users)
        free_file(file);
}

/* ---- deadlocks -----------------------------------------------------------------------------------------------------
 */

#define DEADLOCK_DEPTH 10

/* Does `owner` (of a POSIX lock) wait, perhaps through others, for what `asking` has? */
static bool waits_for(struct lock_table *table, uint64_t owner, uint64_t asking, unsigned depth)
{
    if (owner == asking)
        return true;
    if (depth == 0)
        return false;
    for (const struct lock_file *file = table->files; file; file = file->next) {
        for (const struct lock_request *request = file->waiting.first; request; request = request->next) {
            const struct lock *other;

            if (!request->lock.posix || request->lock.owner != owner)
                continue;
            other = lock_set_conflict(&file->set, &request->lock);
            if (other && waits_for(table, other->owner, asking, depth - 1))
                return true;
        }
    }
    return false;
}

/* ---- asking --------------------------------------------------------------------------------------------------------
 */

/* table.lock is held. */
static int ask(struct op *op, struct lock_request *request, struct queue *woken)
{
    struct lock_table *table = op->fs->locks;
    const struct lock *other;
    struct lock_file *file;
    int r = 0;

    file = find_file(table, request->lock.fh, op_datacenter(op), request);
    if (table->stopping)
        return -ECANCELED;
    if (!file)
        r = new_file(table, op_datacenter(op), request, &file);
    if (r < 0)
        return r;
    request->file = file;
    other = lock_set_conflict(&file->set, &request->lock);
    if (!other && (file->state == FILE_HELD || is_local(file))) {
        r = grant(file, request) ? request->err : -EINTR;
    } else if (!request->wait && (other || (file->state == FILE_TAKING && file->busy))) {
        r = -EAGAIN;
    } else if (other && other->posix && waits_for(table, other->owner, request->lock.owner, DEADLOCK_DEPTH)) {
        r = -EDEADLK;
    } else {
        request->stage = LOCK_QUEUED;
        queue_add(&file->waiting, request);
        /* Who withdraws looks for it under the lock: from here on it is found. */
        if (!op_wanted(op)) {
            struct lock_request **at = &file->waiting.first;

            while (*at != request)
                at = &(*at)->next;
            queue_take(&file->waiting, at);
            request->stage = LOCK_ENDED;
            r = -EINTR;
        } else {
            if (file->state == FILE_TAKING)
                consul_lock_acquire(file->lock, request->wait);
            r = -EINPROGRESS;
        }
    }
    settle(file, woken);
    return r;
}

int lock_ask(struct op *op, struct lock_request *request)
{
    struct lock_table *table = op->fs->locks;
    struct queue woken;
    int r;

    queue_init(&woken);
    pthread_mutex_lock(&table->lock);
    r = ask(op, request, &woken);
    pthread_mutex_unlock(&table->lock);
    wake(&woken);
    return r;
}

int lock_give_back(struct op *op, struct lock_request *request)
{
    struct lock_table *table = op->fs->locks;
    struct lock_file *file;
    struct queue woken;
    int r = 0;

    queue_init(&woken);
    pthread_mutex_lock(&table->lock);
    file = find_file(table, request->lock.fh, op_datacenter(op), request);
    if (file) {
        r = lock_set_clear(&file->set, &request->lock);
        if (r > 0 && file->state == FILE_HELD && !file->set.first && !file->waiting.first && !table->stopping &&
            op_wanted(op)) {
            request->file = file;
            request->stage = LOCK_QUEUED;
            queue_add(&file->unlocking, request);
            r = -EINPROGRESS;
        } else if (r > 0) {
            r = 0;
        }
        if (r != -EINPROGRESS || file->state == FILE_HELD) {
            if (r == -EINPROGRESS) { /* settle() would take it for one whose unlocking is over */
                file->state = FILE_RELEASING;
                consul_lock_release(file->lock);
            }
            settle(file, &woken);
        }
    }
    pthread_mutex_unlock(&table->lock);
    wake(&woken);
    return r;
}

bool lock_test(struct op *op, struct lock_request *request, struct lock *ret_lock)
{
    struct lock_table *table = op->fs->locks;
    const struct lock *other = NULL;
    struct lock_file *file;

    pthread_mutex_lock(&table->lock);
    file = find_file(table, request->lock.fh, op_datacenter(op), request);
    if (file)
        other = lock_set_conflict(&file->set, &request->lock);
    if (other)
        *ret_lock = *other;
    pthread_mutex_unlock(&table->lock);
    return other != NULL;
}

static struct lock_request **find_request(struct queue *queue, const struct lock_request *request)
{
    struct lock_request **at = &queue->first;

    while (*at && *at != request)
        at = &(*at)->next;
    return at;
}

void lock_withdraw(struct op *op)
{
    struct lock_table *table = op->fs->locks;
    struct lock_request *request = op->state, **at;
    struct queue woken;

    queue_init(&woken);
    pthread_mutex_lock(&table->lock);
    if (request->stage == LOCK_QUEUED) {
        struct lock_file *file = request->file;

        if (*(at = find_request(&file->waiting, request)))
            end_one(&file->waiting, at, -EINTR, &woken);
        else if (*(at = find_request(&file->unlocking, request)))
            end_one(&file->unlocking, at, -EINTR, &woken);
        settle(file, &woken);
    }
    pthread_mutex_unlock(&table->lock);
    wake(&woken);
}

void lock_caught_up(struct op *op, struct lock_request *request)
{
    struct lock_table *table = op->fs->locks;
    struct lock_file *file;

    pthread_mutex_lock(&table->lock);
    file = find_file(table, request->lock.fh, op_datacenter(op), request);
    if (file && lock_set_has(&file->set, request->lock.fh)) /* it did not lose it in between */
        file->caught_up = true;
    pthread_mutex_unlock(&table->lock);
}

struct consul_kv_entry *lock_entry(struct op *op, struct lock_request *request)
{
    struct lock_table *table = op->fs->locks;
    struct consul_kv_entry *entry = NULL;
    struct lock_file *file;

    pthread_mutex_lock(&table->lock);
    file = find_file(table, request->lock.fh, op_datacenter(op), request);
    if (file && !is_local(file) && file->state == FILE_HELD)
        entry = consul_lock_entry(file->lock);
    pthread_mutex_unlock(&table->lock);
    return entry;
}

/* ---- closing -------------------------------------------------------------------------------------------------------
 */

/* What is closed: a descriptor, or all of a process's of an inode. */
struct closing {
    const struct inode *inode;
    uint64_t fh, owner;
};

/* `end` says of which files it has ended locks. Nearly always there are none, and nothing to do. */
static void close_all(struct fs *fs, bool (*end)(struct lock_file *file, const struct closing *closing),
                      const struct closing *closing)
{
    struct lock_table *table = fs->locks;
    struct queue woken;

    if (!table || atomic_load(&table->users) == 0)
        return;
    queue_init(&woken);
    pthread_mutex_lock(&table->lock);
    for (struct lock_file *file = table->files, *next; file; file = next) {
        next = file->next;
        if (end(file, closing))
            settle(file, &woken);
    }
    pthread_mutex_unlock(&table->lock);
    wake(&woken);
}

static bool end_descriptor(struct lock_file *file, const struct closing *closing)
{
    if (!find_user(file, closing->fh))
        return false;
    lock_set_close(&file->set, closing->fh);
    drop_user(file, closing->fh);
    return true;
}

void lock_closed(struct fs *fs, uint64_t fh) { close_all(fs, end_descriptor, &(struct closing){.fh = fh}); }

static bool uses(const struct lock_file *file, const struct inode *inode, uint64_t fh)
{
    for (const struct user *user = file->users; user; user = user->next)
        if (user->inode == inode || user->fh == fh)
            return true;
    return false;
}

static bool end_process(struct lock_file *file, const struct closing *closing)
{
    const struct lock all = {.posix = true, .owner = closing->owner, .end = UINT64_MAX};

    return uses(file, closing->inode, closing->fh) && lock_set_clear(&file->set, &all) > 0;
}

void lock_flushed(struct fs *fs, const struct inode *inode, uint64_t fh, uint64_t owner)
{
    close_all(fs, end_process, &(struct closing){.inode = inode, .fh = fh, .owner = owner});
}

/* ---- is it still held? ---------------------------------------------------------------------------------------------
 */

/* table.lock is held. The next file, this one included, that is locked in Consul and through the descriptor. */
static const struct lock_file *held_by(const struct lock_file *file, uint64_t fh)
{
    while (file && (file->state != FILE_HELD || is_local(file) || !lock_set_has(&file->set, fh)))
        file = file->next;
    return file;
}

bool lock_is_good(struct fs *fs, uint64_t fh)
{
    struct lock_table *table = fs->locks;
    bool good = true;

    if (!table || atomic_load(&table->users) == 0)
        return true;
    pthread_mutex_lock(&table->lock);
    for (const struct lock_file *file = held_by(table->files, fh); file && good; file = held_by(file->next, fh))
        good = consul_lock_is_held(file->lock);
    pthread_mutex_unlock(&table->lock);
    return good;
}

void lock_session(struct fs *fs, uint64_t fh, char ret_id[40])
{
    struct lock_table *table = fs->locks;
    struct consul_kv_entry *entry = NULL;
    const struct lock_file *file;

    *ret_id = '\0';
    if (!table || atomic_load(&table->users) == 0)
        return;
    pthread_mutex_lock(&table->lock);
    for (file = held_by(table->files, fh); file && !entry; file = held_by(file->next, fh))
        entry = consul_lock_entry(file->lock);
    pthread_mutex_unlock(&table->lock);
    if (entry)
        strcpy(ret_id, consul_kv_session(entry));
    consul_kv_entry_unref(entry);
}

/* ---- what the library tells ----------------------------------------------------------------------------------------
 */

/* The same bytes at another ModifyIndex: whoever has them read or open goes on from there. */
static void reindex(struct lock_table *table, const struct lock_file *file, uint64_t before,
                    struct consul_kv_entry *entry)
{
    struct content *content = content_of_entry(entry);
    struct inode *inode = NULL;

    if (!content)
        return;
    handle_reindex(table->fs, file->datacenter, before, content);
    pthread_mutex_lock(&table->lock);
    if (file->inode || file->waiting.first)
        inode = inode_ref(&table->fs->inodes, file->inode ? file->inode : file->waiting.first->op->inode);
    pthread_mutex_unlock(&table->lock);
    if (inode) {
        inode_reindex(&table->fs->inodes, inode, before, content);
        inode_unref(&table->fs->inodes, inode);
    }
    content_unref(content);
}

static void refuse(struct lock_table *table, const struct lock_file *file, const struct consul_lock_news *news)
{
    const struct consul_answer *answer = news->answer;
    const char *words = strerror(-news->err);
    char path[256];

    if (answer && answer->body_len > 0)
        words = answer->body;
    else if (news->err == -EFBIG)
        words = "a value too large for a transaction cannot be locked";
    snprintf(path, sizeof(path), "kv/%s", file->key);
    refusals_add(&table->fs->refusals, answer ? answer->method : "lock", answer ? answer->path : path,
                 answer ? answer->status : 0, words, strlen(words));
}

/* No attempt will end otherwise. */
static bool is_final(int err)
{
    return err == -EACCES || err == -EINVAL || err == -EFBIG || err == -EOPNOTSUPP || err == -ENAMETOOLONG;
}

/* The descriptors that hold something here must not be used any more. Returns them, chained. */
static struct user *take_losers(struct lock_file *file)
{
    struct user *losers = NULL, **at = &file->users;

    while (*at) {
        struct user *user = *at;

        if (!lock_set_has(&file->set, user->fh)) {
            at = &user->next;
            continue;
        }
        if (!(user->fh & 1))
            handle_lose((struct handle *)(uintptr_t)user->fh);
        *at = user->next;
        user->next = losers;
        losers = user;
        atomic_fetch_sub(&file->table->users, 1);
    }
    return losers;
}

/* Without table.lock. */
static void tell_losers(struct lock_table *table, struct user *losers)
{
    struct inode_table *inodes = &table->fs->inodes;

    while (losers) {
        struct user *next = losers->next;

        if (losers->fh & 1) { /* it reads from the kernel's pages */
            pthread_mutex_lock(&inodes->lock);
            losers->inode->lock_lost = true;
            pthread_mutex_unlock(&inodes->lock);
            inode_detach(inodes, losers->inode);
            notify_lost(table->fs, losers->inode);
        }
        inode_unref(inodes, losers->inode);
        free(losers);
        losers = next;
    }
}

static void complain(struct lock_table *table, const struct lock_file *file, const char *why)
{
    char path[256];

    if (file->datacenter)
        snprintf(path, sizeof(path), "datacenters/%s/kv/%s", file->datacenter, file->key);
    else
        snprintf(path, sizeof(path), "kv/%s", file->key);
    log_line(LOG_WARNING, "the lock on %s is lost: %s", path, why);
    refusals_add(&table->fs->refusals, "lock", path, 0, why, strlen(why));
}

static void on_news(void *arg, struct consul_lock *lock, const struct consul_lock_news *news)
{
    struct lock_file *file = arg;
    struct lock_table *table = file->table;
    struct user *losers = NULL;
    struct queue woken;

    (void)lock;
    queue_init(&woken);
    if (news->entry)
        reindex(table, file, news->before_index, news->entry);
    pthread_mutex_lock(&table->lock);
    if (news->event == CONSUL_LOCK_LOST && file->set.first)
        complain(table, file, news->why ? news->why : "its session ended");
    switch (news->event) {
    case CONSUL_LOCK_HELD:
        if (file->state == FILE_TAKING)
            file->state = FILE_HELD;
        file->held_ns = consul_now_ns();
        file->caught_up = news->before_index > 0 && news->before_index == file->own_index;
        break;
    case CONSUL_LOCK_BUSY:
        file->busy = true;
        end_all(&file->waiting, false, -EAGAIN, &woken);
        break;
    case CONSUL_LOCK_FAILED:
        if (is_final(news->err) || (file->waiting.first && !file->waiting.first->wait))
            refuse(table, file, news);
        file->busy = false;
        end_all(&file->waiting, is_final(news->err), news->err == -EFBIG ? -ENOLCK : news->err, &woken);
        end_all(&file->unlocking, true, 0, &woken);
        break;
    case CONSUL_LOCK_LOST:
        losers = take_losers(file);
        lock_set_empty(&file->set);
        file->state = FILE_RELEASING;
        break;
    case CONSUL_LOCK_REMOVED:
        file->detached = true;
        file->state = FILE_RELEASING;
        break;
    case CONSUL_LOCK_UNLOCKED:
        file->own_index = news->entry->modify_index;
        break;
    case CONSUL_LOCK_AT_REST:
        file->state = FILE_FREE;
        break;
    }
    settle(file, &woken);
    pthread_mutex_unlock(&table->lock);
    tell_losers(table, losers);
    wake(&woken);
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------
 */

void lock_count(struct fs *fs, struct lock_counts *ret_counts)
{
    struct lock_counts counts = {0};

    pthread_mutex_lock(&fs->locks->lock);
    for (const struct lock_file *file = fs->locks->files; file; file = file->next) {
        counts.held += file->set.first != NULL;
        for (const struct lock_request *request = file->waiting.first; request; request = request->next)
            counts.waiting++;
    }
    pthread_mutex_unlock(&fs->locks->lock);
    *ret_counts = counts;
}

int lock_table_new(struct fs *fs, struct lock_table **ret_table)
{
    struct lock_table *table = calloc(1, sizeof(*table));

    if (!table)
        return -ENOMEM;
    table->fs = fs;
    pthread_mutex_init(&table->lock, NULL);
    *ret_table = table;
    return 0;
}

void lock_table_stop(struct lock_table *table)
{
    struct queue woken;

    if (!table)
        return;
    queue_init(&woken);
    pthread_mutex_lock(&table->lock);
    table->stopping = true;
    for (struct lock_file *file = table->files; file; file = file->next) {
        end_all(&file->waiting, true, -ECANCELED, &woken);
        end_all(&file->unlocking, true, 0, &woken);
    }
    pthread_mutex_unlock(&table->lock);
    wake(&woken);
}

void lock_table_free(struct lock_table *table)
{
    if (!table)
        return;
    while (table->files)
        free_file(table->files);
    pthread_mutex_destroy(&table->lock);
    free(table);
}
