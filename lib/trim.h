/*
 * Memory that large answers took is given back: of what was freed among what is still used the allocator keeps many
 * times an answer's size. It takes a while, so the worker does it.
 *
 * No lock of its own: whoever owns it guards it, on the thread that hands work to the worker and takes it back.
 */
#ifndef CONSUL_LIB_TRIM_H
#define CONSUL_LIB_TRIM_H

#include "worker.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct trim {
    size_t freed;     /* bytes of answers that were let go since free memory was last given back */
    unsigned left;    /* how often that is still to be done, */
    uint64_t last_ns; /* and when it was last */
    atomic_bool under_way;
    struct work work; /* while it is under way: the worker's */
};

/* True: trim->work is to be handed to the worker. Not twice within pause_ns. */
bool trim_begin(struct trim *trim, uint64_t now_ns, uint64_t pause_ns);

#endif
