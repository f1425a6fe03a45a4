/* test_view.c - what answers and trust streams are made of, and our own certificate. */
#include "kit.h"

#include "base/clock.h"
#include "istio_ca.pb-c.h"
#include "meshroot.pb-c.h"

static void
specs_1_4_answer_tail(void **state)
{
    struct kit k;
    struct err e = { 0 };
    CLEANUP(buf_done) struct buf ca = BUF_INIT(PEM_MAX_BYTES), roots = BUF_INIT(PEM_MAX_BYTES);

    (void)state;
    kit_make(&k, "A", 365);
    CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&k, 7, NULL);
    assert_ok(cert_to_pem(k.ca, &ca, &e));
    assert_ok(roots_to_pem(bundle_roots(k.bundle), &roots, &e));
    Istio__V1__Auth__IstioCertificateResponse *m =
        istio__v1__auth__istio_certificate_response__unpack(NULL, v->answer_tail.n,
                                                            v->answer_tail.p);
    assert_non_null(m);
    assert_int_equal(m->n_cert_chain, 2); /* the leaf comes in front */
    assert_string_equal(m->cert_chain[0], buf_text(&ca));
    assert_string_equal(m->cert_chain[1], buf_text(&roots));
    istio__v1__auth__istio_certificate_response__free_unpacked(m, NULL);
    assert_string_equal(v->generation_text, "7");
    kit_done(&k); /* the view holds what it needs */
    assert_int_equal(v->generation, 7);
}

static void
the_trust_set_holds_every_root(void **state)
{
    struct kit a, b;
    struct roots *both;
    struct err e = { 0 };

    (void)state;
    kit_make(&a, "A", 365);
    kit_make(&b, "B", 365);
    assert_ok(roots_union(bundle_roots(a.bundle), bundle_roots(b.bundle), &both, &e));
    struct bundle *wide;
    assert_ok(bundle_with_roots(a.bundle, both, &wide, &e));
    struct kit w = { .bundle = wide, .signer = a.signer };
    CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&w, 3, NULL);
    Meshroot__V1__TrustSet *m =
        meshroot__v1__trust_set__unpack(NULL, v->trust_set.n, v->trust_set.p);
    assert_non_null(m);
    assert_int_equal(m->generation, 3);
    assert_int_equal(m->n_roots, 2);
    assert_int_equal(m->renew_window_ms, 750);
    assert_memory_equal(m->signer_id.data, cert_id(a.ca), DIGEST_BYTES);
    for (size_t i = 0; i < 2; i++)
        assert_true(
            span_eq(span_of(m->roots[i].data, m->roots[i].len), cert_der(roots_at(both, i))));
    meshroot__v1__trust_set__free_unpacked(m, NULL);
    bundle_unref(wide);
    roots_unref(both);
    kit_done(&a);
    kit_done(&b);
}

static void
our_own_certificate_ends_with_the_signer(void **state)
{
    static const struct {
        uint64_t days;
        int64_t lasts_s;
    } rows[] = { { 365, CA_SERVER_LEAF_S }, { 3, 3 * 86400 } };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_conf conf = kit_conf();
        struct ca_server_cert c;
        struct kit k;
        struct tls_conf *tls;
        struct cert *root;
        int64_t now = unix_s();

        kit_make(&k, "A", rows[i].days);
        CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&k, 1, NULL);
        assert_ok(ca_server_cert_make(&conf, v, &c, &e));
        assert_true(cert_key_matches(c.leaf, c.key));
        assert_true(cert_not_after(c.leaf) <= bundle_not_after(k.bundle));
        assert_in_range(cert_not_after(c.leaf) - now, rows[i].lasts_s - 120, rows[i].lasts_s + 60);
        assert_in_range(c.half_life - now, rows[i].lasts_s / 2 - 65, rows[i].lasts_s / 2 + 60);
        assert_ok(roots_verify(bundle_roots(k.bundle), c.leaf, &k.ca, 1, &root, &e));
        assert_ok(ca_server_tls(&c, v, &tls, &e));
        tls_conf_unref(tls);
        ca_server_cert_done(&c);
        ca_server_cert_done(&c);
        kit_done(&k);
    }
}

static void
specs_4_4_lifetimes(void **state)
{
    static const struct {
        const char *what;
        int64_t asked_s, now_shift, lasts_s; /* lasts_s 0: refused with words */
        const char *words;
    } rows[] = {
        { "default", 0, 0, 86400, NULL },
        { "negative is the default", -7, 0, 86400, NULL },
        { "as asked", 60, 0, 60, NULL },
        { "the maximum", 2160 * 3600, 0, 2160 * 3600, NULL },
        { "above the maximum", 2184 * 3600, 0, 0,
          "requested TTL 2184h0m0s is greater than the max allowed TTL 2160h0m0s" },
        { "absurd", INT64_MAX, 0, 0, "greater than the max" },
        { "cut at the signer's end", 86400, 365 * 86400 - 3600, 3600, NULL },
        { "signer expired", 60, 366 * 86400, 0, "signing certificate has expired at 2" },
    };
    struct ca_conf conf = kit_conf();
    struct kit k;
    struct err e = { 0 };

    (void)state;
    kit_make(&k, "A", 365);
    CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&k, 1, NULL);
    int64_t made = v->not_after - 365 * 86400;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t now = made + rows[i].now_shift, end = 0;

        int r = ca_not_after(&conf, v, now, rows[i].asked_s, &end, &e);
        if (rows[i].lasts_s == 0) {
            assert_true(r < 0);
            if (strstr(e.msg, rows[i].words) == NULL)
                fail_msg("%s: %s", rows[i].what, e.msg);
            continue;
        }
        assert_ok(r);
        assert_int_equal(end - now, rows[i].lasts_s);
    }
    kit_done(&k);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_1_4_answer_tail),
        cmocka_unit_test(the_trust_set_holds_every_root),
        cmocka_unit_test(our_own_certificate_ends_with_the_signer),
        cmocka_unit_test(specs_4_4_lifetimes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
