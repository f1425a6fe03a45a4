/* test_revoked_identity.c - identities that are revoked: the table, the cuts, a page of them. */
#include "unit.h"

#include <stdlib.h>

#include "base/clock.h"
#include "ca/revoke_page.h"
#include "pki/leaf.h"
#include "tmpdir.h"

enum { HOUR_MS = 3600 * 1000, YEAR_S = 365 * 86400 };

static const char cart[] = "spiffe://cluster.local/ns/shop/sa/cart";

struct scene {
    char dir[64];
    struct loop *loop;
    struct store *store;
    struct revoked_identities t;
    struct err last;
};

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct err e = { 0 };

    assert_non_null(s);
    tmpdir_make(s->dir);
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(store_open_sqlite(s->dir, &s->store, &e));
    assert_ok(identities_open(&s->t, s->store, s->loop, &e));
    *state = s;
    return 0;
}

static void
restart(struct scene *s)
{
    struct err e = { 0 };

    identities_done(&s->t);
    store_close(s->store);
    assert_ok(store_open_sqlite(s->dir, &s->store, &e));
    assert_ok(identities_open(&s->t, s->store, s->loop, &e));
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    identities_done(&s->t);
    store_close(s->store);
    loop_free(s->loop);
    tmpdir_remove(s->dir);
    free(s);
    return 0;
}

static void
act_id(unsigned n, uint8_t id[IDENTITY_ACT_BYTES])
{
    memset(id, 0, IDENTITY_ACT_BYTES);
    id[0] = (uint8_t)(n >> 8);
    id[1] = (uint8_t)n;
}

static enum err_code
begin(struct scene *s, unsigned n, const char *identity, int64_t at, int64_t until)
{
    struct revoked_identity v = { .at = at, .until = until, .reason = CRL_KEY_COMPROMISE };
    char text[LEDGER_IDENTITY_BYTES];
    struct err e = { 0 };

    (void)snprintf(text, sizeof(text), "%s", identity);
    v.identity = text;
    act_id(n, v.id);
    return identities_begin(&s->t, &v, &e) < 0 ? e.code : E_NONE;
}

static void
on_kept(const struct err *e, void *arg)
{
    struct scene *s = arg;

    s->last = *e;
    loop_stop(s->loop);
}

static void
keep(struct scene *s, unsigned n)
{
    uint8_t id[IDENTITY_ACT_BYTES];
    struct err e = { 0 };

    act_id(n, id);
    assert_ok(identities_keep(&s->t, id, on_kept, s, &e));
    assert_false(identities_find(&s->t, id)->is_kept);
    assert_ok(loop_run(s->loop, &e));
    assert_int_equal(s->last.code, E_NONE);
    assert_true(identities_find(&s->t, id)->is_kept);
}

static bool
refuses(const struct scene *s, const char *identity, int64_t issued)
{
    return cuts_refuse(s->t.cuts, span_str(identity), issued - LEAF_BACKDATE_S);
}

/* What was not kept is as if it had not begun; what was is there after a restart, with its cut. */
static void
what_is_kept_is_there_after_a_restart(void **state)
{
    struct scene *s = *state;
    int64_t now = unix_s();
    uint8_t id[IDENTITY_ACT_BYTES];

    assert_int_equal(begin(s, 1, cart, now, now + 600), E_NONE);
    keep(s, 1);
    assert_int_equal(begin(s, 2, "spiffe://cluster.local/ns/shop/sa/web", now, now + 600), E_NONE);
    assert_int_equal(s->t.n, 2);
    assert_int_equal(identities_kept(&s->t), 1);
    restart(s);
    assert_int_equal(s->t.n, 1);
    act_id(1, id);
    const struct revoked_identity *v = identities_find(&s->t, id);
    assert_non_null(v);
    assert_string_equal(v->identity, cart);
    assert_true(v->at == now && v->until == now + 600 && v->reason == CRL_KEY_COMPROMISE);
    assert_true(refuses(s, cart, now - 1));
    act_id(2, id);
    assert_null(identities_find(&s->t, id));
}

static void
a_cut_is_of_one_identity_and_one_moment(void **state)
{
    struct scene *s = *state;
    int64_t now = unix_s();
    uint8_t id[IDENTITY_ACT_BYTES];

    assert_false(refuses(s, cart, now - YEAR_S));
    assert_int_equal(begin(s, 1, "spiffe://cluster.local/ns/shop/sa/zoo", now + 50, now), E_NONE);
    assert_int_equal(begin(s, 2, cart, now + 9, now), E_NONE);
    assert_int_equal(begin(s, 3, "spiffe://cluster.local/ns/shop/sa/car", now + 70, now), E_NONE);
    assert_int_equal(begin(s, 4, cart, now, now), E_NONE); /* said later, by a clock behind */
    assert_true(refuses(s, cart, now + 8));
    assert_false(refuses(s, cart, now + 9)); /* the very second: it may be the next one */
    assert_false(refuses(s, cart, now + 10));
    assert_true(refuses(s, "spiffe://cluster.local/ns/shop/sa/zoo", now + 49));
    assert_true(refuses(s, "spiffe://cluster.local/ns/shop/sa/car", now + 69));
    assert_false(refuses(s, "spiffe://cluster.local/ns/shop/sa/carts", now - YEAR_S));
    assert_false(refuses(s, "spiffe://cluster.local/ns/shop/sa/", now - YEAR_S));
    assert_false(refuses(s, "", now - YEAR_S));
    struct cuts *before = cuts_ref(s->t.cuts); /* a view's */
    act_id(2, id);
    identities_drop(&s->t, id);
    assert_true(refuses(s, cart, now - 1));
    assert_false(refuses(s, cart, now));
    act_id(4, id);
    identities_drop(&s->t, id);
    assert_false(refuses(s, cart, now - YEAR_S));
    assert_true(cuts_refuse(before, span_str(cart), now - YEAR_S));
    assert_false(cuts_equal(before, s->t.cuts) || cuts_equal(NULL, before));
    assert_int_equal(begin(s, 2, cart, now + 9, now), E_NONE);
    assert_false(cuts_equal(before, s->t.cuts));
    assert_int_equal(begin(s, 4, cart, now, now), E_NONE);
    assert_true(cuts_equal(before, s->t.cuts) && cuts_equal(NULL, NULL)); /* of other acts, too */
    cuts_unref(before);
    assert_int_equal(s->t.n, 4);
}

static void
the_table_is_bounded(void **state)
{
    struct scene *s = *state;
    int64_t now = unix_s();

    for (unsigned n = 0; n < REVOKED_IDENTITIES_MAX; n++)
        if (begin(s, n, cart, now, now + 600) != E_NONE)
            fail_msg("%u", n);
    assert_int_equal(begin(s, 9999, cart, now, now + 600), E_LIMIT);
    assert_int_equal(s->t.n, REVOKED_IDENTITIES_MAX);
}

/* Both clocks, as for leaves; one that is under way stays. */
static void
what_has_ended_goes_by_both_clocks(void **state)
{
    struct scene *s = *state;
    int64_t now = unix_s(), over = now + 601 + REVOKED_KEPT_S;

    assert_int_equal(begin(s, 1, cart, now, now + 600), E_NONE);
    keep(s, 1);
    assert_int_equal(begin(s, 2, cart, now, now + 600), E_NONE);
    assert_false(identities_prune(&s->t, now + YEAR_S, 1000));
    assert_false(identities_prune(&s->t, now, 1000 + HOUR_MS)); /* it was set right */
    assert_false(identities_prune(&s->t, over, 1000 + 2 * HOUR_MS));
    assert_false(identities_prune(&s->t, over, 999 + 3 * HOUR_MS));
    assert_true(refuses(s, cart, now - 1));
    assert_true(identities_prune(&s->t, over, 1000 + 3 * HOUR_MS));
    assert_int_equal(s->t.n, 1);
    assert_false(identities_prune(&s->t, over, 1000 + 9 * HOUR_MS));
    restart(s);
    assert_int_equal(s->t.n, 0);
    assert_false(refuses(s, cart, now - 1));
}

/* Sixteen of the longest identities beside as many leaves as fit: one message. */
static void
a_page_has_room_for_its_identities(void **state)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(GRPC_MAX_MESSAGE_BYTES);
    char text[SPIFFE_ID_BYTES];
    struct revoked_identity v = { .identity = text, .at = 7, .until = 1800000000 }, w;
    struct revoked leaf = { .identity = text, .not_after = INT64_MAX };
    struct revoke_page page;
    struct err e = { 0 };

    (void)state;
    int n = snprintf(text, sizeof(text), "spiffe://cluster.local/ns/%063d/sa/%0253d", 1, 1);
    assert_in_range(n, 300, SPIFFE_ID_BYTES - 1);
    leaf.entry.serial_n = SERIAL_MAX_BYTES;
    memset(leaf.entry.serial, 0xff, SERIAL_MAX_BYTES);
    leaf.entry.reason = v.reason = CRL_KEY_COMPROMISE;
    memset(v.id, 0xff, sizeof(v.id));
    revoke_page_init(&page, 5, 6);
    for (size_t i = 0; i < PAGE_IDENTITIES_MAX; i++)
        assert_true(revoke_page_add_identity(&page, &v));
    assert_false(revoke_page_add_identity(&page, &v));
    while (revoke_page_add(&page, &leaf, NULL))
        ;
    assert_int_equal(page.m.n_leaves, PAGE_LEAVES_MAX);
    assert_ok(revoke_page_pack(&page, &b, &e));
    assert_true(b.n <= page.bytes && page.bytes <= PAGE_BYTES);
    Meshroot__V1__RevokedPage *m = meshroot__v1__revoked_page__unpack(NULL, b.n, b.p);
    assert_non_null(m);
    assert_true(m->takes_identities && m->from == 5 && m->identities_from == 6);
    assert_int_equal(m->n_identities, PAGE_IDENTITIES_MAX);
    assert_ok(revoke_identity_read(m->identities[15], &w, &e));
    assert_string_equal(w.identity, text);
    assert_memory_equal(w.id, v.id, sizeof(v.id));
    assert_true(w.at == 7 && w.until == 1800000000 && w.reason == CRL_KEY_COMPROMISE);
    free(w.identity);
    meshroot__v1__revoked_page__free_unpacked(m, NULL);
}

static void
what_is_unsound_is_refused(void **state)
{
    uint8_t id[IDENTITY_ACT_BYTES] = { 1 };
    int64_t now = unix_s();
    char good[] = "spiffe://cluster.local/ns/shop/sa/cart", bad[] = "spiffe://cluster.local/cart",
         reason[] = "superseded", because[] = "because";
    const struct {
        size_t id_n;
        char *identity, *reason;
        int64_t at, until;
        const char *words; /* NULL: taken */
    } rows[] = {
        { 16, good, reason, now, now + 600, NULL },
        { 15, good, reason, now, now + 600, "16 bytes" },
        { 0, good, reason, now, now + 600, "16 bytes" },
        { 16, bad, reason, now, now + 600, "SPIFFE id" },
        { 16, good, because, now, now + 600, "keyCompromise" },
        { 16, good, reason, 0, now + 600, "at no time" },
        { 16, good, reason, now, now - 1, "until none" },
        { 16, good, reason, 1, INT64_MAX, "until none" },
        { 16, good, reason, INT64_MAX, INT64_MAX, "until none" },
        { 16, good, reason, now + 86400, now + 90000, NULL }, /* its clock is ahead */
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Meshroot__V1__RevokedIdentity m = MESHROOT__V1__REVOKED_IDENTITY__INIT;
        struct revoked_identity v = { .identity = NULL };

        m.id = (ProtobufCBinaryData){ rows[i].id_n, id };
        m.identity = rows[i].identity;
        m.reason = rows[i].reason;
        m.revoked = rows[i].at;
        m.until = rows[i].until;
        if (rows[i].words != NULL) {
            assert_err(revoke_identity_read(&m, &v, &e), E_INVAL, rows[i].words);
            assert_null(v.identity);
            continue;
        }
        assert_ok(revoke_identity_read(&m, &v, &e));
        assert_true(v.at <= unix_s() && v.until == rows[i].until);
        free(v.identity);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_is_kept_is_there_after_a_restart),
        T(a_cut_is_of_one_identity_and_one_moment),
        T(the_table_is_bounded),
        T(what_has_ended_goes_by_both_clocks),
        cmocka_unit_test(a_page_has_room_for_its_identities),
        cmocka_unit_test(what_is_unsound_is_refused),
    };

    return cmocka_run_group_tests_name("ca/revoked_identity", tests, NULL, NULL);
}
