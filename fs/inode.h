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
struct op;
struct poller;

/* What shows a directory's names. */
struct listed_by {
    struct inode *dir;             /* borrowed: its own */
    struct listed_by *prev, *next; /* those of all directories */
    size_t n;
    struct consul_resource *resources[]; /* counted */
};

struct inode {
    uint64_t number;         /* constant */
    const struct kind *kind; /* constant */
    struct inode *parent;    /* counted; changes with a rename; NULL for the root of all */
    char *name;              /* as in the directory; changes with a rename; "" for the root of all */
    uint64_t nlookup;
    struct content *content; /* a file's bytes, counted; NULL: not known before it is opened */
    uint64_t mtime_ns;
    struct handle *writer;  /* the newest descriptor with uncommitted bytes, borrowed */
    struct poller *pollers; /* who waits for a change; see pollers.h */
    struct op *appenders;   /* while appending: those of this mount that come after it, in order */
    /* What the kernel's unlimited entry rests on: the resource that tells when it is no longer true. Counted. */
    struct consul_resource *rests_on;
    struct inode *rest_prev, *rest_next; /* on the resource's list */
    struct listed_by *listed_by;         /* as far as they were asked for; NULL: they were not */
    struct inode *next_in_bucket;        /* of the table by name */
    struct inode *prev, *next;           /* all inodes */

    /* Small things together: the kernel may know a hundred thousand of these. */
    uint32_t refs;        /* holders, children included; the kernel's nlookup counts as one */
    uint32_t storing;     /* writes of ours under way: their outcome decides the version */
    uint32_t generation;  /* how often a write of ours gave it other bytes */
    uint32_t tellings;    /* of notify.c: what is still to be told of names in it; guarded by notify.lock */
    uint32_t passed_over; /* likewise: the search in which something to tell there had to wait */
    bool current : 1;     /* what its name stands for now */
    bool unlinked : 1;    /* by us: what an open descriptor still writes goes nowhere */
    bool lock_lost : 1;   /* a lock on it was lost: what is open must not be read any more */
    bool superseded : 1;  /* a change made elsewhere gave its name another inode */
    bool occupied : 1;    /* a directory: a thread of notify.c or announce.c is at work in it */
    bool sounded : 1;     /* a directory: whether somebody holds it was found out once; see interest.h */
    bool listing : 1;     /* a directory: somebody has begun to list it */
    bool to_forget : 1;   /* the kernel was asked to forget it, and has not done so, not even to look it up again */
    bool unjudged : 1;    /* a change was told while storing: it is to be looked at again when that is done */
    bool appending : 1;   /* an operation appends */
    bool listed : 1;  /* the kernel trusts its name for a moment, since a listing had it, though it rests on nothing */
    bool touched : 1; /* the kernel may have pages of it, or newer ones than we: see pages.h */
    bool pages_stale : 1; /* our own write changed it since the kernel may have cached its pages */
    char own_name[];      /* what `name` points to until a rename */
};

struct inode_table {
    pthread_mutex_t lock;
    struct inode **buckets;
    struct inode *all;
    struct listed_by *listed;
    size_t bucket_n, n, versions; /* buckets; names; inodes that have one, or had it */
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
/*
 * An inode that no name stands for, for the kernel to see something there that it can remove. It is counted for the
 * caller, and gone when the kernel forgets it. NULL without memory.
 */
struct inode *inode_new_stand_in(struct inode_table *table, const struct kind *kind, struct inode *parent,
                                 const char *name);
/* True if the content has the bytes that the inode has: it is the inode's now, which stays what it is. */
bool inode_take_same_bytes(struct inode_table *table, struct inode *inode, const struct kind *kind,
                           struct content *content, uint64_t mtime_ns);
/* The same; table.lock is held. */
bool inode_take_same_bytes_locked(struct inode *inode, const struct kind *kind, struct content *content,
                                  uint64_t mtime_ns);
/* Whether the kernel knows (parent, name) as something else than this: then its watchers are still to be told. */
bool inode_is_held_as_other(struct inode_table *table, struct inode *parent, const char *name, const struct kind *kind,
                            const struct content *content);
/* The present inode of (parent, name), counted, or NULL if the kernel has none. */
struct inode *inode_peek(struct inode_table *table, struct inode *parent, const char *name);

/* How many names have an inode. */
size_t inode_count(struct inode_table *table);

/* Where the inode is, for functions that go by (directory, name). Both are the caller's, the directory counted; NULL at
 * the root. -ENOMEM: there is no name. */
int inode_place_of(struct inode_table *table, struct inode *inode, struct inode **ret_dir, char **ret_name);

struct inode *inode_ref(struct inode_table *table, struct inode *inode);
void inode_unref(struct inode_table *table, struct inode *inode); /* NULL is fine */
/* The kernel learns (or did not learn after all) of the inode. */
void inode_looked_up(struct inode_table *table, struct inode *inode);
void inode_forget(struct inode_table *table, struct inode *inode, uint64_t n);

/* The name no longer stands for this inode. True if it did. */
bool inode_detach(struct inode_table *table, struct inode *inode);
/* The same, for a change made elsewhere, of which the kernel is still to be told. */
void inode_supersede(struct inode_table *table, struct inode *inode);
/*
 * The name stands for this inode again, whose content is the present one, and no longer for any other. True if that is
 * new; not for one that was unlinked.
 */
bool inode_reattach(struct inode_table *table, struct inode *inode);
/* The inode moves, with the kernel's dentry, and replaces what was there. */
int inode_move(struct inode_table *table, struct inode *inode, struct inode *parent, const char *name);
/* Where something stands that is moved. What is in older versions of its parent is at that place, too. */
struct inode_place {
    struct inode *parent;
    const char *name;
    /* Not NULL: older versions of another kind stay. A file that is moved takes nothing along from below it, where
     * there are other keys, if it was a directory once. */
    const struct kind *only;
};
/*
 * What stands at the two places changes them, older versions as well. False if something that the kernel has there
 * may not have done so in the same way: it is to ask again for both names.
 */
bool inode_exchange(struct inode_table *table, const struct inode_place *a, const struct inode_place *b);
/*
 * What stood at a place besides the inode that its name stands for there now (older versions, and what older versions
 * of the directory have there) goes along with a rename. True if the kernel has any.
 */
bool inode_move_older(struct inode_table *table, const struct inode_place *from, struct inode *new_parent,
                      const char *new_name);
/* An older version of what stands there now, which it is known to be, counts as standing there, too. */
void inode_settle(struct inode_table *table, struct inode *inode, struct inode *parent, const char *name);
/* While a write or rename of ours is under way, its outcome decides what the inode stands for. */
void inode_begin_storing(struct inode_table *table, struct inode *inode);
/* True: notify_look() at it, a change was told meanwhile. */
bool inode_end_storing(struct inode_table *table, struct inode *inode);
/* Whether a directory above is being renamed, which is then to be looked at again, with what is below it. table.lock is
 * held. */
bool inode_is_moving(struct inode *inode);
/* All that the kernel knows below the directory, counted; the caller frees the array and its references. */
int inode_all_below(struct inode_table *table, const struct inode *dir, struct inode ***ret_inodes, size_t *ret_n);
/* The same of what is in the directory itself and rests on something. */
int inode_resting_in(struct inode_table *table, const struct inode *dir, struct inode ***ret_inodes, size_t *ret_n);
/* Our own write: the same inode has new bytes. */
void inode_set_content(struct inode_table *table, struct inode *inode, struct content *content, uint64_t mtime_ns);
/* The same, where the bytes were not what was changed: the modification time stays. */
void inode_set_version(struct inode_table *table, struct inode *inode, struct content *content);
/* The same bytes are at another version than `before`: for this inode, and the one that its name stands for. */
void inode_reindex(struct inode_table *table, struct inode *inode, uint64_t before, struct content *content);
/* The bytes as they are now, counted, or NULL. */
struct content *inode_content(struct inode_table *table, struct inode *inode);

/*
 * The names that lead to the inode from its nearest ancestor of kind `top` (exclusive), joined by '/', as they are in
 * the directories; "" for that ancestor itself. The caller frees it. NULL: no such ancestor, or no memory.
 */
char *inode_path_below(struct inode_table *table, const struct inode *inode, const struct kind *top);
/* The path of `name` in `dir` from the directory `top`, the caller's. NULL: `top` is not above it, or no memory. */
char *inode_path_from(struct inode_table *table, const struct inode *dir, const struct inode *top, const char *name);
/* False: its name, or one above, stands for another inode now, so that no path leads to it. */
bool inode_is_reached(struct inode_table *table, const struct inode *inode);
/* Whether the inode is of this kind or below an inode of it; *ret_name (may be NULL) is then that ancestor's name. */
bool inode_is_below(struct inode_table *table, const struct inode *inode, const struct kind *top, char **ret_name);

/* Binds the inode to the resource whose watch keeps its entry true; NULL: to none. */
void inode_rest_on(struct inode_table *table, struct inode *inode, struct consul_resource *resource);
/* What it is bound to, counted, or NULL. */
struct consul_resource *inode_rests_on(struct inode_table *table, const struct inode *inode);
/* Its name was given to the kernel for a moment, without resting on anything. */
void inode_set_listed(struct inode_table *table, struct inode *inode);
/* All inodes that rest on the resource, counted; the caller frees the array and its references. */
int inode_resting_on(struct inode_table *table, struct consul_resource *resource, struct inode ***ret_inodes,
                     size_t *ret_n);

/*
 * One thread at a time tells the kernel of names in a directory, or does to them what raises events: what comes later
 * is later to the kernel, too. False while another does. Who vacates it wakes those who may wait for that.
 */
bool inode_occupy(struct inode_table *table, struct inode *dir);
void inode_vacate(struct inode_table *table, struct inode *dir);

/* Somebody begins to list the directory, or has failed to. */
void inode_set_listing(struct inode_table *table, struct inode *dir, bool listing);
/* The resource shows some of the directory's names. */
void inode_list_by(struct inode_table *table, struct inode *dir, struct consul_resource *resource);
/* table.lock is held. */
bool inode_is_listed_by(const struct inode *dir, const struct consul_resource *resource);
/* The resource, counted, that alone has shown the directory's names; NULL: there is none, or several have. */
struct consul_resource *inode_lister(struct inode_table *table, const struct inode *dir);
/* All directories whose names the resource shows, counted; as inode_resting_on(). */
int inode_listed_by(struct inode_table *table, const struct consul_resource *resource, struct inode ***ret_dirs,
                    size_t *ret_n);

#endif
