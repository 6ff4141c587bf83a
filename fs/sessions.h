/* sessions/: sessions by ID, created by writing a name. */
#ifndef CONSULFS_SESSIONS_H
#define CONSULFS_SESSIONS_H

#include "tree.h"

extern const struct kind kind_sessions;

#endif
