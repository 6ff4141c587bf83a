/* fs/inode: an inode is one version; the name moves on. A sanitizer sees what is freed too early or never. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "content.h"
#include "inode.h"
#include "tree.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct kind top_kind = {.name = "", .mode = S_IFDIR | 0755};
static const struct kind kv_kind = {.name = "kv", .mode = S_IFDIR | 0755};
static const struct kind dir_kind = {.mode = S_IFDIR | 0755};
static const struct kind file_kind = {.mode = S_IFREG | 0644};
static const struct kind other_kind = {.mode = S_IFREG | 0444};

struct fixture {
    struct inode_table table;
    struct inode *top, *kv;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (inode_table_init(&f->table) < 0)
        return -1;
    f->top = inode_new_static(&f->table, &top_kind, NULL, "");
    f->kv = inode_new_static(&f->table, &kv_kind, f->top, "kv");
    *state = f;
    return 0;
}

/* Nothing but the two is left: every test gives back what it took. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    int r;

    inode_unref(&f->table, f->kv);
    r = f->table.all == f->top && !f->top->next && f->top->refs == 1 ? 0 : -1;
    inode_unref(&f->table, f->top);
    inode_table_destroy(&f->table);
    free(f);
    return r;
}

static struct content *version(uint64_t index, const char *value)
{
    struct consul_kv_entry *entry = consul_kv_entry_new("k", 1, value, strlen(value));
    struct content *content;

    entry->modify_index = index;
    content = content_of_entry(entry);
    consul_kv_entry_unref(entry);
    return content;
}

/* The inode of a file in kv with that version; what it is to be. */
static struct inode *get_in(struct fixture *f, struct inode *dir, const char *name, uint64_t index, const char *value,
                            bool expect_new)
{
    struct content *content = version(index, value);
    bool is_new = !expect_new;
    struct inode *inode = inode_get(&f->table, dir, name, &file_kind, content, index * 10, &is_new);

    assert_non_null(inode);
    assert_int_equal(is_new, expect_new);
    content_unref(content);
    return inode;
}

static struct inode *get(struct fixture *f, const char *name, uint64_t index, const char *value, bool expect_new)
{
    return get_in(f, f->kv, name, index, value, expect_new);
}

static struct inode *get_dir(struct fixture *f, struct inode *parent, const char *name)
{
    bool is_new;
    struct inode *inode = inode_get(&f->table, parent, name, &dir_kind, NULL, 0, &is_new);

    assert_non_null(inode);
    return inode;
}

static void expect_present(struct fixture *f, struct inode *dir, const char *name, const struct inode *expected)
{
    struct inode *inode = inode_peek(&f->table, dir, name);

    assert_ptr_equal(inode, expected);
    inode_unref(&f->table, inode);
}

/* ---- versions --------------------------------------------------------------------------------------------------- */

/* A lock that was taken, or other flags: to who reads, nothing has changed. */
static void test_same_bytes_same_inode(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true), *again = get(f, "a", 8, "v", false);
    struct content *content = version(9, "v"), *other = version(10, "w");

    assert_ptr_equal(inode, again);
    assert_int_equal(content_version(inode->content), 8);
    assert_int_equal(inode->mtime_ns, 80);
    assert_int_equal(inode->generation, 0);
    assert_true(inode_take_same_bytes(&f->table, inode, &file_kind, content, 90));
    assert_int_equal(content_version(inode->content), 9);
    assert_false(inode_take_same_bytes(&f->table, inode, &other_kind, content, 91));
    assert_false(inode_take_same_bytes(&f->table, inode, &file_kind, other, 91));
    assert_int_equal(content_version(inode->content), 9);
    content_unref(content);
    content_unref(other);
    inode_unref(&f->table, again);
    inode_unref(&f->table, inode);
}

/* What the kernel knows under a name and what is to be listed there. */
static void test_held_as_other(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true);
    struct content *same = version(7, "v"), *other = version(8, "w");

    assert_false(inode_is_held_as_other(&f->table, f->kv, "a", &file_kind, other)); /* the kernel has not seen it */
    inode_looked_up(&f->table, inode);
    assert_true(inode_is_held_as_other(&f->table, f->kv, "a", &file_kind, other));
    assert_true(inode_is_held_as_other(&f->table, f->kv, "a", &dir_kind, NULL));
    assert_false(inode_is_held_as_other(&f->table, f->kv, "a", &file_kind, same));
    assert_false(inode_is_held_as_other(&f->table, f->kv, "b", &file_kind, other));
    inode_forget(&f->table, inode, 1);
    content_unref(same);
    content_unref(other);
    inode_unref(&f->table, inode);
}

static void test_stand_in(void **state)
{
    struct fixture *f = *state;
    struct inode *present = get(f, "a", 7, "v", true);
    struct inode *stand_in = inode_new_stand_in(&f->table, &file_kind, f->kv, "a");

    assert_non_null(stand_in);
    assert_false(stand_in->current);
    expect_present(f, f->kv, "a", present);
    inode_looked_up(&f->table, stand_in);
    inode_unref(&f->table, stand_in);
    inode_forget(&f->table, stand_in, 1); /* and is gone, as the teardown sees */
    expect_present(f, f->kv, "a", present);
    inode_unref(&f->table, present);
}

static void test_path_from(void **state)
{
    struct fixture *f = *state;
    struct inode *a = get_dir(f, f->kv, "a"), *b = get_dir(f, a, "b");
    char *path;

    path = inode_path_from(&f->table, b, f->kv, "c");
    assert_string_equal(path, "a/b/c");
    free(path);
    path = inode_path_from(&f->table, b, f->top, "c");
    assert_string_equal(path, "kv/a/b/c");
    free(path);
    path = inode_path_from(&f->table, f->kv, f->kv, "c");
    assert_string_equal(path, "c");
    free(path);
    assert_null(inode_path_from(&f->table, f->kv, b, "c")); /* not below it */
    inode_unref(&f->table, b);
    inode_unref(&f->table, a);
}

static void test_same_version_same_inode(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true), *again = get(f, "a", 7, "v", false);

    assert_ptr_equal(inode, again);
    assert_int_equal(inode->refs, 2);
    assert_int_equal(inode->mtime_ns, 70);
    assert_ptr_equal(inode->parent, f->kv);
    assert_string_equal(inode->name, "a");
    assert_true(inode->current);
    inode_unref(&f->table, again);
    expect_present(f, f->kv, "a", inode);
    inode_unref(&f->table, inode);
    expect_present(f, f->kv, "a", NULL);
}

static void test_other_version_other_inode(void **state)
{
    static const struct {
        uint64_t index;
        const char *value;
    } others[] = {{8, "w"}, {6, "w"}, {7, "longer"}, {0, ""}};
    struct fixture *f = *state;

    for (size_t i = 0; i < COUNT(others); i++) {
        struct inode *old = get(f, "a", 7, "v", true), *new = get(f, "a", others[i].index, others[i].value, true);
        struct content *content = inode_content(&f->table, old);

        assert_ptr_not_equal(old, new);
        assert_true(old->number != new->number);
        assert_false(old->current);
        assert_true(new->current);
        expect_present(f, f->kv, "a", new);
        /* Who has it open goes on reading what it was. */
        assert_int_equal(content->len, 1);
        assert_memory_equal(content->data, "v", 1);
        content_unref(content);
        assert_false(inode_detach(&f->table, old));
        inode_unref(&f->table, old);
        expect_present(f, f->kv, "a", new);
        inode_unref(&f->table, new);
    }
}

static void test_numbers_are_never_used_twice(void **state)
{
    struct fixture *f = *state;
    uint64_t last = f->kv->number;

    for (int i = 0; i < 100; i++) {
        struct inode *inode = get(f, "a", 7, "v", true);

        assert_true(inode->number > last);
        last = inode->number;
        inode_unref(&f->table, inode);
    }
}

static void test_other_kind_other_inode(void **state)
{
    struct fixture *f = *state;
    struct inode *file = get(f, "a", 7, "v", true), *dir = get_dir(f, f->kv, "a"), *other;
    bool is_new;

    assert_ptr_not_equal(file, dir);
    assert_false(file->current);
    expect_present(f, f->kv, "a", dir);
    other = inode_get(&f->table, f->kv, "a", &other_kind, NULL, 0, &is_new);
    assert_true(is_new);
    assert_false(dir->current);
    inode_unref(&f->table, file);
    inode_unref(&f->table, dir);
    inode_unref(&f->table, other);
}

static void test_a_directory_is_its_place(void **state)
{
    struct fixture *f = *state;
    struct inode *a = get_dir(f, f->kv, "a"), *b = get_dir(f, f->kv, "b"), *aa = get_dir(f, a, "a");
    struct inode *again = get_dir(f, f->kv, "a");

    assert_ptr_equal(a, again);
    assert_ptr_not_equal(a, b);
    assert_ptr_not_equal(a, aa);
    expect_present(f, a, "a", aa);
    expect_present(f, b, "a", NULL);
    inode_unref(&f->table, again);
    inode_unref(&f->table, a); /* its child holds it */
    assert_ptr_equal(aa->parent, a);
    expect_present(f, f->kv, "a", a);
    inode_unref(&f->table, aa);
    expect_present(f, f->kv, "a", NULL);
    inode_unref(&f->table, b);
}

/* Bytes that are made at each open: whatever it had, it is the same file. */
static void test_without_content(void **state)
{
    struct fixture *f = *state;
    bool is_new = true;
    struct inode *file = get(f, "a", 7, "v", true);
    struct inode *again = inode_get(&f->table, f->kv, "a", &file_kind, NULL, 0, &is_new), *known;

    assert_ptr_equal(file, again);
    assert_false(is_new);
    inode_unref(&f->table, again);
    inode_unref(&f->table, file);

    /* One whose bytes were not known does not stand for any version. */
    again = inode_get(&f->table, f->kv, "a", &file_kind, NULL, 0, &is_new);
    assert_true(is_new);
    known = get(f, "a", 7, "v", true);
    assert_ptr_not_equal(again, known);
    inode_unref(&f->table, again);
    inode_unref(&f->table, known);
}

static void test_own_writes_keep_the_inode(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true), *again;
    struct content *content = version(9, "mine"), *now;

    inode_begin_storing(&f->table, inode);
    inode_begin_storing(&f->table, inode);
    inode_end_storing(&f->table, inode);
    /* Consul shows ours, or another's, before we know how it ended. */
    again = get(f, "a", 8, "whose?", false);
    assert_ptr_equal(again, inode);
    inode_unref(&f->table, again);
    now = inode_content(&f->table, inode);
    assert_int_equal(content_version(now), 7);
    content_unref(now);

    assert_false(inode->pages_stale);
    inode_set_content(&f->table, inode, content, 90);
    inode_end_storing(&f->table, inode);
    assert_true(inode->pages_stale);
    assert_int_equal(inode->mtime_ns, 90);
    again = get(f, "a", 9, "mine", false);
    inode_unref(&f->table, again);
    content_unref(content);

    again = get(f, "a", 10, "theirs", true);
    inode_unref(&f->table, again);
    inode_set_content(&f->table, inode, NULL, 0);
    assert_null(inode_content(&f->table, inode));
    inode_unref(&f->table, inode);
}

/* ---- what the kernel remembers ---------------------------------------------------------------------------------- */

static void test_forget(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true);

    inode_forget(&f->table, inode, 0);
    inode_looked_up(&f->table, inode);
    inode_looked_up(&f->table, inode);
    inode_looked_up(&f->table, inode);
    assert_int_equal(inode->nlookup, 3);
    assert_int_equal(inode->refs, 2); /* the kernel counts as one */
    inode_unref(&f->table, inode);
    expect_present(f, f->kv, "a", inode);
    inode_forget(&f->table, inode, 2);
    inode_forget(&f->table, inode, 0);
    expect_present(f, f->kv, "a", inode);
    inode_forget(&f->table, inode, 1);
    expect_present(f, f->kv, "a", NULL);
}

/* More than it was told of: no underflow. And what was forgotten may be looked up again. */
static void test_forget_too_much(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true);

    inode_looked_up(&f->table, inode);
    inode_forget(&f->table, inode, 100);
    assert_int_equal(inode->nlookup, 0);
    assert_int_equal(inode->refs, 1);
    inode_looked_up(&f->table, inode);
    assert_int_equal(inode->refs, 2);
    inode_unref(&f->table, inode);
    inode_forget(&f->table, inode, UINT64_MAX);
    expect_present(f, f->kv, "a", NULL);
}

/* A chain that only its last one holds goes as a whole, without recursion. */
static void test_forget_a_deep_chain(void **state)
{
    struct fixture *f = *state;
    struct inode *dir = inode_ref(&f->table, f->kv);

    for (int i = 0; i < 100000; i++) {
        struct inode *child = get_dir(f, dir, "d");

        inode_unref(&f->table, dir);
        dir = child;
    }
    inode_looked_up(&f->table, dir);
    inode_unref(&f->table, dir);
    assert_int_equal(f->table.n, 100001);
    inode_forget(&f->table, dir, 1);
    assert_int_equal(f->table.n, 1);
    assert_int_equal(f->kv->refs, 1);
}

static void test_destroy_frees_what_is_left(void **state)
{
    struct inode_table table;
    struct inode *top, *inode;
    struct content *content = version(1, "v");
    bool is_new;

    (void)state;
    assert_int_equal(inode_table_init(&table), 0);
    top = inode_new_static(&table, &top_kind, NULL, "");
    inode = inode_get(&table, top, "a", &file_kind, content, 0, &is_new);
    inode_looked_up(&table, inode);
    inode_detach(&table, inode);
    inode_get(&table, top, "a", &file_kind, content, 0, &is_new);
    content_unref(content);
    inode_table_destroy(&table);
}

/* The table grows; everything is still found. */
static void test_many(void **state)
{
    enum { MANY = 5000 };
    struct fixture *f = *state;
    struct inode **inodes = calloc(MANY, sizeof(*inodes));
    size_t buckets = f->table.bucket_n;
    char name[16];

    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        inodes[i] = get(f, name, 7, "v", true);
    }
    assert_true(f->table.bucket_n > buckets);
    assert_int_equal(f->table.n, MANY + 1);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        expect_present(f, f->kv, name, inodes[i]);
        if (i % 2)
            assert_true(inode_detach(&f->table, inodes[i]));
    }
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        expect_present(f, f->kv, name, i % 2 ? NULL : inodes[i]);
        inode_unref(&f->table, inodes[i]);
    }
    free(inodes);
}

/* ---- places ----------------------------------------------------------------------------------------------------- */

static void expect_path(struct fixture *f, const struct inode *inode, const struct kind *top, const char *expected)
{
    char *path = inode_path_below(&f->table, inode, top);

    if (expected)
        assert_string_equal(path, expected);
    else
        assert_null(path);
    free(path);
}

static void test_path_below(void **state)
{
    struct fixture *f = *state;
    struct inode *a = get_dir(f, f->kv, "a"), *bc = get_dir(f, a, "bc"), *file = get_in(f, bc, "d%2Fe", 7, "v", true);
    char *name = NULL;

    expect_path(f, file, &kv_kind, "a/bc/d%2Fe");
    expect_path(f, file, &top_kind, "kv/a/bc/d%2Fe");
    expect_path(f, bc, &kv_kind, "a/bc");
    expect_path(f, a, &kv_kind, "a");
    expect_path(f, f->kv, &kv_kind, "");
    expect_path(f, f->top, &top_kind, "");
    expect_path(f, file, &file_kind, "");
    expect_path(f, file, &dir_kind, "d%2Fe"); /* the nearest */
    expect_path(f, f->top, &kv_kind, NULL);
    expect_path(f, file, &other_kind, NULL);

    assert_true(inode_is_below(&f->table, file, &kv_kind, &name));
    assert_string_equal(name, "kv");
    free(name);
    assert_true(inode_is_below(&f->table, file, &dir_kind, &name));
    assert_string_equal(name, "bc");
    free(name);
    name = NULL;
    assert_true(inode_is_below(&f->table, f->kv, &kv_kind, NULL));
    assert_false(inode_is_below(&f->table, f->top, &kv_kind, &name));
    assert_false(inode_is_below(&f->table, file, &other_kind, &name));
    assert_null(name);

    /* Also of what its name no longer stands for. */
    inode_detach(&f->table, file);
    expect_path(f, file, &kv_kind, "a/bc/d%2Fe");
    inode_unref(&f->table, file);
    inode_unref(&f->table, bc);
    inode_unref(&f->table, a);
}

static void test_detach(void **state)
{
    struct fixture *f = *state;
    struct inode *a = get(f, "a", 7, "v", true), *b = get(f, "b", 7, "v", true), *new;

    assert_true(inode_detach(&f->table, a));
    assert_false(inode_detach(&f->table, a));
    expect_present(f, f->kv, "a", NULL);
    expect_present(f, f->kv, "b", b);
    new = get(f, "a", 7, "v", true); /* the same version, but the old one does not come back */
    assert_ptr_not_equal(new, a);
    inode_unref(&f->table, a);
    inode_unref(&f->table, b);
    inode_unref(&f->table, new);
}

/* Who has locked the file has its present bytes: the name is his inode's again. */
static void test_reattach(void **state)
{
    struct fixture *f = *state;
    struct inode *old = get(f, "a", 1, "1", true), *new = get(f, "a", 2, "2", true), *found;

    assert_false(inode_reattach(&f->table, new)); /* it is current */
    assert_true(inode_reattach(&f->table, old));
    assert_true(old->current && !new->current);
    found = inode_peek(&f->table, old->parent, "a");
    assert_ptr_equal(found, old);
    inode_unref(&f->table, found);
    old->unlinked = true;
    inode_detach(&f->table, old);
    assert_false(inode_reattach(&f->table, old));
    inode_unref(&f->table, old);
    inode_unref(&f->table, new);
}

static void test_reindex(void **state)
{
    struct fixture *f = *state;
    struct inode *held = get(f, "a", 1, "1", true), *other = get(f, "b", 1, "1", true), *current;
    struct content *content = version(7, "1");

    inode_reindex(&f->table, held, 6, content); /* it was not what was locked */
    assert_int_equal(content_version(held->content), 1);
    inode_reindex(&f->table, held, 1, content);
    assert_int_equal(content_version(held->content), 7);
    assert_false(held->pages_stale); /* the bytes are the same */
    assert_int_equal(content_version(other->content), 1);
    current = get(f, "a", 9, "2", true);
    content_unref(content);
    content = version(10, "2");
    inode_reindex(&f->table, held, 9, content); /* by the old one: the name's present one is meant, too */
    assert_int_equal(content_version(current->content), 10);
    assert_int_equal(content_version(held->content), 7);
    content_unref(content);
    inode_unref(&f->table, held);
    inode_unref(&f->table, other);
    inode_unref(&f->table, current);
}

static void test_move(void **state)
{
    struct fixture *f = *state;
    struct inode *from = get_dir(f, f->kv, "from"), *to = get_dir(f, f->kv, "to");
    struct inode *file = get_in(f, from, "a", 7, "v", true), *there = get_in(f, to, "b", 8, "w", true);
    uint64_t number = file->number;

    assert_int_equal(inode_move(&f->table, file, to, "b"), 0);
    assert_int_equal(file->number, number);
    assert_true(file->current);
    expect_present(f, from, "a", NULL);
    expect_present(f, to, "b", file);
    expect_path(f, file, &kv_kind, "to/b");
    assert_false(there->current); /* replaced */
    assert_int_equal(from->refs, 1);
    assert_int_equal(to->refs, 3);

    /* In its own directory, and onto itself. */
    assert_int_equal(inode_move(&f->table, file, to, "c"), 0);
    expect_present(f, to, "b", NULL);
    expect_present(f, to, "c", file);
    assert_int_equal(inode_move(&f->table, file, to, "c"), 0);
    expect_present(f, to, "c", file);
    assert_true(file->current);
    assert_int_equal(to->refs, 3);

    /* One that was detached is the present one of its new name. */
    assert_int_equal(inode_move(&f->table, there, from, "x"), 0);
    assert_true(there->current);
    expect_present(f, from, "x", there);
    inode_unref(&f->table, there);
    inode_unref(&f->table, file);
    inode_unref(&f->table, from);
    inode_unref(&f->table, to);
}

/* A directory takes what is in it along. The last holder of the old parent may be what moves. */
static void test_move_a_directory(void **state)
{
    struct fixture *f = *state;
    struct inode *old = get_dir(f, f->kv, "old"), *dir = get_dir(f, old, "dir"),
                 *file = get_in(f, dir, "f", 7, "v", true);

    inode_unref(&f->table, old);
    assert_int_equal(inode_move(&f->table, dir, f->kv, "new"), 0);
    expect_present(f, f->kv, "old", NULL);
    expect_present(f, dir, "f", file);
    expect_path(f, file, &kv_kind, "new/f");
    inode_unref(&f->table, dir);
    inode_unref(&f->table, file);
}

#define FILE_AT(dir, child) ((struct inode_place){.parent = (dir), .name = (child), .only = &file_kind})
#define DIR_AT(dir, child) ((struct inode_place){.parent = (dir), .name = (child)})

static void test_move_older(void **state)
{
    struct fixture *f = *state;
    struct inode *from = get_dir(f, f->kv, "from"), *to = get_dir(f, f->kv, "to");
    struct inode *v1 = get_in(f, from, "a", 1, "1", true), *v2 = get_in(f, from, "a", 2, "2", true);
    struct inode *v3 = get_in(f, from, "a", 3, "3", true), *other = get_in(f, from, "b", 1, "1", true);

    inode_detach(&f->table, other);
    assert_false(inode_move_older(&f->table, &FILE_AT(to, "a"), from, "z"));  /* none there */
    assert_false(inode_move_older(&f->table, &FILE_AT(from, "ab"), to, "z")); /* nor here */
    assert_false(
        inode_move_older(&f->table, &FILE_AT(from, "b"), from, "none")); /* one that the kernel does not know */
    expect_path(f, other, &kv_kind, "from/none");

    inode_looked_up(&f->table, v1);
    assert_true(inode_move_older(&f->table, &FILE_AT(from, "a"), to, "z"));
    expect_path(f, v1, &kv_kind, "to/z");
    expect_path(f, v2, &kv_kind, "to/z");
    expect_path(f, v3, &kv_kind, "from/a"); /* the present one stays */
    expect_path(f, other, &kv_kind, "from/none");
    expect_present(f, from, "a", v3);
    expect_present(f, to, "z", NULL);
    assert_false(v1->current);
    assert_int_equal(from->refs, 3);
    assert_int_equal(to->refs, 3);

    inode_forget(&f->table, v1, 1);
    inode_unref(&f->table, v1);
    inode_unref(&f->table, v2);
    inode_unref(&f->table, v3);
    inode_unref(&f->table, other);
    inode_unref(&f->table, from);
    inode_unref(&f->table, to);
}

/* ---- what it rests on ------------------------------------------------------------------------------------------- */

/* Nobody listens there, and nothing is ever sent. */
static struct consul *new_client(void)
{
    struct consul_config config = {.scheme = "http", .host_port = "127.0.0.1:1", .tls_verify = true};
    struct consul_options options = {.watches = 8, .timeout_ms = 1000};
    struct consul *client;

    assert_int_equal(consul_new(&config, &options, &client), 0);
    return client;
}

static struct consul_resource *resource_of(struct consul *client, const char *path)
{
    struct consul_resource *resource;

    assert_int_equal(consul_resource_get(client, path, CONSUL_JSON, 0, 0, &resource), 0);
    return resource;
}

/* `names` in any order. */
static void expect_resting(struct fixture *f, struct consul_resource *resource, const char *names)
{
    struct inode **inodes = NULL;
    size_t n = 99;

    assert_int_equal(inode_resting_on(&f->table, resource, &inodes, &n), 0);
    assert_int_equal(n, strlen(names));
    for (size_t i = 0; i < n; i++) {
        assert_non_null(strstr(names, inodes[i]->name));
        for (size_t j = 0; j < i; j++)
            assert_ptr_not_equal(inodes[i], inodes[j]);
        assert_ptr_equal(inodes[i]->rests_on, resource);
    }
    for (size_t i = 0; i < n; i++)
        inode_unref(&f->table, inodes[i]);
    free(inodes);
}

static void test_exchange(void **state)
{
    struct fixture *f = *state;
    struct inode *from = get_dir(f, f->kv, "from"), *to = get_dir(f, f->kv, "to");
    struct inode *file = get_in(f, from, "a", 7, "v", true), *other = get_in(f, to, "b", 8, "w", true);

    assert_true(inode_exchange(&f->table, &FILE_AT(from, "a"), &FILE_AT(to, "b")));
    expect_present(f, from, "a", other);
    expect_present(f, to, "b", file);
    expect_path(f, file, &kv_kind, "to/b");
    assert_int_equal(from->refs, 2);
    assert_int_equal(to->refs, 2);

    /* A directory and a file of the same directory. */
    assert_true(inode_exchange(&f->table, &DIR_AT(f->kv, "from"), &DIR_AT(f->kv, "to")));
    expect_path(f, file, &kv_kind, "from/b");

    /* Where one is not known the other moves all the same; the kernel is to ask. */
    assert_false(inode_exchange(&f->table, &FILE_AT(to, "b"), &FILE_AT(to, "c")));
    expect_present(f, to, "b", NULL);
    expect_present(f, to, "c", file);
    /* An older version goes along. */
    inode_looked_up(&f->table, file);
    assert_true(inode_detach(&f->table, file));
    assert_false(inode_exchange(&f->table, &FILE_AT(to, "c"), &FILE_AT(from, "a")));
    assert_false(file->current);
    expect_path(f, file, &kv_kind, "to/a");
    expect_present(f, to, "c", other);
    inode_forget(&f->table, file, 1);
    inode_unref(&f->table, other);
    inode_unref(&f->table, file);
    inode_unref(&f->table, from);
    inode_unref(&f->table, to);
}

/* A name may stand for an inode in an older version of the directory, too. */
static void test_moves_in_older_directory(void **state)
{
    struct fixture *f = *state;
    struct inode *older = get_dir(f, f->kv, "d"), *dir, *here, *there;
    struct inode *a = get_in(f, older, "a", 1, "v", true), *b = get_in(f, older, "b", 2, "w", true);

    inode_looked_up(&f->table, a);
    assert_true(inode_detach(&f->table, older));
    dir = get_dir(f, f->kv, "d");
    here = get_in(f, dir, "a", 3, "x", true);
    there = get_in(f, dir, "b", 4, "y", true);

    assert_false(inode_exchange(&f->table, &FILE_AT(dir, "a"), &FILE_AT(dir, "b")));
    expect_present(f, dir, "a", there);
    expect_present(f, dir, "b", here);
    expect_path(f, a, &kv_kind, "d/b");
    expect_path(f, b, &kv_kind, "d/a");
    assert_false(a->current);
    assert_int_equal(inode_count(&f->table), 4); /* kv, d, a and b */

    inode_unref(&f->table, b);
    b = get_in(f, older, "b", 5, "z", true);
    inode_looked_up(&f->table, b);
    assert_true(inode_move_older(&f->table, &FILE_AT(dir, "b"), dir, "c"));
    expect_path(f, a, &kv_kind, "d/c");
    expect_path(f, b, &kv_kind, "d/c");
    expect_path(f, here, &kv_kind, "d/b");
    assert_false(b->current);
    assert_int_equal(inode_count(&f->table), 4);

    inode_forget(&f->table, a, 1);
    inode_forget(&f->table, b, 1);
    inode_unref(&f->table, a);
    inode_unref(&f->table, b);
    inode_unref(&f->table, here);
    inode_unref(&f->table, there);
    inode_unref(&f->table, older);
    inode_unref(&f->table, dir);
}

/* Where a directory was, which had other keys, there is a file now: what was below it is not that file's. */
static void test_what_was_below_stays(void **state)
{
    struct fixture *f = *state;
    struct inode *dir = get_dir(f, f->kv, "a"), *below = get_in(f, dir, "f", 7, "v", true);
    struct inode *other = get_in(f, f->kv, "b", 8, "w", true), *file;

    inode_looked_up(&f->table, dir);
    /* The directory's inode still is the name's, as nobody has looked. */
    assert_false(inode_exchange(&f->table, &FILE_AT(f->kv, "a"), &FILE_AT(f->kv, "b")));
    expect_path(f, below, &kv_kind, "a/f");
    expect_present(f, f->kv, "a", other);
    expect_present(f, f->kv, "b", NULL);
    assert_false(dir->current);

    file = get_in(f, f->kv, "b", 9, "x", true);
    assert_false(inode_exchange(&f->table, &FILE_AT(f->kv, "a"), &FILE_AT(f->kv, "b")));
    expect_path(f, below, &kv_kind, "a/f");
    expect_present(f, f->kv, "a", file);
    assert_false(inode_move_older(&f->table, &FILE_AT(f->kv, "a"), f->kv, "c"));
    expect_path(f, below, &kv_kind, "a/f");
    assert_true(inode_move_older(&f->table, &DIR_AT(f->kv, "a"), f->kv, "c"));
    expect_path(f, below, &kv_kind, "c/f");

    inode_forget(&f->table, dir, 1);
    inode_unref(&f->table, dir);
    inode_unref(&f->table, below);
    inode_unref(&f->table, other);
    inode_unref(&f->table, file);
}

static void test_a_change_while_storing(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = get(f, "a", 7, "v", true);

    inode_begin_storing(&f->table, inode);
    inode_begin_storing(&f->table, inode);
    inode->unjudged = true;
    assert_false(inode_end_storing(&f->table, inode)); /* the other one goes on */
    assert_true(inode_end_storing(&f->table, inode));
    inode_begin_storing(&f->table, inode);
    assert_false(inode_end_storing(&f->table, inode));
    inode_unref(&f->table, inode);
}

static void test_resting(void **state)
{
    struct fixture *f = *state;
    struct consul *client = new_client();
    struct consul_resource *x = resource_of(client, "/v1/x"), *y = resource_of(client, "/v1/y");
    struct inode *a = get(f, "a", 1, "v", true), *b = get(f, "b", 1, "v", true), *c = get(f, "c", 1, "v", true);

    expect_resting(f, x, "");
    inode_rest_on(&f->table, a, x);
    inode_rest_on(&f->table, b, x);
    inode_rest_on(&f->table, c, x);
    inode_rest_on(&f->table, b, x); /* twice is once */
    expect_resting(f, x, "abc");
    expect_resting(f, y, "");

    /* The one in the middle, the last, the first. */
    inode_rest_on(&f->table, b, y);
    expect_resting(f, x, "ac");
    expect_resting(f, y, "b");
    inode_rest_on(&f->table, a, NULL);
    expect_resting(f, x, "c");
    inode_rest_on(&f->table, a, NULL);
    inode_rest_on(&f->table, a, x);
    inode_rest_on(&f->table, a, y);
    expect_resting(f, x, "c");
    expect_resting(f, y, "ab");

    /* Detached it still rests there: the kernel may have it. Freed it does not. */
    inode_detach(&f->table, c);
    expect_resting(f, x, "c");
    inode_unref(&f->table, c);
    expect_resting(f, x, "");
    inode_unref(&f->table, a);
    expect_resting(f, y, "b");
    inode_unref(&f->table, b);
    expect_resting(f, y, "");
    assert_null(*consul_resource_user(x));
    assert_null(*consul_resource_user(y));
    consul_resource_unref(x);
    consul_resource_unref(y);
    consul_free(client);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

struct worker {
    struct fixture *f;
    struct consul_resource *resource;
    unsigned seed;
};

static void *work(void *arg)
{
    static const char *const names[] = {"a", "b", "c"};
    struct worker *worker = arg;
    struct fixture *f = worker->f;

    for (unsigned i = 0; i < 2000; i++) {
        unsigned random = (worker->seed + i) * 2654435761u >> 8;
        struct content *content = version(random % 3, "v"), *now;
        bool is_new;
        struct inode *inode = inode_get(&f->table, f->kv, names[random / 3 % 3], &file_kind, content, 0, &is_new);
        char *path;

        inode_looked_up(&f->table, inode);
        inode_rest_on(&f->table, inode, random & 1024 ? worker->resource : NULL);
        now = inode_content(&f->table, inode);
        content_unref(now);
        path = inode_path_below(&f->table, inode, &kv_kind);
        free(path);
        if (random & 2048)
            inode_detach(&f->table, inode);
        inode_forget(&f->table, inode, 1);
        inode_unref(&f->table, inode);
        content_unref(content);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct fixture *f = *state;
    struct consul *client = new_client();
    struct worker workers[3];
    pthread_t threads[3];

    for (unsigned i = 0; i < 3; i++) {
        workers[i] = (struct worker){.f = f, .resource = resource_of(client, "/v1/x"), .seed = i * 7919};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    expect_resting(f, workers[0].resource, "");
    assert_int_equal(f->table.n, 1);
    for (unsigned i = 0; i < 3; i++)
        consul_resource_unref(workers[i].resource);
    consul_free(client);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_same_bytes_same_inode),
        CASE(test_held_as_other),
        CASE(test_stand_in),
        CASE(test_path_from),
        CASE(test_same_version_same_inode),
        CASE(test_other_version_other_inode),
        CASE(test_numbers_are_never_used_twice),
        CASE(test_other_kind_other_inode),
        CASE(test_a_directory_is_its_place),
        CASE(test_without_content),
        CASE(test_own_writes_keep_the_inode),
        CASE(test_forget),
        CASE(test_forget_too_much),
        CASE(test_forget_a_deep_chain),
        CASE(test_destroy_frees_what_is_left),
        CASE(test_many),
        CASE(test_path_below),
        CASE(test_detach),
        CASE(test_reattach),
        CASE(test_reindex),
        CASE(test_move),
        CASE(test_move_a_directory),
        CASE(test_move_older),
        CASE(test_exchange),
        CASE(test_moves_in_older_directory),
        CASE(test_what_was_below_stays),
        CASE(test_a_change_while_storing),
        CASE(test_resting),
        CASE(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
