/* lib/index: the index rules of blocking queries, in scripted lives of a watch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "index.h"

/* random is what is taken off, modulo: 0 gives the longest pause. */
#define LONGEST 0

static void expect_next(const struct consul_index *index, uint64_t expected_index, unsigned expected_wait_s)
{
    uint64_t i = 999;
    unsigned wait_s = 999;

    consul_index_next(index, &i, &wait_s);
    assert_int_equal(i, expected_index);
    assert_int_equal(wait_s, expected_wait_s);
}

static void expect_answer(struct consul_index *index, uint64_t header, unsigned elapsed_ms, enum consul_index_news news,
                          unsigned pause_ms)
{
    unsigned pause = 999;

    assert_int_equal(consul_index_answer(index, header, elapsed_ms, LONGEST, &pause), news);
    assert_int_equal(pause, pause_ms);
}

static void test_first_request_does_not_block(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 0);
    expect_next(&index, 0, 0);
    assert_int_equal(consul_index_deadline_ms(&index, 10000), 10000);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, 42, 300);
    /* 300 s, the server's jitter of a sixteenth, and our patience. */
    assert_int_equal(consul_index_deadline_ms(&index, 10000), 300000 + 18750 + 10000);
}

static void test_wait_is_clamped(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 1);
    assert_int_equal(index.wait_s, 1);
    consul_index_init(&index, false, 600);
    assert_int_equal(index.wait_s, 600);
    consul_index_init(&index, false, 601);
    assert_int_equal(index.wait_s, 600);
    consul_index_init(&index, false, UINT32_MAX);
    assert_int_equal(index.wait_s, 600);
}

static void test_changes_and_quiet(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 42, 61000, CONSUL_INDEX_SAME, 0);
    expect_next(&index, 42, 60);
    expect_answer(&index, 43, 5, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 44, 0, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, UINT64_MAX, 0, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, UINT64_MAX, 60);
    expect_answer(&index, UINT64_MAX, 60000, CONSUL_INDEX_SAME, 0);
}

static void test_backwards_starts_again_at_0(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 41, 1, CONSUL_INDEX_RESET, 0);
    expect_next(&index, 0, 0);
    expect_answer(&index, 7, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, 7, 60);
    expect_answer(&index, 8, 1, CONSUL_INDEX_CHANGED, 0);

    /* Also on the time-out of a wait, and also by much. */
    expect_answer(&index, 2, 61000, CONSUL_INDEX_RESET, 0);
    expect_next(&index, 0, 0);
    expect_answer(&index, 2, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, 2, 60);
}

static void test_zero_counts_as_one(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    expect_answer(&index, 0, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, 1, 60);
    expect_answer(&index, 0, 60000, CONSUL_INDEX_SAME, 0);
    expect_answer(&index, 1, 60000, CONSUL_INDEX_SAME, 0);
    expect_answer(&index, 5, 1, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 0, 1, CONSUL_INDEX_RESET, 0);
}

static void test_hash_knows_no_backwards(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, true, 60);
    expect_answer(&index, UINT64_MAX, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, UINT64_MAX, 60);
    expect_answer(&index, 5, 1, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 5, 60000, CONSUL_INDEX_SAME, 0);
    expect_answer(&index, 4, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, 4, 60);
    expect_answer(&index, 0, 1, CONSUL_INDEX_CHANGED, 0);
    expect_next(&index, 1, 60);
}

/* A read without index= says what there is, be it more or less. It does not undo the slowing of early answers. */
static void test_reads_between(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    assert_int_equal(consul_index_read(&index, 42), CONSUL_INDEX_CHANGED);
    expect_next(&index, 42, 60);
    assert_int_equal(consul_index_read(&index, 42), CONSUL_INDEX_SAME);
    assert_int_equal(consul_index_read(&index, 41), CONSUL_INDEX_CHANGED);
    expect_next(&index, 41, 60);
    assert_int_equal(consul_index_read(&index, 0), CONSUL_INDEX_CHANGED);
    expect_next(&index, 1, 60);
    expect_answer(&index, 1, 1, CONSUL_INDEX_SAME, 100);
    assert_int_equal(consul_index_read(&index, 1), CONSUL_INDEX_SAME);
    expect_answer(&index, 1, 1, CONSUL_INDEX_SAME, 200);

    /* It ends a row of failures. */
    assert_int_equal(consul_index_failed(&index, false, 0, LONGEST), 100);
    assert_int_equal(consul_index_failed(&index, false, 0, LONGEST), 200);
    assert_int_equal(consul_index_read(&index, 1), CONSUL_INDEX_SAME);
    assert_int_equal(consul_index_failed(&index, false, 0, LONGEST), 100);

    /* And it confirms a time limit: the agent is still there. */
    consul_index_init(&index, false, 300);
    consul_index_read(&index, 42);
    consul_index_failed(&index, true, 30000, LONGEST);
    assert_int_equal(consul_index_read(&index, 42), CONSUL_INDEX_SAME);
    consul_index_failed(&index, false, 1, LONGEST);
    expect_next(&index, 42, 24);
}

/* A server that does not block, or a proxy that caches, must not make us spin. */
static void test_early_answers_are_slowed(void **state)
{
    static const unsigned pauses[] = {100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000};
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++)
        expect_answer(&index, 42, 999, CONSUL_INDEX_SAME, pauses[i]);

    /* News, or a wait that was one, ends it. */
    expect_answer(&index, 43, 1, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 43, 1, CONSUL_INDEX_SAME, 100);
    expect_answer(&index, 43, 1, CONSUL_INDEX_SAME, 200);
    expect_answer(&index, 43, 1000, CONSUL_INDEX_SAME, 0);
    expect_answer(&index, 43, 1, CONSUL_INDEX_SAME, 100);
}

/* Two servers behind a balancer that disagree for ever: every other answer goes backwards. */
static void test_resets_are_slowed(void **state)
{
    static const unsigned pauses[] = {0, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000};
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
        expect_answer(&index, 41, 1, CONSUL_INDEX_RESET, pauses[i]);
        expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    }
    expect_answer(&index, 43, 1, CONSUL_INDEX_CHANGED, 0);
    expect_answer(&index, 41, 1, CONSUL_INDEX_RESET, 0);
}

static void test_failures_back_off(void **state)
{
    static const unsigned pauses[] = {100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000};
    struct consul_index index;

    (void)state;
    for (int early_eof = 0; early_eof < 2; early_eof++) {
        consul_index_init(&index, false, 60);
        expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
        for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
            struct consul_index twin = index;
            unsigned longest = consul_index_failed(&index, early_eof != 0, 0, LONGEST);
            unsigned shortest = consul_index_failed(&twin, early_eof != 0, 0, pauses[i] / 2);

            assert_int_equal(longest, pauses[i]);
            assert_int_equal(shortest, pauses[i] / 2);
            /* A short break that comes back at the same index costs nothing. */
            expect_next(&index, 42, 60);
        }
        assert_int_equal(index.failures, sizeof(pauses) / sizeof(pauses[0]));
        expect_answer(&index, 42, 60000, CONSUL_INDEX_SAME, 0);
        assert_int_equal(index.failures, 0);
        assert_int_equal(consul_index_failed(&index, early_eof != 0, 0, LONGEST), 100);
    }
}

static void test_failures_never_overflow(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 60);
    for (int i = 0; i < 100000; i++) {
        unsigned pause = consul_index_failed(&index, false, 0, (uint32_t)i * 2654435761u);

        assert_in_range(pause, 50, 30000);
        if (i > 10)
            assert_in_range(pause, 15000, 30000);
    }
}

/* The randomness is used: pauses spread over the whole of their range. */
static void test_jitter_spreads(void **state)
{
    unsigned low = 0, high = 0;

    (void)state;
    for (uint32_t i = 0; i < 1000; i++) {
        struct consul_index index = {.failures = 20, .wait_s = 60};
        unsigned pause = consul_index_failed(&index, false, 0, i * 2654435761u);

        assert_in_range(pause, 15000, 30000);
        low += pause < 18000;
        high += pause > 27000;
    }
    assert_in_range(low, 150, 250);
    assert_in_range(high, 150, 250);
}

static void test_time_limit_is_learned(void **state)
{
    static const struct {
        unsigned wait_s, elapsed_ms, learned_s;
    } cases[] = {
        {300, 30000, 24}, /* Consul 1.22.4 */
        {300, 30900, 24}, {300, 60000, 25}, {300, 299000, 25}, {300, 15000, 12},
        {300, 10000, 8},  {300, 5000, 4},   {300, 4999, 300}, /* too soon for a limit */
        {300, 0, 300},    {25, 26000, 21},                    /* within the server's jitter */
        {25, 60000, 25},  {20, 60000, 20},  {25, 15000, 12},   {1, 30000, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct consul_index index;

        consul_index_init(&index, false, cases[i].wait_s);
        expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
        assert_int_equal(consul_index_failed(&index, true, cases[i].elapsed_ms, LONGEST), 100);
        expect_next(&index, 42, cases[i].learned_s);
        /* With its jitter the shorter wait ends before the limit, and stays what is asked for. */
        if (cases[i].learned_s != cases[i].wait_s)
            assert_true(cases[i].learned_s * 17000 / 16 < cases[i].elapsed_ms);
        expect_answer(&index, 42, cases[i].learned_s * 1000, CONSUL_INDEX_SAME, 0);
        consul_index_failed(&index, false, 3, LONGEST);
        expect_next(&index, 42, cases[i].learned_s);
    }
}

static void test_time_limit_needs_an_eof(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 300);
    /* A first request does not wait, so however long it took says nothing. */
    consul_index_failed(&index, true, 30000, LONGEST);
    assert_int_equal(index.wait_s, 300);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    consul_index_failed(&index, false, 30000, LONGEST);
    expect_next(&index, 42, 300);
}

/* An agent that stops ends its connections just as a limit does, but then refuses the next one. */
static void test_outage_is_no_time_limit(void **state)
{
    struct consul_index index;

    (void)state;
    consul_index_init(&index, false, 300);
    expect_answer(&index, 42, 1, CONSUL_INDEX_CHANGED, 0);
    assert_int_equal(consul_index_failed(&index, true, 20000, LONGEST), 100);
    expect_next(&index, 42, 16);
    assert_int_equal(consul_index_failed(&index, false, 1, LONGEST), 200);
    expect_next(&index, 42, 300);
    assert_int_equal(consul_index_failed(&index, false, 1, LONGEST), 400);
    expect_next(&index, 42, 300);
    expect_answer(&index, 42, 300000, CONSUL_INDEX_SAME, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_request_does_not_block),
        cmocka_unit_test(test_wait_is_clamped),
        cmocka_unit_test(test_changes_and_quiet),
        cmocka_unit_test(test_backwards_starts_again_at_0),
        cmocka_unit_test(test_zero_counts_as_one),
        cmocka_unit_test(test_hash_knows_no_backwards),
        cmocka_unit_test(test_reads_between),
        cmocka_unit_test(test_early_answers_are_slowed),
        cmocka_unit_test(test_resets_are_slowed),
        cmocka_unit_test(test_failures_back_off),
        cmocka_unit_test(test_failures_never_overflow),
        cmocka_unit_test(test_jitter_spreads),
        cmocka_unit_test(test_time_limit_is_learned),
        cmocka_unit_test(test_time_limit_needs_an_eof),
        cmocka_unit_test(test_outage_is_no_time_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
