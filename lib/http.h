/*
 * The network thread: HTTP requests on one curl multi handle. The only module that knows curl.
 *
 * A request is submitted from any thread and ends with exactly one call of `done` on the network thread. Transient
 * refusals (429, 503, no leader, a reset connection) are retried here, with back-off, while the request's deadline
 * allows it and where that cannot apply it twice.
 */
#ifndef CONSUL_LIB_HTTP_H
#define CONSUL_LIB_HTTP_H

#include "consul.h"
#include "errors.h"

#include <stdatomic.h>

struct http;

struct http_request {
    /* Set by the caller before http_submit(), which the strings and the body must outlive `done`. */
    char *method, *path; /* malloc'd; freed by http_request_free() */
    char *body;
    size_t body_len;
    bool body_is_file; /* then it is read from body_fd while it is sent; borrowed */
    int body_fd;
    const char *content_type;
    char *url;         /* set instead of path for a probe: an absolute URL, asked without token or TLS checks */
    bool connect_only; /* a probe that is done once connected */
    enum consul_intent intent;
    bool health_by_status; /* 429 and 503 with a JSON object are answers: they say how healthy something is */
    bool blocking;         /* a blocking query: not retried here, counted apart */
    bool apart;            /* on a connection that no request had before, so that who comes next finds that one free */
    size_t max_answer;
    /* Not NULL: takes the body of a 200 in pieces. False: none of it now; http_resume() when there is room. Such a
     * request is never sent again. */
    bool (*piece)(struct http_request *request, const char *data, size_t len);
    uint64_t stall_ms; /* with `piece`: gives up after so long without a byte, the deadline does not count. 0: never */
    uint64_t deadline_ns;
    void (*done)(struct http_request *request);
    void *arg;

    /* The result, valid in `done`. */
    enum consul_net net;
    int status;
    uint64_t index;
    bool filtered, known_leader, tells_leader; /* tells_leader: it said whether it knows one */
    uint64_t last_contact_ms;
    struct consul_buf answer;
    uint64_t sent_ns, done_ns; /* of the last attempt */
    uint64_t served_ns;        /* how long after it was sent the answer began to come; 0: it did not */

    /* private to http.c */
    struct http *http;
    void *easy;
    void *header_list;
    unsigned attempts;
    size_t body_sent;  /* of a file */
    int earlier_error; /* of the attempt before: says more than that time ran out on the next one */
    uint64_t retry_ns;
    bool failed;                    /* before it was sent */
    atomic_bool cancelled, resumed; /* written by any thread */
    struct http_request *prev, *next;
};

/* `tick` is called on the network thread with the present time; it returns when it wants to be called next. */
int http_new(const struct consul_config *config, unsigned connections, uint64_t (*tick)(void *arg, uint64_t now_ns),
             void *arg, struct http **ret_http);
/* Starts the network thread. */
int http_start(struct http *http);
/* Cancels what is under way (done is called with CONSUL_NET_CANCELLED) and joins the thread. May be called twice. */
void http_stop(struct http *http);
void http_free(struct http *http);

/* Never fails; errors come through `done`. */
void http_submit(struct http *http, struct http_request *request);
/*
 * The same in two steps: http_enqueue() with any lock held, then http_send() with none. That sends on this thread, if
 * the network thread is not at work. Nothing is called back there.
 */
void http_enqueue(struct http *http, struct http_request *request);
void http_send(struct http *http);
/* Goes on with a request whose `piece` had no room. The caller knows that it is not done. Any thread. */
void http_resume(struct http *http, struct http_request *request);
/* `done` will be called soon with CONSUL_NET_CANCELLED, unless the answer is faster. */
void http_cancel(struct http *http, struct http_request *request);
/* Has tick called soon. */
void http_wakeup(struct http *http);

struct http_request *http_request_new(const char *method, const char *path);
void http_request_free(struct http_request *request);

/* What the result means: 0 or a negative errno, and whether the same request may succeed a moment later. */
int http_errno(const struct http_request *request);
bool http_is_transient(const struct http_request *request);

void http_add_stats(struct http *http, struct consul_stats *stats);

#endif
