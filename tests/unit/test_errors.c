/* lib/errors: a case for each row of "Answers to errno" in CONSUL.md, and for what must not be taken for one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"

enum retry {
    NEVER,  /* not transient */
    READS,  /* transient, but it may have taken effect */
    ALWAYS, /* transient, and it did not */
};

struct row {
    struct consul_answer_facts facts;
    int error; /* positive errno */
    enum retry retry;
};

static void check(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct consul_answer_facts facts = rows[i].facts;
        const char *body = facts.body ? facts.body : "";
        char *copy = facts.body ? strdup(facts.body) : NULL; /* so that ASan sees a step beyond its end */
        enum retry retry;
        int error;

        facts.body = copy;
        error = consul_errno(&facts);
        retry = consul_error_is_unapplied(&facts) ? ALWAYS : consul_error_is_transient(&facts) ? READS : NEVER;
        free(copy);
        if (error != -rows[i].error || retry != rows[i].retry)
            fail_msg("row %zu, net %d, status %ld, '%.60s': %d (retry %d), expected %d (%d)", i, facts.net,
                     facts.status, body, error, retry, -rows[i].error, rows[i].retry);
    }
}

#define CHECK(rows) check(rows, sizeof(rows) / sizeof((rows)[0]))

static void test_net(void **state)
{
    static const struct row rows[] = {
        {{.net = CONSUL_NET_REFUSED}, ECONNREFUSED, NEVER},
        {{.net = CONSUL_NET_TIMEOUT}, ETIMEDOUT, NEVER},
        {{.net = CONSUL_NET_TLS}, EPROTO, NEVER},
        {{.net = CONSUL_NET_RESET}, EAGAIN, READS},
        {{.net = CONSUL_NET_RESET, .is_write = true}, EAGAIN, READS},
        {{.net = CONSUL_NET_RESET, .status = 200, .body = "[{"}, EIO, READS},
        {{.net = CONSUL_NET_UNREACHABLE}, EHOSTUNREACH, NEVER},
        {{.net = CONSUL_NET_RESOLVE}, EHOSTUNREACH, NEVER},
        {{.net = CONSUL_NET_TOO_BIG, .status = 200}, EFBIG, NEVER},
        {{.net = CONSUL_NET_PROTOCOL}, EIO, NEVER},
        {{.net = CONSUL_NET_CANCELLED}, ECANCELED, NEVER},
        /* What arrived before the break is not an answer. */
        {{.net = CONSUL_NET_TIMEOUT, .status = 200, .body = "true"}, ETIMEDOUT, NEVER},
        {{.net = CONSUL_NET_TIMEOUT, .status = 500, .body = "No cluster leader"}, ETIMEDOUT, NEVER},
        {{.net = (enum consul_net)(CONSUL_NET_CANCELLED + 1), .status = 200}, EIO, NEVER},
    };

    (void)state;
    CHECK(rows);
}

static void test_success(void **state)
{
    static const struct row rows[] = {
        {{.status = 200, .body = "[]"}, 0, NEVER},
        {{.status = 200, .body = NULL}, 0, NEVER},
        {{.status = 200, .body = ""}, 0, NEVER},
        {{.status = 204}, 0, NEVER},
        {{.status = 200, .body = "true", .is_write = true}, 0, NEVER},
        {{.status = 200, .body = "", .is_write = true}, 0, NEVER},
        {{.status = 200, .body = "true", .is_write = true, .condition = CONSUL_IF_INDEX}, 0, NEVER},
        {{.status = 200, .body = "true\n", .is_write = true, .condition = CONSUL_IF_ABSENT}, 0, NEVER},
        {{.status = 200, .body = "true", .is_write = true, .condition = CONSUL_IF_UNLOCKED}, 0, NEVER},
        /* A transaction answers with a document, whatever its verbs were. */
        {{.status = 200, .body = "{\"Results\":[]}", .is_write = true, .condition = CONSUL_IF_INDEX}, 0, NEVER},
        /* A raw value may be anything, these words included. */
        {{.status = 200, .body = "false"}, 0, NEVER},
        {{.status = 200, .body = "null"}, 0, NEVER},
        {{.status = 200, .body = "Permission denied"}, 0, NEVER},
    };

    (void)state;
    CHECK(rows);
}

static void test_condition_did_not_hold(void **state)
{
    static const struct row rows[] = {
        {{.status = 200, .body = "false", .is_write = true, .condition = CONSUL_IF_INDEX}, ESTALE, NEVER},
        {{.status = 200, .body = "false", .is_write = true, .condition = CONSUL_IF_ABSENT}, EEXIST, NEVER},
        {{.status = 200, .body = "false", .is_write = true, .condition = CONSUL_IF_UNLOCKED}, EAGAIN, NEVER},
        {{.status = 200, .body = " false\n", .is_write = true, .condition = CONSUL_IF_INDEX}, ESTALE, NEVER},
        {{.status = 200, .body = "falsehood", .is_write = true, .condition = CONSUL_IF_INDEX}, 0, NEVER},
        {{.status = 200, .body = "fals", .is_write = true, .condition = CONSUL_IF_INDEX}, 0, NEVER},
        /* No condition, and yet not done: a write must not look successful. */
        {{.status = 200, .body = "false", .is_write = true}, EIO, NEVER},
    };

    (void)state;
    CHECK(rows);
}

static void test_absence(void **state)
{
    static const struct row rows[] = {
        {{.status = 200, .body = "null", .empty_is_absent = true}, ENOENT, NEVER},
        {{.status = 200, .body = "null\n", .empty_is_absent = true}, ENOENT, NEVER},
        {{.status = 200, .body = "[]", .empty_is_absent = true}, ENOENT, NEVER},
        {{.status = 200, .body = " [\n] \n", .empty_is_absent = true}, ENOENT, NEVER},
        {{.status = 200, .body = "{\"Node\":null,\"Services\":[]}", .empty_is_absent = true}, ENOENT, NEVER},
        {{.status = 200, .body = "{\n    \"Node\": null,\n    \"Services\": []\n}", .empty_is_absent = true},
         ENOENT,
         NEVER},
        {{.status = 200, .body = "{\"Node\":null}", .empty_is_absent = true}, ENOENT, NEVER},
        {{.status = 200, .body = "[{}]", .empty_is_absent = true}, 0, NEVER},
        {{.status = 200, .body = "[", .empty_is_absent = true}, 0, NEVER},
        {{.status = 200, .body = "nullified", .empty_is_absent = true}, 0, NEVER},
        {{.status = 200, .body = "{\"Node\":nullable}", .empty_is_absent = true}, 0, NEVER},
        {{.status = 200, .body = "{\"Node\":{},\"Services\":[]}", .empty_is_absent = true}, 0, NEVER},
        {{.status = 200, .body = "", .empty_is_absent = true}, 0, NEVER},
        {{.status = 404}, ENOENT, NEVER},
        {{.status = 404, .body = "Session id 'x' not found", .is_write = true}, ENOENT, NEVER},
    };

    (void)state;
    CHECK(rows);
}

static void test_statuses(void **state)
{
    static const struct row rows[] = {
        {{.status = 400, .body = "Missing service name", .is_write = true}, EINVAL, NEVER},
        {{.status = 400, .body = "Permission denied"}, EINVAL, NEVER},
        {{.status = 401, .body = "ACL support disabled"}, EOPNOTSUPP, NEVER},
        {{.status = 401, .body = "<html>Authorization required"}, EACCES, NEVER},
        {{.status = 403, .body = "Permission denied"}, EACCES, NEVER},
        {{.status = 403, .body = "rpc error making call: Permission denied", .is_write = true}, EACCES, NEVER},
        {{.status = 403, .body = "ACL not found"}, EACCES, NEVER},
        {{.status = 403, .body = "Endpoint is blocked by agent configuration"}, EACCES, NEVER},
        {{.status = 403}, EACCES, NEVER},
        {{.status = 404, .body = "Invalid URL path: not a recognized HTTP API endpoint\n"}, EOPNOTSUPP, NEVER},
        {{.status = 404, .body = "404 page not found\n"}, EOPNOTSUPP, NEVER},
        {{.status = 405, .body = "method HEAD not allowed"}, EOPNOTSUPP, NEVER},
        {{.status = 402, .body = "ACL support disabled"}, EINVAL, NEVER},
        {{.status = 406}, EINVAL, NEVER},
        {{.status = 407}, EACCES, NEVER},
        {{.status = 408}, ETIMEDOUT, NEVER},
        {{.status = 405, .body = "Invalid URL path"}, EOPNOTSUPP, NEVER},
        {{.status = 410, .body = "Permission denied"}, EOPNOTSUPP, NEVER},
        {{.status = 413, .body = "Request body(524289 bytes) too large, max size: 524288 bytes", .is_write = true},
         EFBIG,
         NEVER},
        {{.status = 414}, ENAMETOOLONG, NEVER},
        {{.status = 411}, EINVAL, NEVER},
        {{.status = 415}, EINVAL, NEVER},
        {{.status = 499}, EINVAL, NEVER},
        {{.status = 422, .is_write = true}, EINVAL, NEVER},
        {{.status = 430}, EINVAL, NEVER},
        {{.status = 431}, ENAMETOOLONG, NEVER},
        {{.status = 432}, EINVAL, NEVER},
        {{.status = 429}, EAGAIN, ALWAYS},
        {{.status = 429, .body = "RPC rate limit exceeded", .is_write = true}, EAGAIN, ALWAYS},
        {{.status = 501}, EOPNOTSUPP, NEVER},
        {{.status = 502}, EIO, NEVER},
        {{.status = 503}, EAGAIN, ALWAYS},
        {{.status = 503, .body = "No cluster leader"}, EAGAIN, ALWAYS},
        {{.status = 504}, ETIMEDOUT, NEVER},
        {{.status = 505}, EIO, NEVER},
        {{.status = 599}, EIO, NEVER},
        /* Never followed, never a success; nor is anything that is no status. */
        {{.status = 301, .body = "<a href=\"/v1/kv/a/b\">Moved Permanently</a>"}, EIO, NEVER},
        {{.status = 307, .is_write = true, .validates_by_500 = true, .body = "moved"}, EIO, NEVER},
        {{.status = 100}, EIO, NEVER},
        {{.status = 199}, EIO, NEVER},
        {{.status = 300}, EIO, NEVER},
        {{.status = 0}, EIO, NEVER},
        {{.status = -1}, EIO, NEVER},
        {{.status = 65736}, EIO, NEVER}, /* 200 in 16 bits */
        {{.status = 600, .body = "Permission denied"}, EIO, NEVER},
    };

    (void)state;
    CHECK(rows);
}

/* Each with and without the prefix that a client agent puts before what its server said. */
static void test_500_texts(void **state)
{
    static const struct {
        const char *text;
        int error;
        enum retry retry;
    } cases[] = {
        {"Permission denied", EACCES, NEVER},
        {"ACL not found", EACCES, NEVER},
        {"ACL support disabled", EOPNOTSUPP, NEVER},
        {"No path to datacenter", EHOSTUNREACH, NEVER},
        {"Remote DC has no server currently reachable", EHOSTUNREACH, NEVER},
        {"UUID must be 36 characters", EINVAL, NEVER},
        {"invalid key name \"a b\", …", EINVAL, NEVER},
        {"No cluster leader", EIO, ALWAYS},
        {"Raft leader not found in server lookup mapping", EIO, ALWAYS},
        {"node is not the leader", EIO, ALWAYS},
        {"leadership lost while committing log", EIO, READS},
        {"leadership transfer in progress", EIO, ALWAYS},
        {"Not ready to serve consistent reads", EIO, ALWAYS},
        {"No known Consul servers", EIO, ALWAYS},
        {"RPC rate limit exceeded", EAGAIN, ALWAYS},
        {"Rate limit reached, try again later", EAGAIN, ALWAYS},
        {"something else", EIO, NEVER},
        {"", EIO, NEVER},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int prefixed = 0; prefixed < 2; prefixed++) {
            char body[128];
            struct row row = {{.status = 500, .body = body}, cases[i].error, cases[i].retry};

            snprintf(body, sizeof(body), "%s%s", prefixed ? "rpc error making call: " : "", cases[i].text);
            check(&row, 1);
            row.facts.is_write = true;
            check(&row, 1);

            /* That an endpoint validates by 500 changes nothing for what has a row of its own. */
            row.facts.validates_by_500 = true;
            if (strcmp(cases[i].text, "something else") == 0)
                row.error = EINVAL;
            if (body[0] && cases[i].text[0])
                check(&row, 1);
        }
}

static void test_servers_out_of_reach(void **state)
{
    static const struct row rows[] = {
        {{.status = 500, .body = "rpc error making call: EOF"}, EIO, READS},
        {{.status = 500,
          .body = "rpc error getting client: failed to get conn: dial tcp <nil>->10.0.0.1:8300: "
                  "connect: connection refused"},
         EIO,
         ALWAYS},
        {{.status = 500,
          .body = "rpc error making call: read tcp 1.2.3.4:1->5.6.7.8:8300: read: connection reset by peer"},
         EIO,
         READS},
        {{.status = 500, .body = "rpc error getting client: failed to get conn: dial tcp: i/o timeout"}, EIO, READS},
        {{.status = 500, .body = "rpc error making call: write tcp 1.2.3.4:1->5.6.7.8:8300: write: broken pipe"},
         EIO,
         READS},
        {{.status = 500, .body = "rpc error getting client: failed to get conn: dial tcp: connect: no route to host"},
         EIO,
         READS},
        {{.status = 500,
          .body = "rpc error getting client: failed to get conn: rpc error: lead thread didn't get "
                  "connection"},
         EIO,
         ALWAYS},
        {{.status = 500, .body = "rpc error making call: EOF", .is_write = true, .validates_by_500 = true}, EIO, READS},
        /* Without "rpc error" it is somebody else's connection: a join, a remote script. */
        {{.status = 500, .body = "dial tcp 10.0.0.1:8301: connect: connection refused"}, EIO, NEVER},
        {{.status = 500, .body = "Request decode failed: EOF", .is_write = true, .validates_by_500 = true},
         EINVAL,
         NEVER},
    };

    (void)state;
    CHECK(rows);
}

static void test_validation_by_500(void **state)
{
    static const struct row rows[] = {
        {{.status = 500, .body = "Invalid Session TTL", .is_write = true, .validates_by_500 = true}, EINVAL, NEVER},
        {{.status = 500, .body = "Invalid Session TTL", .is_write = true}, EIO, NEVER},
        {{.status = 500, .body = "Invalid Session TTL", .validates_by_500 = true}, EIO, NEVER},
        {{.status = 500, .body = "", .is_write = true, .validates_by_500 = true}, EIO, NEVER},
        {{.status = 500, .body = " \n", .is_write = true, .validates_by_500 = true}, EIO, NEVER},
        {{.status = 500, .is_write = true, .validates_by_500 = true}, EIO, NEVER},
        {{.status = 500, .body = "<html>oops</html>", .is_write = true, .validates_by_500 = true}, EIO, NEVER},
        {{.status = 500, .body = "{\"error\":1}", .is_write = true, .validates_by_500 = true}, EIO, NEVER},
        {{.status = 502, .body = "Bad Gateway", .is_write = true, .validates_by_500 = true}, EIO, NEVER},
        {{.status = 500, .body = "No cluster leader", .is_write = true, .validates_by_500 = true}, EIO, ALWAYS},
    };

    (void)state;
    CHECK(rows);
}

#define ERRORS(what) "{\"Results\":null,\"Errors\":[{\"OpIndex\":0,\"What\":\"" what "\"}]}"

static void test_transaction(void **state)
{
    static const struct row rows[] = {
        {{.status = 409, .body = ERRORS("Permission denied"), .is_write = true}, EACCES, NEVER},
        {{.status = 409, .body = ERRORS("rpc error making call: ACL not found"), .is_write = true}, EACCES, NEVER},
        {{.status = 409, .body = ERRORS("key \\\"x\\\" doesn't exist")}, ENOENT, NEVER},
        {{.status = 409, .body = ERRORS("key \\\"x\\\" doesn't exist"), .condition = CONSUL_IF_INDEX}, ENOENT, NEVER},
        {{.status = 409, .body = ERRORS("failed to set key \\\"x\\\", index is stale"), .condition = CONSUL_IF_INDEX},
         ESTALE,
         NEVER},
        {{.status = 409, .body = ERRORS("failed to set key \\\"x\\\", index is stale"), .condition = CONSUL_IF_ABSENT},
         EEXIST,
         NEVER},
        {{.status = 409, .body = ERRORS("failed to delete key \\\"x\\\", index is stale")}, ESTALE, NEVER},
        {{.status = 409, .body = ERRORS("failed index check for key \\\"x\\\", current modify index 9 != 3")},
         ESTALE,
         NEVER},
        {{.status = 409,
          .body = ERRORS("failed to check index, key \\\"x\\\" doesn't exist"),
          .condition = CONSUL_IF_INDEX},
         ESTALE,
         NEVER},
        {{.status = 409, .body = ERRORS("key \\\"x\\\" exists")}, EEXIST, NEVER},
        {{.status = 409, .body = ERRORS("failed to lock key \\\"x\\\", lock is already held")}, EAGAIN, NEVER},
        {{.status = 409, .body = ERRORS("unknown KV verb \\\"x\\\"")}, EIO, NEVER},
        {{.status = 409, .body = NULL}, EIO, NEVER},
        /* Several: a denial outweighs the rest. */
        {{.status = 409,
          .body = "{\n  \"Errors\": [\n {\"What\": \"failed to set key \\\"x\\\", index is stale\"},\n"
                  "{\"What\": \"Permission denied\"}]}"},
         EACCES,
         NEVER},
    };

    (void)state;
    CHECK(rows);
}

/* Names are the users' to choose; they come back quoted and must not steer the decision. */
static void test_hostile_names(void **state)
{
    static const struct row rows[] = {
        {{.status = 409,
          .body = ERRORS("failed to set key \\\"Permission denied\\\", index is stale"),
          .condition = CONSUL_IF_INDEX},
         ESTALE,
         NEVER},
        {{.status = 409, .body = ERRORS("key \\\"a, index is stale\\\" doesn't exist")}, ENOENT, NEVER},
        /* A quote in the key: %q makes it \", JSON makes that \\\". */
        {{.status = 409, .body = ERRORS("key \\\"a\\\\\\\" Permission denied \\\\\\\"b\\\" doesn't exist")},
         ENOENT,
         NEVER},
        /* A backslash at its end: %q makes it \\, JSON \\\\. The quote after it closes. */
        {{.status = 409, .body = ERRORS("failed to set key \\\"a\\\\\\\\\\\", index is stale")}, ESTALE, NEVER},
        {{.status = 409, .body = ERRORS("key \\\"ACL not found")}, EIO, NEVER},
        {{.status = 500, .body = "invalid session \"No cluster leader\""}, EIO, NEVER},
        {{.status = 500, .body = "bad \"a\\\"Permission denied\\\"\" No cluster leader"}, EIO, ALWAYS},
        /* Two strings of a document do not make one text. */
        {{.status = 409, .body = "[\"Permission\",\" denied\"]"}, EIO, NEVER},
    };

    (void)state;
    CHECK(rows);
}

/* However much a server says, a bounded head is looked at, and reading stops inside of it. */
static void test_huge_body(void **state)
{
    enum { SIZE = 4 << 20 };
    static char body[SIZE + 1];
    struct row row = {{.status = 500, .body = body}, EIO, NEVER};

    (void)state;
    memset(body, 'x', SIZE);
    body[SIZE] = '\0';
    memcpy(body + SIZE - 17, "Permission denied", 17);
    check(&row, 1);
    memcpy(body + 900, "Permission denied", 17);
    row.error = EACCES;
    check(&row, 1);

    /* A key of 60000 characters still lets the reason after it be seen. */
    memset(body, 'x', SIZE);
    memcpy(body, "{\"\\\"", 4);
    strcpy(body + 60000, "\\\", index is stale\"}");
    row.facts.status = 409;
    row.error = ESTALE;
    check(&row, 1);

    memset(body, '"', SIZE);
    row.error = EIO;
    check(&row, 1);
    memset(body, '\\', SIZE);
    check(&row, 1);
    body[0] = '{';
    check(&row, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net),
        cmocka_unit_test(test_success),
        cmocka_unit_test(test_condition_did_not_hold),
        cmocka_unit_test(test_absence),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_500_texts),
        cmocka_unit_test(test_servers_out_of_reach),
        cmocka_unit_test(test_validation_by_500),
        cmocka_unit_test(test_transaction),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_huge_body),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
