/*
 * Creating and updating are one: whether there is such a document decides. The list decides what is there, since old
 * servers answer 403 for a single token or policy that they do not have.
 */
#include "collection.h"

#include "answer.h"
#include "content.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct collection *collection_of(const struct op *op) { return op->row->of; }

static const char *id_member(const struct collection *collection)
{
    return collection->id ? collection->id : collection->name;
}

const char *collection_id(const struct collection *collection, const json_t *object)
{
    return view_string(object, id_member(collection));
}

const char *collection_name(const struct collection *collection, const json_t *object)
{
    const char *name = view_string(object, collection->name);

    return *name ? name : collection_id(collection, object);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int read_list(struct op *op, const struct collection *collection, struct consul_snapshot **ret_snapshot)
{
    return op_read(op, collection->list, CONSUL_JSON, CONSUL_OBJECTS | collection->list_flags, 0, ret_snapshot);
}

/* Where aliases of the collection are kept. */
static char *alias_path(struct op *op, const struct collection *collection)
{
    const char *datacenter = op_datacenter(op);
    char *path;

    return asprintf(&path, "%s %s", collection->list, datacenter ? datacenter : "") < 0 ? NULL : path;
}

static const json_t *select_named(const struct collection *collection, const json_t *list, const char *name)
{
    const json_t *object;
    size_t i;

    json_array_foreach(list, i, object)
    {
        if (strcmp(collection_name(collection, object), name) == 0)
            return object;
    }
    return NULL;
}

static const json_t *select_alias(struct op *op, const struct collection *collection, const json_t *list,
                                  const char *name)
{
    char *path = alias_path(op, collection), *id = path ? alias_get(&op->fs->aliases, path, name) : NULL;
    const json_t *object = id ? view_select(list, id_member(collection), id) : NULL;

    free(path);
    free(id);
    return object;
}

int collection_select(struct op *op, const struct collection *collection, const char *name, const json_t **ret_object,
                      struct consul_snapshot **ret_snapshot)
{
    struct consul_snapshot *snapshot;
    const json_t *object;
    int r = read_list(op, collection, &snapshot);

    if (r < 0)
        return r;
    object = select_named(collection, snapshot->json, name);
    if (!object)
        object = select_alias(op, collection, snapshot->json, name);
    if (ret_snapshot)
        *ret_snapshot = snapshot;
    if (!object)
        return -ENOENT;
    *ret_object = object;
    return 0;
}

int collection_read(struct op *op, const struct collection *collection, const char *id, const json_t **ret_document,
                    struct consul_snapshot **ret_snapshot)
{
    struct consul_snapshot *snapshot;
    int r = answer_read(op, collection->read, id, "", 0, &snapshot);

    if (r < 0)
        return r;
    *ret_document = json_is_array(snapshot->json) ? json_array_get(snapshot->json, 0) : snapshot->json;
    *ret_snapshot = snapshot;
    return json_is_object(*ret_document) ? 0 : -ENOENT;
}

int collection_find(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    const struct collection *collection = collection_of(op);
    struct consul_snapshot *snapshot;
    char key[NAME_SIZE];
    const json_t *object;
    int r = view_json_parse(name, key);

    (void)dir;
    if (r == 0)
        r = collection_select(op, collection, key, &object, &snapshot);
    if (r == 0 && collection->read)
        r = collection_read(op, collection, collection_id(collection, object), &object, &snapshot);
    return r < 0 ? r : answer_show_document(found, snapshot, object);
}

int collection_list(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct collection *collection = collection_of(op);
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    json_t *object;
    size_t i;
    int r = read_list(op, collection, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, object)
    {
        if (!*collection_name(collection, object))
            return -EIO;
        r = view_json_name(collection_name(collection, object), name);
        r = answer_list_document(op, lister, r, name, snapshot, collection->read ? NULL : object, row);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void collection_expire(struct op *op, const struct collection *collection)
{
    consul_expire(op->fs->consul, collection->list);
    if (collection->read)
        consul_expire(op->fs->consul, collection->read);
}

int collection_may_create(struct op *op, struct inode *dir, const char *name)
{
    return collection_of(op)->create.path ? answer_may_create_json(op, dir, name) : -EPERM;
}

/* The document says what the path says. */
static int set_name(struct op *op, const struct collection *collection, const char *key, json_t *document)
{
    json_t *said = json_object_get(document, collection->name);

    if (!said || json_is_null(said) || (json_is_string(said) && !*json_string_value(said)))
        return json_object_set_new(document, collection->name, json_string(key)) < 0 ? -ENOMEM : 0;
    if (json_is_string(said) && strcmp(json_string_value(said), key) == 0)
        return 0;
    answer_refuse(op, collection->list, "the document's %s is not \"%s\", as its file is called", collection->name,
                  key);
    return -EINVAL;
}

/* Then the path says the ID, and the document may give it a name. */
static bool is_unnamed(const struct collection *collection, const json_t *current)
{
    return current && !*view_string(current, collection->name);
}

static int prepare(struct op *op, const struct collection *collection, const char *key, json_t *document,
                   const json_t *current)
{
    int r = collection->prepare ? collection->prepare(op, key, document, current) : 0;

    if (r == 0 && !collection->names_itself && !is_unnamed(collection, current))
        r = set_name(op, collection, key, document);
    if (r == 0 && current && collection->id)
        r = json_object_set_new(document, collection->id, json_string(collection_id(collection, current))) < 0 ? -ENOMEM
                                                                                                               : 0;
    return r;
}

static int send(struct op *op, const struct collection *collection, const json_t *current, const json_t *document)
{
    const struct collection_request *request = current ? &collection->update : &collection->create;

    if (!request->path) {
        answer_refuse(op, collection->list, current ? "it cannot be changed once it is there" : "it cannot be created");
        return -EPERM;
    }
    return answer_send(op, request->method, request->path,
                       current && !request->bare ? collection_id(collection, current) : "", document);
}

static int begin(struct op *op, const struct collection *collection, const char *key, const char *data, size_t len)
{
    const json_t *current = NULL;
    json_t *document;
    int r = collection->may_write ? collection->may_write(op) : 0;

    if (r == 0)
        r = collection_select(op, collection, key, &current, NULL);
    if (r < 0 && r != -ENOENT)
        return r;
    document = json_loadb(data, len, 0, NULL);
    if (!document)
        return -EINVAL;
    r = prepare(op, collection, key, document, current);
    if (r == 0)
        r = send(op, collection, current, document);
    json_decref(document);
    return r;
}

/* What Consul calls it: the file's name stands for that from now on. */
static int learn_id(struct op *op, const struct collection *collection, const char *key)
{
    json_t *answer = json_loads(op->answer, 0, NULL);
    const char *id = collection_id(collection, answer);
    char *path = NULL;
    int r = 0;

    if (*id && strcmp(id, key) != 0) {
        path = alias_path(op, collection);
        r = path ? alias_set(&op->fs->aliases, path, key, id) : -ENOMEM;
    }
    free(path);
    json_decref(answer);
    return r;
}

int collection_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    const struct collection *collection = collection_of(op);
    char key[NAME_SIZE];
    int r = view_json_parse(name, key);

    (void)dir;
    if (r < 0)
        return r;
    if (op->stage == 0)
        return begin(op, collection, key, data, len);
    if (op->result < 0)
        return op->result;
    collection_expire(op, collection);
    return collection->names_itself ? learn_id(op, collection, key) : 0;
}

static void forget_aliases(struct op *op, const struct collection *collection, const char *id)
{
    char *path = alias_path(op, collection);

    if (path)
        alias_forget(&op->fs->aliases, path, id);
    free(path);
}

int collection_unlink(struct op *op, struct inode *dir, const char *name)
{
    const struct collection *collection = collection_of(op);
    const json_t *object;
    char key[NAME_SIZE];
    int r = view_json_parse(name, key);

    (void)dir;
    if (op->stage > 0) {
        if (op->result == 0) {
            forget_aliases(op, collection, op->state);
            collection_expire(op, collection);
        }
        return op->result;
    }
    if (r == 0 && !collection->destroy.path)
        r = -EPERM;
    if (r == 0 && collection->may_write)
        r = collection->may_write(op);
    if (r == 0)
        r = collection_select(op, collection, key, &object, NULL);
    if (r < 0)
        return r;
    free(op->state);
    op->state_free = free;
    op->state = strdup(collection_id(collection, object));
    if (!op->state)
        return -ENOMEM;
    return answer_send(op, collection->destroy.method, collection->destroy.path, op->state, NULL);
}

/* ---- links ------------------------------------------------------------------------------------------------------- */

static int show_target(const struct collection *collection, const struct consul_snapshot *snapshot,
                       const json_t *object, struct found *found)
{
    char file[NAME_SIZE], *target;
    int r = view_json_name(collection_name(collection, object), file), len;

    if (r < 0)
        return r;
    len = asprintf(&target, "../%s", file);
    return len < 0 ? -ENOMEM : answer_show(found, snapshot, target, (size_t)len);
}

int collection_links_find(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    const struct collection_links *links = op->row->of;
    struct consul_snapshot *snapshot;
    const json_t *object;
    char value[NAME_SIZE];
    int r = name_decode(name, NULL, value, sizeof(value));

    (void)dir;
    if (r == 0)
        r = read_list(op, links->collection, &snapshot);
    if (r < 0)
        return r;
    object = view_select(snapshot->json, links->member, value);
    return object ? show_target(links->collection, snapshot, object, found) : -ENOENT;
}

int collection_links_list(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct collection_links *links = op->row->of;
    const struct kind *row = op->row;
    struct consul_snapshot *snapshot;
    char name[NAME_SIZE];
    json_t *object;
    size_t i;
    int r = read_list(op, links->collection, &snapshot);

    (void)dir;
    if (r < 0)
        return r;
    json_array_foreach(snapshot->json, i, object)
    {
        const char *value = view_string(object, links->member);
        struct found found = {.kind = row};

        if (!*value || view_select(snapshot->json, links->member, value) != object)
            continue;
        r = name_encode(value, strlen(value), NULL, name);
        if (r == 0)
            r = show_target(links->collection, snapshot, object, &found);
        if (r == -ENAMETOOLONG || r == -EINVAL) {
            fs_name_left_out(op->fs);
            continue;
        }
        if (r == 0)
            r = lister->emit(lister, name, &found);
        if (r < 0)
            return r;
    }
    return 0;
}
