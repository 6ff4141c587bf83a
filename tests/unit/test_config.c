/* lib/config: every row of "Environment, as the consul CLI has it" in CONSUL.md, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

/* The environment that fake_getenv shows: "NAME=value", ended by NULL. */
static const char *const *environment;

static char *fake_getenv(const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; environment[i]; i++)
        if (strncmp(environment[i], name, len) == 0 && environment[i][len] == '=')
            return (char *)(uintptr_t)(environment[i] + len + 1);
    return NULL;
}

#define ENV(...) ((const char *const[]){__VA_ARGS__, NULL})

static void init(struct consul_config *config, const char *const *env)
{
    char *error = NULL;

    environment = env;
    assert_int_equal(consul_config_init_from_env(config, fake_getenv, &error), 0);
    assert_null(error);
}

/* Fails with -EINVAL and a line that has expected in it and (if given) secret not; *config stays as it was. */
static void init_fails(const char *const *env, const char *expected, const char *secret)
{
    struct consul_config config, before;
    char *error = NULL;

    memset(&config, 0x5a, sizeof(config));
    before = config;
    environment = env;
    assert_int_equal(consul_config_init_from_env(&config, fake_getenv, &error), -EINVAL);
    assert_non_null(error);
    if (!strstr(error, expected))
        fail_msg("'%s' does not say '%s'", error, expected);
    assert_null(strchr(error, '\n'));
    if (secret)
        assert_null(strstr(error, secret));
    assert_memory_equal(&config, &before, sizeof(config));
    free(error);
}

static char *write_file(const char *data, size_t len)
{
    char path[] = "/tmp/test_config.XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
    return strdup(path);
}

static void test_defaults(void **state)
{
    struct consul_config config;
    char *url;

    (void)state;
    init(&config, ENV(NULL));
    assert_string_equal(config.scheme, "http");
    assert_string_equal(config.host_port, "127.0.0.1:8500");
    assert_null(config.unix_socket);
    assert_null(config.path_prefix);
    assert_null(config.token);
    assert_null(config.http_auth_user_pass);
    assert_true(config.tls_verify);
    assert_null(config.ca_file);
    assert_null(config.ca_path);
    assert_null(config.client_cert);
    assert_null(config.client_key);
    assert_null(config.tls_server_name);
    assert_null(config.namespace_);
    assert_null(config.partition);
    assert_null(config.datacenter);
    assert_int_equal(consul_config_base_url(&config, &url), 0);
    assert_string_equal(url, "http://127.0.0.1:8500");
    free(url);

    consul_config_clear(&config);
    assert_null(config.scheme);
    consul_config_clear(&config);
    consul_config_clear(NULL);
}

/* Set but empty is as good as not set, for every one of them. */
static void test_empty_variables(void **state)
{
    struct consul_config config;

    (void)state;
    init(&config,
         ENV("CONSUL_HTTP_ADDR=", "CONSUL_HTTP_TOKEN=", "CONSUL_HTTP_TOKEN_FILE=", "CONSUL_HTTP_AUTH=",
             "CONSUL_HTTP_SSL=", "CONSUL_HTTP_SSL_VERIFY=", "CONSUL_CACERT=", "CONSUL_CAPATH=", "CONSUL_CLIENT_CERT=",
             "CONSUL_CLIENT_KEY=", "CONSUL_TLS_SERVER_NAME=", "CONSUL_NAMESPACE=", "CONSUL_PARTITION="));
    assert_string_equal(config.scheme, "http");
    assert_string_equal(config.host_port, "127.0.0.1:8500");
    assert_true(config.tls_verify);
    assert_null(config.token);
    assert_null(config.http_auth_user_pass);
    assert_null(config.client_cert);
    assert_null(config.namespace_);
    assert_null(config.partition);
    consul_config_clear(&config);
}

static void test_strings(void **state)
{
    struct consul_config config;

    (void)state;
    init(&config, ENV("CONSUL_HTTP_TOKEN=b1gs33cr3t", "CONSUL_HTTP_AUTH=user:pa:ss", "CONSUL_CACERT=/ca.pem",
                      "CONSUL_CAPATH=/ca", "CONSUL_CLIENT_CERT=/c.pem", "CONSUL_CLIENT_KEY=/k.pem",
                      "CONSUL_TLS_SERVER_NAME=server.dc1.consul", "CONSUL_NAMESPACE=team", "CONSUL_PARTITION=part"));
    assert_string_equal(config.token, "b1gs33cr3t");
    assert_string_equal(config.http_auth_user_pass, "user:pa:ss");
    assert_string_equal(config.ca_file, "/ca.pem");
    assert_string_equal(config.ca_path, "/ca");
    assert_string_equal(config.client_cert, "/c.pem");
    assert_string_equal(config.client_key, "/k.pem");
    assert_string_equal(config.tls_server_name, "server.dc1.consul");
    assert_string_equal(config.namespace_, "team");
    assert_string_equal(config.partition, "part");
    consul_config_clear(&config);

    init(&config, ENV("CONSUL_HTTP_AUTH=user"));
    assert_string_equal(config.http_auth_user_pass, "user:");
    consul_config_clear(&config);
}

static void test_real_environment(void **state)
{
    struct consul_config config;
    char *error = NULL;

    (void)state;
    assert_int_equal(setenv("CONSUL_HTTP_ADDR", "from.the.environment:1234", 1), 0);
    assert_int_equal(unsetenv("CONSUL_HTTP_TOKEN_FILE"), 0);
    assert_int_equal(consul_config_init_from_env(&config, NULL, &error), 0);
    assert_string_equal(config.host_port, "from.the.environment:1234");
    consul_config_clear(&config);
}

static void test_booleans(void **state)
{
    static const struct {
        const char *text;
        int value; /* -1: does not parse */
    } cases[] = {
        {"1", 1},     {"t", 1},   {"T", 1},     {"true", 1},  {"TRUE", 1},  {"True", 1}, {"0", 0},
        {"f", 0},     {"F", 0},   {"false", 0}, {"FALSE", 0}, {"False", 0}, {"yes", -1}, {"no", -1},
        {"tRUE", -1}, {"on", -1}, {"2", -1},    {"01", -1},   {" 1", -1},   {"1 ", -1},  {"truex", -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char ssl[64], verify[64];
        struct consul_config config;

        snprintf(ssl, sizeof(ssl), "CONSUL_HTTP_SSL=%s", cases[i].text);
        snprintf(verify, sizeof(verify), "CONSUL_HTTP_SSL_VERIFY=%s", cases[i].text);
        if (cases[i].value < 0) {
            init_fails(ENV(ssl), "CONSUL_HTTP_SSL is", NULL);
            init_fails(ENV(verify), "CONSUL_HTTP_SSL_VERIFY is", NULL);
            continue;
        }
        init(&config, ENV(ssl, verify));
        assert_string_equal(config.scheme, cases[i].value ? "https" : "http");
        assert_int_equal(config.tls_verify, cases[i].value);
        consul_config_clear(&config);
    }
}

static void test_addresses(void **state)
{
    static const struct {
        const char *address;
        bool ssl;
        const char *url, *unix_socket;
    } cases[] = {
        {"host:8500", false, "http://host:8500", NULL},
        {"host:8500", true, "https://host:8500", NULL},
        {"http://host:8500", false, "http://host:8500", NULL},
        {"http://host:8500", true, "https://host:8500", NULL}, /* never back to http */
        {"https://host:8501", false, "https://host:8501", NULL},
        {"HTTPS://host:8501", false, "https://host:8501", NULL},
        {"http://Host.Example_1:1", false, "http://Host.Example_1:1", NULL},
        {"azAZ09-._:9", false, "http://azAZ09-._:9", NULL},
        {"host:65535", false, "http://host:65535", NULL},
        /* No port: the scheme's, as the CLI has it, which curl supplies. */
        {"host", false, "http://host", NULL},
        {"https://consul.example.com", false, "https://consul.example.com", NULL},
        {"10.0.0.7", false, "http://10.0.0.7", NULL},
        {"[::1]:8500", false, "http://[::1]:8500", NULL},
        {"[2001:db8::7]", false, "http://[2001:db8::7]", NULL},
        {"https://[::ffff:10.0.0.7]:1", false, "https://[::ffff:10.0.0.7]:1", NULL},
        {"[fe80::1%eth0]:8500", false, "http://[fe80::1%eth0]:8500", NULL},
        {"[fe80::1%25eth0]:8500", false, "http://[fe80::1%25eth0]:8500", NULL},
        /* A path prefix; a slash at its end would make "//v1/". */
        {"http://host:8500/", false, "http://host:8500", NULL},
        {"http://host:8500//", false, "http://host:8500", NULL},
        {"http://host/consul", false, "http://host/consul", NULL},
        {"https://host:1/a/b%20c/...", false, "https://host:1/a/b%20c/...", NULL},
        {"host:8500/consul/", false, "http://host:8500/consul", NULL},
        {"unix:///run/consul.sock", false, "http://localhost", "/run/consul.sock"},
        {"unix:///run/consul.sock", true, "https://localhost", "/run/consul.sock"},
        {"Unix:///a b?c#d@e", false, "http://localhost", "/a b?c#d@e"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct consul_config config;
        char variable[128], *url, *error = NULL;

        /* Through the environment … */
        snprintf(variable, sizeof(variable), "CONSUL_HTTP_ADDR=%s", cases[i].address);
        init(&config, ENV(variable, cases[i].ssl ? "CONSUL_HTTP_SSL=true" : "CONSUL_HTTP_SSL=false"));
        assert_int_equal(consul_config_base_url(&config, &url), 0);
        assert_string_equal(url, cases[i].url);
        free(url);
        consul_config_clear(&config);

        /* … and in place of another one, of which nothing stays. */
        init(&config, ENV(i % 2 ? "CONSUL_HTTP_ADDR=https://other:1/other" : "CONSUL_HTTP_ADDR=unix:///other",
                          cases[i].ssl ? "CONSUL_HTTP_SSL=true" : "CONSUL_HTTP_SSL=false"));
        assert_int_equal(consul_config_set_address(&config, cases[i].address, &error), 0);
        assert_int_equal(consul_config_base_url(&config, &url), 0);
        assert_string_equal(url, cases[i].url);
        if (cases[i].unix_socket)
            assert_string_equal(config.unix_socket, cases[i].unix_socket);
        else
            assert_null(config.unix_socket);
        free(url);
        consul_config_clear(&config);
    }
}

static void test_bad_addresses(void **state)
{
    static const struct {
        const char *address, *expected;
    } cases[] = {
        {"", "is empty"},
        {":8500", "no host"},
        {"http://", "no host"},
        {"http:///path", "no host"},
        {"ftp://host", "unknown scheme"},
        {"httpx://host", "unknown scheme"},
        {"://host", "unknown scheme"},
        {"tcp://host:1", "unknown scheme"},
        {"host:", "no valid port"},
        {"host:0", "no valid port"},
        {"host:65536", "no valid port"},
        {"host:99999999999999999999", "no valid port"},
        {"host:+1", "no valid port"},
        {"host:8500x", "no valid port"},
        {"host:http", "no valid port"},
        {"::1", "in brackets"},
        {"::1:8500", "in brackets"},
        {"[::1", "brackets"},
        {"[]:8500", "brackets"},
        {"[host]:8500", "brackets"},
        {"[::1%]:8500", "brackets"},
        {"[::1%a/b]:8500", "brackets"},
        {"[::1]8500", "after its bracket"},
        {"[::1]:", "no valid port"},
        {"ho st:8500", "no valid host"},
        {" host:8500", "no valid host"},
        {"host:085000", "no valid port"},
        {"[", "brackets"},
        {"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]", "brackets"},
        {"h\xc3\xb6st:8500", "no valid host"},
        {"host\\:8500", "no valid host"},
        {"host%41:8500", "no valid host"},
        {"user:s3cret@host:8500", "CONSUL_HTTP_AUTH"},
        {"https://s3cret@host", "CONSUL_HTTP_AUTH"},
        {"http://host:8500?a=b", "character in its path"},
        {"http://host/a?b", "character in its path"},
        {"http://host/a#b", "character in its path"},
        {"http://host/a b", "character in its path"},
        {"http://host/a\"b", "character in its path"},
        {"http://host//a", "empty, . or .."},
        {"http://host/a//b", "empty, . or .."},
        {"http://host/./a", "empty, . or .."},
        {"http://host/a/..", "empty, . or .."},
        {"http://host/a/../b", "empty, . or .."},
        {"unix://", "absolute"},
        {"unix://run/consul.sock", "absolute"},
        {"http://host\r\nX-Consul-Token: s3cret", "control character"},
        {"host\n:8500", "control character"},
        {"unix:///a\x7f", "control character"},
        {"host\x1b[31m", "control character"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct consul_config config;
        char *error = NULL, *url;

        init(&config, ENV("CONSUL_HTTP_ADDR=https://good:1/prefix"));
        assert_int_equal(consul_config_set_address(&config, cases[i].address, &error), -EINVAL);
        if (!strstr(error, cases[i].expected))
            fail_msg("'%s' does not say '%s'", error, cases[i].expected);
        assert_null(strstr(error, "s3cret"));
        assert_null(strpbrk(error, "\r\n\x1b"));
        free(error);

        assert_int_equal(consul_config_base_url(&config, &url), 0);
        assert_string_equal(url, "https://good:1/prefix");
        free(url);
        consul_config_clear(&config);
    }
    init_fails(ENV("CONSUL_HTTP_ADDR=ftp://host"), "unknown scheme", NULL);
}

static void test_host_length(void **state)
{
    struct consul_config config;
    char address[255], *error = NULL;

    (void)state;
    init(&config, ENV(NULL));
    memset(address, 'h', sizeof(address));
    address[254] = '\0';
    assert_int_equal(consul_config_set_address(&config, address, &error), -EINVAL);
    assert_non_null(strstr(error, "no valid host"));
    free(error);
    address[253] = '\0';
    assert_int_equal(consul_config_set_address(&config, address, &error), 0);
    assert_string_equal(config.host_port, address);
    consul_config_clear(&config);
}

static void test_unix_socket_length(void **state)
{
    struct consul_config config;
    char address[7 + 108 + 1] = "unix://", *error = NULL;

    (void)state;
    init(&config, ENV(NULL));
    memset(address + 7, '/', 108);
    address[7 + 108] = '\0';
    assert_int_equal(consul_config_set_address(&config, address, &error), -EINVAL);
    assert_non_null(strstr(error, "too long"));
    free(error);
    address[7 + 107] = '\0';
    assert_int_equal(consul_config_set_address(&config, address, &error), 0);
    assert_int_equal(strlen(config.unix_socket), 107);
    consul_config_clear(&config);
}

/* A control character anywhere is refused by the variable's name, and its value is not shown. */
static void test_control_characters(void **state)
{
    static const char *const names[] = {
        "CONSUL_HTTP_ADDR",   "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_AUTH",
        "CONSUL_HTTP_SSL",    "CONSUL_CACERT",     "CONSUL_HTTP_SSL_VERIFY", "CONSUL_CAPATH",
        "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME", "CONSUL_NAMESPACE",
        "CONSUL_PARTITION",
    };
    static const char *const values[] = {"s3cret\nX: y", "s3cret\r", "\ts3cret", "s3cret\x01", "s3cret\x7f"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        for (size_t j = 0; j < sizeof(values) / sizeof(values[0]); j++) {
            char variable[128];

            snprintf(variable, sizeof(variable), "%s=%s", names[i], values[j]);
            init_fails(ENV(variable), names[i], "s3cret");
        }
}

static void test_certificate_and_key(void **state)
{
    (void)state;
    init_fails(ENV("CONSUL_CLIENT_CERT=/c.pem"), "CONSUL_CLIENT_KEY is not set", NULL);
    init_fails(ENV("CONSUL_CLIENT_KEY=/k.pem"), "CONSUL_CLIENT_CERT is not set", NULL);
    init_fails(ENV("CONSUL_CLIENT_KEY=/k.pem", "CONSUL_CLIENT_CERT="), "CONSUL_CLIENT_CERT is not set", NULL);
}

static void test_tls_server_name(void **state)
{
    static const char *const cases[][2] = {
        {"server.dc1.consul", "server.dc1.consul"}, {"server:8501", "server"},  {"[::1]:8501", "::1"},
        {"[2001:db8::7]", "2001:db8::7"},           {"10.0.0.7:1", "10.0.0.7"}, {"::1", "::1"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct consul_config config;
        char variable[64];

        snprintf(variable, sizeof(variable), "CONSUL_TLS_SERVER_NAME=%s", cases[i][0]);
        init(&config, ENV(variable));
        assert_string_equal(config.tls_server_name, cases[i][1]);
        consul_config_clear(&config);
    }
}

static void test_token_file(void **state)
{
    static const struct {
        const char *data;
        size_t len;
        const char *token; /* NULL: refused */
    } cases[] = {
        {"from-file", 9, "from-file"},
        {"from-file\n", 10, "from-file"},
        {" \t\r\n from-file \v\f\r\n\n", 20, "from-file"},
        {"two words\n", 10, "two words"},
        {"", 0, "from-env"}, /* as the CLI: nothing in it, nothing replaced */
        {" \n\t\n", 4, "from-env"},
        {"one\ntwo\n", 8, NULL},
        {"one\0two", 7, NULL},
        {"one\x7f", 4, NULL},
        {"one\0", 4, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *path = write_file(cases[i].data, cases[i].len), variable[128];
        struct consul_config config;

        snprintf(variable, sizeof(variable), "CONSUL_HTTP_TOKEN_FILE=%s", path);
        if (cases[i].token) {
            init(&config, ENV("CONSUL_HTTP_TOKEN=from-env", variable));
            assert_string_equal(config.token, cases[i].token);
            consul_config_clear(&config);
        } else {
            init_fails(ENV("CONSUL_HTTP_TOKEN=from-env", variable), path, "one");
        }
        unlink(path);
        free(path);
    }
}

static void test_token_file_unreadable(void **state)
{
    struct consul_config config;
    char *error = NULL;

    (void)state;
    init(&config, ENV("CONSUL_HTTP_TOKEN=kept"));
    assert_int_equal(consul_config_set_token_file(&config, "/nonexistent/token", &error), -ENOENT);
    assert_non_null(strstr(error, "/nonexistent/token"));
    free(error);
    assert_int_equal(consul_config_set_token_file(&config, "/", &error), -EISDIR);
    free(error);
    assert_string_equal(config.token, "kept");
    consul_config_clear(&config);

    environment = ENV("CONSUL_HTTP_TOKEN=env", "CONSUL_HTTP_TOKEN_FILE=/nonexistent/token");
    assert_int_equal(consul_config_init_from_env(&config, fake_getenv, &error), -ENOENT);
    free(error);
}

static void test_token_file_size(void **state)
{
    enum { MAX = 16384 };
    struct consul_config config;
    char *data = malloc(MAX + 1), *path, *error = NULL;

    (void)state;
    memset(data, 'x', MAX + 1);
    init(&config, ENV(NULL));

    path = write_file(data, MAX);
    assert_int_equal(consul_config_set_token_file(&config, path, &error), 0);
    assert_int_equal(strlen(config.token), MAX);
    unlink(path);
    free(path);

    path = write_file(data, MAX + 1);
    assert_int_equal(consul_config_set_token_file(&config, path, &error), -EFBIG);
    assert_non_null(strstr(error, "larger than"));
    assert_int_equal(strlen(config.token), MAX);
    free(error);
    unlink(path);
    free(path);

    free(data);
    consul_config_clear(&config);
}

/* In pieces, as a password manager writes into <(…). */
static void test_token_pipe(void **state)
{
    struct consul_config config;
    char path[64], *error = NULL;
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "half", 4), 4);
    assert_int_equal(write(fds[1], "whole\n", 6), 6);
    close(fds[1]);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[0]);
    init(&config, ENV(NULL));
    assert_int_equal(consul_config_set_token_file(&config, path, &error), 0);
    assert_string_equal(config.token, "halfwhole");
    close(fds[0]);
    consul_config_clear(&config);
}

static void test_datacenter(void **state)
{
    struct consul_config config;
    char *error = NULL;

    (void)state;
    init(&config, ENV(NULL));
    assert_int_equal(consul_config_set_datacenter(&config, "dc2", &error), 0);
    assert_string_equal(config.datacenter, "dc2");
    assert_int_equal(consul_config_set_datacenter(&config, "dc\n3", &error), -EINVAL);
    free(error);
    assert_string_equal(config.datacenter, "dc2");
    assert_int_equal(consul_config_set_datacenter(&config, "", &error), 0);
    assert_null(config.datacenter);
    assert_int_equal(consul_config_set_datacenter(&config, NULL, &error), 0);
    consul_config_clear(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_empty_variables),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_real_environment),
        cmocka_unit_test(test_booleans),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_host_length),
        cmocka_unit_test(test_unix_socket_length),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_certificate_and_key),
        cmocka_unit_test(test_tls_server_name),
        cmocka_unit_test(test_token_file),
        cmocka_unit_test(test_token_file_unreadable),
        cmocka_unit_test(test_token_file_size),
        cmocka_unit_test(test_token_pipe),
        cmocka_unit_test(test_datacenter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
