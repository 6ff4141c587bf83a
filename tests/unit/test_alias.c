/* fs/alias: names for what Consul gave an ID of its own choice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "alias.h"

static void assert_alias(struct aliases *aliases, const char *path, const char *name, const char *expected)
{
    char *id = alias_get(aliases, path, name);

    if (expected)
        assert_string_equal(id, expected);
    else
        assert_null(id);
    free(id);
}

static void test_names(void **state)
{
    struct aliases aliases;

    (void)state;
    aliases_init(&aliases);
    assert_alias(&aliases, "tokens", "ci", NULL);
    alias_forget(&aliases, "tokens", "1");
    assert_int_equal(alias_set(&aliases, "tokens", "ci", "1"), 0);
    assert_int_equal(alias_set(&aliases, "tokens", "ops", "1"), 0);
    assert_int_equal(alias_set(&aliases, "sessions", "ci", "2"), 0);
    assert_alias(&aliases, "tokens", "ci", "1");
    assert_alias(&aliases, "sessions", "ci", "2");
    assert_alias(&aliases, "sessions", "ops", NULL);
    assert_int_equal(alias_set(&aliases, "tokens", "ci", "3"), 0);
    assert_alias(&aliases, "tokens", "ci", "3");
    alias_forget(&aliases, "tokens", "1");
    assert_alias(&aliases, "tokens", "ops", NULL);
    assert_alias(&aliases, "tokens", "ci", "3");
    aliases_destroy(&aliases);
}

static void test_the_oldest_go(void **state)
{
    struct aliases aliases;
    char name[16];

    (void)state;
    aliases_init(&aliases);
    for (int i = 0; i <= ALIASES_MAX; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(alias_set(&aliases, "tokens", name, "id"), 0);
    }
    assert_alias(&aliases, "tokens", "0", NULL);
    assert_alias(&aliases, "tokens", "1", "id");
    assert_alias(&aliases, "tokens", name, "id");
    alias_forget(&aliases, "tokens", "id");
    assert_alias(&aliases, "tokens", name, NULL);
    aliases_destroy(&aliases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_the_oldest_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
