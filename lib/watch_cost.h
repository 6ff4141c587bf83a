/*
 * What a watch costs beside what it is good for. A blocking query brings its whole answer for every change in it; where
 * that is large and changes often, most of what it brings was known. Such a watch is given up for a while (demoted):
 * what is in it is then watched in parts, or asked for when it is read.
 *
 * Pure: no clock, no lock of its own.
 */
#ifndef CONSUL_LIB_WATCH_COST_H
#define CONSUL_LIB_WATCH_COST_H

#include <stdbool.h>
#include <stdint.h>

struct watch_cost {
    uint64_t wasted;   /* bytes that it brought in vain, less what was forgiven since */
    uint64_t since_ns; /* when that was reckoned last */
    uint64_t until_ns; /* demoted until then; 0: never was */
    uint64_t pause_ns; /* for so long the last time */
};

/* A blocking query brought so many bytes, of which `changed` were news. True: it is demoted from now on. */
bool watch_cost_charge(struct watch_cost *cost, uint64_t brought, uint64_t changed, uint64_t now_ns);
bool watch_cost_is_demoted(const struct watch_cost *cost, uint64_t now_ns);
/* What is known of it is of no use any more: it may be watched at once. */
void watch_cost_forget(struct watch_cost *cost);

#endif
