/* Times in nanoseconds, counted in buckets 1/64 wide: any number of them in fixed memory, which processes can share. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define HISTOGRAM_BUCKETS (64 * 59)

struct histogram {
    uint32_t count[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t sum;
    uint64_t max;
};

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Below 64 a bucket for each; from there on 64 for each power of two. */
static inline unsigned histogram_bucket(uint64_t ns)
{
    unsigned shift = ns < 128 ? 0 : 57 - (unsigned)__builtin_clzll(ns);

    return shift * 64 + (unsigned)(ns >> shift);
}

static inline uint64_t histogram_value(unsigned bucket)
{
    unsigned shift = bucket < 128 ? 0 : bucket / 64 - 1;

    return (uint64_t)(bucket - shift * 64) << shift;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count[histogram_bucket(ns)]++;
    h->total++;
    h->sum += ns;
    if (ns > h->max)
        h->max = ns;
}

static inline void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->count[i] += from->count[i];
    into->total += from->total;
    into->sum += from->sum;
    if (from->max > into->max)
        into->max = from->max;
}

static inline uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)h->total * percent / 100);

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->count[i];
        if (seen > wanted)
            return histogram_value(i);
    }
    return h->max;
}

/* What the Python side reads: one JSON object. */
static inline void histogram_print(const struct histogram *h, uint64_t errors, uint64_t wall_ns)
{
    printf("{\"operations\": %llu, \"errors\": %llu, \"wall\": %llu, \"mean\": %llu, \"p10\": %llu, \"p50\": %llu, "
           "\"p90\": %llu, \"p99\": %llu, \"max\": %llu}\n",
           (unsigned long long)h->total, (unsigned long long)errors, (unsigned long long)wall_ns,
           (unsigned long long)(h->total ? h->sum / h->total : 0), (unsigned long long)histogram_percentile(h, 10),
           (unsigned long long)histogram_percentile(h, 50), (unsigned long long)histogram_percentile(h, 90),
           (unsigned long long)histogram_percentile(h, 99), (unsigned long long)h->max);
}

#endif
