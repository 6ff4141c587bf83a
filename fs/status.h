/* status/: the Raft leader and its peers. */
#ifndef CONSULFS_STATUS_H
#define CONSULFS_STATUS_H

#include "tree.h"

extern const struct kind kind_status;

#endif
