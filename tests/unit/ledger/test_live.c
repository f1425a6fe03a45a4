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
    assert_int_equal(live_each(v, NOW, NULL, NULL), 0);
    assert_ok(live_check(v, greedy, "", &e));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_identity_cannot_take_every_workload),
        T(one_identity_cannot_take_every_leaf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
