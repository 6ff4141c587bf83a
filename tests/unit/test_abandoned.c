/* lib/abandoned: queries that nobody waits for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "abandoned.h"

static void test_each_counts_until_it_is_over(void **state)
{
    struct abandoned abandoned;

    (void)state;
    assert_int_equal(abandoned_init(&abandoned, 3), 0);
    assert_int_equal(abandoned_count(&abandoned, 0), 0);
    abandoned_add(&abandoned, 30, 1);
    abandoned_add(&abandoned, 10, 1);
    abandoned_add(&abandoned, 20, 1);
    assert_int_equal(abandoned_count(&abandoned, 9), 3);
    assert_int_equal(abandoned_count(&abandoned, 10), 2);
    assert_int_equal(abandoned_count(&abandoned, 29), 1);
    assert_int_equal(abandoned_count(&abandoned, 30), 0);
    abandoned_clear(&abandoned);
}

static void test_what_is_over_is_not_taken(void **state)
{
    struct abandoned abandoned;

    (void)state;
    assert_int_equal(abandoned_init(&abandoned, 3), 0);
    abandoned_add(&abandoned, 10, 10);
    assert_int_equal(abandoned_count(&abandoned, 0), 0);
    abandoned_clear(&abandoned);
}

static void test_where_there_is_no_room_the_first_to_end_is_forgotten(void **state)
{
    struct abandoned abandoned;

    (void)state;
    assert_int_equal(abandoned_init(&abandoned, 2), 0);
    abandoned_add(&abandoned, 20, 1);
    abandoned_add(&abandoned, 10, 1);
    abandoned_add(&abandoned, 30, 1);
    assert_int_equal(abandoned_count(&abandoned, 15), 2);
    abandoned_add(&abandoned, 16, 15); /* ends before both */
    assert_int_equal(abandoned_count(&abandoned, 19), 2);
    assert_int_equal(abandoned_count(&abandoned, 20), 1);
    abandoned_clear(&abandoned);

    assert_int_equal(abandoned_init(&abandoned, 0), 0);
    abandoned_add(&abandoned, 10, 1);
    assert_int_equal(abandoned_count(&abandoned, 1), 0);
    abandoned_clear(&abandoned);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_counts_until_it_is_over),
        cmocka_unit_test(test_what_is_over_is_not_taken),
        cmocka_unit_test(test_where_there_is_no_room_the_first_to_end_is_forgotten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
