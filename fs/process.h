/* What /proc tells of the process that asks. */
#ifndef CONSULFS_PROCESS_H
#define CONSULFS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Whether the process (or thread) still has a descriptor for writing on the inode that the kernel numbers `ino` (the
 * number in the attributes, or the node ID, as the kernel's version has it). True by mistake when the process writes to
 * another file system's file of that number; false also when it can't be known: another user's process, one of another
 * PID namespace, a kernel before 5.14 (whose fdinfo has no ino). Reads /proc only, never the file system that asks.
 */
bool process_has_open(pid_t pid, uint64_t ino, uint64_t node_id);

/* Whether both are threads of one process. The kernel names the thread that asks. */
bool process_is_same(pid_t a, pid_t b);

/* Whether the process (or thread) is not over yet. One of another PID namespace (0) may be. */
bool process_is_there(pid_t pid);

#endif
