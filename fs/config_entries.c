/*
 * config/: one directory for each kind of config entry that the server knows. A server of 1.8 ignores dc= when config
 * entries are written, and would write ours: in other datacenters they are for reading.
 */
#include "config_entries.h"

#include "answer.h"
#include "collection.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char path[] = "/v1/config/";

static int set_kind(struct op *op, const char *name, json_t *document, const json_t *current)
{
    const char *kind = collection_of(op)->list + strlen(path), *said = view_string(document, "Kind");

    (void)name, (void)current;
    if (!*said)
        return json_object_set_new(document, "Kind", json_string(kind)) < 0 ? -ENOMEM : 0;
    if (strcmp(said, kind) == 0)
        return 0;
    answer_refuse(op, path, "\"Kind\" says \"%s\", the path says \"%s\"", said, kind);
    return -EINVAL;
}

static int may_write(struct op *op)
{
    if (answer_is_local(op))
        return 0;
    answer_refuse(op, path, "config entries are written in their own datacenter: mount an agent there");
    return -EROFS;
}

/* Before the first version that knows it a kind is not there; while the version is not known, only the oldest are. */
struct entry_kind {
    struct collection collection;
    unsigned since_minor; /* of Consul 1 */
};

static int find_kind(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    const struct entry_kind *entry_kind = op->row->of;
    unsigned minor = answer_minor_version(op->fs);

    (void)dir, (void)name, (void)found;
    return entry_kind->since_minor == 0 || minor >= entry_kind->since_minor ? 0 : -ENOENT;
}

#define ENTRY_KIND(id, entry_name, since)                                                                              \
    static const struct entry_kind id = {                                                                              \
        .collection =                                                                                                  \
            {                                                                                                          \
                .list = "/v1/config/" entry_name,                                                                      \
                .list_flags = CONSUL_BLOCKS | CONSUL_WATCH_EMPTY,                                                      \
                .name = "Name",                                                                                        \
                .create = {"PUT", "/v1/config", true},                                                                 \
                .update = {"PUT", "/v1/config", true},                                                                 \
                .destroy = {"DELETE", "/v1/config/" entry_name "/", false},                                            \
                .prepare = set_kind,                                                                                   \
                .may_write = may_write,                                                                                \
            },                                                                                                         \
        .since_minor = since,                                                                                          \
    };                                                                                                                 \
    static const struct kind id##_entry = {COLLECTION_FILES(id.collection, 0644)};                                     \
    static const struct kind *const id##_rows[] = {&id##_entry, NULL};                                                 \
    static const struct kind id##_dir = {                                                                              \
        .name = entry_name, .mode = S_IFDIR | 0755, .rows = id##_rows, .of = &id, .find = find_kind}

/* The versions are from Consul's changelog. */
ENTRY_KIND(service_defaults, "service-defaults", 0);
ENTRY_KIND(proxy_defaults, "proxy-defaults", 0);
ENTRY_KIND(service_router, "service-router", 0);
ENTRY_KIND(service_splitter, "service-splitter", 0);
ENTRY_KIND(service_resolver, "service-resolver", 0);
ENTRY_KIND(ingress_gateway, "ingress-gateway", 0);
ENTRY_KIND(terminating_gateway, "terminating-gateway", 0);
ENTRY_KIND(service_intentions, "service-intentions", 9);
ENTRY_KIND(mesh, "mesh", 10);
ENTRY_KIND(exported_services, "exported-services", 11);
ENTRY_KIND(api_gateway, "api-gateway", 15);
ENTRY_KIND(http_route, "http-route", 15);
ENTRY_KIND(tcp_route, "tcp-route", 15);
ENTRY_KIND(inline_certificate, "inline-certificate", 15);
ENTRY_KIND(sameness_group, "sameness-group", 16);
ENTRY_KIND(jwt_provider, "jwt-provider", 16);
ENTRY_KIND(control_plane_request_limit, "control-plane-request-limit", 17);
ENTRY_KIND(file_system_certificate, "file-system-certificate", 20);

static const struct kind *const config_rows[] = {
    &service_defaults_dir,
    &proxy_defaults_dir,
    &service_router_dir,
    &service_splitter_dir,
    &service_resolver_dir,
    &ingress_gateway_dir,
    &terminating_gateway_dir,
    &service_intentions_dir,
    &mesh_dir,
    &exported_services_dir,
    &api_gateway_dir,
    &http_route_dir,
    &tcp_route_dir,
    &inline_certificate_dir,
    &sameness_group_dir,
    &jwt_provider_dir,
    &control_plane_request_limit_dir,
    &file_system_certificate_dir,
    NULL,
};

const struct kind kind_config = {.name = "config", .mode = S_IFDIR | 0755, .rows = config_rows};
