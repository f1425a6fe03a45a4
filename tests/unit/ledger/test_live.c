/* What live.h promises of shares: who takes too much is refused, the others are not. */
#include "unit.h"

#include "ledger/live.h"

enum { NOW = 1800000000 };

static const char greedy[] = "spiffe://td/ns/a/sa/greedy", other[] = "spiffe://td/ns/a/sa/other";

static struct live *v;
static struct err e;
static size_t gone_n;

static int
setup(void **state)
{
    (void)state;
    gone_n = 0;
    return live_new(&v, &e);
}

static int
teardown(void **state)
{
    (void)state;
    live_free(v);
    return 0;
}

/* r: as live_word. */
static int
word(const char *identity, uint64_t instance)
{
    struct ledger_ack a = { .generation = 1 };
    struct word w;

    (void)snprintf(a.identity, sizeof(a.identity), "%s", identity);
    (void)snprintf(a.instance, sizeof(a.instance), "%032llx", (unsigned long long)instance);
    return live_word(v, &a, 0, NOW, &w, &e);
}

static struct ledger_row
row(const char *identity, uint64_t seq)
{
    struct ledger_row r = { .seq = seq, .serial_n = 1, .generation = 1, .issued = NOW };

    (void)snprintf(r.identity, sizeof(r.identity), "%s", identity);
    r.not_after = NOW + 3600;
    return r;
}

static void
on_gone(const char *identity, const char *instance, void *arg)
{
    (void)identity;
    (void)instance;
    (void)arg;
    gone_n++;
}

static void
one_identity_cannot_take_every_workload(void **state)
{
    uint64_t n = 0;

    (void)state;
    while (n < LEDGER_IDENTITY_WORKLOADS_MAX)
        assert_ok(word(greedy, ++n));
    assert_err(word(greedy, n + 1), E_LIMIT, greedy);
    assert_err(live_check(v, greedy, "", &e), E_LIMIT, greedy);
    assert_ok(word(greedy, 1)); /* those that are known go on */
    assert_ok(word(other, n + 2));
    live_prune(v, NOW + 2 * WORD_KEPT_S, on_gone, NULL);
    assert_ok(word(greedy, n + 3)); /* and what is over counts no more */
}

static void
one_identity_cannot_take_every_leaf(void **state)
{
    struct ledger_row r = row(greedy, 0);

    (void)state;
    while (r.seq < LEDGER_IDENTITY_LEAVES_MAX) {
        r.seq++;
        assert_ok(live_add(v, &r, NOW, &e));
    }
    assert_err(live_check(v, greedy, "", &e), E_LIMIT, greedy);
    assert_ok(live_check(v, other, "", &e));
    live_remove(v, greedy, "", r.seq);
    assert_ok(live_check(v, greedy, "", &e));
    live_prune(v, NOW + 2 * 3600, on_gone, NULL);
    assert_int_equal(live_each(v, NOW, false, NULL, NULL), 0);
    assert_ok(live_check(v, greedy, "", &e));
}

/* -- what several ledgers are put together by -- */

static const char inst[] = "0123456789abcdef0123456789abcdef";

static void
issue(uint64_t seq, uint8_t serial, int64_t issued)
{
    struct ledger_row r = row(other, seq);

    r.serial[0] = serial;
    r.issued = issued;
    r.generation = serial;
    (void)snprintf(r.instance, sizeof(r.instance), "%s", inst);
    assert_ok(live_add(v, &r, NOW, &e));
}

/* A durable word at `said`; serial 0: none. */
static void
say_of(uint8_t serial, uint64_t leaf_generation, bool ended, int64_t said)
{
    struct ledger_ack a = {
        .generation = 1, .serial_n = serial > 0, .leaf_generation = leaf_generation, .ended = ended
    };
    struct word w;

    a.serial[0] = serial;
    (void)snprintf(a.identity, sizeof(a.identity), "%s", other);
    (void)snprintf(a.instance, sizeof(a.instance), "%s", inst);
    assert_ok(live_word(v, &a, 9, said, &w, &e));
    assert_ok(live_word_set(v, &w, &e));
}

static void
say(uint8_t serial, bool ended, int64_t said)
{
    say_of(serial, 0, ended, said);
}

struct one {
    struct ledger_workload w;
    size_t n;
};

static void
on_one(const struct ledger_workload *w, void *arg)
{
    struct one *o = arg;

    o->w = *w;
    o->n++;
}

static struct one
look(bool words_too)
{
    struct one o = { .n = 0 };

    (void)live_each(v, NOW, words_too, on_one, &o);
    return o;
}

static void
a_word_says_when_and_which_leaf(void **state)
{
    struct one o;

    (void)state;
    issue(1, 11, NOW - 50);
    issue(2, 12, NOW - 40);
    o = look(false);
    assert_int_equal(o.w.said, 0);
    assert_int_equal(o.w.used_issued, 0);
    assert_int_equal(o.w.last_issued, NOW - 40);
    say(11, false, NOW - 30);
    o = look(false);
    assert_int_equal(o.w.said, NOW - 30);
    assert_int_equal(o.w.used_issued, NOW - 50);
    assert_int_equal(o.w.used_generation, 11);
    assert_int_equal(o.w.leaf_roots_n, 1);
    assert_int_equal(o.w.leaf_root_generations[0], 12);
    assert_int_equal(o.w.last_issued, NOW - 40);
    say(99, false,
        NOW - 20); /* a leaf of another replica: what it used here is not told any more */
    o = look(false);
    assert_int_equal(o.w.said, NOW - 20);
    assert_int_equal(o.w.used_issued, 0);
    say(12, false, NOW - 10);
    assert_int_equal(look(false).w.used_issued, NOW - 40);
    say(0, true, NOW);
    assert_int_equal(look(false).n, 0);
    o = look(true);
    assert_int_equal(o.n, 1);
    assert_int_equal(o.w.leaves_n, 0);
    assert_int_equal(o.w.used_issued, 0);
}

/* What was read at the start may be older than what was said to another replica meanwhile. */
static void
a_word_of_an_earlier_process_names_no_leaf(void **state)
{
    struct word w = { .generation = 1, .used_seq = 1, .said = NOW - 30 };

    (void)state;
    (void)snprintf(w.identity, sizeof(w.identity), "%s", other);
    (void)snprintf(w.instance, sizeof(w.instance), "%s", inst);
    issue(1, 11, NOW - 50);
    assert_ok(live_word_set(v, &w, &e));
    assert_int_equal(look(false).n, 1);
    assert_int_equal(look(false).w.said, NOW - 30);
    assert_int_equal(look(false).w.used_issued, 0);
}

/* Of a leaf of another replica the holder itself says how old it is; of one of ours the row does.
 */
static void
a_word_says_how_old_its_leaf_is(void **state)
{
    struct ledger_row r = row(other, 3);

    (void)state;
    issue(1, 11, NOW - 50);
    issue(2, 12, NOW - 40);
    say_of(99, 17, false, NOW - 30);
    assert_int_equal(look(false).w.used_generation, 17);
    assert_int_equal(look(false).w.used_issued, 0);
    assert_int_equal(look(false).w.leaves_n, 2); /* which of the two is for evidence_merge */
    say_of(12, 17, false, NOW - 20);
    assert_int_equal(look(false).w.used_generation, 12);
    say_of(99, 0, false, NOW - 10); /* an agent of before */
    assert_int_equal(look(false).w.used_generation, 0);
    r.generation = 5; /* another root, of an older leaf */
    r.root_id[0] = 1;
    (void)snprintf(r.instance, sizeof(r.instance), "%s", inst);
    assert_ok(live_add(v, &r, NOW, &e));
    struct one o = look(false);
    assert_int_equal(o.w.leaf_roots_n, 2);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(o.w.leaf_root_generations[i], o.w.leaf_roots[i][0] == 1 ? 5 : 12);
}

/* On its way to the disk. */
static struct word
begin(uint64_t generation, uint8_t serial)
{
    struct ledger_ack a = { .generation = generation, .serial = { serial }, .serial_n = 1 };
    struct word w;

    (void)snprintf(a.identity, sizeof(a.identity), "%s", other);
    (void)snprintf(a.instance, sizeof(a.instance), "%s", inst);
    assert_int_equal(live_word(v, &a, 0, NOW, &w, &e), 0);
    return w;
}

/* The disk refuses one word and takes the next: the next one is the last that was said. */
static void
a_word_that_fails_takes_no_later_one_with_it(void **state)
{
    struct ledger_ack old = { .generation = 6 };
    struct word first, second, third;

    (void)state;
    (void)snprintf(old.identity, sizeof(old.identity), "%s", other);
    (void)snprintf(old.instance, sizeof(old.instance), "%s", inst);
    issue(1, 11, NOW - 50);
    issue(2, 12, NOW - 40);
    first = begin(5, 11);
    assert_ok(live_word_set(v, &first, &e));
    first = begin(6, 11);
    second = begin(7, 12);
    live_word_undo(v, &first);
    assert_int_equal(live_word(v, &old, 0, NOW, &third, &e), LEDGER_STALE);
    assert_ok(live_word_set(v, &second, &e));
    assert_int_equal(look(false).w.leaves_n, 1);
    third = begin(7, 99); /* of another replica: what it has put aside here stays so */
    assert_int_equal(third.used_seq, second.used_seq);
    live_word_undo(v, &third); /* and when the last one fails, the one before it counts */
    assert_int_equal(begin(7, 99).used_seq, second.used_seq);
}

static void
an_end_speaks_for_leaves_elsewhere_as_long_as_they_live(void **state)
{
    (void)state;
    say_of(99, 0, true, NOW); /* an agent of before may come again as this instance */
    assert_int_equal(look(true).w.used_generation, 0);
    assert_int_equal(look(true).w.ended_generation, 0);
    issue(1, 12, NOW - 3 * WORD_KEPT_S); /* leaves live so long, and an hour, here */
    say_of(12, 0, true, NOW);
    assert_int_equal(look(true).w.used_generation, 0);
    assert_int_equal(look(true).w.ended_generation, 0);
    say_of(99, 17, true, NOW);
    assert_int_equal(look(false).n, 0);
    assert_int_equal(look(true).w.used_generation, 17);
    assert_int_equal(look(true).w.ended_generation, 17);
    live_prune(v, NOW + 4 * WORD_KEPT_S - 1, on_gone, NULL);
    assert_int_equal(gone_n, 0);
    live_prune(v, NOW + 4 * WORD_KEPT_S, on_gone, NULL);
    assert_int_equal(gone_n, 1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_identity_cannot_take_every_workload),
        T(one_identity_cannot_take_every_leaf),
        T(a_word_says_when_and_which_leaf),
        T(a_word_of_an_earlier_process_names_no_leaf),
        T(a_word_says_how_old_its_leaf_is),
        T(a_word_that_fails_takes_no_later_one_with_it),
        T(an_end_speaks_for_leaves_elsewhere_as_long_as_they_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
