/* nodes/: the catalog's nodes, with their services, checks, sessions and coordinates. */
#ifndef CONSULFS_NODES_H
#define CONSULFS_NODES_H

#include "tree.h"

extern const struct kind kind_nodes;

#endif
