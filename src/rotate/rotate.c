#include "rotate/rotate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "obs/log.h"
#include "rotate/driver.h"

const char *const trouble_names[TROUBLE__N] = {
    [TROUBLE_NONE] = "none",     [TROUBLE_STORE] = "store",           [TROUBLE_TARGET] = "target",
    [TROUBLE_SIGNER] = "signer", [TROUBLE_SHORT_LIFE] = "short_life", [TROUBLE_REVOKED] = "revoked",
};

void
rotate_look_soon(struct rotate *r, uint64_t ms)
{
    timer_set(r->timer, ms);
}

void
rotate_trouble(struct rotate *r, enum trouble what, const struct err *why)
{
    if (what != r->trouble || strcmp(why->msg, r->trouble_why.msg) != 0)
        log_with(LOG_WARN, "rotate", LABELS({ "reason", trouble_names[what] }), "held: %s",
                 why->msg);
    r->retry_ms = r->trouble == TROUBLE_NONE ? RETRY_MIN_MS : r->retry_ms * 2;
    if (r->retry_ms > RETRY_MAX_MS)
        r->retry_ms = RETRY_MAX_MS;
    r->retry_at = mono_ms() + r->retry_ms / 2 + random_below(r->retry_ms / 2 + 1);
    r->trouble = what;
    r->trouble_why = *why;
    rotate_metrics(r); /* the next look may be a while away */
}

void
rotate_trouble_over(struct rotate *r)
{
    if (r->trouble != TROUBLE_NONE)
        log_info("rotate", "no longer held by %s", trouble_names[r->trouble]);
    r->trouble = TROUBLE_NONE;
    r->retry_at = 0;
}

/* -- steps ---------------------------------------------------------------------------------------
 */

static void
each_workload(void *self, ledger_workload_fn *fn, void *arg)
{
    struct rotate *r = self;

    if (r->conf.workloads != NULL)
        r->conf.workloads(r->conf.workloads_self, fn, arg);
    else
        ledger_workloads(r->conf.ledger, fn, arg);
}

static void
look_at_gates(struct rotate *r)
{
    struct plan_replica reps[REPLICAS_MAX];
    const struct plan_settings set = { .hold_replacement = r->conf.hold_replacement,
                                       .replicas_n = r->conf.replicas_n };
    uint64_t start = mono_ms();
    size_t n;

    do { /* a replica may be lost while it tells, and then it has not told all: at most once each */
        n = r->replicas_n;
        for (size_t i = 0; i < n; i++) {
            reps[i] = r->replicas[i].loaded;
            reps[i].name = r->replicas[i].name;
        }
        const struct plan_evidence ev = { reps, n, each_workload, r };
        plan_next(&r->plan, &r->wanted, &ev, &set, &r->step);
    } while (r->replicas_n != n);
    r->gates_ms = mono_ms() - start;
}

/* Of the certificates of the plan and of the wanted set, those that `next` has. */
static int
roots_of(const struct rotate *r, const struct plan *next, struct roots **ret, struct err *e)
{
    struct cert *certs[ROOTS_MAX];
    size_t n = 0;
    CLEANUP(roots_unrefp) struct roots *all = NULL;
    const struct roots *wanted = bundle_roots(r->want);

    for (size_t i = 0; i < next->roots_n; i++) {
        struct cert *c = plan_roots_find(wanted, next->roots[i].id);
        if (c == NULL && r->has_plan)
            c = plan_roots_find(r->roots, next->roots[i].id);
        if (c == NULL)
            return err_set(e, E_STATE, "rotate: a root of the plan has no certificate");
        certs[n++] = c;
    }
    TRY(roots_from_certs(certs, n, &all, e));
    *ret = STEAL(all);
    return 0;
}

/* The lists that will be in force with the wanted signer do not revoke it. */
static int
signer_is_spared(const struct rotate *r, bool with_lists, struct err *e)
{
    if (bundle_lists_spare(r->want, with_lists ? bundle_lists(r->want) : r->lists, e) == 0)
        return 0;
    e->code = E_DENIED;
    return err_wrap(e, "the wanted signer");
}

/* Errors: STATE (the wanted signer has too little life left), DENIED (it is revoked), SYS, LIMIT,
 * NOMEM. */
static int
take(struct rotate *r, const struct plan *next, const struct action *a, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    bool moves = !r->has_plan || !plan_signer_eq(&next->signer, &r->plan.signer);

    int64_t left = bundle_not_after(r->want) - unix_s();
    if (moves && (left <= 0 || left < r->conf.min_life_s))
        return err_set(e, E_STATE,
                       "the chain of the wanted signer ends in %" PRId64 " s; it must have %" PRId64
                       " s left: set a new intermediate",
                       left, r->conf.min_life_s);
    bool with_lists = moves && rotate_lists_are_due(r, r->want);
    if (moves)
        TRY(signer_is_spared(r, with_lists, e));
    TRY(roots_of(r, next, &roots, e));
    TRY(rotate_plan_put(r, next, roots, moves ? r->want : NULL, a, e));
    if (with_lists)
        rotate_lists_go_along(r, r->commit);
    return 0;
}

static void
try_take(struct rotate *r, const struct plan *next, const struct action *a)
{
    struct err e;

    if (mono_ms() < r->retry_at)
        return;
    if (take(r, next, a, &e) < 0)
        rotate_trouble(r,
                       e.code == E_STATE    ? TROUBLE_SHORT_LIFE
                       : e.code == E_DENIED ? TROUBLE_REVOKED
                                            : TROUBLE_STORE,
                       &e);
}

/* Lists alone: the same roots and signer in a new generation, so that everyone who holds an older
 * set is seen to. r: whether the step is under way, or waits for its next try. */
static bool
take_lists(struct rotate *r)
{
    struct action a = { .class = plan_class_name(CLASS_NONE) };
    struct plan next = r->plan;
    struct err e;

    if (!rotate_lists_are_due_now(r))
        return false;
    if (mono_ms() < r->retry_at)
        return true;
    rotate_lists_action(r, &a);
    next.generation++;
    if (rotate_plan_put(r, &next, r->roots, NULL, &a, &e) < 0) {
        rotate_trouble(r, TROUBLE_STORE, &e);
        return true;
    }
    rotate_lists_go_along(r, r->commit);
    return true;
}

static void
floor_raise(uint64_t *floor, uint64_t seen)
{
    if (seen > *floor && seen < GENERATION_MAX) /* the CA refuses such a word; be sure twice */
        *floor = seen;
}

static void
see_generation(const struct ledger_workload *w, void *arg)
{
    floor_raise(arg, w->ack_generation);
    floor_raise(arg, w->min_row_generation);
    for (size_t i = 0; i < w->leaf_roots_n && w->leaf_root_generations != NULL; i++)
        floor_raise(arg, w->leaf_root_generations[i]);
}

static void
wanted_of(const struct bundle *b, const struct sync_versions *v, struct plan_wanted *ret)
{
    const struct roots *roots = bundle_roots(b);

    *ret = (struct plan_wanted){ .roots_n = roots_count(roots) };
    for (size_t i = 0; i < ret->roots_n; i++)
        memcpy(ret->roots[i], cert_id(roots_at(roots, i)), DIGEST_BYTES);
    signer_of(b, v, &ret->signer);
}

/* Rule 4 across a reset: what workloads hold from before must be older. */
static uint64_t
first_generation(struct rotate *r)
{
    uint64_t floor = r->floor > r->conf.floor ? r->floor : r->conf.floor,
             there = target_generation(r);

    floor = there > floor ? there : floor;
    each_workload(r, see_generation, &floor);
    return floor + 1;
}

static void
take_first(struct rotate *r)
{
    struct plan next;
    const struct action a = { .step = "first", .class = "first", .why = "no plan was in force" };

    plan_first(&r->wanted, first_generation(r), &next);
    try_take(r, &next, &a);
}

/* The plan is not there, or older than what this target was given: what is in force is seen in the
 * target alone. As after a renumbering nothing that was acknowledged counts. r: false: there is no
 * set. */
static bool
take_recover(struct rotate *r, const char *what)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    struct set_manifest m = { .generation = 0 };
    struct action a = { .step = "recover", .class = "none" };
    struct plan_wanted found;
    struct plan next;
    struct err e;

    if (r->conf.target.read(r->conf.target.self, &b, &m, &e) != 0 || m.self_signed)
        return false;
    wanted_of(b, &m.versions, &found);
    plan_first(&found, first_generation(r), &next);
    (void)snprintf(a.why, sizeof(a.why),
                   "the plan %s: the set of generation %" PRIu64 " that is there is in force", what,
                   m.generation);
    if (mono_ms() >= r->retry_at && rotate_plan_put(r, &next, bundle_roots(b), b, &a, &e) < 0)
        rotate_trouble(r, TROUBLE_STORE, &e);
    return true;
}

/* Somebody else wrote a higher number over our set. The plan goes on above it, and what workloads
 * have acknowledged may be of that set, so every root counts from now. */
static void
take_renumber(struct rotate *r)
{
    struct plan next = r->plan;
    struct action a = { .step = "renumber", .class = "none" };
    struct err e;

    next.generation = r->ahead + 1;
    for (size_t i = 0; i < next.roots_n; i++)
        next.roots[i].since = next.generation;
    (void)snprintf(a.why, sizeof(a.why),
                   "the folder held generation %" PRIu64 ", newer than the store's %" PRIu64
                   ": the plan goes on above both",
                   r->ahead, r->plan.generation);
    if (mono_ms() >= r->retry_at && rotate_plan_put(r, &next, r->roots, NULL, &a, &e) < 0)
        rotate_trouble(r, TROUBLE_STORE, &e);
}

/* A plan that has lain in the target since we read it is the newest there is. Any other was put
 * back to an older state: its roots may have gone, its signer too. */
static void
take_above(struct rotate *r)
{
    if (r->is_seen || !take_recover(r, "was put back to an older state"))
        take_renumber(r);
}

static void
take_step(struct rotate *r)
{
    struct action a = { .step = plan_step_name(r->step.kind),
                        .class = plan_class_name(r->want_class) };
    bool same_root = memcmp(r->step.next.signer.root_id, r->plan.signer.root_id, DIGEST_BYTES) == 0;

    (void)snprintf(a.why, sizeof(a.why), "%s",
                   r->step.kind == STEP_MOVE_SIGNER && same_root
                       ? "the new intermediate is under the same root, which everyone trusts"
                       : plan_step_why(r->step.kind));
    try_take(r, &r->step.next, &a);
}

void
rotate_look(void *arg)
{
    struct rotate *r = arg;
    bool waits = false;

    r->poked = false;
    if (r->commit != NULL)
        return;
    if (r->has_plan && (r->lagging || mono_ms() >= r->target_look_at))
        target_bring_up(r, true);
    if (r->has_plan && !r->lagging &&
        (r->trouble == TROUBLE_TARGET || r->trouble == TROUBLE_SIGNER))
        rotate_trouble_over(r);

    if (r->has_plan && r->lagging) {
        waits = true;
        if (r->ahead != 0)
            take_above(r);
    } else if (!r->has_plan && r->conf.recovers && take_recover(r, "was lost")) {
        waits = true;
    } else if (r->want != NULL && !r->has_plan) {
        waits = true;
        take_first(r);
    } else if (r->want != NULL) {
        look_at_gates(r);
        waits = r->step.kind != STEP_NONE;
        if (r->step.kind == STEP_HELD)
            rotate_log_held(r);
        if (r->step.kind != STEP_HELD && r->step.kind != STEP_NONE)
            take_step(r);
        else if (!take_lists(r))
            rotate_trouble_over(r); /* nothing is to be stored now */
    }
    rotate_metrics(r);
    if (r->commit == NULL)
        rotate_look_soon(r, waits ? GATE_LOOK_MS : TARGET_LOOK_MS);
}

/* -- public --------------------------------------------------------------------------------------
 */

int
rotate_new(struct loop *l, const struct rotate_conf *conf, struct rotate **ret, struct err *e)
{
    CLEANUP(rotate_freep) struct rotate *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return err_nomem(e);
    r->loop = l;
    r->conf = *conf;
    TRY(timer_new(l, rotate_look, r, &r->timer, e));
    TRY(r->conf.plans.floor(r->conf.plans.self, &r->floor, e));
    TRY(rotate_plan_load(r, e));
    rotate_lists_recall(r);
    if (r->has_plan)
        target_bring_up(r, false);
    rotate_metrics(r);
    rotate_look_soon(r, 0);
    *ret = STEAL(r);
    return 0;
}

void
rotate_free(struct rotate *r)
{
    if (r == NULL)
        return;
    if (r->commit != NULL)
        r->commit->r = NULL;
    if (r->fetch != NULL)
        r->fetch->r = NULL;
    timer_free(r->timer);
    roots_unref(r->roots);
    crls_unref(r->lists);
    bundle_unref(r->signer);
    bundle_unref(r->want);
    free(r);
}

void
rotate_want(struct rotate *r, struct bundle *b, const struct sync_versions *v)
{
    struct bundle *before = r->want;

    r->want = bundle_ref(b);
    bundle_unref(before);
    wanted_of(b, v, &r->wanted);
    r->want_at = unix_s();
    r->want_class = r->has_plan ? plan_classify(&r->plan, &r->wanted) : CLASS_NONE;
    if (r->has_plan)
        log_with(r->want_class == CLASS_NONE ? LOG_DEBUG : LOG_INFO, "rotate",
                 LABELS({ "class", plan_class_name(r->want_class) }), "the vault's set changed: %s",
                 plan_class_text(r->want_class));
    r->retry_at = 0; /* a new set is tried at once */
    rotate_look_soon(r, 0);
}

static struct replica *
replica_find(struct rotate *r, const char *name)
{
    for (size_t i = 0; i < r->replicas_n; i++)
        if (strcmp(r->replicas[i].name, name) == 0)
            return &r->replicas[i];
    return NULL;
}

void
rotate_replica_ids(struct rotate *r, const char *replica, uint64_t generation,
                   const uint8_t (*roots)[DIGEST_BYTES], size_t roots_n,
                   const uint8_t signer_id[DIGEST_BYTES])
{
    struct replica *p = replica_find(r, replica);

    if (strlen(replica) >= REPLICA_NAME_BYTES || roots_n > ROOTS_MAX ||
        (p == NULL && r->replicas_n == REPLICAS_MAX)) {
        log_warn("rotate", "CA replica %.*s is not taken: its name is too long, or there are %d",
                 (int)REPLICA_NAME_BYTES, replica, (int)REPLICAS_MAX);
        return;
    }
    if (p == NULL) {
        p = &r->replicas[r->replicas_n++];
        (void)snprintf(p->name, sizeof(p->name), "%s", replica);
    }
    p->loaded = (struct plan_replica){ .generation = generation, .roots_n = roots_n };
    memcpy(p->loaded.roots, roots, roots_n * DIGEST_BYTES);
    memcpy(p->loaded.signer_id, signer_id, DIGEST_BYTES);
    rotate_look_soon(r, 0);
}

void
rotate_replica(struct rotate *r, const char *replica, uint64_t generation,
               const struct roots *roots, const uint8_t signer_id[DIGEST_BYTES])
{
    uint8_t ids[ROOTS_MAX][DIGEST_BYTES];
    size_t n = roots_count(roots);

    for (size_t i = 0; i < n && i < ROOTS_MAX; i++)
        memcpy(ids[i], cert_id(roots_at(roots, i)), DIGEST_BYTES);
    rotate_replica_ids(r, replica, generation, (const uint8_t(*)[DIGEST_BYTES])ids, n, signer_id);
}

void
rotate_expect(struct rotate *r, size_t replicas_n)
{
    if (r->conf.replicas_n == replicas_n)
        return;
    r->conf.replicas_n = replicas_n;
    rotate_look_soon(r, 0);
}

void
rotate_replica_gone(struct rotate *r, const char *replica)
{
    struct replica *p = replica_find(r, replica);

    if (p == NULL)
        return;
    *p = r->replicas[--r->replicas_n];
    rotate_look_soon(r, 0);
}

void
rotate_poke(struct rotate *r)
{
    /* A settled fleet acknowledges and renews all the time; only a held step is waiting for it. */
    if (r->step.kind == STEP_HELD && !r->poked) {
        r->poked = true;
        rotate_look_soon(r, POKE_MS + POKE_SHARE * r->gates_ms);
    }
}

void
rotate_target_moved(struct rotate *r, const struct err *why)
{
    r->is_writing = false;
    r->target_look_at = 0;
    if (why != NULL)
        rotate_trouble(r, TROUBLE_TARGET, why);
    rotate_look_soon(r, why == NULL ? 0 : r->retry_ms);
}

static int
force_refused(struct rotate *r, struct err *e)
{
    if (r->commit != NULL)
        return err_set(e, E_BUSY, "rotate: a step is being taken just now; look again");
    if (!r->has_plan || r->want == NULL)
        return err_set(e, E_BUSY, "rotate: nothing is held: no set has come from the vault yet");
    if (r->trouble != TROUBLE_NONE)
        return err_set(e, E_STATE, "rotate: this cannot be forced: %s", r->trouble_why.msg);
    if (r->lagging)
        return err_set(e, E_BUSY, "rotate: the last step has not reached the CA yet; look again");
    look_at_gates(r);
    if (r->step.kind != STEP_HELD)
        return err_set(e, E_STATE, "rotate: nothing is held");
    if (r->step.hold == HOLD_ROOTS_MAX)
        return err_set(e, E_STATE, "rotate: this cannot be forced: %s", r->step.detail);
    return 0;
}

int
rotate_force(struct rotate *r, const char *only, json_t **ret_risk, struct err *e)
{
    struct action a = { .class = plan_class_name(r->want_class), .forced = true };
    char word[ROTATE_WORD_BYTES];

    TRY(force_refused(r, e));
    rotate_word(r, word);
    if (only != NULL && strcmp(only, word) != 0)
        return err_set(e, E_STATE, "rotate: another step is held, %s: %s", word, r->step.detail);
    a.step = plan_step_name(r->step.gated);
    (void)snprintf(a.why, sizeof(a.why), "forced past its gate (%s)", plan_hold_name(r->step.hold));
    json_t *risk = json_pack(
        "{s:s, s:s, s:s, s:I, s:o, s:I}", "step", a.step, "reason", plan_hold_name(r->step.hold),
        "detail", r->step.detail, "generation", (json_int_t)r->step.next.generation, "at_risk",
        waits_to_json(&r->step), "at_risk_total", (json_int_t)r->step.waits_total);
    if (risk == NULL)
        return err_nomem(e);
    struct plan next = r->step.next;
    memcpy(next.forced, word, sizeof(word));
    int done = take(r, &next, &a, e);
    if (done < 0) {
        json_decref(risk);
        return done;
    }
    log_with(LOG_WARN, "rotate", LABELS({ "step", a.step }),
             "FORCED past its gate, %zu may be stranded: %s", r->step.waits_total, r->step.detail);
    for (size_t i = 0; i < r->step.waits_n; i++)
        log_with(LOG_WARN, "rotate", LABELS({ "instance", r->step.waits[i].instance }),
                 "at risk: %s %s", r->step.waits[i].identity, r->step.waits[i].why);
    *ret_risk = risk;
    return 0;
}

int
rotate_forced(const struct rotate *r, struct err *e)
{
    if (r->commit != NULL && r->commit->action.forced)
        return ROTATE_STORING;
    *e = r->forced;
    return e->code == E_NONE ? 0 : err_result(e);
}

bool
rotate_was_forced(const struct rotate *r, const char *word)
{
    return r->has_plan && word[0] != '\0' && strcmp(r->plan.forced, word) == 0;
}

uint64_t
rotate_generation(const struct rotate *r)
{
    return r->has_plan ? r->plan.generation : r->floor;
}

bool
rotate_in_force(const struct rotate *r, struct rotate_in_force *ret)
{
    if (!r->has_plan)
        return false;
    *ret = (struct rotate_in_force){ .generation = r->plan.generation, .roots = r->roots };
    memcpy(ret->signer_id, r->plan.signer.id, DIGEST_BYTES);
    memcpy(ret->signer_root, r->plan.signer.root_id, DIGEST_BYTES);
    return true;
}

int
rotate_reset(struct rotate *r, struct err *e)
{
    uint64_t generation = r->has_plan ? r->plan.generation : 0;

    if (r->commit != NULL && r->commit->next.generation > generation)
        generation = r->commit->next.generation;
    if (generation > 0)
        TRY(r->conf.plans.forget(r->conf.plans.self, generation, e));
    if (r->commit != NULL)
        r->commit->r = NULL; /* it was queued before, so it is undone already */
    if (r->fetch != NULL)
        r->fetch->r = NULL;
    r->commit = NULL;
    r->fetch = NULL;
    r->has_plan = r->lagging = r->is_writing = false;
    r->floor = generation > r->floor ? generation : r->floor;
    r->revision = r->ahead = 0;
    bundle_unref(STEAL(r->want));
    bundle_unref(STEAL(r->signer));
    roots_unref(STEAL(r->roots));
    rotate_lists_forget(r);
    r->replicas_n = 0;
    r->step.kind = STEP_NONE;
    rotate_trouble_over(r);
    log_info("rotate", "reset: generation %" PRIu64 " and the wanted set are forgotten",
             generation);
    rotate_metrics(r);
    return 0;
}
