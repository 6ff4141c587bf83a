#include "worker.h"

#include <pthread.h>
#include <stdlib.h>

struct queue {
    struct work *first, **end;
};

struct worker {
    void (*wake)(void *arg); /* constant */
    void *arg;               /* constant */
    pthread_t thread;        /* as `started`: of the thread that hands over */
    bool started;

    pthread_mutex_t lock; /* innermost: nothing is called while it is held */
    pthread_cond_t something;
    /* guarded by lock */
    struct queue submitted, ran;
    bool stopping;
};

static void queue_init(struct queue *queue) { *queue = (struct queue){.end = &queue->first}; }

static void queue_add(struct queue *queue, struct work *work)
{
    work->next = NULL;
    *queue->end = work;
    queue->end = &work->next;
}

static struct work *queue_take(struct queue *queue)
{
    struct work *work = queue->first;

    if (work) {
        queue->first = work->next;
        if (!queue->first)
            queue->end = &queue->first;
    }
    return work;
}

struct worker *worker_new(void (*wake)(void *arg), void *arg)
{
    struct worker *worker = calloc(1, sizeof(*worker));

    if (!worker)
        return NULL;
    worker->wake = wake;
    worker->arg = arg;
    queue_init(&worker->submitted);
    queue_init(&worker->ran);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->something, NULL);
    return worker;
}

static void *worker_thread(void *arg)
{
    struct worker *worker = arg;

    pthread_mutex_lock(&worker->lock);
    while (!worker->stopping) {
        struct work *work = queue_take(&worker->submitted);

        if (!work) {
            pthread_cond_wait(&worker->something, &worker->lock);
            continue;
        }
        pthread_mutex_unlock(&worker->lock);
        work->run(work);
        pthread_mutex_lock(&worker->lock);
        queue_add(&worker->ran, work);
        if (!worker->stopping) {
            pthread_mutex_unlock(&worker->lock);
            worker->wake(worker->arg);
            pthread_mutex_lock(&worker->lock);
        }
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

void worker_submit(struct worker *worker, struct work *work)
{
    if (!worker->started && pthread_create(&worker->thread, NULL, worker_thread, worker) != 0) {
        work->run(work);
        work->done(work, true);
        return;
    }
    worker->started = true;
    pthread_mutex_lock(&worker->lock);
    queue_add(&worker->submitted, work);
    pthread_cond_signal(&worker->something);
    pthread_mutex_unlock(&worker->lock);
}

static struct work *take_one(struct worker *worker, struct queue *queue)
{
    struct work *work;

    pthread_mutex_lock(&worker->lock);
    work = queue_take(queue);
    pthread_mutex_unlock(&worker->lock);
    return work;
}

void worker_deliver(struct worker *worker)
{
    struct work *work;

    while ((work = take_one(worker, &worker->ran)))
        work->done(work, true);
}

void worker_stop(struct worker *worker)
{
    struct work *work;

    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_signal(&worker->something);
    pthread_mutex_unlock(&worker->lock);
    if (worker->started)
        pthread_join(worker->thread, NULL);
    worker->started = false;
    worker_deliver(worker);
    while ((work = take_one(worker, &worker->submitted)))
        work->done(work, false);
}

void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    worker_stop(worker);
    pthread_mutex_destroy(&worker->lock);
    pthread_cond_destroy(&worker->something);
    free(worker);
}
