#include "trim.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#define TRIM_AFTER ((size_t)1 << 20) /* bytes of answers */
#define TRIMS 2                      /* who held parts of it lets go later */

static void run(struct work *work)
{
    (void)work;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

static void done(struct work *work, bool ran)
{
    struct trim *trim = (struct trim *)((char *)work - offsetof(struct trim, work));

    (void)ran;
    atomic_store(&trim->under_way, false);
}

bool trim_begin(struct trim *trim, uint64_t now_ns, uint64_t pause_ns)
{
    if (trim->freed >= TRIM_AFTER) {
        trim->freed = 0;
        trim->left = TRIMS;
    }
    if (trim->left == 0 || atomic_load(&trim->under_way) || now_ns - trim->last_ns < pause_ns)
        return false;
    trim->last_ns = now_ns;
    trim->left--;
    atomic_store(&trim->under_way, true);
    trim->work = (struct work){.run = run, .done = done};
    return true;
}
