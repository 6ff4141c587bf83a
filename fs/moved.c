#include "moved.h"

#include "catalog.h"
#include "instance.h"
#include "view.h"

#include <stdlib.h>
#include <string.h>

static uint64_t index_of(const json_t *entry, const char *member)
{
    return (uint64_t)json_integer_value(json_object_get(json_object_get(entry, "Service"), member));
}

/* What an instance goes by, wherever it is shown; the caller's, or NULL. */
static char *key_of(const json_t *entry)
{
    char *key;

    return asprintf(&key, "%s\n%s", view_instance_node(entry), view_instance_id(entry)) < 0 ? NULL : key;
}

static const char *service_of(const json_t *entry) { return view_string(json_object_get(entry, "Service"), "Service"); }

/*
 * The instances that were there before they were last registered, and that since `index`: each one's service by its
 * key; NULL: none, or no memory. The caller's.
 */
static json_t *registered_again(const json_t *health, uint64_t index)
{
    json_t *services = NULL, *entry;
    size_t i;

    json_array_foreach((json_t *)health, i, entry)
    {
        uint64_t modified = index_of(entry, "ModifyIndex");
        char *key;

        if (modified <= index || modified == index_of(entry, "CreateIndex") || !(key = key_of(entry)))
            continue;
        if (services || (services = json_object()))
            (void)json_object_set_new_nocheck(services, key, json_string_nocheck(service_of(entry)));
        free(key);
    }
    return services;
}

/* ---- what is asked again ----------------------------------------------------------------------------------------- */

/*
 * What was told, either of the two: which instances are registered again, and the services that have them; or the list
 * of services as it was and as it is.
 */
struct told {
    const json_t *again;
    const json_t *before, *after;
};

static bool is_missing(const struct told *told, const char *service)
{
    return json_object_get(told->before, service) && !json_object_get(told->after, service);
}

/* Whether the instance has another service by now. */
static bool has_moved(const struct told *told, const json_t *entry)
{
    char *key = key_of(entry);
    const char *service = key ? json_string_value(json_object_get(told->again, key)) : NULL;
    bool moved = service && strcmp(service, service_of(entry)) != 0;

    free(key);
    return moved;
}

static bool shows_what_left(const struct told *told, const json_t *health)
{
    json_t *entry;
    size_t i;

    json_array_foreach((json_t *)health, i, entry)
    {
        if (told->again ? has_moved(told, entry) : is_missing(told, service_of(entry)))
            return true;
    }
    return false;
}

/* The services' resources that are watched, in whatever datacenter; what is not is asked whenever it is read. */
static void ask_where_shown(struct fs *fs, const struct told *told)
{
    size_t n;
    struct consul_resource **watched = consul_watched(fs->consul, INSTANCE_HEALTH, &n);

    for (size_t i = 0; i < n; i++) {
        bool is_watched;
        struct consul_snapshot *snapshot = consul_resource_peek(watched[i], &is_watched);

        if (snapshot && shows_what_left(told, snapshot->json))
            consul_resource_ask_again(watched[i]);
        consul_snapshot_unref(snapshot);
        consul_resource_unref(watched[i]);
    }
    free(watched);
}

static void look_again(struct fs *fs, const json_t *health, uint64_t index)
{
    json_t *again = registered_again(health, index);

    if (again)
        ask_where_shown(fs, &(struct told){.again = again});
    json_decref(again);
}

void moved_look(struct fs *fs, const struct consul_resource *resource, const struct consul_snapshot *before,
                const struct consul_snapshot *after)
{
    const char *path = consul_resource_path(resource);

    if (strncmp(path, INSTANCE_HEALTH, strlen(INSTANCE_HEALTH)) == 0)
        look_again(fs, after->json, before ? before->index : 0);
    else if (before && strncmp(path, CATALOG_SERVICES, strlen(CATALOG_SERVICES)) == 0)
        ask_where_shown(fs, &(struct told){.before = before->json, .after = after->json});
}

void moved_here(struct fs *fs, const json_t *health) { look_again(fs, health, 0); }
