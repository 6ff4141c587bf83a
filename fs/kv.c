/*
 * kv/: keys as files, prefixes as directories.
 *
 * What a directory shows comes from the coarsest prefix above it whose recursive answer is small (KV_SMALL): one
 * resource, and one watch, for a typical store. Where every prefix is too large, what begins with a name is one for
 * each name that is looked at; if even that is, or the names are watched for who lists them, these tell what exists and
 * each value is a resource of its own. Listing such a directory fetches its values at once (KV_LARGE).
 *
 * A prefix that Go's mux would "clean" (a//b, a/../b) is never asked for: what is above it has its keys.
 */
#include "kv_parts.h"

static const struct kind *const kv_rows[] = {&kind_kv_dir, &kind_kv_file, NULL};

const struct kind kind_kv = {
    .name = "kv",
    .mode = S_IFDIR | 0755,
    .rows = kv_rows,
};

const struct kind kind_kv_dir = {
    .mode = S_IFDIR | 0755,
    .rows = kv_rows,
    .find = kv_find_dir,
    .list = kv_list, /* of the files as well: one walk over the keys gives both */
    .mkdir = kv_make_dir,
    .rmdir = kv_remove_dir,
    .rename = kv_rename_dir,
    .exchange = kv_exchange,
    .moved = kv_moved,
    .stands_at = kv_stands_at,
};

static int list_nothing(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)op, (void)dir, (void)lister;
    return 0;
}

const struct kind kind_kv_file = {
    .mode = S_IFREG | 0644,
    .find = kv_find_file,
    .list = list_nothing,
    .check = kv_check,
    .store = kv_store,
    .vanishes = kv_vanishes,
    .tell_others = kv_tell_others,
    .store_ended = kv_end_turn,
    .may_create = kv_may_create,
    .create_exclusive = kv_create_exclusive,
    .unlink = kv_remove_file,
    .rename = kv_rename_file,
    .exchange = kv_exchange,
    .moved = kv_moved,
    .stands_at = kv_stands_at,
    .get_attribute = kv_get_attribute,
    .attributes = kv_attributes,
    .set_attribute = kv_set_attribute,
    .lock_key = kv_key_of_file,
    .max_len = kv_max_len,
    .block_size = KV_BLOCK_SIZE,
};
