#include "inode.h"

#include "content.h"
#include "name.h"
#include "pollers.h"

#include <consul.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Beyond what other file systems commonly use: process.c tells our files from theirs by it. */
#define FIRST_NUMBER (1ull << 32)

int inode_table_init(struct inode_table *table)
{
    *table = (struct inode_table){.bucket_n = 1024, .last_number = FIRST_NUMBER};
    table->buckets = calloc(table->bucket_n, sizeof(*table->buckets));
    if (!table->buckets)
        return -ENOMEM;
    pthread_mutex_init(&table->lock, NULL);
    return 0;
}

/* ---- the table by name; table.lock is held throughout ------------------------------------------------------------ */

/* All versions are in it; the present one is `current`. */
static struct inode **bucket_of(struct inode_table *table, const struct inode *parent, const char *name)
{
    uint64_t hash = name_hash(parent->number, name);

    return &table->buckets[(hash ^ hash >> 32) % table->bucket_n];
}

static bool is_at(const struct inode *inode, const struct inode *parent, const char *name)
{
    return inode->parent == parent && strcmp(inode->name, name) == 0;
}

static struct inode *find(struct inode_table *table, const struct inode *parent, const char *name)
{
    struct inode *inode = *bucket_of(table, parent, name);

    while (inode && !(inode->current && is_at(inode, parent, name)))
        inode = inode->next_in_bucket;
    return inode;
}

static void grow(struct inode_table *table)
{
    size_t old_n = table->bucket_n;
    struct inode **old = table->buckets, **buckets = calloc(old_n * 2, sizeof(*buckets));

    if (!buckets)
        return; /* longer chains, that is all */
    table->buckets = buckets;
    table->bucket_n = old_n * 2;
    for (size_t i = 0; i < old_n; i++) {
        while (old[i]) {
            struct inode *inode = old[i], **bucket = bucket_of(table, inode->parent, inode->name);

            old[i] = inode->next_in_bucket;
            inode->next_in_bucket = *bucket;
            *bucket = inode;
        }
    }
    free(old);
}

static void table_add(struct inode_table *table, struct inode *inode)
{
    struct inode **bucket;

    if (++table->versions > 2 * table->bucket_n)
        grow(table);
    bucket = bucket_of(table, inode->parent, inode->name);
    inode->next_in_bucket = *bucket;
    *bucket = inode;
}

static void table_remove(struct inode_table *table, struct inode *inode)
{
    struct inode **at = bucket_of(table, inode->parent, inode->name);

    while (*at != inode)
        at = &(*at)->next_in_bucket;
    *at = inode->next_in_bucket;
    table->versions--;
}

static void attach(struct inode_table *table, struct inode *inode)
{
    if (!inode->current)
        table->n++;
    inode->current = true;
}

static void detach(struct inode_table *table, struct inode *inode)
{
    if (!inode->current || !inode->parent)
        return;
    inode->current = false;
    table->n--;
}

/* ---- what it rests on; table.lock is held ----------------------------------------------------------------------- */

/* The head of the list hangs in the resource's user slot. Returns the resource for the caller to give back. */
static struct consul_resource *stop_resting(struct inode *inode)
{
    struct consul_resource *resource = inode->rests_on;

    if (!resource)
        return NULL;
    if (inode->rest_prev)
        inode->rest_prev->rest_next = inode->rest_next;
    else
        *consul_resource_user(resource) = inode->rest_next;
    if (inode->rest_next)
        inode->rest_next->rest_prev = inode->rest_prev;
    inode->rest_prev = inode->rest_next = NULL;
    inode->rests_on = NULL;
    return resource;
}

void inode_rest_on(struct inode_table *table, struct inode *inode, struct consul_resource *resource)
{
    struct consul_resource *old = NULL;

    if (resource)
        consul_resource_ref(resource);
    pthread_mutex_lock(&table->lock);
    if (inode->rests_on == resource) {
        old = resource;
    } else {
        old = stop_resting(inode);
        if (resource) {
            struct inode *head = *consul_resource_user(resource);

            inode->rests_on = resource;
            inode->listed = false;
            inode->rest_next = head;
            if (head)
                head->rest_prev = inode;
            *consul_resource_user(resource) = inode;
        }
    }
    pthread_mutex_unlock(&table->lock);
    consul_resource_unref(old);
}

struct consul_resource *inode_rests_on(struct inode_table *table, const struct inode *inode)
{
    struct consul_resource *resource;

    pthread_mutex_lock(&table->lock);
    resource = inode->rests_on ? consul_resource_ref(inode->rests_on) : NULL;
    pthread_mutex_unlock(&table->lock);
    return resource;
}

void inode_set_listed(struct inode_table *table, struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    inode->listed = true;
    pthread_mutex_unlock(&table->lock);
}

int inode_resting_on(struct inode_table *table, struct consul_resource *resource, struct inode ***ret_inodes,
                     size_t *ret_n)
{
    struct inode **inodes = NULL;
    size_t n = 0;

    pthread_mutex_lock(&table->lock);
    for (struct inode *i = *consul_resource_user(resource); i; i = i->rest_next)
        n++;
    if (n > 0) {
        inodes = malloc(n * sizeof(*inodes));
        if (!inodes) {
            pthread_mutex_unlock(&table->lock);
            return -ENOMEM;
        }
        n = 0;
        for (struct inode *i = *consul_resource_user(resource); i; i = i->rest_next) {
            i->refs++;
            inodes[n++] = i;
        }
    }
    pthread_mutex_unlock(&table->lock);
    *ret_inodes = inodes;
    *ret_n = n;
    return 0;
}

/* ---- what lists a directory ----------------------------------------------------------------------------------------
 */

bool inode_is_listed_by(const struct inode *dir, const struct consul_resource *resource)
{
    for (size_t i = 0; dir->listed_by && i < dir->listed_by->n; i++)
        if (dir->listed_by->resources[i] == resource)
            return true;
    return false;
}

/* table.lock is held. Takes it off the list of all. */
static void unlink_listed_by(struct inode_table *table, const struct inode *dir)
{
    const struct listed_by *by = dir->listed_by;

    if (!by)
        return;
    if (by->prev)
        by->prev->next = by->next;
    else
        table->listed = by->next;
    if (by->next)
        by->next->prev = by->prev;
}

/* Nobody else knows the inode. */
static void free_listed_by(struct inode *dir)
{
    for (size_t i = 0; dir->listed_by && i < dir->listed_by->n; i++)
        consul_resource_unref(dir->listed_by->resources[i]);
    free(dir->listed_by);
}

/* table.lock is held. NULL without memory. */
static struct listed_by *grow_listed_by(struct inode_table *table, struct inode *dir)
{
    struct listed_by *by = dir->listed_by;
    size_t n = by ? by->n : 0;

    by = realloc(by, sizeof(*by) + (n + 1) * sizeof(by->resources[0]));
    if (!by)
        return NULL;
    if (!dir->listed_by)
        *by = (struct listed_by){.dir = dir, .next = table->listed};
    dir->listed_by = by;
    if (by->prev)
        by->prev->next = by;
    else
        table->listed = by;
    if (by->next)
        by->next->prev = by;
    return by;
}

/* table.lock is held. Of prefixes of keys one shows a directory at a time: the one that does now takes the other's
 * place. */
static bool take_place(struct inode *dir, struct consul_resource *resource)
{
    struct consul_resource **at;

    if (consul_resource_kv_scope(resource) != CONSUL_KV_PREFIX)
        return false;
    for (size_t i = 0; dir->listed_by && i < dir->listed_by->n; i++) {
        at = &dir->listed_by->resources[i];
        if (consul_resource_kv_scope(*at) != CONSUL_KV_PREFIX)
            continue;
        consul_resource_unref(*at);
        *at = consul_resource_ref(resource);
        return true;
    }
    return false;
}

void inode_set_listing(struct inode_table *table, struct inode *dir, bool listing)
{
    pthread_mutex_lock(&table->lock);
    dir->listing = listing;
    pthread_mutex_unlock(&table->lock);
}

void inode_list_by(struct inode_table *table, struct inode *dir, struct consul_resource *resource)
{
    struct listed_by *by;

    pthread_mutex_lock(&table->lock);
    if (!inode_is_listed_by(dir, resource) && !take_place(dir, resource) &&
        (by = grow_listed_by(table, dir))) /* else its watchers hear less */
        by->resources[by->n++] = consul_resource_ref(resource);
    pthread_mutex_unlock(&table->lock);
}

struct consul_resource *inode_lister(struct inode_table *table, const struct inode *dir)
{
    struct consul_resource *resource = NULL;

    pthread_mutex_lock(&table->lock);
    if (dir->listed_by && dir->listed_by->n == 1)
        resource = consul_resource_ref(dir->listed_by->resources[0]);
    pthread_mutex_unlock(&table->lock);
    return resource;
}

/* All that `matches` says so of, counted. */
static int collect(struct inode_table *table, bool (*matches)(const struct inode *inode, const void *arg),
                   const void *arg, struct inode ***ret_inodes, size_t *ret_n)
{
    struct inode **inodes = NULL;
    size_t n = 0;

    pthread_mutex_lock(&table->lock);
    for (struct inode *i = table->all; i; i = i->next)
        n += matches(i, arg);
    if (n > 0) {
        inodes = malloc(n * sizeof(*inodes));
        if (!inodes) {
            pthread_mutex_unlock(&table->lock);
            return -ENOMEM;
        }
        n = 0;
        for (struct inode *i = table->all; i; i = i->next) {
            if (!matches(i, arg))
                continue;
            i->refs++;
            inodes[n++] = i;
        }
    }
    pthread_mutex_unlock(&table->lock);
    *ret_inodes = inodes;
    *ret_n = n;
    return 0;
}

int inode_listed_by(struct inode_table *table, const struct consul_resource *resource, struct inode ***ret_dirs,
                    size_t *ret_n)
{
    struct inode **dirs = NULL;
    size_t n = 0;
    int r = 0;

    pthread_mutex_lock(&table->lock);
    for (const struct listed_by *by = table->listed; by; by = by->next)
        n += inode_is_listed_by(by->dir, resource);
    if (n > 0 && !(dirs = malloc(n * sizeof(*dirs))))
        r = -ENOMEM;
    n = 0;
    for (const struct listed_by *by = dirs ? table->listed : NULL; by; by = by->next) {
        if (inode_is_listed_by(by->dir, resource)) {
            by->dir->refs++;
            dirs[n++] = by->dir;
        }
    }
    pthread_mutex_unlock(&table->lock);
    *ret_dirs = dirs;
    *ret_n = n;
    return r;
}

/* ---- lifetime --------------------------------------------------------------------------------------------------- */

static struct inode *alloc(struct inode_table *table, const struct kind *kind, struct inode *parent, const char *name)
{
    struct inode *inode = calloc(1, sizeof(*inode) + strlen(name) + 1);

    if (!inode)
        return NULL;
    inode->name = strcpy(inode->own_name, name);
    inode->kind = kind;
    inode->parent = parent;
    inode->refs = 1;
    inode->number = ++table->last_number;
    inode->next = table->all;
    if (table->all)
        table->all->prev = inode;
    table->all = inode;
    if (parent) {
        parent->refs++;
        table_add(table, inode);
    }
    return inode;
}

static void free_name(const struct inode *inode, char *name)
{
    if (name != inode->own_name)
        free(name);
}

static void free_inode(struct inode *inode)
{
    content_unref(inode->content);
    free_listed_by(inode);
    poll_free_all(inode->pollers);
    free_name(inode, inode->name);
    free(inode);
}

/* Drops one reference and, in turn, those of the parents that only it held. */
static void put(struct inode_table *table, struct inode *inode)
{
    while (inode) {
        struct consul_resource *resource;
        struct inode *parent;

        pthread_mutex_lock(&table->lock);
        if (--inode->refs > 0) {
            pthread_mutex_unlock(&table->lock);
            return;
        }
        detach(table, inode);
        resource = stop_resting(inode);
        parent = inode->parent;
        if (parent)
            table_remove(table, inode);
        unlink_listed_by(table, inode);
        if (inode->prev)
            inode->prev->next = inode->next;
        else
            table->all = inode->next;
        if (inode->next)
            inode->next->prev = inode->prev;
        pthread_mutex_unlock(&table->lock);
        consul_resource_unref(resource);
        free_inode(inode);
        inode = parent;
    }
}

void inode_table_destroy(struct inode_table *table)
{
    while (table->all) {
        struct inode *inode = table->all;

        table->all = inode->next;
        consul_resource_unref(inode->rests_on);
        free_inode(inode);
    }
    free(table->buckets);
    pthread_mutex_destroy(&table->lock);
}

struct inode *inode_new_static(struct inode_table *table, const struct kind *kind, struct inode *parent,
                               const char *name)
{
    struct inode *inode;

    pthread_mutex_lock(&table->lock);
    inode = alloc(table, kind, parent, name);
    if (inode && parent)
        attach(table, inode);
    else if (inode)
        inode->current = true;
    pthread_mutex_unlock(&table->lock);
    return inode;
}

struct inode *inode_new_stand_in(struct inode_table *table, const struct kind *kind, struct inode *parent,
                                 const char *name)
{
    struct inode *inode;

    pthread_mutex_lock(&table->lock);
    inode = alloc(table, kind, parent, name);
    pthread_mutex_unlock(&table->lock);
    return inode;
}

/*
 * table.lock is held. The same bytes at another ModifyIndex (a lock taken, flags changed): what the kernel has of the
 * inode stays true, save its time.
 */
bool inode_take_same_bytes_locked(struct inode *inode, const struct kind *kind, struct content *content,
                                  uint64_t mtime_ns)
{
    struct content *old = inode->content;

    if (inode->kind != kind || !old || !content || old->len != content->len ||
        memcmp(old->data, content->data, old->len) != 0)
        return false;
    inode->content = content_ref(content);
    inode->mtime_ns = mtime_ns;
    content_unref(old);
    return true;
}

bool inode_take_same_bytes(struct inode_table *table, struct inode *inode, const struct kind *kind,
                           struct content *content, uint64_t mtime_ns)
{
    bool taken;

    pthread_mutex_lock(&table->lock);
    taken = inode_take_same_bytes_locked(inode, kind, content, mtime_ns);
    pthread_mutex_unlock(&table->lock);
    return taken;
}

/* table.lock is held. Does the inode stand for this version already? */
static bool stands_for(const struct inode *inode, const struct kind *kind, const struct content *content)
{
    if (inode->kind != kind)
        return false;
    if (!content)
        return true; /* a directory, or a file whose bytes are made when it is opened */
    if (inode->storing > 0)
        return true; /* the outcome of our own write decides */
    return inode->content && content_same_version(inode->content, content);
}

struct inode *inode_get(struct inode_table *table, struct inode *parent, const char *name, const struct kind *kind,
                        struct content *content, uint64_t mtime_ns, bool *ret_new)
{
    struct inode *inode;

    pthread_mutex_lock(&table->lock);
    inode = find(table, parent, name);
    if (inode && (stands_for(inode, kind, content) || inode_take_same_bytes_locked(inode, kind, content, mtime_ns))) {
        if (content && !inode->content) { /* created here, and stored a moment ago */
            inode->content = content_ref(content);
            inode->mtime_ns = mtime_ns;
        }
        inode->refs++;
        *ret_new = false;
    } else {
        if (inode) {
            inode->superseded = true;
            detach(table, inode);
        }
        inode = alloc(table, kind, parent, name);
        if (inode) {
            inode->content = content ? content_ref(content) : NULL;
            inode->mtime_ns = mtime_ns;
            attach(table, inode);
        }
        *ret_new = true;
    }
    pthread_mutex_unlock(&table->lock);
    return inode;
}

struct inode *inode_peek(struct inode_table *table, struct inode *parent, const char *name)
{
    struct inode *inode;

    pthread_mutex_lock(&table->lock);
    inode = find(table, parent, name);
    if (inode)
        inode->refs++;
    pthread_mutex_unlock(&table->lock);
    return inode;
}

int inode_place_of(struct inode_table *table, struct inode *inode, struct inode **ret_dir, char **ret_name)
{
    pthread_mutex_lock(&table->lock);
    *ret_dir = inode->parent;
    if (inode->parent)
        inode->parent->refs++;
    *ret_name = strdup(inode->name);
    pthread_mutex_unlock(&table->lock);
    return *ret_name ? 0 : -ENOMEM;
}

size_t inode_count(struct inode_table *table)
{
    size_t n;

    pthread_mutex_lock(&table->lock);
    n = table->n;
    pthread_mutex_unlock(&table->lock);
    return n;
}

struct inode *inode_ref(struct inode_table *table, struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    inode->refs++;
    pthread_mutex_unlock(&table->lock);
    return inode;
}

void inode_unref(struct inode_table *table, struct inode *inode) { put(table, inode); }

void inode_looked_up(struct inode_table *table, struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    if (inode->nlookup++ == 0)
        inode->refs++;
    pthread_mutex_unlock(&table->lock);
}

void inode_forget(struct inode_table *table, struct inode *inode, uint64_t n)
{
    bool last;

    pthread_mutex_lock(&table->lock);
    inode->nlookup -= n < inode->nlookup ? n : inode->nlookup;
    inode->to_forget = false;
    last = n > 0 && inode->nlookup == 0;
    pthread_mutex_unlock(&table->lock);
    if (last)
        put(table, inode);
}

char *inode_path_below(struct inode_table *table, const struct inode *inode, const struct kind *top)
{
    const struct inode *i;
    size_t len = 0;
    char *path = NULL;

    pthread_mutex_lock(&table->lock);
    for (i = inode; i && i->kind != top; i = i->parent)
        len += strlen(i->name) + 1;
    if (i)
        path = malloc(len + 1);
    if (path) {
        char *end = path + (len > 0 ? len - 1 : 0);

        *end = '\0';
        for (i = inode; i->kind != top; i = i->parent) {
            size_t n = strlen(i->name);

            end -= n;
            memcpy(end, i->name, n);
            if (end > path)
                *--end = '/';
        }
    }
    pthread_mutex_unlock(&table->lock);
    return path;
}

char *inode_path_from(struct inode_table *table, const struct inode *dir, const struct inode *top, const char *name)
{
    const struct inode *i;
    size_t len = strlen(name) + 1;
    char *path = NULL;

    pthread_mutex_lock(&table->lock);
    for (i = dir; i && i != top; i = i->parent)
        len += strlen(i->name) + 1;
    if (i && (path = malloc(len))) {
        char *end = path + len - strlen(name) - 1;

        strcpy(end, name);
        for (i = dir; i != top; i = i->parent) {
            size_t n = strlen(i->name);

            *--end = '/';
            end -= n;
            memcpy(end, i->name, n);
        }
    }
    pthread_mutex_unlock(&table->lock);
    return path;
}

bool inode_is_held_as_other(struct inode_table *table, struct inode *parent, const char *name, const struct kind *kind,
                            const struct content *content)
{
    struct inode *inode;
    bool other;

    pthread_mutex_lock(&table->lock);
    inode = find(table, parent, name);
    other = inode && inode->nlookup > 0 && !stands_for(inode, kind, content);
    pthread_mutex_unlock(&table->lock);
    return other;
}

bool inode_is_reached(struct inode_table *table, const struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    while (inode && inode->current)
        inode = inode->parent;
    pthread_mutex_unlock(&table->lock);
    return !inode;
}

bool inode_is_below(struct inode_table *table, const struct inode *inode, const struct kind *top, char **ret_name)
{
    const struct inode *i;

    pthread_mutex_lock(&table->lock);
    for (i = inode; i && i->kind != top; i = i->parent)
        ;
    if (i && ret_name)
        *ret_name = strdup(i->name);
    pthread_mutex_unlock(&table->lock);
    return i != NULL;
}

/* ---- changes ----------------------------------------------------------------------------------------------------- */

bool inode_detach(struct inode_table *table, struct inode *inode)
{
    bool was;

    pthread_mutex_lock(&table->lock);
    was = inode->current;
    detach(table, inode);
    pthread_mutex_unlock(&table->lock);
    return was;
}

void inode_supersede(struct inode_table *table, struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    inode->superseded = true;
    detach(table, inode);
    pthread_mutex_unlock(&table->lock);
}

bool inode_reattach(struct inode_table *table, struct inode *inode)
{
    struct inode *other;
    bool again;

    pthread_mutex_lock(&table->lock);
    again = !inode->current && !inode->unlinked && !inode->lock_lost && inode->parent;
    if (again) {
        other = find(table, inode->parent, inode->name);
        if (other)
            detach(table, other);
        attach(table, inode);
        inode->superseded = false;
    }
    pthread_mutex_unlock(&table->lock);
    return again;
}

/* Parents whose references are to be given back once the lock is. */
struct left {
    struct inode **inodes;
    size_t n;
};

static void put_left(struct inode_table *table, struct left *left)
{
    for (size_t i = 0; i < left->n; i++)
        put(table, left->inodes[i]);
    free(left->inodes);
}

/* table.lock is held, and the caller holds the new parent. No name stands for the inode afterwards. */
static int put_at(struct inode_table *table, struct inode *inode, struct inode *parent, const char *name,
                  struct left *left)
{
    struct inode **more = realloc(left->inodes, (left->n + 1) * sizeof(*more));
    char *copy = strdup(name);

    if (more)
        left->inodes = more;
    if (!more || !copy) {
        free(copy);
        return -ENOMEM;
    }
    detach(table, inode);
    table_remove(table, inode);
    more[left->n++] = inode->parent;
    free_name(inode, inode->name);
    inode->name = copy;
    inode->parent = parent;
    parent->refs++;
    table_add(table, inode);
    return 0;
}

int inode_move(struct inode_table *table, struct inode *inode, struct inode *parent, const char *name)
{
    struct left left = {0};
    struct inode *replaced;
    int r;

    pthread_mutex_lock(&table->lock);
    r = put_at(table, inode, parent, name, &left);
    if (r == 0) {
        replaced = find(table, parent, name);
        if (replaced)
            detach(table, replaced);
        attach(table, inode);
    }
    pthread_mutex_unlock(&table->lock);
    put_left(table, &left);
    return r;
}

/* What stands at a place, or at the same in an older version of its directory. */
struct versions {
    struct inode **inodes; /* borrowed, while table.lock is held */
    size_t n, cap;
};

static int versions_add(struct versions *versions, struct inode *inode)
{
    if (versions->n == versions->cap) {
        size_t cap = versions->cap ? versions->cap * 2 : 8;
        struct inode **more = realloc(versions->inodes, cap * sizeof(*more));

        if (!more)
            return -ENOMEM;
        versions->inodes = more;
        versions->cap = cap;
    }
    versions->inodes[versions->n++] = inode;
    return 0;
}

/* table.lock is held. -ENOMEM: these are not all. `versions` is to be freed in any case. */
static int find_versions(struct inode_table *table, struct inode *parent, const char *name, struct versions *versions)
{
    struct versions dirs = {0};
    int r = parent->parent ? find_versions(table, parent->parent, parent->name, &dirs) : versions_add(&dirs, parent);

    for (size_t i = 0; r == 0 && i < dirs.n; i++)
        for (struct inode *at = *bucket_of(table, dirs.inodes[i], name); r == 0 && at; at = at->next_in_bucket)
            if (is_at(at, dirs.inodes[i], name))
                r = versions_add(versions, at);
    free(dirs.inodes);
    return r;
}

static bool goes_along(const struct inode *inode, const struct inode_place *from)
{
    return !from->only || inode->kind == from->only;
}

/*
 * table.lock is held. What stands at the one place, as it was found, goes to the other; *ret_inode is what stood for
 * the first, NULL afterwards if it no longer does. False: not all that the kernel knows did.
 */
static bool exchange(struct inode_table *table, const struct versions *versions, const struct inode_place *from,
                     const struct inode_place *to, struct inode **ret_inode, struct left *left)
{
    bool all = true;

    for (size_t i = 0; i < versions->n; i++) {
        struct inode *inode = versions->inodes[i];

        all &= inode == *ret_inode || inode->nlookup == 0;
        if (goes_along(inode, from) && put_at(table, inode, to->parent, to->name, left) == 0)
            continue;
        all &= inode->nlookup == 0;
        if (inode == *ret_inode)
            *ret_inode = NULL;
    }
    return all;
}

bool inode_exchange(struct inode_table *table, const struct inode_place *a, const struct inode_place *b)
{
    struct versions at_a = {0}, at_b = {0};
    struct inode *here, *there;
    struct left left = {0};
    bool both;

    pthread_mutex_lock(&table->lock);
    here = find(table, a->parent, a->name);
    there = find(table, b->parent, b->name);
    both = here && there;
    if (here)
        detach(table, here);
    if (there)
        detach(table, there);
    both &= find_versions(table, a->parent, a->name, &at_a) == 0;
    both &= find_versions(table, b->parent, b->name, &at_b) == 0;
    both &= exchange(table, &at_a, a, b, &here, &left);
    both &= exchange(table, &at_b, b, a, &there, &left);
    if (here)
        attach(table, here);
    if (there)
        attach(table, there);
    pthread_mutex_unlock(&table->lock);
    free(at_a.inodes);
    free(at_b.inodes);
    put_left(table, &left);
    return both;
}

bool inode_move_older(struct inode_table *table, const struct inode_place *from, struct inode *new_parent,
                      const char *new_name)
{
    struct versions versions = {0};
    struct left left = {0};
    const struct inode *here;
    bool any = false;

    pthread_mutex_lock(&table->lock);
    here = find(table, from->parent, from->name);
    any = find_versions(table, from->parent, from->name, &versions) < 0;
    for (size_t i = 0; i < versions.n; i++) {
        struct inode *inode = versions.inodes[i];

        if (inode == here || !goes_along(inode, from))
            continue;
        if (put_at(table, inode, new_parent, new_name, &left) < 0)
            break;
        any |= inode->nlookup > 0;
    }
    pthread_mutex_unlock(&table->lock);
    free(versions.inodes);
    put_left(table, &left);
    return any;
}

void inode_settle(struct inode_table *table, struct inode *inode, struct inode *parent, const char *name)
{
    struct left left = {0};

    pthread_mutex_lock(&table->lock);
    if (!inode->unlinked && inode != find(table, parent, name))
        (void)put_at(table, inode, parent, name, &left);
    pthread_mutex_unlock(&table->lock);
    put_left(table, &left);
}

void inode_begin_storing(struct inode_table *table, struct inode *inode)
{
    pthread_mutex_lock(&table->lock);
    inode->storing++;
    pthread_mutex_unlock(&table->lock);
}

bool inode_end_storing(struct inode_table *table, struct inode *inode)
{
    bool unjudged = false;

    pthread_mutex_lock(&table->lock);
    if (--inode->storing == 0) {
        unjudged = inode->unjudged;
        inode->unjudged = false;
    }
    pthread_mutex_unlock(&table->lock);
    return unjudged;
}

bool inode_is_moving(struct inode *inode)
{
    for (struct inode *above = inode->parent; above; above = above->parent) {
        if (above->storing > 0) {
            above->unjudged = true;
            return true;
        }
    }
    return false;
}

static bool is_known_below(const struct inode *inode, const void *dir)
{
    if (inode->nlookup == 0)
        return false;
    do
        inode = inode->parent;
    while (inode && inode != dir);
    return inode != NULL;
}

int inode_all_below(struct inode_table *table, const struct inode *dir, struct inode ***ret_inodes, size_t *ret_n)
{
    return collect(table, is_known_below, dir, ret_inodes, ret_n);
}

static bool is_resting_in(const struct inode *inode, const void *dir)
{
    return inode->parent == dir && inode->rests_on;
}

int inode_resting_in(struct inode_table *table, const struct inode *dir, struct inode ***ret_inodes, size_t *ret_n)
{
    return collect(table, is_resting_in, dir, ret_inodes, ret_n);
}

static void set_content(struct inode_table *table, struct inode *inode, struct content *content,
                        const uint64_t *mtime_ns)
{
    struct content *old;

    pthread_mutex_lock(&table->lock);
    old = inode->content;
    inode->content = content ? content_ref(content) : NULL;
    if (mtime_ns)
        inode->mtime_ns = *mtime_ns;
    inode->pages_stale = true;
    inode->generation++;
    pthread_mutex_unlock(&table->lock);
    content_unref(old);
}

void inode_set_content(struct inode_table *table, struct inode *inode, struct content *content, uint64_t mtime_ns)
{
    set_content(table, inode, content, &mtime_ns);
}

void inode_set_version(struct inode_table *table, struct inode *inode, struct content *content)
{
    set_content(table, inode, content, NULL);
}

void inode_reindex(struct inode_table *table, struct inode *inode, uint64_t before, struct content *content)
{
    struct content *old[2] = {NULL, NULL};
    struct inode *both[2];

    pthread_mutex_lock(&table->lock);
    both[0] = inode;
    both[1] = inode->parent ? find(table, inode->parent, inode->name) : NULL;
    for (size_t i = 0; i < 2; i++) {
        if (both[i] && both[i]->content && content_version(both[i]->content) == before &&
            both[i]->kind == inode->kind) {
            old[i] = both[i]->content;
            both[i]->content = content_ref(content);
        }
    }
    pthread_mutex_unlock(&table->lock);
    content_unref(old[0]);
    content_unref(old[1]);
}

struct content *inode_content(struct inode_table *table, struct inode *inode)
{
    struct content *content;

    pthread_mutex_lock(&table->lock);
    content = inode->content ? content_ref(inode->content) : NULL;
    pthread_mutex_unlock(&table->lock);
    return content;
}

bool inode_occupy(struct inode_table *table, struct inode *dir)
{
    bool was;

    pthread_mutex_lock(&table->lock);
    was = dir->occupied;
    dir->occupied = true;
    pthread_mutex_unlock(&table->lock);
    return !was;
}

void inode_vacate(struct inode_table *table, struct inode *dir)
{
    pthread_mutex_lock(&table->lock);
    dir->occupied = false;
    pthread_mutex_unlock(&table->lock);
}
