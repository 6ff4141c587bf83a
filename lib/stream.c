/*
 * Streams: an answer that may be large, or never end, handed over in pieces. What has arrived and was not read yet is
 * bounded; when the window is full the transfer stands still until somebody reads.
 *
 * The struct is shared by its owner and by the request, which holds a reference until it is done. Lock order:
 * stream.lock, then http's.
 */
#include "cache.h"
#include "client.h"
#include "http.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW ((size_t)256 * 1024)
#define STREAMS_MAX 4

struct consul_stream {
    struct consul *client;   /* constant */
    void (*wake)(void *arg); /* constant */
    void *arg;               /* constant */
    pthread_mutex_t lock;
    /* guarded by lock */
    unsigned refs;
    struct http_request *request; /* while it is under way */
    uint64_t start, end;          /* what the window holds, as offsets in the stream */
    uint64_t taken;               /* as far as it was read */
    bool full;                    /* the transfer stands still */
    bool waiting;                 /* somebody wants to be woken */
    bool waking;                  /* and is, by the network thread */
    pthread_t waker;
    pthread_cond_t woken;
    bool ended;
    bool closed; /* its owner is gone: nobody is woken any more */
    int err;
    char window[WINDOW]; /* a ring: offset o is at o % WINDOW */
};

static void unref(struct consul_stream *stream)
{
    bool last;

    pthread_mutex_lock(&stream->lock);
    last = --stream->refs == 0;
    pthread_mutex_unlock(&stream->lock);
    if (!last)
        return;
    atomic_fetch_sub(&stream->client->streams, 1);
    pthread_cond_destroy(&stream->woken);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

/* stream.lock is held: is somebody to be woken? */
static bool begin_waking(struct consul_stream *stream)
{
    if (!stream->waiting || stream->closed)
        return false;
    stream->waiting = false;
    stream->waking = true;
    stream->waker = pthread_self();
    return true;
}

static void wake(struct consul_stream *stream)
{
    stream->wake(stream->arg);
    pthread_mutex_lock(&stream->lock);
    stream->waking = false;
    pthread_cond_broadcast(&stream->woken);
    pthread_mutex_unlock(&stream->lock);
}

/* stream.lock is held. */
static void put(struct consul_stream *stream, const char *data, size_t len)
{
    size_t at = stream->end % WINDOW, first = len < WINDOW - at ? len : WINDOW - at;

    memcpy(stream->window + at, data, first);
    memcpy(stream->window, data + first, len - first);
    stream->end += len;
}

/* A piece of the body: all of it or, while there is no room, nothing. What was read makes room. */
static bool on_piece(struct http_request *request, const char *data, size_t len)
{
    struct consul_stream *stream = request->arg;
    bool fits, waking = false;

    pthread_mutex_lock(&stream->lock);
    if (stream->end + len > stream->start + WINDOW) {
        uint64_t needed = stream->end + len - WINDOW;

        stream->start = needed < stream->taken ? needed : stream->taken;
    }
    fits = stream->end + len <= stream->start + WINDOW;
    stream->full = !fits;
    if (fits) {
        put(stream, data, len);
        waking = begin_waking(stream);
    }
    pthread_mutex_unlock(&stream->lock);
    if (waking)
        wake(stream);
    return fits;
}

static void on_done(struct http_request *request)
{
    struct consul_stream *stream = request->arg;
    bool waking;

    cache_note_contact(stream->client->cache, request, http_errno(request));
    pthread_mutex_lock(&stream->lock);
    stream->request = NULL;
    stream->ended = true;
    stream->err = http_errno(request);
    waking = begin_waking(stream);
    pthread_mutex_unlock(&stream->lock);
    if (waking)
        wake(stream);
    http_request_free(request);
    unref(stream);
}

int consul_stream_open(struct consul *client, const char *path, uint64_t stall_ms, void (*on_more)(void *arg),
                       void *arg, struct consul_stream **ret_stream)
{
    struct consul_stream *stream;
    struct http_request *request;
    int r = -ENOMEM;

    if (atomic_fetch_add(&client->streams, 1) >= STREAMS_MAX) {
        atomic_fetch_sub(&client->streams, 1);
        return -EBUSY;
    }
    stream = malloc(sizeof(*stream));
    request = http_request_new("GET", NULL);
    if (stream && request)
        r = client_path(client, path, &request->path);
    if (r < 0) {
        http_request_free(request);
        free(stream);
        atomic_fetch_sub(&client->streams, 1);
        return r;
    }
    memset(stream, 0, offsetof(struct consul_stream, window));
    stream->client = client;
    stream->wake = on_more;
    stream->arg = arg;
    stream->refs = 2;
    stream->request = request;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->woken, NULL);
    request->intent = CONSUL_READ;
    request->max_answer = 65536; /* of a refusal's words */
    request->deadline_ns = UINT64_MAX;
    request->stall_ms = stall_ms;
    request->piece = on_piece;
    request->done = on_done;
    request->arg = stream;
    http_submit(client->http, request);
    *ret_stream = stream;
    return 0;
}

int consul_stream_read(struct consul_stream *stream, uint64_t offset, void *buffer, size_t size, size_t *ret_len)
{
    size_t len = 0, at, first;
    int r = 0;

    pthread_mutex_lock(&stream->lock);
    if (offset < stream->start) {
        r = -ESPIPE;
    } else if (offset < stream->end) {
        len = stream->end - offset < size ? (size_t)(stream->end - offset) : size;
        at = offset % WINDOW;
        first = len < WINDOW - at ? len : WINDOW - at;
        memcpy(buffer, stream->window + at, first);
        memcpy((char *)buffer + first, stream->window, len - first);
        if (offset + len > stream->taken)
            stream->taken = offset + len;
        if (stream->full && stream->request) {
            stream->full = false;
            http_resume(stream->client->http, stream->request);
        }
    } else if (!stream->ended) {
        stream->waiting = true;
        r = -EINPROGRESS;
    } else {
        r = stream->err;
    }
    pthread_mutex_unlock(&stream->lock);
    if (r == 0)
        *ret_len = len;
    return r;
}

uint64_t consul_stream_size(struct consul_stream *stream)
{
    uint64_t end;

    pthread_mutex_lock(&stream->lock);
    end = stream->end;
    pthread_mutex_unlock(&stream->lock);
    return end;
}

void consul_stream_close(struct consul_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->closed = true;
    if (stream->request)
        http_cancel(stream->client->http, stream->request);
    while (stream->waking && !pthread_equal(stream->waker, pthread_self())) /* else it is who wakes that closes */
        pthread_cond_wait(&stream->woken, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
    unref(stream);
}
