#include "moved.h"

#include "answer.h"
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

/* Whether this shows one of these instances as another service's. */
static bool shows_any(const json_t *health, const json_t *services)
{
    bool shows = false;
    json_t *entry;
    size_t i;

    json_array_foreach((json_t *)health, i, entry)
    {
        char *key = key_of(entry);
        const char *service = key ? json_string_value(json_object_get(services, key)) : NULL;

        shows = service && strcmp(service, service_of(entry)) != 0;
        free(key);
        if (shows)
            break;
    }
    return shows;
}

/* ---- what is asked again ----------------------------------------------------------------------------------------- */

/* The services' resources that are watched; what is not is asked whenever it is read. */
struct watched {
    struct consul_resource **at; /* counted */
    size_t n;
};

static struct watched watched_services(struct fs *fs)
{
    struct watched watched;

    watched.at = consul_watched(fs->consul, INSTANCE_HEALTH, &watched.n);
    return watched;
}

static void watched_clear(struct watched *watched)
{
    for (size_t i = 0; i < watched->n; i++)
        consul_resource_unref(watched->at[i]);
    free(watched->at);
}

static void ask_where_shown(struct fs *fs, const json_t *services)
{
    struct watched watched = watched_services(fs);

    for (size_t i = 0; i < watched.n; i++) {
        bool is_watched;
        struct consul_snapshot *snapshot = consul_resource_peek(watched.at[i], &is_watched);

        if (snapshot && shows_any(snapshot->json, services))
            consul_resource_ask_again(watched.at[i]);
        consul_snapshot_unref(snapshot);
    }
    watched_clear(&watched);
}

static void look_again(struct fs *fs, const json_t *health, uint64_t index)
{
    json_t *services = registered_again(health, index);

    if (services)
        ask_where_shown(fs, services);
    json_decref(services);
}

static bool shows_instances(struct consul_resource *resource)
{
    bool is_watched, shows;
    struct consul_snapshot *snapshot = consul_resource_peek(resource, &is_watched);

    shows = snapshot && json_array_size(snapshot->json) > 0;
    consul_snapshot_unref(snapshot);
    return shows;
}

/* In whatever datacenter, and whichever parameters it is asked with. */
static void ask_of_service(const struct watched *watched, const char *service)
{
    char *path = answer_path(INSTANCE_HEALTH, service, "");
    size_t len = path ? strlen(path) : 0;

    for (size_t i = 0; path && i < watched->n; i++) {
        const char *of = consul_resource_path(watched->at[i]);

        if (strncmp(of, path, len) == 0 && (of[len] == '\0' || of[len] == '?') && shows_instances(watched->at[i]))
            consul_resource_ask_again(watched->at[i]);
    }
    free(path);
}

static void ask_of_missing(struct fs *fs, const json_t *before, const json_t *after)
{
    struct watched watched = watched_services(fs);
    const char *service;
    json_t *tags;

    json_object_foreach((json_t *)before, service, tags)
    {
        if (!json_object_get(after, service))
            ask_of_service(&watched, service);
    }
    watched_clear(&watched);
}

void moved_look(struct fs *fs, const struct consul_resource *resource, const struct consul_snapshot *before,
                const struct consul_snapshot *after)
{
    const char *path = consul_resource_path(resource);

    if (strncmp(path, INSTANCE_HEALTH, strlen(INSTANCE_HEALTH)) == 0)
        look_again(fs, after->json, before ? before->index : 0);
    else if (before && strncmp(path, CATALOG_SERVICES, strlen(CATALOG_SERVICES)) == 0)
        ask_of_missing(fs, before->json, after->json);
}

void moved_here(struct fs *fs, const json_t *health) { look_again(fs, health, 0); }
