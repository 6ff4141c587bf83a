/*
 * services/: one directory for each service, whose files are views of one resource, /v1/health/service/X.
 *
 * A directory is there while the catalog has its service, from mkdir to the first registration, and, for who has just
 * removed the last instance, a little longer.
 */
#include "services.h"

#include "answer.h"
#include "catalog.h"
#include "content.h"
#include "document.h"
#include "fastest.h"
#include "instance.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The name of a service's own file that an instance's could be taken for. */
#define OWN_DOCUMENT "fastest.json"

/* ---- a service's directory --------------------------------------------------------------------------------------- */

static const struct kind kind_service;

/* Directories here are never renamed, so their names need no lock. */
static int service_of(const struct inode *dir, char service[NAME_SIZE])
{
    return name_decode(dir->name, NULL, service, NAME_SIZE);
}

static int read_health(struct op *op, const struct inode *dir, struct consul_snapshot **ret_snapshot)
{
    char service[NAME_SIZE];
    int r = service_of(dir, service);

    return r < 0 ? r : answer_read(op, INSTANCE_HEALTH, service, "", CONSUL_BLOCKS | CONSUL_OBJECTS, ret_snapshot);
}

static int read_catalog(struct op *op, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, CATALOG_SERVICES, CONSUL_JSON, CONSUL_BLOCKS | CONSUL_OBJECT, 0, ret_snapshot);
}

/* What a service's directory is called where it is remembered as made: "DATACENTER/NAME". */
#define PLACE_SIZE (2 * NAME_SIZE)

static void place_of_service(struct op *op, const char *name, char place[PLACE_SIZE])
{
    const char *datacenter = op_datacenter(op);

    snprintf(place, PLACE_SIZE, "%s/%s", datacenter ? datacenter : "", name);
}

static bool is_made(struct op *op, const char *name)
{
    char place[PLACE_SIZE];

    place_of_service(op, name, place);
    return made_has(&op->fs->made, place);
}

/* Whether who asks has just removed the last instance in services/NAME, which only he still finds then. */
static bool is_phantom(struct op *op, const struct inode *services, const char *name)
{
    char *path = op->quiet ? NULL : tree_path_of(op->fs, services, name); /* a quiet one is nobody's */
    bool is = path && phantom_has(&op->fs->phantoms, path, op->pid);

    free(path);
    if (is)
        op->watched_all = false;
    return is;
}

/*
 * Is the list of all to tell whether there is a service? Not unless it is up to date: who looks up a service mostly
 * reads it next, and the list may be long. But for who asks nobody one of them may be behind, after a write of ours:
 * that is the service's own then, as it is the list from which watchers were told of services.
 */
static bool is_told_by_list(struct op *op, const char *service)
{
    char *path;
    bool is;

    if (op_is_watched(op, CATALOG_SERVICES))
        return true;
    if (!op->quiet || !op_is_known(op, CATALOG_SERVICES))
        return false;
    path = answer_path(INSTANCE_HEALTH, service, "");
    is = !path || !op_is_watched(op, path);
    free(path);
    return is;
}

/* By the service's own resource. No instances say nothing: they may be hidden, or the directory may have been made. */
static int has_instances(struct op *op, const char *service, bool *ret_has)
{
    struct consul_snapshot *snapshot;
    int r;

    *ret_has = false;
    if (is_told_by_list(op, service))
        return 0;
    r = answer_read(op, INSTANCE_HEALTH, service, "", CONSUL_BLOCKS | CONSUL_OBJECTS, &snapshot);
    if (r == 0)
        *ret_has = json_array_size(snapshot->json) > 0;
    if (!*ret_has && r != -EINPROGRESS)
        op_rest_on_nothing(op);
    return r == -EINPROGRESS ? r : 0;
}

static int find_service(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char service[NAME_SIZE];
    int r = name_decode(name, NULL, service, sizeof(service));
    bool has = false;

    (void)found;
    if (r == 0)
        r = has_instances(op, service, &has);
    if (r == 0 && !has)
        r = read_catalog(op, &snapshot);
    if (r < 0 || has)
        return r;
    if (json_object_get(snapshot->json, service) || is_made(op, name))
        return 0;
    return is_phantom(op, dir, name) ? 0 : -ENOENT;
}

static int list_catalog(struct op *op, struct lister *lister, const json_t *services)
{
    struct found found = {.kind = &kind_service};
    const char *service;
    json_t *tags;
    int r;

    json_object_foreach((json_t *)services, service, tags)
    {
        r = answer_list_name(op, lister, service, &found);
        if (r < 0)
            return r;
    }
    return 0;
}

static int list_made(struct op *op, struct lister *lister, const json_t *services)
{
    struct found found = {.kind = &kind_service};
    size_t n;
    char **places = made_copy(&op->fs->made, &n), service[NAME_SIZE], here[PLACE_SIZE];
    int r = places ? 0 : -ENOMEM;

    place_of_service(op, "", here);
    for (size_t i = 0; i < n; i++) {
        const char *name = places[i] + strlen(here);

        if (r == 0 && strncmp(places[i], here, strlen(here)) == 0 &&
            name_decode(name, NULL, service, sizeof(service)) == 0 && !json_object_get(services, service))
            r = lister->emit(lister, name, &found);
        free(places[i]);
    }
    free(places);
    return r;
}

static int list_services(struct op *op, struct inode *dir, struct lister *lister)
{
    struct consul_snapshot *snapshot;
    int r = read_catalog(op, &snapshot);

    (void)dir;
    if (r == 0)
        r = list_catalog(op, lister, snapshot->json);
    return r < 0 ? r : list_made(op, lister, snapshot->json);
}

static int make_service(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    char service[NAME_SIZE], place[PLACE_SIZE];
    int r;

    (void)dir;
    if (name_decode(name, NULL, service, sizeof(service)) < 0)
        return -EINVAL;
    r = read_catalog(op, &snapshot);
    if (r < 0)
        return r;
    place_of_service(op, name, place);
    return json_object_get(snapshot->json, service) ? -EEXIST : made_add(&op->fs->made, place);
}

/* The directory that was made is Consul's own from now on: as soon as the catalog has it, or it would be gone a while.
 */
static int service_registered(struct op *op, const char *service, const char *name)
{
    struct consul_snapshot *snapshot;
    char place[PLACE_SIZE];
    int r;

    place_of_service(op, name, place);
    if (!made_has(&op->fs->made, place))
        return 0;
    r = read_catalog(op, &snapshot);
    if (r == 0 && json_object_get(snapshot->json, service))
        made_remove(&op->fs->made, place);
    return r == -EINPROGRESS ? r : 0;
}

/* Only Consul's instances keep a directory from being removed; its other files are views of them. */
static int remove_service(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    char place[PLACE_SIZE], service[NAME_SIZE], *path;
    bool was_made, was_phantom;
    int r = name_decode(name, NULL, service, sizeof(service));

    if (r == 0)
        r = answer_read(op, INSTANCE_HEALTH, service, "", CONSUL_BLOCKS | CONSUL_OBJECTS, &snapshot);
    if (r < 0)
        return r;
    if (json_array_size(snapshot->json) > 0)
        return -ENOTEMPTY;
    place_of_service(op, name, place);
    was_made = made_remove(&op->fs->made, place);
    path = tree_path_of(op->fs, dir, name);
    was_phantom = path && phantom_remove(&op->fs->phantoms, path, op->pid);
    free(path);
    return was_made || was_phantom ? 0 : -ENOTEMPTY; /* instances that we may not see */
}

/* ---- views ------------------------------------------------------------------------------------------------------- */

static int find_lines(struct op *op, struct inode *dir, enum view_status best, enum view_status worst,
                      struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = read_health(op, dir, &snapshot);

    if (r == 0)
        r = view_addresses(snapshot->json, best, worst, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static int find_all(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)name;
    return find_lines(op, dir, VIEW_PASSING, VIEW_CRITICAL, found);
}

static int find_passing(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)name;
    return find_lines(op, dir, VIEW_PASSING, VIEW_PASSING, found);
}

static int find_warning(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)name;
    return find_lines(op, dir, VIEW_WARNING, VIEW_WARNING, found);
}

static int find_critical(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)name;
    return find_lines(op, dir, VIEW_CRITICAL, VIEW_CRITICAL, found);
}

static int find_tags(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    size_t len;
    char *data;
    int r = read_health(op, dir, &snapshot);

    (void)name;
    if (r == 0)
        r = view_tags(snapshot->json, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

/*
 * A view goes with the instances that it shows: when none is left, as `rm -r` finds it, it is as good as gone. Before
 * that there is nothing that its removal could mean.
 */
static int unlink_view(struct op *op, struct inode *dir, const char *name)
{
    struct consul_snapshot *snapshot;
    int r = read_health(op, dir, &snapshot);

    (void)name;
    if (r < 0)
        return r;
    return json_array_size(snapshot->json) == 0 ? 0 : -EPERM;
}

/* ---- fastest ----------------------------------------------------------------------------------------------------- */

static int find_fastest(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    char service[NAME_SIZE];
    int r = service_of(dir, service);

    (void)name, (void)found;
    if (r == 0)
        r = fastest_exists(op, service);
    return r == -ENOENT && is_phantom(op, dir->parent, dir->name) ? 0 : r;
}

static int read_fastest(struct op *op, struct inode *dir, enum fastest_form form, struct content **ret_content)
{
    char service[NAME_SIZE];
    int r = service_of(dir, service);

    if (r == 0)
        r = fastest_read(op, service, form, ret_content);
    if (r != -ENOENT || !is_phantom(op, dir->parent, dir->name))
        return r;
    *ret_content = content_take(NULL, 0, 0);
    return *ret_content ? 0 : -ENOMEM;
}

static int read_fastest_line(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    (void)name;
    return read_fastest(op, dir, FASTEST_LINE, ret_content);
}

static int read_fastest_document(struct op *op, struct inode *dir, const char *name, struct content **ret_content)
{
    (void)name;
    return read_fastest(op, dir, FASTEST_DOCUMENT, ret_content);
}

/* ---- instances --------------------------------------------------------------------------------------------------- */

static const struct kind kind_instance;

static int parse_instance(struct op *op, const char *name, char id[NAME_SIZE], char node[NAME_SIZE])
{
    char *local = answer_local_node(op);
    int r = view_owned_parse(name, local, OWN_DOCUMENT, id, node);

    free(local);
    return r;
}

static int find_instance(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char id[NAME_SIZE], node[NAME_SIZE];
    int r = parse_instance(op, name, id, node);

    if (r == 0)
        r = read_health(op, dir, &snapshot);
    if (r == 0)
        r = answer_show_document(found, snapshot, view_find_instance(snapshot->json, id, node));
    return r;
}

static int list_instances(struct op *op, struct inode *dir, struct lister *lister)
{
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE], *local;
    json_t *entry;
    size_t i;
    int r = read_health(op, dir, &snapshot);

    if (r < 0)
        return r;
    local = answer_local_node(op);
    json_array_foreach(snapshot->json, i, entry)
    {
        r = view_owned_name(view_instance_id(entry), view_instance_node(entry), local, OWN_DOCUMENT, name);
        r = answer_list_document(op, lister, r, name, snapshot, entry, &kind_instance);
        if (r < 0)
            break;
    }
    free(local);
    return r;
}

/* The instance that a name means: *ret_node is `node`, or NULL for our agent's. */
static int parse_owned(struct op *op, const char *name, char id[NAME_SIZE], char node[NAME_SIZE], const char **ret_node)
{
    char *local;
    int r;

    *ret_node = NULL;
    if (!strchr(name, '@')) /* a bare name is the agent's own, even if we don't know what it is called */
        return view_owned_parse(name, "", OWN_DOCUMENT, id, node);
    local = answer_local_node(op);
    r = view_owned_parse(name, local, OWN_DOCUMENT, id, node);
    if (r == 0 && (!local || strcmp(local, node) != 0))
        *ret_node = node;
    free(local);
    return r;
}

static int may_create_instance(struct op *op, struct inode *dir, const char *name)
{
    char id[NAME_SIZE], node[NAME_SIZE];
    const char *owner;

    (void)dir;
    if (!view_is_json_name(name))
        return -EPERM;
    return parse_owned(op, name, id, node, &owner) < 0 ? -EINVAL : 0;
}

static int store_instance(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char service[NAME_SIZE], id[NAME_SIZE], node[NAME_SIZE];
    const char *owner;
    int r = service_of(dir, service);

    if (r == 0)
        r = parse_owned(op, name, id, node, &owner);
    if (r == 0)
        r = instance_register(op, service, id, owner, data, len);
    return r < 0 ? r : service_registered(op, service, dir->name);
}

static int unlink_instance(struct op *op, struct inode *dir, const char *name)
{
    char service[NAME_SIZE], id[NAME_SIZE], node[NAME_SIZE];
    int r = service_of(dir, service);

    if (r == 0)
        r = parse_instance(op, name, id, node);
    return r < 0 ? r : instance_deregister(op, service, id, node, dir);
}

/* ---- SERVICE.json ------------------------------------------------------------------------------------------------ */

static int find_document(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    char service[NAME_SIZE];
    int r = view_json_parse(name, service);

    (void)dir;
    if (r == 0)
        r = answer_read(op, INSTANCE_HEALTH, service, "", CONSUL_BLOCKS | CONSUL_OBJECTS, &snapshot);
    if (r < 0)
        return r;
    return answer_show_document(found, snapshot, json_array_size(snapshot->json) > 0 ? snapshot->json : NULL);
}

static int store_document(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    char service[NAME_SIZE], directory[NAME_SIZE];
    int r = view_json_parse(name, service);

    (void)dir;
    if (r == 0)
        r = instance_register(op, service, NULL, NULL, data, len);
    if (r == 0)
        r = name_encode(service, strlen(service), NULL, directory);
    return r < 0 ? r : service_registered(op, service, directory);
}

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

#define VIEW(file, function)                                                                                           \
    {                                                                                                                  \
        .name = file, .mode = S_IFREG | 0444, .find = function, .unlink = unlink_view                                  \
    }

static const struct kind kind_all = VIEW("all", find_all);
static const struct kind kind_passing = VIEW("passing", find_passing);
static const struct kind kind_warning = VIEW("warning", find_warning);
static const struct kind kind_critical = VIEW("critical", find_critical);
static const struct kind kind_tags = VIEW("tags", find_tags);

static const struct kind kind_fastest = {
    .name = "fastest",
    .mode = S_IFREG | 0444,
    .flags = KIND_COSTLY,
    .find = find_fastest,
    .read = read_fastest_line,
    .unlink = unlink_view,
};

static const struct kind kind_fastest_document = {
    .name = OWN_DOCUMENT,
    .mode = S_IFREG | 0444,
    .flags = KIND_COSTLY,
    .find = find_fastest,
    .read = read_fastest_document,
    .unlink = unlink_view,
};

static const struct kind kind_instance = {
    .mode = S_IFREG | 0644,
    .find = find_instance,
    .list = list_instances,
    .store = store_instance,
    .complete = document_complete,
    .may_create = may_create_instance,
    .unlink = unlink_instance,
};

/* Instances first: `rm -r` removes in the order of the listing, and the views when nothing is left to view. */
static const struct kind *const service_rows[] = {
    &kind_instance, &kind_fastest, &kind_fastest_document, &kind_passing, &kind_warning, &kind_critical, &kind_all,
    &kind_tags,     NULL,
};

static const struct kind kind_service = {
    .mode = S_IFDIR | 0755,
    .rows = service_rows,
    .find = find_service,
    .list = list_services,
    .mkdir = make_service,
    .rmdir = remove_service,
};

static const struct kind kind_service_document = {
    .mode = S_IFREG | 0644,
    .flags = KIND_HIDDEN,
    .find = find_document,
    .store = store_document,
    .complete = document_complete,
    .may_create = answer_may_create_json,
};

/* A service may be called "web.json": what is listed wins over what is not. */
static const struct kind *const services_rows[] = {&kind_service, &kind_service_document, NULL};

const struct kind kind_services = {.name = "services", .mode = S_IFDIR | 0755, .rows = services_rows};
