/* test_crl.c - revocation lists: what is written is what OpenSSL reads; what is judged. */
#include "ca_kit.h"

#include "pki/crl.h"

enum { T0 = 1800000000 };

struct scene {
    struct ca root, a, b;
    struct leaf_template *ta, *tb;
};

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct err e = { 0 };

    assert_non_null(s);
    ca_make(&s->root, NULL, "O=Istio,CN=Root", -1);
    ca_make(&s->a, &s->root, "O=Istio,CN=A", 0);
    ca_make(&s->b, &s->root, "O=Istio,CN=B", 0);
    assert_ok(leaf_template_new(s->a.cert, s->a.key, &s->ta, &e));
    assert_ok(leaf_template_new(s->b.cert, s->b.key, &s->tb, &e));
    *state = s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    leaf_template_free(s->ta);
    leaf_template_free(s->tb);
    ca_done(&s->root);
    ca_done(&s->a);
    ca_done(&s->b);
    free(s);
    return 0;
}

static struct crl_entry
entry_of(struct span serial, enum crl_reason reason)
{
    struct crl_entry x = { .serial_n = serial.n, .revoked = T0 - 5, .reason = reason };

    memcpy(x.serial, serial.p, serial.n);
    return x;
}

static void
list_der(const struct leaf_template *t, const struct crl_request *q, struct buf *out)
{
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    uint8_t signature[SIGNATURE_MAX_BYTES];
    size_t n = 0;
    struct crl_facts f;
    struct err e = { 0 };

    assert_ok(crl_tbs(t, q, &tbs, &e));
    assert_ok(crl_tbs_lint(t, buf_span(&tbs), &f, &e));
    assert_true(f.number == q->number && f.n == q->n && f.next_update == q->next_update &&
                f.this_update == q->this_update);
    assert_ok(leaf_sign(t, buf_span(&tbs), signature, &n, &e));
    assert_ok(crl_finish(t, buf_span(&tbs), span_of(signature, n), out, &e));
}

static struct crl *
list_of(const struct leaf_template *t, const struct crl_entry *entries, size_t n)
{
    struct crl_request q = { 7, T0, T0 + 60, entries, n };
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    struct crl *c = NULL;
    struct err e = { 0 };

    list_der(t, &q, &der);
    assert_ok(crl_from_der(buf_span(&der), &c, &e));
    return c;
}

static struct cert *
leaf_of(const struct scene *s, const struct leaf_template *t, uint8_t serial)
{
    CLEANUP(buf_done) struct buf spki = BUF_INIT(LEAF_MAX_BYTES);
    const char *uri = "spiffe://cluster.local/ns/a/sa/b";
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, der_n;
    struct leaf_request q = { .sans = &uri,
                              .sans_n = 1,
                              .not_before = unix_s() - 5,
                              .not_after = unix_s() + 60,
                              .serial = { [15] = serial } };
    struct cert *c = NULL;
    struct err e = { 0 };

    assert_ok(key_spki(s->root.key, &spki, &e));
    q.spki = buf_span(&spki);
    assert_ok(leaf_tbs(t, &q, tbs, &tbs_n, &e));
    assert_ok(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    assert_ok(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &der_n, &e));
    assert_ok(cert_from_der(span_of(der, der_n), &c, &e));
    return c;
}

/* RFC 5280 5.1, 5.2.1, 5.2.3, 5.3.1, as OpenSSL reads it. */
static void
openssl_reads_what_is_written(void **state)
{
    const struct scene *s = *state;
    const struct crl_entry entries[] = {
        entry_of(span_str("\x01"), CRL_KEY_COMPROMISE),
        entry_of(span_str("\xff\x02\x03"), CRL_UNSPECIFIED),
        entry_of(span_str("\x7f\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11"
                          "\x12\x13\x14"),
                 CRL_PRIVILEGE_WITHDRAWN),
    };

    for (size_t n = 0; n <= ARRAY_LEN(entries); n++) {
        struct crl_request q = { 0x1234567890 + n, T0, T0 + 3600, entries, n };
        CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
        struct crl *mine = NULL;
        struct err e = { 0 };

        list_der(s->ta, &q, &der);
        const unsigned char *p = der.p;
        X509_CRL *x = d2i_X509_CRL(NULL, &p, (long)der.n);
        assert_non_null(x);
        assert_ptr_equal(p, der.p + der.n);
        assert_int_equal(X509_CRL_verify(x, X509_get0_pubkey(cert_x509(s->a.cert))), 1);
        assert_int_equal(X509_CRL_get_version(x), 1);
        ASN1_INTEGER *number = X509_CRL_get_ext_d2i(x, NID_crl_number, NULL, NULL);
        uint64_t v = 0;
        assert_int_equal(ASN1_INTEGER_get_uint64(&v, number), 1);
        assert_int_equal(v, q.number);
        ASN1_INTEGER_free(number);
        AUTHORITY_KEYID *aki = X509_CRL_get_ext_d2i(x, NID_authority_key_identifier, NULL, NULL);
        assert_memory_equal(aki->keyid->data, cert_ski(s->a.cert).p, cert_ski(s->a.cert).n);
        AUTHORITY_KEYID_free(aki);
        const STACK_OF(X509_REVOKED) *all = X509_CRL_get_REVOKED(x);
        assert_int_equal(all == NULL ? 0 : sk_X509_REVOKED_num(all), n);
        for (size_t i = 0; i < n; i++) {
            X509_REVOKED *r = sk_X509_REVOKED_value(all, (int)i);
            ASN1_ENUMERATED *why = X509_REVOKED_get_ext_d2i(r, NID_crl_reason, NULL, NULL);
            assert_int_equal(why == NULL ? 0 : ASN1_ENUMERATED_get(why), entries[i].reason);
            ASN1_ENUMERATED_free(why);
            BIGNUM *bn = ASN1_INTEGER_to_BN(X509_REVOKED_get0_serialNumber(r), NULL);
            uint8_t got[SERIAL_MAX_BYTES];
            assert_int_equal(BN_bn2bin(bn, got), entries[i].serial_n);
            assert_memory_equal(got, entries[i].serial, entries[i].serial_n);
            BN_free(bn);
        }
        X509_CRL_free(x);
        assert_ok(crl_from_der(buf_span(&der), &mine, &e));
        assert_int_equal(crl_count(mine), n);
        assert_true(crl_number(mine) == q.number && crl_next_update(mine) == q.next_update);
        assert_ok(crl_verify(mine, s->a.cert, &e));
        assert_err(crl_verify(mine, s->b.cert, &e), E_DENIED, "not one of");
        crl_unref(mine);
    }
}

/* Issuer's name, its key and the serial: all three must fit. */
static void
revokes_by_issuer_and_serial(void **state)
{
    const struct scene *s = *state;
    const struct crl_entry entries[] = { entry_of(span_str("\x09"), CRL_UNSPECIFIED),
                                         entry_of(span_str("\x05"), CRL_UNSPECIFIED) };
    struct crl *ca = list_of(s->ta, entries, 2), *cb = list_of(s->tb, entries, 1);
    struct cert *a5 = leaf_of(s, s->ta, 5), *a6 = leaf_of(s, s->ta, 6), *b5 = leaf_of(s, s->tb, 5);
    struct crls *both = NULL;
    struct err e = { 0 };

    assert_true(crl_revokes(ca, a5));
    assert_false(crl_revokes(ca, a6));
    assert_false(crl_revokes(ca, b5));
    assert_ok(crls_new((struct crl *[]){ cb, ca }, 2, &both, &e));
    assert_true(crls_revoke(both, a5));
    assert_false(crls_revoke(both, a6) || crls_revoke(both, b5) || crls_revoke(NULL, a5));

    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct crls *again = NULL;
    assert_ok(crls_to_pem(both, &pem, &e));
    assert_ok(crls_from_pem(buf_span(&pem), &again, &e));
    assert_true(crls_equal(both, again));
    assert_false(crls_equal(both, NULL));
    crls_unref(again);
    assert_ok(crls_from_pem(span_str(" \n"), &again, &e));
    assert_int_equal(crls_count(again), 0);
    crls_unref(again);
    assert_err(crls_from_pem(span_str("hello"), &again, &e), E_PARSE, "no revocation list");
    pem.n /= 2;
    assert_err(crls_from_pem(buf_span(&pem), &again, &e), E_PARSE, "");
    crls_unref(both);
    cert_unref(a5);
    cert_unref(a6);
    cert_unref(b5);
    crl_unref(ca);
    crl_unref(cb);
}

/* A full list fits its bound; one more is refused. */
static void
the_limit_is_reached(void **state)
{
    const struct scene *s = *state;
    struct crl_entry *all = calloc(CRL_ENTRIES_MAX + 1, sizeof(*all));
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    struct crl_request q = { UINT64_MAX, T0, T0 + 60, all, CRL_ENTRIES_MAX };
    struct err e = { 0 };

    assert_non_null(all);
    for (size_t i = 0; i <= CRL_ENTRIES_MAX; i++) {
        all[i] = (struct crl_entry){ .serial_n = 20, .revoked = 4102444800, .reason = 1 };
        memset(all[i].serial, 0xff, 20);
        all[i].serial[19] = (uint8_t)i;
        all[i].serial[18] = (uint8_t)(i >> 8);
    }
    struct crl *c = list_of(s->ta, all, CRL_ENTRIES_MAX);
    assert_int_equal(crl_count(c), CRL_ENTRIES_MAX);
    crl_unref(c);
    q.n++;
    assert_err(crl_tbs(s->ta, &q, &tbs, &e), E_LIMIT, "entries");
    q.n = 1;
    all[0].serial[0] = 0;
    assert_err(crl_tbs(s->ta, &q, &tbs, &e), E_INVAL, "serial");
    q.n = 0;
    q.next_update = T0;
    assert_err(crl_tbs(s->ta, &q, &tbs, &e), E_INVAL, "times");
    free(all);
}

/* What the signer is asked to sign is one form and no other: no byte of it may change but to
 * another list of the same signer. */
static void
lint_takes_one_form_only(void **state)
{
    const struct scene *s = *state;
    const struct crl_entry x = entry_of(span_str("\x09\x01"), CRL_SUPERSEDED);
    struct crl_request q = { 7, T0, T0 + 60, &x, 1 };
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES), again = BUF_INIT(CRL_MAX_BYTES);
    struct crl_facts f;
    struct err e = { 0 };

    assert_ok(crl_tbs(s->ta, &q, &tbs, &e));
    assert_err(crl_tbs_lint(s->tb, buf_span(&tbs), &f, &e), E_DENIED, "this signer's name");
    size_t accepted = 0;
    for (size_t i = 0; i < tbs.n; i++)
        for (int bit = 0; bit < 8; bit++) {
            tbs.p[i] ^= (uint8_t)(1 << bit);
            if (crl_tbs_lint(s->ta, buf_span(&tbs), &f, &e) == 0)
                accepted++; /* a number, a time, a serial, a reason */
            else
                assert_int_equal(e.code, E_DENIED);
            tbs.p[i] ^= (uint8_t)(1 << bit);
        }
    assert_in_range(accepted, 20, 160);
    assert_ok(buf_add_byte(&tbs, 0, &e));
    assert_err(crl_tbs_lint(s->ta, buf_span(&tbs), &f, &e), E_DENIED, "SEQUENCE");
    assert_err(crl_tbs_lint(s->ta, span_str(""), &f, &e), E_DENIED, "SEQUENCE");
}

static struct span
openssl_crl(const struct scene *s, const char *ext, const char *value, unsigned char **ret)
{
    X509_CRL *x = X509_CRL_new();
    ASN1_TIME *t = ASN1_TIME_set(NULL, T0);
    X509V3_CTX ctx;

    *ret = NULL;
    X509_CRL_set_issuer_name(x, X509_get_subject_name(cert_x509(s->a.cert)));
    X509_CRL_set1_lastUpdate(x, t);
    X509_CRL_set1_nextUpdate(x, t);
    ASN1_TIME_free(t);
    if (ext != NULL) {
        X509_CRL_set_version(x, 1);
        X509V3_set_ctx(&ctx, cert_x509(s->a.cert), NULL, NULL, x, 0);
        X509_EXTENSION *made = X509V3_EXT_conf(NULL, &ctx, ext, value);
        assert_non_null(made);
        X509_CRL_add_ext(x, made, -1);
        X509_EXTENSION_free(made);
    }
    assert_true(X509_CRL_sign(x, key_evp(s->a.key), EVP_sha256()) > 0);
    int n = i2d_X509_CRL(x, ret);
    X509_CRL_free(x);
    return span_of(*ret, (size_t)n);
}

/* RFC 5280 5.2: a critical extension that is not understood means: do not use it. */
static void
rfc5280_5_2_other_makers_lists(void **state)
{
    static const struct {
        const char *ext, *value;
        enum err_code code;
    } rows[] = {
        { NULL, NULL, E_NONE }, /* version 1, as a plain `openssl ca -gencrl` writes it */
        { "authorityKeyIdentifier", "keyid:always,issuer:always", E_NONE },
        { "issuingDistributionPoint", "critical,indirectCRL:TRUE", E_DENIED },
        { "deltaCRL", "critical,DER:02:01:01", E_DENIED },
        { "issuerAltName", "DNS:a.example", E_NONE },
    };
    const struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned char *p;
        struct span der = openssl_crl(s, rows[i].ext, rows[i].value, &p);
        struct crl *c = NULL;
        struct err e = { 0 };

        int r = crl_from_der(der, &c, &e);
        if (r != -(int)rows[i].code)
            fail_msg("%s: %d %s", rows[i].ext, r, e.msg);
        if (r == 0)
            assert_ok(crl_verify(c, s->a.cert, &e));
        crl_unref(c);
        OPENSSL_free(p);
    }
}

/* RFC 5280 4.2.1.3: key usage without cRLSign. */
static void
rfc5280_4_2_1_3_may_sign_lists(void **state)
{
    const struct scene *s = *state;
    struct ca istio;
    struct leaf_template *t = NULL;
    struct err e = { 0 };

    ca_bent(&istio, &s->root, "as istio's tools make it", -1, 9,
            "basicConstraints=critical,CA:TRUE;keyUsage=critical,digitalSignature,keyCertSign");
    assert_true(cert_may_sign_crls(s->a.cert));
    assert_false(cert_may_sign_crls(istio.cert));
    assert_ok(leaf_template_new(istio.cert, istio.key, &t, &e));
    struct crl *c = list_of(t, NULL, 0);
    assert_err(crl_verify(c, istio.cert, &e), E_DENIED, "cRLSign");
    crl_unref(c);
    leaf_template_free(t);
    ca_done(&istio);
}

static void
reasons(void **state)
{
    enum crl_reason r = CRL_UNSPECIFIED;
    struct err e = { 0 };

    (void)state;
    assert_ok(crl_reason_parse("keyCompromise", &r, &e));
    assert_int_equal(r, CRL_KEY_COMPROMISE);
    assert_string_equal(crl_reason_name(CRL_SUPERSEDED), "superseded");
    assert_null(crl_reason_name((enum crl_reason)6));
    assert_null(crl_reason_name((enum crl_reason)200));
    assert_err(crl_reason_parse("because", &r, &e), E_INVAL, "keyCompromise");
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(openssl_reads_what_is_written),
        T(revokes_by_issuer_and_serial),
        T(the_limit_is_reached),
        T(lint_takes_one_form_only),
        T(rfc5280_5_2_other_makers_lists),
        T(rfc5280_4_2_1_3_may_sign_lists),
        T(reasons),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
