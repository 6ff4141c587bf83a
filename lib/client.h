/* What the library's modules share of a client. */
#ifndef CONSUL_LIB_CLIENT_H
#define CONSUL_LIB_CLIENT_H

#include "consul.h"

#include <stdatomic.h>

struct consul {
    struct consul_options options;
    char *datacenter, *namespace_, *partition;
    struct cache *cache;
    struct http *http;
    struct locks *locks;
    struct write_queues *writes;
    struct prober *prober;
    atomic_size_t kv_max_value, txn_max_ops;
    atomic_uint streams; /* open now */
};

/* The path with the configured dc=, ns= and partition=; the caller frees it. */
int client_path(const struct consul *client, const char *path, char **ret_path);
/* The same of a datacenter; NULL: the configured one. */
int client_path_in(const struct consul *client, const char *datacenter, const char *path, char **ret_path);
/* Of a key, which has to be plain (consul_kv_key_valid()). `query` begins with '?', or is empty. */
int client_kv_path(const struct consul *client, const char *datacenter, const char *key, const char *query,
                   char **ret_path);

#endif
