/*
 * Operations: what a FUSE request becomes.
 *
 * An operation runs until it needs something that is not there. It then parks (no thread waits) and its run function is
 * called again from the beginning when the answer has come; what it must not do twice it remembers in `stage`. A parked
 * operation ends at once when it is interrupted or its time is over.
 *
 * Ownership: whoever runs an operation owns it. Parking hands it over to who wakes it; after a function here has
 * returned -EINPROGRESS the caller must return that at once and not touch the operation again.
 */
#ifndef CONSULFS_OP_H
#define CONSULFS_OP_H

#include "fs.h"

#include <sys/stat.h>

struct op;
struct fuse_req;

/* A flag of op_read() beside the library's: -EFBIG when the resource is demoted, as if it were too large. */
#define OP_UNLESS_DEMOTED (1u << 16)

/* Replies and returns 0, or returns -EINPROGRESS, or another negative errno that is to be replied. */
typedef int op_run_fn(struct op *op);

struct op {
    struct fs *fs;
    struct fuse_req *req;
    op_run_fn *run;
    uint64_t began_ns; /* constant */
    uint64_t since_ns; /* when it began, or changed something: what it reads must be as new */
    uint64_t way_ns;   /* not 0: what was read since then is new enough as well; see way.h */
    bool way_again;
    pid_t pid; /* who asks */

    /* What it is about; each may be unset. Inodes are counted, strings are the operation's own. */
    struct inode *inode, *new_parent; /* new_parent: rename's, and where a file that is being stored stands */
    struct inode *removed;            /* which one the kernel had under the name when it asked to remove it */
    char *name, *new_name;
    const struct kind *kind; /* what was found under the name when it began */
    const struct kind *row;  /* whose function runs */
    struct handle *handle;   /* counted */
    unsigned flags;          /* of open, rename */
    uint64_t lock_owner;     /* of close and locks, as the kernel names it */
    off_t offset;
    size_t size;
    char *data; /* bytes to write */

    /* The places that it changes, on record in fs.own until it is over. */
    struct op_place {
        struct inode *dir; /* counted */
        char *name;
        bool stores; /* what is there already */
    } own[2];
    unsigned own_n;
    bool failed;    /* what it does comes to nothing */
    bool announces; /* quiet, too: to tell watchers what there is by now, what was known some time ago will do */
    bool quiet;     /* asks nobody: what it reads is what is known, as without a request */
    const struct consul_resource *told; /* quiet: what has just told something, watched or not any more; borrowed */

    /* How far it got. */
    unsigned stage;
    int result;                     /* of the newest request: 0 or a negative errno */
    char *answer;                   /* its body, the operation's own */
    struct consul_kv_entry *stored; /* what a KV write stored, counted: the first, if it was a transaction of several */
    struct consul_kv_entry **stored_all; /* the newest transaction's, each counted */
    size_t stored_n;
    unsigned attempts;
    unsigned trusted_s;   /* not 0: what was read so long ago by anybody is new enough */
    unsigned patience_ms; /* not 0: reading gives up (-ETIMEDOUT) after so long, and the operation goes on */
    bool gave_up;
    bool stored_done;   /* the node kind's store has succeeded */
    bool looked;        /* at what is above, if no path led to it any more */
    bool asked_witness; /* that a directory is there; see kv_find.c */
    bool by_witness;    /* and that is how this run found it: it tells of nothing else there */
    /* A rename that does not fit a transaction: what has been asked for, what is moved and what it replaces. */
    unsigned rename_step;
    struct consul_kv_entry *moving, *replaced; /* counted */
    int store_error;                           /* or why it has not */
    bool again;                                /* what was to be changed is another by now */
    uint64_t before;                           /* the version whose place the stored value took, as far as is known */
    bool has_turn;                             /* to append; see kv_store.c */
    void *state;                               /* of the node kind's own function */
    void (*state_free)(void *state);
    void (*cleanup)(struct op *op); /* called when it ends, however it ends */
    /* Set before op_park(), by who would wait for ever otherwise: called when an interrupt was replied. Wakes it. */
    void (*withdraw)(struct op *op);

    /* private to op.c */
    pthread_mutex_t lock;
    char *datacenter; /* see op_datacenter() */
    bool knows_datacenter;
    uint32_t refs;
    bool interrupted; /* guarded by lock */
    bool calling;     /* guarded by lock: a request is under way that cannot be taken back */
    bool replied;     /* guarded by lock: what follows is only cleaning up */
    bool running;     /* guarded by lock: a thread is in run(), or will be at once */
    bool run_again;   /* guarded by lock: and what it parks for there has come already */
    bool interruptible;
    struct consul_waiter waiter;
    struct op_reading {
        char *path;
        struct consul_resource *resource; /* counted */
        struct consul_snapshot *snapshot; /* counted */
    } * read;                             /* what the present run has read */
    size_t read_n, read_cap;
    bool watched_all;
    /* What was read can become wrong in a way that no watch tells: the kernel is to ask again soon. */
    bool for_a_moment;
    struct consul_resource *shown; /* borrowed; see op_show() */
    struct consul_snapshot *shown_as;
    int stale_error; /* not 0: this run was given what was known before Consul went away, and that is why */
    struct op *next; /* in a handle's queue */
};

struct op *op_new(struct fs *fs, struct fuse_req *req, struct inode *inode, const char *name, op_run_fn *run);
/* Runs it; replies an error that it returns. */
void op_start(struct op *op);
/* See way.h. Before it starts: it looks into op->inode, for op->name or for all that is there. */
void op_looks(struct op *op);
/* It is about to reply that this is what it has looked for, or, op->inode, at. */
void op_reaches(struct op *op, const struct inode *dir);
/* Gives up an operation that was not started. */
void op_free(struct op *op);

/*
 * The snapshot of a path, as fresh as the operation needs it; parks otherwise. Borrowed until the present run ends. In
 * an operation without a request (the notify thread's) it never parks: -EAGAIN when nothing is known.
 */
int op_read(struct op *op, const char *path, enum consul_format format, unsigned flags, size_t max,
            struct consul_snapshot **ret_snapshot);
/* The same of a resource that somebody has, as inode.rests_on. */
int op_read_resource(struct op *op, struct consul_resource *resource, struct consul_snapshot **ret_snapshot);
/* Whether op_read() of it would ask nobody, because a watch keeps it up to date. */
bool op_is_watched(struct op *op, const char *path);
/* Whether there is a snapshot of it; consul_resource_is_demoted(), _is_used() and _is_at_hand(). */
bool op_is_known(struct op *op, const char *path);
bool op_is_demoted(struct op *op, const char *path);
/* Whether it is op->told. */
bool op_is_told(struct op *op, const char *path);
bool op_is_used(struct op *op, const char *path);
bool op_is_at_hand(struct op *op, const char *path);
/* See consul_resource_retire(). What the present run has read of it is to be forgotten before. */
void op_retire(struct op *op, const char *path);
/*
 * The datacenter whose directory (below datacenters/) the operation is about, borrowed; NULL elsewhere in the tree.
 * Paths of op_read() and op_request() get it as dc=, unless they have one already or are about the agent itself.
 */
const char *op_datacenter(struct op *op);

/*
 * Puts on record that the operation itself changes this place (own.h): what stands there, or what it holds. No more
 * than two; what fails is not.
 */
void op_owns(struct op *op, struct inode *dir, const char *name);
void op_stores_in(struct op *op, struct inode *dir, const char *name);
/* The operation is shown this snapshot of the resource, both borrowed, whatever is there now. */
void op_show(struct op *op, struct consul_resource *resource, struct consul_snapshot *snapshot);

/* The resource, borrowed, whose watch keeps true what this run has found out; NULL when there is no such one. */
struct consul_resource *op_rests_on(const struct op *op);
/* Whether this run has read the resource. */
bool op_has_read(const struct op *op, const struct consul_resource *resource);
/* Whether what is not in the lists that were read may be there, hidden by ACLs. */
bool op_may_be_hidden(const struct op *op);
/* Forgets what was read, before something else is evaluated. */
void op_rest_on_nothing(struct op *op);

/*
 * Sends a request; parks. When the operation runs again op->result and op->answer have the outcome and op->stage is one
 * higher. A refusal is recorded in .consulfs/errors.
 */
int op_request(struct op *op, const struct consul_request *request);
int op_kv_txn(struct op *op, const struct consul_kv_op *ops, size_t n);
/*
 * An operation that parks on its own account (it waits in a queue) may say so before: from then on an interrupt is
 * replied at once, and what runs when it is woken is only cleaning up. -EINTR: it was interrupted already.
 */
int op_park(struct op *op);
/* It did not park after all. */
void op_unpark(struct op *op);
/* Runs an operation that returned -EINPROGRESS on its own account. */
void op_wake(struct op *op);

/* Is somebody still waiting for the reply? False after an interrupt. */
bool op_wanted(struct op *op);
/* Called by a reply function right before it replies: false when the interrupt was faster. */
bool op_claim_reply(struct op *op);

#endif
