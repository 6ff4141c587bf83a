/*
 * Consul's names as file names and back: the section "Names" of the layout.
 *
 * A name stays as it is, save what a file name cannot hold ('/', "." and "..") and what would be ambiguous then: a '%'
 * that starts the name, or that is followed by the hex digits of an escape. So names beginning with '%' and anything
 * but an escape are free for the tree itself ("%value", "%empty").
 *
 * The map is one to one. Each function is pure and callable from any thread.
 */
#ifndef FS_NAME_H
#define FS_NAME_H

#include <stddef.h>
#include <stdint.h>

/* The longest file name in bytes, without the NUL, and the size of a buffer that holds any. */
#define NAME_LEN_MAX 255
#define NAME_SIZE (NAME_LEN_MAX + 1)

/* The tree's own names under kv/: the value of a key that is a prefix too, and an empty component of a key. */
#define NAME_KV_VALUE "%value"
#define NAME_KV_EMPTY "%empty"

/*
 * Writes the file name of consul[0..len) to out. extra lists further characters to escape ("@" where NAME@NODE is a
 * pattern of the tree), NULL for none; it must not hold '%' or hex digits.
 *
 * -ENAMETOOLONG if the file name would exceed NAME_LEN_MAX bytes, -EINVAL for an empty name or one with a NUL: such
 * things cannot be files. out is untouched then.
 */
__attribute__((warn_unused_result)) int name_encode(const char *consul, size_t len, const char *extra,
                                                    char out[NAME_SIZE]);

/*
 * The inverse, NUL-terminated, with the same extra: -ENOENT for a spelling that name_encode() would not produce, so
 * that no object has two names; -ENAMETOOLONG if file is longer than NAME_LEN_MAX, or the name than out_size (NAME_SIZE
 * always suffices). out is untouched then. A name that decodes never holds a NUL.
 */
__attribute__((warn_unused_result)) int name_decode(const char *file, const char *extra, char *out, size_t out_size);

/*
 * The same for one component of a KV key, what is between two slashes: the empty one is "%empty", and a '/' within
 * gives -EINVAL. "%value" is no component: decoding it gives -ENOENT, and who accepts it asks for it first.
 */
__attribute__((warn_unused_result)) int name_kv_encode(const char *component, size_t len, char out[NAME_SIZE]);
__attribute__((warn_unused_result)) int name_kv_decode(const char *file, char *out, size_t out_size);

/* FNV-1a of a file name in the directory of that inode number. All of its bits are to be used: hash ^ hash >> 32. */
uint64_t name_hash(uint64_t dir, const char *name);

#endif
