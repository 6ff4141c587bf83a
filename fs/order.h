/*
 * Files that carry out what is written into them, a line at a time, and remember nothing: `echo ADDRESS > agent/join`.
 * They are found by name and not listed, so that nothing that goes through a tree meets them.
 */
#ifndef CONSULFS_ORDER_H
#define CONSULFS_ORDER_H

#include "tree.h"

struct order {
    const char *method, *path;  /* the word that was written is appended, percent-encoded */
    const char *option, *query; /* where that word follows, this is appended too; NULL: none */
};

/*
 * Sends what the line says: "WORD" or "WORD OPTION". -EINVAL for anything else, said in .consulfs/errors. Parks; called
 * again it returns how that went.
 */
int order_send(struct op *op, const struct order *order, const char *data, size_t len);
/* The one word of the line, the caller's, or NULL. */
char *order_word(const char *data, size_t len);

#define ORDER_FILE(file) .name = (file), .mode = S_IFREG | 0200, .flags = KIND_HIDDEN | KIND_DIRECT | KIND_ORDERS

#endif
