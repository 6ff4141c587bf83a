/* fs/own: what this mount changed itself is known for a while, with what it left; what failed is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "content.h"
#include "inode.h"
#include "own.h"
#include "tree.h"

/* Linked with --wrap: time passes as we say. */
int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

static time_t ahead_s;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    int r = __real_clock_gettime(clock, ts);

    if (r == 0 && clock == CLOCK_MONOTONIC)
        ts->tv_sec += ahead_s;
    return r;
}

static const struct kind dir_kind = {.name = "", .mode = S_IFDIR | 0755};
static const struct kind file_kind = {.mode = S_IFREG | 0644};

struct fixture {
    struct own own;
    struct inode_table table;
    struct inode *top;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    own_init(&f->own);
    if (inode_table_init(&f->table) < 0)
        return -1;
    f->top = inode_new_static(&f->table, &dir_kind, NULL, "");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    inode_unref(&f->table, f->top);
    inode_table_destroy(&f->table);
    own_destroy(&f->own);
    free(f);
    return 0;
}

/* The name stands for a file with these bytes; the caller holds it. */
static struct inode *store(struct fixture *f, const char *name, const char *bytes)
{
    struct content *content = content_take(strdup(bytes), strlen(bytes), 0);
    bool new;
    struct inode *inode = inode_get(&f->table, f->top, name, &file_kind, content, 0, &new);

    content_unref(content);
    return inode;
}

static struct own_state state_of(const struct inode *inode)
{
    return (struct own_state){.kind = inode->kind, .version = content_version(inode->content)};
}

static const struct own_state nothing;

static void test_what_was_left(void **state)
{
    struct fixture *f = *state;
    struct inode *inode;
    struct own_state left;

    assert_false(own_is_under_way(&f->own, f->top, "a"));
    assert_true(own_begin(&f->own, f->top, "a"));
    assert_true(own_is_under_way(&f->own, f->top, "a"));
    assert_false(own_is_under_way(&f->own, f->top, "b"));
    inode = store(f, "a", "new");
    left = state_of(inode);
    assert_false(own_made(&f->own, f->top, "a", left, true)); /* not yet: it may still fail */
    own_end(&f->own, &f->table, f->top, "a", OWN_NAMED);
    assert_false(own_is_under_way(&f->own, f->top, "a"));
    assert_true(own_made(&f->own, f->top, "a", left, true));
    assert_false(own_made(&f->own, f->top, "b", left, true));
    assert_false(own_made(&f->own, f->top, "a", nothing, true));
    left.version++;
    assert_false(own_made(&f->own, f->top, "a", left, true)); /* somebody else wrote after us */
    inode_unref(&f->table, inode);
}

static void test_removed(void **state)
{
    struct fixture *f = *state;

    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_NAMED);
    assert_true(own_made(&f->own, f->top, "a", nothing, true));
}

static void test_somebody_else_came_later(void **state)
{
    const struct own_state theirs = {.kind = &file_kind, .version = 7};
    struct fixture *f = *state;

    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_NAMED);
    own_told(&f->own, f->top, "b", theirs, OWN_NAMED);
    assert_true(own_made(&f->own, f->top, "a", nothing, true));
    own_told(&f->own, f->top, "a", theirs, OWN_NAMED);
    assert_false(own_made(&f->own, f->top, "a", nothing, true));
    assert_true(own_made(&f->own, f->top, "a", theirs, true));
}

/* It was there, and watchers may not have been told yet that it came. */
static void test_stored_in_what_somebody_else_made(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = store(f, "a", "value");
    struct own_state left = state_of(inode);

    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_STORED);
    assert_true(own_made(&f->own, f->top, "a", left, false));
    assert_false(own_made(&f->own, f->top, "a", left, true));
    own_told(&f->own, f->top, "a", left, OWN_STORED);
    assert_false(own_made(&f->own, f->top, "a", left, true));
    own_told(&f->own, f->top, "a", left, OWN_NAMED);
    assert_true(own_made(&f->own, f->top, "a", left, true));
    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_STORED);
    assert_true(own_made(&f->own, f->top, "a", left, true)); /* they know the name */
    inode_unref(&f->table, inode);
}

/* Nobody has read it: it is what we left, as far as can be told. */
static void test_of_which_only_the_name_is_known(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = store(f, "a", "value");
    const struct own_state named = {.kind = inode->kind};

    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_NAMED);
    assert_true(own_made(&f->own, f->top, "a", named, true));
    assert_false(own_made(&f->own, f->top, "a", nothing, false));
    inode_unref(&f->table, inode);
}

static void test_names_that_are_known_to_be_there(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = store(f, "a", "value");
    struct own_state left = state_of(inode);
    char **names;
    size_t n;

    own_told(&f->own, f->top, "a", left, OWN_NAMED);
    own_told(&f->own, f->top, "gone", nothing, OWN_NAMED);
    own_told(&f->own, f->top, "b", left, OWN_STORED); /* it came otherwise */
    names = own_names_in(&f->own, f->top, left.version, &n);
    assert_int_equal(n, 1);
    assert_string_equal(names[0], "a");
    free(names[0]);
    free(names);
    names = own_names_in(&f->own, f->top, left.version - 1, &n); /* it may be from before that */
    assert_int_equal(n, 0);
    free(names);
    free(own_names_in(&f->own, inode, left.version, &n));
    assert_int_equal(n, 0);
    inode_unref(&f->table, inode);
}

static void test_what_failed_was_not_made(void **state)
{
    struct fixture *f = *state;
    struct inode *inode = store(f, "a", "theirs");

    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_FAILED);
    assert_false(own_made(&f->own, f->top, "a", state_of(inode), true));
    assert_false(own_is_under_way(&f->own, f->top, "a"));
    inode_unref(&f->table, inode);
}

static void test_several_at_once(void **state)
{
    struct fixture *f = *state;

    assert_true(own_begin(&f->own, f->top, "a"));
    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_NAMED);
    assert_true(own_is_under_way(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_FAILED);
    assert_false(own_is_under_way(&f->own, f->top, "a"));
    assert_true(own_made(&f->own, f->top, "a", nothing, true)); /* the first one's still counts */
}

static void test_forgotten_after_a_while(void **state)
{
    struct fixture *f = *state;

    assert_true(own_begin(&f->own, f->top, "a"));
    own_end(&f->own, &f->table, f->top, "a", OWN_NAMED);
    ahead_s += OWN_SECONDS + 1;
    assert_false(own_made(&f->own, f->top, "a", nothing, true));
}

/* What is under way stays on record, however much else happens; and when there is no room, that is said. */
static void test_full(void **state)
{
    struct fixture *f = *state;
    char name[16];

    assert_true(own_begin(&f->own, f->top, "long"));
    for (int i = 0; i < 3 * OWN_MAX; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_true(own_begin(&f->own, f->top, name));
        own_end(&f->own, &f->table, f->top, name, OWN_NAMED);
    }
    assert_true(own_is_under_way(&f->own, f->top, "long"));
    for (int i = 0; i < OWN_MAX - 1; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_true(own_begin(&f->own, f->top, name));
    }
    assert_false(own_begin(&f->own, f->top, "one more"));
    assert_true(own_is_under_way(&f->own, f->top, "long"));
    for (int i = 0; i < OWN_MAX - 1; i++) {
        snprintf(name, sizeof(name), "%d", i);
        own_end(&f->own, &f->table, f->top, name, OWN_NAMED);
    }
    own_end(&f->own, &f->table, f->top, "long", OWN_NAMED);
    assert_true(own_made(&f->own, f->top, "long", nothing, true));
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_what_was_left),
        CASE(test_removed),
        CASE(test_somebody_else_came_later),
        CASE(test_stored_in_what_somebody_else_made),
        CASE(test_of_which_only_the_name_is_known),
        CASE(test_names_that_are_known_to_be_there),
        CASE(test_what_failed_was_not_made),
        CASE(test_several_at_once),
        CASE(test_forgotten_after_a_while),
        CASE(test_full),
    };

    return cmocka_run_group_tests_name("own", tests, NULL, NULL);
}
