#include "bundle_kit.h"

static struct ca b1; /* under B */

static int
setup(void **state)
{
    (void)state;
    cas_make();
    ca_make(&b1, &b, "O=Istio,CN=B1", 0);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    cas_done();
    ca_done(&b1);
    return 0;
}

static void
good_bundles(void **state)
{
    const struct {
        struct set s;
        struct cert *root;
        size_t chain_n;
    } rows[] = {
        { { { a.cert }, { a1.cert }, { a1.cert, a.cert }, a1.key }, a.cert, 1 },
        { { { a.cert }, { a1.cert }, { a1.cert }, a1.key }, a.cert, 1 },
        { { { a.cert }, { a2.cert }, { a2.cert, a1.cert, a.cert }, a2.key }, a.cert, 2 },
        { { { a.cert }, { a2.cert }, { a2.cert, a1.cert }, a2.key }, a.cert, 2 },
        { { { b.cert, a.cert }, { a1.cert }, { a1.cert, a.cert }, a1.key }, a.cert, 1 },
        { { { a.cert, b.cert }, { b1.cert }, { b1.cert }, b1.key }, b.cert, 1 },
        /* as istiod: only the first block of ca-cert.pem counts */
        { { { a.cert }, { a1.cert, a.cert }, { a1.cert, a.cert }, a1.key }, a.cert, 1 },
        /* self-signed: the root signs leaves */
        { { { a.cert }, { a.cert }, { NULL }, a.key }, a.cert, 0 },
        { { { a.cert }, { a.cert }, { a.cert }, a.key }, a.cert, 0 },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bundle *made = NULL;

        assert_ok(make(&rows[i].s, &made, &e));
        assert_memory_equal(cert_id(bundle_signer_root(made)), cert_id(rows[i].root), DIGEST_BYTES);
        assert_memory_equal(cert_id(bundle_signer(made)), cert_id(rows[i].s.ca[0]), DIGEST_BYTES);
        assert_int_equal(bundle_chain_count(made), rows[i].chain_n);
        assert_int_equal(roots_count(bundle_roots(made)), count(rows[i].s.roots));
        assert_true(cert_key_matches(bundle_signer(made), bundle_key(made)));
        for (size_t k = 0; k < rows[i].chain_n; k++)
            assert_memory_equal(cert_id(bundle_chain_at(made, k)), cert_id(rows[i].s.chain[k]),
                                DIGEST_BYTES);
        bundle_unref(bundle_ref(made));
        bundle_unref(made);
    }
}

static void
rfc5280_6_1_bundles_refused(void **state)
{
    struct ca late, early, leafy, weak, server_only, zero, below_zero, twin, critical, no_sign;
    struct set many = { { NULL }, { a1.cert }, { a1.cert }, a1.key };
    struct ca extra[ROOTS_MAX + 1];

    ca_bent(&late, &a, "Late", -10, -1, CA_EXT);
    ca_bent(&early, &a, "Early", 2, 10, CA_EXT);
    ca_bent(&leafy, &a, "Leafy", -1, 10, "basicConstraints=critical,CA:FALSE");
    ca_bent(&no_sign, &a, "NoSign", -1, 10,
            "basicConstraints=critical,CA:TRUE;keyUsage=critical,digitalSignature");
    ca_bent(&server_only, &a, "ClientOnly", -1, 10, CA_EXT ";extendedKeyUsage=clientAuth");
    ca_bent(&critical, &a, "Critical", -1, 10, CA_EXT ";1.2.3.4=critical,DER:0500");
    ca_bent(&zero, &a, "Zero", -1, 10,
            "basicConstraints=critical,CA:TRUE,pathlen:0;keyUsage=critical,keyCertSign");
    ca_bent(&below_zero, &zero, "BelowZero", -1, 10, CA_EXT);
    ca_bent(&twin, &a, "A1", -1, 10, CA_EXT);
    ca_bent(&weak, NULL, "Old Root", -10, -1, CA_EXT);
    for (size_t i = 0; i < ARRAY_LEN(extra); i++) {
        ca_bent(&extra[i], NULL, "Extra", -1, 10, CA_EXT);
        many.roots[i] = extra[i].cert;
    }
    const struct {
        struct set s;
        enum err_code code;
        const char *why;
    } rows[] = {
        { { { NULL }, { a1.cert }, { a1.cert }, a1.key },
          E_PARSE,
          "root-cert.pem: no certificate: empty" },
        { { { a.cert, b.cert, a.cert }, { a1.cert }, { a1.cert }, a1.key },
          E_DENIED,
          "root-cert.pem: block 3 is the same certificate as block 1: \"CN=Root A,O=Istio\"" },
        { { { a.cert, a1.cert }, { a1.cert }, { a1.cert }, a1.key },
          E_DENIED,
          "root-cert.pem: block 2: \"CN=A1,O=Istio\" is not self-signed" },
        { { { leafy.cert }, { a1.cert }, { a1.cert }, a1.key },
          E_DENIED,
          "root-cert.pem: block 1: \"CN=Leafy\" is not a CA certificate" },
        { many, E_LIMIT, "root-cert.pem: more than 16 certificates" },
        { { { a.cert }, { NULL }, { a1.cert }, a1.key }, E_PARSE, "ca-cert.pem: no certificate" },
        { { { a.cert }, { leafy.cert }, { leafy.cert }, leafy.key },
          E_DENIED,
          "ca-cert.pem: \"CN=Leafy\" is not a CA certificate" },
        { { { a.cert }, { no_sign.cert }, { no_sign.cert }, no_sign.key },
          E_DENIED,
          "ca-cert.pem: \"CN=NoSign\" is not a CA certificate (CA:TRUE, keyCertSign)" },
        { { { a.cert }, { late.cert }, { late.cert }, late.key },
          E_DENIED,
          "ca-cert.pem: \"CN=Late\" expired at 2" },
        { { { a.cert }, { early.cert }, { early.cert }, early.key },
          E_DENIED,
          "ca-cert.pem: \"CN=Early\" is not valid before 2" },
        { { { a.cert }, { server_only.cert }, { server_only.cert }, server_only.key },
          E_DENIED,
          "ca-cert.pem: \"CN=ClientOnly\": its extended key usage" },
        { { { a.cert }, { a1.cert }, { a1.cert, a.cert }, b1.key },
          E_DENIED,
          "ca-key.pem: the key (p256) does not match the certificate in ca-cert.pem, "
          "\"CN=A1,O=Istio\"" },
        { { { a.cert }, { a1.cert }, { NULL }, a1.key }, E_DENIED, "cert-chain.pem: empty" },
        { { { a.cert }, { a1.cert }, { a.cert }, a1.key },
          E_DENIED,
          "cert-chain.pem: starts with \"CN=Root A,O=Istio\", not with the certificate of "
          "ca-cert.pem, \"CN=A1,O=Istio\"" },
        { { { a.cert }, { a1.cert }, { a.cert, a1.cert }, a1.key },
          E_DENIED,
          "cert-chain.pem: out of order: the certificate of ca-cert.pem, \"CN=A1,O=Istio\", is "
          "number 2" },
        { { { a.cert }, { twin.cert }, { a1.cert }, twin.key },
          E_DENIED,
          "cert-chain.pem: starts with" },
        { { { a.cert }, { a2.cert }, { a2.cert, a.cert, a1.cert }, a2.key },
          E_DENIED,
          "cert-chain.pem: out of order: certificate 1, \"CN=A2,O=Istio\", is signed by "
          "certificate "
          "3" },
        { { { a.cert }, { a2.cert }, { a2.cert, a.cert }, a2.key },
          E_DENIED,
          "cert-chain.pem: broken: certificate 1 is signed by \"CN=A1,O=Istio\"" },
        { { { a.cert }, { a2.cert }, { a2.cert }, a2.key },
          E_DENIED,
          "cert-chain.pem: ends in \"CN=A2,O=Istio\", signed by \"CN=A1,O=Istio\", which is not in "
          "root-cert.pem" },
        { { { b.cert }, { a1.cert }, { a1.cert, a.cert }, a1.key },
          E_DENIED,
          "cert-chain.pem: ends in the root \"CN=Root A,O=Istio\", which is not in "
          "root-cert.pem" },
        { { { b.cert }, { a.cert }, { NULL }, a.key },
          E_DENIED,
          "cert-chain.pem: ends in the root \"CN=Root A,O=Istio\", which is not in" },
        { { { a.cert }, { a1.cert }, { a1.cert, a.cert, b.cert }, a1.key },
          E_DENIED,
          "cert-chain.pem: certificate 3, \"CN=Root B,O=Istio\", comes after the root" },
        { { { a.cert }, { a1.cert }, { a1.cert, a1.cert }, a1.key },
          E_DENIED,
          "cert-chain.pem: broken" },
        { { { a.cert }, { below_zero.cert }, { below_zero.cert, zero.cert }, below_zero.key },
          E_DENIED,
          "cert-chain.pem: \"CN=Zero\" has path length 0, and 1 intermediate stands" },
        { { { weak.cert }, { weak.cert }, { NULL }, weak.key },
          E_DENIED,
          "ca-cert.pem: \"CN=Old Root\" expired" },
        { { { a.cert }, { critical.cert }, { critical.cert }, critical.key },
          E_DENIED,
          "cert-chain.pem: \"CN=Critical\": unhandled critical extension" },
    };
    struct ca *all[] = { &late,     &early, &leafy,      &no_sign, &server_only,
                         &critical, &zero,  &below_zero, &twin,    &weak };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bundle *made = NULL;

        assert_err(make(&rows[i].s, &made, &e), rows[i].code, rows[i].why);
        assert_null(made);
    }
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ca_done(all[i]);
    for (size_t i = 0; i < ARRAY_LEN(extra); i++)
        ca_done(&extra[i]);
}

/* A root above an intermediate that is named right but has another key, or is past its end. */
static void
roots_that_look_right(void **state)
{
    struct ca impostor, old, renewed = { .key = NULL }, under;
    struct bundle *made = NULL;
    struct err e;

    (void)state;
    ca_make(&impostor, NULL, "O=Istio,CN=Root A", -1);
    struct set s = { { impostor.cert }, { a1.cert }, { a1.cert }, a1.key };
    assert_err(make(&s, &made, &e), E_DENIED, "cert-chain.pem: ends in \"CN=A1,O=Istio\"");

    ca_bent(&old, NULL, "Old", -10, -1, CA_EXT);
    ca_bent(&under, &old, "Under", -10, 10, CA_EXT);
    s = (struct set){ { old.cert }, { under.cert }, { under.cert }, under.key };
    assert_err(make(&s, &made, &e), E_DENIED, "cert-chain.pem: \"CN=Old\" expired at");

    /* the same key and name with a new end, beside the old one: that one is taken */
    renewed.cert = cert_bent(old.key, "Old", NULL, -1, 10, CA_EXT);
    s.roots[1] = renewed.cert;
    assert_ok(make(&s, &made, &e));
    assert_memory_equal(cert_id(bundle_signer_root(made)), cert_id(renewed.cert), DIGEST_BYTES);
    bundle_unref(made);
    ca_done(&impostor);
    ca_done(&old);
    ca_done(&renewed);
    ca_done(&under);
}

/* The key's text is not a key, or the certificate of a part is no strict PEM. */
static void
malformed_parts(void **state)
{
    struct buf roots = pem_of(&a.cert, 1), ca = pem_of(&a1.cert, 1), key = pem_of_key(a1.key);
    struct buf junk = BUF_INIT(PEM_MAX_BYTES), glued = BUF_INIT(PEM_MAX_BYTES);
    struct buf text = BUF_INIT(PEM_MAX_BYTES), big = BUF_INIT(PEM_MAX_BYTES);
    struct err e;

    (void)state;
    assert_ok(buf_addf(&junk, &e, "%s%s", buf_text(&roots),
                       "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    assert_ok(buf_addf(&glued, &e, "%.*s%s", (int)ca.n - 1, buf_text(&ca), buf_text(&roots)));
    assert_ok(buf_addf(&text, &e, "%s# the root\n%s", buf_text(&ca), buf_text(&roots)));
    for (int i = 0; i < 26 * 1024 / 64; i++)
        assert_ok(buf_addf(&big, &e, "%063d\n", i));
    const struct {
        struct span parts[PART__N];
        const char *why;
    } rows[] = {
        { { buf_span(&junk), buf_span(&ca), buf_span(&key), buf_span(&ca) },
          "root-cert.pem: block 2: the certificate does not parse" },
        { { buf_span(&roots), buf_span(&ca), buf_span(&ca), buf_span(&ca) },
          "ca-key.pem: line 1: CERTIFICATE is not a private key" },
        { { buf_span(&roots), buf_span(&key), buf_span(&key), buf_span(&ca) },
          "ca-cert.pem: block 1: line 1: PRIVATE KEY, want CERTIFICATE" },
        { { buf_span(&roots), buf_span(&ca), buf_span(&key), buf_span(&glued) },
          "a line break is missing where two files were joined" },
        { { buf_span(&roots), buf_span(&ca), buf_span(&key), buf_span(&text) },
          ": text after block 1" },
        { { buf_span(&big), buf_span(&ca), buf_span(&key), buf_span(&ca) },
          "root-cert.pem: no certificate: no PEM block" },
        { { buf_span(&roots), buf_span(&ca), span_str(""), buf_span(&ca) }, "ca-key.pem: empty" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bundle *made = NULL;

        assert_err(bundle_new(rows[i].parts, &made, &e), E_PARSE, rows[i].why);
    }
    buf_done(&roots);
    buf_done(&ca);
    buf_wipe(&key);
    buf_done(&junk);
    buf_done(&glued);
    buf_done(&text);
    buf_done(&big);
}

static void
parts_are_canonical_and_come_back(void **state)
{
    struct set s = { { b.cert, a.cert }, { a2.cert }, { a2.cert, a1.cert }, a2.key };
    struct buf text[PART__N], again[PART__N];
    struct span parts[PART__N];
    struct bundle *first = NULL, *second = NULL;
    struct err e;

    (void)state;
    assert_ok(make(&s, &first, &e));
    for (int i = 0; i < PART__N; i++) {
        text[i] = BUF_INIT(PEM_MAX_BYTES);
        assert_ok(bundle_part_pem(first, (enum bundle_part)i, &text[i], &e));
        parts[i] = buf_span(&text[i]);
    }
    assert_ok(bundle_new(parts, &second, &e));
    for (int i = 0; i < PART__N; i++) {
        again[i] = BUF_INIT(PEM_MAX_BYTES);
        assert_ok(bundle_part_pem(second, (enum bundle_part)i, &again[i], &e));
        assert_string_equal(buf_text(&again[i]), buf_text(&text[i]));
        buf_wipe(&again[i]);
        buf_wipe(&text[i]);
    }
    assert_true(roots_equal(bundle_roots(first), bundle_roots(second)));
    assert_int_equal(bundle_not_after(first), cert_not_after(a.cert) < cert_not_after(a2.cert)
                                                  ? cert_not_after(a.cert)
                                                  : cert_not_after(a2.cert));
    bundle_unref(first);
    bundle_unref(second);
}

static void
other_roots_must_hold_the_signers(void **state)
{
    struct set s = { { a.cert }, { a1.cert }, { a1.cert }, a1.key };
    struct bundle *first = NULL, *wide = NULL, *bad = NULL;
    struct roots *both = NULL, *only_b = NULL;
    struct err e;

    (void)state;
    assert_ok(make(&s, &first, &e));
    assert_ok(roots_from_certs((struct cert *[]){ b.cert, a.cert }, 2, &both, &e));
    assert_ok(roots_from_certs(&b.cert, 1, &only_b, &e));
    assert_ok(bundle_with_roots(first, both, &wide, &e));
    assert_true(roots_equal(bundle_roots(wide), both));
    assert_ptr_equal(bundle_signer(wide), bundle_signer(first));
    assert_err(bundle_with_roots(first, only_b, &bad, &e), E_DENIED,
               "lacks the signer's root \"CN=Root A,O=Istio\"");
    bundle_unref(first);
    bundle_unref(wide);
    roots_unref(both);
    roots_unref(only_b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_bundles),
        cmocka_unit_test(rfc5280_6_1_bundles_refused),
        cmocka_unit_test(roots_that_look_right),
        cmocka_unit_test(malformed_parts),
        cmocka_unit_test(parts_are_canonical_and_come_back),
        cmocka_unit_test(other_roots_must_hold_the_signers),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
