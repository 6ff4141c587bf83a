/*
 * From what Consul (or the way to it) answered to an errno: the one place where this is decided.
 *
 * Pure functions: no state, no I/O, callable from any thread. The rules are the table "Answers to errno" of the design;
 * errors.c holds it row by row. Private to lib/: the public API shows the outcome as a negative errno.
 */
#ifndef CONSUL_ERRORS_H
#define CONSUL_ERRORS_H

#include <stdbool.h>

/* How far a request came. Everything but CONSUL_NET_OK means that there is no complete answer. */
enum consul_net {
    CONSUL_NET_OK,          /* a complete answer, whatever its status */
    CONSUL_NET_REFUSED,     /* nobody listens there */
    CONSUL_NET_TIMEOUT,     /* the deadline passed, connecting or waiting */
    CONSUL_NET_TLS,         /* handshake or verification failed */
    CONSUL_NET_RESET,       /* connection closed or reset before the answer was complete */
    CONSUL_NET_UNREACHABLE, /* no route, network down */
    CONSUL_NET_RESOLVE,     /* the host's name did not resolve */
    CONSUL_NET_TOO_BIG,     /* the answer exceeded the maximum that we allow it */
    CONSUL_NET_PROTOCOL,    /* not HTTP, or HTTP that makes no sense */
    CONSUL_NET_CANCELLED,   /* given up by us: interrupted or shutting down */
};

/* What a write made depend on the present state: it says what Consul's answer `false` means. */
enum consul_condition {
    CONSUL_UNCONDITIONAL, /* plain reads and writes */
    CONSUL_IF_INDEX,      /* cas=N: only if the ModifyIndex is still N */
    CONSUL_IF_ABSENT,     /* cas=0: create only */
    CONSUL_IF_UNLOCKED,   /* acquire= */
};

/* Everything that the decision depends on. Zero-initialise it: the rest is then a plain read. */
struct consul_answer_facts {
    enum consul_net net;
    long status;      /* HTTP status; 0 when none arrived. May be set with a net other than OK: then it was cut short */
    const char *body; /* NUL-terminated, borrowed; NULL if none. Only a bounded head is read */
    enum consul_condition condition;
    bool is_write;

    /* The endpoint answers 500 to what fails validation (sessions, catalog, ACLs …), where it should have said 400. */
    bool validates_by_500;

    /* A thing was asked for by name and its endpoint says 200 `null`, `[]` or `{"Node":null…` when there is none. */
    bool empty_is_absent;
};

/*
 * 0 if the request was carried out (or the read succeeded), else a negative errno. That of an error which is transient
 * is for when retrying was no use.
 */
int consul_errno(const struct consul_answer_facts *facts);

/*
 * Whether the same request may well succeed a moment later: connection cap, rate limit, an election, servers out of the
 * agent's reach. Says nothing about whether this one took effect: retry what is idempotent, within its deadline.
 */
bool consul_error_is_transient(const struct consul_answer_facts *facts);

/* Whether it is transient and this request certainly did not take effect: then any write may be sent again. */
bool consul_error_is_unapplied(const struct consul_answer_facts *facts);

#endif
