/* lib/write_queue: which writes go at once, which wait, and which of these go together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "write_queue.h"

#define MS 1000000u
#define NEAR_NS (WRITE_QUEUE_FAR_NS / 4)
#define MANY 100

static struct queued_write writes[MANY];
static struct write_queues *queues;

static int setup(void **state)
{
    (void)state;
    queues = write_queues_new();
    memset(writes, 0, sizeof(writes));
    for (size_t i = 0; i < MANY; i++)
        writes[i].len = 100;
    return queues ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    write_queues_free(queues);
    return 0;
}

static bool begin(size_t i, const char *key)
{
    writes[i].key = key;
    return write_queue_begin(queues, NULL, &writes[i]);
}

static struct queued_write *end(size_t i, uint64_t took_ns)
{
    return write_queue_end(queues, &writes[i], took_ns, 64, 1 << 20);
}

/* The queue knows that the agent is near, and as many as it lets are under way: 0 and on. */
static void fill(void)
{
    assert_true(begin(0, "0"));
    assert_null(end(0, NEAR_NS));
    for (size_t i = 0; i < WRITE_QUEUE_AT_ONCE; i++)
        assert_true(begin(i, "filling"));
}

static void assert_together(const struct queued_write *first, const size_t *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++, first = first->next) {
        assert_non_null(first);
        assert_int_equal(first - writes, numbers[i]);
    }
    assert_null(first);
}

#define ASSERT_TOGETHER(first, ...)                                                                                    \
    assert_together(first, (size_t[]){__VA_ARGS__}, sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t))

static void test_a_few_go_at_once_and_the_rest_together(void **state)
{
    (void)state;
    fill();
    assert_false(begin(10, "a"));
    assert_false(begin(11, "b"));
    assert_false(begin(12, "c"));
    assert_int_equal(write_queues_together(queues), 0);
    ASSERT_TOGETHER(end(0, NEAR_NS), 10, 11, 12);
    assert_int_equal(write_queues_together(queues), 3);
    assert_false(begin(13, "d")); /* that has the place of the first */
    ASSERT_TOGETHER(end(1, NEAR_NS), 13);
    assert_int_equal(write_queues_together(queues), 3);
    assert_null(end(11, NEAR_NS)); /* any of them speaks for all */
    assert_true(begin(14, "e"));
    assert_false(begin(15, "f"));
}

static void test_of_one_key_one_goes_at_a_time(void **state)
{
    (void)state;
    fill();
    assert_false(begin(10, "a"));
    assert_false(begin(11, "b"));
    assert_false(begin(12, "a"));
    assert_false(begin(13, "a"));
    assert_false(begin(14, "c"));
    ASSERT_TOGETHER(end(0, NEAR_NS), 10, 11, 14);
    ASSERT_TOGETHER(end(1, NEAR_NS), 12);
    assert_false(begin(15, "b"));
    ASSERT_TOGETHER(end(2, NEAR_NS), 13, 15);
    assert_null(end(3, NEAR_NS));
}

static void test_how_many_and_how_much(void **state)
{
    struct queued_write *first;
    char keys[MANY][8];

    (void)state;
    fill();
    for (size_t i = 10; i < 30; i++) {
        keys[i][0] = (char)('a' + i);
        keys[i][1] = '\0';
        assert_false(begin(i, keys[i]));
    }
    first = write_queue_end(queues, &writes[0], NEAR_NS, 3, 1 << 20);
    ASSERT_TOGETHER(first, 10, 11, 12);
    first = write_queue_end(queues, &writes[1], NEAR_NS, 64, 200);
    ASSERT_TOGETHER(first, 13, 14);
    first = write_queue_end(queues, &writes[2], NEAR_NS, 64, 10); /* too long for any: by itself */
    ASSERT_TOGETHER(first, 15);
    writes[16].len = writes[17].len = WRITE_QUEUE_TOGETHER - 200;
    first = write_queue_end(queues, &writes[3], NEAR_NS, 64, 1 << 20);
    ASSERT_TOGETHER(first, 16, 18, 19); /* what is small goes ahead */
    first = write_queue_end(queues, &writes[16], NEAR_NS, 64, 1 << 20);
    ASSERT_TOGETHER(first, 17, 20, 21);
}

/* How many go at once by what is known now; all of them have ended then. */
static unsigned how_many_at_once(uint64_t took_ns)
{
    unsigned n = 0;

    while (begin(n, "k"))
        n++;
    assert_ptr_equal(end(0, took_ns), &writes[n]); /* in the place of the first */
    for (unsigned i = 1; i <= n; i++)
        assert_null(end(i, took_ns));
    return n;
}

static void test_far_away_more_go_at_once(void **state)
{
    (void)state;
    assert_int_equal(how_many_at_once(20 * MS), WRITE_QUEUE_AT_ONCE_FAR); /* it is not known yet */
    assert_int_equal(how_many_at_once(NEAR_NS), WRITE_QUEUE_AT_ONCE_FAR);
    for (int i = 0; i < 10; i++) /* busy: slow answers do not make it far */
        assert_int_equal(how_many_at_once(3 * MS), WRITE_QUEUE_AT_ONCE);
    for (int i = 0; i < 100; i++) /* or only when there are no others any more */
        how_many_at_once(20 * MS);
    assert_int_equal(how_many_at_once(20 * MS), WRITE_QUEUE_AT_ONCE_FAR);
    for (int i = 0; i < 3; i++) /* nor do those that were not answered */
        assert_int_equal(how_many_at_once(0), WRITE_QUEUE_AT_ONCE_FAR);
}

static void test_who_began_long_after_the_first_waits_for_the_next(void **state)
{
    (void)state;
    fill();
    writes[10].deadline_ns = 1000 * MS;
    writes[11].deadline_ns = 1000 * MS + WRITE_QUEUE_SPREAD_NS;
    writes[12].deadline_ns = 1000 * MS + WRITE_QUEUE_SPREAD_NS + 1;
    assert_false(begin(10, "a"));
    assert_false(begin(11, "b"));
    assert_false(begin(12, "c"));
    ASSERT_TOGETHER(end(0, 0), 10, 11);
    ASSERT_TOGETHER(end(1, 0), 12);
}

static void test_datacenters_do_not_wait_for_each_other(void **state)
{
    struct queued_write other = {.key = "k", .len = 1}, unnamed = {.key = "k", .len = 1};

    (void)state;
    fill();
    assert_false(begin(10, "k"));
    assert_true(write_queue_begin(queues, "dc2", &other));
    assert_false(write_queue_begin(queues, NULL, &unnamed));
    assert_null(write_queue_end(queues, &other, NEAR_NS, 64, 1 << 20));
    ASSERT_TOGETHER(end(0, NEAR_NS), 10);
    assert_ptr_equal(end(1, NEAR_NS), &unnamed);
}

static void test_what_was_never_queued_ends_nothing(void **state)
{
    struct queued_write alone = {.key = "k"};

    (void)state;
    fill();
    assert_false(begin(10, "k"));
    assert_null(write_queue_end(queues, &alone, NEAR_NS, 64, 1 << 20));
    ASSERT_TOGETHER(end(0, NEAR_NS), 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_few_go_at_once_and_the_rest_together),
        TEST(test_of_one_key_one_goes_at_a_time),
        TEST(test_how_many_and_how_much),
        TEST(test_far_away_more_go_at_once),
        TEST(test_who_began_long_after_the_first_waits_for_the_next),
        TEST(test_datacenters_do_not_wait_for_each_other),
        TEST(test_what_was_never_queued_ends_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
