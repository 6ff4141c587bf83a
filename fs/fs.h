/*
 * One mount: what its parts share. Constant once main.c has set it up, save what has a lock of its own.
 *
 * Lock order, outermost first: pages.locks, lock_table.lock, open_lock, handle.lock, op.lock, notify.lock,
 * announcer.lock, own.lock, inode_table.lock, ahead.lock, gate.lock, the library's. No lock is held across a reply, a
 * notification or a callback.
 */
#ifndef CONSULFS_FS_H
#define CONSULFS_FS_H

#include "ahead.h"
#include "alias.h"
#include "gate.h"
#include "inode.h"
#include "made.h"
#include "options.h"
#include "own.h"
#include "pages.h"
#include "phantom.h"
#include "refusals.h"
#include "reopening.h"
#include "way.h"

#include <consul.h>
#include <stdatomic.h>

struct announcer;
struct lock_table;
struct notify;

/* Upcalls from the kernel and what came of them; see .consulfs/stats. */
enum counter {
    COUNT_LOOKUP,
    COUNT_GETATTR,
    COUNT_SETATTR,
    COUNT_OPEN,
    COUNT_READ,
    COUNT_WRITE,
    COUNT_FLUSH,
    COUNT_RELEASE,
    COUNT_FSYNC,
    COUNT_OPENDIR,
    COUNT_READDIR,
    COUNT_CREATE,
    COUNT_UNLINK,
    COUNT_MKDIR,
    COUNT_RMDIR,
    COUNT_RENAME,
    COUNT_XATTR,
    COUNT_LOCK,
    COUNT_FORGET,
    COUNT_STATFS,
    COUNT_POLL,
    COUNT_ANNOUNCING,
    COUNT_PARKED,
    COUNT_INTERRUPTED,
    COUNT_TIMED_OUT,
    COUNT_NOTIFIED,
    COUNT_FILLED,
    COUNT_NAMES_TOO_LONG,
    COUNTERS,
};

extern const char *const counter_names[COUNTERS];

/* Whether the servers have ACLs, and so may leave things out of a list. */
enum acl_state { ACL_UNKNOWN, ACL_OFF, ACL_ON };

/* What the agent said of itself when it was first reached. Guarded by `lock`; strings are only set, never changed. */
struct agent_facts {
    pthread_mutex_t lock;
    char *node, *datacenter, *version;
    char *address; /* of the agent's node, to tell loopback */
    pthread_cond_t stopped;
    bool stopping;    /* guarded by lock */
    pthread_t thread; /* of delay_connect; main's */
    bool running;     /* main's */
};

struct fs {
    struct options *options;
    struct consul *consul;
    bool has_token;
    char *consul_address; /* for people: where the agent is */
    struct inode_table inodes;
    struct gate gate;
    struct notify *notify;
    struct announcer *announcer; /* NULL: nothing is announced to watchers */
    struct own own;
    struct refusals refusals;
    struct reopening reopening;
    struct ways ways;
    struct pages pages;
    struct ahead ahead;
    pthread_mutex_t open_lock;
    struct lock_table *locks;
    struct handle *handles;  /* guarded by open_lock: every one there is */
    struct dir_handle *dirs; /* likewise */
    char *bootstrapped;      /* likewise: what acl/bootstrap answered, a secret; or NULL */
    struct phantoms phantoms;
    struct made made;
    struct aliases aliases;
    struct agent_facts agent;
    _Atomic enum acl_state acl;
    atomic_bool tells_filtered; /* the servers are known to say so when they left something out */
    struct fastest *fastest;
    struct inode *top;                /* the root of all: the tree's own table */
    struct inode *root;               /* what is mounted: top, or below it with root= */
    struct inode *self;               /* .consulfs */
    void (*on_usable)(struct fs *fs); /* called once the kernel has accepted the mount */
    atomic_bool left_out_logged;
    atomic_bool init_answered; /* device.c */
    /*
     * Mounted read-only: the kernel opens files without asking, and nobody hears of a descriptor any more. So a file's
     * bytes are known when it is looked up, and what has none to know then is left out of the tree. Constant once
     * FUSE_INIT is answered.
     */
    atomic_bool no_open;
    uint64_t mounted_ns; /* CLOCK_REALTIME */
    _Atomic uint64_t counters[COUNTERS];
    atomic_uint_fast64_t opened; /* see poll_new_id() */
    atomic_uint ops;             /* operations that exist now */
};

/* How the kernel names the inode: the mount's root is 1 (FUSE_ROOT_ID). */
static inline uint64_t node_id(const struct fs *fs, const struct inode *inode)
{
    return inode == fs->root ? 1 : (uint64_t)(uintptr_t)inode;
}

static inline void fs_count(struct fs *fs, enum counter counter)
{
    atomic_fetch_add_explicit(&fs->counters[counter], 1, memory_order_relaxed);
}

/* A name too long to be listed was left out: counted, and logged the first time. */
void fs_name_left_out(struct fs *fs);

/* The name of the node that this mount's agent is, counted by the caller's free(), or NULL while it is not known. */
char *fs_agent_node(struct fs *fs);

#endif
