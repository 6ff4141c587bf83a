/*
 * The gate between replies and notifications.
 *
 * A reply that was made from an older snapshot must reach the kernel before the notification that invalidates it, or
 * the kernel would keep the old entry without limit. So whoever turns a snapshot into a reply passes through the gate,
 * and the notify thread, after it has picked up a change, waits until everybody who was inside then has come out.
 * It is the read side of SRCU: entering and leaving never block, so no lock is held across a reply.
 */
#ifndef CONSULFS_GATE_H
#define CONSULFS_GATE_H

#include <pthread.h>
#include <stdint.h>

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t emptied;
    unsigned epoch;     /* guarded by lock */
    unsigned inside[2]; /* guarded by lock: who entered in an even or odd epoch */
};

void gate_init(struct gate *gate);
void gate_destroy(struct gate *gate);
/* Returns the ticket to leave with. Any thread. */
unsigned gate_enter(struct gate *gate);
void gate_leave(struct gate *gate, unsigned ticket);
/* Waits for all who are inside now, not for those who enter later. One thread at a time. */
void gate_synchronize(struct gate *gate);

#endif
