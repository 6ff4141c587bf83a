/*
 * Upcalls of the announcing threads (announce.h): answered from what is known, and without any effect. Their purpose is
 * what the kernel does afterwards.
 */
#include "ops.h"

#include "announce.h"

#include <string.h>

/* What is removed before the eyes of watchers: it is gone already. */
static const struct kind kind_removed_file = {.mode = S_IFREG | 0644};
static const struct kind kind_removed_dir = {.mode = S_IFDIR | 0755};

static pid_t caller(fuse_req_t req) { return fuse_req_ctx(req)->pid; }

bool is_announcing(fuse_req_t req) { return announcing_is(fs_of(req), caller(req)); }

static int run_show_removed(struct op *op)
{
    struct inode *inode = inode_new_stand_in(&op->fs->inodes, op->kind, op->inode, op->name);

    if (inode)
        announcing_showed(op->fs, op->pid);
    return inode ? reply_entry(op, inode, 0) : -ENOMEM;
}

static int run_show_gone(struct op *op)
{
    struct inode *inode = announcing_gone(op->fs, op->pid);

    return inode ? reply_entry(op, inode, 0) : -ENOENT;
}

/* On the way: the directory that is held, also when it is gone from Consul by now. */
static int run_show_held(struct op *op)
{
    struct inode *inode = inode_peek(&op->fs->inodes, op->inode, op->name);

    return inode ? reply_entry(op, inode, 0) : -ENOENT;
}

bool announced_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs *fs = fs_of(req);
    enum announced_act act = ANNOUNCE_MODIFY;
    bool directory;
    struct op *op;

    if (!announcing_of(fs, caller(req), inode_of(fs, parent), name, &act, &directory)) {
        if (!is_announcing(req))
            return false;
        op = begin(req, COUNT_LOOKUP, parent, name, run_show_held);
        if (op)
            op_start(op);
        return true;
    }
    if (act == ANNOUNCE_MODIFY)
        return false;
    if (act == ANNOUNCE_CREATE) {
        fs_count(fs, COUNT_ANNOUNCING);
        fuse_reply_err(req, ENOENT);
        return true;
    }
    op = begin(req, COUNT_LOOKUP, parent, name, act == ANNOUNCE_GONE ? run_show_gone : run_show_removed);
    if (op) {
        op->kind = directory ? &kind_removed_dir : &kind_removed_file;
        op_start(op);
    }
    return true;
}

bool announced_getattr(fuse_req_t req, fuse_ino_t ino)
{
    if (ino == FUSE_ROOT_ID)
        announcing_sees_root(fs_of(req), caller(req));
    return false;
}

bool announced_remove(fuse_req_t req)
{
    if (!is_announcing(req))
        return false;
    fs_count(fs_of(req), COUNT_ANNOUNCING);
    fuse_reply_err(req, announcing_may_remove(fs_of(req), caller(req)) ? 0 : ENOENT);
    return true;
}

/* A descriptor that stores nothing. */
static struct handle *announcing_handle(struct op *op, struct inode *inode, struct content *content)
{
    struct handle *handle = handle_new(op->fs, inode, op->flags, op->pid, content);

    if (handle)
        handle->announces = true;
    return handle;
}

int open_announced(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .keep_cache = 1, .noflush = 1};
    struct content *content = inode_content(&op->fs->inodes, op->inode);
    struct handle *handle = announcing_handle(op, op->inode, content);

    content_unref(content);
    return handle ? reply_open(op, handle, &fi) : -ENOMEM;
}

/* The inode of what is there, counted. If only the name is known, one for the kernel to have until it looks. */
static int find_inode(struct op *op, struct inode **ret_inode, struct content **ret_content)
{
    struct found found = {0};
    int r = tree_find(op, op->inode, op->name, &found);

    if (r == 0)
        (void)tree_content(op, op->inode, op->name, &found, false);
    if (r < 0) {
        content_unref(found.content);
        return r;
    }
    if (S_ISREG(found.kind->mode) && !found.content)
        *ret_inode = inode_new_stand_in(&op->fs->inodes, found.kind, op->inode, op->name);
    else
        *ret_inode = inode_of_found(op, op->name, &found);
    *ret_content = found.content;
    return *ret_inode ? 0 : -ENOMEM;
}

static int run_announced_create(struct op *op)
{
    struct fuse_file_info fi = {.flags = (int)op->flags, .keep_cache = 1, .noflush = 1};
    struct inode_table *table = &op->fs->inodes;
    struct content *content = NULL;
    struct fuse_entry_param entry;
    struct handle *handle;
    struct inode *inode;
    int r = find_inode(op, &inode, &content);

    if (r < 0)
        return r;
    handle = announcing_handle(op, inode, content);
    content_unref(content);
    if (!handle || S_ISDIR(inode->kind->mode)) {
        handle_unref(handle);
        inode_unref(table, inode);
        return handle ? -EISDIR : -ENOMEM;
    }
    fi.fh = (uintptr_t)handle;
    fill_entry(op, inode, entry_timeout(op, inode), &entry);
    inode_looked_up(table, inode);
    if (!op_claim_reply(op) || fuse_reply_create(op->req, &entry, &fi) != 0) {
        inode_forget(table, inode, 1);
        handle_unref(handle);
    }
    inode_unref(table, inode);
    return 0;
}

bool announced_create(fuse_req_t req, fuse_ino_t parent, const char *name, const struct fuse_file_info *fi)
{
    struct op *op;

    if (!is_announcing(req))
        return false;
    op = begin(req, COUNT_CREATE, parent, name, run_announced_create);
    if (op) {
        op->flags = (unsigned)fi->flags;
        op_start(op);
    }
    return true;
}

static int run_announced_mkdir(struct op *op)
{
    struct content *content = NULL;
    struct inode *inode;
    int r = find_inode(op, &inode, &content);

    content_unref(content);
    return r < 0 ? r : reply_entry(op, inode, entry_timeout(op, inode));
}

bool announced_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct op *op;

    if (!is_announcing(req))
        return false;
    op = begin(req, COUNT_MKDIR, parent, name, run_announced_mkdir);
    if (op)
        op_start(op);
    return true;
}
