/* fs/gate: synchronizing waits for those who are inside, and for nobody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "gate.h"

struct synchronizer {
    struct gate *gate;
    pthread_t thread;
    atomic_bool done;
};

static void *synchronize(void *arg)
{
    struct synchronizer *s = arg;

    gate_synchronize(s->gate);
    atomic_store(&s->done, true);
    return NULL;
}

static unsigned epoch_of(struct gate *gate)
{
    unsigned epoch;

    pthread_mutex_lock(&gate->lock);
    epoch = gate->epoch;
    pthread_mutex_unlock(&gate->lock);
    return epoch;
}

/* Returns once it has begun: from then on whoever enters is later. */
static void start(struct synchronizer *s, struct gate *gate)
{
    unsigned epoch = epoch_of(gate);

    s->gate = gate;
    atomic_init(&s->done, false);
    assert_int_equal(pthread_create(&s->thread, NULL, synchronize, s), 0);
    while (epoch_of(gate) == epoch)
        sched_yield();
}

static void test_empty(void **state)
{
    struct gate gate;

    (void)state;
    gate_init(&gate);
    for (int i = 0; i < 5; i++) {
        unsigned ticket;

        gate_synchronize(&gate);
        ticket = gate_enter(&gate);
        gate_leave(&gate, ticket);
    }
    gate_synchronize(&gate);
    gate_destroy(&gate);
}

static void test_waits_for_all_inside(void **state)
{
    struct gate gate;

    (void)state;
    gate_init(&gate);
    for (int round = 0; round < 4; round++) { /* both parities */
        struct synchronizer s;
        unsigned tickets[3], later;

        for (int i = 0; i < 3; i++)
            tickets[i] = gate_enter(&gate);
        start(&s, &gate);
        for (int i = 0; i < 3; i++) {
            /* Those who come and go meanwhile neither end nor prolong the wait. */
            later = gate_enter(&gate);
            gate_leave(&gate, later);
            for (int j = 0; j < 20; j++)
                sched_yield();
            assert_false(atomic_load(&s.done));
            gate_leave(&gate, tickets[i]);
        }
        pthread_join(s.thread, NULL);
        assert_true(atomic_load(&s.done));
    }
    gate_destroy(&gate);
}

/* Would hang if it did. */
static void test_does_not_wait_for_later_ones(void **state)
{
    struct gate gate;

    (void)state;
    gate_init(&gate);
    for (int round = 0; round < 4; round++) {
        struct synchronizer s;
        unsigned before = gate_enter(&gate), later;

        start(&s, &gate);
        later = gate_enter(&gate);
        gate_leave(&gate, before);
        pthread_join(s.thread, NULL);
        gate_leave(&gate, later);
    }
    gate_destroy(&gate);
}

/* The next one does wait for those who were too late for the one before. */
static void test_one_after_the_other(void **state)
{
    struct synchronizer s;
    struct gate gate;
    unsigned ticket;

    (void)state;
    gate_init(&gate);
    gate_synchronize(&gate);
    ticket = gate_enter(&gate);
    start(&s, &gate);
    for (int j = 0; j < 20; j++)
        sched_yield();
    assert_false(atomic_load(&s.done));
    gate_leave(&gate, ticket);
    pthread_join(s.thread, NULL);
    gate_destroy(&gate);
}

/*
 * What it is for: a reader picks something up inside; who has replaced it and synchronized knows that no reader works
 * with the old one any more.
 */
struct shared {
    struct gate gate;
    _Atomic(atomic_int *) present; /* how many use it */
    atomic_int users[2];
    atomic_bool stop;
    atomic_int wrong;
};

static void *reader(void *arg)
{
    struct shared *shared = arg;

    while (!atomic_load(&shared->stop)) {
        unsigned ticket = gate_enter(&shared->gate);
        atomic_int *mine = atomic_load(&shared->present);

        atomic_fetch_add(mine, 1);
        sched_yield();
        atomic_fetch_sub(mine, 1);
        gate_leave(&shared->gate, ticket);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct shared shared = {0};
    pthread_t threads[4];

    (void)state;
    gate_init(&shared.gate);
    atomic_store(&shared.present, &shared.users[0]);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, &shared), 0);
    for (int i = 1; i <= 2000; i++) {
        atomic_store(&shared.present, &shared.users[i & 1]);
        gate_synchronize(&shared.gate);
        shared.wrong += atomic_load(&shared.users[(i + 1) & 1]) != 0;
    }
    atomic_store(&shared.stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(shared.wrong, 0);
    assert_int_equal(shared.gate.inside[0] + shared.gate.inside[1], 0);
    gate_destroy(&shared.gate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_waits_for_all_inside),
        cmocka_unit_test(test_does_not_wait_for_later_ones),
        cmocka_unit_test(test_one_after_the_other),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
