#include "changes.h"

#include "announce.h"
#include "content.h"
#include "log.h"
#include "moved.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum verdict {
    STANDS,  /* the inode is what its name stands for */
    SAME,    /* and now as well: the same bytes at another index, which it has taken */
    CHANGED, /* no longer */
    UNKNOWN,
};

static bool same_version(const struct inode *inode, const struct content *content)
{
    return inode->content && content_same_version(inode->content, content);
}

/*
 * The table's lock is held. Whether an operation of ours is under way that decides what the inode stands for, or where:
 * it is looked at again when that ends.
 */
static bool is_underway(struct inode *inode)
{
    inode->unjudged |= inode->storing > 0;
    return inode->storing > 0 || inode_is_moving(inode);
}

/* The table's lock is held. */
static bool stands_for(struct inode *inode, const struct found *found)
{
    return is_underway(inode) ||
           (inode->kind == found->kind && (!inode->current || !found->content || same_version(inode, found->content)));
}

/* ---- one inode, by looking up its name again ----------------------------------------------------------------------
 */

struct judgement {
    struct inode *inode;
    uint32_t generation; /* the inode's when it was begun */
    enum verdict verdict;
};

/*
 * Whether the inode stands for what was found. If a write of ours has given it another version meanwhile, what was
 * found is of before that.
 */
static enum verdict compare(struct fs *fs, const struct judgement *judgement, const struct found *found)
{
    struct inode *inode = judgement->inode;
    bool stands, same;

    pthread_mutex_lock(&fs->inodes.lock);
    stands = inode->generation != judgement->generation || stands_for(inode, found);
    same = !stands && inode_take_same_bytes_locked(inode, found->kind, found->content,
                                                   found->content ? content_mtime_ns(found->content) : 0);
    pthread_mutex_unlock(&fs->inodes.lock);
    return stands ? STANDS : same ? SAME : CHANGED;
}

/*
 * It stands by another resource's word than the kernel's entry rests on: who listed it read names, who looks it up
 * finds it otherwise. That one has not changed yet, or it would not stand: it is the one that will tell. False where
 * nobody keeps that one up to date, and the one that has told may say otherwise: it will not tell again, so that nobody
 * would. In kv/ it does not: who looks up a key there takes what has told into account.
 */
static bool rest_on_judge(struct op *op, struct inode *inode)
{
    struct consul_resource *by = op_rests_on(op), *resource = inode_rests_on(&op->fs->inodes, inode);
    bool told = !resource || by || op->read_n == 0 || op_has_read(op, resource) ||
                consul_resource_kv_scope(resource) != CONSUL_KV_NONE;

    if (by && resource && by != resource)
        inode_rest_on(&op->fs->inodes, inode, by);
    consul_resource_unref(resource);
    return told;
}

static int run_judge(struct op *op)
{
    struct judgement *judgement = op->state;
    struct found found = {0};
    int r = tree_find(op, op->inode, op->name, &found);

    if (r == 0)
        r = tree_content(op, op->inode, op->name, &found, false);
    if (r == 0)
        judgement->verdict = compare(op->fs, judgement, &found);
    else
        judgement->verdict = r == -ENOENT ? CHANGED : UNKNOWN;
    if (judgement->verdict == STANDS && !rest_on_judge(op, judgement->inode))
        judgement->verdict = UNKNOWN;
    content_unref(found.content);
    return 0;
}

/* What the name of the inode stands for, from what is known now; `told`, which may be NULL, has just told of it. */
static enum verdict judge(struct fs *fs, struct inode *inode, const struct consul_resource *told)
{
    struct judgement judgement = {.inode = inode, .verdict = UNKNOWN};
    struct inode *parent = NULL;
    char *name = NULL;
    struct op *op;

    pthread_mutex_lock(&fs->inodes.lock);
    if (inode->parent && !is_underway(inode)) {
        parent = inode->parent;
        parent->refs++;
        name = strdup(inode->name);
        judgement.generation = inode->generation;
    }
    pthread_mutex_unlock(&fs->inodes.lock);
    if (!parent || !name) {
        inode_unref(&fs->inodes, parent);
        free(name);
        return STANDS;
    }
    op = op_new(fs, NULL, parent, name, run_judge);
    if (op) {
        op->state = &judgement;
        op->told = told;
        op_start(op);
    }
    inode_unref(&fs->inodes, parent);
    free(name);
    return judgement.verdict;
}

/* The kernel learns what has become of the inode that it knows. */
static void tell_verdict(struct fs *fs, struct inode *inode, enum verdict verdict)
{
    if (verdict == STANDS)
        return;
    if (verdict == SAME) {
        notify_attributes(fs, inode);
        return;
    }
    /* A directory's inode stands for the place: who is in it, or watches it, finds it again when it comes back. */
    if (verdict == CHANGED && !S_ISDIR(inode->kind->mode))
        inode_supersede(&fs->inodes, inode);
    inode_rest_on(&fs->inodes, inode, NULL);
    notify_inode(fs, inode, verdict == CHANGED);
}

void changes_check(struct fs *fs, struct inode *inode, bool announced)
{
    struct content *was = inode_content(&fs->inodes, inode);
    enum verdict verdict = judge(fs, inode, NULL);

    tell_verdict(fs, inode, verdict);
    if (announced && verdict == CHANGED)
        notify_watchers(fs, inode, was);
    content_unref(was);
}

/*
 * It may have gone with what this mount removed in it. The kernel has told of that only, and no answer will tell: what
 * is known has it no more from now on, even what nobody keeps up to date.
 */
static void check_above(struct fs *fs, struct inode *dir)
{
    enum verdict verdict = judge(fs, dir, NULL);

    tell_verdict(fs, dir, verdict);
    if (S_ISDIR(dir->kind->mode) && (verdict == CHANGED || verdict == UNKNOWN))
        notify_watchers(fs, dir, NULL);
}

void changes_above(struct fs *fs, struct inode *dir)
{
    struct inode_table *table = &fs->inodes;
    struct inode *at = inode_ref(table, dir);

    while (at && at != fs->root) {
        struct inode *parent, *now = NULL;
        char *name;

        check_above(fs, at);
        if (inode_place_of(table, at, &parent, &name) == 0 && parent)
            now = inode_peek(table, parent, name);
        if (now && now != at)
            changes_check(fs, now, false);
        inode_unref(table, now);
        inode_unref(table, at);
        free(name);
        at = parent;
    }
    inode_unref(table, at);
}

void changes_name(struct fs *fs, const struct consul_resource *resource, struct inode *dir, const char *name,
                  const struct found *was, const struct found *found, bool announced)
{
    struct inode *inode = inode_peek(&fs->inodes, dir, name);
    bool rests = false, listed = false, stands = false;

    if (inode) {
        pthread_mutex_lock(&fs->inodes.lock);
        rests = inode->rests_on == resource;
        listed = !inode->rests_on && inode->listed;
        stands = stands_for(inode, found);
        pthread_mutex_unlock(&fs->inodes.lock);
    }
    /* What a listing had a moment ago is trusted; the outcome of what we do to it ourselves decides, though. Since that
     * snapshot an operation of ours may have made it another. */
    if (!stands && (rests || (listed && !own_is_under_way(&fs->own, dir, name))))
        tell_verdict(fs, inode, judge(fs, inode, resource));
    inode_unref(&fs->inodes, inode);
    if (announced)
        notify_watchers_of(fs, dir, name, was->kind, was->content);
}

/* ---- all that rests on a resource ---------------------------------------------------------------------------------
 */

static void for_each_resting(struct fs *fs, struct consul_resource *resource,
                             void (*visit)(struct fs *fs, struct inode *inode, bool announced), bool announced)
{
    struct inode **inodes = NULL;
    size_t n = 0;

    if (inode_resting_on(&fs->inodes, resource, &inodes, &n) < 0)
        log_line(LOG_ERR, "out of memory: changes could not be told to the kernel");
    for (size_t i = 0; i < n; i++) {
        visit(fs, inodes[i], announced);
        inode_unref(&fs->inodes, inodes[i]);
    }
    free(inodes);
}

void changes_doubt(struct fs *fs, struct inode *inode)
{
    inode_rest_on(&fs->inodes, inode, NULL);
    notify_inode(fs, inode, false);
}

static void doubt(struct fs *fs, struct inode *inode, bool announced)
{
    (void)announced;
    changes_doubt(fs, inode);
}

void changes_unknown(struct fs *fs, struct consul_resource *resource)
{
    for_each_resting(fs, resource, doubt, false);
    if (consul_resource_kv_scope(resource) == CONSUL_KV_NAMES)
        kv_names_unknown(fs, resource);
}

/* ---- directories that a resource lists ----------------------------------------------------------------------------
 */

struct names {
    struct lister lister;
    struct named {
        char *name;
        struct found found; /* content counted */
        unsigned row;
    } * at;
    size_t n, cap;
    unsigned row;    /* the one that is listed */
    uint64_t listed; /* a bit for each row of which all that is needed is known */
};

static int add_name(struct lister *lister, const char *name, const struct found *found)
{
    struct names *names = (struct names *)lister;

    if (names->n == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 32;
        struct named *at = realloc(names->at, cap * sizeof(*at));

        if (at) {
            names->at = at;
            names->cap = cap;
        }
    }
    if (names->n == names->cap || !(names->at[names->n].name = strdup(name))) {
        content_unref(found->content);
        return -ENOMEM;
    }
    names->at[names->n].row = names->row;
    names->at[names->n++].found = *found;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static int run_list(struct op *op)
{
    struct names *names = op->state;

    const struct kind *const *rows = op->inode->kind->rows;

    for (names->row = 0; rows && rows[names->row] && names->row < 64; names->row++)
        if (tree_list_row(op, op->inode, rows[names->row], &names->lister) == 0)
            names->listed |= 1ull << names->row;
    for (size_t i = 0; i < names->n; i++)
        if (!S_ISDIR(names->at[i].found.kind->mode))
            (void)tree_content(op, op->inode, names->at[i].name, &names->at[i].found, false);
    if (names->n > 0)
        qsort(names->at, names->n, sizeof(*names->at), compare_names);
    return 0;
}

static void names_clear(struct names *names)
{
    for (size_t i = 0; i < names->n; i++) {
        free(names->at[i].name);
        content_unref(names->at[i].found.content);
    }
    free(names->at);
}

/* The directory's listing as it is, or was, with the resource at this snapshot. */
static void list_as(struct fs *fs, struct inode *dir, struct consul_resource *resource,
                    struct consul_snapshot *snapshot, struct names *names)
{
    struct op *op = op_new(fs, NULL, dir, NULL, run_list);

    *names = (struct names){.lister = {.emit = add_name, .with_content = true}};
    if (!op)
        return;
    op->state = names;
    op_show(op, resource, snapshot);
    op_start(op);
}

static bool same_found(const struct found *a, const struct found *b)
{
    if (a->kind != b->kind)
        return false;
    return !a->content || !b->content || content_same_bytes(a->content, b->content);
}

static void announce_listing(struct fs *fs, struct inode *dir, const struct names *before, const struct names *after)
{
    static const struct found nothing;
    uint64_t listed = before->listed & after->listed;
    size_t i = 0, j = 0;

    while (i < before->n || j < after->n) {
        int c = i == before->n ? 1 : j == after->n ? -1 : strcmp(before->at[i].name, after->at[j].name);
        const struct found *was = c <= 0 ? &before->at[i].found : &nothing;
        const struct named *named = c <= 0 ? &before->at[i] : &after->at[j];

        if (listed >> named->row & 1 && (c != 0 || !same_found(was, &after->at[j].found)))
            notify_watchers_of(fs, dir, named->name, was->kind, was->content);
        i += c <= 0;
        j += c >= 0;
    }
}

static void announce_listed(struct fs *fs, struct consul_resource *resource, struct consul_snapshot *before,
                            struct consul_snapshot *after)
{
    struct inode **dirs = NULL;
    size_t n = 0;

    if (!before || !announcer_raises(fs) || inode_listed_by(&fs->inodes, resource, &dirs, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        struct names old, new;

        list_as(fs, dirs[i], resource, before, &old);
        list_as(fs, dirs[i], resource, after, &new);
        announce_listing(fs, dirs[i], &old, &new);
        names_clear(&old);
        names_clear(&new);
        inode_unref(&fs->inodes, dirs[i]);
    }
    free(dirs);
}

void changes_of(struct fs *fs, struct consul_resource *resource, struct consul_snapshot *before,
                struct consul_snapshot *after, bool announced)
{
    enum consul_kv_scope scope = consul_resource_kv_scope(resource);

    if (before && scope == CONSUL_KV_PREFIX) {
        kv_changes_of(fs, resource, before, after, announced);
        return;
    }
    if (scope == CONSUL_KV_NONE)
        moved_look(fs, resource, before, after);
    for_each_resting(fs, resource, changes_check, scope == CONSUL_KV_KEY);
    if (scope != CONSUL_KV_NAMES)
        announce_listed(fs, resource, before, after);
    else if (before)
        kv_names_changed(fs, resource, before, after);
}
