#include "agent.h"

#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RETRY_SECONDS 1

void agent_init(struct agent_facts *facts)
{
    memset(facts, 0, sizeof(*facts));
    pthread_mutex_init(&facts->lock, NULL);
    pthread_cond_init(&facts->stopped, NULL);
}

void agent_destroy(struct agent_facts *facts)
{
    free(facts->node);
    free(facts->datacenter);
    free(facts->version);
    free(facts->address);
    pthread_cond_destroy(&facts->stopped);
    pthread_mutex_destroy(&facts->lock);
}

/* agent.lock is held. */
static bool is_own_datacenter(const struct fs *fs)
{
    const char *wanted = fs->options->datacenter;

    return !wanted || (fs->agent.datacenter && strcmp(wanted, fs->agent.datacenter) == 0);
}

char *fs_agent_node(struct fs *fs)
{
    char *node;

    pthread_mutex_lock(&fs->agent.lock);
    /* With datacenter= the tree shows another one, where this agent has no services. */
    node = fs->agent.node && is_own_datacenter(fs) ? strdup(fs->agent.node) : NULL;
    pthread_mutex_unlock(&fs->agent.lock);
    return node;
}

/* ---- one request, waited for --------------------------------------------------------------------------------------
 */

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
    int err;
    char *body;
};

static void on_done(void *arg)
{
    struct wait *wait = arg;

    pthread_mutex_lock(&wait->lock);
    wait->done = true;
    pthread_cond_signal(&wait->done_cond);
    pthread_mutex_unlock(&wait->lock);
}

/* Who waits looks at the answer when it is done, not before. */
static void on_answer(void *arg, const struct consul_answer *answer)
{
    struct wait *wait = arg;

    wait->err = answer->err;
    wait->body = strndup(answer->body ? answer->body : "", answer->body_len);
    on_done(wait);
}

static void begin(struct wait *wait)
{
    *wait = (struct wait){.done = false};
    pthread_mutex_init(&wait->lock, NULL);
    pthread_cond_init(&wait->done_cond, NULL);
}

/* Until it is done, if `r`, which is returned, says that it was begun. */
static int end(struct wait *wait, int r)
{
    if (r == 0) {
        pthread_mutex_lock(&wait->lock);
        while (!wait->done)
            pthread_cond_wait(&wait->done_cond, &wait->lock);
        pthread_mutex_unlock(&wait->lock);
        r = wait->err;
    }
    pthread_cond_destroy(&wait->done_cond);
    pthread_mutex_destroy(&wait->lock);
    return r;
}

static int ask(struct fs *fs, const char *path, char **ret_body)
{
    struct consul_request request = {.method = "GET", .path = path, .intent = CONSUL_READ};
    struct wait wait;
    int r;

    begin(&wait);
    r = end(&wait, consul_request(fs->consul, &request, on_answer, &wait));
    *ret_body = wait.body;
    return r;
}

/* Whoever lists kv/ then finds it known how large it may be, see kv_cover.c. */
static void measure_kv(struct fs *fs)
{
    struct wait wait;

    begin(&wait);
    (void)end(&wait, consul_kv_measure(fs->consul, on_done, &wait));
}

/* ---- what the agent says of itself ---------------------------------------------------------------------------------
 */

static void set(char **to, const json_t *value)
{
    if (!*to && json_is_string(value))
        *to = strdup(json_string_value(value));
}

/* 64 operations a transaction before 1.14, 128 since. */
static size_t txn_ops_of(const char *version)
{
    unsigned major = 0, minor = 0;

    if (!version || sscanf(version, "%u.%u", &major, &minor) != 2)
        return 64;
    return major > 1 || minor >= 14 ? 128 : 64;
}

/* Results-Filtered-By-ACLs came with 1.11. */
static bool tells_filtered(const char *version)
{
    unsigned major = 0, minor = 0;

    return version && sscanf(version, "%u.%u", &major, &minor) == 2 && (major > 1 || minor >= 11);
}

static void learn_acl(struct fs *fs, const json_t *debug)
{
    const json_t *enabled = json_object_get(debug, "ACLsEnabled");

    if (json_is_boolean(enabled))
        fs->acl = json_is_true(enabled) ? ACL_ON : ACL_OFF;
    fs->tells_filtered = tells_filtered(fs->agent.version);
}

static void learn(struct fs *fs, const char *body)
{
    json_t *self = json_loads(body, 0, NULL);
    const json_t *config = json_object_get(self, "Config"), *member = json_object_get(self, "Member");
    const json_t *max_value = json_object_get(json_object_get(self, "DebugConfig"), "KVMaxValueSize");
    size_t limit = 512 * 1024;

    pthread_mutex_lock(&fs->agent.lock);
    set(&fs->agent.node, json_object_get(config, "NodeName"));
    set(&fs->agent.datacenter, json_object_get(config, "Datacenter"));
    set(&fs->agent.version, json_object_get(config, "Version"));
    set(&fs->agent.address, json_object_get(member, "Addr"));
    if (json_integer_value(max_value) > 0)
        limit = (size_t)json_integer_value(max_value);
    consul_set_kv_limits(fs->consul, limit, txn_ops_of(fs->agent.version));
    learn_acl(fs, json_object_get(self, "DebugConfig"));
    pthread_mutex_unlock(&fs->agent.lock);
    json_decref(self);
}

/* Where the agent's own words were none: whoever has ACLs knows our token, or denies it. */
static void ask_for_acl(struct fs *fs)
{
    char *body = NULL;
    int r = ask(fs, "/v1/acl/token/self", &body);

    if (r == -EOPNOTSUPP)
        fs->acl = ACL_OFF;
    else if (r == 0 || r == -EACCES)
        fs->acl = ACL_ON;
    free(body);
}

void agent_denied(struct fs *fs) { fs->acl = ACL_ON; }

bool agent_may_hide(struct fs *fs) { return fs->acl != ACL_OFF && !fs->tells_filtered; }

/* Of the configured datacenter, which a tree with another root may not have. */
static bool shows_kv(const struct fs *fs)
{
    const char *root = fs->options->root;

    while (root && *root == '/')
        root++;
    return !root || *root == '\0' || strncmp(root, "kv", 2) == 0;
}

int agent_connect(struct fs *fs, char **ret_error)
{
    char *body = NULL;
    int r = ask(fs, "/v1/status/leader", &body); /* needs no token */

    free(body);
    if (r == -ECONNREFUSED || r == -ETIMEDOUT || r == -EHOSTUNREACH || r == -EPROTO || r == -ECANCELED || r == -EIO ||
        r == -ENOENT || r == -EOPNOTSUPP) {
        if (asprintf(ret_error, "cannot reach Consul at %s: %s", fs->consul_address, strerror(-r)) < 0)
            *ret_error = NULL;
        return r;
    }
    body = NULL;
    if (ask(fs, "/v1/agent/self", &body) == 0)
        learn(fs, body);
    else
        log_line(LOG_WARNING, "the agent does not tell about itself (agent:read?); its own services show as NAME@NODE");
    free(body);
    if (fs->acl == ACL_UNKNOWN)
        ask_for_acl(fs);
    if (shows_kv(fs))
        measure_kv(fs);
    return 0;
}

/* ---- later ---------------------------------------------------------------------------------------------------------
 */

static void *connect_thread(void *arg)
{
    struct fs *fs = arg;
    struct agent_facts *facts = &fs->agent;
    char *error = NULL;

    pthread_mutex_lock(&facts->lock);
    while (!facts->stopping) {
        struct timespec until;
        int r;

        pthread_mutex_unlock(&facts->lock);
        r = agent_connect(fs, &error);
        free(error);
        error = NULL;
        pthread_mutex_lock(&facts->lock);
        if (r == 0)
            break;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += RETRY_SECONDS;
        if (!facts->stopping)
            pthread_cond_timedwait(&facts->stopped, &facts->lock, &until);
    }
    pthread_mutex_unlock(&facts->lock);
    return NULL;
}

int agent_connect_later(struct fs *fs)
{
    int r = -pthread_create(&fs->agent.thread, NULL, connect_thread, fs);

    fs->agent.running = r == 0;
    return r;
}

void agent_stop(struct fs *fs)
{
    struct agent_facts *facts = &fs->agent;

    if (!facts->running)
        return;
    pthread_mutex_lock(&facts->lock);
    facts->stopping = true;
    pthread_cond_signal(&facts->stopped);
    pthread_mutex_unlock(&facts->lock);
    pthread_join(facts->thread, NULL);
    facts->running = false;
}
