/*
 * Blocking queries that were given up while the agent still waits to answer them.
 *
 * Consul does not notice that nobody waits any more: the connection counts among those of this host
 * (http_max_conns_per_client, 200, over all programs) until the query's wait is over, measured on 1.8.7. So whoever
 * ends watches and begins others again and again would lock the host out of its agent; this is to be asked before.
 *
 * Guarded by the owner's lock; nothing here fails or locks.
 */
#ifndef CONSUL_LIB_ABANDONED_H
#define CONSUL_LIB_ABANDONED_H

#include <stdint.h>

struct abandoned {
    uint64_t *until_ns; /* when each is over, on the clock of consul_now_ns(); in no order */
    unsigned n, max;
};

/* Room for `max`. -ENOMEM. */
int abandoned_init(struct abandoned *abandoned, unsigned max);
void abandoned_clear(struct abandoned *abandoned);
/* Where there is no room that which is over first is forgotten. */
void abandoned_add(struct abandoned *abandoned, uint64_t until_ns, uint64_t now_ns);
/* How many there still are. */
unsigned abandoned_count(struct abandoned *abandoned, uint64_t now_ns);

#endif
