/* The POLL upcall; see pollers.h. */
#include "ops.h"

#include "notify.h"
#include "pollers.h"

#include <poll.h>

static bool is_outdated(struct fs *fs, struct inode *inode, const struct handle *handle, uint64_t fh)
{
    bool outdated;

    if (inode->kind->flags & KIND_DIRECT || inode->kind->stream)
        return false;
    pthread_mutex_lock(&fs->inodes.lock);
    outdated = !inode->current;
    pthread_mutex_unlock(&fs->inodes.lock);
    return outdated || (!handle && poll_id_is_outdated(fs, inode, fh));
}

/* The descriptor is on the list before it is looked at, so that no change is missed. */
void on_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
    unsigned events = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
    struct fs *fs = fs_of(req);
    struct inode *inode = inode_of(fs, ino);
    int r = ph ? poll_add(fs, inode, fi->fh, ph) : 0;

    fs_count(fs, COUNT_POLL);
    if (r < 0) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (r > 0)
        notify_pollers(fs, inode);
    if (is_outdated(fs, inode, handle_of(fi), fi->fh))
        events |= POLLPRI | POLLERR;
    fuse_reply_poll(req, events);
}
