/* When a watch is given up because it brings more than it is good for, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "watch_cost.h"

#define SECOND 1000000000ull
#define START (1000 * SECOND)
#define KIB 1024ull
#define MIB (1024 * KIB)

/* How many changes of `changed` bytes, `apart` from each other, a watch of `size` bytes lives through; at most `max`.
 */
static unsigned lives_through(struct watch_cost *cost, uint64_t size, uint64_t changed, uint64_t apart, uint64_t *now,
                              unsigned max)
{
    unsigned n = 0;

    for (; n < max; n++, *now += apart)
        if (watch_cost_charge(cost, size, changed, *now))
            break;
    return n;
}

static void test_what_changes_seldom_stays_watched(void **state)
{
    struct watch_cost small = {0}, large = {0}, largest = {0};
    uint64_t now = START;

    (void)state;
    assert_int_equal(lives_through(&small, 31 * KIB, 100, SECOND, &now, 100000), 100000);
    now = START;
    assert_int_equal(lives_through(&large, MIB, 100, 33 * SECOND, &now, 10000), 10000);
    now = START;
    assert_int_equal(lives_through(&largest, 22 * MIB, 100, 3600 * SECOND, &now, 1000), 1000);
}

static void test_what_is_worth_it_stays_watched(void **state)
{
    struct watch_cost cost = {0};
    uint64_t now = START;

    (void)state;
    assert_int_equal(lives_through(&cost, 300, 100, SECOND / 1000, &now, 1000000), 1000000);
}

static void test_what_changes_too_often_is_demoted(void **state)
{
    struct watch_cost smallest = {0}, small = {0}, large = {0}, largest = {0};
    uint64_t now = START;

    (void)state;
    /* Ten keys, of which one changes each time: some seconds. */
    assert_in_range(lives_through(&smallest, 1400, 140, SECOND / 200, &now, 100000), 800, 1400);
    now = START;
    assert_in_range(lives_through(&small, 4 * KIB, 100, SECOND / 200, &now, 100000), 200, 400);
    assert_true(watch_cost_is_demoted(&small, now));
    now = START;
    assert_int_equal(lives_through(&large, 400 * KIB, 100, SECOND / 200, &now, 100000), 3);
    now = START;
    assert_int_equal(lives_through(&largest, 22 * MIB, 100, SECOND, &now, 100000), 1);
}

/* Somebody's writes wake it, and never is there anything new: each answer costs, however small it is. */
static void test_waking_for_nothing_is_a_cost(void **state)
{
    struct watch_cost seldom = {0}, often = {0};
    uint64_t now = START;

    (void)state;
    assert_int_equal(lives_through(&seldom, 20, 0, SECOND / 20, &now, 100000), 100000);
    assert_in_range(lives_through(&often, 20, 0, SECOND / 200, &now, 100000), 2000, 4000);
}

/* One change brings the whole; whatever its size, that is no reason. */
static void test_one_change_is_forgiven(void **state)
{
    struct watch_cost cost = {0};

    (void)state;
    assert_false(watch_cost_charge(&cost, 64 * MIB, 100, START));
    assert_false(watch_cost_is_demoted(&cost, START));
}

static void test_the_pause_ends_and_grows(void **state)
{
    struct watch_cost cost = {0};
    uint64_t now = START, first, second;

    (void)state;
    lives_through(&cost, MIB, 100, SECOND / 200, &now, 1000);
    first = cost.until_ns - now;
    now = cost.until_ns;
    assert_true(watch_cost_is_demoted(&cost, now - 1));
    assert_false(watch_cost_is_demoted(&cost, now));
    lives_through(&cost, MIB, 100, SECOND / 200, &now, 1000);
    second = cost.until_ns - now;
    assert_int_equal(second, 2 * first);
    for (int i = 0; i < 20; i++) {
        now = cost.until_ns;
        lives_through(&cost, MIB, 100, SECOND / 200, &now, 1000);
    }
    assert_int_equal(cost.until_ns - now, 3600 * SECOND);
    /* Quiet for longer than it was demoted: what was is forgotten. */
    now = cost.until_ns + 2 * 3600 * SECOND;
    lives_through(&cost, MIB, 100, SECOND / 200, &now, 1000);
    assert_int_equal(cost.until_ns - now, first);
}

static void test_forget(void **state)
{
    struct watch_cost cost = {0};
    uint64_t now = START;

    (void)state;
    lives_through(&cost, MIB, 100, SECOND / 200, &now, 1000);
    assert_true(watch_cost_is_demoted(&cost, now));
    watch_cost_forget(&cost);
    assert_false(watch_cost_is_demoted(&cost, now));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_changes_seldom_stays_watched), cmocka_unit_test(test_what_is_worth_it_stays_watched),
        cmocka_unit_test(test_what_changes_too_often_is_demoted), cmocka_unit_test(test_one_change_is_forgiven),
        cmocka_unit_test(test_the_pause_ends_and_grows),          cmocka_unit_test(test_forget),
        cmocka_unit_test(test_waking_for_nothing_is_a_cost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
