/*
 * Agents tell the catalog what they accepted a moment later (anti-entropy). So that a writer finds what he wrote, who
 * changes something through the agent waits until the catalog shows it, though not for long.
 */
#ifndef CONSULFS_SETTLE_H
#define CONSULFS_SETTLE_H

#include "op.h"

#include <jansson.h>

struct settle {
    /* GET that answers an array of objects, blocks, and shows the change in the end; owned. NULL: nothing is known to.
     */
    char *path;
    unsigned flags; /* of op_read(), besides CONSUL_OBJECTS */
    /* Does the answer show it? It is always asked with the same arg. */
    bool (*is_shown)(const json_t *answer, const void *arg);
    const void *arg;
    /* private */
    enum { SETTLE_SENT, SETTLE_LOOKING, SETTLE_WAITING, SETTLE_DONE } phase;
    uint64_t until_ns;
};

/* True until the request that changes something has been answered and settle() was called. */
static inline bool settle_is_new(const struct settle *settle) { return settle->phase == SETTLE_SENT; }

/*
 * Called after the request has succeeded, and again as long as it returns -EINPROGRESS. 0 when the catalog shows it, or
 * when the time is up: it is done, whether we have seen it or not. *ret_answer (may be NULL) is the answer that shows
 * it, borrowed, or NULL.
 */
int settle(struct op *op, struct settle *settle, const json_t **ret_answer);
void settle_clear(struct settle *settle);

#endif
