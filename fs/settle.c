#include "settle.h"

#include "answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SETTLE_NS 2000000000ull /* how long a writer waits for the catalog */
#define SETTLE_WAIT "500ms"     /* each blocking query; its own bound is the agent's */

/* What shows instances and checks: the next who looks there asks anew. */
static void expire(struct op *op)
{
    static const char *const prefixes[] = {
        "/v1/health/state/",    "/v1/health/node/",  "/v1/health/checks/", "/v1/catalog/services",
        "/v1/catalog/service/", "/v1/catalog/node/", "/v1/agent/service",  "/v1/agent/check",
    };

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        consul_expire(op->fs->consul, prefixes[i]);
}

static int wait_for_change(struct op *op, struct settle *settle, uint64_t index)
{
    struct consul_request request = {.method = "GET", .intent = CONSUL_READ, .timeout_ms = 2000};
    char *path;
    int r;

    if (asprintf(&path, "%s%cindex=%llu&wait=" SETTLE_WAIT, settle->path, strchr(settle->path, '?') ? '&' : '?',
                 index ? (unsigned long long)index : 1) < 0)
        return -ENOMEM;
    settle->phase = SETTLE_WAITING;
    request.path = path;
    r = op_request(op, &request);
    free(path);
    return r;
}

static int settled(struct op *op, struct settle *settle, const json_t *answer, const json_t **ret_answer)
{
    settle->phase = SETTLE_DONE;
    expire(op);
    if (!answer && settle->path)
        consul_expire(op->fs->consul, settle->path);
    if (ret_answer)
        *ret_answer = answer;
    return 0;
}

/*
 * One read tells nearly always that it is not there yet, a blocking query when it is. Its answer is not used: the
 * resource is read again, so that what this mount shows from now on is at least as new.
 */
int settle(struct op *op, struct settle *settle, const json_t **ret_answer)
{
    struct consul_snapshot *snapshot;
    int r;

    if (ret_answer)
        *ret_answer = NULL;
    if (settle->phase == SETTLE_DONE)
        return 0;
    if (!settle->path)
        return settled(op, settle, NULL, ret_answer);
    if (settle->phase == SETTLE_SENT) {
        settle->phase = SETTLE_LOOKING;
        settle->until_ns = consul_now_ns() + SETTLE_NS;
        consul_expire(op->fs->consul, settle->path);
        expire(op);
    } else if (settle->phase == SETTLE_WAITING) {
        settle->phase = SETTLE_LOOKING;
        consul_expire(op->fs->consul, settle->path);
        if (op->result < 0)
            return settled(op, settle, NULL, ret_answer);
    }
    r = op_read(op, settle->path, CONSUL_JSON, settle->flags | CONSUL_OBJECTS, 0, &snapshot);
    if (r == -EINPROGRESS)
        return r;
    if (r < 0)
        return settled(op, settle, NULL, ret_answer);
    if (settle->is_shown(snapshot->json, settle->arg))
        return settled(op, settle, snapshot->json, ret_answer);
    r = consul_now_ns() < settle->until_ns ? wait_for_change(op, settle, snapshot->index) : 0;
    return r == -EINPROGRESS ? r : settled(op, settle, NULL, ret_answer);
}

void settle_clear(struct settle *settle)
{
    free(settle->path);
    settle->path = NULL;
}
