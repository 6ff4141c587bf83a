/*
 * The index rules of Consul's blocking queries, as a state machine that knows no clock, no network and no randomness of
 * its own: they come in as arguments.
 *
 * One struct consul_index belongs to one watch, under whatever lock guards that; nothing here locks or fails. The life
 * of a watch:
 *
 *     consul_index_init(&index, …);
 *     for (;;) {
 *         send a GET with index= and wait= from consul_index_next()
 *         answered:  consul_index_answer() says whether it is news, and how long to pause
 *         failed:    consul_index_failed() says how long to pause
 *     }
 *
 * and whenever the same URL is read without index=, in between or instead of the first round, consul_index_read().
 *
 * Sources: https://developer.hashicorp.com/consul/api-docs/features/blocking ("Implementation Details"), setIndex() in
 * Consul's agent/http.go, and the measurements in the design's CONSUL.md.
 *
 * Module-private header: nothing of it is public API.
 */
#ifndef CONSUL_INDEX_H
#define CONSUL_INDEX_H

#include <stdbool.h>
#include <stdint.h>

/* Consul's own default and its maximum, in seconds. */
#define CONSUL_INDEX_WAIT_DEFAULT_S 300
#define CONSUL_INDEX_WAIT_MAX_S 600

/* The longest wait that Consul 1.22.4's HTTP limit of 30 s allows, after its jitter of wait/16. */
#define CONSUL_INDEX_WAIT_LIMITED_S 25

/* The longest pause between two attempts. */
#define CONSUL_INDEX_PAUSE_MAX_MS 30000

struct consul_index {
    uint64_t index;     /* what the next request sends; 0: it does not block */
    unsigned failures;  /* in a row; any answer ends the row */
    unsigned fruitless; /* answers in a row that came early and brought nothing */
    unsigned wait_s;    /* what a blocking request asks for; shrinks when the server's time limit shows */
    unsigned
        wait_before_s; /* wait_s before the failure that shrank it, while that may yet prove to be an outage; or 0 */
    bool is_hash;      /* event lists: the index is a hash, not a count; only unequal means anything */
};

enum consul_index_news {
    CONSUL_INDEX_CHANGED, /* the answer is new: take it */
    CONSUL_INDEX_SAME,    /* the wait ended without news: what we have is current */
    CONSUL_INDEX_RESET,   /* the index went backwards: don't trust the order of things; the next request reads anew */
};

/* Starts at index 0: a request that does not block. wait_s is cut at CONSUL_INDEX_WAIT_MAX_S; 0 means the default. */
void consul_index_init(struct consul_index *index, bool is_hash, unsigned wait_s);

/* What to send: index=*ret_index, and wait=*ret_wait_s in seconds unless that is 0, which means not to block. */
void consul_index_next(const struct consul_index *index, uint64_t *ret_index, unsigned *ret_wait_s);

/*
 * How long the transport should wait, in milliseconds, before it takes the request that consul_index_next() describes
 * for lost: the server's wait with its jitter, plus patience_ms for everything else.
 */
unsigned consul_index_deadline_ms(const struct consul_index *index, unsigned patience_ms);

/*
 * An answer has come to what consul_index_next() said: good, complete, with X-Consul-Index header_index (0 also if it
 * had none), elapsed_ms after its request was sent. *ret_pause_ms is how long to wait before the next request: 0,
 * unless the server answers at once and with nothing new although it was asked to block (a proxy or an endpoint that
 * ignores index=), which would make us spin.
 *
 * random: any evenly distributed number from 0 up to at least 30000.
 */
enum consul_index_news consul_index_answer(struct consul_index *index, uint64_t header_index, uint64_t elapsed_ms,
                                           uint32_t random, unsigned *ret_pause_ms);

/*
 * A request without index= was answered: good and complete. That is what the server has now, so the watch goes on from
 * there even if it is less than before. SAME if the index is the one that was known, else CHANGED.
 */
enum consul_index_news consul_index_read(struct consul_index *index, uint64_t header_index);

/*
 * A request has failed, be it by the network or by an error for an answer, elapsed_ms after it was sent. early_eof says
 * that it was a blocking one whose connection, once made, ended before an answer began: after some seconds that is how
 * a server's time limit shows, and shorter waits are asked for from then on.
 *
 * Returns the pause before the next attempt in milliseconds: about 100 at first, doubling to CONSUL_INDEX_PAUSE_MAX_MS,
 * with up to half of it taken off at random (see above) so that a fleet does not come back in step. The index is kept:
 * if nothing changed during the break, the next answer is as the last.
 */
unsigned consul_index_failed(struct consul_index *index, bool early_eof, uint64_t elapsed_ms, uint32_t random);

#endif
