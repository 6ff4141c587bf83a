/*
 * Which answers a server has lately said to have been filtered by ACLs: a bounded set of paths. Not locked: the owner's
 * lock guards it.
 */
#ifndef CONSUL_LIB_FILTERED_H
#define CONSUL_LIB_FILTERED_H

#include <stdbool.h>
#include <stddef.h>

#define FILTERED_KEPT 64

struct filtered {
    char *paths[FILTERED_KEPT];
    size_t n;
};

/* The newest answer of a path was filtered, or it was whole. The oldest goes when there are too many. */
void filtered_note(struct filtered *filtered, const char *path, bool is_filtered);
/* The paths, oldest first, each with a newline; the caller frees it. NULL: no memory. */
char *filtered_text(const struct filtered *filtered);
void filtered_clear(struct filtered *filtered);

#endif
