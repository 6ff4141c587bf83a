/* connect/: the service mesh: CA roots, leaf certificates, intentions. */
#ifndef CONSULFS_CONNECT_H
#define CONSULFS_CONNECT_H

#include "tree.h"

extern const struct kind kind_connect;

#endif
