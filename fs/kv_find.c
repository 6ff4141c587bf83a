/* kv/: names and keys, and what stands under a name. */
#include "kv_parts.h"

#include "content.h"
#include "name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names and keys ---------------------------------------------------------------------------------------------- */

char *kv_prefix_of(struct op *op, const struct inode *dir)
{
    char *path = inode_path_below(&op->fs->inodes, dir, &kind_kv), *prefix, *to, *name, *rest;

    if (!path)
        return NULL;
    prefix = to = malloc(strlen(path) + 2);
    for (name = strtok_r(path, "/", &rest); prefix && name; name = strtok_r(NULL, "/", &rest)) {
        char component[NAME_SIZE];

        if (name_kv_decode(name, component, sizeof(component)) < 0) { /* it was looked up: cannot be */
            free(prefix);
            prefix = NULL;
            break;
        }
        to = stpcpy(to, component);
        *to++ = '/';
    }
    if (prefix)
        *to = '\0';
    free(path);
    return prefix;
}

int kv_key_of(const char *prefix, const char *name, char **ret_key)
{
    char component[NAME_SIZE], *key;
    size_t len = strlen(prefix);
    int r = 0;

    if (strcmp(name, NAME_KV_VALUE) == 0) {
        if (len == 0)
            return -ENOENT;
        key = strndup(prefix, len - 1);
    } else {
        r = name_kv_decode(name, component, sizeof(component));
        if (r < 0)
            return r;
        key = malloc(len + strlen(component) + 1);
        if (key)
            stpcpy(stpcpy(key, prefix), component);
    }
    if (!key)
        return -ENOMEM;
    *ret_key = key;
    return 0;
}

char *kv_url_of(const char *key, size_t len, const char *query)
{
    static const char base[] = "/v1/kv/";
    char *copy = strndup(key, len), *url = malloc(sizeof(base) + len * 3 + strlen(query));

    if (copy && url) {
        strcpy(url, base);
        consul_urlencode(copy, "/", url + sizeof(base) - 1);
        strcat(url, query);
    } else {
        free(url);
        url = NULL;
    }
    free(copy);
    return url;
}

bool kv_is_plain(const char *prefix, size_t len)
{
    char *copy = strndup(prefix, len);
    bool plain = false;

    if (copy && len == 0)
        plain = true;
    else if (copy && !consul_kv_key_valid(copy, &plain))
        plain = false;
    free(copy);
    return plain;
}

bool kv_begins_with(const struct consul_kv_entry *entry, const char *prefix, size_t len)
{
    return entry->key_len >= len && memcmp(consul_kv_key(entry), prefix, len) == 0;
}

char *kv_marker_of(struct op *op, struct inode *dir, const char *name)
{
    char *key = NULL, *marker = NULL;

    if (strcmp(name, NAME_KV_VALUE) != 0) {
        char *prefix = kv_prefix_of(op, dir);

        if (prefix && kv_key_of(prefix, name, &key) == 0 && asprintf(&marker, "%s/", key) < 0)
            marker = NULL;
        free(prefix);
    }
    free(key);
    return marker;
}

int kv_key_of_file(struct op *op, struct inode *dir, const char *name, char **ret_key)
{
    char *prefix = kv_prefix_of(op, dir), *key = NULL;
    int r = prefix ? kv_key_of(prefix, name, &key) : -ENOMEM;

    free(prefix);
    if (r == 0 && *key == '\0') /* which no key is */
        r = -EINVAL;
    if (r == 0)
        *ret_key = key;
    else
        free(key);
    return r == -ENOENT ? -EINVAL : r;
}

/* ---- lookup ------------------------------------------------------------------------------------------------------ */

bool kv_has_below(const struct consul_kv_list *list, const char *key)
{
    size_t len = strlen(key) + 1, i;
    char small[256], *prefix = len < sizeof(small) ? small : malloc(len + 1);
    bool has;

    if (!prefix)
        return false;
    stpcpy(stpcpy(prefix, key), "/");
    i = consul_kv_lower_bound(list, prefix, len);
    has = i < list->n && kv_begins_with(list->entries[i], prefix, len);
    if (prefix != small)
        free(prefix);
    return has;
}

/* An empty folder marker is only the directory's. */
static bool is_only_marker(const struct kv_place *place) { return !place->is_dir && place->entry->value_len == 0; }

int kv_find_in_cover(const struct consul_snapshot *snapshot, const char *key, bool is_value, bool is_marker,
                     struct kv_place *ret_place)
{
    struct consul_kv_entry *entry = consul_kv_find(&snapshot->kv, key, strlen(key));
    bool below = kv_has_below(&snapshot->kv, key);

    ret_place->seen_ns = snapshot->seen_ns;
    ret_place->is_dir = below && !is_value;
    ret_place->entry = entry;
    if (ret_place->is_dir)
        return 0;
    if (!entry || (is_marker && is_only_marker(ret_place)))
        return -ENOENT;
    return 0; /* %value also where the prefix has just lost its last key: who is in the directory still removes it */
}

bool kv_names_have(const json_t *names, const char *name)
{
    size_t low = 0, high = json_array_size(names);

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *at = json_string_value(json_array_get(names, middle));
        int c = at ? strcmp(at, name) : -1;

        if (c == 0)
            return true;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

bool kv_names_have_below(const json_t *names, const char *name)
{
    bool have;
    char *dir;

    if (asprintf(&dir, "%s/", name) < 0)
        return false;
    have = kv_names_have(names, dir);
    free(dir);
    return have;
}

const struct kind *kv_kind_among(const json_t *names, const char *key)
{
    return kv_names_have_below(names, key) ? &kind_kv_dir : kv_names_have(names, key) ? &kind_kv_file : NULL;
}

int kv_has_value(struct op *op, const char *prefix, bool *ret_has)
{
    size_t len = strlen(prefix);
    char *key = len > 0 ? strndup(prefix, len - 1) : NULL, *above = key ? strdup(key) : NULL, *slash;
    struct consul_snapshot *names;
    int r = above ? 0 : -ENOMEM;

    if (r == 0) {
        slash = strrchr(above, '/');
        above[slash ? slash + 1 - above : 0] = '\0';
        r = kv_names_are_quick(op, above) ? kv_read_few_names(op, above, &names) : -EFBIG;
    }
    if (r == 0)
        *ret_has = kv_names_have(names->json, key);
    free(key);
    free(above);
    return r;
}

int kv_find_key(struct op *op, const char *key, struct kv_place *ret_place)
{
    char *url = kv_url_of(key, strlen(key), "");
    struct consul_snapshot *snapshot;
    int r;

    op_rest_on_nothing(op); /* the key's own resource says all */
    r = url ? op_read(op, url, CONSUL_KV, CONSUL_BLOCKS, KV_LARGE, &snapshot) : -ENOMEM;
    free(url);
    if (r < 0)
        return r;
    if (snapshot->kv.n == 0)
        return -ENOENT;
    *ret_place = (struct kv_place){.entry = snapshot->kv.entries[0], .seen_ns = snapshot->seen_ns};
    return 0;
}

/* No path leads to the key by itself ("a/./b"): what is around it is read, however large or restless it is. */
static int find_in_all(struct op *op, const char *key, const char *below, bool is_value, struct kv_place *ret_place)
{
    bool is_marker = *key && key[strlen(key) - 1] == '/';
    struct consul_snapshot *snapshot;
    size_t covered;
    int r = kv_read_cover(op, below, &snapshot, &covered);

    return r < 0 ? r : kv_find_in_cover(snapshot, key, is_value, is_marker, ret_place);
}

/*
 * The names around it are too many, or change too often: this one is asked for by itself. What is below the key is
 * asked first. If there is nothing, that cannot be watched (a missing prefix wakes on every write to old servers), and
 * the kernel is to ask again: the key's own watch does not tell that it has become a directory.
 */
static int find_by_itself(struct op *op, const char *key, const char *below, struct kv_place *ret_place)
{
    struct consul_snapshot *names;
    int r, denied;

    op_rest_on_nothing(op);
    r = kv_read_names(op, below, KV_LARGE, &names);
    if (op->quiet && !op->watched_all) /* what was there once */
        r = -EAGAIN;
    if (r == 0 && json_array_size(names->json) > 0) {
        *ret_place = (struct kv_place){.is_dir = true, .seen_ns = names->seen_ns};
        return 0;
    }
    if (r < 0 && r != -ENOENT && r != -EACCES && r != -EAGAIN)
        return r;
    denied = r == -EACCES ? r : -ENOENT;
    r = kv_find_key(op, key, ret_place);
    op->for_a_moment = true;
    return r == -ENOENT ? denied : r;
}

/* An answer that was too large, but is new enough, has shown that there are keys below the prefix. */
static bool is_seen_below(struct op *op, const char *below, struct kv_place *ret_place)
{
    struct consul_kv_known known = kv_known_of(op, below, strlen(below), KV_SMALL);

    if (op->quiet || known.there_ns == 0 || known.there_ns < op->since_ns)
        return false;
    *ret_place = (struct kv_place){.is_dir = true, .seen_ns = known.seen_ns};
    op->watched_all = false;
    return true;
}

/*
 * A directory is one as long as there is a key below it, and one that somebody reads is cheap to ask for, and watched:
 * the names beside it make the server look through all that is below each of them, at each change there. -ENOENT: none
 * is known. An operation asks for one, no more: it may have known many, and all of them may be gone.
 */
static int find_by_witness(struct op *op, const char *below, struct kv_place *ret_place)
{
    struct consul_resource *witness = consul_kv_witness(op->fs->consul, op_datacenter(op), below);
    struct consul_snapshot *snapshot;
    int r = -ENOENT;

    if (witness && (!op->asked_witness || consul_resource_is_watched(witness) ||
                    consul_resource_is_newer(witness, op->since_ns))) {
        op_rest_on_nothing(op);
        r = op_read_resource(op, witness, &snapshot);
        op->asked_witness |= r == -EINPROGRESS;
        if (r == 0 && snapshot->kv.n > 0 && (op->watched_all || !op->quiet)) {
            *ret_place = (struct kv_place){.is_dir = true, .seen_ns = snapshot->seen_ns};
            op->by_witness = true;
        } else if (r == 0 || kv_try_finer(r) || r == -EAGAIN) {
            op_rest_on_nothing(op);
            r = -ENOENT;
        }
    }
    consul_resource_unref(witness);
    return r;
}

/* No prefix above is small and quiet enough: names first, then the value. */
static int find_uncovered(struct op *op, const char *prefix, const char *key, bool is_value, struct kv_place *ret_place)
{
    bool is_plain = kv_is_plain(key, strlen(key)), names_watched;
    struct consul_snapshot *names;
    uint64_t index;
    char *below;
    int r = 0;

    if (is_value && is_plain)
        return kv_find_key(op, key, ret_place);
    below = malloc(strlen(key) + 2);
    if (!below)
        return -ENOMEM;
    stpcpy(stpcpy(below, key), "/");
    if (!is_plain) {
        r = find_in_all(op, key, below, is_value, ret_place);
        goto out;
    }
    if (is_seen_below(op, below, ret_place))
        goto out;
    if (!kv_names_are_watched(op, prefix, strlen(prefix)) && (r = find_by_witness(op, below, ret_place)) != -ENOENT)
        goto out;
    r = kv_read_few_names(op, prefix, &names);
    if (kv_try_finer(r) || r == -ENOENT) { /* no path leads to what is below the empty key */
        r = *key ? find_by_itself(op, key, below, ret_place) : find_in_all(op, key, below, is_value, ret_place);
    } else if (r == 0 && kv_names_have(names->json, below)) {
        *ret_place = (struct kv_place){.is_dir = true, .seen_ns = names->seen_ns};
    } else if (r == 0 && !kv_names_have(names->json, key)) {
        r = -ENOENT;
    } else if (r == 0) {
        /* The value is watched with its key; that it is a file, with the names (kv_names_changed()). */
        names_watched = op->watched_all;
        index = names->index;
        r = kv_find_key(op, key, ret_place);
        if (r == -ENOENT && op->announces && op->read_n > 0 && op->read[op->read_n - 1].snapshot->index < index)
            r = -EAGAIN; /* it is there again, and nobody has read it since */
        if (r == 0 && !names_watched)
            op->watched_all = false;
    }
out:
    free(below);
    return r;
}

/*
 * What a list does not have may be hidden by ACLs. Consul answers for a key by itself: -EACCES where it denies it. A
 * token for what is below the name only (`key_prefix "a/"`) must be able to make the directory, though.
 */
static int find_hidden(struct op *op, const char *key, struct kv_place *ret_place)
{
    char *marker = NULL;
    struct kv_place place;
    int r = kv_find_key(op, key, ret_place);

    if (r == -EACCES && key[strlen(key) - 1] != '/') {
        if (asprintf(&marker, "%s/", key) < 0)
            return -ENOMEM;
        r = kv_find_key(op, marker, &place);
        r = r == 0 ? -ENOENT : r;
        free(marker);
    }
    return r;
}

static bool may_be_hidden(struct op *op, const char *key)
{
    /* Who tells the kernel what changed goes by the list; whoever then looks asks. */
    return !op->quiet && *key && kv_is_plain(key, strlen(key)) && op_may_be_hidden(op);
}

/* All keys around it, as they were found the last time; from what shows most. NULL: they never were. */
static struct consul_snapshot *last_seen_around(struct op *op, const char *prefix)
{
    struct consul_snapshot *snapshot;
    size_t len = strlen(prefix);

    for (size_t i = 0; i <= len && kv_is_plain(prefix, i); i++)
        if ((i == 0 || prefix[i - 1] == '/' || prefix[i] == '/') &&
            kv_read_tree(op, prefix, i, KV_SMALL, &snapshot) == 0)
            return snapshot;
    return NULL;
}

/* A file then has no entry. */
static int find_among_names(const struct consul_snapshot *names, const char *key, struct kv_place *ret_place)
{
    const struct kind *kind = kv_kind_among(names->json, key);

    ret_place->seen_ns = names->seen_ns;
    ret_place->is_dir = kind == &kind_kv_dir;
    return kind ? 0 : -ENOENT;
}

/*
 * What is watched in no way, as it was found the last time; see interest.h. Of names and all the rest the later counts:
 * with the greater index, as whatever changes in a prefix changes that of both.
 */
static int find_as_last_seen(struct op *op, const char *prefix, const char *key, bool is_value, bool is_marker,
                             struct kv_place *ret_place)
{
    struct consul_snapshot *all, *names = NULL;

    op_rest_on_nothing(op);
    all = last_seen_around(op, prefix);
    if (!is_value && !is_marker && kv_read_names(op, prefix, KV_LARGE, &names) < 0)
        names = NULL;
    op->watched_all = false;
    if (names && (!all || names->index > all->index))
        return find_among_names(names, key, ret_place);
    return all ? kv_find_in_cover(all, key, is_value, is_marker, ret_place) : -EAGAIN;
}

int kv_find_place(struct op *op, struct inode *dir, const char *name, struct kv_place *ret_place)
{
    char *prefix = kv_prefix_of(op, dir), *key = NULL;
    struct consul_snapshot *snapshot;
    struct kv_place place = {0};
    bool is_value = strcmp(name, NAME_KV_VALUE) == 0, is_marker = strcmp(name, NAME_KV_EMPTY) == 0;
    size_t covered, len;
    int r = prefix ? kv_key_of(prefix, name, &key) : -ENOMEM;

    if (r < 0)
        goto out;
    len = strlen(prefix);
    r = kv_read_path(op, is_value ? prefix : key, len, KV_SMALL, &snapshot, &covered);
    if (r == 0 && !(is_value && covered == len))
        r = kv_find_in_cover(snapshot, key, is_value, is_marker, &place);
    else if (r == 0 || kv_try_finer(r))
        r = find_uncovered(op, prefix, key, is_value, &place);
    if (r == 0 && is_marker && is_only_marker(&place))
        r = -ENOENT;
    if (r == -EAGAIN && op->announces)
        r = find_as_last_seen(op, prefix, key, is_value, is_marker, &place);
    if (r == -ENOENT && may_be_hidden(op, key))
        r = find_hidden(op, key, &place);
out:
    free(prefix);
    free(key);
    if (r == 0)
        *ret_place = place;
    return r;
}

/*
 * Whether the process that asks has just emptied the directory, and what it does there may not be over. With its last
 * key a directory may also have become a file (`is_file`): of the key that it has its name from. Then it is one for
 * this process only as long as there is one in it that it still has to remove, as rm -r does by its path.
 */
static bool is_phantom(struct op *op, struct inode *dir, const char *name, bool is_file)
{
    char *path = op->pid != 0 ? tree_path_of(op->fs, dir, name) : NULL;
    bool is = path && (is_file ? phantom_has_below : phantom_has)(&op->fs->phantoms, path, op->pid);

    free(path);
    if (is)
        op->watched_all = false; /* only for this process */
    return is;
}

int kv_find_dir(struct op *op, struct inode *dir, const char *name, struct found *ret_found)
{
    struct kv_place place;
    int r = kv_find_place(op, dir, name, &place);

    if (r == 0 && place.is_dir)
        ret_found->mtime_ns = place.seen_ns;
    else if (r == 0)
        r = is_phantom(op, dir, name, true) ? 0 : -ENOENT;
    else if (r == -ENOENT && is_phantom(op, dir, name, false))
        r = 0;
    return r;
}

int kv_find_file(struct op *op, struct inode *dir, const char *name, struct found *ret_found)
{
    struct kv_place place;
    int r = kv_find_place(op, dir, name, &place);

    if (r < 0)
        return r;
    if (place.is_dir)
        return -ENOENT;
    if (!place.entry) {
        ret_found->mtime_ns = place.seen_ns;
        return 0;
    }
    ret_found->content = content_of_entry(place.entry);
    return ret_found->content ? 0 : -ENOMEM;
}

/*
 * The resource that keeps the name true, counted, and the key that it stands for, the caller's; or NULL. *ret_name is
 * the inode's, in the directory of that number.
 */
static struct consul_resource *watched_place(struct op *op, struct inode *inode, char **ret_key, char **ret_name,
                                             uint64_t *ret_dir, bool *ret_superseded)
{
    struct inode_table *table = &op->fs->inodes;
    struct consul_resource *resource = NULL;
    struct inode *dir = NULL;
    char *prefix;

    *ret_key = NULL;
    pthread_mutex_lock(&table->lock);
    *ret_superseded = inode->superseded;
    *ret_name = inode->parent ? strdup(inode->name) : NULL;
    *ret_dir = inode->parent ? inode->parent->number : 0;
    if (!inode->superseded && inode->rests_on && *ret_name && inode->storing == 0) {
        resource = consul_resource_ref(inode->rests_on);
        dir = inode->parent;
        dir->refs++;
    }
    pthread_mutex_unlock(&table->lock);
    if (!dir)
        return NULL;
    prefix = kv_prefix_of(op, dir);
    if (!prefix || kv_key_of(prefix, *ret_name, ret_key) < 0) {
        consul_resource_unref(resource);
        resource = NULL;
    }
    inode_unref(table, dir);
    free(prefix);
    return resource;
}

/* What keeps the inode's name true, counted, and the bytes that it has, counted, of a key; or false. */
static bool rests_on(struct inode_table *table, struct inode *inode, struct consul_resource **ret_resource,
                     struct content **ret_content)
{
    bool rests;

    pthread_mutex_lock(&table->lock);
    rests = !inode->superseded && inode->rests_on && inode->storing == 0 && inode->content && inode->content->entry;
    if (rests) {
        *ret_resource = consul_resource_ref(inode->rests_on);
        *ret_content = content_ref(inode->content);
    }
    pthread_mutex_unlock(&table->lock);
    return rests;
}

/*
 * The usual case, found without making out what the name stands for: what is watched has the key that the inode has its
 * bytes from, as it was.
 */
static bool stands_still(struct op *op, struct inode *inode)
{
    struct consul_snapshot *snapshot;
    struct consul_resource *resource;
    struct consul_kv_entry *now;
    struct content *had;
    bool still = false;

    if (op->quiet || !rests_on(&op->fs->inodes, inode, &resource, &had))
        return false;
    snapshot = consul_resource_current(resource);
    if (snapshot) {
        now = consul_kv_find(&snapshot->kv, consul_kv_key(had->entry), had->entry->key_len);
        still =
            now && now->modify_index <= content_version(had) && !kv_has_below(&snapshot->kv, consul_kv_key(had->entry));
    }
    consul_snapshot_unref(snapshot);
    consul_resource_unref(resource);
    content_unref(had);
    return still;
}

/* Whether the snapshot has the inode's value for the key. */
static bool stands_for(struct op *op, struct inode *inode, const struct consul_snapshot *snapshot, const char *key,
                       const char *name)
{
    struct content *now, *had = inode_content(&op->fs->inodes, inode);
    struct kv_place place;
    bool same;

    if (!had)
        return true; /* it is created, and not stored yet */
    if (kv_find_in_cover(snapshot, key, strcmp(name, NAME_KV_VALUE) == 0, false, &place) < 0 || !place.entry ||
        place.is_dir) {
        content_unref(had);
        return false;
    }
    same = place.entry->modify_index <= content_version(had);
    content_unref(had);
    if (same)
        return true;
    now = content_of_entry(place.entry);
    same = now && inode_take_same_bytes(&op->fs->inodes, inode, &kind_kv_file, now, content_mtime_ns(now));
    content_unref(now);
    return same;
}

/*
 * What is not watched was looked up a moment ago. An inode that was superseded can still be opened by its name until
 * the kernel has been told, and by requests that were on their way then: the name is looked up again, once. Who comes
 * back has found what was current since, or has it open already (/proc/self/fd), and gets that.
 */
int kv_check(struct op *op, struct inode *inode)
{
    struct reopening *reopening = &op->fs->reopening;
    struct consul_snapshot *snapshot;
    struct consul_resource *resource;
    char *key, *name;
    bool stale, again;
    uint64_t dir;
    int r = 0;

    if (atomic_load(&reopening->n) == 0 && stands_still(op, inode))
        return 0;
    resource = watched_place(op, inode, &key, &name, &dir, &stale);
    if (!stale && resource && consul_resource_is_watched(resource)) {
        r = op_read_resource(op, resource, &snapshot);
        stale = r == 0 && !stands_for(op, inode, snapshot, key, name);
    }
    if (r != -EINPROGRESS && name) {
        r = 0; /* while Consul is away, what is known is served */
        again = reopening_ends(reopening, op->pid, dir, name);
        if (stale && !again) {
            reopening_note(reopening, op->pid, dir, name);
            r = -ESTALE;
        }
    }
    consul_resource_unref(resource);
    free(key);
    free(name);
    return r;
}
