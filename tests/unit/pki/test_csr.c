/* test_csr.c - our PKCS#10 reader against what OpenSSL writes. */
#include "unit.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "pki/leaf.h"
#include "pki/openssl.h"

struct ask {
    const char *key; /* EVP_Q_keygen words, "rsa:BITS" or a curve or "ed25519" */
    const char *san; /* NULL: none */
    const char *basic;
    const char *cn;
    const char *hash;
};

static EVP_PKEY *
make_key(const char *words)
{
    if (strncmp(words, "rsa:", 4) == 0)
        return EVP_RSA_gen((unsigned)strtoul(words + 4, NULL, 10));
    if (strcmp(words, "ed25519") == 0)
        return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    return EVP_EC_gen(words);
}

static void
add_extension(STACK_OF(X509_EXTENSION) * sk, int nid, const char *value)
{
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_non_null(x);
    assert_true(sk_X509_EXTENSION_push(sk, x) > 0);
}

/* DER of a CSR as OpenSSL makes it; the key's SPKI beside it. */
static size_t
make_csr(const struct ask *a, uint8_t *der, size_t cap, uint8_t *spki, size_t *spki_n)
{
    EVP_PKEY *k = make_key(a->key);
    X509_REQ *q = X509_REQ_new();
    STACK_OF(X509_EXTENSION) *sk = sk_X509_EXTENSION_new_null();

    assert_non_null(k);
    if (a->cn != NULL)
        X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(q), "CN", MBSTRING_UTF8,
                                   (const uint8_t *)a->cn, -1, -1, 0);
    if (a->san != NULL)
        add_extension(sk, NID_subject_alt_name, a->san);
    if (a->basic != NULL)
        add_extension(sk, NID_basic_constraints, a->basic);
    if (sk_X509_EXTENSION_num(sk) > 0)
        assert_int_equal(X509_REQ_add_extensions(q, sk), 1);
    X509_REQ_set_pubkey(q, k);
    assert_true(X509_REQ_sign(q, k, a->hash == NULL ? NULL : EVP_get_digestbyname(a->hash)) > 0);
    int n = i2d_X509_REQ(q, NULL);
    assert_true(n > 0 && (size_t)n <= cap);
    (void)i2d_X509_REQ(q, &der);
    *spki_n = (size_t)i2d_PUBKEY(k, &spki);
    sk_X509_EXTENSION_pop_free(sk, X509_EXTENSION_free);
    X509_REQ_free(q);
    EVP_PKEY_free(k);
    return (size_t)n;
}

static void
openssl_requests_are_read(void **state)
{
    static const struct {
        struct ask ask;
        enum key_kind kind;
    } rows[] = {
        { { "P-256", "critical,URI:spiffe://cluster.local/ns/a/sa/b", NULL, NULL, "SHA256" },
          KEY_P256 },
        { { "P-256", NULL, NULL, NULL, "SHA384" }, KEY_P256 },
        { { "P-384", "DNS:other.example,IP:10.0.0.1", NULL, "someone else \xc3\xa9", "SHA384" },
          KEY_P384 },
        { { "P-521", NULL, "CA:FALSE", "x", "SHA512" }, KEY_P521 },
        { { "rsa:2048", "URI:spiffe://td/ns/a/sa/b,DNS:a.b", NULL, NULL, "SHA256" }, KEY_RSA2048 },
        { { "rsa:3072", NULL, NULL, NULL, "SHA512" }, KEY_RSA3072 },
        { { "rsa:2050", NULL, NULL, NULL, "SHA256" }, KEY_RSA_OTHER },
        { { "ed25519", NULL, NULL, NULL, NULL }, KEY_ED25519 },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t der[4096], spki[2048];
        size_t spki_n, n = make_csr(&rows[i].ask, der, sizeof(der), spki, &spki_n);
        struct csr c;

        assert_ok(csr_parse(span_of(der, n), &c, &e));
        assert_int_equal(c.kind, rows[i].kind);
        assert_true(span_eq(c.spki, span_of(spki, spki_n)));
        assert_ok(csr_verify(span_of(der, n), &c, &e));
        /* any one bit of what is signed, or of the signature, makes it wrong or unreadable */
        for (size_t at = 12; at < n; at += 7) {
            struct csr hurt;

            der[at] ^= 0x10;
            if (csr_parse(span_of(der, n), &hurt, &e) == 0 &&
                csr_verify(span_of(der, n), &hurt, &e) == 0)
                fail_msg("row %zu: byte %zu changed and still good", i, at);
            der[at] ^= 0x10;
        }
        der[n] = 0;
        assert_err(csr_parse(span_of(der, n + 1), &c, &e), E_PARSE, "trailing bytes");
        for (size_t cut = 0; cut < n; cut++)
            assert_true(csr_parse(span_of(der, cut), &c, &e) < 0);
    }
}

static void
what_we_do_not_certify(void **state)
{
    static const struct {
        struct ask ask;
        enum err_code code;
        const char *words;
    } rows[] = {
        { { "rsa:1024", NULL, NULL, NULL, "SHA256" }, E_DENIED, "1024 bits" },
        { { "secp256k1", NULL, NULL, NULL, "SHA256" }, E_DENIED, "curve" },
        { { "P-256", NULL, "CA:TRUE", NULL, "SHA256" }, E_DENIED, "CA:TRUE" },
        { { "P-256", NULL, "critical,CA:TRUE,pathlen:0", NULL, "SHA256" }, E_DENIED, "CA:TRUE" },
        { { "P-256", NULL, NULL, NULL, "SHA1" }, E_DENIED, "algorithm" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t der[4096], spki[2048];
        size_t spki_n, n = make_csr(&rows[i].ask, der, sizeof(der), spki, &spki_n);
        struct csr c;

        assert_err(csr_parse(span_of(der, n), &c, &e), rows[i].code, rows[i].words);
    }
}

static void
a_bad_signature_says_so(void **state)
{
    static const struct {
        const char *key, *words;
    } rows[] = {
        { "P-256", "x509: ECDSA verification failure" },
        { "rsa:2048", "crypto/rsa: verification error" },
        { "ed25519", "x509: Ed25519 verification failure" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ask ask = { rows[i].key, NULL, NULL, NULL, i == 2 ? NULL : "SHA256" };
        uint8_t der[4096], spki[2048];
        size_t spki_n, n = make_csr(&ask, der, sizeof(der), spki, &spki_n);
        struct csr c;

        der[n - 1] ^= 1;
        assert_ok(csr_parse(span_of(der, n), &c, &e));
        assert_err(csr_verify(span_of(der, n), &c, &e), E_CRYPTO, rows[i].words);
    }
}

static void
pem_of_any_label(void **state)
{
    static const struct {
        const char *pem, *words; /* words NULL: decoded to "0\0" + nothing else */
    } rows[] = {
        { "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n", NULL },
        { "text\r\n-----BEGIN NEW X-----\r\nMA\r\nA=\r\n-----END NEW X-----", NULL },
        { "", "no PEM block" },
        { "hello", "no PEM block" },
        { "-----BEGIN A-----\nMAA=\n", "does not end" },
        { "-----BEGIN A-----\nMAA=\n-----END B-----\n", "do not match" },
        { "-----BEGIN A-----\nMAA\n-----END A-----\n", "not properly encoded" },
        { "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n-----END A-----\n", "not properly encoded" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_done) struct buf out = BUF_INIT(CSR_MAX_BYTES);

        if (rows[i].words != NULL) {
            assert_err(csr_from_pem(span_str(rows[i].pem), &out, &e), E_PARSE, rows[i].words);
            assert_non_null(strstr(e.msg, "certificate signing request is not properly encoded"));
            continue;
        }
        assert_ok(csr_from_pem(span_str(rows[i].pem), &out, &e));
        assert_true(span_eq(buf_span(&out), span_of("\x30\x00", 2)));
    }
    CLEANUP(buf_done) struct buf out = BUF_INIT(CSR_MAX_BYTES);
    static char long_text[2 * CSR_MAX_BYTES + 1];
    memset(long_text, '-', sizeof(long_text));
    assert_err(csr_from_pem(span_of(long_text, sizeof(long_text)), &out, &e), E_PARSE, "too long");
}

static void
our_own_requests_are_read_by_openssl(void **state)
{
    static const enum key_kind kinds[] = { KEY_P256, KEY_P384, KEY_P521, KEY_RSA2048, KEY_ED25519 };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        CLEANUP(key_unrefp) struct key *k = NULL;
        CLEANUP(buf_done) struct buf pem = BUF_INIT(CSR_MAX_BYTES), der = BUF_INIT(CSR_MAX_BYTES);
        struct csr c;

        assert_ok(key_make(kinds[i], &k, &e));
        assert_ok(csr_make(k, "spiffe://cluster.local/ns/a/sa/b", &pem, &e));
        BIO *bio = BIO_new_mem_buf(buf_text(&pem), (int)pem.n);
        X509_REQ *q = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
        assert_non_null(q);
        assert_int_equal(X509_REQ_verify(q, X509_REQ_get0_pubkey(q)), 1);
        assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(q)), 0);
        STACK_OF(X509_EXTENSION) *sk = X509_REQ_get_extensions(q);
        assert_int_equal(sk_X509_EXTENSION_num(sk), 1);
        assert_int_equal(X509_EXTENSION_get_critical(sk_X509_EXTENSION_value(sk, 0)), 1);
        sk_X509_EXTENSION_pop_free(sk, X509_EXTENSION_free);
        X509_REQ_free(q);
        BIO_free(bio);
        assert_ok(csr_from_pem(buf_span(&pem), &der, &e));
        assert_ok(csr_parse(buf_span(&der), &c, &e));
        assert_int_equal(c.kind, kinds[i]);
        assert_ok(csr_verify(buf_span(&der), &c, &e));
    }
}

/* Verification keeps keys and contexts between calls: one key's signature must never count for the
 * next one's request. */
static void
an_earlier_key_does_not_vouch(void **state)
{
    static const enum key_kind kinds[] = { KEY_P256,    KEY_P256,    KEY_P384,    KEY_P384,
                                           KEY_RSA2048, KEY_RSA2048, KEY_ED25519, KEY_ED25519 };
    struct buf ders[ARRAY_LEN(kinds)];
    struct csr c[ARRAY_LEN(kinds)];
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        CLEANUP(key_unrefp) struct key *k = NULL;
        CLEANUP(buf_done) struct buf pem = BUF_INIT(CSR_MAX_BYTES);

        ders[i] = BUF_INIT(CSR_MAX_BYTES);
        assert_ok(key_make(kinds[i], &k, &e));
        assert_ok(csr_make(k, "spiffe://cluster.local/ns/a/sa/b", &pem, &e));
        assert_ok(csr_from_pem(buf_span(&pem), &ders[i], &e));
        assert_ok(csr_parse(buf_span(&ders[i]), &c[i], &e));
    }
    for (size_t i = 0; i < 4 * ARRAY_LEN(kinds); i++) {
        size_t a = i % ARRAY_LEN(kinds), b = a ^ 1;

        assert_ok(csr_verify(buf_span(&ders[a]), &c[a], &e));
        assert_err(csr_verify(buf_span(&ders[a]), &c[b], &e), E_CRYPTO, "verification");
        assert_err(csr_verify(buf_span(&ders[b]), &c[a], &e), E_CRYPTO, "verification");
        assert_ok(csr_verify(buf_span(&ders[b]), &c[b], &e));
    }
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        buf_done(&ders[i]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_earlier_key_does_not_vouch),
        cmocka_unit_test(openssl_requests_are_read),
        cmocka_unit_test(what_we_do_not_certify),
        cmocka_unit_test(a_bad_signature_says_so),
        cmocka_unit_test(pem_of_any_label),
        cmocka_unit_test(our_own_requests_are_read_by_openssl),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
