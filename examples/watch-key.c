/*
 * Prints the value of a key now, and again whenever it changes:
 *
 *   watch-key KEY [COUNT]      ends after COUNT values; without it, by Ctrl-C
 *
 * Consul is found by CONSUL_HTTP_ADDR and its companions. When nothing changes nothing is sent but one blocking query
 * every few minutes; when Consul goes away and comes back the library reconnects.
 *
 *   cc watch-key.c -o watch-key $(pkg-config --cflags --libs libconsul)
 */
#include <consul.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How the library's network thread, on which all callbacks are made, tells the main thread. */
struct news {
    struct consul_waiter waiter; /* first, so that wake() finds the rest */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* guarded by lock */
    bool woken; /* what the waiter waited for is over, and how */
    int err;
    bool changed; /* the key is to be read again */
};

static void on_wake(struct consul_waiter *waiter, int err)
{
    struct news *news = (struct news *)waiter;

    pthread_mutex_lock(&news->lock);
    news->woken = true;
    news->err = err;
    pthread_cond_signal(&news->cond);
    pthread_mutex_unlock(&news->lock);
}

/* A watch that has ended says nothing any more: reading again starts another one. */
static void on_change(void *arg, struct consul_resource *resource, enum consul_change change,
                      struct consul_snapshot *before, struct consul_snapshot *after)
{
    struct news *news = arg;

    (void)resource, (void)change, (void)before, (void)after;
    pthread_mutex_lock(&news->lock);
    news->changed = true;
    pthread_cond_signal(&news->cond);
    pthread_mutex_unlock(&news->lock);
}

static void wait_for(struct news *news, bool *what)
{
    pthread_mutex_lock(&news->lock);
    while (!*what)
        pthread_cond_wait(&news->cond, &news->lock);
    *what = false;
    pthread_mutex_unlock(&news->lock);
}

/* 0 and a snapshot, the caller's, that was true at some moment since now; or a negative errno. */
static int read_now(struct consul_resource *resource, struct news *news, struct consul_snapshot **ret_snapshot)
{
    uint64_t since = consul_now_ns();
    enum consul_freshness freshness;
    int r;

    for (;;) {
        news->waiter.wake = on_wake;
        news->waiter.deadline_ns = since + 10 * UINT64_C(1000000000);
        r = consul_resource_read(resource, since, &news->waiter, ret_snapshot, &freshness);
        if (r != -EINPROGRESS)
            return r;
        wait_for(news, &news->woken);
        if (news->err < 0)
            return news->err;
    }
}

static void print(const struct consul_snapshot *snapshot)
{
    if (snapshot->kv.n == 0) {
        puts("(no such key)");
    } else {
        const struct consul_kv_entry *entry = snapshot->kv.entries[0];

        printf("%" PRIu64 " ", entry->modify_index);
        fwrite(consul_kv_value(entry), 1, entry->value_len, stdout);
        putchar('\n');
    }
    fflush(stdout);
}

static int watch(struct consul *client, const char *key, struct news *news, long count)
{
    uint64_t printed = UINT64_MAX; /* ModifyIndex; 0 for no such key */
    struct consul_resource *resource;
    char *path = malloc(sizeof("/v1/kv/") + 3 * strlen(key));
    int r;

    if (!path)
        return -ENOMEM;
    strcpy(path, "/v1/kv/");
    consul_urlencode(key, "/", path + strlen(path));
    r = consul_resource_get(client, path, CONSUL_KV, CONSUL_BLOCKS | CONSUL_WATCH_EMPTY, 1 << 20, &resource);
    free(path);
    if (r < 0)
        return r;

    while (r == 0) {
        struct consul_snapshot *snapshot;
        uint64_t index;

        r = read_now(resource, news, &snapshot);
        if (r < 0)
            break;
        index = snapshot->kv.n > 0 ? snapshot->kv.entries[0]->modify_index : 0;
        if (index != printed) {
            print(snapshot);
            printed = index;
            count--;
        }
        consul_snapshot_unref(snapshot);
        if (count == 0)
            break;
        wait_for(news, &news->changed);
    }
    consul_resource_unref(resource);
    return r;
}

int main(int argc, char *argv[])
{
    struct news news = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct consul_options options = {
        .watches = 1,
        .timeout_ms = 10000,
        .stale_ms = CONSUL_STALE_FOREVER, /* a break is no reason to stop */
        .changed = on_change,
        .changed_arg = &news,
    };
    struct consul_config config;
    struct consul *client;
    char *error = NULL;
    int r;

    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: watch-key KEY [COUNT]\n");
        return 2;
    }
    if (consul_config_init_from_env(&config, NULL, &error) < 0) {
        fprintf(stderr, "watch-key: %s\n", error ? error : "out of memory");
        free(error);
        return 2;
    }
    r = consul_new(&config, &options, &client);
    consul_config_clear(&config);
    if (r == 0) {
        r = watch(client, argv[1], &news, argc == 3 ? atol(argv[2]) : -1);
        consul_free(client);
    }
    if (r < 0)
        fprintf(stderr, "watch-key: %s: %s\n", argv[1], strerror(-r));
    return r < 0;
}
