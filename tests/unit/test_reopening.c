/* fs/reopening: who was sent to look a name up again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "reopening.h"

static int setup(void **state)
{
    *state = malloc(sizeof(struct reopening));
    reopening_init(*state);
    return 0;
}

static int teardown(void **state)
{
    reopening_destroy(*state);
    free(*state);
    return 0;
}

static void test_once(void **state)
{
    struct reopening *reopening = *state;

    assert_false(reopening_ends(reopening, 7, 1, "a"));
    reopening_note(reopening, 7, 1, "a");
    assert_false(reopening_ends(reopening, 8, 1, "a"));
    assert_false(reopening_ends(reopening, 7, 2, "a"));
    assert_false(reopening_ends(reopening, 7, 1, "b"));
    assert_true(reopening_ends(reopening, 7, 1, "a"));
    assert_false(reopening_ends(reopening, 7, 1, "a"));
}

static void test_one_name_for_a_thread(void **state)
{
    struct reopening *reopening = *state;

    reopening_note(reopening, 7, 1, "a");
    reopening_note(reopening, 7, 1, "b");
    assert_false(reopening_ends(reopening, 7, 1, "a"));
    assert_true(reopening_ends(reopening, 7, 1, "b"));
    reopening_note(reopening, 0, 1, "a"); /* the kernel itself comes back as anybody */
    assert_false(reopening_ends(reopening, 0, 1, "a"));
}

static void test_the_oldest_goes(void **state)
{
    struct reopening *reopening = *state;

    for (pid_t tid = 1; tid <= REOPENING_MAX + 1; tid++)
        reopening_note(reopening, tid, 1, "a");
    assert_false(reopening_ends(reopening, 1, 1, "a"));
    for (pid_t tid = 2; tid <= REOPENING_MAX + 1; tid++)
        assert_true(reopening_ends(reopening, tid, 1, "a"));
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_once),
        CASE(test_one_name_for_a_thread),
        CASE(test_the_oldest_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
