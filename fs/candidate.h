/*
 * The candidates of services/X/fastest: the instances that pass their checks, how each can be probed, what came of it,
 * and who wins. Pure: no I/O, no clock, no lock.
 */
#ifndef CONSULFS_CANDIDATE_H
#define CONSULFS_CANDIDATE_H

#include <consul.h>

enum candidate_outcome {
    CANDIDATE_UNKNOWN, /* not probed, or no answer yet */
    CANDIDATE_GOOD,
    CANDIDATE_BAD,
};

struct candidate {
    char *node, *id; /* which instance */
    char *host;
    int port;
    char *address; /* "10.0.0.7:8080": what users get */
    char *target;  /* of the probe; NULL: it cannot be probed */
    enum consul_probe_kind kind;

    enum candidate_outcome outcome;
    int err;              /* CANDIDATE_BAD: a negative errno */
    uint64_t ns;          /* CANDIDATE_GOOD: the newest measurement */
    uint64_t smoothed_ns; /* and what those before it say too; 0: never measured */
};

struct candidates {
    struct candidate *list;
    size_t n;
};

#define CANDIDATE_NONE SIZE_MAX

/*
 * The passing instances of an answer of /v1/health/service/X. `local` is the node whose loopback addresses are ours, or
 * NULL. -EIO for what is no such answer, -ENOMEM.
 */
int candidates_of(const json_t *health, const char *local, struct candidates *ret);
void candidates_clear(struct candidates *candidates);

size_t candidates_find(const struct candidates *candidates, const char *node, const char *id);
/* The same instances, probed in the same way? */
bool candidates_same(const struct candidates *one, const struct candidates *other);
/* How many can be probed. */
size_t candidates_probeable(const struct candidates *candidates);

/* Takes over what was learnt of the same instances before. */
void candidates_remember(struct candidates *candidates, const struct candidates *before);
void candidate_answered(struct candidate *candidate, uint64_t ns);
void candidate_failed(struct candidate *candidate, int err);

/* Better by so much that it is worth a change: a fifth, and a millisecond. */
bool candidate_clearly_better(uint64_t ns, uint64_t than_ns);
/* The best that answered well; the incumbent unless that is clearly better. CANDIDATE_NONE if nobody did. */
size_t candidates_pick(const struct candidates *candidates, size_t incumbent);

/* fastest.json. `measured_ns` is CLOCK_REALTIME. */
struct candidates_result {
    const char *service, *datacenter;
    const struct candidates *candidates;
    size_t winner;
    bool by_coordinate; /* nothing answered: who is nearest by Consul's network coordinates */
    uint64_t measured_ns;
};
int candidates_document(const struct candidates_result *result, char **ret_data, size_t *ret_len);

#endif
