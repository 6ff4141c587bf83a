/*
 * Races between the instances of a service: the part of fastest.c that probes.
 *
 * A race (one for each service) has at most one heat under way that counts, and one whose result is kept; both may be
 * the same. A heat probes every candidate; it is concluded by the first good answer where somebody waits for it, else
 * by the last; its end then completes what is known of all. A heat that was overtaken by another (because its
 * candidates are gone) ends unnoticed.
 *
 * Everything is guarded by fastest.lock, save what is marked constant. It is taken last, and not held while operations
 * are woken or probes sent. Probes report on the network thread.
 */
#ifndef CONSULFS_RACE_H
#define CONSULFS_RACE_H

#include "candidate.h"
#include "fastest.h"

#define MS 1000000ull
#define SECOND (1000 * MS)

struct heat {
    /* constant */
    struct fastest *fastest;
    struct race *race; /* outlives it */
    char *datacenter;  /* NULL: the mount's own */
    size_t *probed;    /* the candidate of each target */
    size_t probed_n;
    bool behind;      /* readers have another result meanwhile */
    size_t incumbent; /* the race's winner so far, or CANDIDATE_NONE */
    uint64_t made_ns;

    uint32_t refs;
    struct candidates candidates; /* their outcomes change */
    uint64_t answer;              /* constant: the hash of what they were taken from, a consul_snapshot */
    size_t challenger;            /* answered first, while the incumbent has a moment more; or CANDIDATE_NONE */
    bool concluded;
    size_t winner; /* once concluded; CANDIDATE_NONE: nobody answered */
    bool by_coordinate;
    uint64_t measured_ns; /* when it was concluded */
    uint64_t measured_at; /* the same as CLOCK_REALTIME */
    struct heat *next;    /* in the queue */
};

struct race {
    char *service;        /* constant */
    struct heat *running; /* counted, or NULL */
    struct heat *kept;    /* counted, or NULL; concluded */
    struct op *waiting;
    size_t heats; /* that exist, those included that were overtaken */
    uint64_t used_ns;
    struct race *next;
};

struct fastest {
    struct fs *fs; /* constant */
    pthread_mutex_t lock;
    struct race *races;
    size_t race_n;
    size_t racing; /* heats whose probes are out */
    struct heat *queue;
    struct consul_snapshot *datacenters; /* counted, or NULL */
    uint64_t datacenters_ns;
};

/* fastest.lock is held. The race of a service, made if there is none; NULL without memory. */
struct race *race_get(struct fastest *fastest, const char *service);
/* fastest.lock is held. The operation is woken when the race's heat is concluded. */
void race_wait(struct race *race, struct op *op);

/* fastest.lock is held. Takes the candidates, also when it fails; they are those of `answer`, of the datacenter. The
 * heat, counted, becomes the race's. */
struct heat *heat_new(struct fastest *fastest, struct race *race, const char *datacenter,
                      const struct consul_snapshot *answer, struct candidates *candidates, bool behind);
/* Takes the caller's reference. Sends the probes, or queues it. fastest.lock is not held. */
void heat_start(struct heat *heat);
/* fastest.lock is held. The result is what readers get from now on. */
void heat_conclude(struct heat *heat, size_t winner);

uint64_t race_realtime_ns(void);
/* Are both datacenters the same? NULL is the mount's own. */
bool race_same_place(const char *one, const char *other);

#endif
