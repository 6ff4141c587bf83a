/* fs/lock_set: who has which bytes locked; against a model that has one owner for each byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lock_set.h"

static struct lock posix(uint64_t owner, bool exclusive, uint64_t start, uint64_t end)
{
    return (struct lock){
        .posix = true, .exclusive = exclusive, .owner = owner, .fh = owner, .start = start, .end = end};
}

static struct lock flock_of(uint64_t owner, bool exclusive)
{
    return (struct lock){.exclusive = exclusive, .owner = owner, .fh = owner, .end = INT64_MAX};
}

static void put(struct lock_set *set, struct lock lock) { assert_int_equal(lock_set_put(set, &lock), 0); }

static size_t count(const struct lock_set *set)
{
    size_t n = 0;

    for (const struct lock *l = set->first; l; l = l->next)
        n++;
    return n;
}

static bool free_for(const struct lock_set *set, struct lock lock) { return !lock_set_conflict(set, &lock); }

static void test_flocks(void **state)
{
    struct lock_set set = {0};
    struct lock mine = flock_of(1, true);

    (void)state;
    put(&set, flock_of(1, false));
    assert_true(free_for(&set, flock_of(2, false)));
    assert_false(free_for(&set, flock_of(2, true)));
    assert_true(free_for(&set, flock_of(1, true)));    /* an upgrade */
    assert_true(free_for(&set, posix(1, true, 0, 9))); /* the other kind */
    put(&set, flock_of(2, false));
    assert_false(free_for(&set, flock_of(1, true)));
    lock_set_close(&set, 2);
    put(&set, flock_of(1, true));
    assert_int_equal(count(&set), 1);
    assert_false(free_for(&set, flock_of(2, false)));
    assert_int_equal(lock_set_clear(&set, &mine), 1);
    assert_int_equal(lock_set_clear(&set, &mine), 0);
    assert_null(set.first);
}

static void test_splitting_and_merging(void **state)
{
    struct lock_set set = {0};
    struct lock middle = posix(1, true, 4, 5);
    const struct lock *found;

    (void)state;
    put(&set, posix(1, true, 0, 9));
    assert_int_equal(lock_set_clear(&set, &middle), 1);
    assert_int_equal(count(&set), 2);
    assert_int_equal(set.first->start, 0);
    assert_int_equal(set.first->end, 3);
    assert_int_equal(set.first->next->start, 6);
    assert_int_equal(set.first->next->end, 9);
    put(&set, posix(1, false, 4, 5)); /* alike only in the owner */
    assert_int_equal(count(&set), 3);
    put(&set, posix(1, true, 4, 5));
    assert_int_equal(count(&set), 1);
    put(&set, posix(1, false, 8, INT64_MAX));
    assert_int_equal(count(&set), 2);
    middle = posix(2, false, 0, INT64_MAX);
    found = lock_set_conflict(&set, &middle);
    assert_non_null(found);
    assert_int_equal(found->start, 0);
    assert_int_equal(found->end, 7);
    lock_set_empty(&set);
    assert_null(set.first);
}

/* What was locked through one descriptor goes with it, whoever of the process's others is still open. */
static void test_descriptors_stay_apart(void **state)
{
    struct lock_set set = {0};
    struct lock first = posix(1, true, 0, 4), second = posix(1, true, 5, 9);

    (void)state;
    second.fh = 7;
    put(&set, first);
    put(&set, second);
    assert_int_equal(count(&set), 2);
    assert_true(lock_set_has(&set, 7));
    lock_set_close(&set, 7);
    assert_false(lock_set_has(&set, 7));
    assert_int_equal(count(&set), 1);
    assert_int_equal(set.first->end, 4);
    lock_set_empty(&set);
}

#define BYTES 40
#define OWNERS 4

static void check(const struct lock_set *set, char model[OWNERS][BYTES])
{
    char seen[OWNERS][BYTES] = {{0}};

    for (const struct lock *l = set->first; l; l = l->next) {
        assert_true(l->start <= l->end && l->end < BYTES);
        for (uint64_t i = l->start; i <= l->end; i++) {
            assert_int_equal(seen[l->owner][i], 0); /* none twice */
            seen[l->owner][i] = l->exclusive ? 'w' : 'r';
        }
        if (l->next && l->next->owner == l->owner) {
            assert_true(l->end < l->next->start);
            /* neighbours that are alike are one */
            assert_false(l->end + 1 == l->next->start && l->exclusive == l->next->exclusive);
        }
    }
    assert_memory_equal(seen, model, sizeof(seen));
}

static bool model_free(char model[OWNERS][BYTES], const struct lock *lock)
{
    for (size_t owner = 0; owner < OWNERS; owner++)
        for (uint64_t i = lock->start; owner != lock->owner && i <= lock->end; i++)
            if (model[owner][i] == 'w' || (model[owner][i] && lock->exclusive))
                return false;
    return true;
}

static void test_against_a_model(void **state)
{
    char model[OWNERS][BYTES] = {{0}};
    struct lock_set set = {0};
    unsigned granted = 0;

    (void)state;
    srand(4711);
    for (unsigned round = 0; round < 100000; round++) {
        uint64_t owner = (uint64_t)rand() % OWNERS, start = (uint64_t)rand() % BYTES;
        struct lock lock = posix(owner, rand() % 2, start, start + (uint64_t)rand() % (BYTES - start));
        bool unlock = rand() % 2;

        assert_int_equal(free_for(&set, lock), model_free(model, &lock));
        if (unlock) {
            bool had = memchr(model[owner] + lock.start, 'r', lock.end - lock.start + 1) ||
                       memchr(model[owner] + lock.start, 'w', lock.end - lock.start + 1);

            assert_int_equal(lock_set_clear(&set, &lock), had);
        } else if (model_free(model, &lock)) {
            put(&set, lock);
            granted++;
        } else {
            continue;
        }
        memset(model[owner] + lock.start, unlock ? 0 : lock.exclusive ? 'w' : 'r', lock.end - lock.start + 1);
        check(&set, model);
    }
    assert_true(granted > 1000);
    lock_set_empty(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flocks),
        cmocka_unit_test(test_splitting_and_merging),
        cmocka_unit_test(test_descriptors_stay_apart),
        cmocka_unit_test(test_against_a_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
