/*
 * Registers an instance with the local agent, with an HTTP check if a URL is given:
 *
 *   register-service NAME PORT [HEALTH-URL]
 *
 * Consul is found by CONSUL_HTTP_ADDR and its companions. The instance stays until somebody deregisters it.
 *
 *   cc register-service.c -o register-service $(pkg-config --cflags --libs libconsul)
 */
#include <consul.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct outcome {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* guarded by lock */
    bool done;
    int err;
    char *words; /* the agent's */
};

/* On the library's network thread; what the answer holds is valid only in here. */
static void on_answer(void *arg, const struct consul_answer *answer)
{
    struct outcome *outcome = arg;

    pthread_mutex_lock(&outcome->lock);
    outcome->done = true;
    outcome->err = answer->err;
    outcome->words = answer->err < 0 && answer->body_len > 0 ? strdup(answer->body) : NULL;
    pthread_cond_signal(&outcome->cond);
    pthread_mutex_unlock(&outcome->lock);
}

static char *make_document(const char *name, int port, const char *health_url)
{
    json_t *document = json_pack("{s:s, s:i}", "Name", name, "Port", port);
    char *text;

    if (document && health_url)
        json_object_set_new(document, "Check", json_pack("{s:s, s:s}", "HTTP", health_url, "Interval", "5s"));
    text = json_dumps(document, JSON_COMPACT);
    json_decref(document);
    return text;
}

static int put(struct consul *client, const char *path, const char *body, struct outcome *outcome)
{
    struct consul_request request = {
        .method = "PUT",
        .path = path,
        .body = body,
        .body_len = strlen(body),
        .intent = CONSUL_WRITE,
    };
    int r = consul_request(client, &request, on_answer, outcome);

    if (r < 0)
        return r;
    pthread_mutex_lock(&outcome->lock);
    while (!outcome->done)
        pthread_cond_wait(&outcome->cond, &outcome->lock);
    pthread_mutex_unlock(&outcome->lock);
    return outcome->err;
}

int main(int argc, char *argv[])
{
    struct outcome outcome = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct consul_options options = {.timeout_ms = 10000};
    struct consul_config config;
    struct consul *client;
    char *error = NULL, *document;
    int r;

    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: register-service NAME PORT [HEALTH-URL]\n");
        return 2;
    }
    document = make_document(argv[1], atoi(argv[2]), argv[3]); /* argv ends in NULL */
    if (!document) {
        fprintf(stderr, "register-service: the name is not UTF-8\n");
        return 2;
    }
    if (consul_config_init_from_env(&config, NULL, &error) < 0) {
        fprintf(stderr, "register-service: %s\n", error ? error : "out of memory");
        free(error);
        free(document);
        return 2;
    }
    r = consul_new(&config, &options, &client);
    consul_config_clear(&config);
    if (r == 0) {
        r = put(client, "/v1/agent/service/register", document, &outcome);
        consul_free(client);
    }
    if (r < 0)
        fprintf(stderr, "register-service: %s%s%s\n", strerror(-r), outcome.words ? ": " : "",
                outcome.words ? outcome.words : "");
    free(outcome.words);
    free(document);
    return r < 0;
}
