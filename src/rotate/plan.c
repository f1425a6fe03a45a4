#include "rotate/plan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/str.h"

/* clang-format off */
static const struct {
    const char *name, *why;
} steps[STEP__N] = {
    [STEP_NONE] = { "none", "" },
    [STEP_WIDEN] = { "widen", "trusting one root more strands nobody" },
    [STEP_MOVE_SIGNER] = { "move signer", "every replica hands out its root, and every workload with a leaf in use has it" },
    [STEP_NARROW] = { "narrow", "the signer has moved on every replica, and no leaf in use chains to a root that goes" },
    [STEP_HELD] = { "held", "" },
};
/* clang-format on */

static const char *const holds[HOLD__N] = {
    [HOLD_NONE] = "none",     [HOLD_REPLICAS] = "replicas",       [HOLD_TRUST] = "trust",
    [HOLD_LEAVES] = "leaves", [HOLD_REPLACEMENT] = "replacement", [HOLD_ROOTS_MAX] = "roots_max",
};

const char *
plan_step_name(enum plan_step_kind k)
{
    return steps[k].name;
}

const char *
plan_step_why(enum plan_step_kind k)
{
    return steps[k].why;
}

const char *
plan_hold_name(enum plan_hold h)
{
    return holds[h];
}

static bool
id_eq(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, DIGEST_BYTES) == 0;
}

static bool
ids_have(const uint8_t (*ids)[DIGEST_BYTES], size_t n, const uint8_t *id)
{
    for (size_t i = 0; i < n; i++)
        if (id_eq(ids[i], id))
            return true;
    return false;
}

const struct plan_root *
plan_find_root(const struct plan *p, const uint8_t id[DIGEST_BYTES])
{
    for (size_t i = 0; i < p->roots_n; i++)
        if (id_eq(p->roots[i].id, id))
            return &p->roots[i];
    return NULL;
}

bool
plan_signer_eq(const struct plan_signer *a, const struct plan_signer *b)
{
    return id_eq(a->id, b->id) && id_eq(a->root_id, b->root_id) && id_eq(a->chain_id, b->chain_id);
}

static void
plan_add_root(struct plan *p, const uint8_t *id, uint64_t since)
{
    struct plan_root *r = &p->roots[p->roots_n++];

    memcpy(r->id, id, DIGEST_BYTES);
    r->since = since;
}

void
plan_first(const struct plan_wanted *w, uint64_t generation, struct plan *ret)
{
    *ret = (struct plan){ .generation = generation, .signer = w->signer };
    for (size_t i = 0; i < w->roots_n; i++)
        plan_add_root(ret, w->roots[i], generation);
}

/* The first four bytes are enough for a person to tell roots apart; status has them whole. */
enum { SHORT_BYTES = 4, SHORT_TEXT_BYTES = 2 * SHORT_BYTES + 1 };

static void
short_text(const uint8_t *id, char ret[SHORT_TEXT_BYTES])
{
    hex_text(span_of(id, SHORT_BYTES), ret);
}

/* -- gates ---------------------------------------------------------------------------------------
 */

struct gate {
    const struct plan *plan;
    const struct plan_settings *set;
    struct plan_step *step;
    const struct plan_root *root; /* move: the one that is to sign */
    size_t go[ROOTS_MAX];         /* narrow: indices of the roots that are to go */
    size_t go_n;
    bool busy[ROOTS_MAX]; /* by index in go */
};

static bool
applies(const struct gate *g, enum plan_rule rule)
{
    return (g->set->left_out & (unsigned)rule) == 0;
}

/* Counts one that is waited for; the first few are kept by name. */
static void PRINTF(5, 6) wait_add(struct plan_step *st, const char *identity, const char *instance,
                                  int64_t until, const char *fmt, ...)
{
    st->waits_total++;
    if (st->waits_n >= PLAN_WAITS_MAX)
        return;
    struct plan_wait *w = &st->waits[st->waits_n++];
    (void)snprintf(w->identity, sizeof(w->identity), "%s", identity);
    (void)snprintf(w->instance, sizeof(w->instance), "%s", instance);
    w->until = until;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(w->why, sizeof(w->why), fmt, ap);
    va_end(ap);
}

static void PRINTF(4, 5)
    hold(struct plan_step *st, enum plan_step_kind gated, enum plan_hold why, const char *fmt, ...)
{
    st->kind = STEP_HELD;
    st->gated = gated;
    st->hold = why;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(st->detail, sizeof(st->detail), fmt, ap);
    va_end(ap);
}

/* Fewer replicas than there must be: one that has not spoken may hand out anything. */
static size_t
replicas_missing(const struct plan_evidence *ev, const struct gate *g)
{
    return ev->replicas_n >= g->set->replicas_n || !applies(g, RULE_REPLICA_TRUST)
               ? 0
               : g->set->replicas_n - ev->replicas_n;
}

/* -- rule 2: the signer moves --------------------------------------------------------------------
 */

static bool
replica_hands_out(const struct gate *g, const struct plan_replica *r)
{
    return !applies(g, RULE_REPLICA_TRUST) ||
           (ids_have(r->roots, r->roots_n, g->root->id) &&
            (!applies(g, RULE_REPLICA_GENERATION) || r->generation >= g->root->since));
}

/* A leaf's answer carries the trust set of its generation, so one whose every leaf is as new as the
 * root trusts it, said or not. That is all there is to know of a client that cannot acknowledge. */
static void
move_see_silent(struct gate *g, const struct ledger_workload *w)
{
    if (!applies(g, RULE_ROW_GENERATION) || w->min_row_generation >= g->root->since)
        return;
    wait_add(g->step, w->identity, w->instance, w->last_not_after,
             "cannot acknowledge, and uses a leaf of generation %" PRIu64 ", older than %" PRIu64,
             w->min_row_generation, g->root->since);
    g->step->workloads_waiting++;
}

static void
move_see(const struct ledger_workload *w, void *arg)
{
    struct gate *g = arg;

    g->step->workloads_n++;
    if (!w->can_acknowledge) {
        move_see_silent(g, w);
        return;
    }
    bool has = ids_have(w->ack_roots, w->ack_roots_n, g->root->id);
    bool fresh = w->ack_generation >= g->root->since;
    if (!applies(g, RULE_WORKLOAD_TRUST) || (has && (fresh || !applies(g, RULE_ACK_GENERATION))))
        return;
    if (w->ack_generation == 0)
        wait_add(g->step, w->identity, w->instance, w->last_not_after,
                 "has not acknowledged any trust set");
    else
        wait_add(g->step, w->identity, w->instance, w->last_not_after,
                 "has acknowledged generation %" PRIu64 " %s the root; needs %" PRIu64 " or later",
                 w->ack_generation, has ? "with" : "without", g->root->since);
    g->step->workloads_waiting++;
}

static void
next_move(struct gate *g, const struct plan_wanted *w, const struct plan_evidence *ev)
{
    struct plan_step *st = g->step;
    bool same_root = id_eq(g->plan->signer.root_id, w->signer.root_id);

    st->kind = STEP_MOVE_SIGNER;
    st->next.signer = w->signer;
    /* Leaves sign under this root already, so by rule 2 everyone has it. */
    if (same_root)
        return;
    g->root = plan_find_root(g->plan, w->signer.root_id);
    assert(g->root != NULL); /* widened before; bundle_new checks that it is among the wanted */

    for (size_t i = 0; i < ev->replicas_n; i++)
        if (!replica_hands_out(g, &ev->replicas[i]))
            wait_add(st, ev->replicas[i].name, "", 0,
                     "CA replica: hands out generation %" PRIu64 "; needs %" PRIu64 " or later",
                     ev->replicas[i].generation, g->root->since);
    size_t waiting = st->waits_total + replicas_missing(ev, g);
    ev->workloads(ev->self, move_see, g);

    char root[SHORT_TEXT_BYTES];
    short_text(g->root->id, root);
    if (waiting > 0)
        hold(st, STEP_MOVE_SIGNER, HOLD_REPLICAS,
             "%zu CA replica(s) do not hand out root %s yet, and %zu of %zu workload(s) have not "
             "acknowledged it in generation %" PRIu64 " or later",
             waiting, root, st->workloads_waiting, st->workloads_n, g->root->since);
    else if (st->workloads_waiting > 0)
        hold(st, STEP_MOVE_SIGNER, HOLD_TRUST,
             "%zu of %zu workload(s) have not acknowledged root %s in generation %" PRIu64
             " or later",
             st->workloads_waiting, st->workloads_n, root, g->root->since);
}

/* -- rule 3: a root goes -------------------------------------------------------------------------
 */

static bool
replica_has_moved(const struct gate *g, const struct plan_replica *r)
{
    return !applies(g, RULE_REPLICA_SIGNER) ||
           (id_eq(r->signer_id, g->plan->signer.id) &&
            (!applies(g, RULE_SIGNER_GENERATION) || r->generation >= g->plan->generation));
}

static void
narrow_see(const struct ledger_workload *w, void *arg)
{
    struct gate *g = arg;
    const uint8_t *first = NULL;

    g->step->workloads_n++;
    for (size_t i = 0; i < g->go_n; i++) {
        const uint8_t *id = g->plan->roots[g->go[i]].id;
        if (!ids_have(w->leaf_roots, w->leaf_roots_n, id))
            continue;
        g->busy[i] = true;
        first = first == NULL ? id : first;
    }
    if (first == NULL)
        return;
    char root[SHORT_TEXT_BYTES];
    short_text(first, root);
    wait_add(g->step, w->identity, w->instance, w->last_not_after,
             "a leaf in use chains to root %s, which is to go", root);
    g->step->workloads_waiting++;
}

/* The plan without the roots that go; `only_free` keeps those that a leaf in use needs. */
static void
drop_roots(const struct gate *g, bool only_free, struct plan *next)
{
    size_t k = 0;

    next->roots_n = 0;
    for (size_t i = 0; i < g->plan->roots_n; i++) {
        bool goes = k < g->go_n && g->go[k] == i;
        bool kept = goes && only_free && g->busy[k];
        k += goes;
        if (!goes || kept)
            plan_add_root(next, g->plan->roots[i].id, g->plan->roots[i].since);
    }
}

static void
next_narrow(struct gate *g, const struct plan_wanted *w, const struct plan_evidence *ev)
{
    struct plan_step *st = g->step;
    size_t busy = 0;

    for (size_t i = 0; i < g->plan->roots_n; i++)
        if (!ids_have(w->roots, w->roots_n, g->plan->roots[i].id))
            g->go[g->go_n++] = i;
    for (size_t i = 0; i < ev->replicas_n; i++)
        if (!replica_has_moved(g, &ev->replicas[i]))
            wait_add(st, ev->replicas[i].name, "", 0,
                     "CA replica: has loaded generation %" PRIu64 "; needs %" PRIu64
                     " with the new signer",
                     ev->replicas[i].generation, g->plan->generation);
    size_t waiting = st->waits_total + replicas_missing(ev, g);
    if (applies(g, RULE_LEDGER))
        ev->workloads(ev->self, narrow_see, g);
    for (size_t i = 0; i < g->go_n; i++)
        busy += g->busy[i];

    st->kind = STEP_NARROW;
    bool held = waiting > 0 || busy == g->go_n;
    drop_roots(g, !held, &st->next);
    if (waiting > 0)
        hold(st, STEP_NARROW, HOLD_REPLICAS,
             "%zu CA replica(s) have not loaded the signer of generation %" PRIu64 " yet", waiting,
             g->plan->generation);
    else if (held)
        hold(st, STEP_NARROW, HOLD_LEAVES,
             "%zu of %zu workload(s) use a leaf that chains to a root that is to go",
             st->workloads_waiting, st->workloads_n);
}

/* -- rule 1: widen first, and which of the three ------------------------------------------------
 */

static void
next_widen(struct gate *g, const struct plan_wanted *w, size_t added)
{
    struct plan_step *st = g->step;

    st->kind = STEP_WIDEN;
    if (g->plan->roots_n + added > ROOTS_MAX) {
        hold(st, STEP_WIDEN, HOLD_ROOTS_MAX,
             "%zu roots in force and %zu new ones are more than the %d that a trust set may hold; "
             "remove roots first, then add",
             g->plan->roots_n, added, (int)ROOTS_MAX);
        st->next = *g->plan;
        return;
    }
    for (size_t i = 0; i < w->roots_n; i++)
        if (plan_find_root(g->plan, w->roots[i]) == NULL)
            plan_add_root(&st->next, w->roots[i], st->next.generation);
}

void
plan_next(const struct plan *p, const struct plan_wanted *w, const struct plan_evidence *ev,
          const struct plan_settings *s, struct plan_step *ret)
{
    struct gate g = { .plan = p, .set = s, .step = ret };
    enum plan_class class = plan_classify(p, w);
    size_t added = 0;

    ret->kind = ret->gated = STEP_NONE;
    ret->hold = HOLD_NONE;
    ret->detail[0] = '\0';
    ret->waits_n = ret->waits_total = ret->workloads_waiting = ret->workloads_n = 0;
    ret->next = *p;
    if (class == CLASS_NONE)
        return;
    ret->next.generation = p->generation + 1; /* rule 4 */

    for (size_t i = 0; i < w->roots_n; i++)
        added += plan_find_root(p, w->roots[i]) == NULL;
    if (!applies(&g, RULE_WIDEN_FIRST)) {
        plan_first(w, ret->next.generation, &ret->next);
        ret->kind = STEP_NARROW;
    } else if (added > 0)
        next_widen(&g, w, added);
    else if (!plan_signer_eq(&p->signer, &w->signer))
        next_move(&g, w, ev);
    else
        next_narrow(&g, w, ev);

    if (s->hold_replacement && class == CLASS_ROOT_REPLACED && ret->kind == STEP_WIDEN)
        hold(ret, STEP_WIDEN, HOLD_REPLACEMENT,
             "the roots wanted replace the roots in force, and the settings leave that to a "
             "person: set root-cert to old and new together first, or force this step");
}
