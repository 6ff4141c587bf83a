/* lib/buf: growth, the hard maximum, all-or-nothing appends, ownership, percent-encoding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consul.h"

static void test_empty(void **state)
{
    struct consul_buf buf;
    size_t len = 99;
    char *text;

    (void)state;
    consul_buf_init(&buf, 10);
    assert_null(buf.data);
    assert_int_equal(buf.len, 0);

    text = consul_buf_take(&buf, &len);
    assert_string_equal(text, "");
    assert_int_equal(len, 0);
    free(text);

    consul_buf_reset(&buf);
    consul_buf_free(&buf);
    consul_buf_free(NULL);
}

static void test_exact_maximum(void **state)
{
    struct consul_buf buf;

    (void)state;
    consul_buf_init(&buf, 5);
    assert_int_equal(consul_buf_append(&buf, "abc", 3), 0);

    /* One byte too many stores nothing at all, whichever way it comes. */
    assert_int_equal(consul_buf_append(&buf, "def", 3), -EFBIG);
    assert_int_equal(consul_buf_puts(&buf, "def"), -EFBIG);
    assert_int_equal(consul_buf_printf(&buf, "%d", 456), -EFBIG);
    assert_int_equal(consul_buf_append_urlencoded(&buf, "d/", 2, NULL), -EFBIG);
    assert_int_equal(buf.len, 3);
    assert_string_equal(buf.data, "abc");

    assert_int_equal(consul_buf_printf(&buf, "%d", 45), 0);
    assert_string_equal(buf.data, "abc45");
    assert_int_equal(consul_buf_append(&buf, "x", 1), -EFBIG);
    assert_int_equal(consul_buf_append(&buf, "x", SIZE_MAX), -EFBIG);
    assert_int_equal(consul_buf_append(&buf, "", 0), 0);
    assert_true(buf.cap <= buf.max);
    consul_buf_free(&buf);
}

static void test_maximum_of_zero(void **state)
{
    struct consul_buf buf;
    char *text;

    (void)state;
    consul_buf_init(&buf, 0);
    assert_int_equal(consul_buf_append(&buf, "a", 1), -EFBIG);
    assert_int_equal(consul_buf_printf(&buf, "%s", "a"), -EFBIG);
    assert_int_equal(consul_buf_printf(&buf, "%s", ""), 0);
    text = consul_buf_take(&buf, NULL);
    assert_string_equal(text, "");
    free(text);
}

static void test_unlimited_does_not_overflow(void **state)
{
    struct consul_buf buf;

    (void)state;
    consul_buf_init(&buf, SIZE_MAX);
    assert_int_equal(consul_buf_puts(&buf, "a"), 0);
    assert_int_equal(consul_buf_append(&buf, "a", SIZE_MAX - 1), -EFBIG);
    assert_int_equal(consul_buf_append(&buf, "a", SIZE_MAX), -EFBIG);
    assert_string_equal(buf.data, "a");
    consul_buf_free(&buf);
}

/* Byte by byte through every reallocation; the contents include NULs, and data stays terminated all the way. */
static void test_growth(void **state)
{
    enum { SIZE = 70000 };
    struct consul_buf buf;
    char *data;
    size_t len;

    (void)state;
    consul_buf_init(&buf, SIZE);
    for (size_t i = 0; i < SIZE; i++) {
        char c = (char)(i % 251);

        assert_int_equal(consul_buf_append(&buf, &c, 1), 0);
        assert_int_equal(buf.data[buf.len], '\0');
        assert_true(buf.cap <= buf.max);
    }
    assert_int_equal(consul_buf_append(&buf, "x", 1), -EFBIG);

    data = consul_buf_take(&buf, &len);
    assert_int_equal(len, SIZE);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal((unsigned char)data[i], i % 251);
    assert_int_equal(data[SIZE], '\0');
    free(data);

    /* Taken means empty, with the same maximum. */
    assert_null(buf.data);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf.max, SIZE);
    assert_int_equal(consul_buf_puts(&buf, "again"), 0);
    assert_string_equal(buf.data, "again");
    consul_buf_free(&buf);
}

static void test_printf_grows(void **state)
{
    struct consul_buf buf;
    char expected[5001];

    (void)state;
    consul_buf_init(&buf, 5000);
    for (int i = 0; i < 500; i++)
        assert_int_equal(consul_buf_printf(&buf, "%03d-%s|", i, "abcde"), 0);
    for (size_t i = 0; i < 500; i++)
        sprintf(expected + 10 * i, "%03d-%s|", (int)i, "abcde");
    assert_int_equal(buf.len, 5000);
    assert_string_equal(buf.data, expected);
    assert_int_equal(consul_buf_printf(&buf, "x"), -EFBIG);
    assert_string_equal(buf.data, expected);
    consul_buf_free(&buf);
}

static void test_reset_keeps_memory(void **state)
{
    struct consul_buf buf;
    char *before;

    (void)state;
    consul_buf_init(&buf, 100);
    assert_int_equal(consul_buf_puts(&buf, "first"), 0);
    before = buf.data;
    consul_buf_reset(&buf);
    assert_int_equal(buf.len, 0);
    assert_string_equal(buf.data, "");
    assert_int_equal(consul_buf_puts(&buf, "2nd"), 0);
    assert_ptr_equal(buf.data, before);
    assert_string_equal(buf.data, "2nd");
    consul_buf_free(&buf);
    assert_null(buf.data);
}

static void test_urlencode(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        const char *safe;
        const char *expected;
    } cases[] = {
        {"", 0, NULL, ""},
        {"azAZ09-._~", 10, NULL, "azAZ09-._~"},
        {"a/b c", 5, NULL, "a%2Fb%20c"},
        {"a/b c", 5, "/", "a/b%20c"},
        {"%", 1, NULL, "%25"},
        {"%2F", 3, "/", "%252F"},
        {"?#[]@!$&'()*+,;=:", 17, NULL, "%3F%23%5B%5D%40%21%24%26%27%28%29%2A%2B%2C%3B%3D%3A"},
        {"\n\r\t\x7f", 4, NULL, "%0A%0D%09%7F"},
        {"\xc3\xbc\xff", 3, NULL, "%C3%BC%FF"},
        {"a\0b", 3, NULL, "a%00b"},
        {"a\0b", 3, "/", "a%00b"}, /* the NUL that ends safe is not in it */
    };
    struct consul_buf buf;

    (void)state;
    consul_buf_init(&buf, 100);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        consul_buf_reset(&buf);
        assert_int_equal(consul_buf_puts(&buf, "="), 0);
        assert_int_equal(consul_buf_append_urlencoded(&buf, cases[i].text, cases[i].len, cases[i].safe), 0);
        assert_string_equal(buf.data + 1, cases[i].expected);
    }
    consul_buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_exact_maximum),
        cmocka_unit_test(test_maximum_of_zero),
        cmocka_unit_test(test_unlimited_does_not_overflow),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_printf_grows),
        cmocka_unit_test(test_reset_keeps_memory),
        cmocka_unit_test(test_urlencode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
