/* test_revoke.c - the table of revoked leaves and the lists that are made from it. */
#include "kit.h"

#include <signal.h>

#include "base/clock.h"
#include "ca/revoke.h"
#include "mint_list.h"
#include "tmpdir.h"

enum { HOUR_MS = 3600 * 1000 };

struct scene {
    char dir[64];
    struct loop *loop;
    struct store *store;
    struct metrics *metrics;
    struct ledger *ledger;
    struct kit a, b;
    struct ca ca; /* what lists need of one */
    struct revoked_table table;
    struct crl_lists lists;
    struct err last;
};

static void
scene_open(struct scene *s)
{
    struct err e = { 0 };

    assert_ok(store_open_sqlite(s->dir, &s->store, &e));
    assert_ok(ledger_open(s->store, s->metrics, &s->ledger, &e));
    s->ca.conf.ledger = s->ledger;
    s->ca.loop = s->loop;
    assert_ok(revoked_open(&s->table, s->store, s->loop, &e));
    assert_ok(lists_open(&s->lists, &s->ca, &s->table, &e));
}

static void
scene_close(struct scene *s)
{
    lists_done(&s->lists);
    revoked_done(&s->table);
    ledger_close(s->ledger);
    store_close(s->store);
}

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct err e = { 0 };

    assert_non_null(s);
    tmpdir_make(s->dir);
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(metrics_new(&s->metrics, &e));
    kit_make(&s->a, "A", 30);
    kit_make(&s->b, "B", 30);
    scene_open(s);
    assert_ok(ledger_note_issuers(s->ledger, s->a.bundle, &e));
    *state = s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    scene_close(s);
    kit_done(&s->a);
    kit_done(&s->b);
    metrics_free(s->metrics);
    loop_free(s->loop);
    tmpdir_remove(s->dir);
    clock_shift_for_test(0);
    free(s);
    return 0;
}

static void
on_added(const struct err *e, void *arg)
{
    struct scene *s = arg;

    s->last = *e;
    loop_stop(s->loop);
}

static enum err_code
add(struct scene *s, const struct kit *k, size_t first, size_t n, int64_t not_after)
{
    struct revoked *v = calloc(n, sizeof(*v));
    char identity[] = "spiffe://cluster.local/ns/a/sa/b";
    struct err e = { 0 };

    for (size_t i = 0; i < n; i++) {
        memcpy(v[i].signer_id, cert_id(k->ca), DIGEST_BYTES);
        v[i].entry =
            (struct crl_entry){ .serial = { 1, (uint8_t)((first + i) >> 8), (uint8_t)(first + i) },
                                .serial_n = 3,
                                .revoked = unix_s(),
                                .reason = CRL_SUPERSEDED };
        v[i].not_after = not_after;
        v[i].identity = identity;
    }
    int r = revoked_add(&s->table, v, n, on_added, s, &e);
    free(v);
    if (r < 0)
        return e.code;
    assert_ok(loop_run(s->loop, &e));
    return s->last.code;
}

/* More than one transaction; on disk; and the limit. */
static void
what_is_added_is_there_after_a_restart(void **state)
{
    struct scene *s = *state;
    int64_t end = unix_s() + 600;

    assert_int_equal(add(s, &s->a, 0, 200, end), E_NONE);
    assert_int_equal(add(s, &s->b, 0, 1, end + 7), E_NONE);
    assert_int_equal(s->table.n, 201);
    scene_close(s);
    scene_open(s);
    assert_int_equal(s->table.n, 201);
    const uint8_t serial[] = { 1, 0, 150 };
    const struct revoked *v = revoked_find(&s->table, cert_id(s->a.ca), span_of(serial, 3));
    assert_non_null(v);
    assert_true(v->not_after == end && v->entry.reason == CRL_SUPERSEDED);
    assert_string_equal(v->identity, "spiffe://cluster.local/ns/a/sa/b");
    assert_null(revoked_find(&s->table, cert_id(s->b.ca), span_of(serial, 3)));
    assert_int_equal(add(s, &s->a, 1000, REVOKED_MAX - 201, end), E_NONE);
    assert_int_equal(add(s, &s->a, 9000, 1, end), E_LIMIT);
    assert_int_equal(s->table.n, REVOKED_MAX);
}

/* Both clocks must agree that a leaf is over: one that jumps ahead and back gives nothing back. */
static void
a_clock_that_jumps_gives_nothing_back(void **state)
{
    struct scene *s = *state;
    int64_t now = unix_s(), year = 365 * 86400;

    assert_int_equal(add(s, &s->a, 0, 1, now + 600), E_NONE);
    assert_false(revoked_prune(&s->table, now + year, 1000));
    assert_false(revoked_prune(&s->table, now + year, 1000 + HOUR_MS - 1));
    assert_false(revoked_prune(&s->table, now, 1000 + HOUR_MS)); /* it was set right */
    assert_false(revoked_prune(&s->table, now + year, 1000 + HOUR_MS));
    assert_int_equal(s->table.n, 1);
    assert_false(revoked_prune(&s->table, now + 600 + REVOKED_KEPT_S, 1000 + 9 * HOUR_MS));
    assert_false(revoked_prune(&s->table, now + 601 + REVOKED_KEPT_S, 1000 + 9 * HOUR_MS));
    assert_true(revoked_prune(&s->table, now + 601 + 2 * REVOKED_KEPT_S, 1000 + 10 * HOUR_MS));
    assert_int_equal(s->table.n, 0);
    scene_close(s); /* commits what waits */
    scene_open(s);
    assert_int_equal(s->table.n, 0);
}

static bool
handed_out_has(const struct scene *s, uint8_t low)
{
    const uint8_t serial[] = { 1, 0, low };

    for (size_t i = 0; i < crls_count(s->lists.handed_out); i++)
        if (crl_has(crls_at(s->lists.handed_out, i), span_of(serial, 3)))
            return true;
    return false;
}

/* specs/peers.md 30: lists come when something is revoked, and are gone when nothing is. */
static void
istio_61073_a_list_can_be_cleared(void **state)
{
    struct scene *s = *state;
    int64_t now = unix_s();
    struct err e = { 0 };

    lists_signer(&s->lists, s->a.ca, s->a.signer);
    assert_false(lists_update(&s->lists)); /* there is a list, and nobody is told of it */
    assert_int_equal(s->lists.n, 1);
    assert_ok(crl_verify(s->lists.all[0].list, s->a.ca, &e));
    uint64_t number = crl_number(s->lists.all[0].list);
    assert_int_equal(add(s, &s->a, 0, 2, now + 600), E_NONE);
    lists_dirty(&s->lists);
    assert_true(lists_update(&s->lists));
    assert_true(handed_out_has(s, 0) && handed_out_has(s, 1) && !handed_out_has(s, 2));
    assert_true(crls_are_for_all(s->lists.handed_out, NULL));
    assert_true(crl_number(s->lists.all[0].list) > number);
    assert_false(lists_update(&s->lists)); /* nothing has changed */
    assert_false(revoked_prune(&s->table, now + 86400, 1));
    assert_true(revoked_prune(&s->table, now + 86400, 1 + HOUR_MS));
    lists_dirty(&s->lists);
    assert_true(lists_update(&s->lists));
    assert_null(s->lists.handed_out);
    assert_int_equal(crl_count(s->lists.all[0].list), 0);
}

/* CVE-2021-29653: revoked and not expired means in a list, after each rotation, when the signer
 * process has gone, and after a start without the former key. */
static void
revoked_means_listed_whatever_happens_to_the_signers(void **state)
{
    struct scene *s = *state;
    int64_t end = unix_s() + 600;

    lists_signer(&s->lists, s->a.ca, s->a.signer);
    (void)lists_update(&s->lists);
    assert_int_equal(add(s, &s->a, 0, 1, end), E_NONE);
    lists_signer(&s->lists, s->b.ca, s->b.signer);
    lists_dirty(&s->lists);
    assert_true(lists_update(&s->lists));
    assert_true(handed_out_has(s, 0));
    assert_int_equal(crls_count(s->lists.handed_out), 2); /* b's, empty, for those who want each */
    assert_true(crls_are_for_all(s->lists.handed_out, NULL));

    signer_process_free(STEAL(s->a.process)); /* no signer: said unsigned, and tried again */
    assert_int_equal(add(s, &s->a, 1, 1, end), E_NONE);
    lists_dirty(&s->lists);
    assert_true(lists_update(&s->lists));
    assert_true(handed_out_has(s, 0) && handed_out_has(s, 1));
    assert_non_null(s->lists.all[1].bare);
    assert_true(crls_are_for_all(s->lists.handed_out, NULL)); /* the former one is signed */
    assert_string_not_equal(s->lists.trouble, "");

    scene_close(s);
    scene_open(s);
    lists_signer(&s->lists, s->b.ca, s->b.signer); /* the key of a is gone */
    assert_int_equal(add(s, &s->a, 2, 1, end), E_NONE);
    lists_dirty(&s->lists);
    assert_true(lists_update(&s->lists));
    for (uint8_t i = 0; i < 3; i++)
        assert_true(handed_out_has(s, i));
    assert_false(crl_is_signed(s->lists.all[1].bare));
    assert_null(s->lists.all[1].signer);
}

/* RFC 5280 5.1.2.5: made anew each day, long before it ends, and when the clock went back. That it
 * is tried is seen from the signer process, whose clock is not shifted: it refuses. */
static void
lists_are_made_anew_in_time(void **state)
{
    static const struct {
        int64_t shift;
        bool is_due;
    } rows[] = { { 0, false },
                 { CA_CRL_EVERY_S - 60, false },
                 { CA_CRL_EVERY_S, true },
                 { -SIGNER_BACKDATE_S + 60, false },
                 { -CA_CRL_EVERY_S, true } };
    struct scene *s = *state;

    int64_t from = unix_s();

    lists_signer(&s->lists, s->a.ca, s->a.signer);
    (void)lists_update(&s->lists);
    const struct crl *first = s->lists.all[0].list;
    assert_true(crl_next_update(first) >= from + CA_CRL_LIFE_S);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        clock_shift_for_test(rows[i].shift);
        (void)lists_update(&s->lists);
        bool was_tried = strstr(s->lists.trouble, "not of now") != NULL;
        clock_shift_for_test(0);
        s->lists.all[0].is_dirty = false;
        s->lists.trouble[0] = '\0';
        if (was_tried != rows[i].is_due)
            fail_msg("%lld: %d", (long long)rows[i].shift, was_tried);
        assert_ptr_equal(s->lists.all[0].list, first); /* it stands */
    }
}

/* Lists that came with the set: handed out beside ours while they say something, as they are, and
 * without their signature once they have expired, so that nobody else refuses everyone for that. */
static void
lists_of_the_cas_above_go_along(void **state)
{
    struct scene *s = *state;
    struct crls *none = mint_lists(s->a.root, s->a.root_key, 1, NULL),
                *some = mint_lists(s->a.root, s->a.root_key, 2, s->b.ca);
    struct crl *alone[BUNDLE_LISTS_MAX];

    lists_signer(&s->lists, s->a.ca, s->a.signer);
    lists_above(&s->lists, none);
    assert_false(lists_update(&s->lists)); /* nothing is revoked: nobody is told */
    assert_int_equal(lists_above_alone(&s->lists, alone), 1);
    lists_above(&s->lists, some);
    assert_true(lists_update(&s->lists));
    assert_int_equal(crls_count(s->lists.handed_out), 2);
    assert_true(crls_revoke(s->lists.handed_out, s->b.ca) == false); /* B's issuer is another */
    assert_int_equal(crls_entries(s->lists.handed_out), 1);
    assert_true(crl_is_signed(crls_at(s->lists.handed_out, 1)));
    clock_shift_for_test(2 * HOUR_MS / 1000);
    assert_true(lists_update(&s->lists));
    assert_false(crl_is_signed(crls_at(s->lists.handed_out, 1)));
    assert_int_equal(crls_entries(s->lists.handed_out), 1);
    clock_shift_for_test(0);
    lists_above(&s->lists, NULL);
    assert_true(lists_update(&s->lists));
    assert_null(s->lists.handed_out);
    crls_unref(none);
    crls_unref(some);
}

/* One about leaves of a signer of ours goes into our list of that name, each entry once. */
static void
a_list_of_our_signer_is_part_of_ours(void **state)
{
    struct scene *s = *state;
    struct crls *theirs = mint_lists(s->a.ca, s->a.ca_key, 5, s->b.ca); /* any serial */
    struct crl *alone[BUNDLE_LISTS_MAX];
    struct crl_entry x;
    struct err e = { 0 };

    assert_int_equal(add(s, &s->a, 0, 1, unix_s() + 600), E_NONE);
    lists_signer(&s->lists, s->a.ca, s->a.signer);
    lists_above(&s->lists, theirs);
    assert_true(lists_update(&s->lists));
    assert_int_equal(lists_above_alone(&s->lists, alone), 0);
    assert_int_equal(crls_count(s->lists.handed_out), 1);
    const struct crl *ours = crls_at(s->lists.handed_out, 0);
    assert_ok(crl_verify(ours, s->a.ca, &e));
    assert_int_equal(crl_count(ours), 2);
    assert_true(handed_out_has(s, 0));
    assert_int_equal(crl_entry_of(ours, cert_serial(s->b.ca), &x, &e), 0);
    assert_int_equal(x.reason, CRL_KEY_COMPROMISE);
    lists_above(&s->lists, NULL);
    assert_true(lists_update(&s->lists));
    assert_int_equal(crls_entries(s->lists.handed_out), 1);
    crls_unref(theirs);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
    const struct CMUnitTest tests[] = {
        T(what_is_added_is_there_after_a_restart),
        T(a_clock_that_jumps_gives_nothing_back),
        T(istio_61073_a_list_can_be_cleared),
        T(revoked_means_listed_whatever_happens_to_the_signers),
        T(lists_are_made_anew_in_time),
        T(lists_of_the_cas_above_go_along),
        T(a_list_of_our_signer_is_part_of_ours),
    };

    return cmocka_run_group_tests_name("ca/revoke", tests, NULL, NULL);
}
