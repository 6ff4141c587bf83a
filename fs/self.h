/* .consulfs/: the mount itself. */
#ifndef CONSULFS_SELF_H
#define CONSULFS_SELF_H

#include "tree.h"

extern const struct kind kind_self;

#endif
