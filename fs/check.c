#include "check.h"

#include "answer.h"
#include "catalog.h"
#include "settle.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char register_path[] = "/v1/agent/check/register";

struct change {
    struct settle settle;
    char *id;
    char *status; /* it is to have then; NULL: any */
    bool gone;    /* it is to be gone */
};

static void change_free(void *arg)
{
    struct change *change = arg;

    settle_clear(&change->settle);
    free(change->id);
    free(change->status);
    free(change);
}

static bool is_shown(const json_t *checks, const void *arg)
{
    const struct change *change = arg;
    const json_t *check = view_select(checks, "CheckID", change->id);

    if (change->gone || !check)
        return change->gone == !check;
    return !change->status || strcmp(view_string(check, "Status"), change->status) == 0;
}

static int look_at_node(struct settle *settle, const char *node)
{
    settle->path = answer_path("/v1/health/node/", node, "");
    return settle->path ? 0 : -ENOMEM;
}

/*
 * What is to be waited for, on `node` (NULL: our agent's). Who may not read what our agent says of itself does not know
 * where to look.
 */
static int expect(struct op *op, const char *id, const char *node, const char *status, bool gone)
{
    struct change *change = calloc(1, sizeof(*change));
    char *local = node ? NULL : answer_local_node(op);
    int r = change ? 0 : -ENOMEM;

    if (r == 0) {
        *change = (struct change){
            .settle = {.flags = CONSUL_BLOCKS, .is_shown = is_shown, .arg = change},
            .id = strdup(id),
            .status = status ? strdup(status) : NULL,
            .gone = gone,
        };
        op->state = change;
        op->state_free = change_free;
        if (!change->id || (status && !change->status))
            r = -ENOMEM;
    }
    if (r == 0 && (node || local))
        r = look_at_node(&change->settle, node ? node : local);
    free(local);
    return r;
}

/* The request has been answered. */
static int finish(struct op *op)
{
    struct change *change = op->state;

    if (settle_is_new(&change->settle) && op->result < 0)
        return op->result;
    return settle(op, &change->settle, NULL);
}

int check_expect(struct op *op, const char *id, bool gone)
{
    int r = expect(op, id, NULL, NULL, gone);

    return r < 0 ? r : finish(op);
}

int check_settle(struct op *op) { return finish(op); }

/* ---- registering ------------------------------------------------------------------------------------------------- */

static int send_registration(struct op *op, enum catalog_owner owner, const char *node, json_t *check)
{
    json_t *document;
    int r;

    if (owner == CATALOG_OURS)
        return answer_send(op, "PUT", register_path, "", check);
    document = json_pack("{s:s, s:b, s:O}", "Node", node, "SkipNodeUpdate", 1, "Check", check);
    r = document ? catalog_register(op, document) : -EINVAL;
    json_decref(document);
    return r;
}

static int begin_registration(struct op *op, const char *id, const char *node, const char *data, size_t len)
{
    enum catalog_owner owner;
    json_t *written, *check = NULL;
    char *why = NULL;
    int r = catalog_owner(op, node, &owner);

    if (r == 0 && owner == CATALOG_NOBODYS)
        r = catalog_has_node(op, node);
    if (r < 0)
        return r;
    written = json_loadb(data, len, 0, NULL);
    r = written ? view_check_registration(written, id, owner == CATALOG_NOBODYS ? node : NULL, &check, &why) : -EINVAL;
    json_decref(written);
    if (r == -EINVAL)
        answer_refuse(op, register_path, "%s", why ? why : "not JSON");
    free(why);
    if (r == 0)
        r = expect(op, id, owner == CATALOG_OURS ? NULL : node, NULL, false);
    if (r == 0)
        r = send_registration(op, owner, node, check);
    json_decref(check);
    return r;
}

int check_register(struct op *op, const char *id, const char *node, const char *data, size_t len)
{
    return op->state ? finish(op) : begin_registration(op, id, node, data, len);
}

/* ---- deregistering ----------------------------------------------------------------------------------------------- */

static int begin_deregistration(struct op *op, const char *id, const char *node)
{
    enum catalog_owner owner;
    int r = catalog_owner(op, node, &owner);

    if (r == 0 && owner == CATALOG_OURS && strcmp(id, "serfHealth") == 0) {
        answer_refuse(op, "/v1/agent/check/deregister/", "\"%s\" is Consul's own and comes back", id);
        r = -EPERM;
    }
    if (r == 0)
        r = expect(op, id, owner == CATALOG_OURS ? NULL : node, NULL, true);
    if (r < 0)
        return r;
    return owner == CATALOG_OURS ? answer_send(op, "PUT", "/v1/agent/check/deregister/", id, NULL)
                                 : catalog_deregister(op, node, "CheckID", id);
}

int check_deregister(struct op *op, const char *id, const char *node)
{
    return op->state ? finish(op) : begin_deregistration(op, id, node);
}

/* ---- the status of a TTL check ----------------------------------------------------------------------------------- */

static int begin_update(struct op *op, const char *id, const char *data, size_t len)
{
    static const char *const statuses[] = {"passing", "warning", "critical"};
    const char *status = NULL;
    json_t *document;
    size_t n;
    int r;

    while (len > 0 && strchr(" \t\n", data[len - 1]))
        len--;
    for (n = 0; n < len && !strchr(" \t\n", data[n]); n++)
        ;
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
        if (strlen(statuses[i]) == n && memcmp(statuses[i], data, n) == 0)
            status = statuses[i];
    if (!status) {
        answer_refuse(op, "/v1/agent/check/update/", "a status is passing, warning or critical, then a note");
        return -EINVAL;
    }
    while (n < len && strchr(" \t\n", data[n]))
        n++;
    document = json_pack("{s:s, s:s%}", "Status", status, "Output", data + n, len - n);
    r = document ? expect(op, id, NULL, status, false) : -EINVAL;
    if (r == 0)
        r = answer_send(op, "PUT", "/v1/agent/check/update/", id, document);
    json_decref(document);
    return r;
}

int check_update(struct op *op, const char *id, const char *data, size_t len)
{
    return op->state ? finish(op) : begin_update(op, id, data, len);
}
