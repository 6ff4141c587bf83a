/* checks/: health checks by state. */
#ifndef CONSULFS_CHECKS_H
#define CONSULFS_CHECKS_H

#include "tree.h"

extern const struct kind kind_checks;

#endif
