/* Resources of /v1/kv in order, beside a look at all of them. */
#include "kv_index.h"
#include "resource.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char *const prefixes[] = {"",  "a", "a/",  "a/b",        "a/b/",    "a/bc", "a/b-", "ab",
                                 "b", "a", "a/b", "\xc3\xa4/x", "a/b/c/d", "",     "\x7f", "b/"};

static struct consul_resource resources[COUNT(prefixes)];

/* Those that are a beginning of a text, by both ways. */
static void compare_above(const struct kv_index *index, const bool *present, const char *text)
{
    struct kv_index_above above = {0};
    struct consul_resource *r;
    size_t are = 0, found = 0, len = 0;

    for (size_t i = 0; i < COUNT(prefixes); i++)
        are += present[i] && strncmp(prefixes[i], text, strlen(prefixes[i])) == 0;
    while ((r = kv_index_next_above(index, text, &above))) {
        assert_int_equal(strncmp(r->prefix, text, strlen(r->prefix)), 0);
        assert_true(strlen(r->prefix) >= len);
        len = strlen(r->prefix);
        found++;
    }
    assert_int_equal(found, are);
}

/* Those that begin with a text, and those that are it, by both ways. */
static void compare(const struct kv_index *index, const bool *present)
{
    for (size_t p = 0; p < COUNT(prefixes); p++) {
        const char *text = prefixes[p];

        compare_above(index, present, text);
        for (size_t len = 0; len <= strlen(text); len++) {
            size_t begin = 0, are = 0, i = kv_index_find(index, text, len), n;

            for (size_t r = 0; r < COUNT(prefixes); r++) {
                begin += present[r] && strncmp(prefixes[r], text, len) == 0;
                are += present[r] && strncmp(prefixes[r], text, len) == 0 && strlen(prefixes[r]) == len;
            }
            for (n = 0; kv_index_is(index, i + n, text, len);)
                n++;
            assert_int_equal(n, are);
            for (n = 0; kv_index_begins(index, i + n, text, len);)
                n++;
            assert_int_equal(n, begin);
            assert_true(i == 0 || strncmp(index->at[i - 1]->prefix, text, len) < 0);
        }
    }
}

static void test_index(void **state)
{
    struct kv_index index = {0};
    bool present[COUNT(prefixes)] = {false};
    size_t n = 0;

    (void)state;
    srand(7);
    compare(&index, present);
    for (int step = 0; step < 3000; step++) {
        size_t r = (size_t)rand() % COUNT(prefixes);

        resources[r].prefix = prefixes[r];
        if (present[r])
            kv_index_remove(&index, &resources[r]);
        else
            assert_int_equal(kv_index_add(&index, &resources[r]), 0);
        n += present[r] ? (size_t)-1 : 1;
        present[r] = !present[r];
        assert_int_equal(index.n, n);
        compare(&index, present);
    }
    kv_index_clear(&index);
    assert_int_equal(index.n, 0);
}

static void test_many(void **state)
{
    static struct consul_resource many[1000];
    static char keys[COUNT(many)][8];
    struct kv_index index = {0};

    (void)state;
    for (size_t i = 0; i < COUNT(many); i++) {
        snprintf(keys[i], sizeof(keys[i]), "%zu", i * 37 % COUNT(many));
        many[i].prefix = keys[i];
        assert_int_equal(kv_index_add(&index, &many[i]), 0);
    }
    for (size_t i = 1; i < index.n; i++)
        assert_true(strcmp(index.at[i - 1]->prefix, index.at[i]->prefix) < 0);
    for (size_t i = 0; i < COUNT(many); i += 2)
        kv_index_remove(&index, &many[i]);
    kv_index_remove(&index, &many[0]); /* it is not there any more */
    assert_int_equal(index.n, COUNT(many) / 2);
    for (size_t i = 0; i < COUNT(many); i++)
        assert_int_equal(kv_index_is(&index, kv_index_find(&index, keys[i], strlen(keys[i])), keys[i], strlen(keys[i])),
                         i % 2);
    kv_index_clear(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
