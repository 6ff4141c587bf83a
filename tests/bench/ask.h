/* The least client of HTTP that there can be: one connection, kept alive, one request at a time. */
#ifndef BENCH_ASK_H
#define BENCH_ASK_H

#include <stddef.h>
#include <stdint.h>

struct ask {
    int fd;
    char host[64];
    size_t have;    /* bytes in buffer that belong to the next answer */
    uint64_t index; /* the last answer's X-Consul-Index */
    char *buffer;
    size_t size;
    char *body; /* the last answer's, within the buffer; chunks are put together */
    size_t body_len;
};

/* `address` is HOST:PORT. 0 or a negative errno. */
int ask_connect(struct ask *ask, const char *address);

/* Returns the answer's status, or a negative errno. `body` may be NULL for a request that has none. */
int ask_request(struct ask *ask, const char *method, const char *target, const char *body, size_t body_len);

void ask_close(struct ask *ask);

#endif
