/*
 * Registering and deregistering checks, wherever the tree shows them: on this mount's agent, or in the catalog for a
 * node without one. They wait until the catalog shows it.
 *
 * All are made of requests: they return -EINPROGRESS while one is under way and are called again with the same
 * arguments. They use op->state.
 */
#ifndef CONSULFS_CHECK_H
#define CONSULFS_CHECK_H

#include "op.h"

/* node NULL: our agent's. */
int check_register(struct op *op, const char *id, const char *node, const char *data, size_t len);
int check_deregister(struct op *op, const char *id, const char *node);
/* "passing", "warning" or "critical", then optionally a note, for a TTL check of our agent. */
int check_update(struct op *op, const char *id, const char *data, size_t len);

/* After another request that adds or removes a check of our agent: waits until the catalog shows that. */
int check_expect(struct op *op, const char *id, bool gone);
int check_settle(struct op *op);

#endif
