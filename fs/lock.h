/*
 * File locks: flock(2), fcntl(2) and lockf(3).
 *
 * Consul's lock on a key is this mount's as a whole, so processes of this mount are told apart here (lock_set.h), and
 * while any of them has a lock on a file whose kind has a Consul key for it, the mount holds Consul's. Locks on other
 * files, and on a key that this mount has removed while it was locked, hold on this mount only.
 *
 * A file that is locked or waited for:
 *
 *    FREE ──▶ TAKING ──▶ HELD ──▶ RELEASING ──▶ FREE
 *
 * Local waiters are served first come, first served, each as soon as nobody else's lock is in its way. An operation
 * that waits is parked; it is told what became of it by lock_request.stage.
 */
#ifndef CONSULFS_LOCK_H
#define CONSULFS_LOCK_H

#include "lock_set.h"
#include "op.h"

struct lock_table;

enum lock_stage {
    LOCK_NEW,
    LOCK_QUEUED,
    LOCK_GRANTED, /* and the right to reply is the operation's already */
    LOCK_ENDED,   /* `err` says how */
};

struct lock_request {
    struct op *op;       /* whose state this is */
    struct lock lock;    /* what is wanted */
    bool wait;           /* until it can be had */
    char *key;           /* for Consul, or of a file that is locked here only; NULL until it is known */
    bool local;          /* the latter */
    bool caught_up;      /* granted: what others stored before that is seen */
    bool catching, tell; /* granted: under way; the kernel has to be told of what that brought */
    bool refreshed;      /* the kernel has been told to forget the file's pages */
    bool stored;         /* giving back: what was written is stored, or not: */
    int store_error;
    /* guarded by the table's lock once it is queued */
    enum lock_stage stage;
    int err;
    struct lock_file *file;
    struct lock_request *next;
};

int lock_table_new(struct fs *fs, struct lock_table **ret_table);
/* Who still waits gets -ECANCELED; from now on nothing is granted. NULL is fine, here and below. */
void lock_table_stop(struct lock_table *table);
/* No other thread may be left. */
void lock_table_free(struct lock_table *table);

/*
 * The operation, whose state is `request`, has parked (op_park). 0: granted, and it has to unpark and reply;
 * -EINPROGRESS: it will be woken; otherwise why not.
 */
int lock_ask(struct op *op, struct lock_request *request);
/*
 * Takes back what the owner has of the range; 0 when that is done, -EINPROGRESS when Consul has to be told: it is woken
 * then, LOCK_ENDED. Has parked as well.
 */
int lock_give_back(struct op *op, struct lock_request *request);
/* Who would be in the way of the request, here; NULL: nobody. A copy. */
bool lock_test(struct op *op, struct lock_request *request, struct lock *ret_lock);
/* op.withdraw of both. */
void lock_withdraw(struct op *op);
/* The operation has caught up: who gets the lock next from this mount need not. */
void lock_caught_up(struct op *op, struct lock_request *request);
/* What Consul's key is now, as far as is known here; counted, or NULL. *ret_before_index: what it was when it was
 * locked. */
struct consul_kv_entry *lock_entry(struct op *op, struct lock_request *request);

/*
 * Whether no lock that was taken through the descriptor is lost by the clock, which the thread that tells of it (and
 * this whole process) may not have had the time to notice: it may have been stopped, or the machine asleep.
 */
bool lock_is_good(struct fs *fs, uint64_t fh);
/* The session under which the key is locked through the descriptor; "" when it is not, or not in Consul. */
void lock_session(struct fs *fs, uint64_t fh, char ret_id[40]);
/* The descriptor is closed for good: flock(2)'s locks end, and those that were taken through it alone. */
void lock_closed(struct fs *fs, uint64_t fh);
/* close(2) by a process: its POSIX locks on the file end. */
void lock_flushed(struct fs *fs, const struct inode *inode, uint64_t fh, uint64_t owner);

/* For .consulfs. */
struct lock_counts {
    size_t held, waiting; /* files that are locked; operations that wait */
};
void lock_count(struct fs *fs, struct lock_counts *ret_counts);

#endif
