/* Blocking queries that nobody waits for; see abandoned.h. */
#include "abandoned.h"

#include <errno.h>
#include <stdlib.h>

int abandoned_init(struct abandoned *abandoned, unsigned max)
{
    *abandoned = (struct abandoned){.until_ns = calloc(max ? max : 1, sizeof(*abandoned->until_ns)), .max = max};
    return abandoned->until_ns ? 0 : -ENOMEM;
}

void abandoned_clear(struct abandoned *abandoned)
{
    free(abandoned->until_ns);
    *abandoned = (struct abandoned){0};
}

unsigned abandoned_count(struct abandoned *abandoned, uint64_t now_ns)
{
    unsigned left = 0;

    for (unsigned i = 0; i < abandoned->n; i++)
        if (abandoned->until_ns[i] > now_ns)
            abandoned->until_ns[left++] = abandoned->until_ns[i];
    abandoned->n = left;
    return left;
}

void abandoned_add(struct abandoned *abandoned, uint64_t until_ns, uint64_t now_ns)
{
    unsigned first = 0;

    if (until_ns <= now_ns || abandoned->max == 0)
        return;
    if (abandoned_count(abandoned, now_ns) < abandoned->max) {
        abandoned->until_ns[abandoned->n++] = until_ns;
        return;
    }
    for (unsigned i = 1; i < abandoned->n; i++)
        if (abandoned->until_ns[i] < abandoned->until_ns[first])
            first = i;
    if (abandoned->until_ns[first] < until_ns)
        abandoned->until_ns[first] = until_ns;
}
