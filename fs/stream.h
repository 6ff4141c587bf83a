/*
 * Files whose bytes come from Consul while they are read, and are never whole in memory: each open() begins anew. Their
 * size is how far the stream has come, for who has it open; so `tail -f` follows one that has no end as any file that
 * grows, and `cat` waits at its end for more.
 */
#ifndef CONSULFS_STREAM_H
#define CONSULFS_STREAM_H

#include "op.h"

struct stream_source {
    const char *path;
    bool may_be_silent; /* it has no end, and says nothing for as long as there is nothing to say */
};

/* An open stream; it belongs to the handle. */
struct stream;

/* -EBUSY: too many are open. */
int stream_open(struct fs *fs, const struct stream_source *source, struct stream **ret_stream);
/* Ends it; operations that wait for it are run again. Not while such a one can still be made. */
void stream_close(struct stream *stream);
uint64_t stream_size(struct stream *stream);
/* Runs the operations that wait for it again: those that nobody wants any more end. */
void stream_wake(struct stream *stream);
/*
 * What is there from `offset` on, up to `size` bytes; the caller frees *ret_data. An empty piece is the end. Parks
 * while there is nothing; -EAGAIN instead if `nonblocking`. -ESPIPE: that is no longer held.
 */
int stream_read(struct stream *stream, struct op *op, uint64_t offset, size_t size, bool nonblocking, char **ret_data,
                size_t *ret_len);

#endif
