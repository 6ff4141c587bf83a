/*
 * events/: agents keep the last 256 events that they have seen. An event reaches the agent's own list a moment after it
 * was fired, so who fires waits until it is there.
 *
 * The list is not watched: its X-Consul-Index is a hash, of which only a difference means anything.
 */
#include "events.h"

#include "answer.h"
#include "content.h"
#include "document.h"
#include "settle.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char list_path[] = "/v1/event/list";

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int read_events(struct op *op, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, list_path, CONSUL_JSON, CONSUL_OBJECTS, 0, ret_snapshot);
}

static int find_event(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char event[NAME_SIZE], *data;
    size_t len;
    int r = name_decode(name, NULL, event, sizeof(event));

    (void)dir;
    if (r == 0)
        r = read_events(op, &snapshot);
    if (r == 0 && !view_select(snapshot->json, "Name", event))
        r = -ENOENT;
    if (r == 0)
        r = view_documents(snapshot->json, "Name", event, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int list_events(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    json_t *event;
    size_t i;
    int r = read_events(op, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, event)
    {
        const char *name = view_string(event, "Name");

        if (view_select(snapshot->json, "Name", name) != event) /* once each */
            continue;
        r = answer_list_name(op, lister, name, &(struct found){.kind = row});
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_event(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    struct found found = {0};
    int r = find_event(op, dir, name, &found);

    if (r == 0)
        *ret_content = found.content;
    return r;
}

/* ---- firing ------------------------------------------------------------------------------------------------------ */

struct firing {
    struct settle settle;
    char *id;
};

static void firing_free(void *arg)
{
    struct firing *firing = arg;

    settle_clear(&firing->settle);
    free(firing->id);
    free(firing);
}

static bool is_shown(const json_t *events, const void *arg)
{
    const struct firing *firing = arg;

    return view_select(events, "ID", firing->id) != NULL;
}

/* It was fired; the answer has its ID. */
static int expect(struct op *op)
{
    json_t *answer = json_loads(op->answer, 0, NULL);
    struct firing *firing = calloc(1, sizeof(*firing));

    if (firing) {
        firing->settle = (struct settle){.path = strdup(list_path), .is_shown = is_shown, .arg = firing};
        firing->id = strdup(view_string(answer, "ID"));
        op->state = firing;
        op->state_free = firing_free;
    }
    json_decref(answer);
    return firing && firing->settle.path && firing->id ? 0 : -ENOMEM;
}

/* Appends "&name=value", encoded, where there is a value. */
static int add_filter(char **query, const char *name, const char *value)
{
    char *prefix, *more;
    int len = asprintf(&prefix, "%s%c%s=", *query, **query ? '&' : '?', name);

    if (len < 0)
        return -ENOMEM;
    more = *value ? answer_path(prefix, value, "") : strdup(*query);
    free(prefix);
    if (!more)
        return -ENOMEM;
    free(*query);
    *query = more;
    return 0;
}

static int send(struct op *op, const char *event, const json_t *filters, const char *payload, size_t len)
{
    struct consul_request request = {
        .method = "PUT",
        .intent = CONSUL_WRITE_STRICT,
        .content_type = "application/octet-stream",
        .body = payload,
        .body_len = len,
    };
    char *query = strdup(""), *path = NULL;
    int r = query ? add_filter(&query, "node", view_string(filters, "NodeFilter")) : -ENOMEM;

    if (r == 0)
        r = add_filter(&query, "service", view_string(filters, "ServiceFilter"));
    if (r == 0)
        r = add_filter(&query, "tag", view_string(filters, "TagFilter"));
    if (r == 0)
        path = answer_path("/v1/event/fire/", event, query);
    free(query);
    if (!path)
        return -ENOMEM;
    request.path = path;
    r = op_request(op, &request);
    free(path);
    return r;
}

/* After send(). */
static int finish(struct op *op)
{
    struct firing *firing;
    int r;

    if (!op->state) {
        if (op->result < 0)
            return op->result;
        r = expect(op);
        if (r < 0)
            return r;
    }
    firing = op->state;
    return settle(op, &firing->settle, NULL);
}

static int may_create_event(struct op *op, struct inode *dir, const char *name)
{
    char event[NAME_SIZE];

    (void)op, (void)dir;
    return name_decode(name, NULL, event, sizeof(event)) < 0 ? -EINVAL : 0;
}

/* Each write is an event; a line's end is the shell's. */
static int fire(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char event[NAME_SIZE];
    int r = name_decode(name, NULL, event, sizeof(event));

    (void)dir;
    if (op->stage > 0)
        return finish(op);
    if (len > 0 && data[len - 1] == '\n')
        len--;
    return r < 0 ? r : send(op, event, NULL, data, len);
}

/* ---- NAME.json: with filters ------------------------------------------------------------------------------------- */

static int find_nothing(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)op, (void)dir, (void)name, (void)found;
    return -ENOENT;
}

static int may_create_document(struct op *op, struct inode *dir, const char *name)
{
    char event[NAME_SIZE];

    (void)op, (void)dir;
    return view_is_json_name(name) && view_json_parse(name, event) == 0 ? 0 : -EPERM;
}

/* The document says what Consul knows of an event that is to be fired, and nothing else. */
static int check_document(struct op *op, const json_t *document)
{
    static const char *const known[] = {"Payload", "NodeFilter", "ServiceFilter", "TagFilter"};
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)document, key, value)
    {
        bool is_known = false;

        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            is_known = is_known || strcmp(key, known[i]) == 0;
        if (is_known && json_is_string(value))
            continue;
        answer_refuse(op, "/v1/event/fire/",
                      "Payload, NodeFilter, ServiceFilter and TagFilter are strings; \"%s\" is %s", key,
                      is_known ? "none" : "not known");
        return -EINVAL;
    }
    return 0;
}

static int fire_document(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char event[NAME_SIZE];
    const json_t *payload;
    json_t *document;
    int r = view_json_parse(name, event);

    (void)dir;
    if (op->stage > 0)
        return finish(op);
    document = json_loadb(data, len, 0, NULL);
    if (r == 0)
        r = document ? check_document(op, document) : -EINVAL;
    if (r == 0) {
        payload = json_object_get(document, "Payload");
        r = send(op, event, document, payload ? json_string_value(payload) : "",
                 payload ? json_string_length(payload) : 0);
    }
    json_decref(document);
    return r;
}

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

static const struct kind kind_document = {
    .mode = S_IFREG | 0200,
    .flags = KIND_HIDDEN,
    .find = find_nothing,
    .store = fire_document,
    .complete = document_complete,
    .may_create = may_create_document,
};

static const struct kind kind_event = {
    .mode = S_IFREG | 0644,
    .flags = KIND_ORDERS,
    .find = find_event,
    .list = list_events,
    .read = read_event,
    .store = fire,
    .may_create = may_create_event,
};

/* An event may be called "x.json"; fired with a document it is called "x". */
static const struct kind *const events_rows[] = {&kind_document, &kind_event, NULL};

const struct kind kind_events = {.name = "events", .mode = S_IFDIR | 0755, .rows = events_rows};
