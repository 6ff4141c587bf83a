#include "stream.h"

#include <errno.h>
#include <stdlib.h>

struct stream {
    struct consul_stream *source; /* constant */
    pthread_mutex_t lock;         /* before the library's */
    struct op *queue;             /* guarded by lock: who waits for more */
};

/* One of those woken may close the stream. */
void stream_wake(struct stream *stream)
{
    struct op *op, *next;

    pthread_mutex_lock(&stream->lock);
    op = stream->queue;
    stream->queue = NULL;
    pthread_mutex_unlock(&stream->lock);
    for (; op; op = next) {
        next = op->next;
        op->next = NULL;
        op_wake(op);
    }
}

/* On the network thread: there is more, or the end. */
static void on_more(void *arg) { stream_wake(arg); }

int stream_open(struct fs *fs, const struct stream_source *source, struct stream **ret_stream)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    int r;

    if (!stream)
        return -ENOMEM;
    pthread_mutex_init(&stream->lock, NULL);
    r = consul_stream_open(fs->consul, source->path, source->may_be_silent ? 0 : fs->options->timeout_ms, on_more,
                           stream, &stream->source);
    if (r < 0) {
        pthread_mutex_destroy(&stream->lock);
        free(stream);
        return r;
    }
    *ret_stream = stream;
    return 0;
}

void stream_close(struct stream *stream)
{
    consul_stream_close(stream->source);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

uint64_t stream_size(struct stream *stream) { return consul_stream_size(stream->source); }

/* The lock is held from before the library looks until the operation is queued, so that no waking is missed. */
static int read_or_queue(struct stream *stream, struct op *op, uint64_t offset, size_t size, char *data,
                         size_t *ret_len)
{
    int r;

    pthread_mutex_lock(&stream->lock);
    r = consul_stream_read(stream->source, offset, data, size, ret_len);
    if (r == -EINPROGRESS) {
        op->next = stream->queue;
        stream->queue = op;
    }
    pthread_mutex_unlock(&stream->lock);
    return r;
}

int stream_read(struct stream *stream, struct op *op, uint64_t offset, size_t size, bool nonblocking, char **ret_data,
                size_t *ret_len)
{
    char *data = malloc(size + 1);
    size_t len = 0;
    int r;

    if (!data)
        return -ENOMEM;
    r = consul_stream_read(stream->source, offset, data, size, &len);
    if (r == -EINPROGRESS && nonblocking)
        r = -EAGAIN;
    if (r == -EINPROGRESS) {
        r = op_park(op);
        if (r == 0)
            r = read_or_queue(stream, op, offset, size, data, &len);
        if (r != -EINPROGRESS && r != -EINTR)
            op_unpark(op);
    }
    if (r < 0) {
        free(data);
        return r;
    }
    *ret_data = data;
    *ret_len = len;
    return 0;
}
