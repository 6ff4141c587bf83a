#include "ops.h"

#include "announce.h"
#include "log.h"
#include "notify.h"
#include "process.h"

#include <string.h>
#include <sys/statvfs.h>

const char *const counter_names[COUNTERS] = {
    [COUNT_LOOKUP] = "upcalls.lookup",
    [COUNT_GETATTR] = "upcalls.getattr",
    [COUNT_SETATTR] = "upcalls.setattr",
    [COUNT_OPEN] = "upcalls.open",
    [COUNT_READ] = "upcalls.read",
    [COUNT_WRITE] = "upcalls.write",
    [COUNT_FLUSH] = "upcalls.flush",
    [COUNT_RELEASE] = "upcalls.release",
    [COUNT_FSYNC] = "upcalls.fsync",
    [COUNT_OPENDIR] = "upcalls.opendir",
    [COUNT_READDIR] = "upcalls.readdir",
    [COUNT_CREATE] = "upcalls.create",
    [COUNT_UNLINK] = "upcalls.unlink",
    [COUNT_MKDIR] = "upcalls.mkdir",
    [COUNT_RMDIR] = "upcalls.rmdir",
    [COUNT_RENAME] = "upcalls.rename",
    [COUNT_XATTR] = "upcalls.xattr",
    [COUNT_LOCK] = "upcalls.lock",
    [COUNT_FORGET] = "upcalls.forget",
    [COUNT_STATFS] = "upcalls.statfs",
    [COUNT_POLL] = "upcalls.poll",
    [COUNT_ANNOUNCING] = "upcalls.announcing",
    [COUNT_PARKED] = "operations.parked",
    [COUNT_INTERRUPTED] = "operations.interrupted",
    [COUNT_TIMED_OUT] = "operations.timed_out",
    [COUNT_NOTIFIED] = "kernel.notified",
    [COUNT_FILLED] = "kernel.files_filled",
    [COUNT_NAMES_TOO_LONG] = "names.left_out",
};

void fs_name_left_out(struct fs *fs)
{
    fs_count(fs, COUNT_NAMES_TOO_LONG);
    if (!atomic_exchange(&fs->left_out_logged, true))
        log_line(LOG_WARNING,
                 "a name that is too long for a file is left out of its listing; .consulfs/stats counts these");
}

struct inode *inode_of(struct fs *fs, fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? fs->root : (struct inode *)(uintptr_t)ino;
}

/*
 * The kernel refuses these on a read-only mount; but `mount -o remount,rw` asks nobody, and what would be written then
 * could not be stored: no descriptor has a handle.
 */
static bool changes_something(enum counter counter)
{
    return counter == COUNT_SETATTR || counter == COUNT_CREATE || counter == COUNT_UNLINK || counter == COUNT_MKDIR ||
           counter == COUNT_RMDIR || counter == COUNT_RENAME;
}

struct op *begin(fuse_req_t req, enum counter counter, fuse_ino_t ino, const char *name, op_run_fn *run)
{
    struct fs *fs = fs_of(req);
    struct op *op;

    op = op_new(fs, req, inode_of(fs, ino), name, run);
    fs_count(fs, op && op->quiet ? COUNT_ANNOUNCING : counter);
    if (!op) {
        fuse_reply_err(req, ENOMEM);
    } else if (fs->options->read_only && changes_something(counter)) {
        fuse_reply_err(req, EROFS);
        op_free(op);
        op = NULL;
    }
    return op;
}

/* ---- attributes and entries -------------------------------------------------------------------------------------- */

static mode_t mode_of(const struct fs *fs, const struct kind *kind)
{
    mode_t mode = kind->mode & 07777, mask = fs->options->umask_given ? fs->options->umask : 022;

    if (S_ISLNK(kind->mode))
        return kind->mode;
    if (mode == 0644 || mode == 0755) /* for everybody, as far as umask= lets them */
        mode |= 0022;
    mode &= ~mask;
    if (fs->options->read_only)
        mode &= ~(mode_t)0222;
    return (kind->mode & S_IFMT) | mode;
}

/*
 * Who writes, by whichever descriptor, sees what is written; all others see what is stored. The kernel says which
 * thread asks, not through which descriptor, and a descriptor may have been inherited. An announcing thread is to leave
 * the length as it is.
 */
static bool writes_it(struct fs *fs, const struct inode *inode, const struct handle *writer, pid_t pid)
{
    return announcing_is(fs, pid) || process_is_same(writer->pid, pid) ||
           process_has_open(pid, inode->number, node_id(fs, inode));
}

void fill_attr(struct fs *fs, struct inode *inode, pid_t pid, struct stat *attr)
{
    const struct kind *kind = inode->kind;
    struct handle *writer = NULL;
    uint64_t mtime_ns;
    bool known;

    memset(attr, 0, sizeof(*attr));
    pthread_mutex_lock(&fs->inodes.lock);
    mtime_ns = inode->mtime_ns ? inode->mtime_ns : fs->mounted_ns;
    known = inode->content != NULL;
    attr->st_size = known ? (off_t)inode->content->len : 0;
    attr->st_nlink = inode->current ? 1 : 0;
    if (inode->writer)
        writer = handle_ref(inode->writer);
    pthread_mutex_unlock(&fs->inodes.lock);
    if (writer && !writes_it(fs, inode, writer, pid)) {
        handle_unref(writer);
        writer = NULL;
    }
    if (writer) {
        attr->st_size = (off_t)handle_len(writer);
        handle_unref(writer);
    }
    if (kind->stream)
        attr->st_size = (off_t)handle_stream_size(fs, inode, pid);
    attr->st_ino = inode->number;
    attr->st_mode = mode_of(fs, kind);
    if (fs->no_open && S_ISREG(kind->mode) && !known) /* open() is not there to refuse it */
        attr->st_mode &= ~(mode_t)0777;
    attr->st_uid = fs->options->uid;
    attr->st_gid = fs->options->gid;
    attr->st_blksize = kind->block_size ? kind->block_size : 4096;
    attr->st_blocks = (attr->st_size + 511) / 512;
    attr->st_mtim.tv_sec = (time_t)(mtime_ns / 1000000000u);
    attr->st_mtim.tv_nsec = (long)(mtime_ns % 1000000000u);
    attr->st_atim = attr->st_ctim = attr->st_mtim;
}

/* An inode's attributes never change, except while it is being written here. */
static double attr_timeout(struct fs *fs, struct inode *inode)
{
    bool settled;

    pthread_mutex_lock(&fs->inodes.lock);
    settled = !inode->writer && inode->storing == 0 && (inode->content || S_ISDIR(inode->kind->mode));
    pthread_mutex_unlock(&fs->inodes.lock);
    return settled ? TIMEOUT_UNLIMITED : 0;
}

void fill_entry(struct op *op, struct inode *inode, double timeout, struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){
        .ino = node_id(op->fs, inode),
        .generation = inode->number,
        .entry_timeout = timeout,
        .attr_timeout = attr_timeout(op->fs, inode),
    };
    fill_attr(op->fs, inode, op->pid, &entry->attr);
}

/* Does the resource show what is in the directory, and not what is below it? */
static bool is_of_one_directory(const struct consul_resource *resource)
{
    enum consul_kv_scope scope = consul_resource_kv_scope(resource);

    return scope == CONSUL_KV_NONE || scope == CONSUL_KV_NAMES;
}

double entry_timeout(struct op *op, struct inode *inode)
{
    struct consul_resource *resource = op_rests_on(op);

    if (op->read_n == 0) /* a name that is always there */
        return op->watched_all ? TIMEOUT_UNLIMITED : 0;
    if (!resource)
        return 0;
    inode_rest_on(&op->fs->inodes, inode, resource);
    if (op->inode != inode && is_of_one_directory(resource))
        inode_list_by(&op->fs->inodes, op->inode, resource);
    return op->for_a_moment ? TIMEOUT_MOMENT : TIMEOUT_UNLIMITED;
}

int reply_entry(struct op *op, struct inode *inode, double timeout)
{
    struct inode_table *table = &op->fs->inodes;
    struct fuse_entry_param entry;

    fill_entry(op, inode, timeout, &entry);
    inode_looked_up(table, inode);
    if (!op_claim_reply(op) || fuse_reply_entry(op->req, &entry) != 0)
        inode_forget(table, inode, 1); /* interrupted: the kernel did not take it */
    inode_unref(table, inode);
    return 0;
}

int reply_ok(struct op *op)
{
    if (op_claim_reply(op))
        fuse_reply_err(op->req, 0);
    return 0;
}

int reply_attr(struct op *op, struct inode *inode)
{
    struct stat attr;

    fill_attr(op->fs, inode, op->pid, &attr);
    if (op_claim_reply(op))
        fuse_reply_attr(op->req, &attr, attr_timeout(op->fs, inode));
    return 0;
}

struct inode *inode_of_found(struct op *op, const char *name, const struct found *found)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *old = inode_peek(table, op->inode, name), *inode;
    bool new;

    inode = inode_get(table, op->inode, name, found->kind, found->content,
                      found->content ? content_mtime_ns(found->content) : found->mtime_ns, &new);
    if (old && inode && new && !(found->kind->flags & KIND_DIRECT)) {
        notify_pollers(op->fs, old);
        announce_gone(op->fs, old);
    }
    inode_unref(table, old);
    return inode;
}

/* ---- lookup, getattr, setattr ------------------------------------------------------------------------------------ */

/* A file that its writer has not stored yet exists for the writer alone. */
static struct inode *find_unstored(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    struct inode *inode = inode_peek(table, op->inode, op->name);
    struct handle *writer = NULL;
    bool mine;

    if (!inode)
        return NULL;
    pthread_mutex_lock(&table->lock);
    if (inode->writer && !inode->content)
        writer = handle_ref(inode->writer);
    pthread_mutex_unlock(&table->lock);
    mine = writer && writes_it(op->fs, inode, writer, op->pid);
    handle_unref(writer);
    if (mine)
        return inode;
    inode_unref(table, inode);
    return NULL;
}

/* Is what is in the directory that was found kept up to date by what it was found in? */
static bool is_shown_with(const struct op *op)
{
    const struct consul_resource *resource = op_rests_on(op);

    return resource && !op->by_witness && consul_resource_kv_scope(resource) == CONSUL_KV_PREFIX;
}

static int run_lookup(struct op *op)
{
    struct found found = {0};
    struct inode *inode;
    int r = tree_find(op, op->inode, op->name, &found);

    if (r == 0)
        r = tree_content(op, op->inode, op->name, &found, true);
    if (r == -ENOENT && (inode = find_unstored(op))) {
        content_unref(found.content);
        return reply_entry(op, inode, 0);
    }
    if (r < 0) {
        content_unref(found.content);
        /* That it was not there before Consul went away does not say that it is not there. */
        return r == -ENOENT && op->stale_error ? op->stale_error : r;
    }
    inode = inode_of_found(op, op->name, &found);
    content_unref(found.content);
    if (!inode)
        return -ENOMEM;
    if (S_ISDIR(inode->kind->mode)) {
        if (!is_shown_with(op))
            notify_looked_up(op->fs, inode);
        op_reaches(op, inode);
    }
    return reply_entry(op, inode, entry_timeout(op, inode));
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct op *op;

    if (announced_lookup(req, parent, name))
        return;
    op = begin(req, COUNT_LOOKUP, parent, name, run_lookup);
    if (!op)
        return;
    op_looks(op);
    op_start(op);
}

static int run_getattr(struct op *op) { return reply_attr(op, op->inode); }

/* It is there, but it has no bytes: it can only be written to, or Consul denies what is in it. */
static bool is_unreadable(struct fs *fs, struct inode *inode)
{
    struct content *content = inode_content(&fs->inodes, inode);

    content_unref(content);
    return !content && S_ISREG(inode->kind->mode);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct op *op;

    announced_getattr(req, ino);
    /* With the descriptor it is asked by read(), which says what open() could not: it is not an empty file. */
    if (fi && fs_of(req)->no_open && is_unreadable(fs_of(req), inode_of(fs_of(req), ino))) {
        fs_count(fs_of(req), COUNT_GETATTR);
        fuse_reply_err(req, EACCES);
        return;
    }
    op = begin(req, COUNT_GETATTR, ino, NULL, run_getattr);
    if (op)
        op_start(op);
}

/* Times are not kept, but to some things a touch means something. */
static int run_touch(struct op *op)
{
    const struct kind *kind = op->inode->kind;
    int r = op->new_parent ? 0 : inode_place_of(&op->fs->inodes, op->inode, &op->new_parent, &op->new_name);

    op->row = kind;
    if (r == 0)
        r = kind->touch(op, op->new_parent, op->new_name);
    return r < 0 ? r : reply_attr(op, op->inode);
}

static void on_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct fs *fs = fs_of(req);
    struct content *content = inode_content(&fs->inodes, inode_of(fs, ino));

    if (content)
        fuse_reply_readlink(req, content->data); /* a view's bytes end in a NUL */
    else
        fuse_reply_err(req, EINVAL);
    content_unref(content);
}

/* Owner, mode and times are accepted without effect, as on vfat mounted quiet. */
static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    op_run_fn *run = run_getattr;
    struct op *op;

    if (to_set & FUSE_SET_ATTR_SIZE) {
        set_size(req, ino, (uint64_t)attr->st_size, fi);
        return;
    }
    if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW) && inode_of(fs_of(req), ino)->kind->touch)
        run = run_touch;
    op = begin(req, COUNT_SETATTR, ino, NULL, run);
    if (op)
        op_start(op);
}

/* ---- forget, statfs, init ---------------------------------------------------------------------------------------- */

static void forget_one(struct fs *fs, fuse_ino_t ino, uint64_t n)
{
    fs_count(fs, COUNT_FORGET);
    if (ino != FUSE_ROOT_ID)
        inode_forget(&fs->inodes, inode_of(fs, ino), n);
}

static void on_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
    forget_one(fs_of(req), ino, n);
    fuse_reply_none(req);
}

static void on_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget_one(fs_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
    /* How much a Consul can hold is not known: no sizes, as for /proc. */
    struct statvfs stat = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};

    (void)ino;
    fs_count(fs_of(req), COUNT_STATFS);
    fuse_reply_statfs(req, &stat);
}

/* Programs ask whether a file is a terminal. */
static void on_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags,
                     const void *in, size_t in_size, size_t out_size)
{
    (void)ino, (void)cmd, (void)arg, (void)fi, (void)flags, (void)in, (void)in_size, (void)out_size;
    fuse_reply_err(req, ENOTTY);
}

/* Consul knows no links. */
static void on_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    (void)link, (void)parent, (void)name;
    fuse_reply_err(req, EPERM);
}

static void on_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    (void)ino, (void)parent, (void)name;
    fuse_reply_err(req, EPERM);
}

static void on_init(void *arg, struct fuse_conn_info *conn)
{
    struct fs *fs = arg;

    /* An inode is one version: its pages need no checking. */
    conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
    /* ls -l reads all names before it looks at the first file: what the kernel was not told with the names it would ask
     * for one by one. */
    conn->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO;
    /* A lookup that is parked must not keep others out of its directory (see device.h). */
    conn->want |= conn->capable & FUSE_CAP_PARALLEL_DIROPS;
    /*
     * On a read-only mount Consul's locks cannot be taken: the kernel keeps POSIX's itself, which are all for reading
     * there, and flock()'s come here to be refused where they would exclude anybody (ops_lock.c).
     */
    conn->want |= conn->capable & (FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_POSIX_LOCKS);
    if (fs->options->read_only)
        conn->want &= ~(unsigned)FUSE_CAP_POSIX_LOCKS;
    fs->no_open = fs->options->read_only && conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
    if (fs->on_usable)
        fs->on_usable(fs);
}

const struct fuse_lowlevel_ops consulfs_ops = {
    .init = on_init,
    .lookup = on_lookup,
    .forget = on_forget,
    .forget_multi = on_forget_multi,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .readlink = on_readlink,
    .statfs = on_statfs,
    .ioctl = on_ioctl,
    .symlink = on_symlink,
    .link = on_link,
    .mknod = on_mknod,
    .open = on_open,
    .create = on_create,
    .read = on_read,
    .write = on_write,
    .flush = on_flush,
    .fsync = on_fsync,
    .fallocate = on_fallocate,
    .release = on_release,
    .poll = on_poll,
    .flock = on_flock,
    .setlk = on_setlk,
    .getlk = on_getlk,
    .getxattr = on_getxattr,
    .listxattr = on_listxattr,
    .setxattr = on_setxattr,
    .removexattr = on_removexattr,
    .opendir = on_opendir,
    .readdir = on_readdir,
    .readdirplus = on_readdirplus,
    .releasedir = on_releasedir,
    .mkdir = on_mkdir,
    .rmdir = on_rmdir,
    .unlink = on_unlink,
    .rename = on_rename,
};
