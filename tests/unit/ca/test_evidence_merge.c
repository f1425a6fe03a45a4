/* test_evidence_merge.c - one workload in the ledgers of several replicas. */
#include "unit.h"

#include <string.h>

#include "ca/evidence.h"

enum { REPLICAS = 3, EACH = 4, T = 1800000000, SKEW = EVIDENCE_SKEW_S };

static const char web[] = "spiffe://cluster.local/ns/shop/sa/web";
static const char one[] = "0123456789abcdef0123456789abcdef",
                  two[] = "0123456789abcdef0123456789abcdee";

struct replica {
    struct ledger_workload w[EACH];
    size_t n;
};

static void
tell(void *self, ledger_workload_fn *fn, void *arg)
{
    const struct replica *r = self;

    for (size_t i = 0; i < r->n; i++)
        fn(&r->w[i], arg);
}

struct seen {
    struct ledger_workload w[REPLICAS * EACH];
    uint8_t root[REPLICAS * EACH]; /* of the first in its word */
    uint8_t left;                  /* the first of the last one's leaves' roots */
    size_t n;
};

static void
on_workload(const struct ledger_workload *w, void *arg)
{
    struct seen *s = arg;

    assert_true(s->n < ARRAY_LEN(s->w));
    s->root[s->n] = w->ack_roots_n > 0 ? w->ack_roots[0][0] : 0;
    s->left = w->leaf_roots_n > 0 ? w->leaf_roots[0][0] : 0;
    s->w[s->n++] = *w;
}

static struct seen
merge(struct replica *r, size_t n)
{
    struct evidence_teller t[REPLICAS];
    struct seen s = { .n = 0 };

    for (size_t i = 0; i < n; i++)
        t[i] = (struct evidence_teller){ tell, &r[i] };
    evidence_merge(t, n, on_workload, &s);
    return s;
}

/* A leaf, and no word here. */
static struct ledger_workload
leaf(const char *instance, int64_t issued)
{
    return (struct ledger_workload){ .identity = web,
                                     .instance = instance,
                                     .can_acknowledge = instance[0] != '\0',
                                     .leaves_n = 1,
                                     .min_row_generation = 1,
                                     .last_issued = issued };
}

/* A word, and, when `used` is set, the leaf of this replica that it names. */
static struct ledger_workload
word(const char *instance, uint64_t generation, int64_t said, int64_t used)
{
    static const uint8_t roots[1][DIGEST_BYTES] = { { 7 } };

    return (struct ledger_workload){ .identity = web,
                                     .instance = instance,
                                     .can_acknowledge = true,
                                     .leaves_n = used > 0,
                                     .ack_generation = generation,
                                     .ack_roots = roots,
                                     .ack_roots_n = 1,
                                     .said = said,
                                     .last_issued = used,
                                     .used_issued = used };
}

static void
a_word_to_one_replica_is_for_all(void **state)
{
    struct replica r[] = { { .w = { leaf(one, T) }, .n = 1 },
                           { .w = { word(one, 5, T + 10, 0) }, .n = 1 } };
    struct seen s = merge(r, 2);

    (void)state;
    assert_int_equal(s.n, 1); /* a word alone is no leaf */
    assert_int_equal(s.w[0].leaves_n, 1);
    assert_int_equal(s.w[0].ack_generation, 5);
    assert_int_equal(s.w[0].ack_roots_n, 1);
    assert_int_equal(s.root[0], 7);
    r[0].w[0] = word(one, 6, T + 20, T); /* its own word is newer */
    s = merge(r, 2);
    assert_int_equal(s.w[0].ack_generation, 6);
}

static void
a_word_is_its_speakers_only(void **state)
{
    struct replica r[] = { { .w = { leaf(one, T), leaf("", T) }, .n = 2 },
                           { .w = { word(two, 5, T + 9999, T + 9999) }, .n = 1 } };
    struct seen s = merge(r, 2);

    (void)state;
    assert_int_equal(s.n, 3);
    assert_int_equal(s.w[0].ack_generation, 0);
    assert_int_equal(s.w[1].ack_generation, 0);
    r[1].w[0] = word(one, 5, T + 9999, T + 9999);
    r[1].w[0].identity = "spiffe://cluster.local/ns/shop/sa/other";
    s = merge(r, 2);
    assert_int_equal(s.n, 3);
    assert_int_equal(s.w[0].ack_generation, 0);
}

static void
a_later_leaf_of_another_replica_replaces(void **state)
{
    struct replica r[] = { { .w = { leaf(one, T) }, .n = 1 },
                           { .w = { word(one, 5, T + 4000, T + 3990) }, .n = 1 } };
    struct seen s = merge(r, 2);

    (void)state;
    assert_int_equal(s.n, 1);
    assert_int_equal(s.w[0].last_issued, T + 3990);
    r[0].w[0] = word(one, 5, T + 10, T); /* what it said before is over */
    assert_int_equal(merge(r, 2).n, 1);
    struct replica turned[] = { r[1], r[0] }; /* in whichever order */
    s = merge(turned, 2);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.w[0].last_issued, T + 3990);
}

/* -- generations -- */

static const uint8_t old_and_new[2][DIGEST_BYTES] = { { 0xa }, { 0xb } };

/* Leaves under the first root, of this generation, and, with a second one, under the other. */
static struct ledger_workload
leaves(const char *instance, const uint64_t *generations, size_t n)
{
    struct ledger_workload w = leaf(instance, T);

    w.leaf_roots = old_and_new;
    w.leaf_root_generations = generations;
    w.leaf_roots_n = w.leaves_n = n;
    return w;
}

/* Rotations may be seconds apart: what the clocks say of two leaves is then nothing. */
static void
a_leaf_of_a_later_generation_replaces(void **state)
{
    static const struct {
        uint64_t in_use, named;
        size_t want;
    } rows[] = { { 4, 5, 0 }, { 5, 5, 1 }, { 6, 5, 1 }, { 0, 5, 1 }, { 4, 0, 1 } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const uint64_t *g = &rows[i].in_use;
        struct replica r[] = { { .w = { leaves(one, g, 1), leaves("", g, 1), leaves(two, g, 1) },
                                 .n = 3 },
                               { .w = { word(one, 9, T + 3, 0) }, .n = 1 } };

        r[1].w[0].used_generation = rows[i].named;
        size_t n = merge(r, 2).n;
        if (n != rows[i].want + 2) /* the two others are never touched */
            fail_msg("row %zu: %zu are told", i, n);
        r[0].w[0].leaf_root_generations = NULL; /* a replica of before: not known, so in use */
        assert_int_equal(merge(r, 2).n, 3);
    }
}

/* The replica that issued both leaves has heard no word; another one hears of the newer leaf. */
static void
roots_of_leaves_put_aside_are_left_out(void **state)
{
    static const uint64_t generations[] = { 4, 7 };
    struct replica r[] = { { .w = { leaves(one, generations, 2) }, .n = 1 },
                           { .w = { word(one, 7, T + 3, 0) }, .n = 1 } };
    struct seen s;

    (void)state;
    r[1].w[0].used_generation = 4; /* it has the new trust set, and the old leaf */
    s = merge(r, 2);
    assert_int_equal(s.w[0].leaf_roots_n, 2);
    r[1].w[0].used_generation = 7;
    s = merge(r, 2);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.w[0].leaf_roots_n, 1);
    assert_int_equal(s.left, 0xb);
    r[1].w[0].instance = two; /* nobody's word is about another's leaves */
    assert_int_equal(merge(r, 2).w[0].leaf_roots_n, 2);
    r[1].w[0].instance = one;
    r[1].w[0].identity = "spiffe://cluster.local/ns/shop/sa/other";
    assert_int_equal(merge(r, 2).w[0].leaf_roots_n, 2);
    assert_int_equal(merge(r, 1).w[0].leaf_roots_n, 2);
}

/* Two replicas have heard of two leaves. */
static void
the_newest_word_says_which_leaf(void **state)
{
    static const struct {
        const char *what;
        int64_t low_said, high_said; /* of generation 4, and 7 */
        size_t want;                 /* roots left */
    } rows[] = { { "the newer leaf later", T, T + 4000, 1 },
                 { "at about one time", T + SKEW, T, 1 },
                 { "a folder was put back", T + SKEW + 1, T, 2 } };
    static const uint64_t generations[] = { 4, 7 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct replica r[] = { { .w = { leaves(one, generations, 2) }, .n = 1 },
                               { .w = { word(one, 7, rows[i].low_said, 0) }, .n = 1 },
                               { .w = { word(one, 7, rows[i].high_said, 0) }, .n = 1 } };

        r[1].w[0].used_generation = 4;
        r[2].w[0].used_generation = 7;
        struct replica turned[] = { r[2], r[0], r[1] };
        if (merge(r, 3).w[0].leaf_roots_n != rows[i].want ||
            merge(turned, 3).w[0].leaf_roots_n != rows[i].want)
            fail_msg("%s: not %zu roots", rows[i].what, rows[i].want);
    }
}

static void
an_end_is_of_its_own_leaf_too(void **state)
{
    static const uint64_t generations[] = { 4, 7 };
    struct replica r[] = { { .w = { leaves(one, generations, 2) }, .n = 1 },
                           { .w = { word(one, 7, T + 3, 0) }, .n = 1 } };

    (void)state;
    r[1].w[0].used_generation = r[1].w[0].ended_generation = 7;
    assert_int_equal(merge(r, 2).n, 0);
    r[1].w[0].used_generation = r[1].w[0].ended_generation = 6; /* the other one came too late */
    assert_int_equal(merge(r, 2).n, 1);
    r[1].w[0].used_generation = r[1].w[0].ended_generation = 7;
    r[0].w[0].said = T + 4; /* it speaks: it has not ended */
    assert_int_equal(merge(r, 2).n, 1);
}

/* Where clocks could be wrong, or the word is not the last for certain, both leaves count. */
static void
in_doubt_a_leaf_counts(void **state)
{
    static const struct {
        const char *what;
        struct {
            int64_t said, used, last;
        } a, b; /* a leaf of A, and the word that B has heard */
        int64_t c_said;
    } rows[] = {
        { "issued within the skew", { 0, 0, T }, { T + 4000, T + SKEW, 0 }, 0 },
        { "A has issued since", { 0, 0, T + 5000 }, { T + 4000, T + 3990, 0 }, 0 },
        { "A has heard since", { T + 5000, T, T }, { T + 4000, T + 3990, 0 }, 0 },
        { "A has heard at about that time",
          { T + 4000 - SKEW, T, T },
          { T + 4000, T + 3990, 0 },
          0 },
        { "B does not know the leaf that is named", { 0, 0, T }, { T + 4000, 0, 0 }, 0 },
        { "C has heard since", { 0, 0, T }, { T + 4000, T + 3990, 0 }, T + 9000 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct replica r[REPLICAS] = {
            { .w = { leaf(one, rows[i].a.last) }, .n = 1 },
            { .w = { word(one, 5, rows[i].b.said, rows[i].b.used) }, .n = 1 },
            { .w = { word(one, 5, rows[i].c_said, 0) }, .n = rows[i].c_said > 0 }
        };

        r[0].w[0].said = rows[i].a.said;
        r[0].w[0].used_issued = rows[i].a.used;
        struct seen s = merge(r, REPLICAS);
        if (s.n == 0 || s.w[0].last_issued != rows[i].a.last)
            fail_msg("%s: the leaf of A is forgotten", rows[i].what);
    }
}

static void
one_replica_is_told_as_it_is(void **state)
{
    struct replica r[] = { { .w = { leaf(one, T), word(two, 1, T, 0), leaf("", T) }, .n = 3 } };

    (void)state;
    assert_int_equal(merge(r, 1).n, 2);
    assert_int_equal(merge(r, 0).n, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_word_to_one_replica_is_for_all),
        cmocka_unit_test(a_word_is_its_speakers_only),
        cmocka_unit_test(a_later_leaf_of_another_replica_replaces),
        cmocka_unit_test(a_leaf_of_a_later_generation_replaces),
        cmocka_unit_test(roots_of_leaves_put_aside_are_left_out),
        cmocka_unit_test(the_newest_word_says_which_leaf),
        cmocka_unit_test(an_end_is_of_its_own_leaf_too),
        cmocka_unit_test(in_doubt_a_leaf_counts),
        cmocka_unit_test(one_replica_is_told_as_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
