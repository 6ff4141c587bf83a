#define FUSE_USE_VERSION 314
#include "device.h"

#include "fs.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

/* The first reply on the device answers FUSE_INIT (linux/fuse.h); the kernel ignores flags that it did not offer. */
static void amend_init(const struct iovec *iov, int count)
{
    const struct fuse_out_header *header = iov[0].iov_base;
    struct fuse_init_out *init;

    if (count < 2 || iov[0].iov_len != sizeof(*header) || header->error != 0 ||
        iov[1].iov_len < FUSE_COMPAT_22_INIT_OUT_SIZE)
        return;
    init = iov[1].iov_base;
    if (init->major == FUSE_KERNEL_VERSION)
        init->flags |= FUSE_PARALLEL_DIROPS;
}

static ssize_t device_writev(int fd, struct iovec *iov, int count, void *userdata)
{
    struct fs *fs = userdata;

    if (!atomic_exchange(&fs->init_answered, true))
        amend_init(iov, count);
    return writev(fd, iov, count);
}

static ssize_t device_read(int fd, void *data, size_t size, void *userdata)
{
    (void)userdata;
    return read(fd, data, size);
}

/* struct fuse_notify_prune_out of linux/fuse.h, 7.45 (Linux 6.18): headers of today's distributions lack it. */
#define NOTIFY_PRUNE 9
struct prune {
    struct fuse_out_header header;
    uint32_t count, padding;
    uint64_t spare;
};

int device_prune(struct fuse_session *session, uint64_t *nodes, size_t n)
{
    struct prune prune = {.header = {.error = NOTIFY_PRUNE}, .count = (uint32_t)n};
    struct iovec iov[] = {{&prune, sizeof(prune)}, {nodes, n * sizeof(*nodes)}};

    prune.header.len = (uint32_t)(iov[0].iov_len + iov[1].iov_len);
    return writev(fuse_session_fd(session), iov, 2) < 0 ? -errno : 0;
}

int device_take_over(struct fuse_session *session)
{
    static const struct fuse_custom_io io = {.writev = device_writev, .read = device_read};

    return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}
