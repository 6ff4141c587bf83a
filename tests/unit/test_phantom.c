/* fs/phantom: who emptied a directory still finds it, for a while, and nobody else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "phantom.h"

/* Linked with --wrap: time passes as we say. */
int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

static time_t ahead_s;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    int r = __real_clock_gettime(clock, ts);

    if (r == 0 && clock == CLOCK_MONOTONIC)
        ts->tv_sec += ahead_s;
    return r;
}

static int setup(void **state)
{
    struct phantoms *phantoms = malloc(sizeof(*phantoms));

    phantoms_init(phantoms);
    *state = phantoms;
    return 0;
}

static int teardown(void **state)
{
    phantoms_destroy(*state);
    free(*state);
    return 0;
}

static void test_only_who_emptied_it(void **state)
{
    struct phantoms *phantoms = *state;

    assert_false(phantom_has(phantoms, "kv/a", 7));
    assert_false(phantom_remove(phantoms, "kv/a", 7));
    phantom_add(phantoms, "kv/a", 7);
    assert_true(phantom_has(phantoms, "kv/a", 7));
    assert_false(phantom_has(phantoms, "kv/a", 8));
    assert_false(phantom_has(phantoms, "kv/a/", 7));
    assert_false(phantom_has(phantoms, "kv", 7));
    assert_false(phantom_remove(phantoms, "kv/a", 8));
    assert_true(phantom_remove(phantoms, "kv/a", 7));
    assert_false(phantom_has(phantoms, "kv/a", 7));
    assert_false(phantom_remove(phantoms, "kv/a", 7));
}

static void test_one_for_each_process(void **state)
{
    struct phantoms *phantoms = *state;

    phantom_add(phantoms, "kv/a", 7);
    phantom_add(phantoms, "kv/a", 8);
    phantom_add(phantoms, "kv/b", 7);
    assert_true(phantom_remove(phantoms, "kv/a", 7));
    assert_true(phantom_has(phantoms, "kv/a", 8));
    assert_true(phantom_has(phantoms, "kv/b", 7));
}

static void test_below(void **state)
{
    struct phantoms *phantoms = *state;

    phantom_add(phantoms, "kv/a/b", 7);
    assert_true(phantom_has_below(phantoms, "kv/a", 7));
    assert_true(phantom_has_below(phantoms, "kv", 7));
    assert_false(phantom_has_below(phantoms, "kv/a/b", 7));
    assert_false(phantom_has_below(phantoms, "k", 7));
    assert_false(phantom_has_below(phantoms, "kv/a", 8));
    assert_true(phantom_remove(phantoms, "kv/a/b", 7));
    assert_false(phantom_has_below(phantoms, "kv/a", 7));
    phantom_add(phantoms, "kv/a/b", 7);
    ahead_s += PHANTOM_SECONDS + 1;
    assert_false(phantom_has_below(phantoms, "kv/a", 7));
}

static void test_any_who_is_not_over(void **state)
{
    struct phantoms *phantoms = *state;
    pid_t over = fork();

    if (over == 0)
        _exit(0);
    assert_int_equal(waitpid(over, NULL, 0), over);
    phantom_add(phantoms, "kv/a/b", over);
    assert_false(phantom_any(phantoms, "kv/a/b"));
    phantom_add(phantoms, "kv/a/b", getpid());
    assert_true(phantom_any(phantoms, "kv/a/b"));
    assert_true(phantom_any(phantoms, "kv/a"));
    assert_true(phantom_any(phantoms, "kv"));
    assert_false(phantom_any(phantoms, "kv/a/b/c"));
    assert_false(phantom_any(phantoms, "kv/a/"));
    ahead_s += PHANTOM_SECONDS + 1;
    assert_false(phantom_any(phantoms, "kv/a"));
}

/* Twice is once: removed once, it is gone, and does not push others out of the ring. */
static void test_added_twice(void **state)
{
    struct phantoms *phantoms = *state;

    phantom_add(phantoms, "kv/first", 7);
    for (int i = 0; i < 2 * PHANTOM_MAX; i++)
        phantom_add(phantoms, "kv/a", 7);
    assert_true(phantom_has(phantoms, "kv/first", 7));
    assert_true(phantom_remove(phantoms, "kv/a", 7));
    assert_false(phantom_has(phantoms, "kv/a", 7));
}

static void test_the_oldest_goes_first(void **state)
{
    struct phantoms *phantoms = *state;
    char path[32];

    for (int i = 0; i < PHANTOM_MAX + 3; i++) {
        snprintf(path, sizeof(path), "kv/%d", i);
        phantom_add(phantoms, path, 7);
    }
    for (int i = 0; i < PHANTOM_MAX + 3; i++) {
        snprintf(path, sizeof(path), "kv/%d", i);
        assert_int_equal(phantom_has(phantoms, path, 7), i >= 3);
    }
}

static void test_time_is_limited(void **state)
{
    struct phantoms *phantoms = *state;

    phantom_add(phantoms, "kv/a", 7);
    phantom_add(phantoms, "kv/b", 7);
    ahead_s += PHANTOM_SECONDS - 2;
    assert_true(phantom_has(phantoms, "kv/a", 7));
    phantom_add(phantoms, "kv/b", 7); /* again: its time begins again */
    ahead_s += 3;
    assert_false(phantom_has(phantoms, "kv/a", 7));
    assert_false(phantom_remove(phantoms, "kv/a", 7));
    assert_true(phantom_has(phantoms, "kv/b", 7));
    ahead_s += PHANTOM_SECONDS;
    assert_false(phantom_has(phantoms, "kv/b", 7));
    phantom_add(phantoms, "kv/a", 7);
    assert_true(phantom_has(phantoms, "kv/a", 7));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_only_who_emptied_it), CASE(test_one_for_each_process), CASE(test_below),
        CASE(test_any_who_is_not_over), CASE(test_added_twice),          CASE(test_the_oldest_goes_first),
        CASE(test_time_is_limited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
