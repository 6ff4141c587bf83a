/*
 * Races between the instances of a service.
 *
 * A race (one for each service) has at most one heat under way that counts, and one whose result is kept; both may be
 * the same. A heat probes every candidate; it is concluded by the first good answer where somebody waits for it, else
 * by the last; its end then completes what is known of all. A heat that was overtaken by another (because its
 * candidates are gone) ends unnoticed.
 *
 * Everything is guarded by fastest.lock, save what is marked constant. It is taken after every lock of fs.h's list but
 * agent.lock, and not held while operations are woken or probes sent. Probes report on the network thread.
 */
#include "fastest.h"

#include "answer.h"
#include "candidate.h"
#include "content.h"
#include "instance.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull
#define SECOND (1000 * MS)
#define DATACENTERS_KEEP_NS (60 * SECOND)
#define REMEMBER_NS (60 * SECOND)   /* what was measured longer ago says nothing about now */
#define CHANGED_RENEW_NS (500 * MS) /* other candidates are a reason to measure again, but not at once each time */
#define CHANCE_MAX_MS 100
#define ATTEMPTS_MAX 3 /* heats that one reader waits for */
#define RACES_KEPT 1024

struct heat {
    /* constant */
    struct fastest *fastest;
    struct race *race; /* outlives it */
    char *datacenter;  /* NULL: the mount's own */
    size_t *probed;    /* the candidate of each target */
    size_t probed_n;
    bool behind;      /* readers have another result meanwhile */
    size_t incumbent; /* the race's winner so far, or CANDIDATE_NONE */
    uint64_t made_ns;

    uint32_t refs;
    struct candidates candidates; /* their outcomes change */
    size_t challenger;            /* answered first, while the incumbent has a moment more; or CANDIDATE_NONE */
    bool concluded;
    size_t winner; /* once concluded; CANDIDATE_NONE: nobody answered */
    bool by_coordinate;
    uint64_t measured_ns; /* when it was concluded */
    uint64_t measured_at; /* the same as CLOCK_REALTIME */
    struct heat *next;    /* in the queue */
};

struct race {
    char *service;        /* constant */
    struct heat *running; /* counted, or NULL */
    struct heat *kept;    /* counted, or NULL; concluded */
    struct op *waiting;
    size_t heats; /* that exist, those included that were overtaken */
    uint64_t used_ns;
    struct race *next;
};

struct fastest {
    struct fs *fs; /* constant */
    pthread_mutex_t lock;
    struct race *races;
    size_t race_n;
    size_t racing; /* heats whose probes are out */
    struct heat *queue;
    struct consul_snapshot *datacenters; /* counted, or NULL */
    uint64_t datacenters_ns;
};

/* ---- the table
 * ------------------------------------------------------------------------------------------------------- */

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

static struct race *get_race(struct fastest *fastest, const char *service)
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

/* ---- heats
 * ----------------------------------------------------------------------------------------------------------- */

static uint64_t realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

static bool same_place(const char *one, const char *other) { return one ? other && strcmp(one, other) == 0 : !other; }

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

/* fastest.lock is held. Takes the candidates, also when it fails. The heat, counted, becomes the race's. */
static struct heat *heat_new(struct fastest *fastest, struct race *race, const char *datacenter,
                             struct candidates *candidates, bool behind)
{
    struct heat *heat = calloc(1, sizeof(*heat)), *kept = race->kept;

    if (!heat) {
        candidates_clear(candidates);
        return NULL;
    }
    heat->candidates = *candidates;
    *candidates = (struct candidates){0};
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
    if (kept && same_place(kept->datacenter, datacenter) && kept->measured_ns + REMEMBER_NS > heat->made_ns) {
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

/* fastest.lock is held. The result is what readers get from now on. */
static void conclude(struct heat *heat, size_t winner)
{
    struct race *race = heat->race;
    struct heat *kept = race->kept;

    heat->concluded = true;
    heat->winner = winner;
    heat->measured_ns = consul_now_ns();
    heat->measured_at = realtime_ns();
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
        conclude(heat, winner);
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

/* ---- what probes report; network thread
 * ------------------------------------------------------------------------------ */

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
        conclude(heat, heat->incumbent);
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
        conclude(heat, heat->challenger);
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
            conclude(heat, first);
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

/* ---- starting
 * -------------------------------------------------------------------------------------------------------- */

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

/* Takes the caller's reference. */
static void start(struct heat *heat)
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

/* ---- where the candidates are
 * ---------------------------------------------------------------------------------------- */

struct place {
    char *datacenter;                 /* NULL: the mount's own */
    struct consul_snapshot *snapshot; /* borrowed from the operation */
};

static bool has_passing(const json_t *health)
{
    json_t *entry;
    size_t i;

    json_array_foreach(health, i, entry)
    {
        if (view_instance_status(entry) == VIEW_PASSING)
            return true;
    }
    return false;
}

/* They hardly ever change, and their list cannot be watched: it is not asked for each time. *ret_snapshot is counted.
 */
static int read_datacenters(struct op *op, struct consul_snapshot **ret_snapshot)
{
    struct fastest *fastest = op->fs->fastest;
    uint64_t now = consul_now_ns();
    struct consul_snapshot *snapshot = NULL, *old;
    int r;

    pthread_mutex_lock(&fastest->lock);
    if (fastest->datacenters && now < fastest->datacenters_ns + DATACENTERS_KEEP_NS)
        snapshot = consul_snapshot_ref(fastest->datacenters);
    pthread_mutex_unlock(&fastest->lock);
    if (snapshot) {
        *ret_snapshot = snapshot;
        return 0;
    }
    r = op_read(op, "/v1/catalog/datacenters", CONSUL_JSON, 0, 0, &snapshot);
    if (r < 0)
        return r;
    consul_snapshot_ref(snapshot);
    pthread_mutex_lock(&fastest->lock);
    old = fastest->datacenters;
    fastest->datacenters = consul_snapshot_ref(snapshot);
    fastest->datacenters_ns = now;
    pthread_mutex_unlock(&fastest->lock);
    consul_snapshot_unref(old);
    *ret_snapshot = snapshot;
    return 0;
}

static int read_in_datacenter(struct op *op, const char *service, const char *datacenter, const char *query,
                              unsigned flags, struct consul_snapshot **ret_snapshot)
{
    char *suffix = datacenter ? answer_path(query, datacenter, "") : strdup(query);
    int r = suffix ? answer_read(op, INSTANCE_HEALTH, service, suffix, flags, ret_snapshot) : -ENOMEM;

    free(suffix);
    return r;
}

/* The nearest other datacenter where an instance passes. One that does not answer has none that would help. */
static int find_elsewhere(struct op *op, const char *service, struct place *ret_place)
{
    struct consul_snapshot *datacenters, *snapshot;
    char *own;
    json_t *value;
    size_t i;
    int r = read_datacenters(op, &datacenters);

    if (r < 0)
        return r;
    own = answer_datacenter(op->fs);
    r = -ENOENT;
    json_array_foreach(datacenters->json, i, value)
    {
        const char *name = json_string_value(value);

        if (!name || (own && strcmp(name, own) == 0))
            continue;
        r = read_in_datacenter(op, service, name, "?passing&dc=", CONSUL_BLOCKS, &snapshot);
        if (r == -EINPROGRESS || r == -EAGAIN)
            break;
        if (r == 0 && has_passing(snapshot->json)) {
            *ret_place = (struct place){.datacenter = strdup(name), .snapshot = snapshot};
            r = ret_place->datacenter ? 0 : -ENOMEM;
            break;
        }
        r = -ENOENT;
    }
    free(own);
    consul_snapshot_unref(datacenters);
    return r;
}

static int find_place(struct op *op, const char *service, struct place *ret_place)
{
    struct consul_snapshot *snapshot;
    int r = read_in_datacenter(op, service, NULL, "", CONSUL_BLOCKS, &snapshot);

    if (r < 0)
        return r;
    if (!has_passing(snapshot->json))
        return find_elsewhere(op, service, ret_place);
    *ret_place = (struct place){.snapshot = snapshot};
    return 0;
}

int fastest_exists(struct op *op, const char *service)
{
    struct place place = {0};
    int r = find_place(op, service, &place);

    free(place.datacenter);
    return r;
}

/* ---- the result
 * ------------------------------------------------------------------------------------------------------ */

/* A reader and what he found. */
struct reading {
    struct op *op;
    const char *service;
    enum fastest_form form;
    struct place place;
    struct candidates candidates;
    char *datacenter; /* the place's, or the mount's own: for people */
};

static int describe(const struct reading *reading, const struct candidates *candidates, size_t winner,
                    bool by_coordinate, uint64_t measured_at, struct content **ret_content)
{
    struct candidates_result result = {
        .service = reading->service,
        .datacenter = reading->datacenter,
        .candidates = candidates,
        .winner = winner,
        .by_coordinate = by_coordinate,
        .measured_ns = measured_at,
    };
    size_t len;
    char *data;
    int r;

    if (reading->form == FASTEST_LINE)
        r = view_line(candidates->list[winner].address, &data, &len);
    else
        r = candidates_document(&result, &data, &len);
    if (r < 0)
        return r;
    *ret_content = content_take(data, len, measured_at);
    return *ret_content ? 0 : -ENOMEM;
}

enum verdict {
    DECIDED,   /* the kept heat has a winner */
    UNDECIDED, /* a heat is under way */
    UNKNOWN,   /* one is needed */
    NOBODY,    /* nobody answers the probes: ask for coordinates */
};

/* fastest.lock is held. The kept winner if it still is a candidate, else the next best of that heat that is. */
static bool has_winner(struct heat *kept, const struct candidates *present)
{
    const struct candidate *list = kept->candidates.list;
    size_t best = CANDIDATE_NONE;

    if (kept->winner != CANDIDATE_NONE &&
        candidates_find(present, list[kept->winner].node, list[kept->winner].id) != CANDIDATE_NONE)
        return true;
    for (size_t i = 0; i < kept->candidates.n; i++) {
        if (list[i].outcome == CANDIDATE_GOOD &&
            (best == CANDIDATE_NONE || list[i].smoothed_ns < list[best].smoothed_ns) &&
            candidates_find(present, list[i].node, list[i].id) != CANDIDATE_NONE)
            best = i;
    }
    if (best == CANDIDATE_NONE)
        return false;
    kept->winner = best;
    kept->by_coordinate = false;
    return true;
}

/* fastest.lock is held. Does the heat probe any of those that are there now? */
static bool probes_any(const struct heat *heat, const struct candidates *present)
{
    for (size_t i = 0; i < heat->probed_n; i++) {
        const struct candidate *candidate = &heat->candidates.list[heat->probed[i]];

        if (candidates_find(present, candidate->node, candidate->id) != CANDIDATE_NONE)
            return true;
    }
    return false;
}

/* fastest.lock is held. While a heat runs behind readers, they are given what there was for as long as it may take. */
static bool is_kept(const struct race *race, const struct reading *reading, uint64_t now)
{
    uint64_t keep = FASTEST_KEEP_NS;

    if (!race->kept || !same_place(race->kept->datacenter, reading->place.datacenter))
        return false;
    if (race->running && race->running->behind)
        keep += 2 * FASTEST_PROBE_MS * MS;
    return now < race->kept->measured_ns + keep;
}

/* fastest.lock is held. */
static enum verdict judge(const struct race *race, const struct reading *reading, uint64_t now)
{
    const struct heat *running = race->running;
    bool kept = is_kept(race, reading, now);

    if (kept && has_winner(race->kept, &reading->candidates))
        return DECIDED;
    if (kept && race->kept != running && candidates_same(&race->kept->candidates, &reading->candidates))
        return NOBODY;
    if (running && !running->concluded && same_place(running->datacenter, reading->place.datacenter) &&
        probes_any(running, &reading->candidates))
        return UNDECIDED;
    return UNKNOWN;
}

/* fastest.lock is held; the kept heat has a winner. */
static bool is_due(const struct race *race, const struct reading *reading, uint64_t now)
{
    const struct heat *kept = race->kept;
    uint64_t age = now - kept->measured_ns;

    if (race->running || candidates_probeable(&reading->candidates) == 0)
        return false;
    return age >= FASTEST_RENEW_NS ||
           (age >= CHANGED_RENEW_NS && !candidates_same(&kept->candidates, &reading->candidates));
}

/* fastest.lock is held. */
static int give_kept(const struct reading *reading, const struct race *race, struct content **ret_content)
{
    const struct heat *kept = race->kept;

    return describe(reading, &kept->candidates, kept->winner, kept->by_coordinate, kept->measured_at, ret_content);
}

/* fastest.lock is held. */
static void wait_in(struct race *race, struct op *op)
{
    struct op **end = &race->waiting;

    while (*end)
        end = &(*end)->next;
    op->next = NULL;
    op->attempts++;
    *end = op;
}

/* Nobody answers: Consul's own measurements between nodes put the instances in order. */
static int ask_coordinates(struct reading *reading, struct content **ret_content)
{
    struct fastest *fastest = reading->op->fs->fastest;
    const char *datacenter = reading->place.datacenter;
    struct consul_snapshot *snapshot;
    size_t nearest = CANDIDATE_NONE;
    struct race *race;
    int r = read_in_datacenter(reading->op, reading->service, datacenter,
                               datacenter ? "?passing&near=_agent&dc=" : "?passing&near=_agent", 0, &snapshot);

    if (r < 0)
        return r;
    for (size_t i = 0; nearest == CANDIDATE_NONE && i < json_array_size(snapshot->json); i++) {
        const json_t *entry = json_array_get(snapshot->json, i);

        nearest = candidates_find(&reading->candidates, view_instance_node(entry), view_instance_id(entry));
    }
    if (nearest == CANDIDATE_NONE) /* all have changed in between */
        nearest = 0;
    pthread_mutex_lock(&fastest->lock);
    race = get_race(fastest, reading->service);
    if (race && race->kept && race->kept != race->running && race->kept->winner == CANDIDATE_NONE &&
        candidates_same(&race->kept->candidates, &reading->candidates)) {
        conclude(race->kept, nearest);
        race->kept->by_coordinate = true;
        r = give_kept(reading, race, ret_content);
    } else {
        r = describe(reading, &reading->candidates, nearest, true, realtime_ns(), ret_content);
    }
    pthread_mutex_unlock(&fastest->lock);
    return r;
}

static int decide(struct reading *reading, struct content **ret_content)
{
    struct fastest *fastest = reading->op->fs->fastest;
    enum verdict verdict = NOBODY;
    struct heat *heat = NULL;
    struct race *race;
    uint64_t now = consul_now_ns();
    int r = -EINPROGRESS;

    pthread_mutex_lock(&fastest->lock);
    race = get_race(fastest, reading->service);
    if (race && reading->op->attempts < ATTEMPTS_MAX)
        verdict = judge(race, reading, now);
    if (verdict == UNDECIDED) {
        wait_in(race, reading->op);
    } else if (verdict == UNKNOWN) {
        heat = heat_new(fastest, race, reading->place.datacenter, &reading->candidates, false);
        if (heat)
            wait_in(race, reading->op);
        else
            r = -ENOMEM;
    } else if (verdict == DECIDED) {
        r = give_kept(reading, race, ret_content);
        if (is_due(race, reading, now))
            heat = heat_new(fastest, race, reading->place.datacenter, &reading->candidates, true);
    }
    pthread_mutex_unlock(&fastest->lock);
    if (heat)
        start(heat);
    return verdict == NOBODY ? ask_coordinates(reading, ret_content) : r;
}

int fastest_read(struct op *op, const char *service, enum fastest_form form, struct content **ret_content)
{
    struct reading reading = {.op = op, .service = service, .form = form};
    char *local = NULL;
    int r;

    if (!op->req) /* the notify thread's: it never waits */
        return -EAGAIN;
    r = find_place(op, service, &reading.place);
    if (r < 0)
        return r;
    if (reading.place.datacenter)
        reading.datacenter = strdup(reading.place.datacenter);
    else {
        reading.datacenter = answer_datacenter(op->fs);
        local = answer_local_node(op->fs);
    }
    r = candidates_of(reading.place.snapshot->json, local, &reading.candidates);
    if (r == 0)
        r = decide(&reading, ret_content);
    if (r != -EINPROGRESS) /* else it may be running again by now */
        op->watched_all = false;
    candidates_clear(&reading.candidates);
    free(reading.place.datacenter);
    free(reading.datacenter);
    free(local);
    return r;
}
