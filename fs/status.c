/* status/: neither can be watched, so each look asks the agent. */
#include "status.h"

#include "answer.h"
#include "view.h"

#include <errno.h>

/* Without a leader it is "": an empty file. */
static int find_leader(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = op_read(op, "/v1/status/leader", CONSUL_JSON, 0, 0, &snapshot);

    (void)dir, (void)name;
    if (r == 0 && !json_is_string(snapshot->json))
        r = -EIO;
    if (r == 0)
        r = view_line(json_string_value(snapshot->json), &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int find_peers(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = op_read(op, "/v1/status/peers", CONSUL_JSON, CONSUL_STRINGS, 0, &snapshot);

    (void)dir, (void)name;
    if (r == 0)
        r = view_lines(snapshot->json, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static const struct kind kind_leader = {.name = "leader", .mode = S_IFREG | 0444, .find = find_leader};
static const struct kind kind_peers = {.name = "peers", .mode = S_IFREG | 0444, .find = find_peers};

static const struct kind *const status_rows[] = {&kind_leader, &kind_peers, NULL};

const struct kind kind_status = {.name = "status", .mode = S_IFDIR | 0555, .rows = status_rows};
