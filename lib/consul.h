/*
 * libconsul: a Consul client for event-driven C programs.
 *
 * One client talks to one agent. It owns one network thread, on which every callback below is made; a callback must
 * not block. All functions may be called from any thread, callbacks included, unless their comment says otherwise.
 *
 * Functions that return int return 0 or a negative errno; the mapping of Consul's answers to errno is in errors.c.
 * Results come through the last parameters, ret_…, which stay untouched on failure.
 */
#ifndef CONSUL_H
#define CONSUL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONSUL_WARN_UNUSED __attribute__((warn_unused_result))

struct consul;

/* ---- byte buffers ---------------------------------------------------------------------------------------------- */

/*
 * A buffer that grows, and that has a hard maximum from birth: what the network or a writer fills goes through one of
 * these, so that a hostile peer can cost an error, never the memory of the machine. It belongs to one thread at a time.
 */

/*
 * When data is not NULL it is followed by a NUL that len does not count, so text can be read in place. Read the fields
 * freely; change them only through the functions below.
 */
struct consul_buf {
    char *data; /* owned; NULL until the first byte is stored */
    size_t len; /* bytes stored */
    size_t cap; /* bytes that fit without growing, the NUL not counted */
    size_t max; /* len never exceeds this */
};

/* Makes an empty buffer that allocates nothing yet and will never hold more than max bytes. */
void consul_buf_init(struct consul_buf *buf, size_t max);

/*
 * Each of these appends the whole or, on failure, nothing: -EFBIG when the maximum would be exceeded, -ENOMEM when
 * memory is short. What is appended must not lie in the buffer itself.
 */
__attribute__((warn_unused_result)) int consul_buf_append(struct consul_buf *buf, const void *data, size_t len);
__attribute__((warn_unused_result)) int consul_buf_puts(struct consul_buf *buf, const char *text);
__attribute__((warn_unused_result, format(printf, 2, 3))) int consul_buf_printf(struct consul_buf *buf, const char *fmt,
                                                                                ...);

/*
 * Appends text[0..len) percent-encoded: the unreserved characters of RFC 3986 (section 2.3) and those in safe stay,
 * every other byte becomes %XX in upper case. NULL for safe means none; "/" keeps a KV path's slashes. A '%' in safe
 * would make the result ambiguous: don't.
 */
__attribute__((warn_unused_result)) int consul_buf_append_urlencoded(struct consul_buf *buf, const char *text,
                                                                     size_t len, const char *safe);

/* Forgets the contents and keeps the memory and the maximum. */
void consul_buf_reset(struct consul_buf *buf);

/*
 * Hands the contents to the caller, who frees them with free(). They end in a NUL that *ret_len (may be NULL) does not
 * count. The buffer is empty afterwards and can be used again. NULL, with everything as it was, only if the buffer was
 * empty and memory is short; an empty buffer otherwise gives "".
 */
__attribute__((warn_unused_result)) char *consul_buf_take(struct consul_buf *buf, size_t *ret_len);

/* Releases the memory; the buffer is empty and usable afterwards. Takes NULL. Fits __attribute__((cleanup)). */
void consul_buf_free(struct consul_buf *buf);

/* ---- configuration --------------------------------------------------------------------------------------------- */

/*
 * Where the agent is and how to talk to it. Filled by consul_config_init_from_env() as the consul CLI reads its
 * environment; every string is malloc'd or NULL. consul_new() copies what it needs.
 */
struct consul_config {
    char *scheme;              /* "http" or "https" */
    char *host_port;           /* "127.0.0.1:8500", "[::1]:8500"; for a unix socket a placeholder */
    char *unix_socket;         /* path, or NULL */
    char *path_prefix;         /* "/consul" for an agent behind a reverse proxy, or NULL */
    bool ssl;                  /* CONSUL_HTTP_SSL: https whatever the address says */
    char *token;               /* sent as X-Consul-Token, never in a URL */
    char *http_auth_user_pass; /* "user:password" for basic authentication */
    bool tls_verify;
    char *ca_file, *ca_path;
    char *client_cert, *client_key; /* both or neither */
    char *tls_server_name;
    char *namespace_, *partition, *datacenter; /* sent with every request that takes them; NULL: the agent's own */
};

/* Reads CONSUL_HTTP_ADDR and its companions. getenv_fn NULL means getenv(3). On failure *ret_error is one line. */
int consul_config_init_from_env(struct consul_config *config, char *(*getenv_fn)(const char *),
                                char **ret_error) CONSUL_WARN_UNUSED;
/* Takes an address in any spelling that CONSUL_HTTP_ADDR has. */
int consul_config_set_address(struct consul_config *config, const char *address, char **ret_error) CONSUL_WARN_UNUSED;
/* Reads and trims the token; a file that cannot be read is an error. */
int consul_config_set_token_file(struct consul_config *config, const char *path, char **ret_error) CONSUL_WARN_UNUSED;
/* Replaces the datacenter that dc= names; NULL or "" for the agent's own. */
int consul_config_set_datacenter(struct consul_config *config, const char *datacenter,
                                 char **ret_error) CONSUL_WARN_UNUSED;
/* "http://127.0.0.1:8500" with the path prefix, without a trailing slash. The caller frees it. */
int consul_config_base_url(const struct consul_config *config, char **ret_url) CONSUL_WARN_UNUSED;
/* Frees the strings and wipes the secrets. */
void consul_config_clear(struct consul_config *config);

/* ---- the client ------------------------------------------------------------------------------------------------ */

enum consul_log_level { CONSUL_LOG_ERROR, CONSUL_LOG_WARNING, CONSUL_LOG_INFO, CONSUL_LOG_DEBUG };

/* The library never prints: it calls this, with one line, without a newline and without secrets. */
typedef void consul_log_fn(void *arg, enum consul_log_level level, const char *line);

struct consul_resource;
struct consul_snapshot;

enum consul_change {
    CONSUL_CHANGED,     /* the resource has a new snapshot */
    CONSUL_WATCH_ENDED, /* the resource is no longer kept up to date: forget what was told under its watch */
};

/* Stale: how long a snapshot is still served while the agent does not answer. */
#define CONSUL_STALE_FOREVER UINT64_MAX

#define CONSUL_SESSION_TTL_S 15

struct consul_options {
    unsigned watches;    /* connections that blocking queries and other requests share; see cache.c */
    uint64_t timeout_ms; /* for one request, retries included */
    uint64_t stale_ms;   /* or CONSUL_STALE_FOREVER. Not 0: any server may tell of changes; see cache.c */
    consul_log_fn *log;  /* may be NULL */
    void *log_arg;
    /*
     * Told of every change of a resource, in order, on the network thread, with no lock held. May be NULL. With
     * CONSUL_CHANGED `before` (NULL: nothing was known) and `after` are the snapshots on both sides of it, borrowed;
     * what this client wrote itself is on both sides.
     */
    void (*changed)(void *arg, struct consul_resource *resource, enum consul_change change,
                    struct consul_snapshot *before, struct consul_snapshot *after);
    void *changed_arg;
    const char *session_name; /* of locks; NULL: "libconsul" */
    unsigned session_ttl_s;   /* 10 to 86400; 0: CONSUL_SESSION_TTL_S */
};

/* Starts the network thread. Sends nothing yet. */
int consul_new(const struct consul_config *config, const struct consul_options *options,
               struct consul **ret_client) CONSUL_WARN_UNUSED;
/* Ends what is under way with -ECANCELED (callbacks are made) and joins the thread; from then on nothing is asked. Not
 * from a callback. */
void consul_stop(struct consul *client);
/* Stops and frees. Every reference to a resource must have been given back before. NULL is fine. */
void consul_free(struct consul *client);

/* Monotonic nanoseconds: the clock of every *_ns here. */
uint64_t consul_now_ns(void);

/* ---- single requests ------------------------------------------------------------------------------------------- */

/* What a refusal means depends on what was asked. */
enum consul_intent {
    CONSUL_READ,         /* retried while the deadline allows */
    CONSUL_WRITE,        /* retried only where that cannot apply it twice */
    CONSUL_WRITE_STRICT, /* the same; the endpoint answers validation failures with 500: -EINVAL */
};

struct consul_request {
    const char *method; /* "GET", "PUT", "DELETE", "POST" */
    const char *path;   /* "/v1/…", encoded, with its query */
    const void *body;   /* copied */
    size_t body_len;
    bool body_is_file; /* the body is the first body_len bytes of body_fd, read while it is sent; the caller keeps it
                          open until the answer */
    int body_fd;
    const char *content_type; /* NULL: application/json */
    size_t max_answer;        /* bytes; 0: 64 MiB. A longer answer is -EFBIG */
    uint64_t timeout_ms;      /* 0: the client's */
    enum consul_intent intent;
};

struct consul_answer {
    int err;          /* 0, or what the failure means as a negative errno */
    int status;       /* HTTP status; 0 without an answer */
    uint64_t index;   /* X-Consul-Index; 0 without */
    bool filtered;    /* the server says that ACLs hid a part (from 1.11) */
    const char *body; /* NUL-terminated; the server's words on a refusal. Valid during the callback */
    size_t body_len;
    const char *method, *path; /* what was asked, for the record */
};

/* Called once for each request that was started, on the network thread. */
typedef void consul_done_fn(void *arg, const struct consul_answer *answer);

int consul_request(struct consul *client, const struct consul_request *request, consul_done_fn *done,
                   void *arg) CONSUL_WARN_UNUSED;

/* Appends a path segment or query value, percent-encoded. `out` has room for 3 * strlen(text) + 1. */
void consul_urlencode(const char *text, const char *safe, char *out);

/* ---- KV entries ------------------------------------------------------------------------------------------------ */

/*
 * One key at one ModifyIndex. Immutable; counted; any thread. The key, the value and the session follow the struct:
 * there may be a hundred thousand of these, nearly all without a session.
 */
struct consul_kv_entry {
    uint32_t refs;
    uint32_t key_len, value_len;
    bool has_session;
    uint64_t create_index, modify_index, lock_index, flags;
    uint64_t seen_ns; /* CLOCK_REALTIME ns when this client first saw this ModifyIndex */
    char data[];      /* key, NUL, value, NUL, and with has_session the session, NUL */
};

static inline const char *consul_kv_key(const struct consul_kv_entry *entry) { return entry->data; }
static inline const char *consul_kv_value(const struct consul_kv_entry *entry)
{
    return entry->data + entry->key_len + 1;
}
/* Whose lock it is; "" when it is not locked. */
static inline const char *consul_kv_session(const struct consul_kv_entry *entry)
{
    return entry->has_session ? entry->data + entry->key_len + 1 + entry->value_len + 1 : "";
}
struct consul_kv_entry *consul_kv_entry_new(const char *key, size_t key_len, const void *value, size_t value_len);
struct consul_kv_entry *consul_kv_entry_ref(struct consul_kv_entry *entry);
void consul_kv_entry_unref(struct consul_kv_entry *entry); /* NULL is fine */

/* Entries in the order of their keys' bytes. Immutable; counted through the snapshot that holds it. */
struct consul_kv_list {
    size_t n;
    struct consul_kv_entry **entries;
};

/* The first entry whose key is not below `key` (n when there is none). */
size_t consul_kv_lower_bound(const struct consul_kv_list *list, const char *key, size_t key_len);
/* The entry with exactly this key, borrowed, or NULL. */
struct consul_kv_entry *consul_kv_find(const struct consul_kv_list *list, const char *key, size_t key_len);

/* ---- resources and snapshots ------------------------------------------------------------------------------------ */

enum consul_format {
    CONSUL_JSON, /* snapshot->json */
    CONSUL_KV,   /* snapshot->kv: what ?recurse or a single key answers; absent is an empty list */
    CONSUL_TEXT, /* snapshot->text */
};

/* The decoded answer to one GET. Immutable and counted; readable from any thread without a lock. */
struct consul_snapshot {
    uint32_t refs;
    uint64_t index;
    uint64_t hash;    /* of the answer's bytes; differs when the content differs */
    uint64_t seen_ns; /* CLOCK_REALTIME, when it first arrived */
    bool filtered;
    json_t *json;
    struct consul_kv_list kv;
    char *text;
    size_t len; /* the answer's length in bytes */
};

struct consul_snapshot *consul_snapshot_ref(struct consul_snapshot *snapshot);
void consul_snapshot_unref(struct consul_snapshot *snapshot); /* NULL is fine */

enum {
    CONSUL_BLOCKS = 1 << 0,      /* the endpoint takes blocking queries: the resource may be watched */
    CONSUL_WATCH_EMPTY = 1 << 1, /* watch it although the answer is empty; without it a missing thing is not watched,
                                    because old servers wake such a watch on every write */
    /* What the answer has to be; anything else is an error (-EIO) and never a snapshot. An object may be null. */
    CONSUL_OBJECT = 1 << 2,
    CONSUL_OBJECTS = 1 << 3,          /* an array of objects */
    CONSUL_STRINGS = 1 << 4,          /* an array of strings */
    CONSUL_HEALTH_BY_STATUS = 1 << 5, /* 429 and 503 with a JSON object are answers, not refusals */
    CONSUL_IN_PARTS = 1 << 6, /* what is in it can be asked for in parts: one that was too large is not asked for again
                                 for long. See also consul_resource_is_demoted() */
};

/*
 * The resource of a path ("/v1/…?…", encoded). There is one for each path; the caller gets a reference. `max` bounds
 * the answer in bytes; the largest that anybody named counts.
 */
int consul_resource_get(struct consul *client, const char *path, enum consul_format format, unsigned flags, size_t max,
                        struct consul_resource **ret_resource) CONSUL_WARN_UNUSED;
/* The one that somebody has got before, counted; NULL: nobody has, or it was given up. */
struct consul_resource *consul_resource_find(struct consul *client, const char *path);
struct consul_resource *consul_resource_ref(struct consul_resource *resource);
void consul_resource_unref(struct consul_resource *resource); /* NULL is fine */
const char *consul_resource_path(const struct consul_resource *resource);

/* Somebody who waits for a resource. The owner keeps it in place until woken or cancelled. */
struct consul_waiter {
    /* On the network thread, no lock held. err 0: ask again; otherwise the wait is over (-ETIMEDOUT, -ECANCELED). */
    void (*wake)(struct consul_waiter *waiter, int err);
    uint64_t deadline_ns;
    /* private to cache.c */
    struct consul_resource *resource;
    struct consul_waiter *prev, *next;    /* in the resource's list */
    struct consul_waiter *sooner, *later; /* in the list of deadlines */
};

enum consul_freshness {
    CONSUL_WATCHED, /* and stays so until CONSUL_WATCH_ENDED is told */
    CONSUL_FRESH,   /* at the moment */
    CONSUL_STALE,   /* Consul does not answer; this is what was known. What is not in it may exist by now */
};

/*
 * Asks for a snapshot that is as fresh as the rules of cache.c want for somebody who began at since_ns.
 * 0: *ret_snapshot is counted for the caller.
 * -EINPROGRESS: the waiter is queued and a GET is under way; when woken, ask again with the same since_ns.
 * Otherwise: why the agent's newest answer is none (-EACCES, -ETIMEDOUT, -EFBIG when it exceeds `max`, …).
 */
int consul_resource_read(struct consul_resource *resource, uint64_t since_ns, struct consul_waiter *waiter,
                         struct consul_snapshot **ret_snapshot,
                         enum consul_freshness *ret_freshness) CONSUL_WARN_UNUSED;
/* Whether there is a snapshot that was fetched at since_ns or later. Asks nobody. */
bool consul_resource_is_newer(struct consul_resource *resource, uint64_t since_ns);
/* True when the waiter was queued and now is not; false when it has been or is being woken. */
bool consul_waiter_cancel(struct consul *client, struct consul_waiter *waiter);

/*
 * Another resource shows the same, so this one is not going to be read for long: unless somebody else holds it, or
 * waits for it, its watch ends and what it has is soon let go.
 */
void consul_resource_retire(struct consul_resource *resource);

/*
 * What consul_resource_read() would give for CONSUL_WATCHED, counted, and it counts as a read; NULL where that would
 * be anything else. Nothing is asked for and nobody waits.
 */
struct consul_snapshot *consul_resource_current(struct consul_resource *resource);
/* The newest snapshot whatever its age, counted, or NULL. */
struct consul_snapshot *consul_resource_peek(struct consul_resource *resource, bool *ret_watched);
/*
 * Somebody depends on being told of changes, though nobody reads: if it is not watched it is fetched again, which has
 * it watched if a watch is free. False if it was not.
 */
bool consul_resource_keep(struct consul_resource *resource);
/* Whether it is watched, or will be as soon as Consul answers again. */
bool consul_resource_is_watched(struct consul_resource *resource);
/* Whether there is a snapshot, whatever its age, or one is being asked for. */
bool consul_resource_is_used(struct consul_resource *resource);
/*
 * Whether somebody who began at since_ns had better read this than something else that shows the same and is not used
 * yet: there is a snapshot that is new enough or kept up to date, or the only one while Consul is away; or it is being
 * asked for; or why there is none is known.
 */
bool consul_resource_is_at_hand(struct consul_resource *resource, uint64_t since_ns);
/*
 * Whether its watch was given up, for a while, because it brought too much for what changed (watch_cost.h). It can be
 * read, but who can do with a part of it had better ask for that.
 */
bool consul_resource_is_demoted(struct consul_resource *resource);
/* What it costs to ask for it once more, in bytes: the answer's, and as many as the server's work is worth. */
size_t consul_resource_weight(struct consul_resource *resource);
/* Why the newest attempt to read it failed; 0 when it did not, or none was made yet. */
int consul_resource_error(struct consul_resource *resource);
/* This mount changed what the resource shows: only an answer to a request sent from now on counts as fresh. */
void consul_resource_expire(struct consul_resource *resource);
/* The same for every resource whose path begins with `prefix`. */
void consul_expire(struct consul *client, const char *prefix);
/*
 * The same where it was changed elsewhere, which another resource told and its own blocking query may not: it is asked
 * for now, also if nobody reads it, and what that brings is told as any change.
 */
void consul_resource_ask_again(struct consul_resource *resource);
/*
 * The resources that are watched and whose path begins with `prefix`, each counted; the array, if not NULL, is the
 * caller's. *ret_n is 0 where none is, or there is no memory.
 */
struct consul_resource **consul_watched(struct consul *client, const char *prefix, size_t *ret_n);
/*
 * Asks for every KV resource of the datacenter that is watched, so that it shows what others had stored when this was
 * called, not just what its blocking query has brought by then. 0: nothing is watched. -EINPROGRESS: `done` will be
 * called, on the network thread, after all changes were told (or the client's timeout_ms is over).
 */
int consul_catch_up(struct consul *client, const char *datacenter, void (*done)(void *arg), void *arg);
/* Forgets every snapshot that nobody needs; ends every watch (CONSUL_WATCH_ENDED is told). */
void consul_drop_caches(struct consul *client);

/* What a resource below /v1/kv/ shows: one key, all of a prefix, or only the names of these. Others: none. */
enum consul_kv_scope { CONSUL_KV_NONE, CONSUL_KV_KEY, CONSUL_KV_PREFIX, CONSUL_KV_NAMES };
enum consul_kv_scope consul_resource_kv_scope(const struct consul_resource *resource);
/* That key, or what the keys begin with, decoded; borrowed. NULL for a resource that shows none. */
const char *consul_resource_kv_prefix(const struct consul_resource *resource);
/* The datacenter that its path names, borrowed; NULL where it names none. */
const char *consul_resource_kv_datacenter(const struct consul_resource *resource);

/*
 * What resources that show all or some of them tell of the keys that begin with `prefix`, in the datacenter (NULL: the
 * configured one): how many are used, counted up to CONSUL_KV_USED_MAX; whether these alone are known to exceed `max`
 * bytes of an answer; when (consul_now_ns(), and CLOCK_REALTIME) the newest of the answers came that were too large and
 * had nothing but such keys, as far as they were read. 0: there was none.
 *
 * For the names directly in `prefix` the server goes through all keys below it: how long that took, beyond what any
 * request takes, tells how many these are before all of them are asked for. See consul_kv_measure().
 */
#define CONSUL_KV_USED_MAX 8
struct consul_kv_known {
    unsigned used;
    bool too_large;
    uint64_t there_ns, seen_ns;
    bool names_known, names_too_large; /* too large: the names alone exceeded what was wanted of them */
    uint64_t names_ns;
};
struct consul_kv_known consul_kv_known(struct consul *client, const char *datacenter, const char *prefix, size_t max);
/*
 * Has consul_kv_known() tell how long the names in the root of the configured datacenter take, for an hour: asks for
 * them, of any server; again, twice at most, where that took a while, which may have been chance; and for no longer
 * than a second. `done` is then called, on the network thread.
 */
int consul_kv_measure(struct consul *client, void (*done)(void *arg), void *arg) CONSUL_WARN_UNUSED;
/*
 * How long the shortest prefix of `text` is, longer than `from` and at most `to` bytes, whose keys are all watched; 0:
 * none is.
 */
size_t consul_kv_watched(struct consul *client, const char *datacenter, const char *text, size_t from, size_t to);
/*
 * A resource that shows nothing but keys that begin with `prefix`, and showed some when it was last asked: the reader's
 * cheapest proof that there are any. One that is watched, if there is one, else one with a short answer, or the
 * shortest there is; counted, or NULL.
 */
struct consul_resource *consul_kv_witness(struct consul *client, const char *datacenter, const char *prefix);

/*
 * Whether another prefix shows all that this one does and is the one to go by: it is watched; or it is known, and this
 * one is not watched either. One that is demoted is not to go by.
 */
enum consul_kv_cover { CONSUL_KV_ALONE, CONSUL_KV_COVERED, CONSUL_KV_COVERED_WATCHED };
enum consul_kv_cover consul_resource_kv_cover(struct consul_resource *resource);

/* A slot for the program's own bookkeeping; guarded by the program. */
void **consul_resource_user(struct consul_resource *resource);

/* ---- streams ----------------------------------------------------------------------------------------------------- */

/*
 * The body of one GET, in pieces, for what is large (a snapshot) or has no end (a log). At most 256 KiB of it are in
 * memory; while nobody reads the transfer stands still. At most 4 streams are open at a time.
 */
struct consul_stream;

/*
 * `wake` is called on the network thread, no lock held, after a read that was told -EINPROGRESS; then read again. A
 * transfer that brings nothing for stall_ms fails; 0: it may be silent for ever. -EBUSY: too many are open.
 */
int consul_stream_open(struct consul *client, const char *path, uint64_t stall_ms, void (*wake)(void *arg), void *arg,
                       struct consul_stream **ret_stream) CONSUL_WARN_UNUSED;
/*
 * 0: *ret_len bytes from `offset` on, at least one, or none at the end. -EINPROGRESS: there are none yet. -ESPIPE: they
 * are no longer held; what was read is, for a while. Otherwise why there is no more: a refusal, or an answer cut short.
 */
int consul_stream_read(struct consul_stream *stream, uint64_t offset, void *buffer, size_t size,
                       size_t *ret_len) CONSUL_WARN_UNUSED;
/* How many bytes have arrived. */
uint64_t consul_stream_size(struct consul_stream *stream);
/* Ends the transfer; `wake` is not called any more once this has returned. May be called by it. */
void consul_stream_close(struct consul_stream *stream);

/* ---- KV writes -------------------------------------------------------------------------------------------------- */

enum consul_kv_verb {
    CONSUL_KV_SET,
    CONSUL_KV_CAS,              /* set, if ModifyIndex still is `index`; 0: if there is no such key */
    CONSUL_KV_DELETE,           /* -ENOENT when there is none */
    CONSUL_KV_DELETE_CAS,       /* -ESTALE when ModifyIndex is another, or there is none */
    CONSUL_KV_CHECK_INDEX,      /* no change: fails the transaction with -ESTALE when ModifyIndex is another */
    CONSUL_KV_CHECK_SESSION,    /* no change: fails the transaction with -EPERM when `session` does not hold the lock */
    CONSUL_KV_CHECK_NOT_EXISTS, /* no change: fails the transaction with -EEXIST */
    CONSUL_KV_LOCK,             /* set, and lock with `session`; -EBUSY when another session holds the lock */
    CONSUL_KV_UNLOCK,           /* set, and unlock; -EPERM when `session` does not hold the lock */
};

struct consul_kv_op {
    enum consul_kv_verb verb;
    const char *key;
    const void *value;
    size_t value_len;
    uint64_t flags, index;
    const char *session;
};

/* entries[i], of n: what op i stored (the library's, valid during the callback), NULL where it stored nothing. */
typedef void consul_kv_done_fn(void *arg, const struct consul_answer *answer, struct consul_kv_entry *const *entries,
                               size_t n);

/*
 * One transaction: all of ops or nothing. When it has succeeded every resource of this client already shows it.
 * A single set that is too large for a transaction goes as a plain PUT. Small ones, when many are under way, wait for
 * one of these and then go in one transaction; if that is refused each goes by itself. -EFBIG: too large or too many
 * for the agent; -EINVAL: a key that JSON cannot carry (not UTF-8).
 */
int consul_kv_txn(struct consul *client, const char *datacenter, const struct consul_kv_op *ops, size_t n,
                  consul_kv_done_fn *done, void *arg) CONSUL_WARN_UNUSED;
/*
 * What is read from now on of keys in the datacenter (NULL: the configuration's) is as new as `index`, the ModifyIndex
 * of a change of `key`: for who got a lock, and is to see all that its former holder did. Asks nobody by itself.
 */
void consul_kv_catch_up(struct consul *client, const char *datacenter, const char *key, uint64_t index);
/* True when the key can be carried at all, and `*ret_plain` when /v1/kv takes it in a path. */
bool consul_kv_key_valid(const char *key, bool *ret_plain);

/* The agent's limit for a value in bytes, 524288 unless it says otherwise, and for operations in a transaction. */
void consul_set_kv_limits(struct consul *client, size_t max_value, size_t max_txn_ops);
size_t consul_kv_max_value(const struct consul *client);

/* ---- locks ------------------------------------------------------------------------------------------------------ */

/*
 * Consul's lock on a key. One session for each datacenter holds all locks of a client; it is made for the first,
 * renewed while it is needed, and destroyed some time after the last. One object for each key; for one session the lock
 * is re-entrant, so who wants it within a program is the program's to arbitrate.
 *
 * Taking and giving back keep the key's value and flags. A key that is not there is made, empty. A value too large for
 * a transaction cannot be locked (-EFBIG).
 */
struct consul_lock;

enum consul_lock_event {
    CONSUL_LOCK_HELD,     /* `entry` is what the key is now; it was at ModifyIndex before_index, 0: it was not there */
    CONSUL_LOCK_BUSY,     /* another session has it. Who said `wait` goes on waiting, others are done */
    CONSUL_LOCK_FAILED,   /* an attempt to take it or to give it back failed; those who said `wait`, and giving it back,
                             are tried again */
    CONSUL_LOCK_LOST,     /* it was held and is no more, and others may have it; `why` */
    CONSUL_LOCK_REMOVED,  /* it was held, and this client removed the key */
    CONSUL_LOCK_UNLOCKED, /* as HELD: what the key is after it was given back */
    CONSUL_LOCK_AT_REST,  /* nothing is held, wanted or under way */
};

struct consul_lock_news {
    enum consul_lock_event event;
    struct consul_kv_entry *entry; /* borrowed */
    uint64_t before_index;
    int err;
    const struct consul_answer *answer; /* of a failure, or NULL */
    const char *why;
};

/* On the network thread, no lock held. */
typedef void consul_lock_fn(void *arg, struct consul_lock *lock, const struct consul_lock_news *news);

/* -EINVAL: a key that JSON cannot carry. */
int consul_lock_new(struct consul *client, const char *datacenter, const char *key, consul_lock_fn *tell, void *arg,
                    struct consul_lock **ret_lock) CONSUL_WARN_UNUSED;
/*
 * Wants it: HELD, BUSY or FAILED will be told, within the client's timeout_ms the first of them. After a release, not
 * before AT_REST has been told. Said again while it is being tried it hastens that.
 */
void consul_lock_acquire(struct consul_lock *lock, bool wait);
/* Wants it no more. AT_REST will be told; HELD may still be told before, and then it is given back all the same. */
void consul_lock_release(struct consul_lock *lock);
/* Releases; nothing more is told of it, but for what is being told at this moment by another thread. NULL is fine. */
void consul_lock_free(struct consul_lock *lock);
/* At this moment, by the clock; whether or not its loss was told already. */
bool consul_lock_is_held(struct consul_lock *lock);
/* The key as it was last seen while it was held, counted; NULL when it is not held. */
struct consul_kv_entry *consul_lock_entry(struct consul_lock *lock);
/* The session under which locks are taken in the datacenter now; "" when there is none. */
void consul_lock_session(struct consul *client, const char *datacenter, char ret_id[40]);
/* Gives all locks back and destroys the sessions; takes so long at most. Nothing is taken any more. */
void consul_release_locks(struct consul *client, uint64_t timeout_ms);

/* ---- probing ---------------------------------------------------------------------------------------------------- */

enum consul_probe_kind { CONSUL_PROBE_HEAD, CONSUL_PROBE_TCP };

struct consul_probe_target {
    enum consul_probe_kind kind;
    const char *url; /* HEAD: the URL; TCP: "host:port" or "[v6]:port" */
};

struct consul_probe_result {
    int err;     /* 0: answered well */
    int status;  /* HTTP status of a HEAD */
    uint64_t ns; /* until the answer; only when err is 0 */
};

/*
 * Probes every target at once (512 of all probes at a time; then they take turns). `first` is told the index of the
 * first that answers well, at that moment; `all` the results of each, when all have ended or timeout_ms is over. If
 * none answers well only `all` is called. No token is sent and no redirect followed.
 */
int consul_probe(struct consul *client, const struct consul_probe_target *targets, size_t n, uint64_t timeout_ms,
                 void (*first)(void *arg, size_t index, uint64_t ns),
                 void (*all)(void *arg, const struct consul_probe_result *results, size_t n),
                 void *arg) CONSUL_WARN_UNUSED;

/* The URL or target that a check of this Type says it asks, found in its Output; the caller frees it. */
enum consul_health_kind { CONSUL_HEALTH_NONE, CONSUL_HEALTH_HTTP, CONSUL_HEALTH_TCP, CONSUL_HEALTH_GRPC };
enum consul_health_kind consul_health_target(const char *type, const char *output, char **ret_target);
/* Whether a probe may go there: only to addresses that the catalog names for this instance. */
bool consul_probe_url_allowed(const char *url, const char *const *catalog_addresses, size_t n, bool node_is_local);

/* ---- what is going on -------------------------------------------------------------------------------------------- */

struct consul_stats {
    uint64_t requests;         /* sent, blocking queries not counted */
    uint64_t blocking_queries; /* sent */
    uint64_t bytes_received, bytes_sent;
    uint64_t errors; /* requests without a usable answer */
    uint64_t retries;
    uint64_t writes_together;                             /* KV writes that shared a transaction with others */
    uint64_t watches, resources, snapshot_bytes, waiters; /* now */
    /* The watches by what they are on: all keys of a prefix, the names in one, a key; the rest are on something else.
     */
    uint64_t watches_prefixes, watches_names, watches_keys;
    uint64_t demoted, too_large; /* resources that are so now */
    /* Why watches ended: for a hotter one, because nobody read, because they brought too much. What was demoted and is
     * watched again counts as promoted. */
    uint64_t evictions, idle_ended, demotions, promotions;
    unsigned abandoned;     /* blocking queries of ended watches that the agent still holds a connection for */
    uint64_t root_names_ns; /* see consul_kv_measure(); 0: not known */
    uint64_t watches_ended, cache_hits, cache_misses, dropped_answers, stale_served;
    uint64_t disconnected_since_ns; /* CLOCK_REALTIME; 0 while connected */
    uint64_t filtered;              /* answers of which the server said that ACLs filtered them */
    bool known_leader;
};
void consul_get_stats(struct consul *client, struct consul_stats *ret_stats);
/*
 * The paths of the resources whose newest answer the server said to have been filtered by ACLs, the last 64, each with
 * a newline; the caller frees it. NULL: no memory. Servers say so from 1.11 on.
 */
char *consul_filtered(struct consul *client);

#endif
