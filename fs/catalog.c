#include "catalog.h"

#include "answer.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char register_path[] = "/v1/catalog/register";
static const char deregister_path[] = "/v1/catalog/deregister";

int catalog_owner(struct op *op, const char *node, enum catalog_owner *ret_owner)
{
    char *local = answer_local_node(op);
    struct consul_snapshot *snapshot;
    bool ours = !node || (local && strcmp(local, node) == 0);
    int r;

    free(local);
    if (ours && !answer_is_local(op)) {
        answer_refuse(op, "/v1/agent/", "our agent is in another datacenter: say which node, as NAME@NODE.json");
        return -EPERM;
    }
    *ret_owner = ours ? CATALOG_OURS : CATALOG_NOBODYS;
    if (ours)
        return 0;
    r = answer_read(op, "/v1/health/node/", node, "", CONSUL_BLOCKS | CONSUL_WATCH_EMPTY | CONSUL_OBJECTS, &snapshot);
    if (r < 0 || !view_is_alive(snapshot->json))
        return r;
    answer_refuse(op, register_path, "node \"%s\" has an agent, which is alive and would undo it: do it there", node);
    return -EPERM;
}

int catalog_has_node(struct op *op, const char *node)
{
    struct consul_snapshot *snapshot;
    int r = answer_read(op, "/v1/catalog/node/", node, "", CONSUL_BLOCKS | CONSUL_OBJECT, &snapshot);

    if (r < 0 || json_is_object(snapshot->json))
        return r;
    answer_refuse(op, register_path, "there is no node \"%s\": register it first, as nodes/NODE.json", node);
    return -EINVAL;
}

static int add_datacenter(struct op *op, json_t *document)
{
    const char *datacenter = op_datacenter(op);

    if (!datacenter)
        datacenter = op->fs->options->datacenter;
    if (!datacenter || json_object_get(document, "Datacenter"))
        return 0;
    return json_object_set_new(document, "Datacenter", json_string(datacenter)) < 0 ? -ENOMEM : 0;
}

int catalog_register(struct op *op, json_t *document)
{
    int r = add_datacenter(op, document);

    return r < 0 ? r : answer_send(op, "PUT", register_path, "", document);
}

int catalog_deregister(struct op *op, const char *node, const char *member, const char *id)
{
    json_t *document = json_pack("{s:s}", "Node", node);
    int r = document ? add_datacenter(op, document) : -EINVAL; /* not UTF-8 */

    if (r == 0 && member && json_object_set_new(document, member, json_string(id)) < 0)
        r = -EINVAL;
    if (r == 0)
        r = answer_send(op, "PUT", deregister_path, "", document);
    json_decref(document);
    return r;
}

void catalog_expire(struct op *op)
{
    static const char *const prefixes[] = {"/v1/health/", "/v1/catalog/"};

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        consul_expire(op->fs->consul, prefixes[i]);
}
