/* fs/refusals: one line for each, the last hundred of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "refusals.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int setup(void **state)
{
    struct refusals *refusals = malloc(sizeof(*refusals));

    refusals_init(refusals);
    *state = refusals;
    return 0;
}

static int teardown(void **state)
{
    refusals_destroy(*state);
    free(*state);
    return 0;
}

static char *text_of(struct refusals *refusals)
{
    size_t len = 999;
    char *text = refusals_text(refusals, &len);

    assert_non_null(text);
    assert_int_equal(len, strlen(text));
    return text;
}

/* What follows "2026-01-31T12:34:56Z ", which is checked. */
static const char *after_time(const char *line)
{
    static const char pattern[] = "dddd-dd-ddTdd:dd:ddZ ";

    for (size_t i = 0; pattern[i]; i++) {
        if (pattern[i] == 'd')
            assert_in_range(line[i], '0', '9');
        else
            assert_int_equal(line[i], pattern[i]);
    }
    return line + strlen(pattern);
}

static void test_none(void **state)
{
    char *text = text_of(*state);

    assert_string_equal(text, "");
    free(text);
}

static void test_words(void **state)
{
    static const struct {
        const char *words;
        size_t len;
        const char *line;
    } cases[] = {
        {"Permission denied", 17, "PUT /v1/kv/a 403 Permission denied\n"},
        {"Permission denied: not you", 17, "PUT /v1/kv/a 403 Permission denied\n"}, /* not terminated */
        {"", 0, "PUT /v1/kv/a 403 \n"},
        {"denied\n", 7, "PUT /v1/kv/a 403 denied\n"},
        {"denied \r\n\t ", 11, "PUT /v1/kv/a 403 denied\n"},
        {"\n", 1, "PUT /v1/kv/a 403 \n"},
        {"one\ntwo\r\nthree\tfour", 19, "PUT /v1/kv/a 403 one two  three four\n"},
        {"\0b\x1b[31m\x7f.", 9, "PUT /v1/kv/a 403  b [31m .\n"},
        {"100% %s %n", 10, "PUT /v1/kv/a 403 100% %s %n\n"},
        {"\xc3\xbc \xe2\x82\xac", 6, "PUT /v1/kv/a 403 \xc3\xbc \xe2\x82\xac\n"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct refusals refusals;
        char *text;

        refusals_init(&refusals);
        refusals_add(&refusals, "PUT", "/v1/kv/a", 403, cases[i].words, cases[i].len);
        text = text_of(&refusals);
        assert_string_equal(after_time(text), cases[i].line);
        free(text);
        refusals_destroy(&refusals);
    }
}

static void test_long_words_are_cut(void **state)
{
    static const size_t sizes[] = {499, 500, 501, 10000};

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct refusals refusals;
        char *words = malloc(sizes[i]), *text;
        const char *kept;

        memset(words, 'x', sizes[i]);
        refusals_init(&refusals);
        refusals_add(&refusals, "PUT", "/", 500, words, sizes[i]);
        text = text_of(&refusals);
        kept = after_time(text) + strlen("PUT / 500 ");
        assert_int_equal(strspn(kept, "x"), sizes[i] < 500 ? sizes[i] : 500);
        assert_string_equal(kept + strspn(kept, "x"), "\n");
        free(text);
        free(words);
        refusals_destroy(&refusals);
    }
}

/* Blanks at the cut go as well. */
static void test_cut_in_blanks(void **state)
{
    char words[600], *text;

    memset(words, ' ', sizeof(words));
    memcpy(words, "no", 2);
    words[599] = 'x';
    refusals_add(*state, "PUT", "/", 500, words, sizeof(words));
    text = text_of(*state);
    assert_string_equal(after_time(text), "PUT / 500 no\n");
    free(text);
}

static void test_the_last_hundred(void **state)
{
    for (int n = 0; n < 250; n++) {
        int first = n + 1 > REFUSALS_KEPT ? n + 1 - REFUSALS_KEPT : 0;
        char *text, *line, *rest;

        refusals_add(*state, "PUT", "/v1/agent/service/register", n, "no", 2);
        if (n % 7 && n != 99 && n != 100 && n != 199 && n != 200)
            continue;
        text = rest = text_of(*state);
        for (int i = first; i <= n; i++) {
            char expected[64];

            line = strsep(&rest, "\n");
            snprintf(expected, sizeof(expected), "PUT /v1/agent/service/register %d no", i);
            assert_string_equal(after_time(line), expected);
        }
        assert_string_equal(rest, "");
        free(text);
    }
}

static void *adder(void *arg)
{
    for (int i = 0; i < 200; i++) {
        size_t len;

        refusals_add(arg, "PUT", "/", 500, "words", 5);
        free(refusals_text(arg, &len));
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[3];
    size_t lines = 0;
    char *text;

    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, adder, *state), 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    text = text_of(*state);
    for (const char *at = text; *at; at++)
        lines += *at == '\n';
    assert_int_equal(lines, REFUSALS_KEPT);
    free(text);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_none),
        CASE(test_words),
        CASE(test_long_words_are_cut),
        CASE(test_cut_in_blanks),
        CASE(test_the_last_hundred),
        CASE(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
