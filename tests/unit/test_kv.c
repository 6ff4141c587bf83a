/* lib/kv: what /v1/kv answers, ordered lists of it, and the body of a transaction. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static json_t *parse(const char *text)
{
    json_t *json = kv_json_parse(text, strlen(text));

    if (!json)
        fail_msg("no JSON: %s", text);
    return json;
}

static int decode(const char *text, const struct consul_kv_list *old, struct consul_kv_list *ret_list)
{
    return kv_list_parse(text, strlen(text), old, ret_list);
}

/* A list of keys, separated by blanks, all at ModifyIndex `index`. */
static void make_list(struct consul_kv_list *list, const char *keys, uint64_t index)
{
    struct consul_kv_list empty = {0}, next;

    *list = empty;
    while (*keys) {
        size_t len = strcspn(keys, " ");
        struct consul_kv_entry *entry = consul_kv_entry_new(keys, len, "v", 1);

        assert_non_null(entry);
        entry->modify_index = index;
        assert_int_equal(kv_list_patch(list, consul_kv_key(entry), entry, &next), 0);
        consul_kv_entry_unref(entry);
        kv_list_clear(list);
        *list = next;
        keys += len + (keys[len] == ' ');
    }
}

static void expect_keys(const struct consul_kv_list *list, const char *keys)
{
    char joined[512] = "";

    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            strcat(joined, " ");
        strcat(joined, consul_kv_key(list->entries[i]));
    }
    assert_string_equal(joined, keys);
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

static void test_entry(void **state)
{
    struct consul_kv_list list;
    const struct consul_kv_entry *entry;

    (void)state;
    assert_int_equal(decode("[{\"LockIndex\":3,\"Key\":\"a/b\",\"Flags\":42,\"Value\":\"AAECAw==\","
                            "\"Session\":\"adf4238a-882b-9ddc-4a9d-5b6758e4159e\",\"CreateIndex\":100,"
                            "\"ModifyIndex\":200}]",
                            NULL, &list),
                     0);
    assert_int_equal(list.n, 1);
    entry = list.entries[0];
    assert_int_equal(entry->refs, 1);
    assert_int_equal(entry->key_len, 3);
    assert_string_equal(consul_kv_key(entry), "a/b");
    assert_int_equal(entry->value_len, 4);
    assert_memory_equal(consul_kv_value(entry), "\0\1\2\3\0", 5);
    assert_int_equal(entry->flags, 42);
    assert_int_equal(entry->create_index, 100);
    assert_int_equal(entry->modify_index, 200);
    assert_int_equal(entry->lock_index, 3);
    assert_string_equal(consul_kv_session(entry), "adf4238a-882b-9ddc-4a9d-5b6758e4159e");
    assert_true(entry->seen_ns > 1000000000ull * 1000000000);
    kv_list_clear(&list);
    assert_int_equal(list.n, 0);
    assert_null(list.entries);
}

/* Consul writes null for an empty value; what is left out is zero. */
static void test_values(void **state)
{
    static const struct {
        const char *object, *value;
        size_t len;
    } cases[] = {
        {"{\"Key\":\"k\",\"Value\":null}", "", 0},       {"{\"Key\":\"k\"}", "", 0},
        {"{\"Key\":\"k\",\"Value\":\"\"}", "", 0},       {"{\"Key\":\"k\",\"Value\":\"YQ==\"}", "a", 1},
        {"{\"Key\":\"k\",\"Value\":\"YWI=\"}", "ab", 2}, {"{\"Key\":\"k\",\"Value\":\"YWJj\"}", "abc", 3},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *object = parse(cases[i].object);
        struct consul_kv_entry *entry;

        assert_int_equal(kv_entry_decode(object, &entry), 0);
        assert_int_equal(entry->value_len, cases[i].len);
        assert_string_equal(consul_kv_value(entry), cases[i].value);
        assert_int_equal(entry->flags | entry->create_index | entry->modify_index | entry->lock_index, 0);
        assert_string_equal(consul_kv_session(entry), "");
        consul_kv_entry_unref(entry);
        json_decref(object);
    }
}

static void test_key_may_hold_nul(void **state)
{
    struct consul_kv_list list;

    (void)state;
    assert_int_equal(decode("[{\"Key\":\"a\\u0000b\",\"Value\":\"YQ==\"},{\"Key\":\"\"}]", NULL, &list), 0);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.entries[0]->key_len, 0);
    assert_int_equal(list.entries[1]->key_len, 3);
    assert_memory_equal(consul_kv_key(list.entries[1]), "a\0b\0a", 6);
    assert_ptr_equal(consul_kv_find(&list, "a\0b", 3), list.entries[1]);
    assert_null(consul_kv_find(&list, "a", 1));
    kv_list_clear(&list);
}

/* jansson's integers are signed, Consul's Flags are not. */
static void test_flags(void **state)
{
    static const struct {
        const char *text;
        uint64_t flags;
    } cases[] = {
        {"0", 0},
        {"1", 1},
        {"9223372036854775807", INT64_MAX},
        {"9223372036854775808", (uint64_t)INT64_MAX + 1},
        {"18446744073709551614", UINT64_MAX - 1},
        {"18446744073709551615", UINT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct consul_kv_list list;
        char text[512];

        /* What looks like a Flags field stands in a key and a session as well, and entries follow. */
        snprintf(text, sizeof(text),
                 "[{\"Key\":\"\\\"Flags\\\":18446744073709551615\",\"Flags\":%s,\"Value\":\"YQ==\","
                 "\"Session\":\"\\\"Flags\\\":1\",\"ModifyIndex\":7},{\"Key\":\"z\",\"Flags\":%s}]",
                 cases[i].text, cases[i].text);
        assert_int_equal(decode(text, NULL, &list), 0);
        assert_int_equal(list.n, 2);
        assert_string_equal(consul_kv_key(list.entries[0]), "\"Flags\":18446744073709551615");
        assert_string_equal(consul_kv_session(list.entries[0]), "\"Flags\":1");
        assert_true(list.entries[0]->flags == cases[i].flags);
        assert_true(list.entries[1]->flags == cases[i].flags);
        assert_int_equal(list.entries[0]->modify_index, 7);
        assert_string_equal(consul_kv_value(list.entries[0]), "a");
        kv_list_clear(&list);
    }
}

static void test_no_json(void **state)
{
    static const char *const texts[] = {
        "",
        "[",
        "<html>",
        "[{\"Key\":\"k\",\"Flags\":18446744073709551615",
        "[{\"Key\":\"k\",\"Flags\":18446744073709551615}] x",
        "[{\"Key\":\"k\",\"Flags\":18446744073709551615,\"ModifyIndex\":x}]",
        "[{\"Key\":\"k\xff\",\"Flags\":1}]",
        "[{\"Key\":\"k\",\"Flags\":",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++)
        if (kv_json_parse(texts[i], strlen(texts[i])))
            fail_msg("taken for JSON: %s", texts[i]);
}

/* 36 bytes, in base64: long enough to be kept from jansson. */
#define LONG "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU2Nzg5"

static void test_refused(void **state)
{
    static const char *const texts[] = {
        "{}",
        "null",
        "true",
        "7",
        "\"text\"",
        "[null]",
        "[[]]",
        "[{}]",
        "[{\"Key\":null}]",
        "[{\"Key\":7}]",
        "[{\"Key\":\"k\",\"Value\":7}]",
        "[{\"Key\":\"k\",\"Value\":{}}]",
        "[{\"Key\":\"k\",\"Value\":\"not base64!\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ\"}]",
        "[{\"Key\":\"a\",\"Value\":\"YQ==\"},{\"Key\":\"b\",\"Value\":\"YQ=\"}]",
        "[{\"Key\":\"b\"},{\"Key\":\"a\"},{}]",
        "",
        "[",
        "[,",
        "[{\"Key\":\"k\"}",
        "[{\"Key\":\"k\"},",
        "[{\"Key\":\"k\"},]",
        "[{\"Key\":\"k\"}{\"Key\":\"l\"}]",
        "[{\"Key\":\"k\"}] x",
        "[{\"Key\":\"k\"}]]",
        "[{\"Key\":\"k\",\"Flags\":18446744073709551616}]",
        "[{\"Key\":\"k\",\"Flags\":18446744073709551615} x",
        "[{\"Key\":\"a\",\"Value\":\"" LONG "=\"}]",
        "[{\"Key\":\"a\",\"Value\":\"" LONG,
        "[{\"Key\":\"a\",\"Value\":\"" LONG "\\\"}]",
        /* A number where a value was kept from jansson, and such a value elsewhere */
        "[{\"Key\":\"a\",\"Value\" :0},{\"Key\":\"b\",\"Value\":\"" LONG "\"}]",
        "[{\"Key\":\"a\",\"Value\":\"" LONG "\"},{\"Key\":\"b\",\"Value\" :0}]",
        "[{\"Key\":\"a\",\"Value\":\"" LONG "\",\"Value\":\"" LONG "\"}]",
        "[{\"Key\":\"a\",\"of\":{\"Value\":\"" LONG "\"}}]",
        "{\"Value\":\"" LONG "\"}",
        "[{\"Key\":\"a\",\"\\\"Value\":\"" LONG "\"}]",
    };
    struct consul_kv_list list = {.n = 77};

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++)
        if (decode(texts[i], NULL, &list) != -EIO || list.n != 77)
            fail_msg("not refused: %s", texts[i]);
}

static void test_long_values(void **state)
{
    static const char *const keys[] = {"a", "b", "c", ("d\"Value\":\"" LONG), "e", "f"};
    static const char *const values[] = {
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "short", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "A",
    };
    struct consul_kv_list list;

    (void)state;
    assert_int_equal(decode("[{\"Key\":\"a\",\"Value\":\"" LONG "\",\"Flags\":18446744073709551615},"
                            "{\"Value\":\"c2hvcnQ=\",\"Key\":\"b\"},"
                            "{\"Key\": \"c\", \"Value\":  \"" LONG "\" },"
                            "{\"Key\":\"d\\\"Value\\\":\\\"" LONG "\",\"Value\":null},"
                            "{\"Value\":\"" LONG "\",\"Key\":\"e\"},"
                            "{\"Key\":\"f\",\"Value\":\"\\u0051\\u0051\\u003D\\u003D\"}]",
                            NULL, &list),
                     0);
    assert_int_equal(list.n, COUNT(keys));
    for (size_t i = 0; i < COUNT(keys); i++) {
        assert_string_equal(consul_kv_key(list.entries[i]), keys[i]);
        assert_string_equal(consul_kv_value(list.entries[i]), values[i]);
    }
    assert_int_equal(list.entries[0]->flags, UINT64_MAX);
    kv_list_clear(&list);
}

/* What is of the wrong type or too long is as good as absent, and cannot overflow. */
static void test_odd_fields(void **state)
{
    struct consul_kv_list list;

    (void)state;
    assert_int_equal(decode("[{\"Key\":\"k\",\"Flags\":\"1\",\"CreateIndex\":{},\"ModifyIndex\":null,\"LockIndex\":1.5,"
                            "\"Session\":\"0123456789012345678901234567890123456789\"},"
                            "{\"Key\":\"l\",\"Session\":\"012345678901234567890123456789012345678\"},"
                            "{\"Key\":\"m\",\"Session\":9}]",
                            NULL, &list),
                     0);
    assert_int_equal(list.entries[0]->flags, 0);
    assert_int_equal(list.entries[0]->create_index, 0);
    assert_int_equal(list.entries[0]->modify_index, 0);
    assert_int_equal(list.entries[0]->lock_index, 0);
    assert_string_equal(consul_kv_session(list.entries[0]), "");
    assert_int_equal(strlen(consul_kv_session(list.entries[1])), 39);
    assert_string_equal(consul_kv_session(list.entries[2]), "");
    kv_list_clear(&list);
}

static void test_nothing_there(void **state)
{
    struct consul_kv_list list = {.n = 77};

    (void)state;
    assert_int_equal(decode("[]", NULL, &list), 0);
    assert_int_equal(list.n, 0);
    assert_null(consul_kv_find(&list, "a", 1));
    assert_int_equal(consul_kv_lower_bound(&list, "a", 1), 0);
    kv_list_clear(&list);
}

/* Consul's order is that of the bytes; who answers otherwise (a proxy, another implementation) is put right. */
static void test_order(void **state)
{
    static const struct {
        const char *array, *keys;
    } cases[] = {
        {"[{\"Key\":\"a\"},{\"Key\":\"b\"}]", "a b"},
        {"[{\"Key\":\"b\"},{\"Key\":\"a\"}]", "a b"},
        {"[{\"Key\":\"c\"},{\"Key\":\"a\"},{\"Key\":\"b\"}]", "a b c"},
        {"[{\"Key\":\"a/b\"},{\"Key\":\"a\"},{\"Key\":\"a/\"},{\"Key\":\"a-\"},{\"Key\":\"a0\"}]", "a a- a/ a/b a0"},
        {"[{\"Key\":\"\\u00fc\"},{\"Key\":\"z\"},{\"Key\":\"~\"}]", "z ~ \xc3\xbc"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct consul_kv_list list;

        assert_int_equal(decode(cases[i].array, NULL, &list), 0);
        expect_keys(&list, cases[i].keys);
        kv_list_clear(&list);
    }
}

/* ---- sharing ---------------------------------------------------------------------------------------------------- */

#define ENTRY(key, value, index) "{\"Key\":\"" key "\",\"Value\":\"" value "\",\"ModifyIndex\":" index "}"

static void test_unchanged_is_shared(void **state)
{
    struct consul_kv_list old, list;

    (void)state;
    assert_int_equal(
        decode("[" ENTRY("a", "YQ==", "1") "," ENTRY("c", "YQ==", "2") "," ENTRY("d", "YQ==", "3") "]", NULL, &old), 0);

    /* Another value of one, one gone, some new; out of order. */
    assert_int_equal(decode("[" ENTRY("e", "YQ==", "9") "," ENTRY("a", "YQ==", "1") "," ENTRY(
                                "d", "Yg==", "8") "," ENTRY("b", "YQ==", "7") "]",
                            &old, &list),
                     0);
    expect_keys(&list, "a b d e");
    assert_ptr_equal(list.entries[0], old.entries[0]);
    assert_int_equal(old.entries[0]->refs, 2);
    assert_int_equal(old.entries[1]->refs, 1);
    assert_int_equal(old.entries[2]->refs, 1);
    assert_ptr_not_equal(list.entries[2], old.entries[2]);
    assert_string_equal(consul_kv_value(list.entries[2]), "b");
    assert_false(kv_list_same(&old, &list));
    kv_list_clear(&list);

    /* All of it: the same, to the pointer. */
    assert_int_equal(
        decode("[" ENTRY("d", "YQ==", "3") "," ENTRY("c", "YQ==", "2") "," ENTRY("a", "YQ==", "1") "]", &old, &list),
        0);
    assert_true(kv_list_same(&old, &list));
    kv_list_clear(&old);
    expect_keys(&list, "a c d");
    kv_list_clear(&list);
}

/* The same index is not believed alone: a cluster that was restored, or another one, may count alike. */
static void test_changed_is_not_shared(void **state)
{
    static const char was[] = "[{\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,"
                              "\"LockIndex\":4,\"Session\":\"s\"}]";
    static const char *const is[] = {
        "[{\"Key\":\"l\",\"Value\":\"YQ==\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"Yg==\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YWE=\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":null,\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":0,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":1,\"CreateIndex\":1,\"ModifyIndex\":3,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":5,\"LockIndex\":4,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":5,"
        "\"Session\":\"s\"}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":1,\"CreateIndex\":2,\"ModifyIndex\":3,\"LockIndex\":4}]",
    };
    struct consul_kv_list old, list;

    (void)state;
    assert_int_equal(decode(was, NULL, &old), 0);
    for (size_t i = 0; i < COUNT(is); i++) {
        assert_int_equal(decode(is[i], &old, &list), 0);
        if (list.entries[0] == old.entries[0])
            fail_msg("shared: %s", is[i]);
        assert_false(kv_list_same(&old, &list));
        kv_list_clear(&list);
    }
    assert_int_equal(decode(was, &old, &list), 0);
    assert_ptr_equal(list.entries[0], old.entries[0]);
    kv_list_clear(&list);
    kv_list_clear(&old);
}

static void test_same(void **state)
{
    struct consul_kv_list none = {0}, none_either = {0}, a, b;

    (void)state;
    assert_true(kv_list_same(&none, &none_either));
    make_list(&a, "a", 1);
    make_list(&b, "a", 1);
    assert_false(kv_list_same(&none, &a));
    assert_false(kv_list_same(&a, &b)); /* equal, but not known to be unchanged */
    assert_true(kv_list_same(&a, &a));
    kv_list_clear(&a);
    kv_list_clear(&b);
}

/* ---- looking up and patching ----------------------------------------------------------------------------------- */

static void test_lookup(void **state)
{
    static const struct {
        const char *key;
        size_t at;
        bool there;
    } cases[] = {
        {"", 0, false},     {"a", 0, true},       {"a\x01", 1, false}, {"a-", 1, true},    {"a-a", 2, false},
        {"a/", 2, true},    {"a/a", 3, false},    {"a/b", 3, true},    {"a/b/", 4, false}, {"a/b/c", 4, true},
        {"a/b/d", 5, true}, {"a/b/d0", 6, false}, {"a/c", 6, false},   {"a0", 6, true},    {"a1", 7, false},
        {"b", 7, true},     {"b0", 8, false},     {"z", 8, true},      {"z/", 9, false},   {"\xff", 9, false},
    };
    struct consul_kv_list list;

    (void)state;
    make_list(&list, "z b a0 a/b/d a/b/c a/b a/ a- a", 1);
    expect_keys(&list, "a a- a/ a/b a/b/c a/b/d a0 b z");
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t len = strlen(cases[i].key);
        const struct consul_kv_entry *entry = consul_kv_find(&list, cases[i].key, len);

        if (consul_kv_lower_bound(&list, cases[i].key, len) != cases[i].at)
            fail_msg("lower bound of %s", cases[i].key);
        assert_ptr_equal(entry, cases[i].there ? list.entries[cases[i].at] : NULL);
    }
    /* The key need not be terminated. */
    assert_ptr_equal(consul_kv_find(&list, "a/b/cxyz", 5), list.entries[4]);
    assert_int_equal(consul_kv_lower_bound(&list, "a/b/cxyz", 4), 4);
    kv_list_clear(&list);
}

static void test_patch(void **state)
{
    static const struct {
        const char *before, *key;
        bool set;
        const char *after;
    } cases[] = {
        {"", "a", true, "a"},
        {"", "a", false, ""},
        {"b d", "a", true, "a b d"},
        {"b d", "c", true, "b c d"},
        {"b d", "e", true, "b d e"},
        {"b d", "b", true, "b d"},
        {"b d", "d", true, "b d"},
        {"b d", "b", false, "d"},
        {"b d", "d", false, "b"},
        {"b d", "c", false, "b d"},
        {"b d", "a", false, "b d"},
        {"b d", "e", false, "b d"},
        {"b", "b", false, ""},
        {"a/ a/b", "a", true, "a a/ a/b"},
        {"a a/ a/b", "a/", false, "a a/b"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct consul_kv_entry *entry = consul_kv_entry_new(cases[i].key, strlen(cases[i].key), "new", 3);
        struct consul_kv_list before, after;

        make_list(&before, cases[i].before, 1);
        assert_int_equal(kv_list_patch(&before, cases[i].key, cases[i].set ? entry : NULL, &after), 0);
        expect_keys(&before, cases[i].before);
        expect_keys(&after, cases[i].after);
        assert_int_equal(entry->refs, cases[i].set ? 2 : 1);
        for (size_t j = 0; j < after.n; j++) {
            const struct consul_kv_entry *e = after.entries[j];
            bool patched = cases[i].set && strcmp(consul_kv_key(e), cases[i].key) == 0;

            assert_int_equal(e == entry, patched);
            if (!patched)
                assert_ptr_equal(e, consul_kv_find(&before, consul_kv_key(e), e->key_len));
        }
        kv_list_clear(&before);
        kv_list_clear(&after);
        assert_int_equal(entry->refs, 1);
        consul_kv_entry_unref(entry);
    }
    consul_kv_entry_unref(NULL);
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static void test_keys(void **state)
{
    enum { PLAIN, ODD, INVALID };
    static const struct {
        const char *key;
        int is;
    } cases[] = {
        {"a", PLAIN},
        {"a/b/c", PLAIN},
        {"a/", PLAIN},
        {"a b", PLAIN},
        {" ", PLAIN},
        {"%2F?&#=+\"'\\~", PLAIN},
        {"...", PLAIN},
        {"a/...", PLAIN},
        {".a", PLAIN},
        {"a.", PLAIN},
        {"..a/b..", PLAIN},
        {"a/.b/..c", PLAIN},

        /* Go's mux cleans the path. */
        {"", ODD},
        {"/", ODD},
        {"/a", ODD},
        {"//", ODD},
        {"a//b", ODD},
        {"a//", ODD},
        {".", ODD},
        {"..", ODD},
        {"./a", ODD},
        {"../a", ODD},
        {"a/.", ODD},
        {"a/..", ODD},
        {"a/./b", ODD},
        {"a/../b", ODD},
        {"a/b/../", ODD},

        /* Not known to be printable. */
        {"a\tb", ODD},
        {"a\n", ODD},
        {"\x01", ODD},
        {"\x1f", ODD},
        {"\x7f", ODD},
        {"\xc2\x80", ODD},
        {"\xc2\xa0", ODD},         /* no-break space */
        {"\xc2\xad", ODD},         /* soft hyphen */
        {"\xcd\xb8", ODD},         /* U+0378 */
        {"\xe2\x80\x8b", ODD},     /* zero width space */
        {"\xe2\x80\xae", ODD},     /* right-to-left override */
        {"\xe3\x80\x80", ODD},     /* ideographic space */
        {"\xef\xbb\xbf", ODD},     /* byte order mark */
        {"\xed\x9f\xbf", ODD},     /* U+D7FF */
        {"\xee\x80\x80", ODD},     /* U+E000 */
        {"\xef\xbf\xbf", ODD},     /* U+FFFF */
        {"\xf0\x90\x80\x80", ODD}, /* U+10000 */
        {"\xf4\x8f\xbf\xbf", ODD}, /* U+10FFFF */
        {"a//\xc3\xbc", ODD},
        {"\xc3\xbc", PLAIN},
        {"\xe2\x82\xac", PLAIN},
        {"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87/a", PLAIN},
        {"\xe6\xbc\xa2\xe5\xad\x97", PLAIN},
        {"\xf0\x9f\x98\x80", PLAIN},

        {"\x80", INVALID},
        {"\xbf", INVALID},
        {"\xff", INVALID},
        {"\xfe", INVALID},
        {"a\xc3", INVALID},
        {"a\xc3/b", INVALID},
        {"\xe2\x82", INVALID},
        {"\xe2\x82/", INVALID},
        {"\xf0\x9f\x90", INVALID},
        {"\xc0\x80", INVALID}, /* overlong */
        {"\xc0\xaf", INVALID},
        {"\xc1\xbf", INVALID},
        {"\xe0\x80\xaf", INVALID},
        {"\xe0\x9f\xbf", INVALID},
        {"\xf0\x80\x80\xaf", INVALID},
        {"\xf0\x8f\xbf\xbf", INVALID},
        {"\xed\xa0\x80", INVALID}, /* surrogates */
        {"\xed\xbf\xbf", INVALID},
        {"\xf4\x90\x80\x80", INVALID}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", INVALID},
        {"\xf8\x88\x80\x80\x80", INVALID},
        {"/\xff", INVALID},
        {"a//\xff", INVALID},
        {"ok/\xc3\xbc\xc3", INVALID},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *copy = strdup(cases[i].key); /* on the heap: a byte read too far is seen */
        bool plain = cases[i].is != PLAIN;
        bool valid = consul_kv_key_valid(copy, &plain);

        if (valid != (cases[i].is != INVALID) || (valid && plain != (cases[i].is == PLAIN)))
            fail_msg("case %zu: %s", i, cases[i].key);
        free(copy);
    }
}

/* ---- transactions ----------------------------------------------------------------------------------------------- */

static void test_txn_text(void **state)
{
    static const struct {
        struct consul_kv_op op;
        const char *body;
    } cases[] = {
        {{.verb = CONSUL_KV_SET, .key = "a/b", .value = "abc", .value_len = 3, .flags = 42},
         "[{\"KV\":{\"Verb\":\"set\",\"Key\":\"a/b\",\"Value\":\"YWJj\",\"Flags\":42}}]"},
        {{.verb = CONSUL_KV_SET, .key = "k", .flags = UINT64_MAX},
         "[{\"KV\":{\"Verb\":\"set\",\"Key\":\"k\",\"Value\":\"\",\"Flags\":18446744073709551615}}]"},
        {{.verb = CONSUL_KV_SET, .key = "k", .value = "\0\xff", .value_len = 2, .index = 9},
         "[{\"KV\":{\"Verb\":\"set\",\"Key\":\"k\",\"Value\":\"AP8=\",\"Flags\":0}}]"},
        {{.verb = CONSUL_KV_CAS, .key = "k", .value = "a", .value_len = 1, .index = 7},
         "[{\"KV\":{\"Verb\":\"cas\",\"Key\":\"k\",\"Value\":\"YQ==\",\"Flags\":0,\"Index\":7}}]"},
        {{.verb = CONSUL_KV_CAS, .key = "k"},
         "[{\"KV\":{\"Verb\":\"cas\",\"Key\":\"k\",\"Value\":\"\",\"Flags\":0,\"Index\":0}}]"},
        {{.verb = CONSUL_KV_DELETE, .key = "k"},
         "[{\"KV\":{\"Verb\":\"get\",\"Key\":\"k\"}},{\"KV\":{\"Verb\":\"delete\",\"Key\":\"k\"}}]"},
        {{.verb = CONSUL_KV_DELETE_CAS, .key = "k", .index = UINT64_MAX},
         "[{\"KV\":{\"Verb\":\"check-index\",\"Key\":\"k\",\"Index\":18446744073709551615}},"
         "{\"KV\":{\"Verb\":\"delete\",\"Key\":\"k\"}}]"},
        {{.verb = CONSUL_KV_CHECK_SESSION, .key = "k", .session = "s"},
         "[{\"KV\":{\"Verb\":\"check-session\",\"Key\":\"k\",\"Session\":\"s\"}}]"},
        {{.verb = CONSUL_KV_CHECK_INDEX, .key = "k", .index = 5},
         "[{\"KV\":{\"Verb\":\"check-index\",\"Key\":\"k\",\"Index\":5}}]"},
        {{.verb = CONSUL_KV_CHECK_NOT_EXISTS, .key = "k"}, "[{\"KV\":{\"Verb\":\"check-not-exists\",\"Key\":\"k\"}}]"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t len = 0;
        char *body;

        assert_int_equal(kv_txn_encode(&cases[i].op, 1, &body, &len), 0);
        assert_string_equal(body, cases[i].body);
        assert_int_equal(len, strlen(body));
        free(body);
    }
}

/* What goes in comes out of a JSON parser. */
static void test_txn_escaping(void **state)
{
    static const char *const keys[] = {
        "\"",
        "\\",
        "\\\"",
        "a\\u0041",
        "\x01\x02\x1f",
        "\b\f\n\r\t",
        "\x7f",
        "</script>",
        "\xc3\xbc\xe2\x82\xac",
        "\xf0\x9f\x90\xb3",
        "{\"KV\":1}",
        "a/b c",
        "'",
        "",
        "//../.",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(keys); i++) {
        struct consul_kv_op ops[] = {{.verb = CONSUL_KV_SET, .key = keys[i]},
                                     {.verb = CONSUL_KV_DELETE, .key = keys[i]},
                                     {.verb = CONSUL_KV_CHECK_INDEX, .key = keys[i]}};
        size_t len;
        json_t *json;
        char *body;

        assert_int_equal(kv_txn_encode(ops, 3, &body, &len), 0);
        json = json_loadb(body, len, 0, NULL);
        assert_int_equal(json_array_size(json), 4);
        for (size_t j = 0; j < 4; j++) {
            const json_t *kv = json_object_get(json_array_get(json, j), "KV");

            assert_string_equal(json_string_value(json_object_get(kv, "Key")), keys[i]);
        }
        json_decref(json);
        free(body);
    }
}

/* Values of every size around the pieces that they are encoded in, with every byte; read back as an entry. */
static void test_txn_values(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 3, 4, 3071, 3072, 3073, 3074, 3075, 6143, 6144, 6145, 100000, 524288};
    char *value = malloc(524288);

    (void)state;
    assert_non_null(value);
    for (size_t i = 0; i < 524288; i++)
        value[i] = (char)(i ^ i >> 8);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct consul_kv_op op = {.verb = CONSUL_KV_SET, .key = "k", .value = value, .value_len = sizes[i]};
        struct consul_kv_entry *entry;
        size_t len;
        json_t *json;
        char *body;

        assert_int_equal(kv_txn_encode(&op, 1, &body, &len), 0);
        json = json_loadb(body, len, 0, NULL);
        assert_int_equal(kv_entry_decode(json_object_get(json_array_get(json, 0), "KV"), &entry), 0);
        assert_int_equal(entry->value_len, sizes[i]);
        assert_memory_equal(consul_kv_value(entry), value, sizes[i]);
        assert_int_equal(consul_kv_value(entry)[sizes[i]], 0);
        consul_kv_entry_unref(entry);
        json_decref(json);
        free(body);
    }
    free(value);
}

static void test_txn_refused(void **state)
{
    static const char *const keys[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80"};
    char *body = NULL;
    size_t len = 77;

    (void)state;
    for (size_t i = 0; i < COUNT(keys); i++) {
        struct consul_kv_op ops[] = {{.verb = CONSUL_KV_SET, .key = "fine"},
                                     {.verb = CONSUL_KV_CHECK_NOT_EXISTS, .key = keys[i]}};

        assert_int_equal(kv_txn_encode(ops, 2, &body, &len), -EINVAL);
        assert_null(body);
        assert_int_equal(len, 77);
    }
    assert_int_equal(kv_txn_encode(&(struct consul_kv_op){.verb = 99, .key = "k"}, 1, &body, &len), -EINVAL);
    assert_null(body);
}

/* An answer that was cut off: what its keys begin with, as far as they can be read. */
static void test_common(void **state)
{
    static const struct {
        const char *text, *common;
    } cases[] = {
        {"", NULL},
        {"[", NULL},
        {"[{\"Key\":\"a/b", NULL},
        {"[{\"Key\":\"a/b\"", "a/b"},
        {"[{\"Key\": \"a/b\", \"Value\": \"YQ==\"}, {\"Key\": \"a/", "a/b"},
        {"[{\"Key\":\"a/b\"},{\"Key\":\"a/bc\"},{\"Key\":\"a/d\"},{\"Key\":\"\\u0", "a/"},
        {"[{\"Key\":\"a\"},{\"Key\":\"b\"},{\"Key\":\"b\"}]", NULL},
        {"[{\"Key\":\"a\\\"Key\\\":\\\"b\"},{\"Key\":\"a\\\"Key\\\":c\"}", "a\"Key\":"},
        {"[{\"Key\":\"\\u00e4/\\u00e4\"},{\"Key\":\"\u00e4/b\"}", "\u00e4/"},
        {"[{\"Key\":\"a\\u0000b\"},{\"Key\":\"a\\u0000b\"}", "a"},
        {"[{\"Key\":7},{\"Key\":\"a\"}", NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *common = kv_text_common(cases[i].text, strlen(cases[i].text));

        if (cases[i].common)
            assert_string_equal(common, cases[i].common);
        else
            assert_null(common);
        free(common);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entry),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_key_may_hold_nul),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_no_json),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_long_values),
        cmocka_unit_test(test_odd_fields),
        cmocka_unit_test(test_nothing_there),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_unchanged_is_shared),
        cmocka_unit_test(test_changed_is_not_shared),
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_patch),
        cmocka_unit_test(test_common),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_txn_text),
        cmocka_unit_test(test_txn_escaping),
        cmocka_unit_test(test_txn_values),
        cmocka_unit_test(test_txn_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
