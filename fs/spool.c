#include "spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEND_TIMEOUT_MS (15 * 60 * 1000) /* it may be gigabytes */

struct spool {
    const struct spool_target *target; /* constant */
    int fd;                            /* constant */
    pthread_mutex_t lock;
    uint64_t len; /* guarded by lock */
    bool unsent;  /* guarded by lock */
};

/* A file that is gone when it is closed. */
static int open_unnamed(void)
{
    const char *dir = getenv("TMPDIR");
    char path[] = "/tmp/consulfs.XXXXXX";
    int fd = open(dir && *dir ? dir : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0)
        return fd;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd >= 0 ? fd : -errno;
}

int spool_new(const struct spool_target *target, struct spool **ret_spool)
{
    struct spool *spool = calloc(1, sizeof(*spool));

    if (!spool)
        return -ENOMEM;
    spool->fd = open_unnamed();
    if (spool->fd < 0) {
        int r = spool->fd;

        free(spool);
        return r;
    }
    spool->target = target;
    pthread_mutex_init(&spool->lock, NULL);
    *ret_spool = spool;
    return 0;
}

void spool_free(struct spool *spool)
{
    if (!spool)
        return;
    close(spool->fd);
    pthread_mutex_destroy(&spool->lock);
    free(spool);
}

static bool begins_well(const struct spool_target *target, const char *data, size_t len, uint64_t offset)
{
    for (size_t i = 0; i < len && offset + i < target->magic_len; i++)
        if (data[i] != target->magic[offset + i])
            return false;
    return true;
}

int spool_write(struct spool *spool, const char *data, size_t len, uint64_t offset)
{
    ssize_t written;
    int r = 0;

    if (!begins_well(spool->target, data, len, offset))
        return -EINVAL;
    while (len > 0 && r == 0) {
        written = pwrite(spool->fd, data, len, (off_t)offset);
        if (written < 0) {
            r = errno == EINTR ? 0 : -errno;
            continue;
        }
        data += written;
        len -= (size_t)written;
        offset += (uint64_t)written;
    }
    pthread_mutex_lock(&spool->lock);
    if (offset > spool->len)
        spool->len = offset;
    spool->unsent = true;
    pthread_mutex_unlock(&spool->lock);
    return r;
}

void spool_clear(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    if (ftruncate(spool->fd, 0) == 0)
        spool->len = 0;
    spool->unsent = false;
    pthread_mutex_unlock(&spool->lock);
}

int spool_send(struct spool *spool, struct op *op)
{
    struct consul_request request = {
        .method = spool->target->method,
        .path = spool->target->path,
        .intent = CONSUL_WRITE_STRICT,
        .content_type = "application/octet-stream",
        .timeout_ms = SEND_TIMEOUT_MS,
        .body_is_file = true,
        .body_fd = spool->fd,
    };

    if (op->stage > 0) {
        if (op->result == 0)
            spool->target->sent(op);
        return op->result;
    }
    pthread_mutex_lock(&spool->lock);
    request.body_len = (size_t)spool->len;
    if (!spool->unsent)
        request.body_len = 0;
    spool->unsent = false;
    pthread_mutex_unlock(&spool->lock);
    return request.body_len > 0 ? op_request(op, &request) : 0;
}
