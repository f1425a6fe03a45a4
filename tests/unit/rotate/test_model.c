/* model/rotation.pml played against plan.c itself, at random, with more in it than spin can hold:
 * replicas that read the plan and load it later, words and trust sets that come late and out of
 * order, a client that cannot acknowledge, kills without a word, expiry, a controller that forgets
 * what replicas told it. Invariant 2 is checked after every event. Then each rule is left out in
 * turn, and the same play must strand a workload: so the test can fail. */
#include "unit.h"

#include <inttypes.h>
#include <stdio.h>

#include "rotate/plan.h"

enum {
    ROOTS = 3,
    REPLICAS = 2,
    SLOTS = 3, /* the last one cannot acknowledge */
    INSTANCES = 12,
    ROWS = 8,
    MESSAGES = 24,
    WORDS = 12,
    REPORTS = 6,
    RUNS = 200,
    EVENTS = 2000,
    MUTANT_RUNS = 40000,
    SETTLE_ROUNDS = 400,
};

/* Deviations outside plan.c that the rules forbid, above the bits of enum plan_rule. */
enum { WORLD_GENERATION = 1 << 16 /* rule 4: a workload uses what is older than what it holds */ };

/* What is distributed: a set of roots as bits, a signer as 1 + 2 * root + variant. */
struct view {
    uint64_t generation;
    unsigned roots, signer;
};

struct row {
    bool live;
    unsigned root;
    uint64_t generation, number;
};

struct instance {
    bool used, alive, can_ack;
    size_t slot;
    uint64_t ack_generation;
    unsigned ack_roots;
    struct row rows[ROWS];
};

struct slot {
    bool up;
    struct instance *in; /* NULL: not even starting */
    unsigned trust;
    uint64_t trust_generation, request;
    struct row *leaf;
    uint64_t leaf_number;
};

struct message {
    bool used;
    struct instance *in;
    size_t slot;
    struct view view;
    struct row *leaf; /* NULL: a trust set only */
    uint64_t leaf_number, request;
};

struct word {
    bool used;
    struct instance *in;
    size_t slot;
    unsigned trust;
    uint64_t generation, leaf_number, life;
};

struct report {
    bool used;
    size_t replica;
    struct view view;
};

struct world {
    uint64_t random, rows, requests, lives;
    unsigned left_out;
    unsigned roots;      /* of this run */
    bool slow[REPLICAS]; /* it has read the plan, and takes its time to load it */
    bool cut[SLOTS];     /* cut off: no word gets in or out */
    struct plan plan;
    struct plan_wanted want;
    struct plan_settings set;
    struct view folder, loaded[REPLICAS], reading[REPLICAS];
    bool is_reading[REPLICAS], known[REPLICAS];
    struct view told[REPLICAS];
    struct instance instances[INSTANCES];
    uint64_t life[INSTANCES];
    struct slot slots[SLOTS];
    struct message messages[MESSAGES];
    struct word words[WORDS];
    struct report reports[REPORTS];
    size_t steps_by_kind[STEP__N];
};

static uint64_t
roll(struct world *w, uint64_t n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (w->random >> 11) % n;
}

static void
root_id(unsigned r, uint8_t ret[DIGEST_BYTES])
{
    memset(ret, 0, DIGEST_BYTES);
    ret[0] = (uint8_t)(0xa0 + r);
}

static unsigned
root_of_id(const uint8_t id[DIGEST_BYTES])
{
    return id[0] - 0xa0U;
}

static void
make_want(unsigned mask, unsigned root, unsigned variant, struct plan_wanted *ret)
{
    *ret = (struct plan_wanted){ .roots_n = 0 };
    for (unsigned r = 0; r < ROOTS; r++)
        if (mask & (1U << r))
            root_id(r, ret->roots[ret->roots_n++]);
    root_id(root, ret->signer.root_id);
    ret->signer.id[0] = (uint8_t)(1 + 2 * root + variant);
}

static struct view
view_of(const struct plan *p)
{
    struct view v = { .generation = p->generation, .signer = p->signer.id[0] };

    for (size_t i = 0; i < p->roots_n; i++)
        v.roots |= 1U << root_of_id(p->roots[i].id);
    return v;
}

/* -- the invariant -------------------------------------------------------------------------------
 */

static bool
serves(const struct slot *s)
{
    return s->up && s->leaf != NULL && s->leaf->live;
}

static bool
somebody_is_stranded(const struct world *w)
{
    for (size_t i = 0; i < SLOTS; i++)
        for (size_t j = 0; j < SLOTS; j++)
            if (serves(&w->slots[i]) && serves(&w->slots[j]) &&
                (w->slots[j].trust & (1U << w->slots[i].leaf->root)) == 0)
                return true;
    return false;
}

/* -- evidence ------------------------------------------------------------------------------------
 */

static void
each_workload(void *self, ledger_workload_fn *fn, void *arg)
{
    struct world *w = self;

    for (size_t i = 0; i < INSTANCES; i++) {
        const struct instance *in = &w->instances[i];
        uint8_t leaf[ROWS][DIGEST_BYTES], ack[ROOTS][DIGEST_BYTES];
        struct ledger_workload x = { .identity = "spiffe://x/w",
                                     .instance = in->can_ack ? "i" : "",
                                     .can_acknowledge = in->can_ack,
                                     .ack_generation = in->ack_generation,
                                     .min_row_generation = UINT64_MAX };
        for (unsigned r = 0; r < ROOTS; r++)
            if (in->ack_roots & (1U << r))
                root_id(r, ack[x.ack_roots_n++]);
        for (size_t k = 0; k < ROWS; k++) {
            if (!in->rows[k].live)
                continue;
            root_id(in->rows[k].root, leaf[x.leaf_roots_n++]);
            x.leaves_n++;
            if (in->rows[k].generation < x.min_row_generation)
                x.min_row_generation = in->rows[k].generation;
        }
        x.ack_roots = (const uint8_t(*)[DIGEST_BYTES])ack;
        x.leaf_roots = (const uint8_t(*)[DIGEST_BYTES])leaf;
        if (in->used && x.leaves_n > 0)
            fn(&x, arg);
    }
}

/* -- the controller ------------------------------------------------------------------------------
 */

static void
do_step(struct world *w)
{
    static struct plan_step st;
    struct plan_replica reps[REPLICAS];
    size_t n = 0;

    for (size_t r = 0; r < REPLICAS; r++) {
        if (!w->known[r])
            continue;
        reps[n] = (struct plan_replica){ .name = "r", .generation = w->told[r].generation };
        reps[n].signer_id[0] = (uint8_t)w->told[r].signer;
        for (unsigned k = 0; k < ROOTS; k++)
            if (w->told[r].roots & (1U << k))
                root_id(k, reps[n].roots[reps[n].roots_n++]);
        n++;
    }
    struct plan_evidence ev = { reps, n, each_workload, w };
    plan_next(&w->plan, &w->want, &ev, &w->set, &st);
    w->steps_by_kind[st.kind]++;
    if (st.kind == STEP_NONE || st.kind == STEP_HELD)
        return;
    assert_int_equal(st.next.generation, w->plan.generation + 1);
    w->plan = st.next;
}

static void
do_want(struct world *w)
{
    unsigned mask = 1 + (unsigned)roll(w, (1U << w->roots) - 1), root;

    if (roll(w, plan_classify(&w->plan, &w->want) == CLASS_NONE ? 1 : 12) != 0)
        return;
    do
        root = (unsigned)roll(w, w->roots);
    while ((mask & (1U << root)) == 0);
    make_want(mask, root, roll(w, 4) == 0, &w->want);
}

static void
do_folder(struct world *w)
{
    w->folder = view_of(&w->plan);
}

static void
do_forget(struct world *w)
{
    if (roll(w, 60) == 0)
        memset(w->known, 0, sizeof(w->known));
}

/* -- replicas ------------------------------------------------------------------------------------
 */

static void
do_read(struct world *w)
{
    size_t r = roll(w, REPLICAS);

    if (w->is_reading[r])
        return;
    w->is_reading[r] = true;
    w->reading[r] = w->folder;
}

static void
tell(struct world *w, size_t r)
{
    for (size_t i = 0; i < REPORTS; i++)
        if (!w->reports[i].used) {
            w->reports[i] = (struct report){ true, r, w->loaded[r] };
            return;
        }
}

static void
do_load(struct world *w)
{
    size_t r = roll(w, REPLICAS);

    if (!w->is_reading[r] || w->slow[r])
        return;
    w->is_reading[r] = false;
    if (w->reading[r].generation >= w->loaded[r].generation)
        w->loaded[r] = w->reading[r];
    tell(w, r);
}

static void
do_tell(struct world *w)
{
    tell(w, roll(w, REPLICAS));
}

static void
do_report(struct world *w)
{
    struct report *p = &w->reports[roll(w, REPORTS)];

    for (size_t i = 0; i < REPORTS && !p->used; i++)
        p = &w->reports[roll(w, REPORTS)];
    if (!p->used)
        return;
    p->used = false;
    if (w->known[p->replica] && w->told[p->replica].generation > p->view.generation)
        return;
    w->known[p->replica] = true;
    w->told[p->replica] = p->view;
}

static struct message *
message_new(struct world *w, size_t slot, size_t replica)
{
    for (size_t i = 0; i < MESSAGES; i++)
        if (!w->messages[i].used) {
            w->messages[i] = (struct message){
                .used = true, .in = w->slots[slot].in, .slot = slot, .view = w->loaded[replica]
            };
            return &w->messages[i];
        }
    return NULL;
}

static void
do_push(struct world *w)
{
    size_t s = roll(w, SLOTS);

    if (w->slots[s].up && w->slots[s].in->can_ack && !w->cut[s])
        (void)message_new(w, s, roll(w, REPLICAS));
}

static struct instance *
instance_new(struct world *w, size_t slot)
{
    for (size_t i = 0; i < INSTANCES; i++)
        if (!w->instances[i].used) {
            w->instances[i] = (struct instance){
                .used = true, .alive = true, .can_ack = slot != SLOTS - 1, .slot = slot
            };
            w->life[i] = ++w->lives;
            return &w->instances[i];
        }
    return NULL;
}

/* A workload asks (or gives up on its last request and asks again): row first, then the answer. */
static void
ask(struct world *w, size_t s, size_t replica)
{
    struct slot *sl = &w->slots[s];
    struct row *row = NULL;

    if (sl->in == NULL)
        sl->in = instance_new(w, s);
    if (sl->in == NULL)
        return;
    for (size_t i = 0; i < ROWS && row == NULL; i++)
        row = sl->in->rows[i].live ? NULL : &sl->in->rows[i];
    struct message *m = row == NULL ? NULL : message_new(w, s, replica);
    if (m == NULL)
        return;
    *row = (struct row){ true, (w->loaded[replica].signer - 1) / 2, w->loaded[replica].generation,
                         ++w->rows };
    m->leaf = row;
    m->leaf_number = row->number;
    m->request = sl->request = ++w->requests;
}

static void
do_ask(struct world *w)
{
    size_t s = roll(w, SLOTS);

    if (!w->cut[s])
        ask(w, s, roll(w, REPLICAS));
}

/* -- workloads -----------------------------------------------------------------------------------
 */

static void
deliver(struct world *w, struct message *m)
{
    struct slot *s = &w->slots[m->slot];
    bool is_leaf = m->leaf != NULL;

    m->used = false;
    if (s->in != m->in || s->in == NULL || (!s->up && !is_leaf))
        return;
    if (is_leaf &&
        (m->request != s->request || !m->leaf->live || m->leaf->number != m->leaf_number))
        return; /* the answer to a request given up, or a leaf that has expired */
    bool old = s->up && m->view.generation < s->trust_generation;
    if (old && s->in->can_ack && (w->left_out & WORLD_GENERATION) == 0)
        return;
    s->trust = m->view.roots;
    s->trust_generation = m->view.generation;
    if (!is_leaf)
        return;
    s->leaf = m->leaf;
    s->leaf_number = m->leaf_number;
    s->up = true;
    s->request = 0;
}

static void
do_cut(struct world *w)
{
    size_t s = roll(w, SLOTS), r = roll(w, REPLICAS);

    if (roll(w, w->cut[s] ? 12 : 8) == 0)
        w->cut[s] = !w->cut[s];
    if (roll(w, w->slow[r] ? 12 : 8) == 0)
        w->slow[r] = !w->slow[r];
}

static void
do_deliver(struct world *w)
{
    struct message *m = &w->messages[roll(w, MESSAGES)];

    for (size_t i = 0; i < MESSAGES && !m->used; i++)
        m = &w->messages[roll(w, MESSAGES)];
    struct message copy = *m;
    if (!m->used || w->cut[m->slot])
        return;
    deliver(w, m);
    if (copy.leaf == NULL && roll(w, 3) == 0)
        *m = copy; /* the network delivers it once more, later */
}

static void
do_lose(struct world *w)
{
    w->messages[roll(w, MESSAGES)].used = false;
}

static void
say(struct world *w, size_t s)
{
    struct slot *sl = &w->slots[s];

    if (!sl->up || !sl->in->can_ack)
        return;
    for (size_t i = 0; i < WORDS; i++)
        if (!w->words[i].used) {
            w->words[i] = (struct word){ true,
                                         sl->in,
                                         s,
                                         sl->trust,
                                         sl->trust_generation,
                                         sl->leaf == NULL ? 0 : sl->leaf_number,
                                         w->life[sl->in - w->instances] };
            return;
        }
}

static void
do_say(struct world *w)
{
    size_t s = roll(w, SLOTS);

    if (!w->cut[s])
        say(w, s);
}

static void
hear(struct world *w, struct word *d)
{
    d->used = false;
    if (!d->in->used || w->life[d->in - w->instances] != d->life ||
        d->generation < d->in->ack_generation)
        return;
    d->in->ack_generation = d->generation;
    d->in->ack_roots = d->trust;
    for (size_t i = 0; i < ROWS; i++)
        if (d->in->rows[i].number < d->leaf_number)
            d->in->rows[i].live = false;
}

static void
do_hear(struct world *w)
{
    struct word *d = &w->words[roll(w, WORDS)];

    for (size_t i = 0; i < WORDS && !d->used; i++)
        d = &w->words[roll(w, WORDS)];
    if (d->used)
        hear(w, d);
}

static void
do_end(struct world *w)
{
    struct slot *s = &w->slots[roll(w, SLOTS)];

    if (roll(w, 20) != 0 || s->in == NULL || !s->in->can_ack)
        return;
    memset(s->in, 0, sizeof(*s->in));
    *s = (struct slot){ .up = false };
}

static void
do_kill(struct world *w)
{
    struct slot *s = &w->slots[roll(w, SLOTS)];

    if (roll(w, 30) != 0 || s->in == NULL)
        return;
    s->in->alive = false;
    *s = (struct slot){ .up = false };
}

static void
expire(struct world *w, struct instance *in, struct row *row)
{
    struct slot *s = &w->slots[in->slot];
    bool any = false;

    if (s->leaf == row && s->in == in)
        s->leaf = NULL;
    row->live = false;
    for (size_t i = 0; i < ROWS; i++)
        any |= in->rows[i].live;
    if (!in->alive && !any)
        memset(in, 0, sizeof(*in));
}

static void
do_expire(struct world *w)
{
    struct instance *in = &w->instances[roll(w, INSTANCES)];
    struct row *row = &in->rows[roll(w, ROWS)];

    bool in_hand = w->slots[in->slot].in == in && w->slots[in->slot].leaf == row;
    if (in->used && row->live && roll(w, in_hand ? 20 : 1) == 0)
        expire(w, in, row);
}

/* -- the play ------------------------------------------------------------------------------------
 */

typedef void event_fn(struct world *w);
static const struct {
    event_fn *fn;
    unsigned weight;
} events[] = {
    { do_want, 1 },    { do_step, 8 }, { do_folder, 6 },  { do_forget, 1 }, { do_read, 6 },
    { do_load, 12 },   { do_tell, 1 }, { do_report, 6 },  { do_push, 3 },   { do_ask, 3 },
    { do_deliver, 7 }, { do_lose, 1 }, { do_say, 3 },     { do_hear, 4 },   { do_end, 1 },
    { do_kill, 1 },    { do_cut, 3 },  { do_expire, 20 },
};

static event_fn *
event_pick(struct world *w)
{
    unsigned all = 0, at;

    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        all += events[i].weight;
    at = (unsigned)roll(w, all);
    size_t i = 0;
    while (at >= events[i].weight)
        at -= events[i++].weight;
    return events[i].fn;
}

static void
world_start(struct world *w, uint64_t seed, unsigned left_out)
{
    *w = (struct world){ .random = seed * 0x9e3779b97f4a7c15ULL + 1,
                         .left_out = left_out,
                         .set = { .replicas_n = REPLICAS, .left_out = left_out & RULE__ALL } };
    w->roots = roll(w, 4) == 0 ? ROOTS : 2;
    make_want(1, 0, 0, &w->want);
    plan_first(&w->want, 1, &w->plan);
    do_folder(w);
    for (size_t r = 0; r < REPLICAS; r++)
        w->loaded[r] = w->folder;
}

/* false: somebody was stranded. */
static bool
play(struct world *w)
{
    for (size_t i = 0; i < EVENTS; i++) {
        event_pick(w)(w);
        if (somebody_is_stranded(w))
            return false;
    }
    return true;
}

/* What a fair world does in a while: nothing is late for ever, old leaves end. */
static bool
settle(struct world *w)
{
    for (size_t round = 0; round < SETTLE_ROUNDS; round++) {
        do_step(w);
        do_folder(w);
        for (size_t r = 0; r < REPLICAS; r++) {
            w->is_reading[r] = false;
            w->loaded[r] = w->folder;
            w->known[r] = true;
            w->told[r] = w->folder;
        }
        for (size_t s = 0; s < SLOTS; s++)
            ask(w, s, roll(w, REPLICAS));
        for (size_t i = 0; i < MESSAGES; i++)
            if (w->messages[i].used)
                deliver(w, &w->messages[i]);
        for (size_t s = 0; s < SLOTS; s++)
            say(w, s);
        for (size_t i = 0; i < WORDS; i++)
            if (w->words[i].used)
                hear(w, &w->words[i]);
        for (size_t i = 0; i < INSTANCES; i++)
            for (size_t k = 0; k < ROWS; k++)
                if (w->instances[i].rows[k].live &&
                    w->slots[w->instances[i].slot].leaf != &w->instances[i].rows[k])
                    expire(w, &w->instances[i], &w->instances[i].rows[k]);
        if (somebody_is_stranded(w))
            fail_msg("stranded while settling");
        if (plan_classify(&w->plan, &w->want) == CLASS_NONE)
            return true;
    }
    return false;
}

static void
no_interleaving_strands_a_workload_and_every_rotation_ends(void **state)
{
    (void)state;
    static struct world w;
    size_t taken[STEP__N] = { 0 };

    for (uint64_t seed = 1; seed <= RUNS; seed++) {
        world_start(&w, seed, 0);
        if (!play(&w))
            fail_msg("seed %" PRIu64 " strands a workload in generation %" PRIu64, seed,
                     w.plan.generation);
        if (!settle(&w))
            fail_msg("seed %" PRIu64 " does not reach what is wanted", seed);
        for (size_t k = 0; k < STEP__N; k++)
            taken[k] += w.steps_by_kind[k];
    }
    /* The play is about something: every kind of step was taken, often. */
    for (size_t k = 0; k < STEP__N; k++)
        assert_true(taken[k] > RUNS);
}

static void
leaving_a_rule_out_strands_a_workload(void **state)
{
    (void)state;
    static const struct {
        unsigned rule;
        const char *name;
    } rows[] = {
        { RULE_WIDEN_FIRST, "1 widen first" },
        { RULE_REPLICA_TRUST, "2 every replica hands out the root" },
        { RULE_REPLICA_GENERATION, "2 ... in a generation since it came in" },
        { RULE_WORKLOAD_TRUST, "2 every workload has acknowledged the root" },
        { RULE_ACK_GENERATION, "2 ... in a generation since it came in" },
        { RULE_ROW_GENERATION, "2 leaves of who cannot acknowledge are that new" },
        { RULE_REPLICA_SIGNER, "3 the signer has moved on every replica" },
        { RULE_SIGNER_GENERATION, "3 ... in the plan's generation" },
        { RULE_LEDGER, "3 no leaf in use under the root that goes" },
        { WORLD_GENERATION, "4 generations only grow" },
    };
    static struct world w;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bool stranded = false;
        uint64_t seed = 0;
        while (!stranded && seed < MUTANT_RUNS) {
            world_start(&w, ++seed, rows[i].rule);
            stranded = !play(&w);
        }
        if (!stranded)
            fail_msg("rule %s can be left out unnoticed", rows[i].name);
        print_message("rule %s: stranded in run %" PRIu64 "\n", rows[i].name, seed);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_interleaving_strands_a_workload_and_every_rotation_ends),
        cmocka_unit_test(leaving_a_rule_out_strands_a_workload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
