/* fs/content: bytes at one version, counted. A sanitizer sees what is freed too early or never. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <consul.h>

#include "content.h"

static struct content *take(const char *text, size_t len)
{
    char *data = malloc(len + 1);
    struct content *content;

    assert_non_null(data);
    memcpy(data, text, len);
    content = content_take(data, len, 42);
    assert_non_null(content);
    assert_ptr_equal(content->data, data);
    assert_int_equal(content->len, len);
    assert_int_equal(content_mtime_ns(content), 42);
    assert_null(content->entry);
    return content;
}

/* The version of a view is its bytes. */
static void test_version_is_of_the_bytes(void **state)
{
    static const struct {
        const char *a, *b;
        size_t a_len, b_len;
    } cases[] = {
        {"", "", 0, 0},     {"a", "a", 1, 1},       {"a", "b", 1, 1},         {"a", "", 1, 0},
        {"\0", "", 1, 0},   {"\0", "\0\0", 1, 2},   {"ab", "ba", 2, 2},       {"a\0b", "a\0c", 3, 3},
        {"a\n", "a", 2, 1}, {"\xff", "\x7f", 1, 1}, {"web\n", "web\n", 4, 4},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct content *a = take(cases[i].a, cases[i].a_len), *b = take(cases[i].b, cases[i].b_len);
        int same = cases[i].a_len == cases[i].b_len && memcmp(cases[i].a, cases[i].b, cases[i].a_len) == 0;

        assert_int_equal(content_version(a) == content_version(b), same);
        content_unref(a);
        content_unref(b);
    }
}

static void test_nothing(void **state)
{
    struct content *content = content_take(NULL, 0, 0), *empty = take("", 0);

    (void)state;
    assert_non_null(content);
    assert_int_equal(content->len, 0);
    assert_int_equal(content_version(content), content_version(empty));
    content_unref(content);
    content_unref(empty);
    content_unref(NULL);
}

static void test_of_an_entry(void **state)
{
    struct consul_kv_entry *entry = consul_kv_entry_new("key", 3, "a\0b", 3);
    struct content *content;

    (void)state;
    entry->modify_index = 77;
    entry->seen_ns = 99;
    content = content_of_entry(entry);
    assert_non_null(content);
    assert_int_equal(entry->refs, 2);
    assert_ptr_equal(content->entry, entry);
    assert_ptr_equal(content->data, consul_kv_value(entry)); /* shared, not copied */
    assert_int_equal(content_version(content), 77);
    assert_int_equal(content_mtime_ns(content), 99);
    consul_kv_entry_unref(entry);
    assert_int_equal(content->len, 3);
    assert_memory_equal(content->data, "a\0b", 3);
    content_unref(content);
}

static void test_counted(void **state)
{
    struct consul_kv_entry *entry = consul_kv_entry_new("key", 3, "value", 5);
    struct content *content = content_of_entry(entry);

    (void)state;
    assert_ptr_equal(content_ref(content), content);
    content_unref(content);
    assert_int_equal(entry->refs, 2);
    assert_memory_equal(content->data, "value", 5);
    content_unref(content);
    assert_int_equal(entry->refs, 1);
    consul_kv_entry_unref(entry);
}

static void *use(void *arg)
{
    for (int i = 0; i < 10000; i++)
        content_unref(content_ref(arg));
    content_unref(arg);
    return NULL;
}

static void test_threads(void **state)
{
    struct consul_kv_entry *entry = consul_kv_entry_new("key", 3, "value", 5);
    struct content *content = content_of_entry(entry);
    pthread_t threads[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use, content_ref(content)), 0);
    content_unref(content);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(entry->refs, 1);
    consul_kv_entry_unref(entry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_is_of_the_bytes),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_of_an_entry),
        cmocka_unit_test(test_counted),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
