/*
 * Who reads: where the candidates are, whether what is kept of them still holds, and what is shown of it. race.h has
 * the locks.
 */
#include "fastest.h"

#include "answer.h"
#include "content.h"
#include "instance.h"
#include "race.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DATACENTERS_KEEP_NS (60 * SECOND)
#define CHANGED_RENEW_NS (500 * MS) /* other candidates are a reason to measure again, but not at once each time */
#define ATTEMPTS_MAX 3              /* heats that one reader waits for */

/* ---- where the candidates are ------------------------------------------------------------------------------------ */

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
    r = op_read(op, "/v1/catalog/datacenters", CONSUL_JSON, CONSUL_STRINGS, 0, &snapshot);
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
    own = answer_datacenter(op);
    r = -ENOENT;
    json_array_foreach(datacenters->json, i, value)
    {
        const char *name = json_string_value(value);

        if (!name || (own && strcmp(name, own) == 0))
            continue;
        r = read_in_datacenter(op, service, name, "?passing&dc=", CONSUL_BLOCKS | CONSUL_OBJECTS, &snapshot);
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
    int r = read_in_datacenter(op, service, NULL, "", CONSUL_BLOCKS | CONSUL_OBJECTS, &snapshot);

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

/* ---- the result -------------------------------------------------------------------------------------------------- */

/* A reader and what he found. */
struct reading {
    struct op *op;
    const char *service;
    char *key; /* of its race: the service in the datacenter whose directory was asked */
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

/* fastest.lock is held. The best that answered in the heat and is a candidate now, or CANDIDATE_NONE. */
static size_t best_of(const struct heat *heat, const struct candidates *present)
{
    const struct candidate *list = heat->candidates.list;
    size_t best = CANDIDATE_NONE;

    for (size_t i = 0; i < heat->candidates.n; i++) {
        if (list[i].outcome == CANDIDATE_GOOD &&
            (best == CANDIDATE_NONE || list[i].smoothed_ns < list[best].smoothed_ns) &&
            candidates_find(present, list[i].node, list[i].id) != CANDIDATE_NONE)
            best = i;
    }
    return best;
}

/* fastest.lock is held. The kept winner if it still is a candidate, else the next best of that heat that is. */
static bool has_winner(struct heat *kept, const struct candidates *present)
{
    const struct candidate *list = kept->candidates.list;
    size_t best;

    if (kept->winner != CANDIDATE_NONE &&
        candidates_find(present, list[kept->winner].node, list[kept->winner].id) != CANDIDATE_NONE)
        return true;
    best = best_of(kept, present);
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

    if (!race->kept || !race_same_place(race->kept->datacenter, reading->place.datacenter))
        return false;
    if (race->running && race->running->behind)
        keep += 2 * FASTEST_PROBE_MS * MS;
    return now < race->kept->measured_ns + keep;
}

/* fastest.lock is held. */
static enum verdict judge(const struct race *race, const struct reading *reading, uint64_t now)
{
    struct heat *running = race->running;
    bool kept = is_kept(race, reading, now);
    size_t best;

    if (kept && has_winner(race->kept, &reading->candidates))
        return DECIDED;
    if (kept && race->kept != running && candidates_same(&race->kept->candidates, &reading->candidates))
        return NOBODY;
    if (!running || running->concluded || !race_same_place(running->datacenter, reading->place.datacenter) ||
        !probes_any(running, &reading->candidates))
        return UNKNOWN;
    /* A heat behind readers goes on after the first answer; now somebody needs it. */
    best = running->challenger == CANDIDATE_NONE ? best_of(running, &reading->candidates) : CANDIDATE_NONE;
    if (best == CANDIDATE_NONE)
        return UNDECIDED;
    heat_conclude(running, best);
    return DECIDED;
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
    race = race_get(fastest, reading->key);
    if (race && race->kept && race->kept != race->running && race->kept->winner == CANDIDATE_NONE &&
        candidates_same(&race->kept->candidates, &reading->candidates)) {
        heat_conclude(race->kept, nearest);
        race->kept->by_coordinate = true;
        r = give_kept(reading, race, ret_content);
    } else {
        r = describe(reading, &reading->candidates, nearest, true, race_realtime_ns(), ret_content);
    }
    pthread_mutex_unlock(&fastest->lock);
    return r;
}

/* fastest.lock is held. *ret_heat, counted, is to be started. */
static enum verdict decide(struct reading *reading, struct heat **ret_heat, int *ret_r, struct content **ret_content)
{
    struct op *op = reading->op;
    struct fastest *fastest = op->fs->fastest;
    struct race *race = race_get(fastest, reading->key);
    uint64_t now = consul_now_ns();
    enum verdict verdict = race && op->attempts < ATTEMPTS_MAX ? judge(race, reading, now) : NOBODY;
    bool due = false;

    if (verdict == DECIDED) {
        *ret_r = give_kept(reading, race, ret_content);
        due = is_due(race, reading, now);
    }
    if (verdict == UNKNOWN || due) {
        *ret_heat =
            heat_new(fastest, race, reading->place.datacenter, reading->place.snapshot, &reading->candidates, due);
        if (verdict == UNKNOWN && !*ret_heat) {
            *ret_r = -ENOMEM;
            return DECIDED;
        }
    }
    if (verdict == UNKNOWN || verdict == UNDECIDED) {
        op->attempts++;
        race_wait(race, op);
    }
    return verdict;
}

/*
 * The answer is the one whose candidates raced not long ago, so that these need not be made out again: who waited for
 * the race gets here with what he began it with. -EAGAIN: it takes a closer look.
 */
static int give_known(const struct reading *reading, struct content **ret_content)
{
    struct fastest *fastest = reading->op->fs->fastest;
    uint64_t now = consul_now_ns();
    const struct race *race;
    int r = -EAGAIN;

    pthread_mutex_lock(&fastest->lock);
    race = race_get(fastest, reading->key);
    if (race && is_kept(race, reading, now) && race->kept->winner != CANDIDATE_NONE &&
        race->kept->answer == reading->place.snapshot->hash && now < race->kept->measured_ns + FASTEST_RENEW_NS)
        r = give_kept(reading, race, ret_content);
    pthread_mutex_unlock(&fastest->lock);
    return r;
}

static int give_new(struct reading *reading, struct content **ret_content)
{
    struct op *op = reading->op;
    struct fastest *fastest = op->fs->fastest;
    struct heat *heat = NULL;
    enum verdict verdict;
    char *local = reading->place.datacenter ? NULL : answer_local_node(op);
    int r = candidates_of(reading->place.snapshot->json, local, &reading->candidates);

    free(local);
    if (r == 0)
        r = op_park(op); /* it may: not with the lock held, because an interrupt is replied at once */
    if (r < 0)
        return r;
    pthread_mutex_lock(&fastest->lock);
    verdict = decide(reading, &heat, &r, ret_content);
    pthread_mutex_unlock(&fastest->lock);
    if (verdict == DECIDED || verdict == NOBODY)
        op_unpark(op);
    else
        r = -EINPROGRESS;
    if (heat)
        heat_start(heat);
    return verdict == NOBODY ? ask_coordinates(reading, ret_content) : r;
}

int fastest_read(struct op *op, const char *service, enum fastest_form form, struct content **ret_content)
{
    struct reading reading = {.op = op, .service = service, .form = form};
    int r;

    if (op->quiet) /* the notify thread's: it never waits */
        return -EAGAIN;
    r = find_place(op, service, &reading.place);
    if (r < 0)
        return r;
    if (asprintf(&reading.key, "%s/%s", op_datacenter(op) ? op_datacenter(op) : "", service) < 0)
        reading.key = NULL;
    reading.datacenter = reading.place.datacenter ? strdup(reading.place.datacenter) : answer_datacenter(op);
    r = reading.key ? give_known(&reading, ret_content) : -ENOMEM;
    if (r == -EAGAIN)
        r = give_new(&reading, ret_content);
    /* Who passes is watched. The rest of the answer is a moment's, and who looks again has it measured anew in time. */
    if (r == 0 && !reading.place.datacenter)
        op->for_a_moment = true;
    else if (r != -EINPROGRESS) /* with that the operation may be running again by now */
        op->watched_all = false;
    candidates_clear(&reading.candidates);
    free(reading.place.datacenter);
    free(reading.key);
    free(reading.datacenter);
    return r;
}
