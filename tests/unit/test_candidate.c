/* Who wins services/X/fastest, and what fastest.json says of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "candidate.h"

#define MS 1000000u

/* ---- a race of three --------------------------------------------------------------------------------------------- */

static struct candidates three(void)
{
    static const char text[] =
        "[{\"Node\":{\"Node\":\"n1\",\"Address\":\"10.0.0.1\"},\"Service\":{\"ID\":\"a\",\"Port\":1},\"Checks\":[]},"
        "{\"Node\":{\"Node\":\"n2\",\"Address\":\"10.0.0.2\"},\"Service\":{\"ID\":\"b\",\"Port\":2},\"Checks\":[]},"
        "{\"Node\":{\"Node\":\"n3\",\"Address\":\"10.0.0.3\"},\"Service\":{\"ID\":\"c\",\"Port\":0},\"Checks\":[]}]";
    json_t *health = json_loads(text, 0, NULL);
    struct candidates candidates;

    assert_int_equal(candidates_of(health, NULL, &candidates), 0);
    assert_int_equal(candidates.n, 3);
    json_decref(health);
    return candidates;
}

static void test_best_wins(void **state)
{
    struct candidates candidates = three();

    (void)state;
    assert_int_equal(candidates_probeable(&candidates), 2);
    assert_int_equal(candidates_pick(&candidates, CANDIDATE_NONE), CANDIDATE_NONE);
    assert_int_equal(candidates_pick(&candidates, 0), CANDIDATE_NONE);
    candidate_answered(&candidates.list[1], 200 * MS);
    assert_int_equal(candidates_pick(&candidates, CANDIDATE_NONE), 1);
    /* Who has not answered is no incumbent. */
    assert_int_equal(candidates_pick(&candidates, 0), 1);
    candidate_answered(&candidates.list[0], 5 * MS);
    assert_int_equal(candidates_pick(&candidates, CANDIDATE_NONE), 0);
    candidate_failed(&candidates.list[0], -ECONNREFUSED);
    assert_int_equal(candidates_pick(&candidates, 0), 1);
    candidates_clear(&candidates);
}

static void test_near_equals_do_not_flap(void **state)
{
    (void)state;
    /* Both a fifth and a millisecond are needed. */
    assert_true(candidate_clearly_better(5 * MS, 200 * MS));
    assert_true(candidate_clearly_better(80 * MS, 100 * MS));
    assert_false(candidate_clearly_better(81 * MS, 100 * MS));
    assert_true(candidate_clearly_better(1 * MS, 2 * MS));
    assert_false(candidate_clearly_better(1 * MS + 1, 2 * MS));
    assert_false(candidate_clearly_better(MS / 10, MS));
    assert_false(candidate_clearly_better(100 * MS, 100 * MS));
    assert_false(candidate_clearly_better(200 * MS, 5 * MS));

    for (size_t incumbent = 0; incumbent < 2; incumbent++) {
        struct candidates candidates = three();

        candidate_answered(&candidates.list[incumbent], 100 * MS);
        candidate_answered(&candidates.list[1 - incumbent], 95 * MS);
        assert_int_equal(candidates_pick(&candidates, incumbent), incumbent);
        assert_int_equal(candidates_pick(&candidates, CANDIDATE_NONE), 1 - incumbent);
        candidates_clear(&candidates);
    }
}

static struct candidates next_heat(struct candidates *before)
{
    struct candidates candidates = three();

    candidates_remember(&candidates, before);
    candidates_clear(before);
    return candidates;
}

/* Heat after heat of two whose times jitter around the same: one winner. */
static void test_jitter(void **state)
{
    struct candidates candidates = three();
    size_t winner = CANDIDATE_NONE, changes = 0;
    uint32_t random = 1;

    (void)state;
    for (int heat = 0; heat < 1000; heat++) {
        size_t before = winner;

        for (size_t i = 0; i < 2; i++) {
            random = random * 1664525 + 1013904223;
            candidate_answered(&candidates.list[i], 100 * MS + (random >> 16) % 1000 * (10 * MS / 1000));
        }
        winner = candidates_pick(&candidates, winner);
        changes += before != CANDIDATE_NONE && before != winner;
        candidates = next_heat(&candidates);
    }
    assert_int_equal(changes, 0);
    candidates_clear(&candidates);
}

/* The winner becomes slow: it loses within a few heats, and at once when it does not answer. */
static void test_slower_winner_loses(void **state)
{
    struct candidates candidates = three();
    size_t winner = CANDIDATE_NONE;
    int heats = 0;

    (void)state;
    candidate_answered(&candidates.list[0], 5 * MS);
    candidate_answered(&candidates.list[1], 20 * MS);
    winner = candidates_pick(&candidates, winner);
    assert_int_equal(winner, 0);
    for (; winner == 0 && heats < 10; heats++) {
        candidates = next_heat(&candidates);
        candidate_answered(&candidates.list[0], 30 * MS);
        candidate_answered(&candidates.list[1], 20 * MS);
        winner = candidates_pick(&candidates, winner);
    }
    assert_int_equal(winner, 1);
    assert_in_range(heats, 2, 5);
    candidates = next_heat(&candidates);
    candidate_answered(&candidates.list[0], 300 * MS);
    candidate_failed(&candidates.list[1], -ETIMEDOUT);
    assert_int_equal(candidates_pick(&candidates, 1), 0);
    candidates_clear(&candidates);
}

static void test_memory(void **state)
{
    struct candidates before = three(), now = three();

    (void)state;
    assert_true(candidates_same(&before, &now));
    candidate_answered(&before.list[0], 8 * MS);
    candidate_failed(&before.list[1], -ETIMEDOUT);
    /* An instance that moved is another one. */
    free(now.list[2].address);
    now.list[2].address = strdup("10.0.0.33");
    before.list[2].smoothed_ns = 7;
    assert_false(candidates_same(&before, &now));
    candidates_remember(&now, &before);
    assert_int_equal(now.list[0].smoothed_ns, 8 * MS);
    assert_int_equal(now.list[0].outcome, CANDIDATE_UNKNOWN);
    assert_int_equal(now.list[1].smoothed_ns, 0);
    assert_int_equal(now.list[2].smoothed_ns, 0);
    candidate_answered(&now.list[0], 4 * MS);
    assert_int_equal(now.list[0].ns, 4 * MS);
    assert_int_equal(now.list[0].smoothed_ns, 6 * MS);
    assert_int_equal(candidates_find(&now, "n2", "b"), 1);
    assert_int_equal(candidates_find(&now, "n1", "b"), CANDIDATE_NONE);
    candidates_clear(&before);
    candidates_clear(&now);
}

/* ---- fastest.json ------------------------------------------------------------------------------------------------ */

static void test_document(void **state)
{
    struct candidates candidates = three();
    struct candidates_result result = {
        .service = "web",
        .datacenter = "dc1",
        .candidates = &candidates,
        .winner = 0,
        .measured_ns = 1700000000123456789u,
    };
    static const char expected[] = "{\n"
                                   "  \"Service\": \"web\",\n"
                                   "  \"Datacenter\": \"dc1\",\n"
                                   "  \"Winner\": {\n"
                                   "    \"Node\": \"n1\",\n"
                                   "    \"ID\": \"a\",\n"
                                   "    \"Address\": \"10.0.0.1\",\n"
                                   "    \"Port\": 1,\n"
                                   "    \"Milliseconds\": 5.25\n"
                                   "  },\n"
                                   "  \"Method\": \"tcp\",\n"
                                   "  \"MeasuredAt\": \"2023-11-14T22:13:20.123Z\",\n"
                                   "  \"Candidates\": [\n"
                                   "    {\n"
                                   "      \"Node\": \"n1\",\n"
                                   "      \"ID\": \"a\",\n"
                                   "      \"Address\": \"10.0.0.1\",\n"
                                   "      \"Port\": 1,\n"
                                   "      \"Method\": \"tcp\",\n"
                                   "      \"Target\": \"10.0.0.1:1\",\n"
                                   "      \"Milliseconds\": 5.25\n"
                                   "    },\n"
                                   "    {\n"
                                   "      \"Node\": \"n2\",\n"
                                   "      \"ID\": \"b\",\n"
                                   "      \"Address\": \"10.0.0.2\",\n"
                                   "      \"Port\": 2,\n"
                                   "      \"Method\": \"tcp\",\n"
                                   "      \"Target\": \"10.0.0.2:2\",\n"
                                   "      \"Error\": \"Connection refused\"\n"
                                   "    },\n"
                                   "    {\n"
                                   "      \"Node\": \"n3\",\n"
                                   "      \"ID\": \"c\",\n"
                                   "      \"Address\": \"10.0.0.3\",\n"
                                   "      \"Port\": 0,\n"
                                   "      \"Method\": \"none\"\n"
                                   "    }\n"
                                   "  ]\n"
                                   "}\n";
    size_t len;
    char *data;

    (void)state;
    candidate_answered(&candidates.list[0], 5250 * 1000);
    candidate_failed(&candidates.list[1], -ECONNREFUSED);
    assert_int_equal(candidates_document(&result, &data, &len), 0);
    assert_string_equal(data, expected);
    assert_int_equal(len, strlen(expected));
    free(data);

    /* By coordinates nothing was measured, and where the datacenter is not known it is absent. */
    result.winner = 2;
    result.by_coordinate = true;
    result.datacenter = NULL;
    assert_int_equal(candidates_document(&result, &data, &len), 0);
    assert_non_null(strstr(data, "\"Port\": 0\n  },\n  \"Method\": \"coordinate\","));
    assert_null(strstr(data, "Datacenter"));
    free(data);
    candidates_clear(&candidates);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_wins), cmocka_unit_test(test_near_equals_do_not_flap),
        cmocka_unit_test(test_jitter),    cmocka_unit_test(test_slower_winner_loses),
        cmocka_unit_test(test_memory),    cmocka_unit_test(test_document),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
