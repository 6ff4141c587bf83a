/* Work on a thread of its own: it comes back in order, on the thread that handed it over, and all of it comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>

#include "worker.h"

struct job {
    struct work work; /* first */
    pthread_t ran_on, done_on;
    sem_t *begun, *go; /* says that it has begun, and waits; or NULL */
    int done, ran;     /* how often `done` was called; what it was told, or -1 */
    int turn;          /* as the how-manieth of all */
};

static int turns;
static sem_t woken;

static void on_wake(void *arg)
{
    (void)arg;
    sem_post(&woken);
}

static void run(struct work *work)
{
    struct job *job = (struct job *)work;

    job->ran_on = pthread_self();
    if (job->begun) {
        sem_post(job->begun);
        sem_wait(job->go);
    }
}

static void done(struct work *work, bool ran)
{
    struct job *job = (struct job *)work;

    job->done_on = pthread_self();
    job->done++;
    job->ran = ran;
    job->turn = turns++;
}

static void job_init(struct job *job) { *job = (struct job){.work = {.run = run, .done = done}, .ran = -1}; }

static void test_order(void **state)
{
    struct worker *worker = worker_new(on_wake, NULL);
    struct job jobs[5];

    (void)state;
    turns = 0;
    for (int i = 0; i < 5; i++) {
        job_init(&jobs[i]);
        worker_submit(worker, &jobs[i].work);
    }
    for (int i = 0; i < 5; i++)
        sem_wait(&woken);
    worker_deliver(worker);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(jobs[i].done, 1);
        assert_int_equal(jobs[i].ran, true);
        assert_int_equal(jobs[i].turn, i);
        assert_true(pthread_equal(jobs[i].done_on, pthread_self()));
        assert_false(pthread_equal(jobs[i].ran_on, pthread_self()));
    }
    worker_free(worker);
}

/* Who hands over goes on meanwhile, and what is not run when it stops is given back. */
static void test_stop(void **state)
{
    struct worker *worker = worker_new(on_wake, NULL);
    struct job first, second;
    sem_t begun, go;

    (void)state;
    sem_init(&begun, 0, 0);
    sem_init(&go, 0, 0);
    job_init(&first);
    first.begun = &begun;
    first.go = &go;
    job_init(&second);
    worker_submit(worker, &first.work);
    worker_submit(worker, &second.work);
    sem_wait(&begun);
    worker_deliver(worker);
    assert_int_equal(first.done, 0);
    sem_post(&go);
    worker_stop(worker);
    assert_int_equal(first.done, 1);
    assert_int_equal(first.ran, true);
    assert_int_equal(second.done, 1); /* the worker may have come to it before it was stopped */
    worker_stop(worker);
    assert_int_equal(second.done, 1);
    worker_free(worker);
    worker_free(NULL);
}

static void test_nothing_to_do(void **state)
{
    struct worker *worker = worker_new(on_wake, NULL);

    (void)state;
    worker_deliver(worker);
    worker_free(worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_nothing_to_do),
    };

    sem_init(&woken, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
