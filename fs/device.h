/* Our own hand on /dev/fuse, for what libfuse leaves out. */
#ifndef CONSULFS_DEVICE_H
#define CONSULFS_DEVICE_H

struct fuse_session;

/*
 * Between mounting and the loop. Has the kernel look up names of one directory in parallel: libfuse 3.14 takes
 * FUSE_CAP_PARALLEL_DIROPS but never tells the kernel, which then sends one lookup of a directory at a time, so that
 * one that waits for Consul would hold up all others there. 0 or a negative errno.
 */
int device_take_over(struct fuse_session *session);

#endif
