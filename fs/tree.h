/*
 * The tree: one table of node kinds. Lookup and listing walk the same rows, so they cannot disagree.
 *
 * A row is a name, or a pattern whose names come from Consul; what its functions are is what the node can do: the
 * dispatcher turns a missing one into the errno that POSIX has for it. A new Consul endpoint is a new row and its view.
 */
#ifndef CONSULFS_TREE_H
#define CONSULFS_TREE_H

#include "op.h"

struct content;
struct kind;
struct spool_target;
struct stream_source;

/* What a directory's row found under a name. */
struct found {
    const struct kind *kind;
    struct content *content; /* a file's bytes, counted; NULL: made when it is opened */
    uint64_t mtime_ns;       /* 0: the mount's beginning */
};

/* Collects a listing. */
struct lister {
    void *arg;
    /* `found` may have no content although the file has some: then only the name is told. Takes its reference. */
    int (*emit)(struct lister *lister, const char *name, const struct found *found);
    bool with_content; /* contents are welcome where they cost nothing more */
};

enum kind_flags {
    KIND_HIDDEN = 1 << 0, /* not listed */
    KIND_DIRECT = 1 << 1, /* its bytes are made at each open (fs.no_open: at each lookup) and never cached */
    KIND_COSTLY = 1 << 2, /* finding out its size costs more than a look: a listing leaves it out */
    KIND_ORDERS = 1 << 3, /* each write() is stored by itself, and nothing is kept of it */
};

#define ATTRIBUTE_SIZE 64 /* of an extended attribute's value, with its NUL */

struct kind {
    const char *name; /* in its directory; NULL: a pattern */
    mode_t mode;      /* type and permissions before umask; the bytes of a symbolic link are its target */
    unsigned flags;
    const struct kind *const *rows; /* of a directory */
    const void *of;                 /* what its functions are about, theirs to know; they find it in op->row->of */

    /* In all of these op->row is the row whose function runs. */

    /*
     * What a pattern (or a name that is not always there) is under `name` in `dir`: 0, -ENOENT, -EINPROGRESS, or the
     * error that kept it from finding out. NULL: a literal name that is always there. Needs to set only content and
     * mtime_ns; kind is this row.
     */
    int (*find)(struct op *op, struct inode *dir, const char *name, struct found *ret_found);
    /* All names of the pattern. Agrees with find. */
    int (*list)(struct op *op, struct inode *dir, struct lister *lister);
    /* The bytes of a file in `dir` whose find does not give them. */
    int (*read)(struct op *op, struct inode *dir, const char *name, struct content **ret_content);
    /*
     * It is opened: are the inode's bytes what the name stands for now? 0, or -ESTALE, on which the kernel looks the
     * name up again. The kernel is told of a change a moment after it is known here. NULL: that moment does not matter.
     */
    int (*check)(struct op *op, struct inode *inode);
    /* Its bytes come while they are read; with KIND_DIRECT. */
    const struct stream_source *stream;
    /* What is written there is kept until it is whole. NULL: it cannot be written so. */
    const struct spool_target *spool;

    /*
     * The whole new value of the file `name` in `dir`, which need not exist. Stores it and returns 0, parking as often
     * as it needs to. op->handle is the descriptor; it alone uses it until it is done.
     */
    int (*store)(struct op *op, struct inode *dir, const char *name, const char *data, size_t len);
    /* Whether what was stored under the name (op->stored) is no file of that name any more. NULL: never. */
    bool (*vanishes)(const struct op *op, const char *name);
    /* What was stored as `name` in `dir` is reached by another way now: the kernel is to ask again there. May be NULL.
     */
    void (*tell_others)(struct op *op, struct inode *dir, const char *name);
    /* Called when a store has ended, however it ended, and nothing is held. May be NULL. */
    void (*store_ended)(struct op *op);
    /* Is this a whole document? >0 yes, 0 not yet, <0 it never will be. NULL: the size of the write is a hint. */
    int (*complete)(const char *data, size_t len);
    /* Whether a file of this name may be created in `dir` as this kind: 0 or a negative errno. */
    int (*may_create)(struct op *op, struct inode *dir, const char *name);
    /* O_CREAT|O_EXCL: makes the (empty) file at once, -EEXIST if there is one. NULL: created when it is stored. */
    int (*create_exclusive)(struct op *op, struct inode *dir, const char *name);
    /* utimensat(): somebody touches it. NULL: nothing happens. */
    int (*touch)(struct op *op, struct inode *dir, const char *name);
    int (*unlink)(struct op *op, struct inode *dir, const char *name);
    int (*mkdir)(struct op *op, struct inode *dir, const char *name);
    int (*rmdir)(struct op *op, struct inode *dir, const char *name);
    int (*rename)(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                  unsigned flags);
    /* RENAME_EXCHANGE, with something of a kind that has the same function. NULL: -EINVAL. */
    int (*exchange)(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name);
    /* Whether the file that somebody has open is what `name` in `dir` was: it may have had another name. May be NULL.
     */
    bool (*stands_at)(struct op *op, struct inode *file, struct inode *dir, const char *name);
    /* Called once what was renamed or exchanged stands where it belongs: open files follow. May be NULL. */
    void (*moved)(struct op *op);
    /*
     * Extended attributes: what one says of this content, or -ENODATA (pure, any thread); the names that are listed
     * where they say something, up to NULL; storing one (value NULL: removing it), as store. NULL: there are none.
     */
    int (*get_attribute)(const struct content *content, const char *attribute, char value[ATTRIBUTE_SIZE]);
    const char *const *attributes;
    int (*set_attribute)(struct op *op, struct inode *dir, const char *name, const char *attribute, const char *value);
    /* The Consul key that is locked when the file is; the caller frees it. NULL: its locks hold on this mount only. */
    int (*lock_key)(struct op *op, struct inode *dir, const char *name, char **ret_key);
    size_t (*max_len)(struct fs *fs); /* of a value that store takes; NULL: 1 MiB */
    unsigned block_size;              /* st_blksize; 0: 4096 */
};

extern const struct kind kind_root, kind_self;
/* A directory that is one datacenter: what is below it is asked of that one. */
extern const struct kind kind_datacenter;

/* The path of `name` in the directory from the top of the tree, as phantoms are known by; the caller's, or NULL. */
char *tree_path_of(struct fs *fs, const struct inode *dir, const char *name);
/* What `name` is in `dir`. As kind.find. */
int tree_find(struct op *op, struct inode *dir, const char *name, struct found *ret_found);
int tree_list(struct op *op, struct inode *dir, struct lister *lister);
/* What one row of the directory contributes. */
int tree_list_row(struct op *op, struct inode *dir, const struct kind *row, struct lister *lister);
/* The row that takes a new file or directory of this name. -EPERM when none does. */
int tree_row_for_new(struct op *op, struct inode *dir, const char *name, bool directory, const struct kind **ret_kind);

/* Bytes and attributes of what was found; reads the content unless it is costly or made at each open. */
int tree_content(struct op *op, struct inode *dir, const char *name, struct found *found, bool even_if_costly);

#endif
