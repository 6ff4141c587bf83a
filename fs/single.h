/*
 * Documents of which there is one: a row of the tree whose `of` is a struct single and whose find is single_find shows
 * what a GET answers, whole; with single_store too it can be written.
 */
#ifndef CONSULFS_SINGLE_H
#define CONSULFS_SINGLE_H

#include "document.h"
#include "tree.h"

struct single {
    const char *path;           /* GET */
    enum consul_format format;  /* CONSUL_JSON: shown indented; CONSUL_TEXT: as it is */
    unsigned flags;             /* of op_read() */
    const char *member;         /* of the answer, is what is shown; NULL: all of it */
    const char *method, *write; /* who takes a new document; NULL: nobody */
};

int single_find(struct op *op, struct inode *dir, const char *name, struct found *found);
int single_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len);

/* A row's members for one that is read only. */
#define SINGLE_FILE(file, single, permissions)                                                                         \
    .name = (file), .mode = S_IFREG | (permissions), .of = &(single), .find = single_find

#endif
