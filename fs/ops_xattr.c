/* Extended attributes: which there are, and what they say, is the node kind's; see struct kind. */
#include "ops.h"

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

static void reply_value(fuse_req_t req, const char *value, size_t len, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(req, len);
    else if (size < len)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, value, len);
}

/*
 * What no file here can have. "Not supported" is for the whole file system: ls -l and cp -p then don't ask for it again
 * at each file. The kernel's own question for security.capability gets the ordinary answer.
 */
static bool is_unsupported(const char *name)
{
    return strcmp(name, "security.selinux") == 0 || strncmp(name, "system.posix_acl_", 17) == 0;
}

/* From what the kernel has of the inode: nobody is asked. The kernel itself asks for security.capability often. */
void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct fs *fs = fs_of(req);
    struct inode *inode = inode_of(fs, ino);
    char value[ATTRIBUTE_SIZE];
    struct content *content;
    int len = is_unsupported(name) ? -EOPNOTSUPP : -ENODATA;

    fs_count(fs, COUNT_XATTR);
    if (len == -ENODATA && inode->kind->get_attribute) {
        content = inode_content(&fs->inodes, inode);
        len = inode->kind->get_attribute(content, name, value);
        content_unref(content);
    }
    if (len < 0)
        fuse_reply_err(req, -len);
    else
        reply_value(req, value, (size_t)len, size);
}

void on_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct fs *fs = fs_of(req);
    struct inode *inode = inode_of(fs, ino);
    const char *const *name = inode->kind->attributes;
    struct content *content = inode_content(&fs->inodes, inode);
    char names[1024], value[ATTRIBUTE_SIZE];
    size_t len = 0;

    fs_count(fs, COUNT_XATTR);
    for (; name && *name && len + strlen(*name) < sizeof(names); name++) {
        if (inode->kind->get_attribute(content, *name, value) < 0)
            continue;
        strcpy(names + len, *name);
        len += strlen(*name) + 1;
    }
    content_unref(content);
    reply_value(req, names, len, size);
}

static bool has_what_was(const struct handle *handle, const void *what)
{
    const struct op *op = what;

    return handle->inode == op->inode && handle_has_version(handle, op->before);
}

/*
 * The inode has it now, and who writes to the version before goes on from there: the value is the same. What the inode
 * had does not tell which that was: its watch may have brought it what was stored, before the answer came to us.
 */
static void take_stored(struct op *op)
{
    struct inode_table *table = &op->fs->inodes;
    struct content *content = op->stored ? content_of_entry(op->stored) : NULL;
    struct handle **handles;
    size_t n;

    if (!content)
        return;
    inode_set_version(table, op->inode, content);
    if (handle_all(op->fs, has_what_was, op, &handles, &n) == 0) {
        for (size_t i = 0; i < n; i++) {
            handle_set_content(handles[i], content);
            handle_unref(handles[i]);
        }
        free(handles);
    }
    content_unref(content);
}

/* XATTR_CREATE and XATTR_REPLACE, by what the inode has. */
static int check_flags(struct op *op)
{
    struct content *content = inode_content(&op->fs->inodes, op->inode);
    char value[ATTRIBUTE_SIZE];
    bool there = op->inode->kind->get_attribute(content, op->name, value) >= 0;

    content_unref(content);
    if (op->flags & XATTR_CREATE && there)
        return -EEXIST;
    return op->flags & XATTR_REPLACE && !there ? -ENODATA : 0;
}

static int run_setxattr(struct op *op)
{
    const struct kind *kind = op->inode->kind;
    int r = op->new_parent ? 0 : inode_place_of(&op->fs->inodes, op->inode, &op->new_parent, &op->new_name);

    op->row = kind;
    if (r == 0 && op->stage == 0)
        r = check_flags(op);
    if (r == 0)
        r = kind->set_attribute(op, op->new_parent, op->new_name, op->name, op->data);
    if (r < 0)
        return r;
    take_stored(op);
    return reply_ok(op);
}

/* value NULL: it is to be removed. */
static void begin_set(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    struct fs *fs = fs_of(req);
    struct op *op;

    if (!inode_of(fs, ino)->kind->set_attribute || fs->options->read_only) {
        fs_count(fs, COUNT_XATTR);
        fuse_reply_err(req, fs->options->read_only ? EROFS : value ? EOPNOTSUPP : ENODATA);
        return;
    }
    op = begin(req, COUNT_XATTR, ino, name, run_setxattr);
    if (!op)
        return;
    op->flags = (unsigned)flags;
    op->data = value ? strndup(value, size) : NULL;
    if (value && (!op->data || strlen(op->data) != size)) {
        fuse_reply_err(req, op->data ? EINVAL : ENOMEM); /* none of them has a NUL */
        op_free(op);
        return;
    }
    op_start(op);
}

void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    begin_set(req, ino, name, value, size, flags);
}

void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name) { begin_set(req, ino, name, NULL, 0, 0); }
