/*
 * kv/: what has changed between two snapshots of the same prefix.
 *
 * Keys that did not change share their entry between the snapshots, so one pass over both lists finds those that did.
 * For each of these the path from the prefix down is walked as far as the kernel holds it: a key that comes or goes can
 * make a directory of a file, and the other way round, at each step. Where a prefix is looked at in parts, what the
 * names in a directory tell beyond it.
 */
#include "announce.h"
#include "changes.h"
#include "content.h"
#include "datacenters.h"
#include "kv_parts.h"
#include "log.h"
#include "name.h"
#include "notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct walk {
    struct fs *fs;
    struct consul_resource *resource;
    const struct consul_snapshot *before, *after;
    size_t prefix_len;
    struct inode *base; /* counted: the directory of the prefix */
    bool announced;
    char *key;     /* a copy of the one that is looked at, to be cut */
    char *last;    /* the one before: what both have in common was looked at */
    size_t common; /* of key and last */
    /* Directories that came or went; told after what is in them, the deepest first. */
    struct come_or_gone {
        struct inode *dir; /* counted */
        char name[NAME_SIZE];
        struct found was, now; /* contents counted */
    } * dirs;
    size_t dirs_n, dirs_cap;
};

/* ---- where the resource's keys are in the tree ---------------------------------------------------------------------
 */

/* `name` in `dir`, which is given back; counted, or NULL. */
static struct inode *step(struct fs *fs, struct inode *dir, const char *name)
{
    struct inode *inode = dir ? inode_peek(&fs->inodes, dir, name) : NULL;

    inode_unref(&fs->inodes, dir);
    return inode;
}

/* The kv/ of the datacenter (NULL: the mount's own), counted; NULL: the kernel does not hold it. */
static struct inode *find_kv(struct fs *fs, const char *datacenter)
{
    const char *own = fs->options->datacenter;
    struct inode *at = inode_ref(&fs->inodes, fs->top);
    char name[NAME_SIZE];

    if (datacenter && (!own || strcmp(own, datacenter) != 0)) {
        at = step(fs, at, kind_datacenters.name);
        if (name_encode(datacenter, strlen(datacenter), NULL, name) < 0) {
            inode_unref(&fs->inodes, at);
            return NULL;
        }
        at = step(fs, at, name);
    }
    return step(fs, at, kind_kv.name);
}

/* From kv/, which is given back, to the directory of a prefix: "" or the beginning of a key up to a slash. */
static struct inode *walk_down(struct fs *fs, struct inode *kv, const char *prefix, size_t prefix_len)
{
    const char *end = prefix + prefix_len;
    struct inode *at = kv;
    char name[NAME_SIZE];

    while (at && prefix < end) {
        size_t len = strcspn(prefix, "/");

        if (name_kv_encode(prefix, len, name) < 0) {
            inode_unref(&fs->inodes, at);
            return NULL;
        }
        at = step(fs, at, name);
        prefix += len + 1;
    }
    return at;
}

struct inode *kv_directory_of(struct fs *fs, const struct consul_resource *resource)
{
    const char *prefix = consul_resource_kv_prefix(resource);

    return walk_down(fs, find_kv(fs, consul_resource_kv_datacenter(resource)), prefix, strlen(prefix));
}

/* That in which all keys of the resource are: its own, or of a prefix that is part of a name, the one with that name.
 */
static struct inode *directory_above(struct fs *fs, const struct consul_resource *resource, size_t *ret_len)
{
    const char *prefix = consul_resource_kv_prefix(resource), *slash = strrchr(prefix, '/');

    *ret_len = slash ? (size_t)(slash + 1 - prefix) : 0;
    return walk_down(fs, find_kv(fs, consul_resource_kv_datacenter(resource)), prefix, *ret_len);
}

/* ---- one key, wherever it is ---------------------------------------------------------------------------------------
 */

/* Takes kv. The directory of the key, counted, or NULL; *ret_name is the key's name in it. */
static struct inode *place_of_key(struct fs *fs, struct inode *kv, const char *key, char ret_name[NAME_SIZE])
{
    const char *slash = strrchr(key, '/'), *last = slash ? slash + 1 : key;
    struct inode *at = walk_down(fs, kv, key, (size_t)(last - key));

    if (at && S_ISDIR(at->kind->mode) && name_kv_encode(last, strlen(last), ret_name) == 0)
        return at;
    inode_unref(&fs->inodes, at);
    return NULL;
}

struct inode *kv_inode_of(struct op *op, const char *key)
{
    char name[NAME_SIZE];
    struct inode *dir = place_of_key(op->fs, find_kv(op->fs, op_datacenter(op)), key, name);
    struct inode *at = step(op->fs, dir, name);

    return at && S_ISDIR(at->kind->mode) ? step(op->fs, at, NAME_KV_VALUE) : at;
}

/* Takes kv. */
static void tell_key(struct fs *fs, struct inode *kv, const char *key)
{
    char name[NAME_SIZE];
    struct inode *at = place_of_key(fs, kv, key, name);

    if (at) {
        notify_name(fs, at, name);
        at = step(fs, at, name);
        if (at && S_ISDIR(at->kind->mode))
            notify_name(fs, at, NAME_KV_VALUE);
    }
    inode_unref(&fs->inodes, at);
}

void kv_tell_others(struct op *op, struct inode *dir, const char *name)
{
    struct inode *kv = find_kv(op->fs, op_datacenter(op));
    char *key;

    if (kv && kv_key_of_file(op, dir, name, &key) == 0) {
        tell_key(op->fs, kv, key);
        free(key);
    } else {
        inode_unref(&op->fs->inodes, kv);
    }
}

bool changes_are_announced(struct fs *fs, struct consul_resource *resource)
{
    enum consul_kv_cover cover;

    if (!announcer_raises(fs) || consul_resource_kv_scope(resource) != CONSUL_KV_PREFIX || kv_is_whole(resource))
        return false;
    cover = consul_resource_kv_cover(resource);
    return consul_resource_is_demoted(resource) ? cover != CONSUL_KV_COVERED_WATCHED : cover == CONSUL_KV_ALONE;
}

/* ---- one name ------------------------------------------------------------------------------------------------------
 */

/* What stands for `key` in a snapshot. Its content is counted. */
static int found_in(const struct consul_snapshot *snapshot, const char *key, bool is_value, bool is_marker,
                    struct found *ret_found)
{
    struct kv_place place;

    *ret_found = (struct found){0};
    if (kv_find_in_cover(snapshot, key, is_value, is_marker, &place) < 0)
        return 0;
    ret_found->kind = place.is_dir ? &kind_kv_dir : &kind_kv_file;
    ret_found->mtime_ns = place.seen_ns;
    if (!place.is_dir)
        ret_found->content = content_of_entry(place.entry);
    return place.is_dir || ret_found->content ? 0 : -ENOMEM;
}

static bool differ(const struct found *a, const struct found *b)
{
    if (a->kind != b->kind)
        return true;
    return a->content && content_version(a->content) != content_version(b->content);
}

static bool same_bytes(const struct found *a, const struct found *b)
{
    return a->kind == b->kind && a->content && content_same_bytes(a->content, b->content);
}

/* Takes the contents of both. */
static void name_changed(struct walk *walk, struct inode *dir, const char *name, struct found *was, struct found *now)
{
    changes_name(walk->fs, walk->resource, dir, name, was, now, walk->announced && !same_bytes(was, now));
    content_unref(was->content);
    content_unref(now->content);
}

/* The same, put off. */
static void put_off(struct walk *walk, struct inode *dir, const char *name, struct found *was, struct found *now)
{
    struct come_or_gone *at;

    if (walk->dirs_n == walk->dirs_cap) {
        size_t cap = walk->dirs_cap ? walk->dirs_cap * 2 : 16;

        at = realloc(walk->dirs, cap * sizeof(*at));
        if (!at) {
            name_changed(walk, dir, name, was, now);
            return;
        }
        walk->dirs = at;
        walk->dirs_cap = cap;
    }
    at = &walk->dirs[walk->dirs_n++];
    *at = (struct come_or_gone){.dir = inode_ref(&walk->fs->inodes, dir), .was = *was, .now = *now};
    strcpy(at->name, name);
}

static void tell_put_off(struct walk *walk)
{
    for (size_t i = walk->dirs_n; i > 0; i--) {
        struct come_or_gone *at = &walk->dirs[i - 1];

        name_changed(walk, at->dir, at->name, &at->was, &at->now);
        inode_unref(&walk->fs->inodes, at->dir);
    }
    free(walk->dirs);
}

static bool is_dir(const struct found *found) { return found->kind && S_ISDIR(found->kind->mode); }

/* walk->key is what `name` in `dir` stands for. */
static void look_at(struct walk *walk, struct inode *dir, const char *name, bool is_value, bool is_marker)
{
    struct found was = {0}, now = {0};

    if (found_in(walk->before, walk->key, is_value, is_marker, &was) < 0 ||
        found_in(walk->after, walk->key, is_value, is_marker, &now) < 0 || !differ(&was, &now)) {
        content_unref(was.content);
        content_unref(now.content);
    } else if (is_dir(&was) || is_dir(&now)) {
        put_off(walk, dir, name, &was, &now);
    } else {
        name_changed(walk, dir, name, &was, &now);
    }
}

/* The component of the key from `at` to `end` in `dir`. */
static void look_at_component(struct walk *walk, struct inode *dir, size_t at, size_t end)
{
    char name[NAME_SIZE], cut = walk->key[end];

    if (name_kv_encode(walk->key + at, end - at, name) < 0)
        return;
    walk->key[end] = '\0';
    look_at(walk, dir, name, false, end == at && !cut);
    walk->key[end] = cut;
}

/* ---- one key -------------------------------------------------------------------------------------------------------
 */

/* The next component's directory, if the kernel holds it; `dir` is given back. */
static struct inode *descend(struct walk *walk, struct inode *dir, size_t at, size_t end)
{
    char name[NAME_SIZE];
    struct inode *child;

    if (name_kv_encode(walk->key + at, end - at, name) < 0) {
        inode_unref(&walk->fs->inodes, dir);
        return NULL;
    }
    child = step(walk->fs, dir, name);
    if (child && !S_ISDIR(child->kind->mode)) {
        inode_unref(&walk->fs->inodes, child);
        child = NULL;
    }
    return child;
}

static void look_at_path(struct walk *walk, size_t len)
{
    struct inode *dir = inode_ref(&walk->fs->inodes, walk->base);
    size_t at = walk->prefix_len;

    while (dir) {
        size_t end = at + strcspn(walk->key + at, "/");
        bool is_last = end == len;

        if (is_last || end >= walk->common) /* else the key before had this component too */
            look_at_component(walk, dir, at, end);
        dir = descend(walk, dir, at, end);
        if (is_last)
            break;
        at = end + 1;
    }
    if (dir) /* the key is a prefix too; that of "a/" is shown in a/%empty */
        look_at(walk, dir, NAME_KV_VALUE, true, false);
    inode_unref(&walk->fs->inodes, dir);
}

static void key_changed(struct walk *walk, const struct consul_kv_entry *entry)
{
    free(walk->last);
    walk->last = walk->key;
    walk->key = strndup(consul_kv_key(entry), entry->key_len);
    walk->common = 0;
    if (!walk->key)
        return;
    while (walk->last && walk->key[walk->common] && walk->key[walk->common] == walk->last[walk->common])
        walk->common++;
    look_at_path(walk, entry->key_len);
}

void kv_changes_of(struct fs *fs, struct consul_resource *resource, const struct consul_snapshot *before,
                   const struct consul_snapshot *after, bool announced)
{
    struct walk walk = {.fs = fs, .resource = resource, .before = before, .after = after, .announced = announced};
    const struct consul_kv_list *old = &before->kv, *new = &after->kv;
    size_t i = 0, j = 0;

    walk.base = directory_above(fs, resource, &walk.prefix_len);
    if (!walk.base)
        return;
    while (i < old->n || j < new->n) {
        const struct consul_kv_entry *a = i < old->n ? old->entries[i] : NULL;
        const struct consul_kv_entry *b = j < new->n ? new->entries[j] : NULL;
        int c = a == b ? 0 : !a ? 1 : !b ? -1 : strcmp(consul_kv_key(a), consul_kv_key(b));

        if (c != 0 || a->modify_index != b->modify_index)
            key_changed(&walk, c <= 0 ? a : b);
        i += c <= 0;
        j += c >= 0;
    }
    tell_put_off(&walk);
    free(walk.key);
    free(walk.last);
    inode_unref(&fs->inodes, walk.base);
}

/* ---- the names in a directory --------------------------------------------------------------------------------------
 */

static const char *name_at(const json_t *names, size_t i) { return json_string_value(json_array_get(names, i)); }

/*
 * The key, or what ends in '/', is in one of the lists only. What of it the kernel has may rest on something else: on
 * another resource that showed it, or on its key.
 */
static void name_changed_kind(struct fs *fs, struct inode *dir, const char *prefix, const char *key,
                              const json_t *before, const json_t *after)
{
    size_t len = strlen(key), prefix_len = strlen(prefix);
    const struct kind *was, *now;
    char name[NAME_SIZE], *plain;
    struct inode *inode;

    len -= len > 0 && key[len - 1] == '/';
    if (len <= prefix_len || strncmp(key, prefix, prefix_len) != 0 ||
        name_kv_encode(key + prefix_len, len - prefix_len, name) < 0)
        return;
    plain = strndup(key, len);
    if (!plain)
        return;
    was = kv_kind_among(before, plain);
    now = kv_kind_among(after, plain);
    free(plain);
    if (was == now)
        return;
    inode = inode_peek(&fs->inodes, dir, name);
    if (inode && inode->kind != now)
        changes_check(fs, inode, false);
    inode_unref(&fs->inodes, inode);
    notify_watchers_of(fs, dir, name, was, NULL);
}

/* What we made ourselves, and somebody else has removed, no answer may ever have had. */
static void look_for_own(struct fs *fs, struct inode *dir, const char *prefix, const struct consul_snapshot *names)
{
    size_t n;
    char **own = own_names_in(&fs->own, dir, names->index, &n), *key;

    for (size_t i = 0; i < n; i++) {
        if (strcmp(own[i], NAME_KV_VALUE) != 0 && strcmp(own[i], NAME_KV_EMPTY) != 0 && /* which are not among them */
            kv_key_of(prefix, own[i], &key) == 0) {
            if (!kv_kind_among(names->json, key))
                notify_watchers_of(fs, dir, own[i], &kind_kv_file, NULL);
            free(key);
        }
        free(own[i]);
    }
    free(own);
}

void kv_names_changed(struct fs *fs, struct consul_resource *resource, const struct consul_snapshot *before,
                      const struct consul_snapshot *after)
{
    const char *prefix = consul_resource_kv_prefix(resource);
    struct inode *dir = kv_directory_of(fs, resource);
    size_t i = 0, j = 0;

    if (dir)
        look_for_own(fs, dir, prefix, after);
    while (dir && (i < json_array_size(before->json) || j < json_array_size(after->json))) {
        const char *was = name_at(before->json, i), *now = name_at(after->json, j);
        int c = !was ? 1 : !now ? -1 : strcmp(was, now);

        if (c != 0)
            name_changed_kind(fs, dir, prefix, c < 0 ? was : now, before->json, after->json);
        i += c <= 0;
        j += c >= 0;
    }
    inode_unref(&fs->inodes, dir);
}

void kv_names_unknown(struct fs *fs, struct consul_resource *resource)
{
    struct inode *dir = kv_directory_of(fs, resource), **inodes = NULL;
    size_t n = 0;

    if (dir && inode_resting_in(&fs->inodes, dir, &inodes, &n) < 0)
        log_line(LOG_ERR, "out of memory: changes could not be told to the kernel");
    for (size_t i = 0; i < n; i++) {
        if (!S_ISDIR(inodes[i]->kind->mode))
            changes_doubt(fs, inodes[i]);
        inode_unref(&fs->inodes, inodes[i]);
    }
    free(inodes);
    inode_unref(&fs->inodes, dir);
}
