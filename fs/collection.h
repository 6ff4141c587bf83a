/*
 * Collections: documents that Consul lists, reads, creates, updates and destroys by requests of one pattern. A row of
 * the tree whose `of` is a struct collection and whose functions are these (COLLECTION_FILES) shows one as the files
 * NAME.json of a directory. Another row may show symbolic links to them by another member (COLLECTION_LINKS).
 */
#ifndef CONSULFS_COLLECTION_H
#define CONSULFS_COLLECTION_H

#include "document.h"
#include "tree.h"

#include <jansson.h>

struct collection_request {
    const char *method;
    const char *path; /* NULL: there is no such request */
    bool bare;        /* the document says what it is about: no ID follows */
};

struct collection {
    const char *list;    /* GET: an array of objects */
    unsigned list_flags; /* of op_read(), besides CONSUL_OBJECTS */
    const char *name;    /* the member that names the file; where it is empty, `id` does */
    const char *id;      /* the member that the requests below take; NULL: `name` */
    const char *read;    /* + ID: GET of the whole document, or of an array of one; NULL: the list has it all */
    struct collection_request create;
    struct collection_request update;  /* + ID */
    struct collection_request destroy; /* + ID */
    /*
     * Consul picks the name of what is created: the name that the file was written under is then an alias for it on
     * this mount. Without it `name` is set to what the path says, and a document that says otherwise is -EINVAL.
     */
    bool names_itself;
    /*
     * Makes what the user wrote fit for Consul; `current` (NULL: to be created) is what the list has. 0, or a negative
     * errno after answer_refuse(). May park. NULL: nothing to do.
     */
    int (*prepare)(struct op *op, const char *name, json_t *document, const json_t *current);
    /* 0, or a negative errno after answer_refuse(), before anything is written or removed. NULL: always. */
    int (*may_write)(struct op *op);
};

/* What op->row->of is. */
const struct collection *collection_of(const struct op *op);

int collection_find(struct op *op, struct inode *dir, const char *name, struct found *found);
int collection_list(struct op *op, struct inode *dir, struct lister *lister);
int collection_may_create(struct op *op, struct inode *dir, const char *name);
int collection_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len);
int collection_unlink(struct op *op, struct inode *dir, const char *name);

/*
 * What the list has under that name or alias (of this mount), borrowed until the run ends. -ENOENT, -EINPROGRESS or why
 * it cannot be read. *ret_snapshot (may be NULL) is the list.
 */
int collection_select(struct op *op, const struct collection *collection, const char *name, const json_t **ret_object,
                      struct consul_snapshot **ret_snapshot);
/* What an object of the list is called: its name, or its ID where it has none. */
const char *collection_name(const struct collection *collection, const json_t *object);
/* The ID of an object of the list, or "". */
const char *collection_id(const struct collection *collection, const json_t *object);
/* Reads the whole document of that ID; borrowed until the run ends. */
int collection_read(struct op *op, const struct collection *collection, const char *id, const json_t **ret_document,
                    struct consul_snapshot **ret_snapshot);
/* Who looks from now on asks Consul anew. */
void collection_expire(struct op *op, const struct collection *collection);

/* The rows' common members; more can follow in the initializer. */
#define COLLECTION_FILES(collection, permissions)                                                                      \
    .mode = S_IFREG | (permissions), .of = &(collection), .find = collection_find, .list = collection_list,            \
    .store = collection_store, .complete = document_complete, .may_create = collection_may_create,                     \
    .unlink = collection_unlink

/* Links to the files of a collection by another member of their documents; the first of a name wins. */
struct collection_links {
    const struct collection *collection;
    const char *member;
};

int collection_links_find(struct op *op, struct inode *dir, const char *name, struct found *found);
int collection_links_list(struct op *op, struct inode *dir, struct lister *lister);

#define COLLECTION_LINKS(links)                                                                                        \
    .mode = S_IFLNK | 0777, .of = &(links), .find = collection_links_find, .list = collection_links_list

#endif
