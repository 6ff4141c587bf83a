/* fs/way: who is on his way down a path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "name.h"
#include "way.h"

#define A_MOMENT (WAY_MOMENT_NS / 2)
#define BEGAN (1000 * (uint64_t)WAY_MOMENT_NS)

static int setup(void **state)
{
    *state = malloc(sizeof(struct ways));
    ways_init(*state);
    return 0;
}

static int teardown(void **state)
{
    ways_destroy(*state);
    free(*state);
    return 0;
}

/* Into a directory, for a name that leads to no other. */
static uint64_t look(struct ways *ways, pid_t tid, uint64_t dir, uint64_t now)
{
    bool again;
    uint64_t since = way_look(ways, tid, dir, name_hash(dir, "file"), now, &again);

    assert_false(again);
    return since;
}

static void reach(struct ways *ways, pid_t tid, uint64_t dir, uint64_t since, uint64_t now)
{
    way_reach(ways, tid, dir, name_hash(dir - 1, "directory"), since, false, since, now);
}

static void test_down_a_path(void **state)
{
    struct ways *ways = *state;
    uint64_t now = BEGAN;

    assert_int_equal(look(ways, 7, 1, now), now);
    now += 100 * (uint64_t)WAY_MOMENT_NS; /* the first look took long */
    for (uint64_t dir = 2; dir < 10; dir++) {
        reach(ways, 7, dir, BEGAN, now);
        now += A_MOMENT;
        assert_int_equal(look(ways, 7, dir, now), BEGAN);
    }
    /* It has led to a file: what comes next is another way. */
    assert_int_equal(look(ways, 7, 9, now), now);
}

static void test_another_way(void **state)
{
    struct ways *ways = *state;
    uint64_t now = BEGAN + A_MOMENT;

    reach(ways, 7, 2, BEGAN, now);
    assert_int_equal(look(ways, 8, 2, now), now);               /* another thread */
    assert_int_equal(look(ways, 7 + WAY_THREADS, 2, now), now); /* in the same place */
    assert_int_equal(look(ways, 7, 2, now), BEGAN);
    reach(ways, 7, 2, BEGAN, now);
    assert_int_equal(look(ways, 7, 3, now), now); /* elsewhere; and that ends it */
    assert_int_equal(look(ways, 7, 2, now), now);
    reach(ways, 7, 2, BEGAN, now);
    reach(ways, 7 + WAY_THREADS, 3, now, now); /* takes its place */
    assert_int_equal(look(ways, 7, 2, now), now);
    assert_int_equal(look(ways, 7 + WAY_THREADS, 3, now), now);
}

static void test_too_late(void **state)
{
    struct ways *ways = *state;
    uint64_t now = BEGAN;

    reach(ways, 7, 2, BEGAN, now);
    now += WAY_MOMENT_NS;
    assert_int_equal(look(ways, 7, 2, now), now);
    /* A thread of another namespace has no number here. */
    reach(ways, 0, 2, BEGAN, BEGAN);
    assert_int_equal(look(ways, 0, 2, BEGAN + 1), BEGAN + 1);
}

/* ls -l: each file by its path, the names of files being known to the kernel. */
static void test_through_a_directory_again(void **state)
{
    struct ways *ways = *state;
    uint64_t place = name_hash(1, "d"), other = name_hash(1, "e");
    uint64_t now = BEGAN + A_MOMENT, asked = BEGAN;
    bool again;

    assert_int_equal(way_look(ways, 7, 1, place, BEGAN, &again), BEGAN);
    way_reach(ways, 7, 2, place, asked, false, BEGAN, now);
    for (int i = 0; i < 4; i++) {
        now += A_MOMENT / 4;
        assert_int_equal(way_look(ways, 7, 1, place, now, &again), asked);
        assert_true(again);
        way_reach(ways, 7, 2, place, asked, true, now, now);
    }
    /* What is in it is asked for: it may have changed since the last time. */
    assert_int_equal(look(ways, 7, 2, now + 1), now);
    assert_int_equal(way_look(ways, 7, 1, other, now, &again), now);
    assert_false(again);
    /* And so is the directory itself, a moment after it was. */
    now = BEGAN + A_MOMENT + WAY_MOMENT_NS;
    assert_int_equal(way_look(ways, 7, 1, place, now, &again), now);
    assert_false(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_down_a_path, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_late, setup, teardown),
        cmocka_unit_test_setup_teardown(test_through_a_directory_again, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
