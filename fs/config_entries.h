/* config/: config entries by kind. */
#ifndef CONSULFS_CONFIG_ENTRIES_H
#define CONSULFS_CONFIG_ENTRIES_H

#include "tree.h"

extern const struct kind kind_config;

#endif
