/* test_leaf.c - leaves by our own writer, read back by OpenSSL and by the lint. */
#include "unit.h"

#include <arpa/inet.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "base/clock.h"
#include "pki/issue.h"
#include "pki/leaf.h"
#include "pki/openssl.h"

struct signer_set {
    struct key *key, *leaf_key;
    struct cert *cert;
    struct leaf_template *t;
    struct buf spki;
};

static void
signer_make(struct signer_set *s, enum key_kind kind, enum key_kind leaf_kind)
{
    struct ca_request q = { .subject = "O=Istio,CN=Root A,L=cluster-1",
                            .days = 3650,
                            .path_len = -1 };
    struct err e = { 0 };

    *s = (struct signer_set){ .spki = BUF_INIT(LEAF_MAX_BYTES) };
    assert_ok(key_make(kind, &s->key, &e));
    assert_ok(key_make(leaf_kind, &s->leaf_key, &e));
    assert_ok(root_make(&q, s->key, &s->cert, &e));
    assert_ok(leaf_template_new(s->cert, s->key, &s->t, &e));
    assert_ok(key_spki(s->leaf_key, &s->spki, &e));
}

static void
signer_done(struct signer_set *s)
{
    leaf_template_free(s->t);
    cert_unref(s->cert);
    key_unref(s->key);
    key_unref(s->leaf_key);
    buf_done(&s->spki);
}

static size_t
leaf_make(const struct signer_set *s, const struct leaf_request *q, uint8_t der[LEAF_MAX_BYTES])
{
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES];
    size_t tbs_n, sig_n, n;
    struct err e = { 0 };

    assert_ok(leaf_tbs(s->t, q, tbs, &tbs_n, &e));
    assert_ok(leaf_sign(s->t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    assert_ok(leaf_finish(s->t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &n, &e));
    return n;
}

static int64_t
asn1_unix(const ASN1_TIME *t)
{
    struct tm tm;

    assert_int_equal(ASN1_TIME_to_tm(t, &tm), 1);
    return timegm(&tm);
}

static void
names_agree(X509 *x, const struct leaf_request *q)
{
    int critical = -1;
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, &critical, NULL);

    assert_non_null(names);
    assert_int_equal(critical, 1);
    assert_int_equal(sk_GENERAL_NAME_num(names), q->sans_n);
    for (size_t i = 0; i < q->sans_n; i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, (int)i);
        struct span text =
            span_of(ASN1_STRING_get0_data(g->d.ia5), (size_t)ASN1_STRING_length(g->d.ia5));
        char shown[INET6_ADDRSTRLEN];

        if (g->type == GEN_IPADD) {
            assert_non_null(
                inet_ntop(text.n == 4 ? AF_INET : AF_INET6, text.p, shown, sizeof(shown)));
            assert_string_equal(shown, q->sans[i]);
            continue;
        }
        assert_int_equal(g->type, q->profile == LEAF_WORKLOAD ? GEN_URI : GEN_DNS);
        assert_true(span_eq_str(text, q->sans[i]));
    }
    GENERAL_NAMES_free(names);
}

/* Everything OpenSSL can tell about the certificate is what was asked for. */
static void
openssl_agrees(const struct signer_set *s, const struct leaf_request *q, struct span der)
{
    const uint8_t *p = der.p;
    X509 *x = d2i_X509(NULL, &p, (long)der.n);
    uint8_t *spki = NULL, *again = NULL;

    assert_non_null(x);
    assert_ptr_equal(p, der.p + der.n);
    int again_n = i2d_X509(x, &again);
    assert_true(span_eq(der, span_of(again, (size_t)again_n)));
    assert_int_equal(X509_get_version(x), 2);
    assert_int_equal(X509_verify(x, key_evp(s->key)), 1);
    assert_int_equal(
        X509_NAME_cmp(X509_get_issuer_name(x), X509_get_subject_name(cert_x509(s->cert))), 0);
    assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(x)), 0);
    assert_int_equal(asn1_unix(X509_get0_notBefore(x)), q->not_before);
    assert_int_equal(asn1_unix(X509_get0_notAfter(x)), q->not_after);
    BIGNUM *want = BN_bin2bn(q->serial, sizeof(q->serial), NULL),
           *got = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
    if (BN_is_zero(want))
        assert_int_equal(BN_add_word(want, 1), 1);
    assert_int_equal(BN_cmp(want, got), 0);
    BN_free(want);
    BN_free(got);
    int spki_n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &spki);
    assert_true(span_eq(q->spki, span_of(spki, (size_t)spki_n)));
    static const int order[] = { NID_key_usage, NID_ext_key_usage, NID_basic_constraints,
                                 NID_authority_key_identifier, NID_subject_alt_name };
    assert_int_equal(X509_get_ext_count(x), ARRAY_LEN(order));
    for (int i = 0; i < (int)ARRAY_LEN(order); i++) {
        X509_EXTENSION *ext = X509_get_ext(x, i);

        assert_int_equal(OBJ_obj2nid(X509_EXTENSION_get_object(ext)), order[i]);
        assert_int_equal(X509_EXTENSION_get_critical(ext), i == 0 || i == 2 || i == 4);
    }
    bool is_rsa = EVP_PKEY_get_base_id(X509_get0_pubkey(x)) == EVP_PKEY_RSA;
    assert_int_equal(X509_get_key_usage(x),
                     KU_DIGITAL_SIGNATURE | (is_rsa ? KU_KEY_ENCIPHERMENT : 0)); /* RFC 8813 3 */
    assert_int_equal(X509_get_extended_key_usage(x), XKU_SSL_SERVER | XKU_SSL_CLIENT);
    assert_int_equal(X509_check_ca(x), 0);
    assert_int_equal(ASN1_OCTET_STRING_cmp(X509_get0_authority_key_id(x),
                                           X509_get0_subject_key_id(cert_x509(s->cert))),
                     0);
    names_agree(x, q);
    OPENSSL_free(spki);
    OPENSSL_free(again);
    X509_free(x);
}

static void
random_serial(struct leaf_request *q, size_t i)
{
    struct err e = { 0 };

    assert_ok(random_bytes(q->serial, sizeof(q->serial), &e));
    if (i % 4 == 1)
        memset(q->serial, 0, 1 + i % 15);
    if (i % 16 == 2)
        memset(q->serial, 0, sizeof(q->serial));
}

static void
specs_4_2_random_leaves_read_back(void **state)
{
    static const enum key_kind kinds[][2] = {
        { KEY_P256, KEY_P256 },    { KEY_P384, KEY_RSA2048 },    { KEY_P521, KEY_P521 },
        { KEY_RSA2048, KEY_P256 }, { KEY_RSA3072, KEY_ED25519 }, { KEY_ED25519, KEY_P384 },
    };
    static const int64_t edges[] = { 951782400, 1709164800, 2524607999, 2524608000, 253402300799 };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct signer_set s;

        signer_make(&s, kinds[i][0], kinds[i][1]);
        for (size_t n = 0; n < 60; n++) {
            char uri[400];
            const char *const one[] = { uri };
            const char *const many[] = { "istiod.istio-system.svc", "10.0.0.1", "2001:db8::1",
                                         "*.x.y" };
            bool server = n % 3 == 2;
            struct leaf_request q = { .profile = server ? LEAF_SERVER : LEAF_WORKLOAD,
                                      .spki = buf_span(&s.spki),
                                      .sans = server ? many : one,
                                      .sans_n = server ? 1 + n % 4 : 1 };
            uint8_t der[LEAF_MAX_BYTES];

            (void)snprintf(
                uri, sizeof(uri), "spiffe://td%zu.example/ns/n%.*s/sa/s-%zu", n, (int)(n * 5),
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
                "bb"
                "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
                n);
            q.not_after = n < ARRAY_LEN(edges) ? edges[n] : 1 + (int64_t)random_below(253402300799);
            q.not_before =
                n % 2 == 0 ? q.not_after - 1 : (int64_t)random_below((uint64_t)q.not_after);
            random_serial(&q, n);
            size_t der_n = leaf_make(&s, &q, der);
            openssl_agrees(&s, &q, span_of(der, der_n));
            assert_ok(leaf_lint(s.t, &q, span_of(der, der_n), &e));
            struct cert *c = NULL;
            assert_ok(cert_from_der(span_of(der, der_n), &c, &e));
            cert_unref(c);
        }
        signer_done(&s);
    }
}

static const char *const uri_a[] = { "spiffe://td/ns/a/sa/b" };

static struct leaf_request
plain_request(const struct signer_set *s)
{
    return (struct leaf_request){ .spki = buf_span(&s->spki),
                                  .sans = uri_a,
                                  .sans_n = 1,
                                  .not_before = 1700000000,
                                  .not_after = 1700086400,
                                  .serial = { 1, 2, 3 } };
}

static void
a_request_that_makes_no_sense_is_refused(void **state)
{
    static const char *const dns[] = { "a.b" }, *const dirty[] = { "spiffe://td/ns/a,b" },
                             *const space[] = { "a b" }, *const empty[] = { "" },
                             *const two[] = { "spiffe://td/a", "spiffe://td/b" };
    static const struct {
        enum leaf_profile profile;
        const char *const *sans;
        size_t n;
        int64_t from, to;
        const char *words;
    } rows[] = {
        { LEAF_WORKLOAD, dns, 1, 1, 2, "SPIFFE" },
        { LEAF_WORKLOAD, two, 2, 1, 2, "exactly one" },
        { LEAF_WORKLOAD, dirty, 1, 1, 2, "SPIFFE id" },
        { LEAF_SERVER, uri_a, 1, 1, 2, "SPIFFE" },
        { LEAF_SERVER, space, 1, 1, 2, "neither" },
        { LEAF_SERVER, empty, 1, 1, 2, "neither" },
        { LEAF_WORKLOAD, uri_a, 0, 1, 2, "1 to" },
        { LEAF_WORKLOAD, uri_a, 1, 2, 2, "times" },
        { LEAF_WORKLOAD, uri_a, 1, -1, 2, "times" },
        { LEAF_WORKLOAD, uri_a, 1, 1, 253402300800, "times" },
    };
    struct signer_set s;
    struct err e = { 0 };

    (void)state;
    signer_make(&s, KEY_P256, KEY_P256);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct leaf_request q = plain_request(&s);
        uint8_t tbs[TBS_MAX_BYTES];
        size_t n;

        q.profile = rows[i].profile;
        q.sans = rows[i].sans;
        q.sans_n = rows[i].n;
        q.not_before = rows[i].from;
        q.not_after = rows[i].to;
        assert_err(leaf_tbs(s.t, &q, tbs, &n, &e), E_INVAL, rows[i].words);
    }
    static uint8_t big[TBS_MAX_BYTES];
    struct leaf_request q = plain_request(&s);
    uint8_t tbs[TBS_MAX_BYTES];
    size_t n;
    q.spki = span_of(big, sizeof(big));
    assert_err(leaf_tbs(s.t, &q, tbs, &n, &e), E_LIMIT, "longer than");
    signer_done(&s);
}

static void
the_lint_sees_every_difference(void **state)
{
    static const char *const other[] = { "spiffe://td/ns/a/sa/c" };
    struct signer_set s, s2;
    struct err e = { 0 };
    uint8_t der[LEAF_MAX_BYTES];

    (void)state;
    signer_make(&s, KEY_P256, KEY_P256);
    signer_make(&s2, KEY_P256, KEY_P256);
    struct leaf_request q = plain_request(&s), w = q;
    size_t n = leaf_make(&s, &q, der);
    assert_ok(leaf_lint(s.t, &q, span_of(der, n), &e));
    w.sans = other;
    assert_err(leaf_lint(s.t, &w, span_of(der, n), &e), E_DENIED, "names");
    w = q;
    w.not_after++;
    assert_err(leaf_lint(s.t, &w, span_of(der, n), &e), E_DENIED, "validity");
    w = q;
    w.serial[15]++;
    assert_err(leaf_lint(s.t, &w, span_of(der, n), &e), E_DENIED, "serial");
    w = q;
    w.spki = buf_span(&s2.spki);
    assert_err(leaf_lint(s.t, &w, span_of(der, n), &e), E_DENIED, "public key");
    assert_err(leaf_lint(s2.t, &q, span_of(der, n), &e), E_DENIED, "authority key identifier");
    assert_err(leaf_lint(s.t, &q, span_of(der, n - 1), &e), E_DENIED, "one certificate");
    /* every byte before the signature is held to a rule */
    size_t signature_n = 0;
    for (size_t i = 0; i < n; i++) {
        der[i] ^= 1;
        if (leaf_lint(s.t, &q, span_of(der, n), &e) == 0)
            signature_n++;
        der[i] ^= 1;
    }
    assert_in_range(signature_n, 60, 74);
    signer_done(&s);
    signer_done(&s2);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_4_2_random_leaves_read_back),
        cmocka_unit_test(a_request_that_makes_no_sense_is_refused),
        cmocka_unit_test(the_lint_sees_every_difference),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
