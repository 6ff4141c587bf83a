/*
 * The mount's table of contents, and how lookup and listing walk it.
 */
#include "tree.h"

#include "acl.h"
#include "agent_dir.h"
#include "checks.h"
#include "config_entries.h"
#include "connect.h"
#include "content.h"
#include "datacenters.h"
#include "events.h"
#include "kv.h"
#include "nodes.h"
#include "operator.h"
#include "queries.h"
#include "self.h"
#include "services.h"
#include "sessions.h"
#include "status.h"

#include <errno.h>
#include <string.h>

static const struct kind *const root_rows[] = {
    &kind_kv,       &kind_services, &kind_nodes,       &kind_checks,   &kind_status,
    &kind_sessions, &kind_acl,      &kind_agent_dir,   &kind_events,   &kind_queries,
    &kind_config,   &kind_connect,  &kind_datacenters, &kind_operator, NULL,
};

const struct kind kind_root = {.name = "", .mode = S_IFDIR | 0755, .rows = root_rows};

/* ---- lookup ------------------------------------------------------------------------------------------------------ */

static bool is_there_unread(const struct kind *row, int r);

/* Bytes that come, or are made by a write, once a descriptor is open, on a mount that never hears of one. */
static bool is_left_out(const struct fs *fs, const struct kind *row)
{
    return fs->no_open && (row->stream || (row->flags & KIND_DIRECT && row->store));
}

static int find_in_row(struct op *op, struct inode *dir, const struct kind *row, const char *name,
                       struct found *ret_found)
{
    int r = 0;

    if ((row->name && strcmp(row->name, name) != 0) || is_left_out(op->fs, row))
        return -ENOENT;
    *ret_found = (struct found){.kind = row};
    op->row = row;
    if (row->find)
        r = row->find(op, dir, name, ret_found);
    if (is_there_unread(row, r)) {
        op->watched_all = false;
        r = 0;
    }
    return r;
}

char *tree_path_of(struct fs *fs, const struct inode *dir, const char *name)
{
    char *path = inode_path_below(&fs->inodes, dir, &kind_root), *full = NULL;

    if (path && asprintf(&full, "%s/%s", path, name) < 0)
        full = NULL;
    free(path);
    return full;
}

int tree_find(struct op *op, struct inode *dir, const char *name, struct found *ret_found)
{
    const struct kind *const *row = dir->kind->rows;
    int r;

    if (dir == op->fs->root && strcmp(name, kind_self.name) == 0) {
        *ret_found = (struct found){.kind = &kind_self};
        return 0;
    }
    for (; row && *row; row++) {
        r = find_in_row(op, dir, *row, name, ret_found);
        if (r != -ENOENT)
            return r;
    }
    return -ENOENT;
}

/* ---- listing ----------------------------------------------------------------------------------------------------- */

/* A file with a name of its own that the token may not read is there all the same: only open() fails. */
static bool is_there_unread(const struct kind *row, int r) { return r == -EACCES && row->name && S_ISREG(row->mode); }

int tree_list_row(struct op *op, struct inode *dir, const struct kind *row, struct lister *lister)
{
    struct found found = {.kind = row};
    int r;

    op->row = row;
    if (row->list)
        return row->list(op, dir, lister);
    if (row->flags & KIND_HIDDEN || !row->name || is_left_out(op->fs, row))
        return 0;
    if (row->find) {
        r = row->find(op, dir, row->name, &found);
        if (is_there_unread(row, r))
            return lister->emit(lister, row->name, &(struct found){.kind = row}) < 0 ? -ENOMEM : r;
        if (r < 0)
            return r == -ENOENT ? 0 : r;
    }
    return lister->emit(lister, row->name, &found);
}

/* A row that shows in listings only what Consul says. */
static bool is_read(const struct kind *row)
{
    return row->list || S_ISDIR(row->mode) || (row->find && !(row->flags & KIND_HIDDEN));
}

/*
 * A file that may not be read is there all the same; but names that may not be read are an error, and a directory of
 * which nothing may be read is not to look empty.
 */
int tree_list(struct op *op, struct inode *dir, struct lister *lister)
{
    const struct kind *const *row = dir->kind->rows;
    bool denied = false, read = false;
    int r;

    for (; row && *row; row++) {
        r = tree_list_row(op, dir, *row, lister);
        if (r < 0 && (r != -EACCES || (*row)->list))
            return r;
        denied = denied || r == -EACCES;
        read = read || (r == 0 && is_read(*row));
    }
    if (denied)
        op->watched_all = false;
    return denied && !read ? -EACCES : 0;
}

/* ---- what is new --------------------------------------------------------------------------------------------------
 */

int tree_row_for_new(struct op *op, struct inode *dir, const char *name, bool directory, const struct kind **ret_kind)
{
    const struct kind *const *row = dir->kind->rows;
    int r = -EPERM;

    for (; row && *row; row++) {
        if ((*row)->name && strcmp((*row)->name, name) != 0)
            continue;
        if (directory ? !(*row)->mkdir : !(*row)->may_create)
            continue;
        op->row = *row;
        r = directory ? 0 : (*row)->may_create(op, dir, name);
        if (r == 0) {
            *ret_kind = *row;
            return 0;
        }
    }
    return r;
}

int tree_content(struct op *op, struct inode *dir, const char *name, struct found *found, bool even_if_costly)
{
    const struct kind *kind = found->kind;

    if (found->content || !kind->read || (kind->flags & KIND_DIRECT && !op->fs->no_open))
        return 0;
    if (kind->flags & (KIND_COSTLY | KIND_DIRECT) && !even_if_costly)
        return 0;
    if (kind->flags & KIND_DIRECT)
        op->watched_all = false; /* each lookup finds other bytes, as each open does elsewhere */
    op->row = kind;
    return kind->read(op, dir, name, &found->content);
}
