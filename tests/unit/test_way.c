/* fs/way: who is on his way down a path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "way.h"

#define A_MOMENT (WAY_MOMENT_NS / 2)

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

static void test_down_a_path(void **state)
{
    struct ways *ways = *state;
    uint64_t now = 1000 * WAY_MOMENT_NS, began = now;

    /* The first look took long. */
    assert_int_equal(way_end(ways, 7, 1, now), now);
    now += 100 * (uint64_t)WAY_MOMENT_NS;
    for (uint64_t dir = 2; dir < 10; dir++) {
        way_reach(ways, 7, dir, began, now);
        now += A_MOMENT;
        assert_int_equal(way_end(ways, 7, dir, now), began);
    }
    /* It has led to a file: what comes next is another way. */
    assert_int_equal(way_end(ways, 7, 9, now), now);
}

static void test_another_way(void **state)
{
    struct ways *ways = *state;
    uint64_t began = 1000 * WAY_MOMENT_NS, now = began + A_MOMENT;

    way_reach(ways, 7, 2, began, now);
    assert_int_equal(way_end(ways, 8, 2, now), now);               /* another thread */
    assert_int_equal(way_end(ways, 7 + WAY_THREADS, 2, now), now); /* in the same place */
    assert_int_equal(way_end(ways, 7, 2, now), began);
    way_reach(ways, 7, 2, began, now);
    assert_int_equal(way_end(ways, 7, 3, now), now); /* elsewhere; and that ends it */
    assert_int_equal(way_end(ways, 7, 2, now), now);
    way_reach(ways, 7, 2, began, now);
    way_reach(ways, 7 + WAY_THREADS, 3, now, now); /* takes its place */
    assert_int_equal(way_end(ways, 7, 2, now), now);
    assert_int_equal(way_end(ways, 7 + WAY_THREADS, 3, now), now);
}

static void test_too_late(void **state)
{
    struct ways *ways = *state;
    uint64_t began = 1000 * WAY_MOMENT_NS, now = began;

    way_reach(ways, 7, 2, began, now);
    now += WAY_MOMENT_NS;
    assert_int_equal(way_end(ways, 7, 2, now), now);
    /* A thread of another namespace has no number here. */
    way_reach(ways, 0, 2, began, began);
    assert_int_equal(way_end(ways, 0, 2, began + 1), began + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_down_a_path, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_late, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
