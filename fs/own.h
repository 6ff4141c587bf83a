/*
 * What watchers of a directory know already: above all what this mount changes itself.
 *
 * The kernel knows of a change that came through it and has told who watches. The same change comes back from Consul,
 * before or after its own answer, and must not be told a second time. So the places that operations of this mount
 * change are on record while they are under way, and for a while afterwards with what they left there; and so are
 * changes made elsewhere that were announced.
 */
#ifndef CONSULFS_OWN_H
#define CONSULFS_OWN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OWN_MAX 1024
/* What is asked for from time to time only (interest.h) comes to tell of a change as late as that. */
#define OWN_SECONDS 120

struct inode;
struct inode_table;
struct kind;

/* What stands at a place, as far as it matters here. */
struct own_state {
    const struct kind *kind; /* NULL: nothing */
    uint64_t version;        /* of its content; 0: it has none, or that is not known */
};

struct own {
    pthread_mutex_t lock; /* before inode_table.lock */
    /* guarded by lock; a ring, in which a finished change is overwritten by the next */
    struct own_change {
        uint64_t dir; /* inode number; 0: free */
        char *name;
        unsigned under_way;
        bool known; /* a change has succeeded, and left `state` */
        bool named; /* and watchers were told that the name is there, or not, beside what became of it */
        struct own_state state;
        uint64_t done_ns; /* CLOCK_MONOTONIC */
    } ring[OWN_MAX];
    size_t next;
    atomic_uint_fast64_t begun; /* how many changes have begun; any thread */
};

void own_init(struct own *own);
void own_destroy(struct own *own);

/* An operation is about to change the name in the directory. False when it can't be put on record. */
bool own_begin(struct own *own, const struct inode *dir, const char *name);
/*
 * It is over; if it has succeeded the table shows what it left. Of a value that was stored in what was there the kernel
 * has not told that it is.
 */
enum own_outcome { OWN_FAILED, OWN_STORED, OWN_NAMED };
void own_end(struct own *own, struct inode_table *table, struct inode *dir, const char *name, enum own_outcome outcome);
bool own_is_under_way(struct own *own, const struct inode *dir, const char *name);
/* Somebody else has changed it since, and the watchers were told of this; that it came, or went, or what it holds. */
void own_told(struct own *own, const struct inode *dir, const char *name, struct own_state now,
              enum own_outcome outcome);
/* Whether the newest change that watchers know of left what stands there now; `came`: they are to know the name, too.
 */
bool own_made(struct own *own, const struct inode *dir, const char *name, struct own_state now, bool came);
/*
 * What watchers of the directory know to be there, in a version up to this one: their names, each and the array the
 * caller's; NULL: nothing, or no memory.
 */
char **own_names_in(struct own *own, const struct inode *dir, uint64_t version, size_t *ret_n);

#endif
