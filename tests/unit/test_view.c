/*
 * Views on answers that a real Consul 1.8.7 gave: a directory of data/ for each, the answer beside the bytes that views
 * make of it. The agent that was asked is on node n1. Then what names and documents are like in general.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "candidate.h"
#include "view.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define LOCAL "n1"
#define OWN "fastest.json"

/* ---- the files --------------------------------------------------------------------------------------------------- */

/* Beside this file, unless the environment says otherwise. */
static char *data_path(const char *directory, const char *file)
{
    const char *base = getenv("CONSULFS_TEST_DATA"), *slash = strrchr(__FILE__, '/');
    char *path;
    int len;

    if (base)
        len = asprintf(&path, "%s/%s/%s", base, directory, file);
    else
        len = asprintf(&path, "%.*s/data/%s/%s", slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".", directory,
                       file);
    assert_true(len > 0);
    return path;
}

static char *slurp(const char *directory, const char *file, size_t *ret_len)
{
    char *path = data_path(directory, file), *data = NULL;
    size_t size = 0;
    ssize_t len;
    FILE *stream = fopen(path, "r");

    if (!stream)
        fail_msg("%s: %s", path, strerror(errno));
    len = getdelim(&data, &size, '\0', stream);
    *ret_len = len > 0 ? (size_t)len : 0;
    fclose(stream);
    free(path);
    return data;
}

static json_t *answer_of(const char *directory)
{
    size_t len;
    char *data = slurp(directory, "answer.json", &len);
    json_t *json = json_loadb(data, len, JSON_DECODE_ANY, NULL);

    free(data);
    assert_non_null(json);
    return json;
}

/* ---- a function for each kind of expected file ------------------------------------------------------------------- */

static int all(const json_t *answer, char **data, size_t *len)
{
    return view_addresses(answer, VIEW_PASSING, VIEW_CRITICAL, data, len);
}

static int passing(const json_t *answer, char **data, size_t *len)
{
    return view_addresses(answer, VIEW_PASSING, VIEW_PASSING, data, len);
}

static int warning(const json_t *answer, char **data, size_t *len)
{
    return view_addresses(answer, VIEW_WARNING, VIEW_WARNING, data, len);
}

static int critical(const json_t *answer, char **data, size_t *len)
{
    return view_addresses(answer, VIEW_CRITICAL, VIEW_CRITICAL, data, len);
}

static int address(const json_t *answer, char **data, size_t *len)
{
    return view_line(view_string(json_object_get(answer, "Node"), "Address"), data, len);
}

static int instance_names(const json_t *answer, const char *local, char **data, size_t *len)
{
    struct text text;

    assert_int_equal(text_begin(&text), 0);
    for (size_t i = 0; i < json_array_size(answer); i++) {
        const json_t *entry = json_array_get(answer, i);
        char name[NAME_SIZE];

        assert_int_equal(view_owned_name(view_instance_id(entry), view_instance_node(entry), local, OWN, name), 0);
        fprintf(text.stream, "%s\n", name);
    }
    return text_end(&text, data, len);
}

static int names(const json_t *answer, char **data, size_t *len) { return instance_names(answer, LOCAL, data, len); }

static int names_of_unknown_agent(const json_t *answer, char **data, size_t *len)
{
    return instance_names(answer, NULL, data, len);
}

static int check_names(const json_t *answer, const char *state, char **data, size_t *len)
{
    struct text text;

    assert_int_equal(text_begin(&text), 0);
    for (size_t i = 0; i < json_array_size(answer); i++) {
        const json_t *check = json_array_get(answer, i);
        char name[NAME_SIZE];

        if (!view_check_is(check, state))
            continue;
        assert_int_equal(view_owned_name(view_string(check, "CheckID"), view_string(check, "Node"), LOCAL, NULL, name),
                         0);
        fprintf(text.stream, "%s\n", name);
    }
    return text_end(&text, data, len);
}

static int any_names(const json_t *answer, char **data, size_t *len) { return check_names(answer, "any", data, len); }

static int passing_names(const json_t *answer, char **data, size_t *len)
{
    return check_names(answer, "passing", data, len);
}

static int warning_names(const json_t *answer, char **data, size_t *len)
{
    return check_names(answer, "warning", data, len);
}

static int critical_names(const json_t *answer, char **data, size_t *len)
{
    return check_names(answer, "critical", data, len);
}

static int candidates(const json_t *answer, char **data, size_t *len)
{
    struct candidates found;
    struct text text;

    assert_int_equal(candidates_of(answer, LOCAL, &found), 0);
    assert_int_equal(text_begin(&text), 0);
    for (size_t i = 0; i < found.n; i++) {
        const struct candidate *c = &found.list[i];

        fprintf(text.stream, "%s %s %s %s %s\n", c->node, c->id, c->address,
                !c->target                     ? "none"
                : c->kind == CONSUL_PROBE_HEAD ? "http"
                                               : "tcp",
                c->target ? c->target : "-");
    }
    candidates_clear(&found);
    return text_end(&text, data, len);
}

static const struct {
    const char *file;
    int (*view)(const json_t *answer, char **data, size_t *len);
} views[] = {
    {"all", all},
    {"passing", passing},
    {"warning", warning},
    {"critical", critical},
    {"tags", view_tags},
    {"names", names},
    {"names-of-unknown-agent", names_of_unknown_agent},
    {"document.json", view_document},
    {"address", address},
    {"summary", view_checks_summary},
    {"any-names", any_names},
    {"passing-names", passing_names},
    {"warning-names", warning_names},
    {"critical-names", critical_names},
    {"candidates", candidates},
};

static void check_file(const char *directory, const char *file, const json_t *answer)
{
    size_t expected_len, len;
    char *expected = slurp(directory, file, &expected_len), *data;

    for (size_t i = 0; i < COUNT(views); i++) {
        if (strcmp(views[i].file, file) != 0)
            continue;
        assert_int_equal(views[i].view(answer, &data, &len), 0);
        assert_int_equal(data[len], '\0');
        if (len != expected_len || memcmp(data, expected, len) != 0)
            fail_msg("%s/%s:\n%s", directory, file, data);
        free(data);
        free(expected);
        return;
    }
    fail_msg("%s/%s: no view makes this file", directory, file);
}

/* Calls back for each case, sorted; says how many there were. */
static void for_each_entry(const char *directory, void (*function)(const char *directory, const char *name, void *arg),
                           void *arg)
{
    struct dirent **entries;
    char *path = data_path(directory, "");
    int n = scandir(path, &entries, NULL, alphasort);

    if (n < 0)
        fail_msg("%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (entries[i]->d_name[0] != '.')
            function(directory, entries[i]->d_name, arg);
        free(entries[i]);
    }
    free(entries);
    free(path);
}

static void check_entry(const char *directory, const char *name, void *answer)
{
    if (strcmp(name, "answer.json") != 0)
        check_file(directory, name, answer);
}

static void check_case(const char *base, const char *name, void *count)
{
    json_t *answer = answer_of(name);

    (void)base;
    for_each_entry(name, check_entry, answer);
    json_decref(answer);
    ++*(size_t *)count;
}

static void test_recorded(void **state)
{
    size_t n = 0;

    (void)state;
    for_each_entry(".", check_case, &n);
    assert_true(n >= 11);
}

/* ---- lookup and listing agree ------------------------------------------------------------------------------------ */

static const json_t *find_instance(const json_t *health, const char *file, const char *local)
{
    char id[NAME_SIZE], node[NAME_SIZE];

    return view_owned_parse(file, local, OWN, id, node) == 0 ? view_find_instance(health, id, node) : NULL;
}

static void test_listed_names_are_found(void **state)
{
    json_t *health = answer_of("service-web");

    (void)state;
    for (size_t i = 0; i < json_array_size(health); i++) {
        const json_t *entry = json_array_get(health, i);
        char name[NAME_SIZE];

        assert_int_equal(view_owned_name(view_instance_id(entry), view_instance_node(entry), LOCAL, OWN, name), 0);
        assert_ptr_equal(find_instance(health, name, LOCAL), entry);
        /* The long name always does. */
        assert_int_equal(view_owned_name(view_instance_id(entry), view_instance_node(entry), NULL, OWN, name), 0);
        assert_ptr_equal(find_instance(health, name, LOCAL), entry);
        assert_ptr_equal(find_instance(health, name, NULL), entry);
    }
    json_decref(health);
}

static void test_other_names_are_not_found(void **state)
{
    static const char *const files[] = {"fastest.json",
                                        "web-1",
                                        "web-1.json.json",
                                        "web-1@n2.json",
                                        "web-1@.json",
                                        "@n1.json",
                                        ".json",
                                        "web%401.json",
                                        "web%2D1.json",
                                        "noport@db7.json",
                                        "WEB-1.json",
                                        "web-1@n1",
                                        "a@b.json",
                                        "a%40b@n1",
                                        "web@2@a%2Fb@c.json",
                                        "web-1@n%31.json",
                                        "a/b.json",
                                        "json",
                                        "",
                                        "web-1@n1@.json"};
    json_t *health = answer_of("service-web");

    (void)state;
    for (size_t i = 0; i < COUNT(files); i++)
        if (find_instance(health, files[i], LOCAL))
            fail_msg("'%s' is found", files[i]);
    assert_null(find_instance(health, "web-1.json", NULL));
    assert_non_null(find_instance(health, "web-1.json", "db07"));
    json_decref(health);
}

static void test_checks_by_state(void **state)
{
    json_t *checks = answer_of("checks");

    (void)state;
    assert_non_null(view_find_check(checks, "any", "x/y", "n1"));
    assert_non_null(view_find_check(checks, "passing", "x/y", "n1"));
    assert_null(view_find_check(checks, "critical", "x/y", "n1"));
    assert_null(view_find_check(checks, "any", "x/y", "db07"));
    assert_null(view_find_check(checks, "passing", "disk", "db07"));
    json_decref(checks);
}

static void test_long_names(void **state)
{
    char id[NAME_SIZE], name[NAME_SIZE] = "untouched";

    (void)state;
    memset(id, 'x', sizeof(id));
    id[251] = '\0';
    assert_int_equal(view_json_name(id, name), -ENAMETOOLONG);
    assert_int_equal(view_owned_name(id, "n1", "n1", NULL, name), -ENAMETOOLONG);
    id[250] = '\0';
    assert_int_equal(view_owned_name(id, "db07", "n1", NULL, name), -ENAMETOOLONG);
    assert_int_equal(view_owned_name("", "n1", "n1", NULL, name), -EINVAL);
    assert_string_equal(name, "untouched");
    assert_int_equal(view_owned_name(id, "n1", "n1", NULL, name), 0);
    assert_int_equal(strlen(name), 255);
    id[246] = '\0';
    assert_int_equal(view_owned_name(id, "db7", "n1", NULL, name), 0);
    assert_int_equal(strlen(name), 255);
}

/* ---- details ----------------------------------------------------------------------------------------------------- */

static void test_addresses(void **state)
{
    static const struct {
        const char *host;
        int port;
        const char *expected;
    } cases[] = {
        {"10.0.0.7", 8080, "10.0.0.7:8080"},       {"10.0.0.7", 0, "10.0.0.7"},
        {"2001:db8::1", 80, "[2001:db8::1]:80"},   {"2001:db8::1", 0, "2001:db8::1"},
        {"[2001:db8::1]", 80, "[2001:db8::1]:80"}, {"db.internal", 5432, "db.internal:5432"},
    };
    char *text;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(view_address(cases[i].host, cases[i].port, &text), 0);
        assert_string_equal(text, cases[i].expected);
        free(text);
    }
}

static void test_documents(void **state)
{
    /* Numbers, escapes and empty collections; Consul's order of the members. */
    static const char *const cases[][2] = {
        {"[]", "[]\n"},
        {"{}", "{}\n"},
        {"{\"b\":[],\"a\":{}}", "{\n  \"b\": [],\n  \"a\": {}\n}\n"},
        {"[0.1,1.0,1e-05,-0.30000000000000004,123456789012345678,1e300]",
         "[\n  0.1,\n  1.0,\n  1e-05,\n  -0.30000000000000004,\n  123456789012345678,\n  1e+300\n]\n"},
        {"[true,false,null]", "[\n  true,\n  false,\n  null\n]\n"},
        {"[\"\\u003c\\n\\\"/\\u00fc\"]", "[\n  \"<\\n\\\"/\xc3\xbc\"\n]\n"},
        {"[[{\"a\":[1]}]]", "[\n  [\n    {\n      \"a\": [\n        1\n      ]\n    }\n  ]\n]\n"},
    };
    size_t len;
    char *data;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *json = json_loads(cases[i][0], JSON_DECODE_ANY, NULL);

        assert_int_equal(view_document(json, &data, &len), 0);
        assert_string_equal(data, cases[i][1]);
        assert_int_equal(len, strlen(data));
        free(data);
        json_decref(json);
    }
}

/* What is not what the endpoint is documented to give is an error, never an empty answer, and never a crash. */
static void test_malformed(void **state)
{
    static const char *const answers[] = {"null", "{}", "7", "\"text\"", "{\"Node\":[]}"};
    static const char *const entries[] = {
        "[null]",
        "[7]",
        "[[]]",
        "[{}]",
        "[{\"Node\":7,\"Service\":[],\"Checks\":{}}]",
        "[{\"Service\":{\"ID\":7,\"Tags\":[7,null],\"Port\":\"x\"},\"Checks\":[null,7,{\"Status\":7}]}]"};
    size_t len;
    char *data;

    (void)state;
    for (size_t i = 0; i < COUNT(answers); i++) {
        json_t *json = json_loads(answers[i], JSON_DECODE_ANY, NULL);
        struct candidates found;

        assert_int_equal(all(json, &data, &len), -EIO);
        assert_int_equal(view_tags(json, &data, &len), -EIO);
        assert_int_equal(view_checks_summary(json, &data, &len), -EIO);
        assert_int_equal(view_lines(json, &data, &len), -EIO);
        assert_int_equal(candidates_of(json, LOCAL, &found), -EIO);
        assert_null(view_find_instance(json, "a", "b"));
        json_decref(json);
    }
    for (size_t i = 0; i < COUNT(entries); i++) {
        json_t *json = json_loads(entries[i], 0, NULL);
        struct candidates found;

        assert_int_equal(all(json, &data, &len), 0);
        free(data);
        assert_int_equal(view_tags(json, &data, &len), 0);
        free(data);
        assert_int_equal(view_checks_summary(json, &data, &len), 0);
        free(data);
        assert_int_equal(candidates_of(json, LOCAL, &found), 0);
        candidates_clear(&found);
        json_decref(json);
    }
}

static void test_lines(void **state)
{
    json_t *peers = json_pack("[s,s]", "10.0.0.1:8300", "10.0.0.2:8300"), *none = json_array();
    size_t len;
    char *data;

    (void)state;
    assert_int_equal(view_lines(peers, &data, &len), 0);
    assert_string_equal(data, "10.0.0.1:8300\n10.0.0.2:8300\n");
    free(data);
    assert_int_equal(view_lines(none, &data, &len), 0);
    assert_int_equal(len, 0);
    free(data);
    assert_int_equal(view_line("", &data, &len), 0);
    assert_int_equal(len, 0);
    free(data);
    json_decref(peers);
    json_decref(none);
}

static void test_live_agents(void **state)
{
    json_t *health = answer_of("service-web");

    (void)state;
    assert_true(view_has_live_agent(view_find_instance(health, "web-1", "n1")));
    assert_false(view_has_live_agent(view_find_instance(health, "web-1", "db07")));
    json_decref(health);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded),        cmocka_unit_test(test_listed_names_are_found),
        cmocka_unit_test(test_addresses),       cmocka_unit_test(test_other_names_are_not_found),
        cmocka_unit_test(test_checks_by_state), cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_documents),       cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_lines),           cmocka_unit_test(test_live_agents),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
