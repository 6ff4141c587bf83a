#include "lock_set.h"

#include <errno.h>
#include <stdlib.h>

static bool same_owner(const struct lock *a, const struct lock *b)
{
    return a->posix == b->posix && a->owner == b->owner;
}

static bool overlap(const struct lock *a, const struct lock *b) { return a->start <= b->end && b->start <= a->end; }

static bool comes_before(const struct lock *a, const struct lock *b)
{
    if (a->posix != b->posix)
        return !a->posix;
    return a->owner != b->owner ? a->owner < b->owner : a->start < b->start;
}

const struct lock *lock_set_conflict(const struct lock_set *set, const struct lock *wanted)
{
    for (const struct lock *l = set->first; l; l = l->next)
        if (l->posix == wanted->posix && !same_owner(l, wanted) && overlap(l, wanted) &&
            (l->exclusive || wanted->exclusive))
            return l;
    return NULL;
}

static void insert(struct lock_set *set, struct lock *lock)
{
    struct lock **at = &set->first;

    while (*at && comes_before(*at, lock))
        at = &(*at)->next;
    lock->next = *at;
    *at = lock;
}

/* Cuts the range out; `spare` becomes the far end of one that is split, and then *ret_used. */
static bool cut(struct lock_set *set, const struct lock *range, struct lock *spare, bool *ret_used)
{
    struct lock **at = &set->first;
    bool any = false;

    *ret_used = false;
    while (*at) {
        struct lock *l = *at;

        if (!same_owner(l, range) || !overlap(l, range)) {
            at = &l->next;
            continue;
        }
        any = true;
        if (l->start < range->start && l->end > range->end) {
            *spare = *l;
            spare->start = range->end + 1;
            l->end = range->start - 1;
            insert(set, spare);
            *ret_used = true;
            return true;
        }
        if (l->start < range->start) {
            l->end = range->start - 1;
            at = &l->next;
        } else if (l->end > range->end) {
            l->start = range->end + 1; /* what follows starts later still: the order stays */
            at = &l->next;
        } else {
            *at = l->next;
            free(l);
        }
    }
    return any;
}

/* Neighbours that are alike become one. */
static void merge(struct lock_set *set)
{
    struct lock *l = set->first;

    while (l && l->next) {
        struct lock *next = l->next;

        if (same_owner(l, next) && l->exclusive == next->exclusive && l->fh == next->fh && l->end + 1 == next->start) {
            l->end = next->end;
            l->next = next->next;
            free(next);
        } else {
            l = next;
        }
    }
}

int lock_set_put(struct lock_set *set, const struct lock *wanted)
{
    struct lock *copy = malloc(sizeof(*copy)), *spare = malloc(sizeof(*spare));
    bool used;

    if (!copy || !spare) {
        free(copy);
        free(spare);
        return -ENOMEM;
    }
    *copy = *wanted;
    (void)cut(set, wanted, spare, &used);
    if (!used)
        free(spare);
    insert(set, copy);
    merge(set);
    return 0;
}

int lock_set_clear(struct lock_set *set, const struct lock *range)
{
    struct lock *spare = malloc(sizeof(*spare));
    bool used, any;

    if (!spare)
        return -ENOMEM;
    any = cut(set, range, spare, &used);
    if (!used)
        free(spare);
    return any;
}

static void remove_if(struct lock_set *set, bool all, uint64_t fh)
{
    struct lock **at = &set->first;

    while (*at) {
        struct lock *l = *at;

        if (all || l->fh == fh) {
            *at = l->next;
            free(l);
        } else {
            at = &l->next;
        }
    }
}

void lock_set_close(struct lock_set *set, uint64_t fh) { remove_if(set, false, fh); }

void lock_set_empty(struct lock_set *set) { remove_if(set, true, 0); }

bool lock_set_has(const struct lock_set *set, uint64_t fh)
{
    for (const struct lock *l = set->first; l; l = l->next)
        if (l->fh == fh)
            return true;
    return false;
}
