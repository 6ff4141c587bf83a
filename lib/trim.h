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
    size_t freed;     /* bytes of answers that were let go since it was decided to give free memory back */
    unsigned left;    /* how often that is still to be done, */
    uint64_t due_ns;  /* when next, */
    uint64_t last_ns; /* and when it was last */
    uint64_t pause_ns;
    atomic_bool under_way;
    struct work work; /* while it is under way: the worker's */
};

/* An answer of so many bytes was decoded, or a snapshot of it, and is let go. */
void trim_freed(struct trim *trim, size_t bytes, uint64_t now_ns);
/* When it is next to be asked for; UINT64_MAX: not yet. */
uint64_t trim_due_ns(const struct trim *trim);
/* True: trim->work is to be handed to the worker. */
bool trim_begin(struct trim *trim, uint64_t now_ns);

#endif
