#include "watch_cost.h"

#define SECOND 1000000000ull
/* What a watch may bring for each byte that changed; beyond that it is wasted. */
#define WORTH 3
/* The head of an answer and the next request, and what they keep the agent busy with. */
#define EACH_ANSWER 512
/* In the long run a watch may waste so much: a store of 1 MiB may change every half minute, one of 32 KiB every
 * second. */
#define FORGIVEN_PER_S (32 * 1024)
/* And so much at once, beside one whole answer: nobody's handful of edits is to cost the watch. */
#define FORGIVEN_AT_ONCE (1024 * 1024)
#define PAUSE_FIRST (60 * SECOND)
#define PAUSE_LAST (3600 * SECOND)

bool watch_cost_charge(struct watch_cost *cost, uint64_t brought, uint64_t changed, uint64_t now_ns)
{
    uint64_t elapsed_s = (now_ns - cost->since_ns) / SECOND, forgiven = elapsed_s * FORGIVEN_PER_S;

    if (cost->since_ns == 0) {
        cost->since_ns = now_ns;
    } else if (elapsed_s > 0) {
        cost->wasted -= forgiven < cost->wasted ? forgiven : cost->wasted;
        cost->since_ns += elapsed_s * SECOND;
    }
    if (changed == 0)
        brought += EACH_ANSWER;
    if (brought > changed * WORTH)
        cost->wasted += brought - changed * WORTH;
    if (cost->wasted <= FORGIVEN_AT_ONCE + brought)
        return false;
    /* Soon after it was given another chance it is as bad as before: the next one comes later. */
    if (cost->until_ns && now_ns - cost->until_ns < cost->pause_ns)
        cost->pause_ns = cost->pause_ns * 2 < PAUSE_LAST ? cost->pause_ns * 2 : PAUSE_LAST;
    else
        cost->pause_ns = PAUSE_FIRST;
    cost->until_ns = now_ns + cost->pause_ns;
    cost->wasted = 0;
    return true;
}

bool watch_cost_is_demoted(const struct watch_cost *cost, uint64_t now_ns) { return now_ns < cost->until_ns; }

void watch_cost_forget(struct watch_cost *cost) { *cost = (struct watch_cost){0}; }
