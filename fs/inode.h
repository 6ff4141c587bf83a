/*
 * Inodes: what the kernel knows of the tree.
 *
 * Three identifiers meet here. The kernel's node ID is the address of the struct (it never uses one after it forgot
 * it). The inode number that users see is a counter, never used twice. The *name* is the place: (parent, name).
 *
 * A file's inode stands for one version of the object at that place; its bytes and attributes never change, except by
 * writes through this mount. When the object changes elsewhere the name gets another inode, and the old one lives on,
 * with its bytes, for the descriptors that are open on it. A directory's inode stands for the place.
 *
 * Lifetime: an inode lives while the kernel remembers it (nlookup), a child names it as parent, or somebody holds a
 * reference. inode_table.lock guards everything that is not marked constant. It is taken last: nothing is called while
 * it is held.
 */
#ifndef CONSULFS_INODE_H
#define CONSULFS_INODE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct consul_resource;
struct content;
struct handle;
struct kind;

struct inode {
    uint64_t number;         /* constant */
    const struct kind *kind; /* constant */
    struct inode *parent;    /* counted; changes with a rename; NULL for the root of all */
    char *name;              /* as in the directory; changes with a rename; "" for the root of all */
    uint32_t refs;           /* holders, children included; the kernel's nlookup counts as one */
    uint64_t nlookup;
    struct content *content; /* a file's bytes, counted; NULL: not known before it is opened */
    uint64_t mtime_ns;
    bool current;          /* what its name stands for now */
    uint32_t storing;      /* writes of ours under way: their outcome decides the version */
    struct handle *writer; /* the newest descriptor with uncommitted bytes, borrowed */
    bool unlinked;         /* by us: what an open descriptor still writes goes nowhere */
    bool lock_lost;        /* a lock on it was lost: what is open must not be read any more */
    bool pages_stale;      /* our own write changed it since the kernel may have cached its pages */
    /* What the kernel's unlimited entry rests on: the resource that tells when it is no longer true. Counted. */
    struct consul_resource *rests_on;
    struct inode *rest_prev, *rest_next; /* on the resource's list */
    struct inode *next_in_bucket;        /* of the table by name, while current */
    struct inode *prev, *next;           /* all inodes */
};

struct inode_table {
    pthread_mutex_t lock;
    struct inode **buckets;
    struct inode *all;
    size_t bucket_n, n;
    uint64_t last_number;
};

int inode_table_init(struct inode_table *table);
/* Frees every inode, also those that the kernel never forgot. */
void inode_table_destroy(struct inode_table *table);

/* The root of all, or a place on the way to a mount's root: held by the caller's reference, never looked up. */
struct inode *inode_new_static(struct inode_table *table, const struct kind *kind, struct inode *parent,
                               const char *name);

/*
 * The inode of (parent, name) with this kind and content: the present one if it stands for that version, else a new
 * one, which takes its place. Counted for the caller. Takes no ownership of content. NULL without memory.
 * *ret_new tells that the name has another inode than before.
 */
struct inode *inode_get(struct inode_table *table, struct inode *parent, const char *name, const struct kind *kind,
                        struct content *content, uint64_t mtime_ns, bool *ret_new);
/* The present inode of (parent, name), counted, or NULL if the kernel has none. */
struct inode *inode_peek(struct inode_table *table, struct inode *parent, const char *name);

/* How many names have an inode. */
size_t inode_count(struct inode_table *table);

struct inode *inode_ref(struct inode_table *table, struct inode *inode);
void inode_unref(struct inode_table *table, struct inode *inode); /* NULL is fine */
/* The kernel learns (or did not learn after all) of the inode. */
void inode_looked_up(struct inode_table *table, struct inode *inode);
void inode_forget(struct inode_table *table, struct inode *inode, uint64_t n);

/* The name no longer stands for this inode. True if it did. */
bool inode_detach(struct inode_table *table, struct inode *inode);
/*
 * The name stands for this inode again, whose content is the present one, and no longer for any other. True if that is
 * new; not for one that was unlinked.
 */
bool inode_reattach(struct inode_table *table, struct inode *inode);
/* The inode moves, with the kernel's dentry, and replaces what was there. */
int inode_move(struct inode_table *table, struct inode *inode, struct inode *parent, const char *name);
/*
 * Older versions that stood at (parent, name), and what the kernel still has of them, go along with a rename. True if
 * there were any.
 */
bool inode_move_detached(struct inode_table *table, struct inode *parent, const char *name, struct inode *new_parent,
                         const char *new_name);
/* While a write or rename of ours is under way, its outcome decides what the inode stands for. */
void inode_begin_storing(struct inode_table *table, struct inode *inode);
void inode_end_storing(struct inode_table *table, struct inode *inode);
/* Our own write: the same inode has new bytes. */
void inode_set_content(struct inode_table *table, struct inode *inode, struct content *content, uint64_t mtime_ns);
/* The same bytes are at another version than `before`: for this inode, and the one that its name stands for. */
void inode_reindex(struct inode_table *table, struct inode *inode, uint64_t before, struct content *content);
/* The bytes as they are now, counted, or NULL. */
struct content *inode_content(struct inode_table *table, struct inode *inode);

/*
 * The names that lead to the inode from its nearest ancestor of kind `top` (exclusive), joined by '/', as they are in
 * the directories; "" for that ancestor itself. The caller frees it. NULL: no such ancestor, or no memory.
 */
char *inode_path_below(struct inode_table *table, const struct inode *inode, const struct kind *top);
/* Whether the inode is of this kind or below an inode of it; *ret_name (may be NULL) is then that ancestor's name. */
bool inode_is_below(struct inode_table *table, const struct inode *inode, const struct kind *top, char **ret_name);

/* Binds the inode to the resource whose watch keeps its entry true; NULL: to none. */
void inode_rest_on(struct inode_table *table, struct inode *inode, struct consul_resource *resource);
/* All inodes that rest on the resource, counted; the caller frees the array and its references. */
int inode_resting_on(struct inode_table *table, struct consul_resource *resource, struct inode ***ret_inodes,
                     size_t *ret_n);

#endif
