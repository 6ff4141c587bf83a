/*
 * kv/: keys as files, prefixes as directories.
 *
 * What a directory shows comes from the coarsest prefix above it whose recursive answer is small (SMALL): one resource,
 * and one watch, for a typical store. Where every prefix is too large, the directory's listing of names tells what
 * exists and each value is a resource of its own; listing such a directory fetches its values at once (LARGE).
 *
 * A prefix that Go's mux would "clean" (a//b, a/../b) is never asked for: what is above it has its keys.
 */
#include "kv.h"

#include "content.h"
#include "handle.h"
#include "name.h"
#include "notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define SMALL ((size_t)1 << 20)
#define MIXED ((size_t)8 << 20)
#define LARGE ((size_t)64 << 20)
#define CONFLICTS_MAX 100 /* compare-and-set attempts before giving up with EAGAIN */

/* ---- names and keys -----------------------------------------------------------------------------------------------
 */

/* The prefix of the keys in a directory, "" or "a/b/"; the caller frees it. */
static char *prefix_of(struct op *op, const struct inode *dir)
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

/*
 * The key that `name` in the directory of `prefix` stands for; the caller frees it. -ENOENT for a name that is no
 * component, and in the root for the names that would be the empty key.
 */
static int key_of(const char *prefix, const char *name, char **ret_key)
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

/* "/v1/kv/KEY?query", encoded; the caller frees it. */
static char *url_of(const char *key, size_t len, const char *query)
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

/* May this prefix stand in a path of /v1/kv? */
static bool is_plain(const char *prefix, size_t len)
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

static bool begins_with(const struct consul_kv_entry *entry, const char *prefix, size_t len)
{
    return entry->key_len >= len && memcmp(consul_kv_key(entry), prefix, len) == 0;
}

/* ---- which resource shows a directory --------------------------------------------------------------------------- */

static int read_tree_by(struct op *op, const char *query, const char *prefix, size_t len, size_t max,
                        struct consul_snapshot **ret_snapshot)
{
    char *url = url_of(prefix, len, query);
    int r;

    if (!url)
        return -ENOMEM;
    /* A watch on the empty root wakes only for what concerns it. */
    r = op_read(op, url, CONSUL_KV, CONSUL_BLOCKS | (len == 0 ? CONSUL_WATCH_EMPTY : 0), max, ret_snapshot);
    free(url);
    return r;
}

static int read_tree(struct op *op, const char *prefix, size_t len, size_t max, struct consul_snapshot **ret_snapshot)
{
    return read_tree_by(op, "?recurse", prefix, len, max, ret_snapshot);
}

static int read_names(struct op *op, const char *prefix, size_t max, struct consul_snapshot **ret_snapshot)
{
    char *url = url_of(prefix, strlen(prefix), "?keys&separator=%2F");
    int r;

    if (!url)
        return -ENOMEM;
    r = op_read(op, url, CONSUL_JSON, CONSUL_BLOCKS | CONSUL_STRINGS, max, ret_snapshot);
    free(url);
    return r;
}

static int read_key(struct op *op, const char *key, struct consul_snapshot **ret_snapshot)
{
    char *url = url_of(key, strlen(key), "");
    int r;

    if (!url)
        return -ENOMEM;
    r = op_read(op, url, CONSUL_KV, CONSUL_BLOCKS, LARGE, ret_snapshot);
    free(url);
    return r;
}

/* A prefix that is too large, or may not be listed, is looked at in parts. */
static bool try_finer(int err) { return err == -EFBIG || err == -EACCES; }

/*
 * The snapshot that shows all keys of `prefix`, from the coarsest prefix that fits; *ret_covered is how much of
 * `prefix` that is. -EFBIG: none fits. A last plain prefix is asked for whole if what is wanted lies deeper.
 */
static int read_cover(struct op *op, const char *prefix, struct consul_snapshot **ret_snapshot, size_t *ret_covered)
{
    size_t len = strlen(prefix), last = 0;
    int r = -EFBIG;

    for (size_t i = 0; i <= len; i++) {
        if (i > 0 && prefix[i - 1] != '/')
            continue;
        if (!is_plain(prefix, i)) {
            /* A resource of its own: the small one's maximum is not to grow with it. */
            r = read_tree_by(op, "?recurse=whole", prefix, last, LARGE, ret_snapshot);
            *ret_covered = last;
            return r;
        }
        last = i;
        r = read_tree(op, prefix, i, SMALL, ret_snapshot);
        *ret_covered = i;
        if (!try_finer(r))
            return r;
    }
    return r;
}

/* ---- lookup --------------------------------------------------------------------------------------------------------
 */

/* What stands under a name: a directory, or a file with its entry (borrowed). */
struct place {
    bool is_dir;
    struct consul_kv_entry *entry;
    uint64_t seen_ns;
};

static bool has_below(const struct consul_kv_list *list, const char *key)
{
    size_t len = strlen(key) + 1, i;
    char *prefix = malloc(len + 1);
    bool has;

    if (!prefix)
        return false;
    stpcpy(stpcpy(prefix, key), "/");
    i = consul_kv_lower_bound(list, prefix, len);
    has = i < list->n && begins_with(list->entries[i], prefix, len);
    free(prefix);
    return has;
}

static int find_in_cover(const struct consul_snapshot *snapshot, const char *key, bool is_value, bool is_marker,
                         struct place *ret_place)
{
    struct consul_kv_entry *entry = consul_kv_find(&snapshot->kv, key, strlen(key));
    bool below = has_below(&snapshot->kv, key);

    ret_place->seen_ns = snapshot->seen_ns;
    ret_place->is_dir = below && !is_value;
    ret_place->entry = entry;
    if (ret_place->is_dir)
        return 0;
    if (!entry || (is_marker && entry->value_len == 0)) /* an empty folder marker is only the directory's */
        return -ENOENT;
    return 0; /* %value also where the prefix has just lost its last key: who is in the directory still removes it */
}

/* Keys come sorted. */
static bool names_have(const json_t *names, const char *name)
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

static int find_key(struct op *op, const char *key, struct place *ret_place)
{
    struct consul_snapshot *snapshot;
    int r;

    op_rest_on_nothing(op); /* the key's own resource says all */
    r = read_key(op, key, &snapshot);
    if (r < 0)
        return r;
    if (snapshot->kv.n == 0)
        return -ENOENT;
    *ret_place = (struct place){.entry = snapshot->kv.entries[0], .seen_ns = snapshot->seen_ns};
    return 0;
}

/* No prefix above is small enough: names first, then the value. */
static int find_uncovered(struct op *op, const char *prefix, const char *key, bool is_value, struct place *ret_place)
{
    struct consul_snapshot *names;
    bool is_dir = false;
    char *below;
    int r;

    if (is_value)
        return find_key(op, key, ret_place);
    below = malloc(strlen(key) + 2);
    if (!below)
        return -ENOMEM;
    stpcpy(stpcpy(below, key), "/");
    r = read_names(op, prefix, SMALL, &names);
    if (r == 0) {
        is_dir = names_have(names->json, below);
        if (!is_dir && !names_have(names->json, key))
            r = -ENOENT;
    } else if (try_finer(r) || r == -ENOENT) { /* a huge directory: ask for just this name */
        r = find_key(op, key, ret_place);
        if (r == -ENOENT) {
            op_rest_on_nothing(op);
            r = read_names(op, below, LARGE, &names);
            is_dir = r == 0;
        }
    }
    free(below);
    if (r < 0)
        return r;
    if (is_dir) {
        *ret_place = (struct place){.is_dir = true, .seen_ns = names->seen_ns};
        return 0;
    }
    return ret_place->entry ? 0 : find_key(op, key, ret_place);
}

/*
 * What a list does not have may be hidden by ACLs. Consul answers for a key by itself: -EACCES where it denies it. A
 * token for what is below the name only (`key_prefix "a/"`) must be able to make the directory, though.
 */
static int find_hidden(struct op *op, const char *key, struct place *ret_place)
{
    char *marker = NULL;
    struct place place;
    int r = find_key(op, key, ret_place);

    if (r == -EACCES && key[strlen(key) - 1] != '/') {
        if (asprintf(&marker, "%s/", key) < 0)
            return -ENOMEM;
        r = find_key(op, marker, &place);
        r = r == 0 ? -ENOENT : r;
        free(marker);
    }
    return r;
}

static bool may_be_hidden(struct op *op, const char *key)
{
    /* Who tells the kernel what changed goes by the list; whoever then looks asks. */
    return op->req && *key && is_plain(key, strlen(key)) && op_may_be_hidden(op);
}

static int find_place(struct op *op, struct inode *dir, const char *name, struct place *ret_place)
{
    char *prefix = prefix_of(op, dir), *key = NULL;
    struct consul_snapshot *snapshot;
    struct place place = {0};
    bool is_value = strcmp(name, NAME_KV_VALUE) == 0, is_marker = strcmp(name, NAME_KV_EMPTY) == 0;
    size_t covered;
    int r = prefix ? key_of(prefix, name, &key) : -ENOMEM;

    if (r < 0)
        goto out;
    r = read_cover(op, prefix, &snapshot, &covered);
    if (r == 0 && !(is_value && covered == strlen(prefix)))
        r = find_in_cover(snapshot, key, is_value, is_marker, &place);
    else if (r == 0 || try_finer(r))
        r = find_uncovered(op, prefix, key, is_value, &place);
    if (r == -ENOENT && may_be_hidden(op, key))
        r = find_hidden(op, key, &place);
out:
    free(prefix);
    free(key);
    if (r == 0)
        *ret_place = place;
    return r;
}

static char *phantom_path(struct op *op, const struct inode *dir, const char *name)
{
    char *path = inode_path_below(&op->fs->inodes, dir, &kind_root), *full = NULL;

    if (path && asprintf(&full, "%s/%s", path, name) < 0)
        full = NULL;
    free(path);
    return full;
}

static int find_dir(struct op *op, struct inode *dir, const char *name, struct found *ret_found)
{
    struct place place;
    int r = find_place(op, dir, name, &place);

    if (r == 0 && !place.is_dir)
        return -ENOENT;
    if (r == 0)
        ret_found->mtime_ns = place.seen_ns;
    if (r == -ENOENT && op->pid != 0) {
        char *path = phantom_path(op, dir, name);

        if (path && phantom_has(&op->fs->phantoms, path, op->pid)) {
            op->watched_all = false; /* only for this process */
            r = 0;
        }
        free(path);
    }
    return r;
}

static int find_file(struct op *op, struct inode *dir, const char *name, struct found *ret_found)
{
    struct place place;
    int r = find_place(op, dir, name, &place);

    if (r < 0)
        return r;
    if (place.is_dir)
        return -ENOENT;
    ret_found->content = content_of_entry(place.entry);
    return ret_found->content ? 0 : -ENOMEM;
}

/* ---- listing ----------------------------------------------------------------------------------------------------- */

static int emit(struct op *op, struct lister *lister, const char *component, size_t len, bool is_dir,
                struct consul_kv_entry *entry, uint64_t seen_ns)
{
    struct found found = {.kind = is_dir ? &kind_kv_dir : &kind_kv_file, .mtime_ns = seen_ns};
    char name[NAME_SIZE];

    if (name_kv_encode(component, len, name) < 0) {
        fs_name_left_out(op->fs);
        return 0;
    }
    if (entry && lister->with_content) {
        found.content = content_of_entry(entry);
        if (!found.content)
            return -ENOMEM;
    }
    return lister->emit(lister, name, &found);
}

/* The names that no component has: the value of a key that is a prefix too, and what an empty component holds. */
static int list_special(struct op *op, const struct consul_snapshot *snapshot, const char *prefix,
                        const struct consul_kv_entry *value, struct lister *lister)
{
    struct consul_kv_entry *marker = consul_kv_find(&snapshot->kv, prefix, strlen(prefix));
    int r = 0;

    if (value) {
        struct found found = {.kind = &kind_kv_file};

        if (lister->with_content && !(found.content = content_of_entry((struct consul_kv_entry *)value)))
            return -ENOMEM;
        r = lister->emit(lister, NAME_KV_VALUE, &found);
    }
    if (r == 0 && has_below(&snapshot->kv, prefix))
        r = emit(op, lister, "", 0, true, NULL, snapshot->seen_ns);
    else if (r == 0 && marker && marker->value_len > 0)
        r = emit(op, lister, "", 0, false, marker, snapshot->seen_ns);
    return r;
}

static int list_cover(struct op *op, const struct consul_snapshot *snapshot, const char *prefix,
                      const struct consul_kv_entry *value, struct lister *lister)
{
    const struct consul_kv_list *list = &snapshot->kv;
    size_t len = strlen(prefix), i = consul_kv_lower_bound(list, prefix, len);
    int r = list_special(op, snapshot, prefix, value, lister);

    while (r == 0 && i < list->n && begins_with(list->entries[i], prefix, len)) {
        struct consul_kv_entry *entry = list->entries[i];
        const char *key = consul_kv_key(entry), *component = key + len;
        const char *slash = memchr(component, '/', entry->key_len - len);

        if (slash) {
            size_t end = (size_t)(slash - key) + 1;
            char *next = strndup(key, end);

            if (!next)
                return -ENOMEM;
            if (slash > component)
                r = emit(op, lister, component, (size_t)(slash - component), true, NULL, snapshot->seen_ns);
            next[end - 1] = '/' + 1; /* the first key behind everything below */
            i = consul_kv_lower_bound(list, next, end);
            free(next);
        } else {
            if (entry->key_len > len && !has_below(list, key))
                r = emit(op, lister, component, entry->key_len - len, false, entry, snapshot->seen_ns);
            i++;
        }
    }
    return r;
}

static int list_names(struct op *op, const struct consul_snapshot *names, const char *prefix, struct lister *lister)
{
    size_t len = strlen(prefix), i;
    const json_t *item;
    int r = 0;

    json_array_foreach(names->json, i, item)
    {
        const char *key = json_string_value(item);
        size_t key_len = json_string_length(item);
        bool is_dir;

        if (!key || key_len < len || memcmp(key, prefix, len) != 0 || key_len == len)
            continue;
        is_dir = key[key_len - 1] == '/';
        if (!is_dir && i + 1 < json_array_size(names->json)) {
            const char *next = json_string_value(json_array_get(names->json, i + 1));

            if (next && strlen(next) == key_len + 1 && memcmp(next, key, key_len) == 0 && next[key_len] == '/')
                continue; /* a prefix too: shown as the directory */
        }
        r = emit(op, lister, key + len, key_len - len - is_dir, is_dir, NULL, names->seen_ns);
        if (r < 0)
            return r;
    }
    return 0;
}

static void count_names(const struct consul_snapshot *names, size_t *ret_files, size_t *ret_dirs)
{
    const json_t *item;
    size_t i;

    *ret_files = *ret_dirs = 0;
    json_array_foreach(names->json, i, item)
    {
        size_t len = json_string_length(item);

        if (len > 0 && json_string_value(item)[len - 1] == '/')
            ++*ret_dirs;
        else
            ++*ret_files;
    }
}

/* A key that is also this prefix shows here as %value. Its entry, counted by the snapshot that is read last. */
static int find_value(struct op *op, const char *prefix, const struct consul_kv_entry **ret_value)
{
    size_t len = strlen(prefix);
    struct place place = {0};
    char *key;
    int r;

    *ret_value = NULL;
    if (len == 0 || !is_plain(prefix, len - 1))
        return 0;
    key = strndup(prefix, len - 1);
    r = key ? find_key(op, key, &place) : -ENOMEM;
    free(key);
    if (r == 0)
        *ret_value = place.entry;
    return r == -ENOENT || r == -EACCES ? 0 : r;
}

static int list_uncovered(struct op *op, const char *prefix, struct lister *lister)
{
    const struct consul_kv_entry *value = NULL;
    struct consul_snapshot *names, *snapshot;
    size_t files, dirs;
    int r = read_names(op, prefix, LARGE, &names);

    if (r < 0)
        return r;
    count_names(names, &files, &dirs);
    if (files > 0 && lister->with_content) {
        r = read_tree(op, prefix, strlen(prefix), dirs > 0 ? MIXED : LARGE, &snapshot);
        if (r == 0) {
            r = find_value(op, prefix, &value);
            if (r == 0)
                r = read_tree(op, prefix, strlen(prefix), dirs > 0 ? MIXED : LARGE, &snapshot);
            return r < 0 ? r : list_cover(op, snapshot, prefix, value, lister);
        }
        if (!try_finer(r))
            return r;
    }
    return list_names(op, names, prefix, lister);
}

static int list_dirs_and_files(struct op *op, struct inode *dir, struct lister *lister)
{
    char *prefix = prefix_of(op, dir);
    const struct consul_kv_entry *value = NULL;
    struct consul_snapshot *snapshot;
    size_t covered, len;
    int r;

    if (!prefix)
        return -ENOMEM;
    len = strlen(prefix);
    r = read_cover(op, prefix, &snapshot, &covered);
    if (r == 0 && covered < len)
        value = consul_kv_find(&snapshot->kv, prefix, len - 1);
    if (r == 0)
        r = list_cover(op, snapshot, prefix, value, lister);
    else if (try_finer(r))
        r = list_uncovered(op, prefix, lister);
    free(prefix);
    return r;
}

/* ---- storing --------------------------------------------------------------------------------------------------------
 */

/* The next read has to ask: what is in the cache lost a race. */
static void distrust(struct op *op)
{
    consul_expire(op->fs->consul, "/v1/kv/");
    op->since_ns = consul_now_ns();
    op->stage = 0;
    op->attempts++;
}

static int key_of_file(struct op *op, struct inode *dir, const char *name, char **ret_key)
{
    char *prefix = prefix_of(op, dir);
    int r = prefix ? key_of(prefix, name, ret_key) : -ENOMEM;

    free(prefix);
    if (r == 0 && **ret_key == '\0') {
        free(*ret_key);
        r = -EINVAL;
    }
    return r == -ENOENT ? -EINVAL : r;
}

/* O_APPEND: what is there now, and the new bytes; compare-and-set, so that nobody's bytes are lost. */
static int begin_append(struct op *op, struct inode *dir, const char *name, const char *key, const char *data,
                        size_t len)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_CAS, .key = key};
    struct place place = {0};
    char *value;
    int r = find_place(op, dir, name, &place);

    if (r < 0 && r != -ENOENT)
        return r;
    if (place.entry) {
        kv.index = place.entry->modify_index;
        kv.flags = place.entry->flags;
        kv.value_len = place.entry->value_len;
    }
    if (kv.value_len + len > consul_kv_max_value(op->fs->consul))
        return -EFBIG;
    value = malloc(kv.value_len + len + 1);
    if (!value)
        return -ENOMEM;
    if (place.entry)
        memcpy(value, consul_kv_value(place.entry), kv.value_len);
    if (len > 0)
        memcpy(value + kv.value_len, data, len);
    kv.value = value;
    kv.value_len += len;
    r = op_kv_txn(op, &kv, 1);
    free(value);
    return r;
}

static int begin_set(struct op *op, const char *key, const char *data, size_t len)
{
    const struct consul_kv_entry *old = op->handle->content ? op->handle->content->entry : NULL;
    struct consul_kv_op kv = {.verb = CONSUL_KV_SET, .key = key, .value = data, .value_len = len};

    kv.flags = old ? old->flags : 0;
    if (!op->handle->replaces) { /* it was read before: nobody may have changed it */
        kv.verb = CONSUL_KV_CAS;
        kv.index = old ? old->modify_index : 0;
    }
    return op_kv_txn(op, &kv, 1);
}

static int store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    bool append = handle_appends(op->handle);
    char *key;
    int r;

    if (op->stage > 0) {
        if (!append || (op->result != -ESTALE && op->result != -EEXIST)) {
            if (op->result == -ESTALE || op->result == -EEXIST)
                distrust(op); /* who lost the race is to see what won it */
            return op->result == -EEXIST ? -ESTALE : op->result;
        }
        if (op->attempts >= CONFLICTS_MAX)
            return -EAGAIN;
        distrust(op);
    }
    r = key_of_file(op, dir, name, &key);
    if (r < 0)
        return r;
    r = append ? begin_append(op, dir, name, key, data, len) : begin_set(op, key, data, len);
    free(key);
    return r;
}

/* One operation without a value on the key of a file. */
static int begin_on_key(struct op *op, struct inode *dir, const char *name, enum consul_kv_verb verb)
{
    struct consul_kv_op kv = {.verb = verb, .value = ""};
    char *key;
    int r = key_of_file(op, dir, name, &key);

    if (r < 0)
        return r;
    kv.key = key;
    r = op_kv_txn(op, &kv, 1);
    free(key);
    return r;
}

/* O_CREAT|O_EXCL: one of all hosts wins. */
static int create_exclusive(struct op *op, struct inode *dir, const char *name)
{
    if (op->stage > 0)
        return op->result;
    /* The directory's marker may be there, and is no file as long as it is empty: this is one when it is stored. */
    if (strcmp(name, NAME_KV_EMPTY) == 0)
        return 0;
    return begin_on_key(op, dir, name, CONSUL_KV_CAS);
}

static size_t max_len(struct fs *fs) { return consul_kv_max_value(fs->consul); }

/* A key that the agent can hold. The name must be one that a lookup would find again. */
static int may_create(struct op *op, struct inode *dir, const char *name)
{
    char *key;
    bool plain;
    int r = key_of_file(op, dir, name, &key);

    if (r < 0)
        return r;
    r = consul_kv_key_valid(key, &plain) ? 0 : -EINVAL;
    free(key);
    return r;
}

/* ---- removing, making, moving ----------------------------------------------------------------------------------- */

/* The directories on the way may have vanished with their last key. */
static void emptied(struct op *op, struct inode *dir)
{
    char *path = inode_path_below(&op->fs->inodes, dir, &kind_root), *slash;

    for (; path && (slash = strrchr(path, '/')); *slash = '\0')
        phantom_add(&op->fs->phantoms, path, op->pid);
    free(path);
    notify_look(op->fs, dir);
}

static int remove_file(struct op *op, struct inode *dir, const char *name)
{
    if (op->stage > 0) {
        if (op->result == 0)
            emptied(op, dir);
        return op->result;
    }
    return begin_on_key(op, dir, name, CONSUL_KV_DELETE);
}

static char *marker_of(struct op *op, struct inode *dir, const char *name)
{
    char *key = NULL, *marker = NULL;

    if (strcmp(name, NAME_KV_VALUE) != 0) {
        char *prefix = prefix_of(op, dir);

        if (prefix && key_of(prefix, name, &key) == 0 && asprintf(&marker, "%s/", key) < 0)
            marker = NULL;
        free(prefix);
    }
    free(key);
    return marker;
}

static int make_dir(struct op *op, struct inode *dir, const char *name)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_CAS, .value = ""};
    struct place place;
    char *marker;
    bool plain;
    int r;

    if (op->stage > 0)
        return op->result;
    r = find_place(op, dir, name, &place);
    if (r != -ENOENT)
        return r < 0 ? r : -EEXIST;
    marker = marker_of(op, dir, name);
    if (!marker)
        return -EINVAL;
    kv.key = marker;
    r = consul_kv_key_valid(marker, &plain) ? op_kv_txn(op, &kv, 1) : -EINVAL;
    free(marker);
    return r;
}

/*
 * Removing a directory: what is below it is asked afresh, then its marker goes. `stage` counts the two requests.
 */
static int ask_what_is_below(struct op *op, const char *marker)
{
    struct consul_request request = {.method = "GET", .intent = CONSUL_READ};
    char *url = url_of(marker, strlen(marker), "?keys&separator=%2F");
    int r;

    if (!url)
        return -ENOMEM;
    request.path = url;
    r = op_request(op, &request);
    free(url);
    return r;
}

static int check_known_empty(struct op *op, const char *marker)
{
    struct consul_snapshot *snapshot;
    size_t covered, len = strlen(marker), i;
    int r = read_cover(op, marker, &snapshot, &covered);

    if (r < 0)
        return r;
    i = consul_kv_lower_bound(&snapshot->kv, marker, len);
    if (i < snapshot->kv.n && snapshot->kv.entries[i]->key_len == len && snapshot->kv.entries[i]->value_len == 0)
        i++;
    return i < snapshot->kv.n && begins_with(snapshot->kv.entries[i], marker, len) ? -ENOTEMPTY : 0;
}

/* Only the marker may be there, and it must hold nothing: bytes in it show as %empty. */
static int check_empty(struct op *op, struct inode *dir, const char *name, const char *marker)
{
    json_t *names = json_loads(op->answer ? op->answer : "", 0, NULL);
    size_t n = json_array_size(names);
    const char *first = json_string_value(json_array_get(names, 0));
    bool empty = op->result == -ENOENT || n == 0 || (n == 1 && first && strcmp(first, marker) == 0);
    struct place place;
    char *key = NULL, *prefix;
    int r = op->result < 0 && op->result != -ENOENT ? op->result : empty ? 0 : -ENOTEMPTY;

    json_decref(names);
    if (r < 0)
        return r;
    prefix = prefix_of(op, dir);
    r = prefix ? key_of(prefix, name, &key) : -ENOMEM;
    if (r == 0) {
        struct consul_snapshot *snapshot;
        size_t covered;

        r = read_cover(op, prefix, &snapshot, &covered);
        if (r == 0)
            r = find_in_cover(snapshot, marker, false, true, &place);
        if (r == 0 && place.entry && place.entry->value_len > 0)
            r = -ENOTEMPTY;
        else if (r != -EINPROGRESS)
            r = 0;
    }
    free(prefix);
    free(key);
    return r;
}

static int removed_dir(struct op *op, struct inode *dir, const char *name)
{
    /* No marker: the directory vanished with its last key, and this process may have seen it do so. */
    char *path = phantom_path(op, dir, name);

    if (path && phantom_remove(&op->fs->phantoms, path, op->pid) && op->result == -ENOENT)
        op->result = 0;
    free(path);
    if (op->result == 0)
        emptied(op, dir);
    return op->result;
}

static int remove_dir(struct op *op, struct inode *dir, const char *name)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_DELETE};
    char *marker;
    int r;

    if (op->stage == 2)
        return removed_dir(op, dir, name);
    marker = marker_of(op, dir, name);
    if (!marker)
        return -ENOENT;
    kv.key = marker;
    if (op->stage == 0 && is_plain(marker, strlen(marker))) {
        r = ask_what_is_below(op, marker);
    } else if (op->stage == 0) { /* it can't be asked for: what is known above it has to do */
        r = check_known_empty(op, marker);
        op->stage = r == 0 ? 1 : 0;
        if (r == 0)
            r = op_kv_txn(op, &kv, 1);
    } else {
        r = check_empty(op, dir, name, marker);
        if (r == 0)
            r = op_kv_txn(op, &kv, 1);
    }
    free(marker);
    return r;
}

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#endif

static int begin_rename(struct op *op, const struct consul_kv_entry *entry, const char *new_key, unsigned flags)
{
    const char *key = consul_kv_key(entry);
    struct consul_kv_op ops[] = {
        {.verb = CONSUL_KV_CHECK_INDEX, .key = key, .index = entry->modify_index},
        {.verb = flags & RENAME_NOREPLACE ? CONSUL_KV_CAS : CONSUL_KV_SET,
         .key = new_key,
         .value = consul_kv_value(entry),
         .value_len = entry->value_len,
         .flags = entry->flags},
        {.verb = CONSUL_KV_DELETE, .key = key},
    };
    int r = op_kv_txn(op, ops, 3);

    return r == -EFBIG ? -EXDEV : r; /* does not fit a transaction: mv copies */
}

/* A value too large for a transaction: the new key is stored first, then the old one goes if it still is the same. */
static int continue_in_two_steps(struct op *op, const char *key, uint64_t index)
{
    struct consul_kv_op kv = {.verb = CONSUL_KV_DELETE_CAS, .key = key, .index = index};

    return op_kv_txn(op, &kv, 1);
}

static int begin_in_two_steps(struct op *op, const struct consul_kv_entry *entry, const char *new_key, unsigned flags)
{
    struct consul_kv_op kv = {
        .verb = flags & RENAME_NOREPLACE ? CONSUL_KV_CAS : CONSUL_KV_SET,
        .key = new_key,
        .value = consul_kv_value(entry),
        .value_len = entry->value_len,
        .flags = entry->flags,
    };

    op->in_two_steps = true;
    return op_kv_txn(op, &kv, 1);
}

static int rename_file(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                       unsigned flags)
{
    bool between = op->in_two_steps && op->stage == 1 && op->result == 0;
    struct place place = {0};
    char *new_key;
    int r;

    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    if (op->stage > 0 && !between) {
        if (op->result != -ESTALE || op->attempts >= CONFLICTS_MAX) {
            if (op->result == 0)
                emptied(op, dir);
            return op->result;
        }
        op->in_two_steps = false;
        distrust(op);
    }
    r = find_place(op, dir, name, &place);
    if (r < 0)
        return r;
    if (place.is_dir)
        return -EXDEV;
    if (between)
        return continue_in_two_steps(op, consul_kv_key(place.entry), place.entry->modify_index);
    r = key_of_file(op, new_dir, new_name, &new_key);
    if (r < 0)
        return r;
    r = begin_rename(op, place.entry, new_key, flags);
    if (r == -EXDEV)
        r = begin_in_two_steps(op, place.entry, new_key, flags);
    free(new_key);
    return r;
}

/* Every key below goes along, or none: two operations each, which limits how many fit. */
static int begin_rename_dir(struct op *op, const struct consul_snapshot *snapshot, const char *prefix,
                            const char *new_prefix)
{
    const struct consul_kv_list *list = &snapshot->kv;
    size_t len = strlen(prefix), first = consul_kv_lower_bound(list, prefix, len), n = 0, done = 0;
    const struct consul_kv_entry *value = consul_kv_find(list, prefix, len - 1); /* shown as %value */
    struct consul_kv_op *ops;
    int r = 0;

    while (first + n < list->n && begins_with(list->entries[first + n], prefix, len))
        n++;
    if (n == 0)
        return -ENOENT;
    n += value != NULL;
    ops = calloc(n, 2 * sizeof(*ops));
    if (!ops)
        return -ENOMEM;
    for (; r == 0 && done < n; done++) {
        bool is_value = value && done == n - 1;
        const struct consul_kv_entry *entry = is_value ? value : list->entries[first + done];
        const char *key = consul_kv_key(entry);
        char *new_key;

        if (asprintf(&new_key, "%.*s%s", (int)strlen(new_prefix) - is_value, new_prefix, is_value ? "" : key + len) <
            0) {
            r = -ENOMEM;
            break;
        }
        ops[2 * done] = (struct consul_kv_op){
            .verb = !is_value && key[len] == '\0' ? CONSUL_KV_SET
                                                  : CONSUL_KV_CAS, /* the target's own marker may be there */
            .key = new_key,
            .value = consul_kv_value(entry),
            .value_len = entry->value_len,
            .flags = entry->flags,
        };
        ops[2 * done + 1] =
            (struct consul_kv_op){.verb = CONSUL_KV_DELETE_CAS, .key = key, .index = entry->modify_index};
    }
    if (r == 0)
        r = op_kv_txn(op, ops, 2 * n);
    for (size_t i = 0; i < done; i++)
        free((char *)ops[2 * i].key);
    free(ops);
    return r == -EFBIG ? -EXDEV : r; /* does not fit a transaction: mv copies */
}

static int rename_dir(struct op *op, struct inode *dir, const char *name, struct inode *new_dir, const char *new_name,
                      unsigned flags)
{
    char *prefix = NULL, *new_prefix = NULL, *above;
    struct consul_snapshot *snapshot;
    size_t covered;
    int r;

    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    if (op->stage > 0) {
        if (op->result != -ESTALE || op->attempts >= CONFLICTS_MAX) {
            if (op->result == 0)
                emptied(op, dir);
            return op->result == -EEXIST ? -ENOTEMPTY : op->result;
        }
        distrust(op);
    }
    prefix = marker_of(op, dir, name);
    new_prefix = marker_of(op, new_dir, new_name);
    above = prefix_of(op, dir); /* from there the value of a key that is a prefix too is seen as well */
    r = prefix && new_prefix && above ? read_cover(op, above, &snapshot, &covered) : -EINVAL;
    if (r == 0)
        r = begin_rename_dir(op, snapshot, prefix, new_prefix);
    else if (try_finer(r))
        r = -EXDEV;
    free(above);
    free(prefix);
    free(new_prefix);
    return r;
}

/* ---- the rows ---------------------------------------------------------------------------------------------------- */

static const struct kind *const kv_rows[] = {&kind_kv_dir, &kind_kv_file, NULL};

const struct kind kind_kv = {
    .name = "kv",
    .mode = S_IFDIR | 0755,
    .rows = kv_rows,
};

const struct kind kind_kv_dir = {
    .mode = S_IFDIR | 0755,
    .rows = kv_rows,
    .find = find_dir,
    .list = list_dirs_and_files, /* of the files as well: one walk over the keys gives both */
    .mkdir = make_dir,
    .rmdir = remove_dir,
    .rename = rename_dir,
};

static int list_nothing(struct op *op, struct inode *dir, struct lister *lister)
{
    (void)op, (void)dir, (void)lister;
    return 0;
}

const struct kind kind_kv_file = {
    .mode = S_IFREG | 0644,
    .find = find_file,
    .list = list_nothing,
    .store = store,
    .may_create = may_create,
    .create_exclusive = create_exclusive,
    .unlink = remove_file,
    .rename = rename_file,
    .max_len = max_len,
    .block_size = KV_BLOCK_SIZE,
};
