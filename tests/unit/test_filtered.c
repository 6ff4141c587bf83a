/* lib/filtered: which answers lacked something. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filtered.h"

static void expect_text(const struct filtered *filtered, const char *expected)
{
    char *text = filtered_text(filtered);

    assert_string_equal(text, expected);
    free(text);
}

static void test_newest_answer_counts(void **state)
{
    struct filtered filtered = {.n = 0};

    (void)state;
    filtered_note(&filtered, "/v1/a", false);
    expect_text(&filtered, "");
    filtered_note(&filtered, "/v1/a", true);
    filtered_note(&filtered, "/v1/b", true);
    filtered_note(&filtered, "/v1/a", true);
    filtered_note(&filtered, "/v1/c", true);
    expect_text(&filtered, "/v1/a\n/v1/b\n/v1/c\n");
    filtered_note(&filtered, "/v1/b", false);
    expect_text(&filtered, "/v1/a\n/v1/c\n");
    filtered_clear(&filtered);
    expect_text(&filtered, "");
}

static void test_oldest_goes(void **state)
{
    struct filtered filtered = {.n = 0};
    char path[32], *text;

    (void)state;
    for (int i = 0; i <= FILTERED_KEPT; i++) {
        snprintf(path, sizeof(path), "/v1/%d", i);
        filtered_note(&filtered, path, true);
    }
    assert_int_equal(filtered.n, FILTERED_KEPT);
    text = filtered_text(&filtered);
    assert_int_equal(strncmp(text, "/v1/1\n", 6), 0);
    free(text);
    filtered_clear(&filtered);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newest_answer_counts),
        cmocka_unit_test(test_oldest_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
