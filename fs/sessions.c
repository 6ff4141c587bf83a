/*
 * sessions/: Consul picks a session's ID. Who writes NAME.json makes one of that name, which he finds again under it
 * and which everybody finds through by-name/. A session cannot be changed, only renewed (touch) and destroyed (rm).
 */
#include "sessions.h"

#include "answer.h"
#include "collection.h"
#include "view.h"

#include <errno.h>

static int name_session(struct op *op, const char *name, json_t *document, const json_t *current)
{
    (void)op, (void)current;
    if (*view_string(document, "Name"))
        return 0;
    return json_object_set_new(document, "Name", json_string(name)) < 0 ? -ENOMEM : 0;
}

static const struct collection sessions = {
    .list = "/v1/session/list",
    .list_flags = CONSUL_BLOCKS | CONSUL_WATCH_EMPTY,
    .name = "ID",
    .create = {.method = "PUT", .path = "/v1/session/create"},
    .destroy = {.method = "PUT", .path = "/v1/session/destroy/"},
    .names_itself = true,
    .prepare = name_session,
};

static const struct collection_links by_name = {&sessions, "Name"};

static int renew(struct op *op, struct inode *dir, const char *name)
{
    const json_t *session;
    char key[NAME_SIZE];
    int r = view_json_parse(name, key);

    (void)dir;
    if (op->stage > 0)
        return op->result;
    if (r == 0)
        r = collection_select(op, &sessions, key, &session, NULL);
    if (r < 0)
        return r;
    return answer_send(op, "PUT", "/v1/session/renew/", collection_id(&sessions, session), NULL);
}

static const struct kind kind_session = {COLLECTION_FILES(sessions, 0644), .touch = renew};
static const struct kind kind_link = {COLLECTION_LINKS(by_name)};

static const struct kind *const by_name_rows[] = {&kind_link, NULL};
static const struct kind kind_by_name = {.name = "by-name", .mode = S_IFDIR | 0555, .rows = by_name_rows};

static const struct kind *const sessions_rows[] = {&kind_by_name, &kind_session, NULL};

const struct kind kind_sessions = {.name = "sessions", .mode = S_IFDIR | 0755, .rows = sessions_rows};
