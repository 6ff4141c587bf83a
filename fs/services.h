/* services/: the catalog's services with their health. */
#ifndef CONSULFS_SERVICES_H
#define CONSULFS_SERVICES_H

#include "tree.h"

extern const struct kind kind_services;

#endif
