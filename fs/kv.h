/* kv/: keys as files, prefixes as directories. See kv.c. */
#ifndef CONSULFS_KV_H
#define CONSULFS_KV_H

#include "tree.h"

/* The directory kv/, and below it every directory and file. */
extern const struct kind kind_kv, kind_kv_dir, kind_kv_file;

/* The directory of the prefix whose keys the resource shows, counted; NULL: the kernel does not hold it. */
struct inode *kv_directory_of(struct fs *fs, const struct consul_resource *resource);

/*
 * st_blksize: programs that use it for their buffers store a value by one write. Consul's limit, and not more: some
 * (shred) write whole blocks.
 */
#define KV_BLOCK_SIZE (512 * 1024)

#endif
