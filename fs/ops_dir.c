/*
 * Directories: listing, and what adds, removes and moves names.
 *
 * A listing is taken whole when it is read from its beginning, so that its offsets stay true while the directory
 * changes; what it says of an inode may be cached only while its snapshot is still the newest.
 */
#include "ops.h"

#include "notify.h"

#include <stdio.h> /* RENAME_EXCHANGE */
#include <stdlib.h>
#include <string.h>

struct listed {
    char *name;
    struct found found; /* content counted */
};

/* What is older when the listing is read is not used any more. */
#define OPENED_MS 100
/* How often is waited for what the kernel does not know yet, while more and more changes. */
#define OPEN_ATTEMPTS 3

struct dir_handle {
    pthread_mutex_t lock; /* a descriptor may be shared between threads */
    struct listed *listed;
    size_t n, cap;
    bool complete;
    struct consul_resource *rests_on; /* counted; NULL: nothing that is watched */
    struct consul_snapshot *snapshot; /* counted; what the listing was made from */
    bool always;                      /* names that are always there */
    /* What the kernel knew of the directory's names when it was opened; NULL: not known, or not to be used. */
    struct consul_resource *opened_by; /* counted */
    struct consul_snapshot *opened_as; /* counted */
    uint64_t opened_ns, changes;       /* when that was, and how many changes this mount had begun */
    struct dir_handle *prev, *next;    /* guarded by fs.open_lock */
};

static void clear(struct dir_handle *dh)
{
    for (size_t i = 0; i < dh->n; i++) {
        free(dh->listed[i].name);
        content_unref(dh->listed[i].found.content);
    }
    dh->n = 0;
    dh->complete = false;
    consul_resource_unref(dh->rests_on);
    consul_snapshot_unref(dh->snapshot);
    dh->rests_on = NULL;
    dh->snapshot = NULL;
}

static void forget_opened(struct dir_handle *dh)
{
    consul_resource_unref(dh->opened_by);
    consul_snapshot_unref(dh->opened_as);
    dh->opened_by = NULL;
    dh->opened_as = NULL;
}

static struct dir_handle *dir_handle_of(const struct fuse_file_info *fi)
{
    return (struct dir_handle *)(uintptr_t)fi->fh;
}

static void dir_handle_free(struct fs *fs, struct dir_handle *dh)
{
    pthread_mutex_lock(&fs->open_lock);
    if (dh->prev)
        dh->prev->next = dh->next;
    else
        fs->dirs = dh->next;
    if (dh->next)
        dh->next->prev = dh->prev;
    pthread_mutex_unlock(&fs->open_lock);
    clear(dh);
    forget_opened(dh);
    free(dh->listed);
    pthread_mutex_destroy(&dh->lock);
    free(dh);
}

void dir_handle_free_all(struct fs *fs)
{
    while (fs->dirs)
        dir_handle_free(fs, fs->dirs);
}

/* What shows the directory's names, if it is watched, as it is now. */
static void remember_opened(struct fs *fs, struct inode *dir, struct dir_handle *dh)
{
    bool watched = false;

    dh->opened_ns = consul_now_ns();
    dh->changes = fs->own.begun;
    dh->opened_by = inode_lister(&fs->inodes, dir);
    if (dh->opened_by)
        dh->opened_as = consul_resource_peek(dh->opened_by, &watched);
    if (!watched || !dh->opened_as)
        forget_opened(dh);
}

/* Parks until the kernel knows what a listing will no longer show. */
static int wait_until_known(struct op *op, struct dir_handle *dh)
{
    int r = op_park(op);

    if (r < 0)
        return r;
    remember_opened(op->fs, op->inode, dh);
    if (notify_wait_in(op->fs, op->inode, op) == -EINPROGRESS)
        return -EINPROGRESS;
    op_unpark(op);
    return 0;
}

/*
 * What a listing no longer shows is not to be found by its name either. The kernel knows names by itself, and takes
 * note that one is gone only while nobody reads the directory: before that is the time to wait for it, and what changes
 * between this and the reading is left to the next who opens it.
 */
static int run_opendir(struct op *op)
{
    struct fuse_file_info fi = {0};
    struct fs *fs = op->fs;
    struct dir_handle *dh = calloc(1, sizeof(*dh));

    if (!dh)
        return -ENOMEM;
    if (!op->quiet && op->attempts++ < OPEN_ATTEMPTS) { /* what it announces is being told */
        int r = wait_until_known(op, dh);

        if (r < 0) {
            forget_opened(dh);
            free(dh);
            return r;
        }
    }
    pthread_mutex_init(&dh->lock, NULL);
    pthread_mutex_lock(&fs->open_lock);
    dh->next = fs->dirs;
    if (fs->dirs)
        fs->dirs->prev = dh;
    fs->dirs = dh;
    pthread_mutex_unlock(&fs->open_lock);
    fi.fh = (uintptr_t)dh;
    op_reaches(op, op->inode);
    if (!op_claim_reply(op) || fuse_reply_open(op->req, &fi) != 0)
        dir_handle_free(fs, dh);
    return 0;
}

/*
 * Never ENOSYS, on which the kernel would open directories by itself, and keep their listings in its page cache: all of
 * them, also those that nothing watches. Nor could it be told reliably that a listing has changed: what a reader puts
 * there may come from a reply that was on its way when the pages were invalidated, and a name that is new to the kernel
 * does not count as a change of its directory. And without a handle a listing has no place between two reads of it.
 */
void on_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct op *op = begin(req, COUNT_OPENDIR, ino, NULL, run_opendir);

    (void)fi;
    if (!op)
        return;
    op_looks(op);
    op_start(op);
}

void on_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    dir_handle_free(fs_of(req), dir_handle_of(fi));
    fuse_reply_err(req, 0);
}

/* ---- taking a listing -------------------------------------------------------------------------------------------- */

struct collector {
    struct lister lister;
    struct op *op;
    struct dir_handle *dh;
};

static int collect(struct lister *lister, const char *name, const struct found *found)
{
    struct collector *collector = (struct collector *)lister;
    struct dir_handle *dh = collector->dh;
    char *copy = strdup(name);

    if (copy && dh->n == dh->cap) {
        size_t cap = dh->cap ? dh->cap * 2 : 64;
        struct listed *listed = realloc(dh->listed, cap * sizeof(*listed));

        if (listed) {
            dh->listed = listed;
            dh->cap = cap;
        }
    }
    if (!copy || dh->n == dh->cap) {
        free(copy);
        content_unref(found->content);
        return -ENOMEM;
    }
    dh->listed[dh->n++] = (struct listed){.name = copy, .found = *found};
    return 0;
}

/* Documents whose bytes are still to be made. */
static int fill_contents(struct op *op, struct dir_handle *dh)
{
    for (size_t i = 0; i < dh->n; i++) {
        int r = S_ISDIR(dh->listed[i].found.kind->mode)
                    ? 0
                    : tree_content(op, op->inode, dh->listed[i].name, &dh->listed[i].found, false);

        if (r == -EINPROGRESS)
            return r;
    }
    return 0;
}

/* Once, and not if this mount may have changed the names itself. */
static void show_opened(struct op *op, struct dir_handle *dh)
{
    bool recent = consul_now_ns() - dh->opened_ns < OPENED_MS * 1000000ull;

    if (!recent || op->fs->own.begun != dh->changes)
        forget_opened(dh);
    op_show(op, dh->opened_by, dh->opened_as);
}

/* dh->lock is held. */
static int take_listing(struct op *op, struct dir_handle *dh, bool with_content)
{
    struct collector collector = {.lister = {.emit = collect, .with_content = with_content}, .op = op, .dh = dh};
    struct consul_resource *resource;
    int r;

    clear(dh);
    inode_set_listing(&op->fs->inodes, op->inode, true);
    show_opened(op, dh);
    r = tree_list(op, op->inode, &collector.lister);
    if (r == 0 && with_content)
        r = fill_contents(op, dh);
    if (r < 0) {
        if (r != -EINPROGRESS)
            inode_set_listing(&op->fs->inodes, op->inode, false);
        clear(dh);
        return r;
    }
    dh->always = op->read_n == 0 && op->watched_all;
    for (size_t i = 0; i < op->read_n; i++)
        inode_list_by(&op->fs->inodes, op->inode, op->read[i].resource);
    resource = op_rests_on(op);
    if (resource) {
        dh->rests_on = consul_resource_ref(resource);
        dh->snapshot = consul_snapshot_ref(op->read[0].snapshot);
    }
    dh->complete = true;
    forget_opened(dh);
    return 0;
}

/* ---- handing it over --------------------------------------------------------------------------------------------- */

/* How long the kernel may rely on the listing's entries; *ret_binding, borrowed, is what they rest on then. */
static double listing_timeout(const struct dir_handle *dh, struct consul_resource **ret_binding)
{
    struct consul_snapshot *now;
    bool watched, newest;

    *ret_binding = NULL;
    if (dh->always)
        return TIMEOUT_UNLIMITED;
    if (!dh->rests_on)
        return TIMEOUT_MOMENT;
    now = consul_resource_peek(dh->rests_on, &watched);
    newest = now == dh->snapshot;
    consul_snapshot_unref(now);
    if (!watched)
        return TIMEOUT_MOMENT;
    if (!newest)
        return 0;
    *ret_binding = dh->rests_on;
    return TIMEOUT_UNLIMITED;
}

static void fill_nameless(const struct found *found, uint64_t number, struct stat *attr)
{
    memset(attr, 0, sizeof(*attr));
    attr->st_mode = found->kind->mode & S_IFMT;
    attr->st_ino = number;
}

/* Is there enough to tell the kernel the whole inode? */
static bool is_known(const struct fs *fs, const struct found *found)
{
    return S_ISDIR(found->kind->mode) || found->content || (found->kind->flags & KIND_DIRECT && !fs->no_open);
}

struct chunk {
    struct op *op;
    bool plus;
    char *data;
    size_t len, size;
    struct inode **looked_up; /* told to the kernel; to be taken back if the reply fails */
    size_t n;
};

/* False when the chunk is full. */
static bool add_name(struct chunk *chunk, const char *name, const struct found *found, struct inode *inode,
                     double timeout, off_t next)
{
    struct fuse_entry_param entry = {0};
    size_t room = chunk->size - chunk->len, used;

    if (inode)
        fill_entry(chunk->op, inode, timeout, &entry);
    else
        fill_nameless(found, 0xffffffff, &entry.attr);
    if (chunk->plus)
        used = fuse_add_direntry_plus(chunk->op->req, chunk->data + chunk->len, room, name, &entry, next);
    else
        used = fuse_add_direntry(chunk->op->req, chunk->data + chunk->len, room, name, &entry.attr, next);
    if (used > room)
        return false;
    chunk->len += used;
    return true;
}

static bool add_dots(struct chunk *chunk, off_t *offset)
{
    static const struct kind dir = {.mode = S_IFDIR};
    static const struct found found = {.kind = &dir};

    for (; *offset < 2; ++*offset)
        if (!add_name(chunk, *offset == 0 ? "." : "..", &found, NULL, 0, *offset + 1))
            return false;
    return true;
}

static bool add_listed(struct chunk *chunk, struct listed *listed, double timeout, struct consul_resource *binding,
                       off_t next)
{
    struct op *op = chunk->op;
    struct inode_table *table = &op->fs->inodes;
    const struct found *found = &listed->found;
    struct inode *inode = NULL;
    bool fits;

    /* One that stands for an older version is left to the notification, which tells its watchers, too. */
    if (chunk->plus && is_known(op->fs, found) &&
        !inode_is_held_as_other(table, op->inode, listed->name, found->kind, found->content)) {
        inode = inode_of_found(op, listed->name, found);
        if (inode && binding)
            inode_rest_on(table, inode, binding);
        else if (inode && timeout > 0)
            inode_set_listed(table, inode);
    }
    fits = add_name(chunk, listed->name, found, inode, timeout, next);
    if (inode && fits) {
        inode_looked_up(table, inode);
        chunk->looked_up[chunk->n++] = inode;
    }
    inode_unref(table, inode);
    return fits;
}

static void send(struct chunk *chunk)
{
    struct op *op = chunk->op;

    if (op_claim_reply(op) && fuse_reply_buf(op->req, chunk->data, chunk->len) == 0)
        return;
    for (size_t i = 0; i < chunk->n; i++)
        inode_forget(&op->fs->inodes, chunk->looked_up[i], 1);
}

/* dh->lock is held. */
static int fill_chunk(struct chunk *chunk, struct dir_handle *dh)
{
    struct op *op = chunk->op;
    struct consul_resource *binding;
    double timeout = listing_timeout(dh, &binding);
    off_t offset = op->offset;

    chunk->data = malloc(op->size);
    chunk->looked_up = malloc((op->size / 64 + 1) * sizeof(*chunk->looked_up)); /* no entry is smaller */
    if (!chunk->data || !chunk->looked_up)
        return -ENOMEM;
    if (add_dots(chunk, &offset)) {
        while ((size_t)(offset - 2) < dh->n) {
            if (!add_listed(chunk, &dh->listed[offset - 2], timeout, binding, offset + 1))
                break;
            offset++;
        }
    }
    return 0;
}

static int readdir(struct op *op, bool plus)
{
    struct dir_handle *dh = op->state;
    struct chunk chunk = {.op = op, .plus = plus, .size = op->size};
    int r = 0;

    pthread_mutex_lock(&dh->lock);
    if (op->offset == 0 || !dh->complete)
        r = take_listing(op, dh, plus);
    if (r == 0)
        r = fill_chunk(&chunk, dh);
    pthread_mutex_unlock(&dh->lock);
    if (r == 0) /* the directory may be closed, and dh gone, from here on */
        send(&chunk);
    free(chunk.looked_up);
    free(chunk.data);
    return r;
}

static int run_readdir(struct op *op) { return readdir(op, false); }

static int run_readdirplus(struct op *op) { return readdir(op, true); }

static void begin_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi,
                          op_run_fn *run)
{
    struct op *op = begin(req, COUNT_READDIR, ino, NULL, run);

    if (!op)
        return;
    op->size = size;
    op->offset = offset;
    op->state = dir_handle_of(fi);
    op_looks(op);
    op_start(op);
}

void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    begin_readdir(req, ino, size, offset, fi, run_readdir);
}

void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    begin_readdir(req, ino, size, offset, fi, run_readdirplus);
}

/* ---- names come and go --------------------------------------------------------------------------------------------
 */

/* What the name is now; remembered, because once it is removed it cannot be found. */
static int find_kind(struct op *op)
{
    struct found found = {0};
    int r;

    if (op->kind)
        return 0;
    r = tree_find(op, op->inode, op->name, &found);
    content_unref(found.content);
    if (r == 0)
        op->kind = found.kind;
    return r;
}

/*
 * What is open of a file, counted. Its inode need not be the name's any more: the notify thread may have seen before us
 * that the name is gone.
 */
static size_t all_open(struct op *op, const struct kind *kind, struct inode *dir, const char *name,
                       struct handle ***ret_handles)
{
    size_t n, kept = 0;

    if (!kind || !kind->stands_at || handle_all(op->fs, NULL, NULL, ret_handles, &n) < 0) {
        *ret_handles = NULL;
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        struct handle *handle = (*ret_handles)[i];

        if (kind->stands_at(op, handle->inode, dir, name))
            (*ret_handles)[kept++] = handle;
        else
            handle_unref(handle);
    }
    return kept;
}

/* What open descriptors still write to a file that was here goes nowhere. */
static void unlink_open(struct op *op, struct inode *dir, const char *name, const struct inode *except)
{
    struct inode_table *table = &op->fs->inodes;
    struct handle **handles;
    size_t n = all_open(op, op->kind, dir, name, &handles);

    for (size_t i = 0; i < n; i++) {
        if (handles[i]->inode != except) {
            pthread_mutex_lock(&table->lock);
            handles[i]->inode->unlinked = true;
            pthread_mutex_unlock(&table->lock);
        }
        handle_unref(handles[i]);
    }
    free(handles);
}

/* What is open of a file that is about to move goes along, also if it was opened when the file had another name. */
static void settle_open(struct op *op, const struct kind *kind, struct inode *dir, const char *name)
{
    struct handle **handles;
    size_t n;

    if (S_ISDIR(kind->mode))
        return;
    n = all_open(op, kind, dir, name, &handles);
    for (size_t i = 0; i < n; i++) {
        inode_settle(&op->fs->inodes, handles[i]->inode, dir, name);
        handle_unref(handles[i]);
    }
    free(handles);
}

static void forget_removed(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;

    /* Who removes a directory removes no value: one that was open there was taken away by somebody else before. */
    if (op->kind && !S_ISDIR(op->kind->mode))
        unlink_open(op, op->inode, op->name, NULL);
    if (!op->removed)
        return;
    pthread_mutex_lock(&table->lock);
    op->removed->unlinked = true;
    pthread_mutex_unlock(&table->lock);
    inode_detach(table, op->removed);
    notify_pollers(op->fs, op->removed);
}

/* Created, not stored yet, and unlinked: nothing has to be told to Consul. */
static bool is_unstored(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    bool unstored;

    if (!op->removed)
        return false;
    pthread_mutex_lock(&table->lock);
    unstored = op->removed->writer && !op->removed->content;
    pthread_mutex_unlock(&table->lock);
    return unstored;
}

/* r: what the node kind's own function said. */
static int removed(struct op *op, int r)
{
    if (r < 0)
        return r;
    forget_removed(op);
    return reply_ok(op);
}

static int run_unlink(struct op *op)
{
    int r = find_kind(op);

    op->row = op->kind;
    if (r == -ENOENT && is_unstored(op))
        r = 0;
    else if (r == 0)
        r = op->kind->unlink ? op->kind->unlink(op, op->inode, op->name) : -EPERM;
    return removed(op, r);
}

static int run_rmdir(struct op *op)
{
    int r = find_kind(op);

    op->row = op->kind;
    if (r == 0)
        r = op->kind->rmdir ? op->kind->rmdir(op, op->inode, op->name) : -EPERM;
    return removed(op, r);
}

static void begin_remove(fuse_req_t req, enum counter counter, fuse_ino_t parent, const char *name, op_run_fn *run)
{
    struct op *op;

    if (announced_remove(req))
        return;
    op = begin(req, counter, parent, name, run);
    if (!op)
        return;
    op_owns(op, op->inode, name);
    op->removed = inode_peek(&op->fs->inodes, op->inode, op->name);
    op_start(op);
}

void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin_remove(req, COUNT_UNLINK, parent, name, run_unlink);
}

void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin_remove(req, COUNT_RMDIR, parent, name, run_rmdir);
}

static int run_mkdir(struct op *op)
{
    struct inode *inode;
    bool new;
    int r = op->kind ? 0 : tree_row_for_new(op, op->inode, op->name, true, &op->kind);

    op->row = op->kind;
    if (r == 0)
        r = op->kind->mkdir(op, op->inode, op->name);
    if (r < 0)
        return r;
    inode = inode_get(&op->fs->inodes, op->inode, op->name, op->kind, NULL, 0, &new);
    return inode ? reply_entry(op, inode, 0) : -ENOMEM;
}

void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct op *op;

    (void)mode;
    if (announced_mkdir(req, parent, name))
        return;
    op = begin(req, COUNT_MKDIR, parent, name, run_mkdir);
    if (!op)
        return;
    op_owns(op, op->inode, name);
    op_start(op);
}

/* An empty file of one of the kinds that can be created by themselves: tar makes them so. */
static int run_mknod(struct op *op)
{
    struct content *content;
    struct inode *inode;
    bool new;
    int r = op->kind ? 0 : tree_row_for_new(op, op->inode, op->name, false, &op->kind);

    if (r == 0 && !op->kind->create_exclusive)
        r = -EPERM;
    op->row = op->kind;
    if (r == 0)
        r = op->kind->create_exclusive(op, op->inode, op->name);
    if (r < 0)
        return r;
    content = op->stored ? content_of_entry(op->stored) : NULL;
    inode = inode_get(&op->fs->inodes, op->inode, op->name, op->kind, content, content ? content_mtime_ns(content) : 0,
                      &new);
    content_unref(content);
    return inode ? reply_entry(op, inode, 0) : -ENOMEM;
}

/* Consul knows no devices. */
void on_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct op *op;

    (void)rdev;
    if (!S_ISREG(mode)) {
        fuse_reply_err(req, EPERM);
        return;
    }
    op = begin(req, COUNT_CREATE, parent, name, run_mknod);
    if (!op)
        return;
    op_owns(op, op->inode, name);
    op_start(op);
}

/* What a rename moves, counted; there is a second one in an exchange. NULL: our table had none. */
struct moving {
    struct inode *inode, *other;
    const struct kind *other_kind;
};

static void look_again(struct fs *fs, struct inode *inode)
{
    struct inode **below;
    size_t n;

    notify_look(fs, inode);
    if (!S_ISDIR(inode->kind->mode) || inode_all_below(&fs->inodes, inode, &below, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        notify_look(fs, below[i]);
        inode_unref(&fs->inodes, below[i]);
    }
    free(below);
}

static void end_moving(struct fs *fs, struct inode *inode)
{
    if (inode && inode_end_storing(&fs->inodes, inode))
        look_again(fs, inode);
    inode_unref(&fs->inodes, inode);
}

static void end_rename(struct op *op)
{
    struct moving *moving = op->state;

    end_moving(op->fs, moving->inode);
    end_moving(op->fs, moving->other);
    moving->inode = moving->other = NULL;
}

static struct inode *begin_moving(struct op *op, struct inode *dir, const char *name)
{
    struct inode *inode = inode_peek(&op->fs->inodes, dir, name);

    if (inode)
        inode_begin_storing(&op->fs->inodes, inode);
    return inode;
}

/* Until it is over, the inodes are not judged by whether their old names are still there. */
static int begin_rename(struct op *op)
{
    struct moving *moving = calloc(1, sizeof(*moving));

    if (!moving)
        return -ENOMEM;
    op->state = moving;
    op->state_free = free;
    op->cleanup = end_rename;
    moving->inode = begin_moving(op, op->inode, op->name);
    if (op->flags & RENAME_EXCHANGE)
        moving->other = begin_moving(op, op->new_parent, op->new_name);
    return 0;
}

static struct inode_place place_of_kind(struct inode *dir, const char *name, const struct kind *kind)
{
    return (struct inode_place){.parent = dir, .name = name, .only = S_ISDIR(kind->mode) ? NULL : kind};
}

/* The kernel's dentry moves with its inode; so does ours, with the version that the move gave it. */
static int moved(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = ((struct moving *)op->state)->inode;
    const struct inode_place from = place_of_kind(op->inode, op->name, op->kind);
    struct content *content = op->stored && S_ISREG(op->kind->mode) ? content_of_entry(op->stored) : NULL;
    int r = 0;

    unlink_open(op, op->new_parent, op->new_name, inode);
    settle_open(op, op->kind, op->inode, op->name);
    if (inode) {
        if (content)
            inode_set_version(table, inode, content);
        r = inode_move(table, inode, op->new_parent, op->new_name);
    }
    content_unref(content);
    if (inode_move_older(table, &from, op->new_parent, op->new_name) || !inode)
        notify_name(op->fs, op->new_parent, op->new_name);
    return r;
}

/* What is moved to another datacenter is copied. */
static bool stays_in_datacenter(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    char *from = NULL, *to = NULL;
    bool same;

    inode_is_below(table, op->inode, &kind_datacenter, &from);
    inode_is_below(table, op->new_parent, &kind_datacenter, &to);
    same = !from || !to ? from == to : strcmp(from, to) == 0;
    free(from);
    free(to);
    return same;
}

/* As the kernel's dentries do. */
static void exchanged(struct op *op)
{
    const struct moving *moving = op->state;
    const struct inode_place a = place_of_kind(op->inode, op->name, op->kind);
    const struct inode_place b = place_of_kind(op->new_parent, op->new_name, moving->other_kind);

    settle_open(op, op->kind, op->inode, op->name);
    settle_open(op, moving->other_kind, op->new_parent, op->new_name);
    if (inode_exchange(&op->fs->inodes, &a, &b))
        return;
    notify_name(op->fs, op->inode, op->name);
    notify_name(op->fs, op->new_parent, op->new_name);
}

static int find_exchange(struct op *op, const struct kind **ret_other)
{
    struct found found = {0};
    int r = find_kind(op);

    if (r == 0)
        r = tree_find(op, op->new_parent, op->new_name, &found);
    content_unref(found.content);
    if (r < 0)
        return r;
    *ret_other = found.kind;
    if (!op->kind->exchange || !found.kind->exchange)
        return -EINVAL;
    return op->kind->exchange == found.kind->exchange && stays_in_datacenter(op) ? 0 : -EXDEV;
}

static int run_exchange(struct op *op)
{
    const struct kind *other;
    int r;

    if (!op->state) {
        r = find_exchange(op, &other);
        if (r == 0)
            r = begin_rename(op);
        if (r < 0)
            return r;
        ((struct moving *)op->state)->other_kind = other;
    }
    op->row = op->kind;
    r = op->kind->exchange(op, op->inode, op->name, op->new_parent, op->new_name);
    if (r < 0)
        return r;
    exchanged(op);
    if (op->kind->moved)
        op->kind->moved(op);
    return reply_ok(op);
}

static int run_rename(struct op *op)
{
    const struct kind *target;
    int r;

    if (op->inode == op->new_parent && strcmp(op->name, op->new_name) == 0)
        return reply_ok(op); /* the name changed elsewhere between the kernel's two looks */

    if (!op->kind) {
        r = find_kind(op);
        if (r < 0)
            return r;
        /* Only within the same kind of thing: elsewhere the name means something else, and mv copies. */
        r = tree_row_for_new(op, op->new_parent, op->new_name, S_ISDIR(op->kind->mode), &target);
        if (!op->kind->rename || (r < 0 && r != -EPERM))
            return op->kind->rename ? r : -EPERM;
        if (r == -EPERM || target != op->kind || !stays_in_datacenter(op))
            return -EXDEV;
        r = begin_rename(op);
        if (r < 0)
            return r;
    }
    op->row = op->kind;
    r = op->kind->rename(op, op->inode, op->name, op->new_parent, op->new_name, op->flags);
    if (r == 0)
        r = moved(op);
    if (r == 0 && op->kind->moved)
        op->kind->moved(op);
    return r < 0 ? r : reply_ok(op);
}

void on_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
               unsigned flags)
{
    struct fs *fs = fs_of(req);
    struct op *op = begin(req, COUNT_RENAME, parent, name, flags & RENAME_EXCHANGE ? run_exchange : run_rename);

    if (!op)
        return;
    op->flags = flags;
    op->new_parent = inode_ref(&fs->inodes, inode_of(fs, new_parent));
    op->new_name = strdup(new_name);
    if (!op->new_name) {
        fuse_reply_err(req, ENOMEM);
        op_free(op);
        return;
    }
    op_owns(op, op->inode, name);
    op_owns(op, op->new_parent, new_name);
    op_start(op);
}
