/*
 * Writing to the catalog itself: right for nodes without an agent (external ones) only. What a live agent has not
 * registered it takes off the catalog again, and what it has it puts back.
 */
#ifndef CONSULFS_CATALOG_H
#define CONSULFS_CATALOG_H

#include "op.h"

#include <jansson.h>

#define CATALOG_SERVICES "/v1/catalog/services"

enum catalog_owner {
    CATALOG_OURS,    /* this mount's agent: through /v1/agent/ */
    CATALOG_NOBODYS, /* no agent, or a dead one: through /v1/catalog/ */
};

/*
 * Who answers for what is on the node; NULL is our agent's. -EPERM, said in .consulfs/errors, for another live agent's.
 * May park.
 */
int catalog_owner(struct op *op, const char *node, enum catalog_owner *ret_owner);

/*
 * 0 if the catalog has the node, -EINVAL, said in .consulfs/errors, if not: Consul would make up one without an address
 * for what is registered on it. May park.
 */
int catalog_has_node(struct op *op, const char *node);

/* PUT /v1/catalog/register in the operation's datacenter, which is added to the document. Parks. */
int catalog_register(struct op *op, json_t *document);
/* PUT /v1/catalog/deregister of a node, or with `member` ("ServiceID", "CheckID") of what has that id on it. Parks. */
int catalog_deregister(struct op *op, const char *node, const char *member, const char *id);
/* Afterwards: who looks from now on asks Consul anew. */
void catalog_expire(struct op *op);

#endif
