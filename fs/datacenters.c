/*
 * datacenters/: a directory for each, with the top level's own rows: what is below knows its datacenter by
 * op_datacenter(). The agent's own is a link to the top, so that there is one cache of it.
 */
#include "datacenters.h"

#include "answer.h"
#include "checks.h"
#include "config_entries.h"
#include "kv.h"
#include "name.h"
#include "nodes.h"
#include "queries.h"
#include "services.h"
#include "sessions.h"
#include "single.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* It does not block, and every path below goes through it: a datacenter that was there moments ago is there. */
#define TRUSTED_S 10

static int read_datacenters(struct op *op, struct consul_snapshot **ret_snapshot)
{
    int r;

    op->trusted_s = TRUSTED_S;
    r = op_read(op, "/v1/catalog/datacenters", CONSUL_JSON, CONSUL_STRINGS, 0, ret_snapshot);
    if (r != -EINPROGRESS) /* else it may be running again by now */
        op->trusted_s = 0;
    return r;
}

static bool is_own(struct op *op, const char *datacenter)
{
    char *own = answer_datacenter(op);
    bool is = own && strcmp(own, datacenter) == 0;

    free(own);
    return is;
}

static bool has(const json_t *datacenters, const char *datacenter)
{
    const json_t *one;
    size_t i;

    json_array_foreach(datacenters, i, one)
    {
        if (strcmp(json_string_value(one), datacenter) == 0)
            return true;
    }
    return false;
}

/* own: is it the link that is looked for, or a directory? */
static int find(struct op *op, const char *name, bool own, struct consul_snapshot **ret_snapshot)
{
    char datacenter[NAME_SIZE];
    int r = name_decode(name, NULL, datacenter, sizeof(datacenter));

    if (r == 0)
        r = read_datacenters(op, ret_snapshot);
    if (r < 0)
        return r;
    return has((*ret_snapshot)->json, datacenter) && is_own(op, datacenter) == own ? 0 : -ENOENT;
}

static int show_link(const struct consul_snapshot *snapshot, struct found *found)
{
    char *target = strdup("..");

    return target ? answer_show(found, snapshot, target, 2) : -ENOMEM;
}

static int find_datacenter(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;

    (void)dir, (void)found;
    return find(op, name, false, &snapshot);
}

static int find_own(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    int r = find(op, name, true, &snapshot);

    (void)dir;
    return r < 0 ? r : show_link(snapshot, found);
}

static int list(struct op *op, struct lister *lister, bool own)
{
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    json_t *datacenter;
    size_t i;
    int r = read_datacenters(op, &snapshot);

    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, datacenter)
    {
        struct found found = {.kind = row};

        if (is_own(op, json_string_value(datacenter)) != own)
            continue;
        r = own ? show_link(snapshot, &found) : 0;
        if (r == 0)
            r = answer_list_name(op, lister, json_string_value(datacenter), &found);
        if (r < 0)
            return r;
    }
    return 0;
}

static int list_datacenters(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)dir;
    return list(op, lister, false);
}

static int list_own(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)dir;
    return list(op, lister, true);
}

static const struct kind *const datacenter_rows[] = {&kind_kv,       &kind_services, &kind_nodes,  &kind_checks,
                                                     &kind_sessions, &kind_queries,  &kind_config, NULL};

const struct kind kind_datacenter = {
    .mode = S_IFDIR | 0755,
    .rows = datacenter_rows,
    .find = find_datacenter,
    .list = list_datacenters,
};

static const struct kind kind_own = {.mode = S_IFLNK | 0777, .find = find_own, .list = list_own};

/* Not listed: to a program that goes through a tree it would be a datacenter of that name. */
static const struct single coordinates = {.path = "/v1/coordinate/datacenters", .flags = CONSUL_OBJECTS};
static const struct kind kind_coordinates = {
    SINGLE_FILE("coordinates.json", coordinates, 0444),
    .flags = KIND_HIDDEN,
};

static const struct kind *const datacenters_rows[] = {&kind_datacenter, &kind_own, &kind_coordinates, NULL};

const struct kind kind_datacenters = {.name = "datacenters", .mode = S_IFDIR | 0555, .rows = datacenters_rows};
