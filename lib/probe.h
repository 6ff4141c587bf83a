/* What a client needs to probe; see consul_probe(). */
#ifndef CONSUL_LIB_PROBE_H
#define CONSUL_LIB_PROBE_H

struct prober;

/* 0 or -ENOMEM. */
int prober_new(struct prober **ret_prober);
/* When no probe is under way any more: after http_stop(). NULL is fine. */
void prober_free(struct prober *prober);

#endif
