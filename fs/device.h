/* Our own hand on /dev/fuse, for what libfuse leaves out. */
#ifndef CONSULFS_DEVICE_H
#define CONSULFS_DEVICE_H

#include <stddef.h>
#include <stdint.h>

struct fuse_session;

/*
 * Between mounting and the loop. Has the kernel look up names of one directory in parallel: libfuse 3.14 takes
 * FUSE_CAP_PARALLEL_DIROPS but never tells the kernel, which then sends one lookup of a directory at a time, so that
 * one that waits for Consul would hold up all others there. 0 or a negative errno.
 */
int device_take_over(struct fuse_session *session);

/*
 * The kernel drops what it caches of these inodes, given by node ID, save what somebody is using; children come before
 * their directories. Not inside a request. -EINVAL before Linux 6.18.
 */
int device_prune(struct fuse_session *session, uint64_t *nodes, size_t n);

#endif
