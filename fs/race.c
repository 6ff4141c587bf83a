#include "race.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REMEMBER_NS (60 * SECOND) /* what was measured longer ago says nothing about now */
#define CHANCE_MAX_MS 100
#define RACES_KEPT 1024

/* ---- the table --------------------------------------------------------------------------------------------------- */

int fastest_new(struct fs *fs, struct fastest **ret_fastest)
{
    struct fastest *fastest = calloc(1, sizeof(*fastest));

    if (!fastest)
        return -ENOMEM;
    fastest->fs = fs;
    pthread_mutex_init(&fastest->lock, NULL);
    *ret_fastest = fastest;
    return 0;
}

static void heat_free(struct heat *heat)
{
    heat->race->heats--;
    candidates_clear(&heat->candidates);
    free(heat->datacenter);
    free(heat->probed);
    free(heat);
}

static struct heat *heat_ref(struct heat *heat)
{
    heat->refs++;
    return heat;
}

static void heat_unref(struct heat *heat)
{
    if (heat && --heat->refs == 0)
        heat_free(heat);
}

static void race_free(struct race *race)
{
    heat_unref(race->running);
    heat_unref(race->kept);
    free(race->service);
    free(race);
}

void fastest_free(struct fastest *fastest)
{
    if (!fastest)
        return;
    while (fastest->queue) {
        struct heat *next = fastest->queue->next;

        heat_unref(fastest->queue);
        fastest->queue = next;
    }
    while (fastest->races) {
        struct race *next = fastest->races->next;

        race_free(fastest->races);
        fastest->races = next;
    }
    consul_snapshot_unref(fastest->datacenters);
    pthread_mutex_destroy(&fastest->lock);
    free(fastest);
}

/* Nobody has asked for it in a while, and no heat comes back to it. */
static bool is_idle(const struct race *race, uint64_t now)
{
    size_t kept = race->kept && race->kept->refs == 1;

    return !race->waiting && race->heats == kept && race->used_ns + REMEMBER_NS < now;
}

static void forget_idle(struct fastest *fastest, uint64_t now)
{
    struct race **at = &fastest->races;

    while (*at) {
        struct race *race = *at;

        if (is_idle(race, now)) {
            *at = race->next;
            race_free(race);
            fastest->race_n--;
        } else {
            at = &race->next;
        }
    }
}

struct race *race_get(struct fastest *fastest, const char *service)
{
    uint64_t now = consul_now_ns();
    struct race *race;

    for (race = fastest->races; race && strcmp(race->service, service) != 0; race = race->next)
        ;
    if (!race) {
        if (fastest->race_n >= RACES_KEPT)
            forget_idle(fastest, now);
        race = calloc(1, sizeof(*race));
        if (!race || !(race->service = strdup(service))) {
            free(race);
            return NULL;
        }
        race->next = fastest->races;
        fastest->races = race;
        fastest->race_n++;
    }
    race->used_ns = now;
    return race;
}

void race_wait(struct race *race, struct op *op)
{
    struct op **end = &race->waiting;

    while (*end)
        end = &(*end)->next;
    op->next = NULL;
    *end = op;
}

/* ---- heats ------------------------------------------------------------------------------------------------------- */

uint64_t race_realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

bool race_same_place(const char *one, const char *other) { return one ? other && strcmp(one, other) == 0 : !other; }

/* Those that are known to be good go first: not all may get their turn in time. */
static void choose_probed(struct heat *heat)
{
    const struct candidates *candidates = &heat->candidates;

    for (size_t i = 0; i < candidates->n; i++)
        if (candidates->list[i].target && candidates->list[i].smoothed_ns)
            heat->probed[heat->probed_n++] = i;
    for (size_t i = 0; i < candidates->n; i++)
        if (candidates->list[i].target && !candidates->list[i].smoothed_ns)
            heat->probed[heat->probed_n++] = i;
}

struct heat *heat_new(struct fastest *fastest, struct race *race, const char *datacenter,
                      const struct consul_snapshot *answer, struct candidates *candidates, bool behind)
{
    struct heat *heat = calloc(1, sizeof(*heat)), *kept = race->kept;

    if (!heat) {
        candidates_clear(candidates);
        return NULL;
    }
    heat->candidates = *candidates;
    *candidates = (struct candidates){0};
    heat->answer = answer->hash;
    heat->refs = 1;
    heat->fastest = fastest;
    heat->race = race;
    race->heats++;
    heat->behind = behind;
    heat->made_ns = consul_now_ns();
    heat->incumbent = heat->challenger = heat->winner = CANDIDATE_NONE;
    heat->datacenter = datacenter ? strdup(datacenter) : NULL;
    heat->probed = calloc(heat->candidates.n + 1, sizeof(*heat->probed));
    if (!heat->probed || (datacenter && !heat->datacenter)) {
        heat_free(heat);
        return NULL;
    }
    if (kept && race_same_place(kept->datacenter, datacenter) && kept->measured_ns + REMEMBER_NS > heat->made_ns) {
        candidates_remember(&heat->candidates, &kept->candidates);
        if (kept->winner != CANDIDATE_NONE)
            heat->incumbent = candidates_find(&heat->candidates, kept->candidates.list[kept->winner].node,
                                              kept->candidates.list[kept->winner].id);
    }
    choose_probed(heat);
    heat_unref(race->running);
    race->running = heat_ref(heat);
    return heat;
}

void heat_conclude(struct heat *heat, size_t winner)
{
    struct race *race = heat->race;
    struct heat *kept = race->kept;

    heat->concluded = true;
    heat->winner = winner;
    heat->measured_ns = consul_now_ns();
    heat->measured_at = race_realtime_ns();
    if (kept != heat) {
        race->kept = heat_ref(heat);
        heat_unref(kept);
    }
}

/* fastest.lock is held. Who waits is to be woken without it. */
static struct op *take_waiting(struct race *race)
{
    struct op *waiting = race->waiting;

    race->waiting = NULL;
    return waiting;
}

static void wake(struct op *waiting)
{
    while (waiting) {
        struct op *next = waiting->next;

        waiting->next = NULL;
        op_wake(waiting);
        waiting = next;
    }
}

/* fastest.lock is held. Nobody answered: who was nearest before still is. */
static size_t still_nearest(struct heat *heat)
{
    const struct heat *kept = heat->race->kept;

    if (!heat->behind || !kept || !kept->by_coordinate || heat->incumbent == CANDIDATE_NONE)
        return CANDIDATE_NONE;
    heat->by_coordinate = true;
    return heat->incumbent;
}

/* fastest.lock is held. All that could be learnt is there; nothing happens if it was overtaken. */
static struct op *finish(struct heat *heat)
{
    struct race *race = heat->race;
    size_t winner = candidates_pick(&heat->candidates, heat->concluded ? heat->winner : heat->incumbent);

    if (race->running != heat)
        return NULL;
    if (winner == CANDIDATE_NONE)
        winner = still_nearest(heat);
    if (heat->concluded)
        heat->winner = winner;
    else
        heat_conclude(heat, winner);
    race->running = NULL;
    heat_unref(heat);
    return take_waiting(race);
}

static void launch(struct heat *heat);

/* fastest.lock is held. The next that waits for its turn, counted, or NULL. */
static struct heat *take_queued(struct fastest *fastest, struct op **ret_waiting)
{
    uint64_t now = consul_now_ns();
    struct heat *heat;

    *ret_waiting = NULL;
    while ((heat = fastest->queue)) {
        fastest->queue = heat->next;
        if (heat->race->running != heat) {
            heat_unref(heat);
            continue;
        }
        if (now > heat->made_ns + FASTEST_PROBE_MS * MS) { /* its readers have waited long enough */
            struct op *waiting = finish(heat), **end = ret_waiting;

            while (*end)
                end = &(*end)->next;
            *end = waiting;
            heat_unref(heat);
            continue;
        }
        fastest->racing++;
        return heat;
    }
    return NULL;
}

/* A heat's probes are over; another's turn comes. */
static void end_probes(struct heat *heat)
{
    struct fastest *fastest = heat->fastest;
    struct op *waiting, *others;
    struct heat *next;

    pthread_mutex_lock(&fastest->lock);
    waiting = finish(heat);
    fastest->racing--;
    next = take_queued(fastest, &others);
    heat_unref(heat);
    pthread_mutex_unlock(&fastest->lock);
    wake(waiting);
    wake(others);
    if (next)
        launch(next);
}

/* ---- what probes report; network thread -------------------------------------------------------------------------- */

static void on_chance_answer(void *arg, size_t index, uint64_t ns)
{
    struct heat *heat = arg;
    struct race *race = heat->race;
    struct op *waiting = NULL;

    (void)index;
    pthread_mutex_lock(&heat->fastest->lock);
    if (heat->candidates.list[heat->incumbent].outcome == CANDIDATE_UNKNOWN)
        candidate_answered(&heat->candidates.list[heat->incumbent], ns);
    if (race->running == heat && !heat->concluded) {
        heat_conclude(heat, heat->incumbent);
        waiting = take_waiting(race);
    }
    pthread_mutex_unlock(&heat->fastest->lock);
    wake(waiting);
}

static void on_chance_end(void *arg, const struct consul_probe_result *results, size_t n)
{
    struct heat *heat = arg;
    struct fastest *fastest = heat->fastest;
    struct race *race = heat->race;
    struct op *waiting = NULL;

    (void)results, (void)n;
    pthread_mutex_lock(&fastest->lock);
    if (race->running == heat && !heat->concluded) {
        heat_conclude(heat, heat->challenger);
        waiting = take_waiting(race);
    }
    heat_unref(heat);
    pthread_mutex_unlock(&fastest->lock);
    wake(waiting);
}

/*
 * The incumbent was expected to take about as long as who answered first: it gets that much more time, so that the
 * result does not flap between near-equals. Asking it again, with that time-out, serves as the clock.
 */
static void give_chance(struct heat *heat, uint64_t challenger_ns)
{
    const struct candidate *incumbent = &heat->candidates.list[heat->incumbent];
    struct consul_probe_target target = {.kind = incumbent->kind, .url = incumbent->target};
    uint64_t ms = challenger_ns / 5 / MS + 1;

    if (consul_probe(heat->fastest->fs->consul, &target, 1, ms < CHANCE_MAX_MS ? ms : CHANCE_MAX_MS, on_chance_answer,
                     on_chance_end, heat) < 0)
        on_chance_end(heat, NULL, 0);
}

/* fastest.lock is held. */
static bool deserves_chance(const struct heat *heat, size_t first)
{
    const struct candidate *list = heat->candidates.list;

    if (heat->incumbent == CANDIDATE_NONE || heat->incumbent == first || !list[heat->incumbent].smoothed_ns)
        return false;
    return !candidate_clearly_better(list[first].smoothed_ns, list[heat->incumbent].smoothed_ns);
}

static void on_first_answer(void *arg, size_t index, uint64_t ns)
{
    struct heat *heat = arg;
    struct race *race = heat->race;
    struct op *waiting = NULL;
    size_t first = heat->probed[index];
    bool chance = false;

    pthread_mutex_lock(&heat->fastest->lock);
    candidate_answered(&heat->candidates.list[first], ns);
    if (race->running == heat && (!heat->behind || race->waiting)) {
        chance = deserves_chance(heat, first);
        if (chance) {
            heat->challenger = first;
            heat_ref(heat);
        } else {
            heat_conclude(heat, first);
            waiting = take_waiting(race);
        }
    }
    pthread_mutex_unlock(&heat->fastest->lock);
    wake(waiting);
    if (chance)
        give_chance(heat, ns);
}

static void on_all_answers(void *arg, const struct consul_probe_result *results, size_t n)
{
    struct heat *heat = arg;

    pthread_mutex_lock(&heat->fastest->lock);
    for (size_t i = 0; i < n; i++) {
        struct candidate *candidate = &heat->candidates.list[heat->probed[i]];

        if (candidate->outcome != CANDIDATE_UNKNOWN)
            continue;
        if (results[i].err == 0)
            candidate_answered(candidate, results[i].ns);
        else
            candidate_failed(candidate, results[i].err);
    }
    pthread_mutex_unlock(&heat->fastest->lock);
    end_probes(heat);
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static uint64_t probe_ms(const struct fs *fs)
{
    uint64_t half = fs->options->timeout_ms / 2;

    return half < FASTEST_PROBE_MS ? half : FASTEST_PROBE_MS;
}

/* It is counted in racing, and the reference is handed to the probes. */
static void launch(struct heat *heat)
{
    struct fs *fs = heat->fastest->fs;
    struct consul_probe_target *targets = calloc(heat->probed_n, sizeof(*targets));
    int r = -ENOMEM;

    for (size_t i = 0; targets && i < heat->probed_n; i++) {
        const struct candidate *candidate = &heat->candidates.list[heat->probed[i]];

        targets[i] = (struct consul_probe_target){.kind = candidate->kind, .url = candidate->target};
    }
    if (targets)
        r = consul_probe(fs->consul, targets, heat->probed_n, probe_ms(fs), on_first_answer, on_all_answers, heat);
    free(targets);
    if (r < 0)
        end_probes(heat);
}

void heat_start(struct heat *heat)
{
    struct fastest *fastest = heat->fastest;
    struct op *waiting = NULL;
    struct heat **end;
    bool now = false;

    pthread_mutex_lock(&fastest->lock);
    if (heat->probed_n == 0) {
        waiting = finish(heat);
        heat_unref(heat);
    } else if (fastest->racing < FASTEST_RACES) {
        fastest->racing++;
        now = true;
    } else {
        for (end = &fastest->queue; *end; end = &(*end)->next)
            ;
        *end = heat;
    }
    pthread_mutex_unlock(&fastest->lock);
    wake(waiting);
    if (now)
        launch(heat);
}
