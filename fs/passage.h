/*
 * The way into our own mount, for threads of this program.
 *
 * Who goes in by the mount point's path makes the mount busy for that moment, and an unmount that falls into it fails.
 * So, with the privilege to (CAP_SYS_ADMIN), what is entered is a clone of the mount that nobody else sees: see
 * OPEN_TREE_CLONE in mount_setattr(2), Linux 5.2. A clone keeps the file system alive, though. So a thread watches
 * /proc/self/mountinfo and gives the clone up when the mount itself is gone. Without the privilege it is the path.
 */
#ifndef CONSULFS_PASSAGE_H
#define CONSULFS_PASSAGE_H

#include <stdbool.h>

struct passage;

/* `mountpoint` is absolute; copied. */
int passage_new(const char *mountpoint, struct passage **ret_passage);
/* Nobody is inside any more. NULL is fine. */
void passage_free(struct passage *passage);

/*
 * It was mounted just now, and nobody knows of it yet: whoever makes the clone later can be in the way of an unmount
 * for that moment. Where there can be no clone nothing happens.
 */
void passage_prepare(struct passage *passage);
/*
 * A descriptor (O_PATH) of the mount's root, or -1. `is_ours` is asked, with no lock held, whether it leads to our
 * mount: something else may be mounted over it.
 */
int passage_enter(struct passage *passage, bool (*is_ours)(void *arg, int fd), void *arg);
void passage_leave(struct passage *passage, int fd);

#endif
