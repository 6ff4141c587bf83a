/*
 * services/X/fastest: of the instances that pass their checks, which answers first, now?
 *
 * All candidates are probed at once and the first good answer wins. The result is kept for FASTEST_KEEP_NS and measured
 * again behind readers; it falls at once when its winner stops passing.
 */
#ifndef CONSULFS_FASTEST_H
#define CONSULFS_FASTEST_H

#include "op.h"

#define FASTEST_KEEP_NS 5000000000ull  /* how old a result may be for who waits for none */
#define FASTEST_RENEW_NS 2500000000ull /* how old a reader must find it to have it measured again */
#define FASTEST_PROBE_MS 2000          /* who has not answered by then is not fast */
#define FASTEST_RACES 16               /* services that are measured at the same time; the others wait */

struct content;

int fastest_new(struct fs *fs, struct fastest **ret_fastest);
/* After the client was stopped: nothing is under way any more. NULL is fine. */
void fastest_free(struct fastest *fastest);

/* Is there any? 0, -ENOENT, or as op_read(). Probes nobody. */
int fastest_exists(struct op *op, const char *service);

enum fastest_form { FASTEST_LINE, FASTEST_DOCUMENT };
/* -ENOENT when no instance passes anywhere. The result is a moment's: only that its winner passes is watched. */
int fastest_read(struct op *op, const char *service, enum fastest_form form, struct content **ret_content);

#endif
