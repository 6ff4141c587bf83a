/* events/: user events. Writing fires one, reading lists the recent ones. */
#ifndef CONSULFS_EVENTS_H
#define CONSULFS_EVENTS_H

#include "tree.h"

extern const struct kind kind_events;

#endif
