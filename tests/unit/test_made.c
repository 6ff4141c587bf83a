/* fs/made: a set of names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "made.h"

static void test_set(void **state)
{
    struct made made;
    char **names;
    size_t n;

    (void)state;
    made_init(&made);
    assert_false(made_has(&made, "web"));
    assert_false(made_remove(&made, "web"));
    assert_int_equal(made_add(&made, "web"), 0);
    assert_int_equal(made_add(&made, "db"), 0);
    assert_int_equal(made_add(&made, "web"), -EEXIST);
    assert_true(made_has(&made, "web"));
    names = made_copy(&made, &n);
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "web");
    assert_string_equal(names[1], "db");
    free(names[0]);
    free(names[1]);
    free(names);
    assert_true(made_remove(&made, "web"));
    assert_false(made_has(&made, "web"));
    assert_true(made_has(&made, "db"));
    made_destroy(&made);
}

static void test_bound(void **state)
{
    struct made made;
    char name[16];

    (void)state;
    made_init(&made);
    for (int i = 0; i < MADE_MAX; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(made_add(&made, name), 0);
    }
    assert_int_equal(made_add(&made, "one more"), -ENOSPC);
    assert_true(made_remove(&made, "0"));
    assert_int_equal(made_add(&made, "one more"), 0);
    made_destroy(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
