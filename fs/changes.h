/*
 * What a change of a resource means for the tree: which names stand for something else now, for the kernel to be told
 * and watchers to be told of. On the notify thread (the scanner), no lock held.
 */
#ifndef CONSULFS_CHANGES_H
#define CONSULFS_CHANGES_H

#include "notify.h"
#include "tree.h"

/*
 * Whether what changes in a resource that shows all keys of a prefix is what watchers are told of: if their directories
 * are made from it; or if it is demoted, and just asked from time to time for them (interest.h): what tells of less may
 * have told them earlier (own.h). Which one it is can be another by the time that the change is looked at: it is to be
 * found out when the change arrives.
 */
bool changes_are_announced(struct fs *fs, struct consul_resource *resource);

/* The resource went from `before` (NULL: not known) to `after`. */
void changes_of(struct fs *fs, struct consul_resource *resource, struct consul_snapshot *before,
                struct consul_snapshot *after, bool announced);
/* Nobody keeps the resource up to date any more. */
void changes_unknown(struct fs *fs, struct consul_resource *resource);
/* This mount changed what is below the directory: it and those above it may be gone. */
void changes_above(struct fs *fs, struct inode *dir);

/*
 * kv_changes.c: the same for a resource that shows all keys of a prefix, by comparing the two lists of keys. What a
 * change costs depends on how much changed, and on one look at each key's pointer; not on how much the kernel holds.
 */
void kv_changes_of(struct fs *fs, struct consul_resource *resource, const struct consul_snapshot *before,
                   const struct consul_snapshot *after, bool announced);

/*
 * The same for one that shows the names in a directory. What the kernel has there may rest on something else: a file on
 * its key alone, which does not tell that there are keys below it by now, so that it is a directory. Who watches the
 * directory is told of what came and went. And where nobody keeps the names up to date any more.
 */
void kv_names_changed(struct fs *fs, struct consul_resource *resource, const struct consul_snapshot *before,
                      const struct consul_snapshot *after);
void kv_names_unknown(struct fs *fs, struct consul_resource *resource);

/* Looks at an inode again; or nobody knows whether its name still stands for it. */
void changes_check(struct fs *fs, struct inode *inode, bool announced);
void changes_doubt(struct fs *fs, struct inode *inode);
/*
 * What `name` in `dir` stands for now is `found` (kind NULL: nothing), where it was `was`. Tells the kernel if it has
 * an inode there that rests on `resource`, and then, if `announced`, who watches the directory.
 */
void changes_name(struct fs *fs, const struct consul_resource *resource, struct inode *dir, const char *name,
                  const struct found *was, const struct found *found, bool announced);

#endif
