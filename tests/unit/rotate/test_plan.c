/* The classes of design.md "Rotation" and the four rules, one row for each promise. Roots are
 * letters; 'A' signs with root A's first intermediate, 'a' with its second. */
#include "unit.h"

#include <stdio.h>

#include "rotate/plan.h"

static void
letter_id(char c, uint8_t ret[DIGEST_BYTES])
{
    memset(ret, 0, DIGEST_BYTES);
    ret[0] = (uint8_t)c;
}

static size_t
letters_ids(const char *s, uint8_t (*ret)[DIGEST_BYTES])
{
    size_t n = s == NULL ? 0 : strlen(s);

    for (size_t i = 0; i < n; i++)
        letter_id(s[i], ret[i]);
    return n;
}

static void
make_signer(char c, struct plan_signer *ret)
{
    memset(ret, 0, sizeof(*ret));
    letter_id(c, ret->id);
    letter_id((char)(c & ~0x20), ret->root_id);
}

/* "A1B3": root A since generation 1, root B since generation 3. */
static void
make_plan(uint64_t generation, const char *roots, char signer, struct plan *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->generation = generation;
    for (const char *p = roots; *p != '\0'; p += 2) {
        letter_id(p[0], ret->roots[ret->roots_n].id);
        ret->roots[ret->roots_n++].since = (uint64_t)(p[1] - '0');
    }
    make_signer(signer, &ret->signer);
}

static void
make_want(const char *roots, char signer, struct plan_wanted *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->roots_n = letters_ids(roots, ret->roots);
    make_signer(signer, &ret->signer);
}

/* -- classes -------------------------------------------------------------------------------------
 */

static void
every_change_has_its_class(void **state)
{
    (void)state;
    static const struct {
        const char *roots;
        char signer;
        const char *wanted;
        char wanted_signer;
        const char *name;
    } rows[] = {
        { "A1", 'A', "A", 'A', "none" },
        { "A1B1", 'A', "BA", 'A', "none" }, /* reordered: compared as sets */
        { "A1", 'A', "A", 'a', "intermediate" },
        { "A1B1", 'B', "AB", 'b', "intermediate" },
        { "A1", 'A', "AB", 'A', "root added" },
        { "A1", 'A', "AB", 'a', "root added" },
        { "A1", 'A', "AB", 'B', "both at once" },
        { "A1B1", 'A', "ABC", 'B', "both at once" },
        { "A1B1", 'A', "AB", 'B', "signer moved" },
        { "A1B1", 'B', "B", 'B', "root removed" },
        { "A1B1", 'B', "B", 'b', "root removed" },
        { "A1B1", 'A', "B", 'B', "signer moved, root removed" },
        { "A1", 'A', "B", 'B', "root replaced" },
        { "A1C1", 'A', "AB", 'A', "root replaced" },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct plan p;
        struct plan_wanted w;
        make_plan(1, rows[i].roots, rows[i].signer, &p);
        make_want(rows[i].wanted, rows[i].wanted_signer, &w);
        enum plan_class class = plan_classify(&p, &w);
        assert_string_equal(plan_class_name(class), rows[i].name);
        assert_true(strlen(plan_class_text(class)) > 0);
    }
}

static void
the_same_certificate_with_another_chain_is_a_new_intermediate(void **state)
{
    (void)state;
    struct plan p;
    struct plan_wanted w;

    make_plan(1, "A1", 'A', &p);
    make_want("A", 'A', &w);
    w.signer.chain_id[5] = 1;
    assert_int_equal(plan_classify(&p, &w), CLASS_INTERMEDIATE);
    memset(w.signer.chain_id, 0, DIGEST_BYTES);
    (void)snprintf(w.signer.versions.v[0], VERSION_TEXT_BYTES, "set again");
    assert_int_equal(plan_classify(&p, &w), CLASS_NONE);
}

/* -- steps ---------------------------------------------------------------------------------------
 */

struct rep {
    uint64_t generation; /* 0: none */
    const char *roots;
    char signer;
};

struct load {
    const char *leaves; /* NULL: no workload */
    bool can_acknowledge;
    uint64_t row_generation;
    uint64_t ack_generation;
    const char *acked;
};

struct row {
    const char *promise;
    uint64_t generation;
    const char *roots;
    char signer;
    const char *wanted;
    char wanted_signer;
    size_t replicas_n;
    bool hold_replacement;
    struct rep reps[3];
    struct load loads[3];
    /* expected */
    enum plan_step_kind kind, gated;
    enum plan_hold hold;
    const char *next;
    char next_signer;
    size_t waits, waits_workloads;
    const char *why; /* part of the first wait's, or of the detail when there is none */
};

static void
each_load(void *self, ledger_workload_fn *fn, void *arg)
{
    const struct load *l = self;

    for (size_t i = 0; i < 3 && l[i].leaves != NULL; i++) {
        uint8_t leaf[ROOTS_MAX][DIGEST_BYTES], ack[ROOTS_MAX][DIGEST_BYTES];
        struct ledger_workload w = { .identity = "spiffe://td/ns/a/sa/b",
                                     .instance = l[i].can_acknowledge ? "0123" : "",
                                     .can_acknowledge = l[i].can_acknowledge,
                                     .ack_generation = l[i].ack_generation,
                                     .min_row_generation = l[i].row_generation,
                                     .leaves_n = 1,
                                     .last_not_after = 1234 };
        w.leaf_roots_n = letters_ids(l[i].leaves, leaf);
        w.ack_roots_n = letters_ids(l[i].acked, ack);
        w.leaf_roots = (const uint8_t(*)[DIGEST_BYTES])leaf;
        w.ack_roots = (const uint8_t(*)[DIGEST_BYTES])ack;
        fn(&w, arg);
    }
}

static void
run_row(const struct row *r, struct plan_step *ret)
{
    struct plan p;
    struct plan_wanted w;
    struct plan_replica reps[3];
    struct load loads[3];
    size_t n = 0;

    make_plan(r->generation, r->roots, r->signer, &p);
    make_want(r->wanted, r->wanted_signer, &w);
    for (; n < 3 && r->reps[n].generation != 0; n++) {
        reps[n] = (struct plan_replica){ .name = "ca-0", .generation = r->reps[n].generation };
        reps[n].roots_n = letters_ids(r->reps[n].roots, reps[n].roots);
        letter_id(r->reps[n].signer, reps[n].signer_id);
    }
    memcpy(loads, r->loads, sizeof(loads));
    struct plan_evidence ev = { reps, n, each_load, loads };
    struct plan_settings set = { .hold_replacement = r->hold_replacement,
                                 .replicas_n = r->replicas_n };
    plan_next(&p, &w, &ev, &set, ret);
}

/* clang-format off */
static const struct row rows[] = {
    { "nothing to do", 4, "A1", 'A', "A", 'A', .replicas_n = 1, .kind = STEP_NONE, .next = "A", .next_signer = 'A' },

    /* rule 1 */
    { "widening waits for nobody", 1, "A1", 'A', "AB", 'A', .replicas_n = 1,
      .kind = STEP_WIDEN, .next = "AB", .next_signer = 'A' },
    { "both at once widens first, the signer stays", 1, "A1", 'A', "AB", 'B', .replicas_n = 0,
      .kind = STEP_WIDEN, .next = "AB", .next_signer = 'A' },
    { "a replaced root is staged: widened to old and new first", 1, "A1", 'A', "B", 'B', .replicas_n = 0,
      .kind = STEP_WIDEN, .next = "AB", .next_signer = 'A' },
    { "a replaced root is held by the setting", 1, "A1", 'A', "B", 'B', .replicas_n = 0, .hold_replacement = true,
      .kind = STEP_HELD, .gated = STEP_WIDEN, .hold = HOLD_REPLACEMENT, .next = "AB", .next_signer = 'A', .why = "person" },
    { "that setting does not hold an added root", 1, "A1", 'A', "AB", 'B', .replicas_n = 0, .hold_replacement = true,
      .kind = STEP_WIDEN, .next = "AB", .next_signer = 'A' },
    { "more roots than a trust set may hold", 1, "A1B1C1D1E1F1G1H1I1J1", 'A', "KLMNOPQ", 'K', .replicas_n = 0,
      .kind = STEP_HELD, .gated = STEP_WIDEN, .hold = HOLD_ROOTS_MAX, .next = "ABCDEFGHIJ", .next_signer = 'A', .why = "16" },

    /* the same root: everyone trusts it already */
    { "a new intermediate under the same root signs at once", 1, "A1", 'A', "A", 'a', .replicas_n = 2,
      .loads = { { "A", true, 1, 0, NULL } }, .kind = STEP_MOVE_SIGNER, .next = "A", .next_signer = 'a' },

    /* rule 2: replicas */
    { "the signer waits for a replica that has not reported", 2, "A1B2", 'A', "AB", 'B', .replicas_n = 2,
      .reps = { { 2, "AB", 'A' } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_REPLICAS, .next = "AB", .next_signer = 'B', .why = "1 CA replica" },
    { "... for a replica that does not hand out the root", 2, "A1B2", 'A', "AB", 'B', .replicas_n = 2,
      .reps = { { 2, "AB", 'A' }, { 1, "A", 'A' } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_REPLICAS, .next = "AB", .next_signer = 'B',
      .waits = 1, .why = "generation 1; needs 2" },
    { "... for a replica that handed it out before it went and came back", 4, "A1B4", 'A', "AB", 'B', .replicas_n = 1,
      .reps = { { 2, "AB", 'A' } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_REPLICAS, .next = "AB", .next_signer = 'B',
      .waits = 1, .why = "generation 2; needs 4" },
    { "the signer moves when all hand it out and nobody has a leaf", 2, "A1B2", 'A', "AB", 'B', .replicas_n = 2,
      .reps = { { 2, "AB", 'A' }, { 2, "AB", 'A' } }, .kind = STEP_MOVE_SIGNER, .next = "AB", .next_signer = 'B' },

    /* rule 2: workloads */
    { "the signer waits for a workload without the root", 2, "A1B2", 'A', "AB", 'B', .replicas_n = 1,
      .reps = { { 2, "AB", 'A' } }, .loads = { { "A", true, 1, 1, "A" }, { "A", true, 2, 2, "AB" } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_TRUST, .next = "AB", .next_signer = 'B',
      .waits = 1, .waits_workloads = 1, .why = "generation 1 without the root; needs 2" },
    { "... for one that has said nothing yet", 2, "A1B2", 'A', "AB", 'B', .replicas_n = 1,
      .reps = { { 2, "AB", 'A' } }, .loads = { { "A", true, 2, 0, NULL } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_TRUST, .next = "AB", .next_signer = 'B',
      .waits = 1, .waits_workloads = 1, .why = "has not acknowledged any" },
    { "... for one whose word is from before the root came back", 4, "A1B4", 'A', "AB", 'B', .replicas_n = 1,
      .reps = { { 4, "AB", 'A' } }, .loads = { { "A", true, 1, 2, "AB" } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_TRUST, .next = "AB", .next_signer = 'B',
      .waits = 1, .waits_workloads = 1, .why = "generation 2 with the root; needs 4" },
    { "... for a silent client with a leaf older than the root", 2, "A1B2", 'A', "AB", 'B', .replicas_n = 1,
      .reps = { { 2, "AB", 'A' } }, .loads = { { "A", false, 1, 0, NULL } },
      .kind = STEP_HELD, .gated = STEP_MOVE_SIGNER, .hold = HOLD_TRUST, .next = "AB", .next_signer = 'B',
      .waits = 1, .waits_workloads = 1, .why = "cannot acknowledge" },
    { "the signer moves when all have said so, or got a leaf since", 3, "A1B2", 'A', "AB", 'B', .replicas_n = 1,
      .reps = { { 3, "AB", 'A' } }, .loads = { { "A", true, 1, 2, "AB" }, { "A", true, 1, 3, "BA" }, { "A", false, 2, 0, NULL } },
      .kind = STEP_MOVE_SIGNER, .next = "AB", .next_signer = 'B' },
    { "going back needs the old root's acknowledgement only", 4, "A1B2", 'B', "A", 'A', .replicas_n = 1,
      .reps = { { 2, "AB", 'A' } }, .loads = { { "B", true, 4, 3, "AB" } },
      .kind = STEP_MOVE_SIGNER, .next = "AB", .next_signer = 'A' },

    /* rule 3 */
    { "a root waits for a replica that has not reported", 3, "A1B2", 'B', "B", 'B', .replicas_n = 1,
      .kind = STEP_HELD, .gated = STEP_NARROW, .hold = HOLD_REPLICAS, .next = "B", .next_signer = 'B', .why = "1 CA replica" },
    { "... for a replica with the old signer", 3, "A1B2", 'B', "B", 'B', .replicas_n = 1, .reps = { { 2, "AB", 'A' } },
      .kind = STEP_HELD, .gated = STEP_NARROW, .hold = HOLD_REPLICAS, .next = "B", .next_signer = 'B',
      .waits = 1, .why = "generation 2; needs 3" },
    { "... for a replica whose signer is right, from before it moved away and back", 5, "A1B2", 'B', "B", 'B', .replicas_n = 1,
      .reps = { { 3, "AB", 'B' } },
      .kind = STEP_HELD, .gated = STEP_NARROW, .hold = HOLD_REPLICAS, .next = "B", .next_signer = 'B',
      .waits = 1, .why = "generation 3; needs 5" },
    { "... for a leaf in use under it", 3, "A1B2", 'B', "B", 'B', .replicas_n = 1, .reps = { { 3, "AB", 'B' } },
      .loads = { { "B", true, 3, 3, "AB" }, { "AB", true, 1, 3, "AB" } },
      .kind = STEP_HELD, .gated = STEP_NARROW, .hold = HOLD_LEAVES, .next = "B", .next_signer = 'B',
      .waits = 1, .waits_workloads = 1, .why = "chains to root 41000000" },
    { "a root goes when nothing in use chains to it", 3, "A1B2", 'B', "B", 'B', .replicas_n = 1, .reps = { { 3, "AB", 'B' } },
      .loads = { { "B", true, 3, 3, "AB" }, { "B", false, 3, 0, NULL } },
      .kind = STEP_NARROW, .next = "B", .next_signer = 'B' },
    { "of two that go, the one that is free goes", 3, "A1B2C1", 'B', "B", 'B', .replicas_n = 1,
      .reps = { { 3, "ABC", 'B' } }, .loads = { { "A", true, 3, 3, "ABC" } },
      .kind = STEP_NARROW, .next = "AB", .next_signer = 'B', .waits = 1, .waits_workloads = 1, .why = "41000000" },
    { "two that are both in use are held; force drops both", 3, "A1B2C1", 'B', "B", 'B', .replicas_n = 1,
      .reps = { { 3, "ABC", 'B' } }, .loads = { { "AC", true, 3, 3, "ABC" } },
      .kind = STEP_HELD, .gated = STEP_NARROW, .hold = HOLD_LEAVES, .next = "B", .next_signer = 'B',
      .waits = 1, .waits_workloads = 1, .why = "41000000" },
    { "the signer moves before a root goes", 3, "A1B2", 'A', "B", 'B', .replicas_n = 1, .reps = { { 3, "AB", 'A' } },
      .kind = STEP_MOVE_SIGNER, .next = "AB", .next_signer = 'B' },
};
/* clang-format on */

static void
the_rules_one_by_one(void **state)
{
    (void)state;
    static struct plan_step st;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        run_row(r, &st);
        char next[ROOTS_MAX + 1] = "";
        for (size_t k = 0; k < st.next.roots_n; k++)
            next[k] = (char)st.next.roots[k].id[0];
        const char *said = st.waits_n > 0 ? st.waits[0].why : st.detail;
        bool grows = st.next.generation == r->generation + (r->kind != STEP_NONE);
        if (r->hold == HOLD_ROOTS_MAX)
            grows = st.next.generation == r->generation;
        if (st.kind != r->kind || st.gated != r->gated || st.hold != r->hold || !grows ||
            strcmp(next, r->next) != 0 || st.next.signer.id[0] != (uint8_t)r->next_signer ||
            st.waits_total != r->waits || st.workloads_waiting != r->waits_workloads ||
            (r->why != NULL && strstr(said, r->why) == NULL))
            fail_msg("%s: %s of %s by %s: roots %s, signer %c, %zu waits (%zu workloads): %s",
                     r->promise, plan_step_name(st.kind), plan_step_name(st.gated),
                     plan_hold_name(st.hold), next, st.next.signer.id[0], st.waits_total,
                     st.workloads_waiting, said);
    }
}

static void
a_root_that_comes_back_counts_from_then(void **state)
{
    (void)state;
    static struct plan_step st;
    const struct row again = { "", 3, "A1", 'A', "AB", 'B', .replicas_n = 1 };

    run_row(&again, &st);
    assert_int_equal(st.kind, STEP_WIDEN);
    uint8_t id[DIGEST_BYTES];
    letter_id('B', id);
    assert_int_equal(plan_find_root(&st.next, id)->since, 4);
    letter_id('A', id);
    assert_int_equal(plan_find_root(&st.next, id)->since, 1);
}

static void
many(void *self, ledger_workload_fn *fn, void *arg)
{
    struct ledger_workload w = { .identity = "spiffe://td/ns/a/sa/b",
                                 .instance = "0123",
                                 .can_acknowledge = true,
                                 .last_not_after = 99 };
    for (size_t i = 0; i < *(size_t *)self; i++)
        fn(&w, arg);
}

static void
all_are_counted_and_the_first_are_named(void **state)
{
    (void)state;
    static struct plan_step st;
    struct plan p;
    struct plan_wanted w;
    size_t n = 1000;
    struct plan_evidence ev = { NULL, 0, many, &n };
    struct plan_settings set = { .replicas_n = 0 };

    make_plan(2, "A1B2", 'A', &p);
    make_want("AB", 'B', &w);
    plan_next(&p, &w, &ev, &set, &st);
    assert_int_equal(st.kind, STEP_HELD);
    assert_int_equal(st.waits_n, PLAN_WAITS_MAX);
    assert_int_equal(st.waits_total, n);
    assert_int_equal(st.workloads_n, n);
    assert_string_equal(st.waits[PLAN_WAITS_MAX - 1].identity, "spiffe://td/ns/a/sa/b");
    assert_int_equal(st.waits[0].until, 99);
    assert_non_null(strstr(st.detail, "1000 of 1000"));
}

static void
the_first_plan_is_what_is_wanted(void **state)
{
    (void)state;
    struct plan p;
    struct plan_wanted w;

    make_want("AB", 'B', &w);
    plan_first(&w, 7, &p);
    assert_int_equal(p.generation, 7);
    assert_int_equal(p.roots_n, 2);
    assert_int_equal(p.roots[1].since, 7);
    assert_int_equal(plan_classify(&p, &w), CLASS_NONE);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_change_has_its_class),
        cmocka_unit_test(the_same_certificate_with_another_chain_is_a_new_intermediate),
        cmocka_unit_test(the_rules_one_by_one),
        cmocka_unit_test(a_root_that_comes_back_counts_from_then),
        cmocka_unit_test(all_are_counted_and_the_first_are_named),
        cmocka_unit_test(the_first_plan_is_what_is_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
