/* connect/intentions/: which service may connect to which. */
#ifndef CONSULFS_INTENTIONS_H
#define CONSULFS_INTENTIONS_H

#include "tree.h"

extern const struct kind kind_intentions;

#endif
