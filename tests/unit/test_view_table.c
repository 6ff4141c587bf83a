/* Tables for people: what /v1/agent/members answers, and what would break a table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "view.h"

static json_t *parse(const char *text)
{
    json_t *json = json_loads(text, 0, NULL);

    assert_non_null(json);
    return json;
}

static void test_columns_are_as_wide_as_they_need(void **state)
{
    static const char *const titles[] = {"NAME", "X", "LAST", NULL};
    json_t *rows = parse("[[\"a\", \"long cell\", \"z\"], [\"n\\u00e4me2\", \"\", \"y\\nz\"], [\"b\"]]");
    size_t len;
    char *data;

    (void)state;
    assert_int_equal(view_table(titles, rows, &data, &len), 0);
    assert_string_equal(data, "NAME   X          LAST\n"
                              "a      long cell  z\n"
                              "n\xc3\xa4me2  -          y z\n"
                              "b      -          -\n");
    assert_int_equal(len, strlen(data));
    free(data);
    json_decref(rows);
}

static void test_without_rows(void **state)
{
    static const char *const titles[] = {"ONE", NULL};
    json_t *rows = json_array();
    size_t len;
    char *data;

    (void)state;
    assert_int_equal(view_table(titles, rows, &data, &len), 0);
    assert_string_equal(data, "ONE\n");
    free(data);
    json_decref(rows);
    assert_int_equal(view_table(titles, NULL, &data, &len), -ENOMEM);
}

static void test_members(void **state)
{
    json_t *members = parse("[{\"Name\": \"b\", \"Addr\": \"::1\", \"Port\": 8301, \"Status\": 4,"
                            "  \"Tags\": {\"role\": \"node\", \"build\": \"1.8.7:abc\", \"dc\": \"dc1\"}},"
                            " {\"Name\": \"a\", \"Addr\": \"10.0.0.1\", \"Port\": 8301, \"Status\": 1,"
                            "  \"Tags\": {\"role\": \"consul\", \"build\": \"1.8.7:\", \"dc\": \"dc1\"}},"
                            " {\"Name\": \"c\", \"Addr\": \"10.0.0.2\", \"Port\": 1, \"Status\": 9}]");
    size_t len;
    char *data;

    (void)state;
    assert_int_equal(view_members(members, &data, &len), 0);
    assert_string_equal(data, "NAME  ADDRESS        STATUS   TYPE    BUILD  DATACENTER\n"
                              "a     10.0.0.1:8301  alive    server  1.8.7  dc1\n"
                              "b     [::1]:8301     failed   client  1.8.7  dc1\n"
                              "c     10.0.0.2:1     unknown  -       -      -\n");
    free(data);
    json_decref(members);
}

static void test_documents_a_line(void **state)
{
    json_t *events = parse("[{\"Name\": \"a\", \"N\": 1}, {\"Name\": \"b\"}, {\"Name\": \"a\", \"N\": 2}]");
    size_t len;
    char *data;

    (void)state;
    assert_int_equal(view_documents(events, "Name", "a", &data, &len), 0);
    assert_string_equal(data, "{\"Name\":\"a\",\"N\":1}\n{\"Name\":\"a\",\"N\":2}\n");
    free(data);
    json_decref(events);
}

static void test_names_with_a_suffix(void **state)
{
    char out[NAME_SIZE], long_name[NAME_LEN_MAX + 1];

    (void)state;
    assert_int_equal(view_file_name("a/b", ".hcl", out), 0);
    assert_string_equal(out, "a%2Fb.hcl");
    assert_int_equal(view_file_parse("a%2Fb.hcl", ".hcl", out), 0);
    assert_string_equal(out, "a/b");
    assert_int_equal(view_file_parse(".hcl", ".hcl", out), -ENOENT);
    assert_int_equal(view_file_parse("a.json", ".hcl", out), -ENOENT);
    memset(long_name, 'x', NAME_LEN_MAX);
    long_name[NAME_LEN_MAX] = '\0';
    assert_int_equal(view_file_name(long_name, ".hcl", out), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_are_as_wide_as_they_need),
        cmocka_unit_test(test_without_rows),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_documents_a_line),
        cmocka_unit_test(test_names_with_a_suffix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
