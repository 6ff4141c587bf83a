/*
 * connect/: certificates are views of blocking queries, so they rotate by themselves: the name then stands for another
 * inode, and who looks at the old one keeps it whole.
 *
 * Asking for a leaf certificate has it issued. So its files are found by name, and connect/leaf/ lists nothing.
 */
#include "connect.h"

#include "answer.h"
#include "intentions.h"
#include "single.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- roots and their configuration ------------------------------------------------------------------------------- */

static const struct single roots = {
    .path = "/v1/agent/connect/ca/roots",
    .flags = CONSUL_BLOCKS | CONSUL_OBJECT,
};
static const struct kind kind_roots = {SINGLE_FILE("roots.json", roots, 0444)};

/* All of them: what an old root signed is valid until it ends. */
static int find_roots_pem(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    struct consul_snapshot *snapshot;
    const json_t *root;
    struct text text;
    size_t i, len;
    char *data;
    int r = op_read(op, roots.path, CONSUL_JSON, roots.flags, 0, &snapshot);

    (void)dir, (void)name;
    if (r == 0)
        r = text_begin(&text);
    if (r < 0)
        return r == -EOPNOTSUPP ? -ENOENT : r;
    json_array_foreach(json_object_get(snapshot->json, "Roots"), i, root)
    {
        fputs(view_string(root, "RootCert"), text.stream);
    }
    r = text_end(&text, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

static const struct kind kind_roots_pem = {.name = "roots.pem", .mode = S_IFREG | 0444, .find = find_roots_pem};

static const struct single configuration = {
    .path = "/v1/connect/ca/configuration",
    .flags = CONSUL_OBJECT,
    .method = "PUT",
    .write = "/v1/connect/ca/configuration",
};

/* A provider's configuration may have secrets in it. */
static const struct kind kind_configuration = {
    SINGLE_FILE("ca.json", configuration, 0600),
    .store = single_store,
    .complete = document_complete,
};

/* ---- leaf certificates ------------------------------------------------------------------------------------------- */

static int find_pem(struct op *op, const struct inode *dir, const char *member, struct found *found)
{
    struct consul_snapshot *snapshot;
    char service[NAME_SIZE], *data;
    const char *pem;
    int r = name_decode(dir->name, NULL, service, sizeof(service));

    if (r == 0)
        r = answer_read(op, "/v1/agent/connect/ca/leaf/", service, "", CONSUL_BLOCKS | CONSUL_OBJECT, &snapshot);
    if (r < 0)
        return r;
    pem = view_string(snapshot->json, member);
    if (!*pem)
        return -EIO;
    data = strdup(pem);
    return data ? answer_show(found, snapshot, data, strlen(pem)) : -ENOMEM;
}

static int find_certificate(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)name;
    return find_pem(op, dir, "CertPEM", found);
}

static int find_key(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    (void)name;
    return find_pem(op, dir, "PrivateKeyPEM", found);
}

static const struct kind kind_certificate = {.name = "cert.pem", .mode = S_IFREG | 0444, .find = find_certificate};
static const struct kind kind_key = {.name = "key.pem", .mode = S_IFREG | 0600, .find = find_key};
static const struct kind *const leaf_rows[] = {&kind_certificate, &kind_key, NULL};

/* Any service may have one, whether it is registered or not; what editors and file managers look for is none. */
static int find_leaf(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    char service[NAME_SIZE];

    (void)op, (void)dir, (void)found;
    return name[0] == '.' ? -ENOENT : name_decode(name, NULL, service, sizeof(service));
}

static int list_no_leaf(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)op, (void)dir, (void)lister;
    return 0;
}

static const struct kind kind_leaf = {
    .mode = S_IFDIR | 0555, .rows = leaf_rows, .find = find_leaf, .list = list_no_leaf};
static const struct kind *const leaves_rows[] = {&kind_leaf, NULL};
static const struct kind kind_leaves = {.name = "leaf", .mode = S_IFDIR | 0555, .rows = leaves_rows};

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

static const struct kind *const connect_rows[] = {
    &kind_roots, &kind_roots_pem, &kind_configuration, &kind_intentions, &kind_leaves, NULL,
};

const struct kind kind_connect = {.name = "connect", .mode = S_IFDIR | 0755, .rows = connect_rows};
