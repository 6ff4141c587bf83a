/*
 * What the parts of kv/ share: kv_find.c knows names and keys, kv_cover.c which resource shows them, kv_list.c lists,
 * kv_store.c stores values, kv_dir.c removes and makes names, kv_rename.c and kv_exchange.c move them, as kv_gather.c
 * collects them, kv.c has the rows.
 */
#ifndef CONSULFS_KV_PARTS_H
#define CONSULFS_KV_PARTS_H

#include "kv.h"

/* How much of the store one resource may show. */
#define KV_SMALL ((size_t)1 << 20)
#define KV_MIXED ((size_t)8 << 20)
#define KV_LARGE ((size_t)64 << 20)
#define KV_CONFLICTS_MAX 100 /* compare-and-set attempts before giving up with EAGAIN */

/* ---- kv_find.c: names and keys. Strings that are returned are the caller's to free. ------------------------------ */

/* The prefix of the keys in a directory, "" or "a/b/"; NULL without memory. */
char *kv_prefix_of(struct op *op, const struct inode *dir);
/*
 * The key that `name` in the directory of `prefix` stands for. -ENOENT for a name that is no component, and in the root
 * for the names that would be the empty key.
 */
int kv_key_of(const char *prefix, const char *name, char **ret_key);
/* The same for a name that is to be written to: -EINVAL where there can't be such a key. */
int kv_key_of_file(struct op *op, struct inode *dir, const char *name, char **ret_key);
/* The folder marker of the directory `name` in `dir`, which is also its prefix. NULL: there can't be one. */
char *kv_marker_of(struct op *op, struct inode *dir, const char *name);
/* "/v1/kv/KEY?query", encoded. */
char *kv_url_of(const char *key, size_t len, const char *query);
/* May this prefix stand in a path of /v1/kv? */
bool kv_is_plain(const char *prefix, size_t len);
bool kv_begins_with(const struct consul_kv_entry *entry, const char *prefix, size_t len);

/* ---- kv_cover.c: which resource shows what there is. Those that read it park, as op_read() does. -----------------
 */

int kv_read_tree(struct op *op, const char *prefix, size_t len, size_t max, struct consul_snapshot **ret_snapshot);
int kv_read_names(struct op *op, const char *prefix, size_t max, struct consul_snapshot **ret_snapshot);
/* The same for who can do without: -EFBIG also if they change too often. */
int kv_read_few_names(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot);
bool kv_names_are_watched(struct op *op, const char *prefix, size_t len);
/* Watched, or not known to take the server long. */
bool kv_names_are_quick(struct op *op, const char *prefix);
/* Does such an answer, which comes sorted, have the name? A directory's ends in '/'. */
bool kv_names_have(const json_t *names, const char *name);
/* The same of `name`/. */
bool kv_names_have_below(const json_t *names, const char *name);
/* What the key stands for by them; NULL: nothing. */
const struct kind *kv_kind_among(const json_t *names, const char *key);
/* They are not needed any more, and were many. */
void kv_retire_names(struct op *op, const char *prefix);
/* See consul_kv_known(). */
struct consul_kv_known kv_known_of(struct op *op, const char *prefix, size_t len, size_t max);
/*
 * path[0..at) changes too often to be watched as a whole; or what was asked for by the directory's name does, which is
 * about it.
 */
bool kv_is_restless(struct op *op, const char *path, size_t at);
/* A prefix that is too large, or may not be listed, is looked at in parts. */
bool kv_try_finer(int err);
/* Is it asked for only because what is wanted lies where no path leads? */
bool kv_is_whole(const struct consul_resource *resource);
/*
 * The snapshot that shows all keys of `prefix`, from the coarsest prefix that fits; what comes behind the first
 * *ret_covered bytes of `prefix`, it shows (of what begins with these it may show nothing else: kv_cover.c). -EFBIG:
 * none fits. A last plain prefix is asked for whole if what is wanted lies deeper.
 */
int kv_read_cover(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot, size_t *ret_covered);
/* The same of path[0..len), for who looks at what comes behind that: which may be all that is asked for. */
int kv_read_path(struct op *op, const char *path, size_t len, size_t max, struct consul_snapshot **ret_snapshot,
                 size_t *ret_covered);
/*
 * The same for who lists `prefix`: that itself may be as large as `max`. -EFBIG also where its names had better be
 * asked for first; and whether what is below is worth asking for then, for the values of so many files among them.
 */
int kv_read_listed(struct op *op, const char *prefix, size_t max, struct consul_snapshot **ret_snapshot,
                   size_t *ret_covered);
bool kv_values_are_worth_it(struct op *op, const char *prefix, size_t files);
/* All keys of `prefix`, for who moves some of them: also when it changes too often to be read like that by others. */
int kv_read_to_move(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot);

/* ---- kv_find.c: what stands under a name. These park, too. --------------------------------------------------------
 */

/* Whether there is a key that is this prefix without its '/', by what shows the names above. */
int kv_has_value(struct op *op, const char *prefix, bool *ret_has);
bool kv_has_below(const struct consul_kv_list *list, const char *key);

/* What stands under a name: a directory, or a file with its entry (borrowed). */
struct kv_place {
    bool is_dir;
    struct consul_kv_entry *entry; /* borrowed; NULL: a directory's, or, for who announces, of a file not known */
    uint64_t seen_ns;
};

int kv_find_in_cover(const struct consul_snapshot *snapshot, const char *key, bool is_value, bool is_marker,
                     struct kv_place *ret_place);
/* By the key's own resource. */
int kv_find_key(struct op *op, const char *key, struct kv_place *ret_place);
int kv_find_place(struct op *op, struct inode *dir, const char *name, struct kv_place *ret_place);

/* ---- kv_store.c ---------------------------------------------------------------------------------------------------
 */

/* The next read has to ask: what is in the cache lost a race. The operation begins anew. */
void kv_distrust(struct op *op);
/* What is read from now on is as new as this change of ours, which is as a lock to others. */
void kv_catch_up(struct op *op, const struct consul_kv_entry *stored);
/* One operation without a value on the key of a file. */
int kv_begin_on_key(struct op *op, struct inode *dir, const char *name, enum consul_kv_verb verb);

/* ---- kv_gather.c: entries -----------------------------------------------------------------------------------------
 */

/*
 * The entry of a key in `prefix`, borrowed until the run reads something else, whether or not there is a file for it:
 * an empty folder marker has none. -ENOENT: there is no such key.
 */
int kv_find_entry(struct op *op, const char *prefix, const char *key, struct kv_place *ret_place);

struct kv_entries {
    struct consul_kv_entry **entries; /* counted */
    size_t n;
};

/*
 * What the directory with this prefix, in the one with the prefix `above`, stands for: the key that is the prefix
 * without its '/', if there is one, and then those below it, sorted. Parks. -ENOENT: there are none; -EXDEV: they are
 * too many to be moved at once. What is in `entries` is the caller's to clear in any case.
 */
int kv_gather(struct op *op, const char *above, const char *prefix, struct kv_entries *entries);
int kv_entries_add(struct kv_entries *entries, struct consul_kv_entry *entry);
void kv_entries_clear(struct kv_entries *entries);

/* ---- kv_dir.c -----------------------------------------------------------------------------------------------------
 */

/* A key of this directory went away: it, and those on the way to it, may have vanished with their last key. */
void kv_emptied(struct op *op, struct inode *dir);

/*
 * Asks what is below a directory, whose marker this is: a request, after which kv_is_empty() tells what came of it: 0,
 * -ENOTEMPTY, or why it is not known. Only an empty marker may be there: bytes in it show as %empty. *ret_index is its
 * ModifyIndex, for the compare-and-set that removes or replaces it; 0: there is none.
 */
int kv_ask_below(struct op *op, const char *marker);
int kv_is_empty(struct op *op, struct inode *dir, const char *marker, uint64_t *ret_index);
/* The same of a prefix that can't be asked for, from what is known above it. */
int kv_is_known_empty(struct op *op, const char *marker, uint64_t *ret_index);

/* ---- kv_xattr.c; see struct kind --------------------------------------------------------------------------------- */

extern const char *const kv_attributes[];
int kv_get_attribute(const struct content *content, const char *attribute, char value[ATTRIBUTE_SIZE]);
int kv_set_attribute(struct op *op, struct inode *dir, const char *name, const char *attribute, const char *value);

/* ---- functions of the rows; see struct kind -----------------------------------------------------------------------
 */

int kv_find_dir(struct op *op, struct inode *dir, const char *name, struct found *ret_found);
int kv_find_file(struct op *op, struct inode *dir, const char *name, struct found *ret_found);
int kv_check(struct op *op, struct inode *inode);
int kv_list(struct op *op, struct inode *dir, struct lister *lister);
int kv_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len);
bool kv_vanishes(const struct op *op, const char *name);
void kv_tell_others(struct op *op, struct inode *dir, const char *name);
/* What stands for the key in the store that the operation is about, counted; NULL: the kernel knows nothing there. */
struct inode *kv_inode_of(struct op *op, const char *key);
void kv_end_turn(struct op *op);
int kv_may_create(struct op *op, struct inode *dir, const char *name);
int kv_create_exclusive(struct op *op, struct inode *dir, const char *name);
size_t kv_max_len(struct fs *fs);
int kv_remove_file(struct op *op, struct inode *dir, const char *name);
int kv_make_dir(struct op *op, struct inode *dir, const char *name);
int kv_remove_dir(struct op *op, struct inode *dir, const char *name);
int kv_rename_file(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                   unsigned flags);
int kv_rename_dir(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                  unsigned flags);
int kv_exchange(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name);
void kv_moved(struct op *op);
bool kv_stands_at(struct op *op, struct inode *file, struct inode *dir, const char *name);

#endif
