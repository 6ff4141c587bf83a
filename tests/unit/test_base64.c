/* lib/base64: RFC 4648 to the letter, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Exactly as much room as the header asks for, so that a sanitizer sees a byte too many. */
static void expect_decoded(const char *text, size_t text_len, const void *data, size_t len)
{
    char *room = malloc(text_len / 4 * 3 + (text_len < 4));
    size_t got = 999;

    assert_non_null(room);
    assert_int_equal(base64_decode(text, text_len, room, &got), 0);
    assert_int_equal(got, len);
    assert_memory_equal(room, data, len);
    free(room);
}

static void expect_encoded(const void *data, size_t len, const char *text)
{
    char *room = malloc(base64_encoded_len(len) + (len == 0));

    assert_non_null(room);
    assert_int_equal(base64_encoded_len(len), strlen(text));
    base64_encode(data, len, room);
    assert_memory_equal(room, text, strlen(text));
    free(room);
}

static void test_both_ways(void **state)
{
    static const struct {
        const char *data;
        size_t len;
        const char *text;
    } cases[] = {
        /* RFC 4648, section 10 */
        {"", 0, ""},
        {"f", 1, "Zg=="},
        {"fo", 2, "Zm8="},
        {"foo", 3, "Zm9v"},
        {"foob", 4, "Zm9vYg=="},
        {"fooba", 5, "Zm9vYmE="},
        {"foobar", 6, "Zm9vYmFy"},
        {"\0", 1, "AA=="},
        {"\0\0", 2, "AAA="},
        {"\0\0\0", 3, "AAAA"},
        {"\xff", 1, "/w=="},
        {"\xff\xff", 2, "//8="},
        {"\xff\xff\xff", 3, "////"},
        {"\xfb\xef\xbe", 3, "++++"},
        {"\x80\x7f\x01", 3, "gH8B"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        expect_encoded(cases[i].data, cases[i].len, cases[i].text);
        expect_decoded(cases[i].text, strlen(cases[i].text), cases[i].data, cases[i].len);
    }
}

/* Every length around the groups of three, every byte at every place in them. */
static void test_round_trip(void **state)
{
    unsigned char data[300];
    char text[400];

    (void)state;
    for (size_t len = 0; len <= sizeof(data); len++) {
        for (size_t i = 0; i < len; i++)
            data[i] = (unsigned char)(i * 7 + len);
        base64_encode(data, len, text);
        expect_decoded(text, base64_encoded_len(len), data, len);
    }
    for (int byte = 0; byte < 256; byte++) {
        memset(data, byte, 5);
        base64_encode(data, 5, text);
        expect_decoded(text, 8, data, 5);
    }
}

static void test_refused(void **state)
{
    static const char *const texts[] = {
        "Z",    "Zg",        "Zg=",      "=",        "==",   "===",     "====",       "A===",
        "Zh==", "Zm9=",      "Zm8=Zm9v", "Zg==Zg==", "Zm=v", "=m9v",    "Zm9v\n",     "Zm9\n",
        " m9v", "Zm-v",      "Zm_v",     "Zm9v====", "Zm9.", "Zm9\x80", "Zm\xc3\xbc", "Zg==\n\n\n\n",
        "Z*==", "Zm9vZm9vZ", "@AAA",     "[AAA",     "`AAA", "{AAA",    ":AAA",       "AAA,",
    };
    char room[32];

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        size_t len = 999;

        if (base64_decode(texts[i], strlen(texts[i]), room, &len) != -EINVAL)
            fail_msg("not refused: %s", texts[i]);
        assert_int_equal(len, 999);
    }
    for (int c = 0; c < 256; c++) {
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char text[4] = {(char)c, 'A', 'A', 'A'};
        size_t len;

        assert_int_equal(base64_decode(text, 4, room, &len), c && strchr(alphabet, c) ? 0 : -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
