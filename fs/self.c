/*
 * .consulfs/: the mount itself. Every file is made when it is opened; none ever holds a secret.
 */
#include "self.h"

#include "agent.h"
#include "announce.h"
#include "content.h"
#include "lock.h"
#include "notify.h"
#include "version.h"
#include "view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int content_of(struct text *text, struct content **ret_content)
{
    size_t len;
    char *data;
    int r = text_end(text, &data, &len);

    if (r < 0)
        return r;
    *ret_content = content_take(data, len, 0);
    return *ret_content ? 0 : -ENOMEM;
}

static void print_time(FILE *stream, const char *name, uint64_t ns)
{
    time_t seconds = (time_t)(ns / 1000000000u);
    char text[32];
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(stream, "%s %s\n", name, text);
}

static const char *or_unknown(const char *text) { return text ? text : "unknown"; }

/* Who waits to learn what is wrong should not wait long for it. */
#define LEADER_PATIENCE_MS 1000

static const char *leader_of(const struct consul_snapshot *snapshot, bool disconnected)
{
    const char *leader = snapshot && !disconnected ? json_string_value(snapshot->json) : NULL;

    return !leader ? "unknown" : *leader ? leader : "none";
}

/* A server that does not say when it left something out leaves us in the dark as soon as it has ACLs. */
static int print_filtered(FILE *stream, struct fs *fs)
{
    char *paths = consul_filtered(fs->consul), *path, *rest;

    if (!paths)
        return -ENOMEM;
    fprintf(stream, "filtered_by_acl %s\n", *paths ? "yes" : agent_may_hide(fs) ? "unknown" : "no");
    for (path = strtok_r(paths, "\n", &rest); path; path = strtok_r(NULL, "\n", &rest))
        fprintf(stream, "filtered %s\n", path);
    free(paths);
    return 0;
}

static int read_status(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    struct consul_snapshot *leader = NULL;
    struct fs *fs = op->fs;
    struct consul_stats stats;
    struct lock_counts locks;
    char session[40];
    struct text text;
    int r;

    (void)dir, (void)name;
    op->patience_ms = LEADER_PATIENCE_MS;
    r = op_read(op, "/v1/status/leader", CONSUL_JSON, 0, 65536, &leader);
    if (r == -EINPROGRESS)
        return r;
    r = text_begin(&text);
    if (r < 0)
        return r;
    consul_get_stats(fs->consul, &stats);
    fprintf(text.stream, "state %s\n", stats.disconnected_since_ns ? "disconnected" : "connected");
    if (stats.disconnected_since_ns) {
        print_time(text.stream, "disconnected_since", stats.disconnected_since_ns);
        fprintf(text.stream, "serving %s\n", fs->options->stale_ms ? "stale" : "errors");
    }
    pthread_mutex_lock(&fs->agent.lock);
    fprintf(text.stream, "address %s\nnode %s\ndatacenter %s\nversion %s\n", fs->consul_address,
            or_unknown(fs->agent.node), or_unknown(fs->agent.datacenter), or_unknown(fs->agent.version));
    pthread_mutex_unlock(&fs->agent.lock);
    fprintf(text.stream, "leader %s\n", leader_of(leader, stats.disconnected_since_ns != 0));
    fprintf(text.stream, "watches %" PRIu64 "\nresources %" PRIu64 "\ncached_bytes %" PRIu64 "\n", stats.watches,
            stats.resources, stats.snapshot_bytes);
    lock_count(fs, &locks);
    fprintf(text.stream, "locks_held %zu\nlocks_waiting %zu\n", locks.held, locks.waiting);
    consul_lock_session(fs->consul, NULL, session);
    if (*session)
        fprintf(text.stream, "session %s\n", session);
    r = print_filtered(text.stream, fs);
    print_time(text.stream, "mounted_since", fs->mounted_ns);
    if (r == 0)
        return content_of(&text, ret_content);
    text_drop(&text);
    return r;
}

static int read_errors(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    size_t len;
    char *text = refusals_text(&op->fs->refusals, &len);

    (void)dir, (void)name;
    if (!text)
        return -ENOMEM;
    *ret_content = content_take(text, len, 0);
    return *ret_content ? 0 : -ENOMEM;
}

/* One figure; `format` has the name and the number. */
static void print_all(struct fs *fs, void (*print)(FILE *, const char *, uint64_t), FILE *stream)
{
    struct announcer_figures figures;
    struct consul_stats stats;
    struct lock_counts locks;

    consul_get_stats(fs->consul, &stats);
    announcer_get_figures(fs, &figures);
    lock_count(fs, &locks);
    for (size_t i = 0; i < COUNTERS; i++)
        print(stream, counter_names[i], atomic_load_explicit(&fs->counters[i], memory_order_relaxed));
    print(stream, "operations.now", atomic_load(&fs->ops));
    print(stream, "inodes.now", inode_count(&fs->inodes));
    print(stream, "inotify.announced", figures.announced);
    print(stream, "inotify.failed", figures.failed);
    print(stream, "inotify.dropped", figures.dropped);
    print(stream, "inotify.queued", figures.queued);
    print(stream, "http.requests", stats.requests);
    print(stream, "http.blocking_queries", stats.blocking_queries);
    print(stream, "http.errors", stats.errors);
    print(stream, "http.retries", stats.retries);
    print(stream, "http.writes_together", stats.writes_together);
    print(stream, "http.bytes_received", stats.bytes_received);
    print(stream, "http.bytes_sent", stats.bytes_sent);
    print(stream, "cache.resources", stats.resources);
    print(stream, "cache.bytes", stats.snapshot_bytes);
    print(stream, "cache.hits", stats.cache_hits);
    print(stream, "cache.misses", stats.cache_misses);
    print(stream, "cache.waiters", stats.waiters);
    print(stream, "cache.stale_served", stats.stale_served);
    print(stream, "cache.answers_dropped", stats.dropped_answers);
    print(stream, "cache.answers_filtered", stats.filtered);
    print(stream, "locks.held", locks.held);
    print(stream, "locks.waiting", locks.waiting);
    print(stream, "watches.now", stats.watches);
    print(stream, "watches.prefixes", stats.watches_prefixes);
    print(stream, "watches.names", stats.watches_names);
    print(stream, "watches.keys", stats.watches_keys);
    print(stream, "watches.others", stats.watches - stats.watches_prefixes - stats.watches_names - stats.watches_keys);
    print(stream, "watches.ended", stats.watches_ended);
    print(stream, "watches.evicted", stats.evictions);
    print(stream, "watches.abandoned", stats.abandoned);
    print(stream, "watches.idled", stats.idle_ended);
    print(stream, "watches.demotions", stats.demotions);
    print(stream, "watches.promotions", stats.promotions);
    print(stream, "prefixes.demoted", stats.demoted);
    print(stream, "prefixes.too_large", stats.too_large);
    print(stream, "prefixes.names_us", stats.root_names_ns / 1000);
}

static void print_plain(FILE *stream, const char *name, uint64_t value)
{
    fprintf(stream, "%s %" PRIu64 "\n", name, value);
}

/* Prometheus' text format: names have no dots. */
static void print_prometheus(FILE *stream, const char *name, uint64_t value)
{
    char flat[64];
    size_t i;

    for (i = 0; name[i] && i < sizeof(flat) - 1; i++)
        flat[i] = name[i] == '.' ? '_' : name[i];
    flat[i] = '\0';
    fprintf(stream, "consulfs_%s %" PRIu64 "\n", flat, value);
}

static int read_stats(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    struct text text;
    int r = text_begin(&text);

    (void)dir;
    if (r < 0)
        return r;
    print_all(op->fs, strcmp(name, "stats.prom") == 0 ? print_prometheus : print_plain, text.stream);
    return content_of(&text, ret_content);
}

static int read_config(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    const struct options *options = op->fs->options;
    struct text text;
    int r = text_begin(&text);

    (void)dir, (void)name;
    if (r < 0)
        return r;
    fprintf(text.stream, "address %s\ntimeout %g\n", op->fs->consul_address, options->timeout_ms / 1000.0);
    if (options->stale_ms == OPTIONS_STALE_FOREVER)
        fputs("stale forever\n", text.stream);
    else
        fprintf(text.stream, "stale %g\n", (double)options->stale_ms / 1000.0);
    fprintf(text.stream, "lock_ttl %u\n", options->lock_ttl_s);
    fprintf(text.stream, "watches %u\ninotify %u\ndatacenter %s\nroot %s\nro %s\ntoken %s\n", options->watches,
            options->inotify, options->datacenter ? options->datacenter : "", options->root ? options->root : "",
            options->read_only ? "yes" : "no", op->fs->has_token ? "set" : "none");
    fprintf(text.stream, "uid %u\ngid %u\numask %03o\nallow_other %s\ndelay_connect %s\n", options->uid, options->gid,
            options->umask_given ? options->umask : 022, options->allow_other ? "yes" : "no",
            options->delay_connect ? "yes" : "no");
    fprintf(text.stream, "kv_max_value %zu\n", consul_kv_max_value(op->fs->consul));
    return content_of(&text, ret_content);
}

static int read_version(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    struct text text;
    int r = text_begin(&text);

    (void)op, (void)dir, (void)name;
    if (r < 0)
        return r;
    fputs("consulfs " CONSULFS_VERSION "\n", text.stream);
    return content_of(&text, ret_content);
}

static int drop_caches(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir, (void)name;
    while (len > 0 && (data[len - 1] == '\n' || data[len - 1] == ' '))
        len--;
    if (len != 1 || *data != '1')
        return -EINVAL;
    if (op->stage > 0)
        return 0;
    op->stage = 1;
    consul_drop_caches(op->fs->consul);
    return notify_drop_all(op->fs, op); /* who reads next is to ask Consul */
}

#define MADE_NOW(variable, file, function)                                                                             \
    static const struct kind variable = {.name = file, .mode = S_IFREG | 0444, .flags = KIND_DIRECT, .read = function}

MADE_NOW(kind_status_file, "status", read_status);
MADE_NOW(kind_errors, "errors", read_errors);
MADE_NOW(kind_stats, "stats", read_stats);
MADE_NOW(kind_stats_prom, "stats.prom", read_stats);
MADE_NOW(kind_config, "config", read_config);
MADE_NOW(kind_version, "version", read_version);

static const struct kind kind_drop_caches = {
    .name = "drop-caches", .mode = S_IFREG | 0200, .flags = KIND_DIRECT, .store = drop_caches};

static const struct kind *const rows[] = {
    &kind_status_file, &kind_errors,  &kind_stats,       &kind_stats_prom,
    &kind_config,      &kind_version, &kind_drop_caches, NULL,
};

const struct kind kind_self = {.name = ".consulfs", .mode = S_IFDIR | 0555, .rows = rows};
