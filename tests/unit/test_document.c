/* fs/document: a document may come in pieces, cut anywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "document.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *const whole[] = {
    "{}",
    " \t\r\n{}",
    "{\"a\":1}\n",
    "{\"a\": \"}\", \"b\": [\"]\", {\"c\\\"\\\\\": null}]}  \n",
    "{\"a\": true, \"b\": false, \"c\": null, \"d\": -1.5e+10, \"e\": [], \"f\": {}}",
    "{\"name\": \"\xc3\xbc\xe2\x82\xac\xf0\x9f\x90\xb3\\u00fc\\ud83d\\udc33\\n\\/\"}",
};

static void test_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(whole); i++)
        assert_int_equal(document_complete(whole[i], strlen(whole[i])), 1);
}

/* No prefix is refused, and none is taken for the whole before its last bracket. */
static void test_every_prefix(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(whole); i++) {
        size_t end = (size_t)(strrchr(whole[i], '}') - whole[i]) + 1;

        for (size_t len = 0; len < end; len++)
            if (document_complete(whole[i], len) != 0)
                fail_msg("the first %zu bytes of %s", len, whole[i]);
        for (size_t len = end; len <= strlen(whole[i]); len++)
            assert_int_equal(document_complete(whole[i], len), 1);
    }
}

static void test_refused(void **state)
{
    static const char *const texts[] = {
        "not json",
        "[]",
        "7",
        "\"text\"",
        "null",
        "}",
        "{]",
        "{\"a\":x}",
        "{\"a\": x,",
        "{} {}",
        "{}x",
        "{\"a\":1}}",
        "{\"a\" 1 ,",
        "{\"a\":1 \"b\"",
        "{1:2}",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"\xc3x",
        "{\"a\":\"tab\there\"",
        "{\"a\":01}",
        "{\"a\":\"\\q\"}",
        "{,",
        "{\"a\":1,}",
        "\xef\xbb\xbf{}",
        "\0{}",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++)
        if (document_complete(texts[i], strlen(texts[i])) != -EINVAL && texts[i][0])
            fail_msg("not refused: %s", texts[i]);
    assert_int_equal(document_complete("\0{}", 3), -EINVAL);
    assert_int_equal(document_complete("{\"a\0b\":1}", 9), -EINVAL);
    assert_int_equal(document_complete("{}\0", 3), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
