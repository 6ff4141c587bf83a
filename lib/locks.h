/*
 * Locks: session.c keeps the sessions alive, lock.c takes and gives back the keys' locks under them. What they share,
 * and what the rest of the library calls.
 *
 * Everything happens on the network thread: other threads only say what they want and wake it. locks.lock guards what
 * both see, and is given up while a callback runs; so after one, what was found out before it may be different. Lock
 * order: locks.lock, then cache.lock and http's.
 */
#ifndef CONSUL_LIB_LOCKS_H
#define CONSUL_LIB_LOCKS_H

#include "abandoned.h"
#include "consul.h"
#include "http.h"
#include "index.h"

#include <pthread.h>

enum session_state {
    SESSION_CREATING,
    SESSION_ALIVE,
    SESSION_GONE, /* it could not be made, was lost, or was destroyed: freed when no lock refers to it any more */
};

struct session {
    struct locks *locks;
    char *datacenter; /* NULL: that of the configuration, or the agent's */
    char id[40];
    enum session_state state;
    char *node;             /* where it is registered, when the agent has none in that datacenter; or NULL */
    unsigned users;         /* locks that refer to it */
    bool retired;           /* no other lock is to be taken under it */
    uint64_t good_until_ns; /* CLOCK_BOOTTIME: what is locked under it counts as lost from then on */
    uint64_t renew_ns, idle_ns;
    uint64_t asked_ns;            /* CLOCK_BOOTTIME: when the request under way was submitted */
    struct http_request *request; /* one at a time */
    struct session *next;
};

struct locks {
    struct consul *client; /* constant, as is all up to the lock */
    uint64_t ttl_ns;
    char *name;
    unsigned wait_max; /* blocking queries at a time */

    pthread_mutex_t lock;
    pthread_cond_t closed;
    /* guarded by lock */
    struct consul_lock *all;
    struct session *sessions;
    unsigned waiting;           /* blocking queries under way */
    struct abandoned abandoned; /* those that were given up */
    uint64_t timer_ns;          /* when there is something to do; 0: nothing */
    bool kicked;                /* there is something to do now */
    bool closing;
};

int locks_new(struct consul *client, const struct consul_options *options, unsigned wait_max, struct locks **ret_locks);
/* From now on nothing is taken, and what is held is to be given back. */
void locks_close(struct locks *locks);
void locks_free(struct locks *locks);
/* The network thread's hook. */
uint64_t locks_tick(struct locks *locks, uint64_t now_ns);
/* A resource has a new snapshot: does it show that a lock was taken away? */
void locks_changed(struct locks *locks, struct consul_resource *resource);
/* This client is about to remove the key, or that has come to an end: that it is gone tells nothing meanwhile. */
void locks_removing(struct locks *locks, const char *datacenter, const char *key, bool begins);
/* This client stored `entry`, or, entry NULL, removed `key`. */
void locks_stored(struct locks *locks, const char *datacenter, const char *key, struct consul_kv_entry *entry);

/* All below: locks.lock is held, on the network thread. */

/* When to look again. */
void locks_timer(struct locks *locks, uint64_t at_ns);

/* session.c */
uint64_t boottime_ns(void);
/* The session for new locks of the datacenter, made if there is none; NULL without memory. The caller uses it. */
struct session *session_use(struct locks *locks, const char *datacenter);
void session_unuse(struct session *session);
bool session_is_good(const struct session *session);
/* Consul does not know it any more. */
void session_lost(struct session *session, const char *why);
void sessions_tick(struct locks *locks, uint64_t now);

/* lock.c */
/* It is alive now, or (err < 0) gone: those that wait for it or hold locks under it have to know. */
void locks_session_changed(struct session *session, int err, const struct consul_answer *answer, const char *why);
/* It was renewed: what is locked under it and not watched is looked at. */
void locks_verify(struct session *session);

#endif
