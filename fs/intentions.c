/*
 * connect/intentions/SOURCE:DESTINATION.json. Since 1.9 Consul addresses them by both names, before by an ID that it
 * picks; a ':' in a name is %3A.
 */
#include "intentions.h"

#include "answer.h"
#include "document.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char path[] = "/v1/connect/intentions";

#define BY_NAMES_SINCE 9 /* minor version of Consul 1 */

/* ---- names ------------------------------------------------------------------------------------------------------- */

static int file_name(const json_t *intention, char out[NAME_SIZE])
{
    const char *source = view_string(intention, "SourceName"), *destination = view_string(intention, "DestinationName");
    char from[NAME_SIZE], to[NAME_SIZE];
    int r = name_encode(source, strlen(source), ":", from);

    if (r == 0)
        r = name_encode(destination, strlen(destination), ":", to);
    if (r == 0 && strlen(from) + strlen(to) + strlen(":.json") > NAME_LEN_MAX)
        r = -ENAMETOOLONG;
    if (r == 0)
        snprintf(out, NAME_SIZE, "%.*s:%.*s.json", (int)strlen(from), from, (int)strlen(to), to);
    return r;
}

static int parse_name(const char *name, char source[NAME_SIZE], char destination[NAME_SIZE])
{
    char file[NAME_SIZE], *colon;
    size_t len = strlen(name);
    int r;

    if (!view_is_json_name(name) || len >= NAME_SIZE)
        return -ENOENT;
    memcpy(file, name, len - strlen(".json"));
    file[len - strlen(".json")] = '\0';
    colon = strchr(file, ':');
    if (!colon)
        return -ENOENT;
    *colon = '\0';
    r = name_decode(file, ":", source, NAME_SIZE);
    return r < 0 ? r : name_decode(colon + 1, ":", destination, NAME_SIZE);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int read_list(struct op *op, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, path, CONSUL_JSON, CONSUL_BLOCKS | CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, 0, ret_snapshot);
}

static int select_intention(struct op *op, const char *name, const json_t **ret_intention,
                            struct consul_snapshot **ret_snapshot)
{
    char source[NAME_SIZE], destination[NAME_SIZE];
    const json_t *intention;
    size_t i;
    int r = parse_name(name, source, destination);

    if (r == 0)
        r = read_list(op, ret_snapshot);
    if (r < 0)
        return r;
    json_array_foreach((*ret_snapshot)->json, i, intention)
    {
        if (strcmp(view_string(intention, "SourceName"), source) == 0 &&
            strcmp(view_string(intention, "DestinationName"), destination) == 0) {
            *ret_intention = intention;
            return 0;
        }
    }
    return -ENOENT;
}

static int find_intention(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    const json_t *intention;
    int r = select_intention(op, name, &intention, &snapshot);

    (void)dir;
    return r < 0 ? r : answer_show_document(found, snapshot, intention);
}

static int list_intentions(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    json_t *intention;
    size_t i;
    int r = read_list(op, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, intention)
    {
        r = answer_list_document(op, lister, file_name(intention, name), name, snapshot, intention, row);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool is_by_names(struct op *op) { return answer_minor_version(op->fs) >= BY_NAMES_SINCE; }

/* "/v1/connect/intentions/exact?source=…&destination=…" */
static char *exact_path(const char *source, const char *destination)
{
    char *half = answer_path("/v1/connect/intentions/exact?source=", source, "&destination="), *whole = NULL;

    if (half)
        whole = answer_path(half, destination, "");
    free(half);
    return whole;
}

static int settle_name(struct op *op, json_t *document, const char *member, const char *value)
{
    const char *said = view_string(document, member);

    if (!*said)
        return json_object_set_new(document, member, json_string(value)) < 0 ? -ENOMEM : 0;
    if (strcmp(said, value) == 0)
        return 0;
    answer_refuse(op, path, "\"%s\" says \"%s\", the path says \"%s\"", member, said, value);
    return -EINVAL;
}

/* What only shows, and since 1.9 is refused. */
static void drop_shown(json_t *document)
{
    static const char *const shown[] = {"ID",         "CreatedAt",   "UpdatedAt",  "Hash",
                                        "Precedence", "CreateIndex", "ModifyIndex"};

    for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
        json_object_del(document, shown[i]);
}

static int send(struct op *op, const json_t *current, const char *source, const char *destination,
                const json_t *document)
{
    char *exact;
    int r;

    if (!is_by_names(op))
        return current ? answer_send(op, "PUT", "/v1/connect/intentions/", view_string(current, "ID"), document)
                       : answer_send(op, "POST", path, "", document);
    exact = exact_path(source, destination);
    r = exact ? answer_send(op, "PUT", exact, "", document) : -ENOMEM;
    free(exact);
    return r;
}

static int begin(struct op *op, const char *name, const char *data, size_t len)
{
    char source[NAME_SIZE], destination[NAME_SIZE];
    struct consul_snapshot *snapshot;
    const json_t *current = NULL;
    json_t *document;
    int r = select_intention(op, name, &current, &snapshot);

    if (r == 0 || r == -ENOENT)
        r = parse_name(name, source, destination);
    if (r < 0)
        return r;
    document = json_loadb(data, len, 0, NULL);
    r = document ? settle_name(op, document, "SourceName", source) : -EINVAL;
    if (r == 0)
        r = settle_name(op, document, "DestinationName", destination);
    if (r == 0) {
        drop_shown(document);
        r = send(op, current, source, destination, document);
    }
    json_decref(document);
    return r;
}

static int answered(struct op *op)
{
    if (op->result == 0)
        consul_expire(op->fs->consul, path);
    return op->result;
}

static int may_create_intention(struct op *op, struct inode *dir, const char *name)
{
    char source[NAME_SIZE], destination[NAME_SIZE];

    (void)op, (void)dir;
    if (!view_is_json_name(name))
        return -EPERM;
    return parse_name(name, source, destination) < 0 ? -EINVAL : 0;
}

static int store_intention(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    (void)dir;
    return op->stage > 0 ? answered(op) : begin(op, name, data, len);
}

static int unlink_intention(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    const json_t *intention;
    char *exact;
    int r;

    (void)dir;
    if (op->stage > 0)
        return answered(op);
    r = select_intention(op, name, &intention, &snapshot);
    if (r < 0)
        return r;
    if (!is_by_names(op))
        return answer_send(op, "DELETE", "/v1/connect/intentions/", view_string(intention, "ID"), NULL);
    exact = exact_path(view_string(intention, "SourceName"), view_string(intention, "DestinationName"));
    r = exact ? answer_send(op, "DELETE", exact, "", NULL) : -ENOMEM;
    free(exact);
    return r;
}

static const struct kind kind_intention = {
    .mode = S_IFREG | 0644,
    .find = find_intention,
    .list = list_intentions,
    .store = store_intention,
    .complete = document_complete,
    .may_create = may_create_intention,
    .unlink = unlink_intention,
};

static const struct kind *const intentions_rows[] = {&kind_intention, NULL};

const struct kind kind_intentions = {.name = "intentions", .mode = S_IFDIR | 0755, .rows = intentions_rows};
