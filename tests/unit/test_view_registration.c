/* What the agent is given for what users write, and what is refused here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "view.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static json_t *parse(const char *text)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

    if (!json)
        fail_msg("not JSON: %s", text);
    return json;
}

/* The instance that is registered now, as the catalog shows it. */
static const char current_text[] =
    "{\"Node\":{\"Node\":\"n1\"},\"Service\":{\"ID\":\"web-1\",\"Service\":\"web\",\"Tags\":[\"v1\"],"
    "\"Address\":\"10.0.0.1\",\"TaggedAddresses\":{\"lan_ipv4\":{\"Address\":\"10.0.0.1\",\"Port\":80},"
    "\"wan\":{\"Address\":\"192.0.2.1\",\"Port\":8080}},\"Meta\":null,\"Port\":80,"
    "\"Weights\":{\"Passing\":1,\"Warning\":1},\"EnableTagOverride\":false,"
    "\"Proxy\":{\"MeshGateway\":{},\"Expose\":{}},\"Connect\":{},\"CreateIndex\":7,\"ModifyIndex\":8},"
    "\"Checks\":[{\"Node\":\"n1\",\"CheckID\":\"serfHealth\",\"Status\":\"passing\",\"ServiceID\":\"\"},"
    "{\"Node\":\"n1\",\"CheckID\":\"service:web-1\",\"Status\":\"passing\",\"ServiceID\":\"web-1\"}]}";

static const struct {
    const char *written, *id, *expected;
    bool has_checks;
} accepted[] = {
    {"{}", "web-1", "{\"Name\":\"web\",\"ID\":\"web-1\"}", false},
    {"{}", NULL, "{\"Name\":\"web\",\"ID\":\"web\"}", false},
    {"{\"id\":\"web-7\"}", NULL, "{\"Name\":\"web\",\"ID\":\"web-7\"}", false},
    {"{\"Port\":80}", "web-1", "{\"Port\":80,\"Name\":\"web\",\"ID\":\"web-1\"}", false},
    {"{\"name\":\"web\",\"Id\":\"web-1\",\"port\":80}", "web-1", "{\"port\":80,\"Name\":\"web\",\"ID\":\"web-1\"}",
     false},
    {"{\"NAME\":\"\",\"ID\":null}", "web-1", "{\"Name\":\"web\",\"ID\":\"web-1\"}", false},
    {"{\"Name\":\"web\",\"name\":\"web\"}", "web-1", "{\"Name\":\"web\",\"ID\":\"web-1\"}", false},
    {"{\"Bogus\":1}", "web-1", "{\"Bogus\":1,\"Name\":\"web\",\"ID\":\"web-1\"}", false},
    /* The article's. */
    {"{\"id\":\"web-1\",\"name\":\"web\",\"port\":8000,\"checks\":[{\"http\":\"http://a/\",\"interval\":\"5s\"}]}",
     NULL,
     "{\"port\":8000,\"checks\":[{\"http\":\"http://a/\",\"interval\":\"5s\"}],\"Name\":\"web\",\"ID\":\"web-1\"}",
     true},
    {"{\"Check\":{\"TTL\":\"5s\"}}", "web-1", "{\"Check\":{\"TTL\":\"5s\"},\"Name\":\"web\",\"ID\":\"web-1\"}", true},
    {"{\"Checks\":[]}", "web-1", "{\"Checks\":[],\"Name\":\"web\",\"ID\":\"web-1\"}", true},
    /* What /v1/agent/service/X shows. */
    {"{\"ID\":\"web-1\",\"Service\":\"web\",\"Port\":80,\"ContentHash\":\"c1\",\"Datacenter\":\"dc1\"}", "web-1",
     "{\"Port\":80,\"Name\":\"web\",\"ID\":\"web-1\"}", false},
    /* What a configuration file has. */
    {"{\"service\":{\"name\":\"web\",\"port\":80,\"checks\":[{\"ttl\":\"5s\"}]}}", "web-1",
     "{\"port\":80,\"checks\":[{\"ttl\":\"5s\"}],\"Name\":\"web\",\"ID\":\"web-1\"}", true},
    /* What the file shows. */
    {current_text, "web-1",
     "{\"Tags\":[\"v1\"],\"Address\":\"10.0.0.1\",\"TaggedAddresses\":{\"wan\":{\"Address\":\"192.0.2.1\","
     "\"Port\":8080}},\"Meta\":null,\"Port\":80,\"Weights\":{\"Passing\":1,\"Warning\":1},"
     "\"EnableTagOverride\":false,\"Name\":\"web\",\"ID\":\"web-1\"}",
     false},
    {"{\"Service\":{\"Port\":81,\"Connect\":{\"Native\":true},\"Proxy\":{\"Mode\":\"\",\"Expose\":{\"Checks\":true}}},"
     "\"Checks\":[{\"Node\":\"n1\",\"CheckID\":\"c\"},{\"ttl\":\"5s\"}]}",
     "web-1",
     "{\"Port\":81,\"Connect\":{\"Native\":true},\"Proxy\":{\"Mode\":\"\",\"Expose\":{\"Checks\":true}},"
     "\"Checks\":[{\"ttl\":\"5s\"}],\"Name\":\"web\",\"ID\":\"web-1\"}",
     true},
};

static void test_accepted(void **state)
{
    json_t *current = parse(current_text);

    (void)state;
    for (size_t i = 0; i < COUNT(accepted); i++) {
        json_t *written = parse(accepted[i].written), *before = json_deep_copy(written);
        struct registration registration;
        char *why = NULL, *text;

        if (view_registration(written, "web", accepted[i].id, current, &registration, &why) != 0)
            fail_msg("%s: %s", accepted[i].written, why);
        text = json_dumps(registration.document, JSON_COMPACT);
        assert_string_equal(text, accepted[i].expected);
        assert_string_equal(registration.id, json_string_value(json_object_get(registration.document, "ID")));
        assert_int_equal(registration.has_checks, accepted[i].has_checks);
        assert_true(json_equal(written, before));
        free(text);
        registration_clear(&registration);
        json_decref(before);
        json_decref(written);
    }
    json_decref(current);
}

static void test_refused(void **state)
{
    static const struct {
        const char *written, *id, *why;
    } cases[] = {
        {"[]", "web-1", "not a JSON object"},
        {"7", "web-1", "not a JSON object"},
        {"{\"name\":\"other\"}", "web-1", "\"name\" says \"other\", the path says \"web\""},
        {"{\"Service\":\"other\"}", "web-1", "\"Service\" says \"other\", the path says \"web\""},
        {"{\"Name\":\"other\",\"name\":\"web\"}", "web-1", "\"Name\" says \"other\", the path says \"web\""},
        {"{\"name\":\"web\",\"Name\":\"other\"}", "web-1", "\"Name\" says \"other\", the path says \"web\""},
        {"{\"Name\":\"Web\"}", "web-1", "\"Name\" says \"Web\", the path says \"web\""},
        {"{\"Name\":7}", "web-1", "\"Name\" is not a string"},
        {"{\"id\":\"web-2\"}", "web-1", "\"id\" says \"web-2\", the path says \"web-1\""},
        {"{\"ID\":\"a\",\"id\":\"b\"}", NULL, "\"id\" says \"b\", another spelling of it \"a\""},
        {"{\"Service\":{\"ID\":\"web-2\"}}", "web-1", "\"ID\" says \"web-2\", the path says \"web-1\""},
        {"{\"Service\":{},\"Bogus\":1}", "web-1", "unknown field \"Bogus\" beside \"Service\""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *written = parse(cases[i].written);
        struct registration registration;
        char *why = NULL;

        assert_int_equal(view_registration(written, "web", cases[i].id, NULL, &registration, &why), -EINVAL);
        assert_string_equal(why, cases[i].why);
        free(why);
        json_decref(written);
    }
}

/* Compares what a function made of a document, and frees it. */
static void assert_made(const char *written, int r, json_t *made, char *why, const char *expected)
{
    char *text = r == 0 ? json_dumps(made, JSON_COMPACT) : NULL;
    const char *got = r == 0 ? text : why;

    if (!got || strcmp(got, expected) != 0)
        fail_msg("%s: %s", written, got ? got : "no reason");
    free(text);
    free(why);
    if (r == 0)
        json_decref(made);
}

/* `expected` is the document or why it is refused. */
static void test_catalog_service(void **state)
{
    static const struct {
        const char *written, *service, *expected;
    } cases[] = {
        {"{}", "web", "{\"ID\":\"web-1\",\"Service\":\"web\"}"},
        {"{}", NULL, "{\"ID\":\"web-1\",\"Service\":\"web-1\"}"},
        {"{\"name\":\"db\",\"id\":\"web-1\"}", NULL, "{\"ID\":\"web-1\",\"Service\":\"db\"}"},
        {"{\"Service\":\"db\",\"Port\":1}", "web", "\"Service\" says \"db\", the path says \"web\""},
        {current_text, "web",
         "{\"Tags\":[\"v1\"],\"Address\":\"10.0.0.1\",\"TaggedAddresses\":{\"lan_ipv4\":{\"Address\":\"10.0.0.1\","
         "\"Port\":80},\"wan\":{\"Address\":\"192.0.2.1\",\"Port\":8080}},\"Meta\":null,\"Port\":80,"
         "\"Weights\":{\"Passing\":1,\"Warning\":1},\"EnableTagOverride\":false,\"ID\":\"web-1\",\"Service\":\"web\"}"},
        {"[]", "web", "not a JSON object"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *written = parse(cases[i].written), *made = NULL;
        char *why = NULL;
        int r = view_catalog_service(written, cases[i].service, "web-1", &made, &why);

        assert_made(cases[i].written, r, made, why, cases[i].expected);
        json_decref(written);
    }
}

static const char shown_check[] =
    "{\"Node\":\"n1\",\"CheckID\":\"disk\",\"Name\":\"Disk\",\"Status\":\"passing\",\"Output\":\"full\",\"ServiceID\":"
    "\"\","
    "\"ServiceName\":\"\",\"ServiceTags\":[],\"Type\":\"ttl\",\"Definition\":{},\"TTL\":\"1h\",\"CreateIndex\":1}";

static void test_check_registration(void **state)
{
    static const struct {
        const char *written, *node, *expected;
    } cases[] = {
        {"{\"TTL\":\"1h\"}", NULL, "{\"TTL\":\"1h\",\"ID\":\"disk\",\"Name\":\"disk\"}"},
        {"{\"checkid\":\"disk\",\"name\":\"D\"}", NULL, "{\"name\":\"D\",\"ID\":\"disk\"}"},
        {"{\"Status\":\"passing\"}", "db07",
         "{\"Status\":\"passing\",\"CheckID\":\"disk\",\"Node\":\"db07\",\"Name\":\"disk\"}"},
        {"{\"Output\":\"not shown\"}", NULL, "{\"Output\":\"not shown\",\"ID\":\"disk\",\"Name\":\"disk\"}"},
        {shown_check, NULL,
         "{\"Name\":\"Disk\",\"Status\":\"passing\",\"ServiceID\":\"\",\"TTL\":\"1h\",\"ID\":\"disk\"}"},
        {shown_check, "db07", "\"Node\" says \"n1\", the path says \"db07\""},
        {"{\"ID\":\"x\"}", NULL, "\"ID\" says \"x\", the path says \"disk\""},
        {"[]", NULL, "not a JSON object"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *written = parse(cases[i].written), *made = NULL;
        char *why = NULL;
        int r = view_check_registration(written, "disk", cases[i].node, &made, &why);

        assert_made(cases[i].written, r, made, why, cases[i].expected);
        json_decref(written);
    }
}

static void test_node_registration(void **state)
{
    static const struct {
        const char *written, *datacenter, *expected;
    } cases[] = {
        {"{\"Address\":\"1\"}", NULL, "{\"Address\":\"1\",\"Node\":\"db07\"}"},
        {"{\"node\":\"db07\",\"datacenter\":\"dc1\"}", "dc1", "{\"Node\":\"db07\",\"Datacenter\":\"dc1\"}"},
        {"{\"Datacenter\":\"dc2\"}", NULL, "{\"Datacenter\":\"dc2\",\"Node\":\"db07\"}"},
        {"{\"Datacenter\":\"dc2\"}", "dc1", "\"Datacenter\" says \"dc2\", the path says \"dc1\""},
        {"{\"Node\":\"db08\"}", "dc1", "\"Node\" says \"db08\", the path says \"db07\""},
        {"{\"Node\":7}", "dc1", "\"Node\" is not a string"},
        {"{\"Node\":{\"ID\":\"\",\"Node\":\"db07\",\"Address\":\"1\",\"Datacenter\":\"dc1\",\"TaggedAddresses\":null,"
         "\"Meta\":{\"rack\":\"7\"},\"CreateIndex\":1,\"ModifyIndex\":2},\"Services\":{\"db\":{\"Port\":1}}}",
         "dc1", "{\"Address\":\"1\",\"NodeMeta\":{\"rack\":\"7\"},\"Node\":\"db07\",\"Datacenter\":\"dc1\"}"},
        {"{\"Node\":{},\"Services\":{\"db\":{\"Port\":2}}}", "dc1",
         "services are changed as nodes/NODE/services/ID.json"},
        {"{\"Node\":{},\"Services\":{}}", NULL, "{\"Node\":\"db07\"}"},
        {"{\"Node\":{},\"Check\":{}}", NULL, "unknown field \"Check\" beside \"Node\""},
        {"[]", "dc1", "not a JSON object"},
    };
    json_t *current = parse("{\"Node\":{},\"Services\":{\"db\":{\"Port\":1}}}");

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *written = parse(cases[i].written), *made = NULL;
        char *why = NULL;
        int r = view_node_registration(written, "db07", cases[i].datacenter, current, &made, &why);

        assert_made(cases[i].written, r, made, why, cases[i].expected);
        json_decref(written);
    }
    json_decref(current);
}

static void test_has_arrived(void **state)
{
    static const struct {
        const char *document;
        bool shown;
    } cases[] = {
        {"{\"Port\":80,\"Address\":\"10.0.0.1\",\"Tags\":[\"v1\"]}", true},
        {"{\"port\":80,\"address\":\"10.0.0.1\",\"tags\":[\"v1\"],\"meta\":{}}", true},
        {"{\"port\":80,\"address\":\"10.0.0.1\",\"tags\":[\"v1\"],\"check\":{\"ttl\":\"5s\"}}", true},
        {"{\"port\":80,\"address\":\"10.0.0.1\",\"tags\":[\"v1\"],\"checks\":[{},{}]}", false},
        {"{\"Port\":81,\"Address\":\"10.0.0.1\",\"Tags\":[\"v1\"]}", false},
        {"{\"Port\":80,\"Address\":\"10.0.0.1\"}", false},
        {"{\"Port\":80,\"Tags\":[\"v1\"]}", false},
        {"{\"Port\":80,\"Address\":\"10.0.0.1\",\"Tags\":[\"v1\",\"v2\"]}", false},
        {"{\"Port\":80,\"Address\":\"10.0.0.1\",\"Tags\":[\"v1\"],\"Meta\":{\"a\":\"b\"}}", false},
    };
    json_t *current = parse(current_text);

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *document = parse(cases[i].document);

        if (view_shows_registration(current, document) != cases[i].shown)
            fail_msg("%s", cases[i].document);
        json_decref(document);
    }
    json_decref(current);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),          cmocka_unit_test(test_refused),
        cmocka_unit_test(test_catalog_service),   cmocka_unit_test(test_check_registration),
        cmocka_unit_test(test_node_registration), cmocka_unit_test(test_has_arrived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
