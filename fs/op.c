/*
 * Parking and waking. A waiting operation hangs on a resource (its waiter), on a request under way, or in a queue of
 * the program's own; each of them runs it again on the thread that wakes it, usually the library's network thread.
 */
#define FUSE_USE_VERSION 314
#include "op.h"

#include "agent.h"
#include "announce.h"
#include "handle.h"
#include "name.h"
#include "notify.h"
#include "tree.h"

#include <assert.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000ull
#define SECOND_NS (1000 * MS)
/* The request's own time-out comes first: it knows better why. */
#define DEADLINE_SLACK_NS (250 * MS)

static struct op *op_ref(struct op *op)
{
    __atomic_fetch_add(&op->refs, 1, __ATOMIC_RELAXED);
    return op;
}

static void forget_snapshots(struct op *op)
{
    for (size_t i = 0; i < op->read_n; i++) {
        consul_snapshot_unref(op->read[i].snapshot);
        consul_resource_unref(op->read[i].resource);
        free(op->read[i].path);
    }
    op->read_n = 0;
}

static void forget_stored(struct op *op)
{
    for (size_t i = 0; i < op->stored_n; i++)
        consul_kv_entry_unref(op->stored_all[i]);
    free(op->stored_all);
    op->stored_all = NULL;
    op->stored_n = 0;
}

/* Before the reply: who gets it may go on at once with what this operation held. */
static void clean_up(struct op *op)
{
    void (*cleanup)(struct op *) = op->cleanup;

    op->cleanup = NULL;
    if (cleanup)
        cleanup(op);
}

static void owns(struct op *op, struct inode *dir, const char *name, bool stores)
{
    struct op_place *place = &op->own[op->own_n];

    place->name = strdup(name);
    if (!place->name)
        return;
    if (!own_begin(&op->fs->own, dir, name)) {
        free(place->name);
        return;
    }
    place->dir = inode_ref(&op->fs->inodes, dir);
    place->stores = stores;
    op->own_n++;
}

void op_owns(struct op *op, struct inode *dir, const char *name) { owns(op, dir, name, false); }

void op_stores_in(struct op *op, struct inode *dir, const char *name) { owns(op, dir, name, true); }

/* Before the reply: the table of inodes shows what the operation left, and nobody has changed that again. */
static void end_own(struct op *op, bool succeeded)
{
    while (op->own_n > 0) {
        struct op_place *place = &op->own[--op->own_n];

        own_end(&op->fs->own, &op->fs->inodes, place->dir, place->name,
                !succeeded      ? OWN_FAILED
                : place->stores ? OWN_STORED
                                : OWN_NAMED);
        /* What was done in a directory that somebody replaced can bring it back. */
        if (succeeded && !inode_is_reached(&op->fs->inodes, place->dir))
            notify_look(op->fs, place->dir);
        inode_unref(&op->fs->inodes, place->dir);
        free(place->name);
    }
}

static void op_put(struct op *op)
{
    struct fs *fs = op->fs;

    if (__atomic_sub_fetch(&op->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    clean_up(op);
    end_own(op, false);
    forget_snapshots(op);
    free(op->read);
    if (op->state_free)
        op->state_free(op->state);
    handle_unref(op->handle);
    inode_unref(&fs->inodes, op->inode);
    inode_unref(&fs->inodes, op->new_parent);
    inode_unref(&fs->inodes, op->removed);
    consul_kv_entry_unref(op->stored);
    forget_stored(op);
    consul_kv_entry_unref(op->moving);
    consul_kv_entry_unref(op->replaced);
    free(op->name);
    free(op->new_name);
    free(op->data);
    free(op->answer);
    free(op->datacenter);
    pthread_mutex_destroy(&op->lock);
    free(op);
    atomic_fetch_sub(&fs->ops, 1);
}

bool op_claim_reply(struct op *op)
{
    bool claimed;

    end_own(op, !op->failed);

    pthread_mutex_lock(&op->lock);
    claimed = !op->replied;
    op->replied = true;
    pthread_mutex_unlock(&op->lock);
    /* From here on the interrupt function does nothing; once this returns it is not running either. */
    if (claimed && op->interruptible)
        fuse_req_interrupt_func(op->req, NULL, NULL);
    return claimed;
}

bool op_wanted(struct op *op)
{
    bool wanted;

    pthread_mutex_lock(&op->lock);
    wanted = !op->replied && !op->interrupted;
    pthread_mutex_unlock(&op->lock);
    return wanted;
}

static void reply_error(struct op *op, int err)
{
    clean_up(op);
    op->failed = true;
    if (op->req && op_claim_reply(op))
        fuse_reply_err(op->req, err == -ECANCELED ? ENOTCONN : -err);
}

static int run_once(struct op *op)
{
    unsigned ticket;
    int r;

    forget_snapshots(op);
    op->watched_all = true;
    op->for_a_moment = op->by_witness = false;
    op->stale_error = 0;
    ticket = gate_enter(&op->fs->gate);
    r = op->run(op);
    gate_leave(&op->fs->gate, ticket);
    return r;
}

/* False: a thread is in it, and will run it again when it comes out. */
static bool begin_running(struct op *op)
{
    bool mine;

    pthread_mutex_lock(&op->lock);
    mine = !op->running;
    op->running = true;
    op->run_again = !mine;
    pthread_mutex_unlock(&op->lock);
    return mine;
}

/* True: what the operation parked for has come already. */
static bool goes_on(struct op *op, int r)
{
    bool again;

    pthread_mutex_lock(&op->lock);
    again = r == -EINPROGRESS && op->run_again;
    op->running = again;
    op->run_again = false;
    pthread_mutex_unlock(&op->lock);
    return again;
}

/*
 * Consumes the caller's reference unless somebody else will run the operation again. What it has asked for may come
 * while the thread that asked is still in it: then that one goes on, and who brings the answer does not wait for it.
 */
static void drive(struct op *op)
{
    int r;

    if (!begin_running(op))
        return;
    op_ref(op); /* it may be run and ended by another thread before this one has come out */
    do
        r = run_once(op);
    while (goes_on(op, r));
    if (r != -EINPROGRESS) {
        assert(!op->waiter.resource); /* it would be run again after its end */
        if (r < 0)
            reply_error(op, r);
        op_put(op);
    }
    op_put(op);
}

struct op *op_new(struct fs *fs, struct fuse_req *req, struct inode *inode, const char *name, op_run_fn *run)
{
    struct op *op = calloc(1, sizeof(*op));
    const struct fuse_ctx *ctx = req ? fuse_req_ctx(req) : NULL;

    if (!op)
        return NULL;
    op->fs = fs;
    op->req = req;
    op->run = run;
    op->refs = 1;
    op->pid = ctx ? ctx->pid : 0;
    op->announces = announcing_is(fs, op->pid);
    op->quiet = !req || op->announces;
    op->began_ns = op->since_ns = consul_now_ns();
    pthread_mutex_init(&op->lock, NULL);
    atomic_fetch_add(&fs->ops, 1);
    op->inode = inode ? inode_ref(&fs->inodes, inode) : NULL;
    op->name = name ? strdup(name) : NULL;
    if (name && !op->name) {
        op_put(op);
        return NULL;
    }
    return op;
}

void op_start(struct op *op) { drive(op); }

void op_free(struct op *op) { op_put(op); }

/* What it looks for, or 0. */
static uint64_t place_of(const struct op *op) { return op->name ? name_hash(op->inode->number, op->name) : 0; }

void op_looks(struct op *op)
{
    if (!op->quiet)
        op->way_ns = way_look(&op->fs->ways, op->pid, op->inode->number, place_of(op), op->began_ns, &op->way_again);
}

void op_reaches(struct op *op, const struct inode *dir)
{
    if (!op->quiet)
        way_reach(&op->fs->ways, op->pid, dir->number, place_of(op), op->way_ns, op->way_again, op->began_ns,
                  consul_now_ns());
}

/* ---- interrupts -------------------------------------------------------------------------------------------------- */

static void on_interrupt(fuse_req_t req, void *arg)
{
    struct op *op = arg;
    struct fs *fs = op->fs; /* once it counts as replied to, the operation may end at any time */
    bool reply = false, mine;

    pthread_mutex_lock(&op->lock);
    op->interrupted = true;
    if (op->calling && !op->replied) { /* the request goes on; nobody waits for its outcome any more */
        op->replied = reply = true;
        op_ref(op);
    }
    pthread_mutex_unlock(&op->lock);
    if (reply) {
        fs_count(fs, COUNT_INTERRUPTED);
        fuse_reply_err(req, EINTR);
        if (op->withdraw)
            op->withdraw(op);
        op_put(op);
        return;
    }
    mine = consul_waiter_cancel(fs->consul, &op->waiter);
    if (!mine)
        return;
    clean_up(op);
    pthread_mutex_lock(&op->lock);
    op->replied = true;
    pthread_mutex_unlock(&op->lock);
    fs_count(fs, COUNT_INTERRUPTED);
    fuse_reply_err(req, EINTR);
    op_put(op);
}

/* Called before the operation parks. -EINTR when it already was interrupted. */
static int make_interruptible(struct op *op)
{
    bool interrupted;

    if (op->req && !op->interruptible && op_wanted(op)) {
        op->interruptible = true;
        fuse_req_interrupt_func(op->req, on_interrupt, op);
    }
    pthread_mutex_lock(&op->lock);
    interrupted = op->interrupted;
    pthread_mutex_unlock(&op->lock);
    return interrupted ? -EINTR : 0;
}

/* ---- datacenters ------------------------------------------------------------------------------------------------- */

const char *op_datacenter(struct op *op)
{
    char *name = NULL, datacenter[NAME_SIZE];

    if (op->knows_datacenter || !op->inode)
        return op->datacenter;
    op->knows_datacenter = true;
    if (inode_is_below(&op->fs->inodes, op->inode, &kind_datacenter, &name) && name &&
        name_decode(name, NULL, datacenter, sizeof(datacenter)) == 0)
        op->datacenter = strdup(datacenter);
    free(name);
    return op->datacenter;
}

/* The path with dc=, or NULL where it is right as it is. *ret_path is the caller's. */
static int add_datacenter(struct op *op, const char *path, char **ret_path)
{
    const char *datacenter = op_datacenter(op);
    char *encoded;
    int len;

    *ret_path = NULL;
    if (!datacenter || strncmp(path, "/v1/agent/", 10) == 0 || strstr(path, "?dc=") || strstr(path, "&dc="))
        return 0;
    encoded = malloc(3 * strlen(datacenter) + 1);
    if (!encoded)
        return -ENOMEM;
    consul_urlencode(datacenter, NULL, encoded);
    len = asprintf(ret_path, "%s%cdc=%s", path, strchr(path, '?') ? '&' : '?', encoded);
    free(encoded);
    if (len < 0)
        *ret_path = NULL;
    return len < 0 ? -ENOMEM : 0;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void on_wake(struct consul_waiter *waiter, int err)
{
    struct op *op = (struct op *)((char *)waiter - offsetof(struct op, waiter));

    if (err == -ETIMEDOUT && op->patience_ms > 0) {
        op->gave_up = true;
        err = 0;
    }
    if (err < 0) {
        if (err == -ETIMEDOUT)
            fs_count(op->fs, COUNT_TIMED_OUT);
        reply_error(op, err);
        op_put(op);
        return;
    }
    drive(op);
}

static int remember(struct op *op, const char *path, struct consul_resource *resource, struct consul_snapshot *snapshot)
{
    struct op_reading *read;

    if (op->read_n == op->read_cap) {
        size_t cap = op->read_cap ? op->read_cap * 2 : 4;

        read = realloc(op->read, cap * sizeof(*read));
        if (!read)
            return -ENOMEM;
        op->read = read;
        op->read_cap = cap;
    }
    read = &op->read[op->read_n];
    read->path = strdup(path);
    if (!read->path)
        return -ENOMEM;
    read->resource = resource;
    read->snapshot = snapshot;
    op->read_n++;
    return 0;
}

/* For who asks nobody: whatever is known. */
static int peek(struct consul_resource *resource, struct consul_snapshot **ret_snapshot,
                enum consul_freshness *ret_freshness)
{
    bool watched;

    *ret_snapshot = consul_resource_peek(resource, &watched);
    *ret_freshness = watched ? CONSUL_WATCHED : CONSUL_FRESH;
    if (*ret_snapshot)
        return 0;
    return consul_resource_error(resource) == -EFBIG ? -EFBIG : -EAGAIN;
}

void op_show(struct op *op, struct consul_resource *resource, struct consul_snapshot *snapshot)
{
    op->shown = resource;
    op->shown_as = snapshot;
}

static int why_stale(struct consul_resource *resource)
{
    int err = consul_resource_error(resource);

    return err ? err : -EHOSTUNREACH;
}

/* Since when an answer is new enough. */
static uint64_t since_ns(const struct op *op, struct consul_resource *resource)
{
    uint64_t trusted_ns = op->trusted_s * SECOND_NS;

    if (trusted_ns && op->since_ns > trusted_ns && consul_resource_is_newer(resource, op->since_ns - trusted_ns))
        return op->since_ns - trusted_ns;
    if (op->way_ns && op->way_ns < op->began_ns && op->since_ns == op->began_ns &&
        consul_resource_is_newer(resource, op->way_ns))
        return op->way_ns;
    return op->since_ns;
}

static uint64_t limit_ns(const struct op *op) { return op->fs->options->timeout_ms * MS + DEADLINE_SLACK_NS; }

/* Takes the reference to the resource, which read_path() or the caller has by this path. */
static int read_resource(struct op *op, const char *path, struct consul_resource *resource,
                         struct consul_snapshot **ret_snapshot)
{
    struct consul_snapshot *snapshot;
    enum consul_freshness freshness = CONSUL_FRESH;
    int r = 0;

    if (resource == op->shown) {
        snapshot = consul_snapshot_ref(op->shown_as);
        freshness = op->quiet ? CONSUL_FRESH : CONSUL_WATCHED;
    } else if (op->quiet) {
        r = peek(resource, &snapshot, &freshness);
    } else {
        op->waiter.wake = on_wake;
        op->waiter.deadline_ns = op->since_ns + (op->patience_ms ? op->patience_ms * MS : limit_ns(op));
        if (op->gave_up)
            r = -ETIMEDOUT;
        else if (op_wanted(op))
            r = make_interruptible(op);
        if (r == 0)
            r = consul_resource_read(resource, since_ns(op, resource), &op->waiter, &snapshot, &freshness);
        if (r == -EINPROGRESS) {
            fs_count(op->fs, COUNT_PARKED);
            consul_resource_unref(resource);
            /* An interrupt that came before the waiter was queued found nothing to cancel. */
            if (!op_wanted(op) && consul_waiter_cancel(op->fs->consul, &op->waiter))
                return -EINTR;
            return r;
        }
    }
    if (r == 0) {
        r = remember(op, path, resource, snapshot);
        if (r < 0)
            consul_snapshot_unref(snapshot);
        else if (freshness != CONSUL_WATCHED)
            op->watched_all = false;
        if (freshness == CONSUL_STALE)
            op->stale_error = why_stale(resource);
    }
    if (r < 0) {
        consul_resource_unref(resource);
        if (r == -EACCES)
            agent_denied(op->fs);
        return r;
    }
    *ret_snapshot = snapshot;
    return 0;
}

static int read_path(struct op *op, const char *path, enum consul_format format, unsigned flags, size_t max,
                     struct consul_snapshot **ret_snapshot)
{
    struct consul_resource *resource;
    int r;

    for (size_t i = 0; i < op->read_n; i++) {
        if (strcmp(op->read[i].path, path) == 0) {
            *ret_snapshot = op->read[i].snapshot;
            return 0;
        }
    }
    if (op->quiet) { /* nor does it want more than those who ask */
        resource = consul_resource_find(op->fs->consul, path);
        r = resource ? 0 : -EAGAIN;
    } else {
        r = consul_resource_get(op->fs->consul, path, format, flags & ~OP_UNLESS_DEMOTED, max, &resource);
    }
    if (r < 0)
        return r;
    if (flags & OP_UNLESS_DEMOTED && consul_resource_is_demoted(resource)) {
        consul_resource_unref(resource);
        return -EFBIG;
    }
    return read_resource(op, path, resource, ret_snapshot);
}

int op_read_resource(struct op *op, struct consul_resource *resource, struct consul_snapshot **ret_snapshot)
{
    return read_resource(op, consul_resource_path(resource), consul_resource_ref(resource), ret_snapshot);
}

int op_read(struct op *op, const char *path, enum consul_format format, unsigned flags, size_t max,
            struct consul_snapshot **ret_snapshot)
{
    char *there;
    int r = add_datacenter(op, path, &there);

    if (r == 0)
        r = read_path(op, there ? there : path, format, flags, max, ret_snapshot);
    free(there);
    return r;
}

/* The resource that op_read() reads, counted; NULL: nobody has read it. */
static struct consul_resource *find_resource(struct op *op, const char *path)
{
    struct consul_resource *resource;
    char *there;

    if (add_datacenter(op, path, &there) < 0)
        return NULL;
    resource = consul_resource_find(op->fs->consul, there ? there : path);
    free(there);
    return resource;
}

bool op_is_watched(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);
    bool watched = false;

    if (resource)
        consul_snapshot_unref(consul_resource_peek(resource, &watched));
    consul_resource_unref(resource);
    return watched;
}

bool op_is_known(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);
    struct consul_snapshot *snapshot = NULL;
    bool watched, known;

    if (resource)
        snapshot = consul_resource_peek(resource, &watched);
    known = snapshot || (resource && resource == op->shown);
    consul_snapshot_unref(snapshot);
    consul_resource_unref(resource);
    return known;
}

bool op_is_demoted(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);
    bool demoted = resource && consul_resource_is_demoted(resource);

    consul_resource_unref(resource);
    return demoted;
}

bool op_is_told(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);
    bool told = resource && resource == op->told;

    consul_resource_unref(resource);
    return told;
}

bool op_is_used(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);
    bool used = resource && (resource == op->shown || consul_resource_is_used(resource));

    consul_resource_unref(resource);
    return used;
}

bool op_is_at_hand(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);
    bool known = resource && (resource == op->shown || consul_resource_is_at_hand(resource, since_ns(op, resource)));

    consul_resource_unref(resource);
    return known;
}

void op_retire(struct op *op, const char *path)
{
    struct consul_resource *resource = find_resource(op, path);

    if (resource)
        consul_resource_retire(resource);
    consul_resource_unref(resource);
}

struct consul_resource *op_rests_on(const struct op *op)
{
    return op->read_n == 1 && op->watched_all ? op->read[0].resource : NULL;
}

bool op_has_read(const struct op *op, const struct consul_resource *resource)
{
    for (size_t i = 0; i < op->read_n; i++)
        if (op->read[i].resource == resource)
            return true;
    return false;
}

bool op_may_be_hidden(const struct op *op)
{
    for (size_t i = 0; i < op->read_n; i++)
        if (op->read[i].snapshot->filtered)
            return true;
    return agent_may_hide(op->fs);
}

void op_rest_on_nothing(struct op *op)
{
    forget_snapshots(op);
    op->watched_all = true;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static int begin_call(struct op *op)
{
    int r = make_interruptible(op);

    if (r < 0)
        return r;
    pthread_mutex_lock(&op->lock);
    if (op->interrupted) /* since then: whoever did that saw nothing to end */
        r = -EINTR;
    else
        op->calling = true;
    pthread_mutex_unlock(&op->lock);
    return r;
}

static void end_call(struct op *op, const struct consul_answer *answer)
{
    pthread_mutex_lock(&op->lock);
    op->calling = false;
    pthread_mutex_unlock(&op->lock);
    if (answer->err == -EACCES)
        agent_denied(op->fs);
    op->result = answer->err;
    op->stage++;
    op->since_ns = consul_now_ns(); /* what is read from here on must show the outcome */
    free(op->answer);
    op->answer = strndup(answer->body ? answer->body : "", answer->body_len);
}

static void abort_call(struct op *op)
{
    pthread_mutex_lock(&op->lock);
    op->calling = false;
    pthread_mutex_unlock(&op->lock);
}

static void note_refusal(struct op *op, const struct consul_answer *answer)
{
    /* cas and acquire say false with 200; the request itself tells enough then. */
    const char *words = answer->body_len > 0 ? answer->body : strerror(-answer->err);

    refusals_add(&op->fs->refusals, answer->method, answer->path, answer->status, words, strlen(words));
}

static void on_answer(void *arg, const struct consul_answer *answer)
{
    struct op *op = arg;

    if (answer->err < 0 && strcmp(answer->method, "GET") != 0)
        note_refusal(op, answer);
    end_call(op, answer);
    drive(op);
}

int op_request(struct op *op, const struct consul_request *request)
{
    struct consul_request sent = *request;
    char *there;
    int r = add_datacenter(op, request->path, &there);

    if (r < 0)
        return r;
    if (there)
        sent.path = there;
    r = begin_call(op);
    if (r == 0) {
        r = consul_request(op->fs->consul, &sent, on_answer, op);
        if (r < 0)
            abort_call(op);
        else
            r = -EINPROGRESS;
    }
    free(there);
    return r;
}

/* What an earlier step stored stays if this one stores nothing. */
static void remember_stored(struct op *op, struct consul_kv_entry *const *entries, size_t n)
{
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        if (!entries[i])
            continue;
        if (!any) {
            any = true;
            forget_stored(op);
            consul_kv_entry_unref(op->stored);
            op->stored = consul_kv_entry_ref(entries[i]);
            op->stored_all = calloc(n - i, sizeof(*op->stored_all));
            if (!op->stored_all)
                return;
        }
        op->stored_all[op->stored_n++] = consul_kv_entry_ref(entries[i]);
    }
}

static void on_kv_done(void *arg, const struct consul_answer *answer, struct consul_kv_entry *const *entries, size_t n)
{
    struct op *op = arg;

    if (answer->err < 0 && answer->err != -ESTALE && answer->err != -EEXIST && answer->err != -ENOENT)
        note_refusal(op, answer);
    remember_stored(op, entries, n);
    end_call(op, answer);
    drive(op);
}

int op_kv_txn(struct op *op, const struct consul_kv_op *ops, size_t n)
{
    int r = begin_call(op);

    if (r < 0)
        return r;
    r = consul_kv_txn(op->fs->consul, op_datacenter(op), ops, n, on_kv_done, op);
    if (r < 0)
        abort_call(op);
    return r < 0 ? r : -EINPROGRESS;
}

int op_park(struct op *op) { return begin_call(op); }

void op_unpark(struct op *op) { abort_call(op); }

void op_wake(struct op *op)
{
    abort_call(op);
    drive(op);
}
