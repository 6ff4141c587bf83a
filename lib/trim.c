#include "trim.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#define TRIM_AFTER ((size_t)1 << 20) /* bytes of answers */
#define TRIMS 5                      /* who held parts of it lets go later */
#define SOON_NS 200000000u           /* what was decoded is let go at once */
#define PAUSE_NS 500000000u          /* between two; twice as long each time. A trim takes some milliseconds. */

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

void trim_freed(struct trim *trim, size_t bytes, uint64_t now_ns)
{
    trim->freed += bytes;
    if (trim->freed < TRIM_AFTER)
        return;
    trim->freed = 0;
    trim->left = TRIMS;
    trim->pause_ns = PAUSE_NS;
    trim->due_ns = trim->last_ns + PAUSE_NS > now_ns + SOON_NS ? trim->last_ns + PAUSE_NS : now_ns + SOON_NS;
}

uint64_t trim_due_ns(const struct trim *trim) { return trim->left > 0 ? trim->due_ns : UINT64_MAX; }

bool trim_begin(struct trim *trim, uint64_t now_ns)
{
    if (trim_due_ns(trim) > now_ns)
        return false;
    trim->due_ns = now_ns + trim->pause_ns;
    if (atomic_load(&trim->under_way))
        return false;
    trim->pause_ns *= 2;
    trim->last_ns = now_ns;
    trim->left--;
    atomic_store(&trim->under_way, true);
    trim->work = (struct work){.run = run, .done = done};
    return true;
}
