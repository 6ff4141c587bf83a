/* Answers to errno; see errors.h. */
#include "errors.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Input looked at, so that a hostile answer costs no time, and what is kept of it for matching. */
#define HEAD_READ 65536
#define HEAD_KEEP 1024

/* Stands for the errno of a condition that did not hold: see refused(). */
#define REFUSED (-1)

/* Whether the same request may succeed a moment later, by what is known of the first. */
enum retry {
    FINAL,     /* it would fare the same */
    UNCERTAIN, /* it may, but this one may have taken effect */
    UNAPPLIED, /* it may, and this one certainly did not take effect */
};

struct verdict {
    int error; /* positive errno, 0 or REFUSED */
    enum retry retry;
};

static const struct verdict net_verdicts[] = {
    [CONSUL_NET_OK] = {0, FINAL},
    [CONSUL_NET_REFUSED] = {ECONNREFUSED, FINAL},
    [CONSUL_NET_TIMEOUT] = {ETIMEDOUT, FINAL},
    [CONSUL_NET_TLS] = {EPROTO, FINAL},
    [CONSUL_NET_RESET] = {EAGAIN, UNCERTAIN}, /* without a word: the connection cap, as 1.8 has it. See judge() */
    [CONSUL_NET_UNREACHABLE] = {EHOSTUNREACH, FINAL},
    [CONSUL_NET_RESOLVE] = {EHOSTUNREACH, FINAL},
    [CONSUL_NET_TOO_BIG] = {EFBIG, FINAL},
    [CONSUL_NET_PROTOCOL] = {EIO, FINAL},
    [CONSUL_NET_CANCELLED] = {ECANCELED, FINAL},
};

/*
 * The first row that fits decides. Texts are substrings because client agents prefix what servers say with
 * "rpc error making call: ", and are looked for where quoted strings are emptied to "": a key named
 * "Permission denied" must not pass for a denial.
 *
 * Texts are from hashicorp/consul: agent/structs/errors.go, agent/consul/state/txn.go and kvs.go, agent/pool/pool.go,
 * acl/errors.go, agent/http.go; and hashicorp/raft api.go.
 */
static const struct rule {
    short first, last;       /* HTTP status */
    const char *text, *also; /* both must occur; NULL: any */
    int error;
    enum retry retry;
} rules[] = {
    {401, 401, "ACL support disabled", NULL, EOPNOTSUPP, FINAL},
    {401, 401, NULL, NULL, EACCES, FINAL}, /* not Consul's: a proxy that wants CONSUL_HTTP_AUTH */
    {403, 403, NULL, NULL, EACCES, FINAL},
    {407, 407, NULL, NULL, EACCES, FINAL},

    {404, 404, "Invalid URL path", NULL, EOPNOTSUPP, FINAL},
    {404, 404, "404 page not found", NULL, EOPNOTSUPP, FINAL},
    {404, 404, NULL, NULL, ENOENT, FINAL},
    {405, 405, NULL, NULL, EOPNOTSUPP, FINAL},
    {408, 408, NULL, NULL, ETIMEDOUT, FINAL},
    {410, 410, NULL, NULL, EOPNOTSUPP, FINAL},

    /* A transaction's 409 lists what failed; a denial among that outweighs the rest. */
    {409, 409, "Permission denied", NULL, EACCES, FINAL},
    {409, 409, "ACL not found", NULL, EACCES, FINAL},
    {409, 409, "index is stale", NULL, REFUSED, FINAL},
    {409, 409, "failed index check", NULL, REFUSED, FINAL},
    {409, 409, "failed to check index", NULL, REFUSED, FINAL}, /* … key "x" doesn't exist: no longer */
    {409, 409, "lock is already held", NULL, EAGAIN, FINAL},
    {409, 409, "key \"\" exists", NULL, EEXIST, FINAL},
    {409, 409, "doesn't exist", NULL, ENOENT, FINAL},
    {409, 409, NULL, NULL, EIO, FINAL},

    {413, 413, NULL, NULL, EFBIG, FINAL},
    {414, 414, NULL, NULL, ENAMETOOLONG, FINAL},
    {431, 431, NULL, NULL, ENAMETOOLONG, FINAL},
    {415, 415, "Prometheus is not enabled", NULL, EOPNOTSUPP, FINAL},
    {429, 429, NULL, NULL, EAGAIN, UNAPPLIED},
    {400, 499, NULL, NULL, EINVAL, FINAL}, /* 400 itself, and its kin that Consul does not use */

    {501, 501, NULL, NULL, EOPNOTSUPP, FINAL},
    {503, 503, NULL, NULL, EAGAIN, UNAPPLIED},
    {504, 504, NULL, NULL, ETIMEDOUT, FINAL},

    {500, 599, "Permission denied", NULL, EACCES, FINAL},
    {500, 599, "ACL not found", NULL, EACCES, FINAL},
    {500, 599, "ACL support disabled", NULL, EOPNOTSUPP, FINAL},
    {500, 599, "Keyring is empty", NULL, EOPNOTSUPP, FINAL}, /* gossip is not encrypted */
    {500, 599, "Connect must be enabled", NULL, EOPNOTSUPP, FINAL},
    {500, 599, "Connect is disabled", NULL, EOPNOTSUPP, FINAL},
    {500, 599, "invalid config entry kind", NULL, EOPNOTSUPP, FINAL},
    {500, 599, "No path to datacenter", NULL, EHOSTUNREACH, FINAL},
    {500, 599, "Remote DC has no server currently reachable", NULL, EHOSTUNREACH, FINAL},
    {500, 599, "UUID must be", NULL, EINVAL, FINAL},
    {500, 599, "invalid key name", NULL, EINVAL, FINAL},

    /* An election … */
    {500, 599, "No cluster leader", NULL, EIO, UNAPPLIED},
    {500, 599, "Raft leader not found", NULL, EIO, UNAPPLIED},
    {500, 599, "not the leader", NULL, EIO, UNAPPLIED},
    {500, 599, "leadership transfer in progress", NULL, EIO, UNAPPLIED},
    {500, 599, "leadership lost", NULL, EIO, UNCERTAIN}, /* … while committing: the next leader may have it */
    {500, 599, "Not ready to serve consistent reads", NULL, EIO, UNAPPLIED},
    /* … or a client agent that cannot reach its servers. */
    {500, 599, "No known Consul servers", NULL, EIO, UNAPPLIED},
    {500, 599, "rpc error", "connection refused", EIO, UNAPPLIED},
    {500, 599, "rpc error", "lead thread didn't get connection", EIO, UNAPPLIED},
    {500, 599, "rpc error", "EOF", EIO, UNCERTAIN},
    {500, 599, "rpc error", "connection reset", EIO, UNCERTAIN},
    {500, 599, "rpc error", "broken pipe", EIO, UNCERTAIN},
    {500, 599, "rpc error", "i/o timeout", EIO, UNCERTAIN},
    {500, 599, "rpc error", "no route to host", EIO, UNCERTAIN},
    /* A server's limit reaches us as 500 when a client agent relays it. */
    {500, 599, "rate limit exceeded", NULL, EAGAIN, UNAPPLIED},
    {500, 599, "Rate limit reached", NULL, EAGAIN, UNAPPLIED},
};

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/*
 * Whether body[0..len) begins with these JSON tokens, whatever white space is between them (agents with -dev indent).
 * *ret_next is the character after that and more white space, or NUL at the end.
 */
static bool begins_with(const char *body, size_t len, const char *tokens, char *ret_next)
{
    size_t i = 0;

    for (; *tokens; tokens++, i++) {
        while (i < len && is_blank(body[i]))
            i++;
        if (i == len || body[i] != *tokens)
            return false;
    }
    while (i < len && is_blank(body[i]))
        i++;
    *ret_next = i < len ? body[i] : '\0';
    return true;
}

static bool is_exactly(const char *body, size_t len, const char *tokens)
{
    char next;

    return len < HEAD_READ && begins_with(body, len, tokens, &next) && next == '\0';
}

static bool is_absence(const char *body, size_t len)
{
    char next;

    return is_exactly(body, len, "null") || is_exactly(body, len, "[]") ||
           (begins_with(body, len, "{\"Node\":null", &next) && (next == ',' || next == '}'));
}

/*
 * Copies the head of an answer with every quoted string emptied. What Go quotes (%q) is names that others chose: keys,
 * sessions. In a JSON answer those quotes are escaped (\"), while bare ones delimit JSON's strings; a line break takes
 * their place.
 */
static void read_head(const char *body, size_t len, char head[HEAD_KEEP])
{
    size_t n = 0, start = 0;
    bool json, quoted = false, escaped = false;

    while (start < len && is_blank(body[start]))
        start++;
    json = start < len && (body[start] == '{' || body[start] == '[');

    for (size_t i = start; i < len && n < HEAD_KEEP - 1; i++) {
        char c = body[i];

        if (json && c == '"') {
            quoted = escaped = false;
            head[n++] = '\n';
            continue;
        }
        if (json && c == '\\' && i + 1 < len)
            c = body[++i];

        /* c is now a character of the message, whose own quoting escapes with a backslash again. */
        if (escaped) {
            escaped = false;
        } else if (c == '"') {
            quoted = !quoted;
            head[n++] = c;
        } else if (quoted) {
            escaped = c == '\\';
        } else {
            head[n++] = c;
        }
    }
    head[n] = '\0';
}

/* What it means that the condition of a write did not hold. */
static int refused(enum consul_condition condition)
{
    switch (condition) {
    case CONSUL_IF_ABSENT:
        return EEXIST;
    case CONSUL_IF_UNLOCKED:
        return EAGAIN;
    case CONSUL_IF_INDEX:
    case CONSUL_UNCONDITIONAL:
        break;
    }
    return ESTALE;
}

static struct verdict judge_success(const struct consul_answer_facts *facts, const char *body, size_t len)
{
    if (facts->empty_is_absent && is_absence(body, len))
        return (struct verdict){ENOENT, FINAL};

    /* A raw value may well be the text "false": only writes answer with it. */
    if (facts->is_write && is_exactly(body, len, "false"))
        return (struct verdict){facts->condition == CONSUL_UNCONDITIONAL ? EIO : refused(facts->condition), FINAL};

    return (struct verdict){0, FINAL};
}

static struct verdict judge_failure(const struct consul_answer_facts *facts, const char *body, size_t len)
{
    char head[HEAD_KEEP];

    read_head(body, len, head);
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        const struct rule *rule = &rules[i];

        if (facts->status < rule->first || facts->status > rule->last || (rule->text && !strstr(head, rule->text)) ||
            (rule->also && !strstr(head, rule->also)))
            continue;
        return (struct verdict){rule->error == REFUSED ? refused(facts->condition) : rule->error, rule->retry};
    }

    /* Any other 500. A page of a proxy's is no reason; nor is a JSON document, which Consul never sends with a 500. */
    if (facts->status == 500 && facts->is_write && facts->validates_by_500 && head[0] && !strchr("<{[", head[0]))
        return (struct verdict){EINVAL, FINAL};

    /* Redirects end here too: Consul's point to another key (see "Hazards first"), so they are never followed. */
    return (struct verdict){EIO, FINAL};
}

static struct verdict judge(const struct consul_answer_facts *facts)
{
    const char *body = facts->body ? facts->body : "";
    size_t len = strnlen(body, HEAD_READ);
    struct verdict verdict;

    if (facts->net != CONSUL_NET_OK) {
        if ((size_t)facts->net >= sizeof(net_verdicts) / sizeof(net_verdicts[0]))
            return (struct verdict){EIO, FINAL};
        verdict = net_verdicts[facts->net];
        if (facts->net == CONSUL_NET_RESET && facts->status)
            verdict.error = EIO; /* cut in the middle of the answer: not the connection cap */
        return verdict;
    }
    if (facts->status >= 200 && facts->status <= 299)
        return judge_success(facts, body, len);
    return judge_failure(facts, body, len);
}

int consul_errno(const struct consul_answer_facts *facts) { return -judge(facts).error; }

bool consul_error_is_transient(const struct consul_answer_facts *facts) { return judge(facts).retry != FINAL; }

bool consul_error_is_unapplied(const struct consul_answer_facts *facts) { return judge(facts).retry == UNAPPLIED; }
