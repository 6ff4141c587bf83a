/* datacenters/: every datacenter that the agent knows, with what can be asked of another one. */
#ifndef CONSULFS_DATACENTERS_H
#define CONSULFS_DATACENTERS_H

#include "tree.h"

extern const struct kind kind_datacenters;

#endif
