/*
 * The network thread. Owns the multi handle, the easy handles and every request between submission and `done`.
 *
 * The queue of new and cancelled requests is shared with other threads (http.lock). All else belongs to whose turn it
 * is (http.turn): the network thread, save while it waits. Then who submits a request may send it itself, as waking the
 * network thread for that takes as long as all the rest of sending. But `done` is the network thread's alone.
 */
#include "http.h"

#include "sockets.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define RETRY_FIRST_MS 50
#define RETRY_MAX_MS 2000
/* curl keeps this many idle easy handles for reuse: setting one up costs allocations. */
#define EASY_POOL 16
#define PROBE_BUFFER 1024L /* bytes, the least that curl takes */

static _Thread_local const struct http *serving; /* the one whose network thread this is */

struct request_list {
    struct http_request *first, *last;
};

struct http {
    /* constant after http_new */
    char *base_url;
    char *unix_socket, *auth, *ca_file, *ca_path, *client_cert, *client_key;
    struct curl_slist *resolve; /* maps tls_server_name to the agent's address */
    bool tls_verify, https;
    char *token_header;
    uint64_t (*tick)(void *arg, uint64_t now_ns);
    void *tick_arg;
    pthread_t thread;
    bool started;
    CURLM *multi;
    struct sockets *sockets;

    pthread_mutex_t lock;                          /* innermost: nothing is called while it is held */
    struct request_list submitted;                 /* guarded by lock */
    bool cancel_pending, resume_pending, stopping; /* guarded by lock */

    pthread_mutex_t turn; /* outermost; else than the network thread nobody waits for it */
    /* guarded by turn */
    struct request_list active, delayed;
    struct request_list probes; /* to be started */
    bool any_failed;            /* of those that are active, to begin with */
    CURL *pool[EASY_POOL];
    unsigned pool_n;
    uint64_t curl_due_ns; /* when curl wants its time-outs looked at */

    atomic_uint_fast64_t requests, blocking_queries, received, sent, errors, retries;
};

uint64_t consul_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#define TOKEN_FIELD "X-Consul-Token: "

static void list_add(struct request_list *list, struct http_request *request)
{
    request->next = NULL;
    request->prev = list->last;
    if (list->last)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

static void list_remove(struct request_list *list, struct http_request *request)
{
    if (request->prev)
        request->prev->next = request->next;
    else
        list->first = request->next;
    if (request->next)
        request->next->prev = request->prev;
    else
        list->last = request->prev;
    request->prev = request->next = NULL;
}

struct http_request *http_request_new(const char *method, const char *path)
{
    struct http_request *request = calloc(1, sizeof(*request));

    if (!request)
        return NULL;
    request->method = strdup(method);
    request->path = path ? strdup(path) : NULL;
    if (!request->method || (path && !request->path)) {
        http_request_free(request);
        return NULL;
    }
    return request;
}

void http_request_free(struct http_request *request)
{
    if (!request)
        return;
    consul_buf_free(&request->answer);
    free(request->method);
    free(request->path);
    free(request->url);
    free(request->body);
    free(request);
}

/* ---- one request on curl ---------------------------------------------------------------------------------------- */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct http_request *request = arg;
    long status = 0;

    if (request->url) /* a probe wants no body */
        return size * n;
    if (request->piece && curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK &&
        status == 200) {
        if (serving != request->http) { /* who sends another request is not to be called back: curl keeps it */
            http_resume(request->http, request);
            return CURL_WRITEFUNC_PAUSE;
        }
        return request->piece(request, data, size * n) ? size * n : CURL_WRITEFUNC_PAUSE;
    }
    if (consul_buf_append(&request->answer, data, size * n) < 0) {
        request->net = CONSUL_NET_TOO_BIG;
        return 0; /* ends the transfer */
    }
    return size * n;
}

/* Header names are compared without case: Consul's spelling of them has changed. */
static bool header_is(const char *line, size_t len, const char *name, const char **ret_value, size_t *ret_len)
{
    size_t n = strlen(name);

    if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
        return false;
    line += n + 1;
    len -= n + 1;
    while (len > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        len--;
    }
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == '\n' || line[len - 1] == ' '))
        len--;
    *ret_value = line;
    *ret_len = len;
    return true;
}

static uint64_t header_number(const char *value, size_t len)
{
    uint64_t number = 0;

    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9' || number > (UINT64_MAX - 9) / 10)
            return 0;
        number = number * 10 + (uint64_t)(value[i] - '0');
    }
    return number;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct http_request *request = arg;
    size_t len = size * n;
    const char *value;
    size_t value_len;

    if (header_is(line, len, "X-Consul-Index", &value, &value_len))
        request->index = header_number(value, value_len);
    else if (header_is(line, len, "X-Consul-KnownLeader", &value, &value_len)) {
        request->tells_leader = true;
        request->known_leader = value_len == 4 && strncasecmp(value, "true", 4) == 0;
    } else if (header_is(line, len, "X-Consul-LastContact", &value, &value_len))
        request->last_contact_ms = header_number(value, value_len);
    else if (header_is(line, len, "X-Consul-Results-Filtered-By-ACLs", &value, &value_len))
        request->filtered = value_len == 4 && strncasecmp(value, "true", 4) == 0;
    return len;
}

static enum consul_net net_of_curl(const struct http_request *request, CURLcode code, long os_errno)
{
    switch (code) {
    case CURLE_OK:
        return CONSUL_NET_OK;
    case CURLE_WRITE_ERROR:
        return request->net == CONSUL_NET_TOO_BIG ? CONSUL_NET_TOO_BIG : CONSUL_NET_PROTOCOL;
    case CURLE_COULDNT_CONNECT:
        if (os_errno == EHOSTUNREACH || os_errno == ENETUNREACH)
            return CONSUL_NET_UNREACHABLE;
        return os_errno == ETIMEDOUT ? CONSUL_NET_TIMEOUT : CONSUL_NET_REFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return CONSUL_NET_RESOLVE;
    case CURLE_OPERATION_TIMEDOUT:
        return CONSUL_NET_TIMEOUT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_USE_SSL_FAILED:
        return CONSUL_NET_TLS;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
        return CONSUL_NET_RESET;
    default:
        return CONSUL_NET_PROTOCOL;
    }
}

static struct curl_slist *build_headers(const struct http *http, const struct http_request *request)
{
    struct curl_slist *list = curl_slist_append(NULL, "Expect:"); /* no pause of a second before a large PUT */
    struct curl_slist *more = list;
    char type[128];

    if (more && http->token_header && !request->url)
        more = curl_slist_append(list, http->token_header);
    if (more && (request->body || request->body_is_file)) {
        snprintf(type, sizeof(type), "Content-Type: %s",
                 request->content_type ? request->content_type : "application/json");
        more = curl_slist_append(list, type);
    }
    if (!more) {
        curl_slist_free_all(list);
        return NULL;
    }
    return list;
}

static void set_protocols(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
}

static void set_agent_options(const struct http *http, CURL *easy)
{
    /* Newer servers close what is idle for 120 s. A request that meets such a close is sent again by curl, which for an
     * append would be once too often. */
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, 60L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 30L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 10L);
    if (http->unix_socket)
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, http->unix_socket);
    if (http->auth) {
        curl_easy_setopt(easy, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        curl_easy_setopt(easy, CURLOPT_USERPWD, http->auth);
    }
    if (http->https) {
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, http->tls_verify ? 1L : 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, http->tls_verify ? 2L : 0L);
        curl_easy_setopt(easy, CURLOPT_CAINFO, http->ca_file);
        curl_easy_setopt(easy, CURLOPT_CAPATH, http->ca_path);
        curl_easy_setopt(easy, CURLOPT_SSLCERT, http->client_cert);
        curl_easy_setopt(easy, CURLOPT_SSLKEY, http->client_key);
        curl_easy_setopt(easy, CURLOPT_CONNECT_TO, http->resolve);
    } else {
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    }
}

static void set_probe_options(const struct http_request *request, CURL *easy)
{
    /* A probe measures an instance that already passes its check, which may well skip verification: it asks for
     * speed, hands over nothing and believes nothing. */
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, request->connect_only ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, PROBE_BUFFER); /* hundreds may be under way, for a few headers each */
}

static void finish(struct http *http, struct http_request *request);

static size_t read_file_body(char *buffer, size_t size, size_t n, void *arg)
{
    struct http_request *request = arg;
    size_t left = request->body_len - request->body_sent;
    ssize_t len = pread(request->body_fd, buffer, left < size * n ? left : size * n, (off_t)request->body_sent);

    if (len < 0 || (len == 0 && left > 0))
        return CURL_READFUNC_ABORT;
    request->body_sent += (size_t)len;
    return (size_t)len;
}

static int seek_file_body(void *arg, curl_off_t offset, int origin)
{
    struct http_request *request = arg;

    if (origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    request->body_sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static void set_file_body(struct http_request *request, CURL *easy)
{
    request->body_sent = 0;
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_file_body);
    curl_easy_setopt(easy, CURLOPT_READDATA, request);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, seek_file_body);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, request);
}

#define STREAM_CONNECT_MS 10000

static void set_time_limits(const struct http_request *request, CURL *easy, uint64_t now)
{
    if (!request->piece) {
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)((request->deadline_ns - now) / 1000000 + 1));
        curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)((request->deadline_ns - now) / 1000000 + 1));
        return;
    }
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)STREAM_CONNECT_MS);
    if (request->stall_ms > 0) { /* does not count while the transfer stands still for want of room */
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)((request->stall_ms + 999) / 1000));
    }
}

/* False: it has failed before it was sent, and is to be finished. */
static bool begin(struct http *http, struct http_request *request)
{
    uint64_t now = consul_now_ns();
    struct consul_buf url;
    CURL *easy;

    list_add(&http->active, request);
    request->net = CONSUL_NET_OK;
    request->status = 0;
    request->index = 0;
    request->filtered = request->known_leader = request->tells_leader = false;
    request->last_contact_ms = 0;
    request->served_ns = 0;
    consul_buf_reset(&request->answer);
    request->sent_ns = now;
    if (request->deadline_ns <= now) {
        request->net = CONSUL_NET_TIMEOUT;
        return false;
    }
    easy = http->pool_n > 0 ? http->pool[--http->pool_n] : curl_easy_init();
    request->easy = easy;
    request->header_list = build_headers(http, request);
    consul_buf_init(&url, SIZE_MAX / 2);
    if (!easy || !request->header_list ||
        (!request->url && (consul_buf_puts(&url, http->base_url) < 0 || consul_buf_puts(&url, request->path) < 0))) {
        consul_buf_free(&url);
        request->net = CONSUL_NET_PROTOCOL;
        return false;
    }
    curl_easy_setopt(easy, CURLOPT_URL, request->url ? request->url : url.data);
    consul_buf_free(&url);
    set_protocols(easy);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");          /* as the consul CLI on a loopback agent; never a surprise */
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L); /* a 301 of Go's mux names another key */
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    /* No Accept-Encoding: for 3.9 MB an agent takes twice the CPU and time to send 0.5 MB instead, which pays only on a
     * network of less than 400 Mbit/s; nearly all agents are on the same host. */
    set_time_limits(request, easy, now);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->header_list);
    if (request->url)
        set_probe_options(request, easy);
    else
        set_agent_options(http, easy);
    if (request->apart && !http->https) /* else all share one (HTTP/2) */
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
    if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else {
        if (request->body_is_file) {
            set_file_body(request, easy);
        } else if (request->body) { /* gives Content-Length, which Consul's size check needs */
            curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
            curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
        } else {
            curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        }
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    }
    if (request->blocking)
        atomic_fetch_add_explicit(&http->blocking_queries, 1, memory_order_relaxed);
    else if (!request->url)
        atomic_fetch_add_explicit(&http->requests, 1, memory_order_relaxed);
    if (curl_multi_add_handle(http->multi, easy) == CURLM_OK)
        return true;
    request->net = CONSUL_NET_PROTOCOL;
    return false;
}

static void start(struct http *http, struct http_request *request)
{
    if (!begin(http, request))
        request->failed = http->any_failed = true; /* the network thread finishes it */
}

/* Gives the easy handle back, keeps the request. */
static void release_easy(struct http *http, struct http_request *request)
{
    curl_slist_free_all(request->header_list);
    request->header_list = NULL;
    if (!request->easy)
        return;
    if (http->pool_n < EASY_POOL) {
        curl_easy_reset(request->easy);
        http->pool[http->pool_n++] = request->easy;
    } else {
        curl_easy_cleanup(request->easy);
    }
    request->easy = NULL;
}

static bool is_health(const struct http_request *request)
{
    const char *body = request->answer.data;

    return request->health_by_status && (request->status == 429 || request->status == 503) && body && body[0] == '{';
}

static struct consul_answer_facts facts_of(const struct http_request *request)
{
    return (struct consul_answer_facts){
        .net = request->net,
        .status = is_health(request) ? 200 : request->status,
        .body = request->answer.data,
        .is_write = request->intent != CONSUL_READ,
        .validates_by_500 = request->intent == CONSUL_WRITE_STRICT,
    };
}

int http_errno(const struct http_request *request)
{
    struct consul_answer_facts facts = facts_of(request);

    if (request->net == CONSUL_NET_TIMEOUT && request->earlier_error)
        return request->earlier_error;
    return consul_errno(&facts);
}

bool http_is_transient(const struct http_request *request)
{
    struct consul_answer_facts facts = facts_of(request);

    return consul_error_is_transient(&facts);
}

static bool may_retry(const struct http_request *request, uint64_t now, uint64_t *ret_delay_ms)
{
    struct consul_answer_facts facts = facts_of(request);
    uint64_t delay = RETRY_FIRST_MS;

    if (request->blocking || request->url || request->cancelled || request->piece)
        return false;
    if (!consul_error_is_transient(&facts))
        return false;
    if (request->intent != CONSUL_READ && !consul_error_is_unapplied(&facts))
        return false; /* it may have been carried out */
    for (unsigned i = 0; i < request->attempts && delay < RETRY_MAX_MS; i++)
        delay *= 2;
    delay = delay / 2 + (uint64_t)rand() % delay; /* jitter: a fleet must not come back in step */
    *ret_delay_ms = delay;
    return now + delay * 1000000 < request->deadline_ns;
}

/* A server that repeats our token in what it says gets no place to say it in. */
static void mask_token(const struct http *http, struct consul_buf *words)
{
    size_t len;

    if (!http->token_header || !words->data)
        return;
    len = strlen(http->token_header + strlen(TOKEN_FIELD));
    for (char *at = words->data; (at = strstr(at, http->token_header + strlen(TOKEN_FIELD))); at += len)
        memset(at, '*', len);
}

/* The attempt is over: retry later, or hand the result over. */
static void finish(struct http *http, struct http_request *request)
{
    uint64_t delay_ms;

    list_remove(&http->active, request);
    release_easy(http, request);
    request->done_ns = consul_now_ns();
    if (may_retry(request, request->done_ns, &delay_ms)) {
        request->attempts++;
        request->earlier_error = http_errno(request);
        request->retry_ns = request->done_ns + delay_ms * 1000000;
        atomic_fetch_add_explicit(&http->retries, 1, memory_order_relaxed);
        list_add(&http->delayed, request);
        return;
    }
    if (!request->url && !request->cancelled && (request->net != CONSUL_NET_OK || request->status >= 400))
        if (request->status != 404)
            atomic_fetch_add_explicit(&http->errors, 1, memory_order_relaxed);
    if (request->status >= 400)
        mask_token(http, &request->answer);
    request->done(request);
}

static void on_curl_done(struct http *http, CURL *easy, CURLcode code)
{
    struct http_request *request;
    curl_off_t down = 0, up = 0, sent_us = 0, began_us = 0;
    long os_errno = 0, status = 0;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&request);
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_errno);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    curl_easy_getinfo(easy, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &sent_us);
    curl_easy_getinfo(easy, CURLINFO_STARTTRANSFER_TIME_T, &began_us);
    atomic_fetch_add_explicit(&http->received, (uint64_t)down, memory_order_relaxed);
    atomic_fetch_add_explicit(&http->sent, (uint64_t)up, memory_order_relaxed);
    curl_multi_remove_handle(http->multi, easy);
    request->net = net_of_curl(request, code, os_errno);
    request->status = (int)status;
    request->served_ns = began_us > sent_us ? (uint64_t)(began_us - sent_us) * 1000 : 0;
    finish(http, request);
}

/* ---- the loop -----------------------------------------------------------------------------------------------------
 */

static void cancel_one(struct http *http, struct request_list *list, struct http_request *request)
{
    if (list == &http->active && request->easy)
        curl_multi_remove_handle(http->multi, request->easy);
    request->net = CONSUL_NET_CANCELLED;
    if (list == &http->active) {
        finish(http, request);
    } else {
        list_remove(list, request);
        request->done_ns = consul_now_ns();
        request->done(request);
    }
}

static void cancel_marked(struct http *http, bool all)
{
    struct request_list *lists[] = {&http->active, &http->delayed, &http->probes};

    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
        struct http_request *request = lists[i]->first;

        while (request) {
            struct http_request *next = request->next;

            if (all)
                request->cancelled = true;
            if (request->cancelled)
                cancel_one(http, lists[i], request);
            request = next;
        }
    }
}

/* curl hands over what it held back at once, and this may fill the window again. */
static void resume_marked(struct http *http)
{
    struct http_request *request = http->active.first, *next;

    for (; request; request = next) {
        next = request->next;
        if (request->easy && atomic_exchange(&request->resumed, false))
            curl_easy_pause(request->easy, CURLPAUSE_CONT);
    }
}

static void look_at_timeouts(struct http *http)
{
    int running;

    if (http->curl_due_ns > consul_now_ns())
        return;
    http->curl_due_ns = UINT64_MAX; /* until it says otherwise */
    curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

/* One at a time: what the others answer meanwhile is not to wait until the last of hundreds is on its way. False: there
 * is none. It may be over already. */
static bool start_probe(struct http *http)
{
    struct http_request *request = http->probes.first;

    if (!request)
        return false;
    list_remove(&http->probes, request);
    start(http, request);
    look_at_timeouts(http); /* which connects it */
    return true;
}

static void finish_failed(struct http *http)
{
    struct http_request *request = http->active.first, *next;

    http->any_failed = false;
    for (; request; request = next) {
        next = request->next;
        if (request->failed) {
            request->failed = false;
            finish(http, request);
        }
    }
}

static void start_all(struct http *http, struct request_list *requests)
{
    while (requests->first) {
        struct http_request *request = requests->first;

        list_remove(requests, request);
        if (request->url)
            list_add(&http->probes, request);
        else
            start(http, request);
    }
}

/* Takes over what other threads submitted. Returns false when it is time to stop. */
static bool take_submitted(struct http *http)
{
    struct request_list taken;
    bool cancel, resume, stopping;

    pthread_mutex_lock(&http->lock);
    taken = http->submitted;
    http->submitted = (struct request_list){0};
    cancel = http->cancel_pending;
    http->cancel_pending = false;
    resume = http->resume_pending;
    http->resume_pending = false;
    stopping = http->stopping;
    pthread_mutex_unlock(&http->lock);

    start_all(http, &taken);
    if (http->any_failed)
        finish_failed(http);
    if (resume)
        resume_marked(http);
    if (cancel || stopping)
        cancel_marked(http, stopping);
    return !stopping;
}

static uint64_t start_delayed(struct http *http, uint64_t now)
{
    struct http_request *request = http->delayed.first;
    uint64_t next_ns = UINT64_MAX;

    while (request) {
        struct http_request *next = request->next;

        if (request->retry_ns <= now) {
            list_remove(&http->delayed, request);
            start(http, request);
        } else if (request->retry_ns < next_ns) {
            next_ns = request->retry_ns;
        }
        request = next;
    }
    return next_ns;
}

/* curl says which sockets it waits for, and until when; it is called in curl's own functions and must not call it. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct http *http = arg;
    unsigned events = 0;

    (void)easy, (void)socket_arg;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= SOCKETS_IN;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= SOCKETS_OUT;
    return sockets_watch(http->sockets, fd, events) < 0 ? -1 : 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *arg)
{
    struct http *http = arg;

    (void)multi;
    http->curl_due_ns = timeout_ms < 0 ? UINT64_MAX : consul_now_ns() + (uint64_t)timeout_ms * 1000000;
    return 0;
}

static void on_ready(void *arg, int fd, unsigned events)
{
    struct http *http = arg;
    int running, what = 0;

    pthread_mutex_lock(&http->turn);
    if (events & SOCKETS_IN)
        what |= CURL_CSELECT_IN;
    if (events & SOCKETS_OUT)
        what |= CURL_CSELECT_OUT;
    if (events & SOCKETS_ERR)
        what |= CURL_CSELECT_ERR;
    curl_multi_socket_action(http->multi, fd, what, &running);
    pthread_mutex_unlock(&http->turn);
}

static int ms_until(uint64_t then)
{
    uint64_t now = consul_now_ns();

    if (then <= now)
        return 0;
    return then - now > (uint64_t)60 * 1000000000 ? 60000 : (int)((then - now) / 1000000) + 1;
}

/* Something is there to be begun or finished, and not to be waited for. */
static bool has_more(struct http *http)
{
    bool more;

    pthread_mutex_lock(&http->lock);
    more = http->submitted.first != NULL;
    pthread_mutex_unlock(&http->lock);
    return more || http->probes.first || http->any_failed;
}

static void *network_thread(void *arg)
{
    struct http *http = arg;

    serving = http;
    pthread_mutex_lock(&http->turn);
    while (take_submitted(http)) {
        uint64_t now, next, delayed;
        CURLMsg *message;
        int left, wait_ms;
        bool probed;

        look_at_timeouts(http);
        while ((message = curl_multi_info_read(http->multi, &left)))
            if (message->msg == CURLMSG_DONE)
                on_curl_done(http, message->easy_handle, message->data.result);
        now = consul_now_ns();
        next = http->tick(http->tick_arg, now);
        delayed = start_delayed(http, now);
        probed = start_probe(http);
        if (delayed < next)
            next = delayed;
        if (http->curl_due_ns < next)
            next = http->curl_due_ns;
        wait_ms = probed || has_more(http) ? 0 : ms_until(next);
        pthread_mutex_unlock(&http->turn);
        sockets_wait(http->sockets, wait_ms, on_ready, http);
        pthread_mutex_lock(&http->turn);
    }
    /* A callback of the last round may have submitted more: end these as well. */
    while (has_more(http) || http->active.first || http->delayed.first)
        take_submitted(http);
    pthread_mutex_unlock(&http->turn);
    return NULL;
}

void http_wakeup(struct http *http) { sockets_wake(http->sockets); }

/* True: nothing was there, so that the network thread has not been woken for it. */
static bool enqueue(struct http *http, struct http_request *request)
{
    bool first;

    request->http = http;
    consul_buf_init(&request->answer, request->max_answer);
    pthread_mutex_lock(&http->lock);
    first = !http->submitted.first;
    list_add(&http->submitted, request);
    pthread_mutex_unlock(&http->lock);
    return first;
}

void http_submit(struct http *http, struct http_request *request)
{
    if (enqueue(http, request) && serving != http)
        sockets_wake(http->sockets);
}

void http_enqueue(struct http *http, struct http_request *request) { (void)enqueue(http, request); }

/* It is this thread's turn. */
static void begin_submitted(struct http *http)
{
    struct request_list taken = {0};

    pthread_mutex_lock(&http->lock);
    if (!http->stopping) {
        taken = http->submitted;
        http->submitted = (struct request_list){0};
    }
    pthread_mutex_unlock(&http->lock);
    start_all(http, &taken);
    look_at_timeouts(http); /* which sends them */
    (void)start_probe(http);
}

void http_send(struct http *http)
{
    if (serving == http)
        return;
    if (pthread_mutex_trylock(&http->turn) == 0) {
        begin_submitted(http);
        pthread_mutex_unlock(&http->turn);
    }
    sockets_wake(http->sockets); /* curl may have other time-outs now */
}

void http_resume(struct http *http, struct http_request *request)
{
    pthread_mutex_lock(&http->lock);
    request->resumed = true;
    http->resume_pending = true;
    pthread_mutex_unlock(&http->lock);
    sockets_wake(http->sockets);
}

void http_cancel(struct http *http, struct http_request *request)
{
    pthread_mutex_lock(&http->lock);
    request->cancelled = true;
    http->cancel_pending = true;
    pthread_mutex_unlock(&http->lock);
    sockets_wake(http->sockets);
}

void http_add_stats(struct http *http, struct consul_stats *stats)
{
    stats->requests = atomic_load_explicit(&http->requests, memory_order_relaxed);
    stats->blocking_queries = atomic_load_explicit(&http->blocking_queries, memory_order_relaxed);
    stats->bytes_received = atomic_load_explicit(&http->received, memory_order_relaxed);
    stats->bytes_sent = atomic_load_explicit(&http->sent, memory_order_relaxed);
    stats->errors = atomic_load_explicit(&http->errors, memory_order_relaxed);
    stats->retries = atomic_load_explicit(&http->retries, memory_order_relaxed);
}

/* ---- beginning and end ----------------------------------------------------------------------------------------- */

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_init_once(void) { curl_global_init(CURL_GLOBAL_ALL); }

static int copy(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? -ENOMEM : 0;
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void http_destroy(struct http *http)
{
    while (http->pool_n > 0)
        curl_easy_cleanup(http->pool[--http->pool_n]);
    if (http->multi)
        curl_multi_cleanup(http->multi);
    sockets_free(http->sockets);
    curl_slist_free_all(http->resolve);
    free(http->base_url);
    free(http->unix_socket);
    wipe(http->auth);
    wipe(http->token_header);
    free(http->ca_file);
    free(http->ca_path);
    free(http->client_cert);
    free(http->client_key);
    pthread_mutex_destroy(&http->lock);
    pthread_mutex_destroy(&http->turn);
    free(http);
}

/*
 * CONSUL_TLS_SERVER_NAME: verify this name (and send it as SNI) although the address is another one. curl takes the
 * name to verify from the URL, so the URL gets the name and CONNECT_TO the address.
 */
static int apply_server_name(struct http *http, const struct consul_config *config)
{
    const char *path = config->path_prefix ? config->path_prefix : "";
    struct consul_buf buf;

    if (!http->https || !config->tls_server_name)
        return 0;
    consul_buf_init(&buf, 4096);
    if (consul_buf_printf(&buf, "https://%s%s", config->tls_server_name, path) < 0) {
        consul_buf_free(&buf);
        return -EINVAL;
    }
    free(http->base_url);
    http->base_url = consul_buf_take(&buf, NULL);
    consul_buf_init(&buf, 4096);
    if (consul_buf_printf(&buf, "::%s", config->host_port) < 0) {
        consul_buf_free(&buf);
        return -EINVAL;
    }
    http->resolve = curl_slist_append(NULL, buf.data);
    consul_buf_free(&buf);
    return http->resolve && http->base_url ? 0 : -ENOMEM;
}

int http_new(const struct consul_config *config, unsigned connections, uint64_t (*tick)(void *arg, uint64_t now_ns),
             void *arg, struct http **ret_http)
{
    struct http *http = calloc(1, sizeof(*http));
    int r;

    if (!http)
        return -ENOMEM;
    pthread_once(&curl_once, curl_init_once);
    pthread_mutex_init(&http->lock, NULL);
    pthread_mutex_init(&http->turn, NULL);
    http->tick = tick;
    http->tick_arg = arg;
    http->tls_verify = config->tls_verify;
    http->https = config->scheme && strcmp(config->scheme, "https") == 0;
    if ((r = consul_config_base_url(config, &http->base_url)) < 0 ||
        (r = copy(&http->unix_socket, config->unix_socket)) < 0 ||
        (r = copy(&http->auth, config->http_auth_user_pass)) < 0 || (r = copy(&http->ca_file, config->ca_file)) < 0 ||
        (r = copy(&http->ca_path, config->ca_path)) < 0 || (r = copy(&http->client_cert, config->client_cert)) < 0 ||
        (r = copy(&http->client_key, config->client_key)) < 0 || (r = apply_server_name(http, config)) < 0)
        goto fail;
    r = -ENOMEM;
    if (config->token && *config->token) {
        size_t size = strlen(config->token) + sizeof(TOKEN_FIELD);

        http->token_header = malloc(size);
        if (!http->token_header)
            goto fail;
        snprintf(http->token_header, size, TOKEN_FIELD "%s", config->token);
    }
    http->multi = curl_multi_init();
    if (!http->multi)
        goto fail;
    r = sockets_new(&http->sockets);
    if (r < 0)
        goto fail;
    http->curl_due_ns = UINT64_MAX;
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)connections);
    curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)connections);
    *ret_http = http;
    return 0;
fail:
    http_destroy(http);
    return r;
}

int http_start(struct http *http)
{
    int r = -pthread_create(&http->thread, NULL, network_thread, http);

    http->started = r == 0;
    return r;
}

void http_stop(struct http *http)
{
    if (!http->started)
        return;
    pthread_mutex_lock(&http->lock);
    http->stopping = true;
    pthread_mutex_unlock(&http->lock);
    sockets_wake(http->sockets);
    pthread_join(http->thread, NULL);
    http->started = false;
}

void http_free(struct http *http)
{
    if (!http)
        return;
    http_stop(http);
    http_destroy(http);
}
