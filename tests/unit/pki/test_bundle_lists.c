/* test_bundle_lists.c - which lists may go with a bundle, which may follow which, what they say. */
#include "bundle_kit.h"
#include "mint_list.h"
#include "pki/pem.h"

static struct ca mute; /* under A, and may sign no lists */
static struct bundle *a2_set, *a1_set, *mute_set;

static struct bundle *
bundle_of(struct set s)
{
    struct bundle *ret = NULL;
    struct err e;

    assert_ok(make(&s, &ret, &e));
    return ret;
}

static int
setup(void **state)
{
    (void)state;
    cas_make();
    ca_bent(&mute, &a, "Mute", -1, 10,
            "basicConstraints=critical,CA:TRUE;keyUsage=critical,keyCertSign");
    a1_set = bundle_of((struct set){ { a.cert }, { a1.cert }, { a1.cert, a.cert }, a1.key });
    a2_set = bundle_of((struct set){ { a.cert }, { a2.cert }, { a2.cert, a1.cert }, a2.key });
    mute_set = bundle_of((struct set){ { a.cert }, { mute.cert }, { mute.cert }, mute.key });
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    cas_done();
    ca_done(&mute);
    bundle_unref(a1_set);
    bundle_unref(a2_set);
    bundle_unref(mute_set);
    return 0;
}

static struct crls *
list_by(const struct ca *c, uint64_t number, const struct cert *revoked)
{
    return mint_lists(c->cert, c->key, number, revoked);
}

static void
lists_of_the_bundle_go_with_it(void **state)
{
    struct buf pem = BUF_INIT(PEM_MAX_BYTES), again = BUF_INIT(PEM_MAX_BYTES);
    struct crls *s = NULL;
    struct bundle *with = NULL, *wider = NULL;
    struct err e;

    (void)state;
    mint_list(a.cert, a.key, 1, -60, 60, NULL, &pem);
    mint_list(a1.cert, a1.key, 1, -60, 60, NULL, &pem);
    assert_ok(bundle_lists_read(a2_set, buf_span(&pem), &s, &e));
    assert_int_equal(crls_count(s), 2);
    assert_err(bundle_lists_are_whole(a2_set, s, &e), E_DENIED, "no list of \"CN=A2,O=Istio\"");
    assert_ok(bundle_lists_are_whole(a1_set, s, &e));
    assert_null(bundle_lists(a2_set));
    assert_ok(bundle_with_lists(a2_set, s, &with, &e));
    assert_ok(bundle_with_roots(with, bundle_roots(with), &wider, &e)); /* they stay with it */
    assert_true(crls_equal(bundle_lists(wider), s));
    assert_ok(bundle_part_pem(wider, PART_CA_CRL, &again, &e));
    assert_true(span_eq(buf_span(&again), buf_span(&pem)));
    again.n = 0;
    assert_ok(bundle_part_pem(a2_set, PART_CA_CRL, &again, &e));
    assert_int_equal(again.n, 0);
    crls_unref(s);
    bundle_unref(with);
    bundle_unref(wider);
    s = NULL;
    assert_err(bundle_lists_read(a2_set, span_str(" \n"), &s, &e), E_PARSE, "it is empty");
    assert_null(s);
    buf_done(&pem);
    buf_done(&again);
}

static void
what_may_not_go_with_it_is_named(void **state)
{
    const struct {
        const struct ca *by[2];
        enum err_code code;
        const char *says;
        const struct bundle *set;
    } rows[] = {
        { { &b },
          E_DENIED,
          "list 1: a list of \"CN=Root B,O=Istio\", which is no certificate",
          a1_set },
        { { &a, &a2 }, E_DENIED, "list 2: a list of \"CN=A2,O=Istio\"", a1_set },
        { { &a, &a }, E_DENIED, "list 2: two lists of \"CN=Root A,O=Istio\"", a1_set },
        { { &mute }, E_DENIED, "may not sign revocation lists (no cRLSign)", mute_set },
    };
    struct ca twin;
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct crls *s = NULL;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        pem.n = 0;
        for (size_t k = 0; k < 2 && rows[i].by[k] != NULL; k++)
            mint_list(rows[i].by[k]->cert, rows[i].by[k]->key, 1, -60, 60, NULL, &pem);
        assert_err(bundle_lists_read(rows[i].set, buf_span(&pem), &s, &e), rows[i].code,
                   rows[i].says);
        assert_null(s);
    }
    /* the name of a root and another key: neither its identifier nor its signature fits */
    ca_make(&twin, NULL, "O=Istio,CN=Root A", -1);
    pem.n = 0;
    mint_list(twin.cert, twin.key, 1, -60, 60, NULL, &pem);
    assert_err(bundle_lists_read(a1_set, buf_span(&pem), &s, &e), E_DENIED, "CN=Root A,O=Istio");
    /* one byte of the signature */
    pem.n = 0;
    mint_list(a.cert, a.key, 1, -60, 60, NULL, &pem);
    struct crls *own = NULL;
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES), bent = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(crls_from_pem(buf_span(&pem), &own, &e));
    assert_ok(buf_add(&der, crl_der(crls_at(own, 0)), &e));
    der.p[der.n - 1] ^= 1;
    assert_ok(pem_add(&bent, "X509 CRL", buf_span(&der), &e));
    assert_err(bundle_lists_read(a1_set, buf_span(&bent), &s, &e), E_DENIED, "signature is not");
    crls_unref(own);
    ca_done(&twin);
    buf_done(&pem);
}

static void
more_lists_than_the_limit_are_refused(void **state)
{
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct ca many[BUNDLE_LISTS_MAX + 1];
    struct cert *roots[BUNDLE_LISTS_MAX + 2];
    struct crls *s = NULL;
    struct roots *set = NULL;
    struct bundle *wide = NULL;
    struct err e;

    (void)state;
    roots[BUNDLE_LISTS_MAX + 1] = a.cert;
    for (size_t i = 0; i < ARRAY_LEN(many); i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "CN=Root %zu", i);
        ca_make(&many[i], NULL, name, -1);
        roots[i] = many[i].cert;
        mint_list(many[i].cert, many[i].key, 1, -60, 60, NULL, &pem);
    }
    assert_ok(roots_from_certs(roots, ARRAY_LEN(roots), &set, &e));
    assert_ok(bundle_with_roots(a1_set, set, &wide, &e));
    assert_err(bundle_lists_read(wide, buf_span(&pem), &s, &e), E_LIMIT,
               "more than 8 revocation lists");
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        ca_done(&many[i]);
    roots_unref(set);
    bundle_unref(wide);
    buf_done(&pem);
}

static void
rfc5280_5_2_3_numbers_do_not_go_back(void **state)
{
    const struct {
        uint64_t now, next;
        bool ok;
    } rows[] = { { 5, 6, true }, { 5, 5, false }, { 5, 4, false } };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct crls *now = list_by(&a, rows[i].now, NULL),
                    *next = list_by(&a, rows[i].next, a1.cert);

        if (rows[i].ok)
            assert_ok(bundle_lists_follow(now, next, &e));
        else
            assert_err(bundle_lists_follow(now, next, &e), E_DENIED, "goes back: its number is");
        assert_ok(bundle_lists_follow(now, now, &e));
        assert_ok(bundle_lists_follow(now, NULL, &e));
        assert_ok(bundle_lists_follow(NULL, next, &e));
        crls_unref(now);
        crls_unref(next);
    }
    struct crls *of_a = list_by(&a, 9, NULL), *of_a1 = list_by(&a1, 1, NULL);
    assert_ok(bundle_lists_follow(of_a, of_a1, &e)); /* another issuer counts by itself */
    crls_unref(of_a);
    crls_unref(of_a1);
}

static void
times_are_judged(void **state)
{
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct crls *s = NULL;
    struct err e;
    int64_t before = unix_s();

    (void)state;
    mint_list(a.cert, a.key, 1, -60, 60, NULL, &pem);
    assert_ok(crls_from_pem(buf_span(&pem), &s, &e));
    int64_t end = bundle_lists_end(s), now = end - 60;
    assert_true(now >= before && now <= unix_s());
    assert_ok(bundle_lists_check_time(s, now, &e));
    assert_err(bundle_lists_check_time(s, now + 61, &e), E_DENIED,
               "list 1: the revocation list of");
    assert_err(bundle_lists_check_time(s, now - 70, &e), E_DENIED, "of a time to come");
    assert_true(bundle_lists_end(NULL) == INT64_MAX);
    crls_unref(s);
    buf_done(&pem);
}

static void
a_revoked_intermediate_is_named_with_the_remedy(void **state)
{
    struct crls *s = list_by(&a, 1, a1.cert), *other = list_by(&a, 1, mute.cert), *fit = NULL;
    struct err e;

    (void)state;
    assert_err(bundle_lists_spare(a1_set, s, &e), E_DENIED, "\"CN=A1,O=Istio\" (serial ");
    assert_non_null(strstr(e.msg, "by \"CN=Root A,O=Istio\" since "));
    assert_non_null(strstr(e.msg, "(keyCompromise): set another intermediate"));
    assert_err(bundle_lists_spare(a2_set, s, &e), E_DENIED, "\"CN=A1,O=Istio\""); /* above it */
    assert_ok(bundle_lists_spare(mute_set, s, &e));
    assert_ok(bundle_lists_spare(a1_set, other, &e));
    assert_ok(bundle_lists_spare(a1_set, NULL, &e));
    assert_ok(bundle_lists_fitting(mute_set, s, &fit, &e));
    assert_int_equal(crls_count(fit), 1);
    crls_unref(fit);
    crls_unref(s);
    s = list_by(&a1, 1, NULL);
    assert_ok(bundle_lists_fitting(mute_set, s, &fit, &e)); /* A1 is not of that bundle */
    assert_null(fit);
    crls_unref(s);
    crls_unref(other);
}

/* A mark says the same as the certificate. */
static void
marks_say_what_certificates_say(void **state)
{
    struct crls *s = list_by(&a, 1, a1.cert);
    struct cert_mark m;

    (void)state;
    const struct {
        const struct ca *ca;
        bool is_in;
    } rows[] = { { &a1, true }, { &a2, false }, { &mute, false }, { &a, false } };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cert_mark_of(rows[i].ca->cert, &m);
        assert_int_equal(crls_revoke_mark(s, &m), rows[i].is_in);
        assert_int_equal(crls_revoke(s, rows[i].ca->cert), rows[i].is_in);
    }
    cert_mark_of(a1.cert, &m);
    m.aki[0] ^= 1; /* another key of the same name */
    assert_false(crls_revoke_mark(s, &m));
    m.aki_n = 0; /* none said: the name counts */
    assert_true(crls_revoke_mark(s, &m));
    m.issuer_id[0] ^= 1;
    assert_false(crls_revoke_mark(s, &m));
    crls_unref(s);
}

/* Without its signature a list says the same, is no list for others, and no hindrance for them when
 * it is a root's. */
static void
bare_lists_of_roots_stand_back(void **state)
{
    struct crls *s = list_by(&a, 1, a1.cert), *own = list_by(&a1, 1, NULL), *both = NULL;
    struct crl *bare = NULL;
    struct err e;

    (void)state;
    assert_ok(crl_to_bare(crls_at(s, 0), &bare, &e));
    assert_true(!crl_is_signed(bare) && crl_revokes(bare, a1.cert));
    assert_ok(crls_new((struct crl *[]){ bare, crls_at(own, 0) }, 2, &both, &e));
    assert_true(crls_are_for_all(both, bundle_roots(a1_set)));
    assert_false(crls_are_for_all(both, NULL));
    assert_false(crls_reach_roots(both, bundle_roots(a1_set)));
    assert_true(crls_reach_roots(s, bundle_roots(a1_set)));
    crls_unref(both);
    crls_unref(s);
    crls_unref(own);
    crl_unref(bare);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_the_bundle_go_with_it),
        cmocka_unit_test(what_may_not_go_with_it_is_named),
        cmocka_unit_test(more_lists_than_the_limit_are_refused),
        cmocka_unit_test(rfc5280_5_2_3_numbers_do_not_go_back),
        cmocka_unit_test(times_are_judged),
        cmocka_unit_test(a_revoked_intermediate_is_named_with_the_remedy),
        cmocka_unit_test(marks_say_what_certificates_say),
        cmocka_unit_test(bare_lists_of_roots_stand_back),
    };
    return cmocka_run_group_tests_name("pki/bundle_lists", tests, setup, teardown);
}
