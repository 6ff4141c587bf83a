/*
 * What is written to a file that takes more than fits in memory: kept in a file without a name until it is whole, and
 * then sent. It may hold secrets, and nobody else can open it.
 */
#ifndef CONSULFS_SPOOL_H
#define CONSULFS_SPOOL_H

#include "op.h"

/* What a node kind takes whole. */
struct spool_target {
    const char *method, *path;
    /* 0, or why nothing may be sent there: a negative errno after answer_refuse(). NULL: always. */
    int (*may_write)(struct op *op);
    void (*sent)(struct op *op); /* called once it is stored */
    const char *magic;           /* with which it has to begin */
    size_t magic_len;
};

struct spool;

/* -ENOMEM, -ENOSPC, …: there is no room for temporary files. */
int spool_new(const struct spool_target *target, struct spool **ret_spool);
void spool_free(struct spool *spool); /* NULL is fine */
/* -EINVAL: this is no beginning of what is taken there. */
int spool_write(struct spool *spool, const char *data, size_t len, uint64_t offset);
/* Everything that was written begins anew. */
void spool_clear(struct spool *spool);
/*
 * Sends what was written, once. 0: it is stored, or there was nothing. Parks. Called again with the same operation it
 * returns how that went.
 */
int spool_send(struct spool *spool, struct op *op);

#endif
