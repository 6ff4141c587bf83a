/* queries/: prepared queries and their results. */
#ifndef CONSULFS_QUERIES_H
#define CONSULFS_QUERIES_H

#include "tree.h"

extern const struct kind kind_queries;

#endif
