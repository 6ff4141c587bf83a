/* The index rules of blocking queries; see index.h. */
#include "index.h"

/* The first pause, before the randomness. */
#define PAUSE_FIRST_MS 100

/* An answer without news this soon was not held back by a blocking query: Consul's shortest useful wait is longer. */
#define EARLY_MS 1000

/* Nobody limits requests to less; a connection that ends sooner was broken by something else. */
#define TIME_LIMIT_MIN_MS 5000

void consul_index_init(struct consul_index *index, bool is_hash, unsigned wait_s)
{
    if (wait_s == 0)
        wait_s = CONSUL_INDEX_WAIT_DEFAULT_S;
    if (wait_s > CONSUL_INDEX_WAIT_MAX_S)
        wait_s = CONSUL_INDEX_WAIT_MAX_S;
    *index = (struct consul_index){.wait_s = wait_s, .is_hash = is_hash};
}

void consul_index_next(const struct consul_index *index, uint64_t *ret_index, unsigned *ret_wait_s)
{
    *ret_index = index->index;
    *ret_wait_s = index->index ? index->wait_s : 0;
}

unsigned consul_index_deadline_ms(const struct consul_index *index, unsigned patience_ms)
{
    unsigned wait_ms = index->index ? index->wait_s * 1000 : 0;

    return wait_ms + wait_ms / 16 + patience_ms;
}

/* The pause after the n-th failure in a row: exponential, capped, and between half and the whole of that. */
static unsigned pause_ms(unsigned n, uint32_t random)
{
    unsigned whole = PAUSE_FIRST_MS;

    while (n-- > 1 && whole < CONSUL_INDEX_PAUSE_MAX_MS)
        whole *= 2;
    if (whole > CONSUL_INDEX_PAUSE_MAX_MS)
        whole = CONSUL_INDEX_PAUSE_MAX_MS;
    return whole - random % (whole / 2 + 1);
}

/* index=0 does not block, so going on with it would spin. Old servers did send 0. */
static uint64_t at_least_1(uint64_t header_index) { return header_index > 0 ? header_index : 1; }

/* Anything that is answered ends a row of failures, and confirms what was made of them. */
static void end_failures(struct consul_index *index)
{
    index->failures = 0;
    index->wait_before_s = 0;
}

enum consul_index_news consul_index_read(struct consul_index *index, uint64_t header_index)
{
    uint64_t before = index->index;

    end_failures(index);
    index->index = at_least_1(header_index);
    return index->index == before ? CONSUL_INDEX_SAME : CONSUL_INDEX_CHANGED;
}

enum consul_index_news consul_index_answer(struct consul_index *index, uint64_t header_index, uint64_t elapsed_ms,
                                           uint32_t random, unsigned *ret_pause_ms)
{
    uint64_t before = index->index;
    enum consul_index_news news;

    *ret_pause_ms = 0;
    if (before == 0)
        return consul_index_read(index, header_index);
    end_failures(index);

    header_index = at_least_1(header_index);
    if (header_index == before)
        news = CONSUL_INDEX_SAME;
    else if (index->is_hash || header_index > before)
        news = CONSUL_INDEX_CHANGED;
    else
        news = CONSUL_INDEX_RESET;

    /*
     * Consul's index may go backwards: after a restore, a server rebuilt, or when tombstones are reaped. Starting again
     * at 0 costs one read; keeping ours would wait until the count has caught up, blind to all that happens before.
     */
    index->index = news == CONSUL_INDEX_RESET ? 0 : header_index;

    if (news == CONSUL_INDEX_CHANGED || elapsed_ms >= EARLY_MS) {
        index->fruitless = 0;
        return news;
    }

    /* Going backwards once is served at once. Whoever does so again and again, always early, is not counting. */
    index->fruitless++;
    if (news != CONSUL_INDEX_RESET || index->fruitless > 1)
        *ret_pause_ms = pause_ms(index->fruitless, random);
    return news;
}

unsigned consul_index_failed(struct consul_index *index, bool early_eof, uint64_t elapsed_ms, uint32_t random)
{
    index->failures++;

    if (early_eof && index->index && elapsed_ms >= TIME_LIMIT_MIN_MS) {
        uint64_t fits = elapsed_ms / 1000 * 13 / 16; /* with the jitter of 1/16 on it, still well below the limit */

        if (fits > CONSUL_INDEX_WAIT_LIMITED_S)
            fits = CONSUL_INDEX_WAIT_LIMITED_S;
        if (fits < index->wait_s) {
            index->wait_before_s = index->wait_s;
            index->wait_s = (unsigned)fits;
        }
    } else if (index->wait_before_s) {
        /* The very next attempt failed too: that was an agent going away, which says nothing about its limits. */
        index->wait_s = index->wait_before_s;
        index->wait_before_s = 0;
    }
    return pause_ms(index->failures, random);
}
