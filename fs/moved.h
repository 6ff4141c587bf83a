/*
 * Instances that come to be another service's.
 *
 * Who registers an instance under another service's name takes it from the service that had it, and Consul (1.8.7,
 * measured) wakes no blocking query on that one: it would show the instance until its wait is over, also after its
 * last has gone. Other resources tell of it: the service that has the instance now, and the catalog's list, in which a
 * name is missing. What is still shown in the old place is then asked for again.
 */
#ifndef CONSULFS_MOVED_H
#define CONSULFS_MOVED_H

#include "fs.h"

/* The resource went from `before` (NULL: not known) to `after`. No lock held; nobody is waited for. */
void moved_look(struct fs *fs, const struct consul_resource *resource, const struct consul_snapshot *before,
                const struct consul_snapshot *after);
/* An operation of this mount left an instance in what /v1/health/service/X now answers: the same for that. */
void moved_here(struct fs *fs, const json_t *health);

#endif
