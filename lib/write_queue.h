/*
 * Small writes go together when there are many. Up to a few are under way at a time, each in a request of its own;
 * those that come meanwhile wait for one of these to end, and are then one transaction. So a program by itself waits
 * for nothing, and what hundreds cost Consul (a request and an entry of its log each, which the servers agree on and
 * write to their disks) is shared.
 *
 * Only what stands by itself goes so: one key set to a value, whatever it had. Of one key no two go together, since all
 * that is in a transaction has the same ModifyIndex.
 */
#ifndef CONSUL_LIB_WRITE_QUEUE_H
#define CONSUL_LIB_WRITE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Requests of small writes under way at a time, in a datacenter. Where one takes as long as to the agent on this host
 * it costs processor time, and to share it makes all faster. Where it takes longer they wait for the servers to agree,
 * which many can do at a time. Measured: tests/bench, "write".
 */
#define WRITE_QUEUE_AT_ONCE 4
#define WRITE_QUEUE_AT_ONCE_FAR 16
#define WRITE_QUEUE_FAR_NS 1000000
/* Of the encoded transaction with one write, in bytes; of one with many. */
#define WRITE_QUEUE_SMALL ((size_t)16 * 1024)
#define WRITE_QUEUE_TOGETHER ((size_t)128 * 1024)
/* They share the deadline of the first, and of one that is so much older nobody does. */
#define WRITE_QUEUE_SPREAD_NS 250000000

struct write_queues; /* of a client; any thread */
struct write_queue;  /* of a datacenter */

/* What the queue knows of a write; guarded by it from begin to end. */
struct queued_write {
    const char *key; /* the writer's */
    size_t len;      /* of it as a transaction, encoded */
    uint64_t deadline_ns;
    struct write_queue *queue;
    struct queued_write *next; /* in the queue, or of those that go together */
};

/* NULL without memory. */
struct write_queues *write_queues_new(void);
/* Nothing is under way any more. */
void write_queues_free(struct write_queues *queues);

/* True: it is to be sent now, by itself. False: it waits, and will come out of write_queue_end(). NULL: the agent's. */
bool write_queue_begin(struct write_queues *queues, const char *datacenter, struct queued_write *write);
/*
 * A request that was begun has ended; of the writes that were in it any one, and how long it took: 0, it was not
 * answered. Returns what is to be sent in one request now, of at most so many writes and so long, in the order of
 * their beginnings; or NULL.
 */
struct queued_write *write_queue_end(struct write_queues *queues, struct queued_write *write, uint64_t took_ns,
                                     size_t max_writes, size_t max_len);

/* How many writes went together with others so far. */
uint64_t write_queues_together(struct write_queues *queues);

#endif
