/* What the node kinds share: reading an answer about something by its name, and showing what a view made of it. */
#ifndef CONSULFS_ANSWER_H
#define CONSULFS_ANSWER_H

#include "tree.h"

/* prefix, name (percent-encoded, whatever is in it), suffix: "/v1/health/service/", "a/b", "?passing". NULL: no memory
 */
char *answer_path(const char *prefix, const char *name, const char *suffix);

/* op_read() of a JSON document at that path. */
int answer_read(struct op *op, const char *prefix, const char *name, const char *suffix, unsigned flags,
                struct consul_snapshot **ret_snapshot);

/* The bytes that a view made of the snapshot; takes the data. */
int answer_show(struct found *found, const struct consul_snapshot *snapshot, char *data, size_t len);
/* The whole of what is part of the snapshot; -ENOENT for NULL. */
int answer_show_document(struct found *found, const struct consul_snapshot *snapshot, const json_t *json);

/*
 * Emits a file whose document is part of the snapshot (NULL: is to be read yet). A name that cannot be a file (`r`,
 * from encoding it) is left out and counted; other errors are returned.
 */
int answer_list_document(struct op *op, struct lister *lister, int r, const char *name,
                         const struct consul_snapshot *snapshot, const json_t *json, const struct kind *kind);

/*
 * The node of this mount's agent, if what the operation is about is in the agent's datacenter; the caller frees it. Or
 * NULL.
 */
char *answer_local_node(struct op *op);
/* Whether what the operation is about is in the agent's own datacenter (as far as that is known). */
bool answer_is_local(struct op *op);
/* The datacenter that the operation is about; the caller frees it. NULL while it is not known. */
char *answer_datacenter(struct op *op);

/* Lists a file of that row called by a Consul name and a suffix; what is in it is found out when it is looked up. */
int answer_list_suffixed(struct op *op, struct lister *lister, const char *consul_name, const char *suffix,
                         const struct kind *row);
/* kind.may_create of what any Consul name can be called: NAME.json. */
int answer_may_create_json(struct op *op, struct inode *dir, const char *name);
/* Lists `found` under the file name of a Consul name; one that cannot be a file name is left out and counted. */
int answer_list_name(struct op *op, struct lister *lister, const char *consul_name, const struct found *found);

/* The minor version of the agent's Consul 1 (8 of 1.8.7; of a later Consul 2, more than any); 0 while it is not known.
 */
unsigned answer_minor_version(struct fs *fs);

/*
 * Sends a request whose body is the document (NULL: none), in the strict sense of CONSUL_WRITE_STRICT; `name` is
 * appended to the path, percent-encoded. Parks, as op_request().
 */
int answer_send(struct op *op, const char *method, const char *path, const char *name, const json_t *document);
/* Notes in .consulfs/errors why this mount refuses something by itself. */
void answer_refuse(struct op *op, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
