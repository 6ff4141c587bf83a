/* lib/health_url: targets out of check outputs, hostile ones included, and where a probe may go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "health_url.h"

static void test_targets(void **state)
{
    static const struct {
        const char *type, *output;
        enum consul_health_kind kind;
        const char *host;
        unsigned port;
        const char *url;
    } cases[] = {
        {"http", "HTTP GET http://10.0.0.7:8080/health: 200 OK Output: fine\n", CONSUL_HEALTH_HTTP, "10.0.0.7", 8080,
         "http://10.0.0.7:8080/health"},
        {"http", "HTTP GET http://web.example/: 200 OK Output: ", CONSUL_HEALTH_HTTP, "web.example", 80,
         "http://web.example/"},
        {"http", "HTTP GET https://web.example: 200 OK Output: ", CONSUL_HEALTH_HTTP, "web.example", 443,
         "https://web.example"},
        {"http", "HTTP HEAD http://h:1/a?b=c:d&e=%20: 204 No Content Output: ", CONSUL_HEALTH_HTTP, "h", 1,
         "http://h:1/a?b=c:d&e=%20"},
        {"http", "HTTP GET http://h?q=/a@b: 200 OK Output: ", CONSUL_HEALTH_HTTP, "h", 80, "http://h?q=/a@b"},
        {"http", "HTTP GET http://[2001:db8::7]:8080/h: 200 OK Output: ", CONSUL_HEALTH_HTTP, "2001:db8::7", 8080,
         "http://[2001:db8::7]:8080/h"},
        {"http", "HTTP GET http://[::1]: 200 OK Output: ", CONSUL_HEALTH_HTTP, "::1", 80, "http://[::1]"},
        {"http", "HTTP GET HTTP://H/: 200 OK Output: ", CONSUL_HEALTH_HTTP, "H", 80, "HTTP://H/"},
        {"http", "HTTP POST http://h/: 429 Too Many Requests Output: ", CONSUL_HEALTH_HTTP, "h", 80, "http://h/"},
        /* The body is the service's: it may say anything, and nothing in it counts. */
        {"http", "HTTP GET http://h/: 200 OK Output: HTTP GET http://evil/: 200 OK Output: ", CONSUL_HEALTH_HTTP, "h",
         80, "http://h/"},
        {"", "HTTP GET http://h/: 200 OK Output: ", CONSUL_HEALTH_HTTP, "h", 80, "http://h/"},
        {NULL, "HTTP GET http://h/: 200 OK Output: ", CONSUL_HEALTH_HTTP, "h", 80, "http://h/"},
        {"http", "HTTP ABCDEFGHIJKLMNOZ http://azAZ09-._:9/: 599 x", CONSUL_HEALTH_HTTP, "azAZ09-._", 9,
         "http://azAZ09-._:9/"},
        {"http", "HTTP GET https://h: 200 ", CONSUL_HEALTH_HTTP, "h", 443, "https://h"},
        {"http", "HTTP GET http://h: 200 ", CONSUL_HEALTH_HTTP, "h", 80, "http://h"},
        {"tcp", "TCP connect 10.0.0.7:5432: Success", CONSUL_HEALTH_TCP, "10.0.0.7", 5432, ""},
        {"tcp", "TCP connect db_1.example:65535: Success", CONSUL_HEALTH_TCP, "db_1.example", 65535, ""},
        {"tcp", "TCP connect [2001:db8::7]:5432: Success", CONSUL_HEALTH_TCP, "2001:db8::7", 5432, ""},
        {"tcp", "TCP+TLS connect h:443: Success", CONSUL_HEALTH_TCP, "h", 443, ""},
        {"", "TCP connect h:1: Success", CONSUL_HEALTH_TCP, "h", 1, ""},
        {"grpc", "gRPC check 10.0.0.7:9090: success", CONSUL_HEALTH_GRPC, "10.0.0.7", 9090, ""},
        {"grpc", "gRPC check [::1]:9090/pkg.Service/x: success", CONSUL_HEALTH_GRPC, "::1", 9090, ""},
        {NULL, "gRPC check h:9090/s: success", CONSUL_HEALTH_GRPC, "h", 9090, ""},
    };

    char *text;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct consul_health_target target;

        memset(&target, 0x5a, sizeof(target));
        if (consul_health_target_parse(cases[i].type, cases[i].output, &target) != 0)
            fail_msg("'%s' was not understood", cases[i].output);
        assert_int_equal(target.kind, cases[i].kind);
        assert_string_equal(target.host, cases[i].host);
        assert_int_equal(target.port, cases[i].port);
        assert_string_equal(target.url, cases[i].url);

        /* The public form of it, which may be probed as it stands when it leads to the instance. */
        assert_int_equal(consul_health_target(cases[i].type, cases[i].output, &text), cases[i].kind);
        if (cases[i].url[0])
            assert_string_equal(text, cases[i].url);
        assert_true(consul_probe_url_allowed(text, (const char *const[]){cases[i].host}, 1, true));
        assert_false(consul_probe_url_allowed(text, (const char *const[]){"10.9.9.9"}, 1, false));
        free(text);
    }
    assert_int_equal(consul_health_target("tcp", "TCP connect [2001:db8::7]:54: Success", &text), CONSUL_HEALTH_TCP);
    assert_string_equal(text, "[2001:db8::7]:54");
    free(text);
    assert_int_equal(consul_health_target("grpc", "gRPC check h:90/s: success", &text), CONSUL_HEALTH_GRPC);
    assert_string_equal(text, "h:90");
    free(text);
}

static void no_target(const char *type, const char *output)
{
    struct consul_health_target target, before;
    char *text = NULL;

    memset(&target, 0x5a, sizeof(target));
    before = target;
    assert_int_equal(consul_health_target(type, output, &text), CONSUL_HEALTH_NONE);
    assert_null(text);
    if (consul_health_target_parse(type, output, &target) != -ENOENT)
        fail_msg("type '%s', '%s' gave %s %u '%s'", type ? type : "NULL", output, target.host, target.port, target.url);
    assert_memory_equal(&target, &before, sizeof(target));
}

static void test_type_must_go_with_text(void **state)
{
    static const char *const types[] = {"ttl", "script", "docker", "alias", "udp", "h2ping", "os_service", "HTTP", "x"};
    static const char *const outputs[] = {"HTTP GET http://h/: 200 OK Output: ", "TCP connect h:1: Success",
                                          "gRPC check h:1: success"};
    static const char *const own[] = {"http", "tcp", "grpc"};

    (void)state;
    for (size_t j = 0; j < 3; j++) {
        for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
            no_target(types[i], outputs[j]);
        for (size_t i = 0; i < 3; i++)
            if (i != j)
                no_target(own[i], outputs[j]);
    }
}

static void test_no_target(void **state)
{
    static const char *const outputs[] = {
        "",
        "fine",
        "HTTP",
        "HTTP ",
        "HTTP GET",
        "HTTP GET ",
        "HTTP GET :",
        "HTTP GET : 200 OK Output: ",
        "HTTP GET http://h/",
        "HTTP GET http://h/:",
        "HTTP GET http://h/: ",
        "HTTP GET http://h/: 2",
        "HTTP GET http://h/: 20",
        "HTTP GET http://h/: 200",
        "HTTP GET http://h/: OK 200 ",
        "HTTP GET http://h/: x00 OK",
        "HTTP GET http://h/: 2x0 OK",
        "HTTP GET http://h/: 20x OK",
        "HTTP GET http://h/: 2000 OK",
        "HTTP GET http://h/ 200 OK Output: ",
        "HTTP GET xttp://h/: 200 OK Output: ",
        "HTTP GET \thttp://h/: 200 OK Output: ",
        "HTTP GET \x01http://h/: 200 OK Output: ",
        "HTTP GET https://: 200 OK Output: ",
        "HTTP GET http://h:000080/: 200 OK Output: ",
        "HTTP GET http://h/ : 200 OK Output: ",
        "HTTP get http://h/: 200 OK Output: ",
        "HTTP  http://h/: 200 OK Output: ",
        "HTTP ABCDEFGHIJKLMNOPQ http://h/: 200 OK Output: ",
        " HTTP GET http://h/: 200 OK Output: ",
        "http GET http://h/: 200 OK Output: ",
        "Get \"http://h/\": dial tcp 10.0.0.7:80: connect: connection refused",
        "HTTP GET ftp://h/: 200 OK Output: ",
        "HTTP GET file:///etc/passwd: 200 OK Output: ",
        "HTTP GET gopher://h/: 200 OK Output: ",
        "HTTP GET //h/: 200 OK Output: ",
        "HTTP GET h:8080/health: 200 OK Output: ",
        "HTTP GET http:: 200 OK Output: ",
        "HTTP GET http://: 200 OK Output: ",
        "HTTP GET http:///health: 200 OK Output: ",
        "HTTP GET http://?q: 200 OK Output: ",
        "HTTP GET http://user@h/: 200 OK Output: ",
        "HTTP GET http://user:pass@h/: 200 OK Output: ",
        "HTTP GET http://good@evil/: 200 OK Output: ",
        "HTTP GET http://evil\\@good/: 200 OK Output: ",
        "HTTP GET http://h#@good/: 200 OK Output: ",
        "HTTP GET http://h/#f: 200 OK Output: ",
        "HTTP GET http://h\t/: 200 OK Output: ",
        "HTTP GET http://h/\r\nX:y: 200 OK Output: ",
        "HTTP GET http://h/\x7f: 200 OK Output: ",
        "HTTP GET http://h\xc3\xb6st/: 200 OK Output: ",
        "HTTP GET http://h/\xff: 200 OK Output: ",
        "HTTP GET http://h/<x>: 200 OK Output: ",
        "HTTP GET http://h/\"x: 200 OK Output: ",
        "HTTP GET http://h%41/: 200 OK Output: ",
        "HTTP GET http://h,g/: 200 OK Output: ",
        "HTTP GET http://h:/: 200 OK Output: ",
        "HTTP GET http://h:0/: 200 OK Output: ",
        "HTTP GET http://h:65536/: 200 OK Output: ",
        "HTTP GET http://h:4294967376/: 200 OK Output: ",
        "HTTP GET http://h:80x/: 200 OK Output: ",
        "HTTP GET http://h:-1/: 200 OK Output: ",
        "HTTP GET http://h:1:2/: 200 OK Output: ",
        "HTTP GET http://[::1/: 200 OK Output: ",
        "HTTP GET http://[]/: 200 OK Output: ",
        "HTTP GET http://[h]/: 200 OK Output: ",
        "HTTP GET http://[10.0.0.7]/: 200 OK Output: ",
        "HTTP GET http://[fe80::1%25eth0]/: 200 OK Output: ",
        "HTTP GET http://[::1]x/: 200 OK Output: ",
        "HTTP GET http://::1/: 200 OK Output: ",
        "TCP connect",
        "TCP connect ",
        "TCP connect : Success",
        "TCP connect h: Success",
        "TCP connect h:1: success",
        "TCP connect h:1: Success ",
        "TCP connect h:1: Success\nmore",
        "TCP connect h:1",
        "TCP connect h:1:",
        "TCP connect h:0: Success",
        "TCP connect :1: Success",
        "TCP connect h:1/x: Success",
        "TCP connect user@h:1: Success",
        "TCP connect h h:1: Success",
        "TCP connect 2001:db8::7:1: Success",
        "UDP connect h:1: Success",
        "gRPC check h:1: Success",
        "gRPC check h: success",
        "gRPC check h/s: success",
        "gRPC check /s: success",
        "gRPC check h:1/a b: success",
        "TTL expired",
    };

    (void)state;
    no_target("http", NULL);
    no_target(NULL, NULL);
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
        no_target(NULL, outputs[i]);
        no_target("http", outputs[i]);
        no_target("tcp", outputs[i]);
        no_target("grpc", outputs[i]);
    }
}

static void test_lengths(void **state)
{
    char url[CONSUL_HEALTH_URL_MAX + 2], output[CONSUL_HEALTH_URL_MAX + 64];
    struct consul_health_target target;

    (void)state;
    memset(url, 'x', sizeof(url));
    memcpy(url, "http://h/", 9);
    url[CONSUL_HEALTH_URL_MAX] = '\0';
    assert_int_equal(consul_health_url_parse(url, &target), 0);
    assert_string_equal(target.url, url);
    snprintf(output, sizeof(output), "HTTP GET %s: 200 OK Output: ", url);
    assert_int_equal(consul_health_target_parse("http", output, &target), 0);
    assert_string_equal(target.url, url);

    url[CONSUL_HEALTH_URL_MAX] = 'x';
    url[CONSUL_HEALTH_URL_MAX + 1] = '\0';
    assert_int_equal(consul_health_url_parse(url, &target), -EINVAL);
    snprintf(output, sizeof(output), "HTTP GET %s: 200 OK Output: ", url);
    no_target("http", output);

    memset(url, 'h', 254);
    url[253] = '\0';
    snprintf(output, sizeof(output), "TCP connect %s:1: Success", url);
    assert_int_equal(consul_health_target_parse("tcp", output, &target), 0);
    assert_string_equal(target.host, url);
    url[253] = 'h';
    url[254] = '\0';
    snprintf(output, sizeof(output), "TCP connect %s:1: Success", url);
    no_target("tcp", output);
    snprintf(output, sizeof(output), "TCP connect [%s]:1: Success", url);
    no_target("tcp", output);
}

/* A prefix of a good output is never read past its end (ASan watches), and is never a target unless it is complete. */
static void test_truncated(void **state)
{
    static const char *const outputs[] = {
        "HTTP GET https://[2001:db8::7]:8080/h?x: 200 OK Output: ", "TCP connect [2001:db8::7]:8080: Success",
        "gRPC check [2001:db8::7]:8080/s: success"};

    (void)state;
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++)
        for (size_t len = 0; len < strlen(outputs[i]); len++) {
            char *prefix = strndup(outputs[i], len);
            struct consul_health_target target;
            int r = consul_health_target_parse("", prefix, &target);

            assert_int_equal(r, strstr(prefix, ": 200 ") ? 0 : -ENOENT);
            free(prefix);
        }
}

#define NODE "10.0.0.7"

static void test_allowed(void **state)
{
    static const struct {
        const char *host;
        bool local, allowed;
        const char *addresses[4]; /* the node's first */
    } cases[] = {
        {"10.0.0.7", false, true, {NODE}},
        {"10.0.0.8", false, false, {NODE}},
        {"10.0.0.8", false, true, {NODE, "10.0.0.8"}},
        {"10.0.0.9", false, true, {NODE, "", NULL, "10.0.0.9"}},
        {"10.0.0.8", true, false, {NODE}}, /* being local opens loopback, nothing else */
        {"Web.Example", false, true, {NODE, "web.example"}},
        {"web.example", false, false, {NODE, "example"}},
        {"web.example", false, false, {NODE, "web.example.com"}},
        {"", false, false, {NODE, ""}},
        {"10.0.0.7", false, false, {NULL}},
        /* Addresses are compared by value, not by spelling. */
        {"2001:DB8:0::7", false, true, {"2001:db8::7"}},
        {"::ffff:10.0.0.7", false, true, {NODE}},
        {"::ffff:10.0.0.8", false, false, {NODE}},
        {"10.0.0.7.", false, false, {NODE}},
        /* Loopback is the prober's own host. */
        {"127.0.0.1", false, false, {NODE}},
        {"127.0.0.1", false, false, {NODE, "127.0.0.1"}},
        {"127.0.0.1", false, true, {"127.0.0.1"}},
        {"127.0.0.1", false, true, {"127.0.0.1", "10.0.0.7"}},
        {"127.0.0.1", false, true, {"::1"}},
        {"127.0.0.1", false, true, {"localhost"}},
        {"127.0.0.1", true, true, {NODE}},
        {"127.255.0.3", false, false, {NODE, "127.255.0.3"}},
        {"127.255.0.3", true, true, {NODE}},
        {"::1", false, false, {NODE, "::1"}},
        {"::1", true, true, {NODE}},
        {"::ffff:127.0.0.1", false, false, {NODE, "::ffff:127.0.0.1"}},
        {"::ffff:127.0.0.1", true, true, {NODE}},
        {"localhost", false, false, {NODE, "localhost"}},
        {"LocalHost", true, true, {NODE}},
        {"localhost.", false, false, {NODE, "localhost."}},
        {"foo.localhost", false, false, {NODE, "foo.localhost"}},
        {"f.LOCALHOST.", false, false, {NODE, "f.LOCALHOST."}},
        {"flocalhost", false, true, {NODE, "flocalhost"}},
        {"localhost6", false, false, {NODE, "localhost6"}},
        {"ip6-localhost", false, false, {NODE, "ip6-localhost"}},
        {"localhost.localdomain", false, false, {NODE, "localhost.localdomain"}},
        {"notlocalhost", false, true, {NODE, "notlocalhost"}},
        {"localhost.example", false, true, {NODE, "localhost.example"}},
        {"0.0.0.0", false, false, {NODE, "0.0.0.0"}},
        {"0.0.0.0", true, true, {NODE}},
        {"::", false, false, {NODE, "::"}},
        {"127.0.0.1", false, false, {"", "127.0.0.1"}},
        {"127.0.0.1", false, false, {NULL, "127.0.0.1"}},
        /* Spellings that only resolvers read as addresses are never what the catalog has honestly. */
        {"127.1", false, false, {NODE, "127.1"}},
        {"127.1", true, false, {"127.0.0.1", "127.1"}},
        {"2130706433", false, false, {NODE, "2130706433"}},
        {"0x7f.0.0.1", false, false, {NODE, "0x7f.0.0.1"}},
        {"0177.0.0.1", false, false, {NODE, "0177.0.0.1"}},
        {"10.7", false, false, {NODE, "10.7"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char url[128];

        if (consul_probe_host_allowed(cases[i].host, cases[i].addresses, 4, cases[i].local) != cases[i].allowed)
            fail_msg("case %zu: %s", i, cases[i].host);
        snprintf(url, sizeof(url), strchr(cases[i].host, ':') ? "https://[%s]:1/x" : "http://%s/", cases[i].host);
        if (consul_probe_url_allowed(url, cases[i].addresses, 4, cases[i].local) != cases[i].allowed)
            fail_msg("case %zu: %s", i, url);
    }
    assert_false(consul_probe_host_allowed("127.0.0.1", NULL, 0, false));
    assert_true(consul_probe_host_allowed("127.0.0.1", (const char *const[]){"127.0.0.2"}, 1, false));
    assert_false(consul_probe_host_allowed("", (const char *const[]){""}, 1, true));
    assert_true(consul_probe_is_own_host("0.1.2.3"));
    assert_true(consul_probe_is_own_host("127.1.2.3"));
    assert_false(consul_probe_is_own_host("128.0.0.1"));
    assert_false(consul_probe_is_own_host("1.127.0.0"));
    assert_false(consul_probe_is_own_host("::2"));
    assert_false(consul_probe_is_own_host(""));
    assert_false(consul_probe_host_allowed("10.0.0.7", NULL, 0, true));
    assert_true(consul_probe_host_allowed("127.0.0.1", NULL, 0, true));
}

static void test_bad_urls_are_not_allowed(void **state)
{
    static const char *const urls[] = {
        "",
        "10.0.0.7",
        "ftp://10.0.0.7/",
        "http://",
        "http://[",
        "http://evil@10.0.0.7/",
        "http://10.0.0.7@evil/",
        "http://10.0.0.7\\@evil/",
        "http://10.0.0.7#@evil/",
        "http://10.0.0.7:1\r\n/",
        " http://10.0.0.7/",
        "http://10.0.0.7 /",
        "http:///10.0.0.7/",
        "10.0.0.7:0",
        "10.0.0.7:8080/x",
        "evil@10.0.0.7:8080",
        "10.0.0.7:8080 ",
        "[10.0.0.7]:8080",
    };
    static const char *const addresses[] = {NODE};

    (void)state;
    assert_true(consul_probe_url_allowed("http://10.0.0.7/", addresses, 1, false));
    assert_true(consul_probe_url_allowed("10.0.0.7:8080", addresses, 1, false));
    assert_false(consul_probe_url_allowed("10.0.0.8:8080", addresses, 1, false));
    assert_false(consul_probe_url_allowed("127.0.0.1:8080", addresses, 1, false));
    assert_true(consul_probe_url_allowed("127.0.0.1:8080", addresses, 1, true));
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++)
        if (consul_probe_url_allowed(urls[i], addresses, 1, true))
            fail_msg("'%s' was allowed", urls[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_type_must_go_with_text),
        cmocka_unit_test(test_no_target),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_allowed),
        cmocka_unit_test(test_bad_urls_are_not_allowed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
