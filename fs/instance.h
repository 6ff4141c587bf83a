/*
 * Registering and deregistering instances of services.
 *
 * Agents tell the catalog of their services a moment after they accepted them (anti-entropy). So that a writer finds
 * what he wrote, the functions wait until the catalog shows it, though not for long.
 *
 * They are made of requests: they return -EINPROGRESS while one is under way and are called again with the same
 * arguments, as every function of a node kind. They use op->state.
 */
#ifndef CONSULFS_INSTANCE_H
#define CONSULFS_INSTANCE_H

#include "op.h"

#define INSTANCE_HEALTH "/v1/health/service/"

/*
 * Registers what the user wrote: with this mount's agent, or in the catalog for `node` if that has no agent (NULL: our
 * agent's). id is NULL where the document says it; service NULL where the document does, or else it is the ID.
 */
int instance_register(struct op *op, const char *service, const char *id, const char *node, const char *data,
                      size_t len);

/*
 * -EPERM for an instance that another live agent owns: Consul would take it off the catalog, and that agent would put
 * it back within a minute. `dir` is the service's directory, for who removes that next, or NULL.
 */
int instance_deregister(struct op *op, const char *service, const char *id, const char *node, const struct inode *dir);

/* The same for one that our agent says it has, whether the catalog shows it or not. */
int instance_deregister_own(struct op *op, const char *service, const char *id);

#endif
