/* agent/services/ and agent/checks/: what is registered with the agent itself, which may differ from the catalog. */
#ifndef CONSULFS_AGENT_ITEMS_H
#define CONSULFS_AGENT_ITEMS_H

#include "tree.h"

extern const struct kind kind_agent_services, kind_agent_checks;

/*
 * "off", or "on" and the reason, as the agent's check of that ID says; the same line written turns it on or off: `path`
 * and `name` (percent-encoded) are the agent's endpoint. As the functions of a kind.
 */
int agent_maintenance_find(struct op *op, const char *check_id, struct found *found);
int agent_maintenance_store(struct op *op, const char *path, const char *name, const char *check_id, const char *data,
                            size_t len);

#endif
