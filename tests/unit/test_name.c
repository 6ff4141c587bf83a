/* fs/name: the section "Names" of the layout, case by case and as properties of random names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "name.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct pair {
    const char *consul, *file, *extra;
};

static void test_pairs(void **state)
{
    static const struct pair pairs[] = {
        {"web", "web", NULL},
        {"a b\tc\n", "a b\tc\n", NULL},
        {"\xc3\xbc\xff\x01", "\xc3\xbc\xff\x01", NULL},
        {"-rf", "-rf", NULL},
        {".hidden", ".hidden", NULL},
        {"...", "...", NULL},
        {"a.b", "a.b", NULL},
        {"web-1.json", "web-1.json", NULL},
        /* What a file name cannot hold. */
        {"a/b", "a%2Fb", NULL},
        {"/", "%2F", NULL},
        {"//", "%2F%2F", NULL},
        {".", "%2E", NULL},
        {"..", "%2E%2E", NULL},
        {"./", ".%2F", NULL},
        {"../..", "..%2F..", NULL},
        /* A '%' only where it starts the name, or would read as an escape. */
        {"50%off", "50%off", NULL},
        {"50%", "50%", NULL},
        {"a%2", "a%2", NULL},
        {"a%2f", "a%2f", NULL},
        {"a%2e", "a%2e", NULL},
        {"a%2G", "a%2G", NULL},
        {"a%40", "a%40", NULL},
        {"a%00", "a%00", NULL},
        {"a%value", "a%value", NULL},
        {"%", "%25", NULL},
        {"%%", "%25%", NULL},
        {"%off", "%25off", NULL},
        {"%2f", "%252f", NULL},
        {"%value", "%25value", NULL},
        {"%empty", "%25empty", NULL},
        {"a%2F", "a%252F", NULL},
        {"a%2Fb", "a%252Fb", NULL},
        {"a%25", "a%2525", NULL},
        {"a%2Eb", "a%252Eb", NULL},
        {"%2F", "%252F", NULL},
        {"%25", "%2525", NULL},
        {"a%%2F", "a%%252F", NULL},
        {"a%252F", "a%25252F", NULL},
        {"a%/", "a%%2F", NULL},
        {"a%2/F", "a%2%2FF", NULL},
        /* Where NAME@NODE is a pattern. */
        {"web@1", "web@1", NULL},
        {"web@1", "web%401", "@"},
        {"@", "%40", "@"},
        {"@@", "%40%40", "@"},
        {"web%40", "web%2540", "@"},
        {"web%4", "web%4", "@"},
        {"web%4@", "web%4%40", "@"},
        {"%40", "%2540", "@"},
        {"50%off@x", "50%off%40x", "@"},
        {"a/b@.", "a%2Fb%40.", "@"},
        {".", "%2E", "@"},
        {"a:b@c", "a%3Ab%40c", "@:"},
        {"a%3A", "a%253A", "@:"},
        {"a%3A", "a%3A", "@"},
    };
    char file[NAME_SIZE], consul[NAME_SIZE];

    (void)state;
    for (size_t i = 0; i < COUNT(pairs); i++) {
        assert_int_equal(name_encode(pairs[i].consul, strlen(pairs[i].consul), pairs[i].extra, file), 0);
        assert_string_equal(file, pairs[i].file);
        if (name_decode(pairs[i].file, pairs[i].extra, consul, sizeof(consul)) != 0)
            fail_msg("'%s' does not decode", pairs[i].file);
        assert_string_equal(consul, pairs[i].consul);
    }
}

/* Spellings that encoding would not produce: the object behind them has another name already, or is the tree's own. */
static void test_other_spellings(void **state)
{
    static const struct pair pairs[] = {
        {NULL, "", NULL},       {NULL, ".", NULL},         {NULL, "..", NULL},      {NULL, "a/b", NULL},
        {NULL, "%", NULL},      {NULL, "%%", NULL},        {NULL, "%2", NULL},      {NULL, "%2f", NULL},
        {NULL, "%2e", NULL},    {NULL, "%41", NULL},       {NULL, "%00", NULL},     {NULL, "%off", NULL},
        {NULL, "%value", NULL}, {NULL, "%empty", NULL},    {NULL, "%2Ea", NULL},    {NULL, "a%2E", NULL},
        {NULL, "a%2Eb", NULL},  {NULL, "%2E%2E%2E", NULL}, {NULL, "%2E.", NULL},    {NULL, ".%2E", NULL},
        {NULL, "a%25", NULL},   {NULL, "a%25b", NULL},     {NULL, "a%25off", NULL}, {NULL, "a%252", NULL},
        {NULL, "a%252f", NULL}, {NULL, "%40", NULL},       {NULL, "a%2540", NULL},  {NULL, "@", "@"},
        {NULL, "web@1", "@"},   {NULL, "%4", "@"},         {NULL, "%3A", "@"},      {NULL, "a%2540b", NULL},
    };
    char consul[NAME_SIZE] = "untouched";

    (void)state;
    for (size_t i = 0; i < COUNT(pairs); i++) {
        if (name_decode(pairs[i].file, pairs[i].extra, consul, sizeof(consul)) != -ENOENT)
            fail_msg("'%s' decodes", pairs[i].file);
        assert_string_equal(consul, "untouched");
    }
}

static void test_kv(void **state)
{
    static const struct pair pairs[] = {
        {"", "%empty", NULL},
        {"a", "a", NULL},
        {".", "%2E", NULL},
        {"..", "%2E%2E", NULL},
        {"...", "...", NULL},
        {"%empty", "%25empty", NULL},
        {"%value", "%25value", NULL},
        {"%2F", "%252F", NULL},
        {"a%2Fb", "a%252Fb", NULL},
        {"50%off", "50%off", NULL},
        {"a@b", "a@b", NULL},
        {"%", "%25", NULL},
        {"line\nbreak", "line\nbreak", NULL},
    };
    static const char *const others[] = {"",      ".",    "..",  "%value", "%Empty", "%empty ", "%2F",
                                         "a%2Fb", "%2Fa", "a/b", "/",      "%",      "%2e",     "a%2E"};
    char file[NAME_SIZE] = "untouched", component[NAME_SIZE];

    (void)state;
    assert_int_equal(name_kv_encode("a/b", 3, file), -EINVAL);
    assert_int_equal(name_kv_encode("/", 1, file), -EINVAL);
    assert_int_equal(name_kv_encode("a\0b", 3, file), -EINVAL);
    assert_string_equal(file, "untouched");

    for (size_t i = 0; i < COUNT(pairs); i++) {
        assert_int_equal(name_kv_encode(pairs[i].consul, strlen(pairs[i].consul), file), 0);
        assert_string_equal(file, pairs[i].file);
        assert_int_equal(name_kv_decode(file, component, sizeof(component)), 0);
        assert_string_equal(component, pairs[i].consul);
    }

    strcpy(component, "untouched");
    for (size_t i = 0; i < COUNT(others); i++) {
        if (name_kv_decode(others[i], component, sizeof(component)) != -ENOENT)
            fail_msg("'%s' decodes", others[i]);
        assert_string_equal(component, "untouched");
    }
}

static void test_encode_refuses(void **state)
{
    char file[NAME_SIZE] = "untouched", name[300];

    (void)state;
    memset(name, 'x', sizeof(name));
    assert_int_equal(name_encode("", 0, NULL, file), -EINVAL);
    assert_int_equal(name_encode("a\0b", 3, NULL, file), -EINVAL);
    assert_int_equal(name_encode("\0", 1, NULL, file), -EINVAL);
    assert_int_equal(name_encode("\0", 1, "@", file), -EINVAL);
    assert_int_equal(name_encode(name, 256, NULL, file), -ENAMETOOLONG);
    assert_int_equal(name_encode(name, 300, NULL, file), -ENAMETOOLONG);
    assert_int_equal(name_kv_encode(name, 256, file), -ENAMETOOLONG);
    name[254] = '/';
    assert_int_equal(name_encode(name, 255, NULL, file), -ENAMETOOLONG);
    name[252] = '/';
    assert_int_equal(name_encode(name, 253 + 1, NULL, file), -ENAMETOOLONG);
    assert_string_equal(file, "untouched");

    assert_int_equal(name_encode(name, 253, NULL, file), 0);
    assert_int_equal(strlen(file), 255);
    memset(name, 'x', sizeof(name));
    assert_int_equal(name_encode(name, 255, NULL, file), 0);
    assert_int_equal(strlen(file), 255);

    /* Only len bytes count. */
    assert_int_equal(name_encode("a%2Fb", 3, NULL, file), 0);
    assert_string_equal(file, "a%2");
    assert_int_equal(name_encode("..x", 2, NULL, file), 0);
    assert_string_equal(file, "%2E%2E");
}

static void test_decode_sizes(void **state)
{
    char file[300], out[NAME_SIZE] = "untouched";

    (void)state;
    memset(file, 'x', sizeof(file));
    file[255] = '\0';
    assert_int_equal(name_decode(file, NULL, out, NAME_SIZE - 1), -ENAMETOOLONG);
    assert_string_equal(out, "untouched");
    assert_int_equal(name_decode(file, NULL, out, NAME_SIZE), 0);
    assert_string_equal(out, file);
    file[255] = 'x';
    file[256] = '\0';
    assert_int_equal(name_decode(file, NULL, out, sizeof(out)), -ENAMETOOLONG);
    assert_int_equal(name_kv_decode(file, out, sizeof(out)), -ENAMETOOLONG);

    assert_int_equal(name_decode("a%2Fb", NULL, out, 3), -ENAMETOOLONG);
    assert_int_equal(name_decode("a%2Fb", NULL, out, 0), -ENAMETOOLONG);
    assert_int_equal(name_decode("a%2Fb", NULL, out, 4), 0);
    assert_string_equal(out, "a/b");
    assert_int_equal(name_kv_decode("%empty", out, 0), -ENAMETOOLONG);
    assert_int_equal(name_kv_decode("%empty", out, 1), 0);
    assert_int_equal(name_kv_decode("ab", out, 2), -ENAMETOOLONG);
}

/* A generator with a fixed seed: a failure can be repeated. */
static uint32_t random_state = 20240229;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* Mostly from the characters that matter, so that escapes of escapes of escapes come up. */
static size_t random_name(char *name, size_t max)
{
    static const char interesting[] = "%%%%22445550FEef/..@@ax";
    size_t len = next_random() % 4 ? next_random() % 12 : next_random() % (max + 1);

    for (size_t i = 0; i < len; i++)
        name[i] = next_random() % 8 ? interesting[next_random() % (sizeof(interesting) - 1)]
                                    : (char)(1 + next_random() % 255);
    name[len] = '\0';
    return len;
}

/* Every name that fits has one file name, legal as such, which leads back to it. */
static void test_round_trip_from_consul(void **state)
{
    static const char *const extras[] = {NULL, "@", "@:"};
    unsigned escaped = 0;

    (void)state;
    for (int i = 0; i < 300000; i++) {
        const char *extra = extras[i % 3];
        char consul[301], file[NAME_SIZE], back[NAME_SIZE];
        size_t len = random_name(consul, 300);
        int r = name_encode(consul, len, extra, file);

        if (r < 0) {
            assert_true(len == 0 ? r == -EINVAL : r == -ENAMETOOLONG && len > 85);
            continue;
        }
        escaped += strcmp(consul, file) != 0;
        assert_in_range(strlen(file), len, 255);
        assert_null(strchr(file, '/'));
        assert_null(extra ? strpbrk(file, extra) : NULL);
        assert_true(strcmp(file, ".") != 0 && strcmp(file, "..") != 0);
        assert_true(strcmp(file, NAME_KV_VALUE) != 0 && strcmp(file, NAME_KV_EMPTY) != 0);
        assert_int_equal(name_decode(file, extra, back, sizeof(back)), 0);
        assert_string_equal(back, consul);
    }
    assert_in_range(escaped, 100000, 300000);
}

/* Every file name that exists is the one that is listed. */
static void test_round_trip_from_file(void **state)
{
    static const char *const extras[] = {NULL, "@", "@:"};
    unsigned exist = 0, absent = 0;

    (void)state;
    for (int i = 0; i < 300000; i++) {
        const char *extra = extras[i % 3];
        char file[301], consul[NAME_SIZE], again[NAME_SIZE];
        int r;

        random_name(file, 300);
        r = name_decode(file, extra, consul, sizeof(consul));
        if (r < 0) {
            assert_int_equal(r, strlen(file) > NAME_LEN_MAX ? -ENAMETOOLONG : -ENOENT);
            absent++;
            continue;
        }
        exist++;
        assert_int_equal(name_encode(consul, strlen(consul), extra, again), 0);
        assert_string_equal(again, file);
    }
    assert_in_range(exist, 10000, 300000);
    assert_in_range(absent, 10000, 300000);
}

static void test_kv_round_trips(void **state)
{
    (void)state;
    for (int i = 0; i < 300000; i++) {
        char text[301], a[NAME_SIZE], b[NAME_SIZE];
        size_t len = random_name(text, 300);
        int r = name_kv_encode(text, len, a);

        if (strchr(text, '/'))
            assert_int_equal(r, -EINVAL);
        if (r == 0) {
            assert_string_not_equal(a, NAME_KV_VALUE);
            assert_int_equal(name_kv_decode(a, b, sizeof(b)), 0);
            assert_string_equal(b, text);
        }

        r = name_kv_decode(text, a, sizeof(a));
        if (r == 0) {
            assert_int_equal(name_kv_encode(a, strlen(a), b), 0);
            assert_string_equal(b, text);
        } else {
            assert_int_equal(r, len > NAME_LEN_MAX ? -ENAMETOOLONG : -ENOENT);
        }
    }
}

/* All names of up to five of the characters that matter: no two share a file name, since each leads back. */
static void test_exhaustive_short_names(void **state)
{
    static const char alphabet[] = "%/.25EF40@x";
    const size_t n = sizeof(alphabet) - 1;

    (void)state;
    for (size_t len = 1, total = n; len <= 5; len++, total *= n)
        for (size_t i = 0; i < total; i++) {
            char consul[6] = "", file[NAME_SIZE], back[NAME_SIZE];

            for (size_t j = 0, k = i; j < len; j++, k /= n)
                consul[j] = alphabet[k % n];
            assert_int_equal(name_encode(consul, len, "@", file), 0);
            assert_int_equal(name_decode(file, "@", back, sizeof(back)), 0);
            assert_string_equal(back, consul);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_other_spellings),
        cmocka_unit_test(test_kv),
        cmocka_unit_test(test_encode_refuses),
        cmocka_unit_test(test_decode_sizes),
        cmocka_unit_test(test_round_trip_from_consul),
        cmocka_unit_test(test_round_trip_from_file),
        cmocka_unit_test(test_kv_round_trips),
        cmocka_unit_test(test_exhaustive_short_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
