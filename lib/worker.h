/*
 * One thread for what would keep the network thread from its connections: an answer of megabytes takes as long to
 * decode as hundreds of small ones to be asked for and answered.
 *
 * Work is done in the order in which it was handed over. It is handed over and taken back by one thread, the network's;
 * the worker touches nothing but the work that it is at. The thread is started for the first work.
 */
#ifndef CONSUL_LIB_WORKER_H
#define CONSUL_LIB_WORKER_H

#include <stdbool.h>

struct worker;

struct work {
    void (*run)(struct work *work); /* on the worker's thread, no lock held */
    /* On the thread that takes it back, no lock held. False: it was not run, the worker was stopped before. */
    void (*done)(struct work *work, bool ran);
    struct work *next; /* private to worker.c */
};

/* `wake` has worker_deliver() called soon; from the worker's thread. NULL without memory. */
struct worker *worker_new(void (*wake)(void *arg), void *arg) __attribute__((warn_unused_result));
/* The caller keeps it in place until `done`. Always succeeds: without a thread it is run at once. */
void worker_submit(struct worker *worker, struct work *work);
/* Calls `done` of what has been run. */
void worker_deliver(struct worker *worker);
/* Ends the thread after the work that it is at; then calls `done` of all that is left. `wake` is not called any more.
 */
void worker_stop(struct worker *worker);
/* Stops and frees; NULL is fine. */
void worker_free(struct worker *worker);

#endif
