#include "candidate.h"

#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ADDRESSES_MAX 32 /* that the catalog has for one instance; more are not looked at */
#define BETTER_NS 1000000u

/* ---- how an instance can be probed ------------------------------------------------------------------------------- */

struct addresses {
    const char *list[ADDRESSES_MAX];
    size_t n;
};

static void add_address(struct addresses *addresses, const char *address)
{
    if (*address && addresses->n < ADDRESSES_MAX)
        addresses->list[addresses->n++] = address;
}

/* The node's own comes first: consul_probe_url_allowed() wants to know it. */
static void collect_addresses(const json_t *entry, struct addresses *addresses)
{
    const json_t *node = json_object_get(entry, "Node"), *service = json_object_get(entry, "Service");
    const char *key;
    json_t *value;

    addresses->list[0] = view_string(node, "Address");
    addresses->n = 1;
    add_address(addresses, view_string(service, "Address"));
    json_object_foreach(json_object_get(node, "TaggedAddresses"), key, value)
    {
        if (json_is_string(value))
            add_address(addresses, json_string_value(value));
    }
    json_object_foreach(json_object_get(service, "TaggedAddresses"), key, value)
    {
        add_address(addresses, view_string(value, "Address"));
    }
}

/* The URL that the instance's own HTTP check asks, if it leads to the instance; the caller frees it. */
static char *http_target(const json_t *entry, const struct addresses *addresses, bool is_local)
{
    const char *id = view_instance_id(entry);
    json_t *check;
    size_t i;

    json_array_foreach(json_object_get(entry, "Checks"), i, check)
    {
        char *target = NULL;

        if (strcmp(view_string(check, "ServiceID"), id) != 0)
            continue;
        if (consul_health_target(view_string(check, "Type"), view_string(check, "Output"), &target) ==
                CONSUL_HEALTH_HTTP &&
            consul_probe_url_allowed(target, addresses->list, addresses->n, is_local))
            return target;
        free(target);
    }
    return NULL;
}

static int aim(struct candidate *candidate, const json_t *entry, bool is_local)
{
    struct addresses addresses;

    collect_addresses(entry, &addresses);
    candidate->kind = CONSUL_PROBE_HEAD;
    candidate->target = http_target(entry, &addresses, is_local);
    if (candidate->target || candidate->port <= 0 ||
        !consul_probe_url_allowed(candidate->address, addresses.list, addresses.n, is_local))
        return 0;
    candidate->kind = CONSUL_PROBE_TCP;
    candidate->target = strdup(candidate->address);
    return candidate->target ? 0 : -ENOMEM;
}

static int init(struct candidate *candidate, const json_t *entry, const char *local)
{
    const char *node = view_instance_node(entry);
    int r;

    candidate->node = strdup(node);
    candidate->id = strdup(view_instance_id(entry));
    candidate->host = strdup(view_instance_host(entry));
    candidate->port = view_instance_port(entry);
    r = view_address(view_instance_host(entry), candidate->port, &candidate->address);
    if (r < 0 || !candidate->node || !candidate->id || !candidate->host)
        return -ENOMEM;
    return aim(candidate, entry, local && strcmp(node, local) == 0);
}

int candidates_of(const json_t *health, const char *local, struct candidates *ret)
{
    struct candidates candidates = {0};
    json_t *entry;
    size_t i;
    int r = 0;

    if (!json_is_array(health))
        return -EIO;
    candidates.list = calloc(json_array_size(health) + 1, sizeof(*candidates.list));
    if (!candidates.list)
        return -ENOMEM;
    json_array_foreach(health, i, entry)
    {
        if (view_instance_status(entry) != VIEW_PASSING)
            continue;
        r = init(&candidates.list[candidates.n++], entry, local);
        if (r < 0)
            break;
    }
    if (r < 0)
        candidates_clear(&candidates);
    else
        *ret = candidates;
    return r;
}

void candidates_clear(struct candidates *candidates)
{
    for (size_t i = 0; i < candidates->n; i++) {
        struct candidate *candidate = &candidates->list[i];

        free(candidate->node);
        free(candidate->id);
        free(candidate->host);
        free(candidate->address);
        free(candidate->target);
    }
    free(candidates->list);
    *candidates = (struct candidates){0};
}

/* ---- which is which ---------------------------------------------------------------------------------------------- */

size_t candidates_find(const struct candidates *candidates, const char *node, const char *id)
{
    for (size_t i = 0; i < candidates->n; i++)
        if (strcmp(candidates->list[i].node, node) == 0 && strcmp(candidates->list[i].id, id) == 0)
            return i;
    return CANDIDATE_NONE;
}

static bool is_same(const struct candidate *one, const struct candidate *other)
{
    if (strcmp(one->node, other->node) != 0 || strcmp(one->id, other->id) != 0 ||
        strcmp(one->address, other->address) != 0 || !one->target != !other->target)
        return false;
    return !one->target || (one->kind == other->kind && strcmp(one->target, other->target) == 0);
}

/* Consul's answers have an order of their own that does not change by itself. */
bool candidates_same(const struct candidates *one, const struct candidates *other)
{
    if (one->n != other->n)
        return false;
    for (size_t i = 0; i < one->n; i++)
        if (!is_same(&one->list[i], &other->list[i]))
            return false;
    return true;
}

size_t candidates_probeable(const struct candidates *candidates)
{
    size_t n = 0;

    for (size_t i = 0; i < candidates->n; i++)
        n += candidates->list[i].target != NULL;
    return n;
}

/* ---- what was measured ------------------------------------------------------------------------------------------- */

void candidates_remember(struct candidates *candidates, const struct candidates *before)
{
    for (size_t i = 0; i < candidates->n; i++) {
        struct candidate *candidate = &candidates->list[i];
        size_t old = candidates_find(before, candidate->node, candidate->id);

        if (old != CANDIDATE_NONE && is_same(candidate, &before->list[old]))
            candidate->smoothed_ns = before->list[old].smoothed_ns;
    }
}

/* Half the newest, half what came before: a hiccup counts half. */
void candidate_answered(struct candidate *candidate, uint64_t ns)
{
    candidate->outcome = CANDIDATE_GOOD;
    candidate->err = 0;
    candidate->ns = ns;
    candidate->smoothed_ns = candidate->smoothed_ns ? candidate->smoothed_ns / 2 + ns / 2 : ns;
    if (candidate->smoothed_ns == 0)
        candidate->smoothed_ns = 1;
}

/* Who does not answer begins anew when he answers again. */
void candidate_failed(struct candidate *candidate, int err)
{
    candidate->outcome = CANDIDATE_BAD;
    candidate->err = err;
    candidate->smoothed_ns = 0;
}

bool candidate_clearly_better(uint64_t ns, uint64_t than_ns)
{
    return ns < than_ns && than_ns - ns >= BETTER_NS && than_ns - ns >= than_ns / 5;
}

size_t candidates_pick(const struct candidates *candidates, size_t incumbent)
{
    const struct candidate *list = candidates->list;
    size_t best = CANDIDATE_NONE;

    for (size_t i = 0; i < candidates->n; i++) {
        if (list[i].outcome == CANDIDATE_GOOD &&
            (best == CANDIDATE_NONE || list[i].smoothed_ns < list[best].smoothed_ns))
            best = i;
    }
    if (best == CANDIDATE_NONE || incumbent == CANDIDATE_NONE || list[incumbent].outcome != CANDIDATE_GOOD)
        return best;
    return candidate_clearly_better(list[best].smoothed_ns, list[incumbent].smoothed_ns) ? best : incumbent;
}

/* ---- fastest.json ------------------------------------------------------------------------------------------------ */

static int set(json_t *object, const char *key, json_t *value)
{
    return value && json_object_set_new(object, key, value) == 0 ? 0 : -ENOMEM;
}

static const char *method_of(const struct candidate *candidate)
{
    return !candidate->target ? "none" : candidate->kind == CONSUL_PROBE_HEAD ? "http" : "tcp";
}

/* Microseconds are more than can be measured. */
static double milliseconds(uint64_t ns) { return (double)(ns / 1000) / 1000.0; }

static int put_instance(json_t *object, const struct candidate *candidate)
{
    int r = set(object, "Node", json_string(candidate->node));

    if (r == 0)
        r = set(object, "ID", json_string(candidate->id));
    if (r == 0)
        r = set(object, "Address", json_string(candidate->host));
    return r < 0 ? r : set(object, "Port", json_integer(candidate->port));
}

static int put_measurement(json_t *object, const struct candidate *candidate)
{
    switch (candidate->outcome) {
    case CANDIDATE_GOOD:
        return set(object, "Milliseconds", json_real(milliseconds(candidate->ns)));
    case CANDIDATE_BAD:
        return set(object, "Error", json_string(strerror(-candidate->err)));
    case CANDIDATE_UNKNOWN: /* nothing is invented */
        break;
    }
    return 0;
}

static json_t *describe_winner(const struct candidates_result *result)
{
    const struct candidate *winner = &result->candidates->list[result->winner];
    json_t *object = json_object();

    if (object &&
        (put_instance(object, winner) < 0 || (!result->by_coordinate && put_measurement(object, winner) < 0))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *describe(const struct candidate *candidate)
{
    json_t *object = json_object();
    int r = object ? put_instance(object, candidate) : -ENOMEM;

    if (r == 0)
        r = set(object, "Method", json_string(method_of(candidate)));
    if (r == 0 && candidate->target)
        r = set(object, "Target", json_string(candidate->target));
    if (r == 0)
        r = put_measurement(object, candidate);
    if (r < 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *describe_all(const struct candidates *candidates)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < candidates->n; i++) {
        json_t *object = describe(&candidates->list[i]);

        if (!object || json_array_append_new(array, object) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* RFC 3339 with milliseconds, in UTC. */
static json_t *describe_time(uint64_t ns)
{
    time_t seconds = (time_t)(ns / 1000000000u);
    char text[40];
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    return json_sprintf("%s.%03uZ", text, (unsigned)(ns / 1000000u % 1000u));
}

int candidates_document(const struct candidates_result *result, char **ret_data, size_t *ret_len)
{
    const struct candidate *winner = &result->candidates->list[result->winner];
    json_t *object = json_object();
    int r = object ? set(object, "Service", json_string(result->service)) : -ENOMEM;

    if (r == 0 && result->datacenter)
        r = set(object, "Datacenter", json_string(result->datacenter));
    if (r == 0)
        r = set(object, "Winner", describe_winner(result));
    if (r == 0)
        r = set(object, "Method", json_string(result->by_coordinate ? "coordinate" : method_of(winner)));
    if (r == 0)
        r = set(object, "MeasuredAt", describe_time(result->measured_ns));
    if (r == 0)
        r = set(object, "Candidates", describe_all(result->candidates));
    if (r == 0)
        r = view_document(object, ret_data, ret_len);
    json_decref(object);
    return r;
}
