#include "ca_kit.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

/* The text that OpenSSL's own tools write: `write` is one of its PEM writers. */
typedef int write_fn(BIO *b, EVP_PKEY *p);

static int
write_traditional(BIO *b, EVP_PKEY *p)
{
    return PEM_write_bio_PrivateKey_traditional(b, p, NULL, NULL, 0, NULL, NULL);
}

static int
write_pkcs8(BIO *b, EVP_PKEY *p)
{
    return PEM_write_bio_PKCS8PrivateKey(b, p, NULL, NULL, 0, NULL, NULL);
}

static int
write_encrypted(BIO *b, EVP_PKEY *p)
{
    return PEM_write_bio_PKCS8PrivateKey(b, p, EVP_aes_256_cbc(), "x", 1, NULL, NULL);
}

static int
write_proc_type(BIO *b, EVP_PKEY *p)
{
    return PEM_write_bio_PrivateKey_traditional(b, p, EVP_aes_256_cbc(),
                                                (const unsigned char *)"xxxx", 4, NULL, NULL);
}

static struct buf
text_of(EVP_PKEY *p, write_fn *write)
{
    BIO *b = BIO_new(BIO_s_mem());
    struct buf out = BUF_INIT(PEM_MAX_BYTES);
    struct err e;
    char *at = NULL;

    assert_int_equal(write(b, p), 1);
    long n = BIO_get_mem_data(b, &at);
    assert_ok(buf_add(&out, span_of(at, (size_t)n), &e));
    BIO_free(b);
    return out;
}

static void
keys_round_trip(void **state)
{
    static const enum key_kind rows[] = { KEY_P256, KEY_P384, KEY_P521, KEY_RSA2048, KEY_ED25519 };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct key *k = NULL, *again = NULL;
        enum key_kind kind = KEY_NONE;

        assert_ok(key_make(rows[i], &k, &e));
        assert_int_equal(key_get_kind(k), rows[i]);
        struct buf pem = pem_of_key(k);
        assert_non_null(strstr(buf_text(&pem), "-----BEGIN PRIVATE KEY-----\n"));
        assert_ok(key_from_pem(buf_span(&pem), &again, &e));
        assert_int_equal(key_get_kind(again), rows[i]);
        assert_int_equal(EVP_PKEY_eq(key_evp(k), key_evp(again)), 1);
        assert_ok(key_kind_parse(key_kind_name(rows[i]), &kind, &e));
        assert_int_equal(kind, rows[i]);
        key_unref(key_ref(k));
        key_unref(k);
        key_unref(again);
        buf_wipe(&pem);
    }
}

static void
kinds_by_name(void **state)
{
    static const char *const bad[] = { "", "P256", "rsa", "rsa1024", "none", "dsa" };
    enum key_kind kind = KEY_NONE;
    struct key *k = NULL;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(key_kind_parse(bad[i], &kind, &e), E_PARSE, "want p256, p384");
    assert_int_equal(kind, KEY_NONE);
    assert_err(key_make(KEY_NONE, &k, &e), E_INVAL, "not a kind that is made");
    assert_err(key_make(KEY_RSA_OTHER, &k, &e), E_INVAL, "not a kind that is made");
}

/* specs/istio-ca.md 4.5, and EC PARAMETERS in front, which istiod does not take. */
static void
every_form_of_openssl(void **state)
{
    static const char parameters[] =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    static const struct {
        enum key_kind kind;
        write_fn *write;
        const char *before, *label;
    } rows[] = {
        { KEY_P256, write_traditional, "", "EC PRIVATE KEY" },
        { KEY_P256, write_traditional, parameters, "EC PRIVATE KEY" },
        { KEY_P384, write_traditional, "", "EC PRIVATE KEY" },
        { KEY_RSA2048, write_traditional, "", "RSA PRIVATE KEY" },
        { KEY_P256, write_pkcs8, "", "PRIVATE KEY" },
        { KEY_RSA2048, write_pkcs8, "", "PRIVATE KEY" },
        { KEY_ED25519, write_pkcs8, "", "PRIVATE KEY" },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf text = BUF_INIT(PEM_MAX_BYTES);
        struct key *k = NULL, *again = NULL;

        assert_ok(key_make(rows[i].kind, &k, &e));
        struct buf theirs = text_of(key_evp(k), rows[i].write);
        assert_non_null(strstr(buf_text(&theirs), rows[i].label));
        assert_ok(buf_addf(&text, &e, "%s%s", rows[i].before, buf_text(&theirs)));
        assert_ok(key_from_pem(buf_span(&text), &again, &e));
        assert_int_equal(EVP_PKEY_eq(key_evp(k), key_evp(again)), 1);
        key_unref(k);
        key_unref(again);
        buf_wipe(&theirs);
        buf_wipe(&text);
    }
}

/* A certificate behind the key is common (Key Vault's own form) and harmless; a second key is not.
 */
static void
what_may_follow_a_key(void **state)
{
    struct buf text = BUF_INIT(PEM_MAX_BYTES);
    struct key *k = NULL;
    struct ca a;
    struct err e;

    (void)state;
    ca_make(&a, NULL, "CN=A", -1);
    struct buf key = pem_of_key(a.key), cert = pem_of(&a.cert, 1);
    assert_ok(buf_addf(&text, &e, "%s%s", buf_text(&key), buf_text(&cert)));
    assert_ok(key_from_pem(buf_span(&text), &k, &e));
    key_unref(k);
    k = NULL;
    assert_ok(buf_add(&text, buf_span(&key), &e));
    assert_err(key_from_pem(buf_span(&text), &k, &e), E_PARSE, "a second private key");
    text.n = 0;
    assert_ok(buf_addf(&text, &e, "%sjunk", buf_text(&key)));
    assert_err(key_from_pem(buf_span(&text), &k, &e), E_PARSE, "text after block 1");
    assert_null(k);
    ca_done(&a);
    buf_wipe(&key);
    buf_wipe(&cert);
    buf_wipe(&text);
}

static EVP_PKEY *
rsa_1024(void)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)1024);
}

static EVP_PKEY *
secp256k1(void)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "EC", "secp256k1");
}

static EVP_PKEY *
p256(void)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
}

static void
keys_refused(void **state)
{
    static const struct {
        EVP_PKEY *(*make)(void);
        write_fn *write;
        const char *why;
    } rows[] = {
        { rsa_1024, write_pkcs8, "1024 bits is not supported" },
        { rsa_1024, write_traditional, "1024 bits is not supported" },
        { secp256k1, write_pkcs8, "is not supported; want P-256" },
        { p256, write_encrypted, "the key is encrypted; decrypt it with" },
        { p256, write_proc_type, "the key is encrypted; decrypt it with" },
    };
    static const struct {
        const char *text, *why;
    } texts[] = {
        { "", "empty" },
        { "hello", "no PEM block" },
        { "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n",
          "line 1: PUBLIC KEY is not a private key" },
        { "-----BEGIN OPENSSH PRIVATE KEY-----\nAA==\n-----END OPENSSH PRIVATE KEY-----\n",
          "OpenSSH's own key format" },
        { "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
          "EC PARAMETERS only" },
        { "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
          "PRIVATE KEY does not parse" },
        { "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n",
          "RSA PRIVATE KEY does not parse" },
        { "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n",
          "EC PRIVATE KEY does not parse" },
    };
    struct key *k = NULL;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        EVP_PKEY *p = rows[i].make();

        assert_non_null(p);
        struct buf text = text_of(p, rows[i].write);
        assert_err(key_from_pem(buf_span(&text), &k, &e), E_PARSE, rows[i].why);
        EVP_PKEY_free(p);
        buf_wipe(&text);
    }
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        assert_err(key_from_pem(span_str(texts[i].text), &k, &e), E_PARSE, texts[i].why);
    assert_null(k);
}

/* SEC1 with the private half of one key and the public half of another: it would match its
 * certificate and sign what nobody can verify. */
static void
halves_of_two_keys(void **state)
{
    EVP_PKEY *one = p256(), *two = p256();
    unsigned char *der = NULL, *other = NULL;
    struct buf text = BUF_INIT(4096);
    struct key *k = NULL;
    struct err e;

    (void)state;
    int n = i2d_PrivateKey(one, &der), n2 = i2d_PrivateKey(two, &other);
    assert_true(n > 65 && n == n2);
    memcpy(der + n - 65, other + n - 65, 65); /* the point is last */
    assert_ok(buf_add_str(&text, "-----BEGIN EC PRIVATE KEY-----\n", &e));
    assert_ok(base64_add(&text, span_of(der, (size_t)n), &e));
    assert_ok(buf_add_str(&text, "\n-----END EC PRIVATE KEY-----\n", &e));
    assert_true(key_from_pem(buf_span(&text), &k, &e) == -(int)E_PARSE);
    assert_null(k);
    EVP_PKEY_free(one);
    EVP_PKEY_free(two);
    OPENSSL_free(der);
    OPENSSL_free(other);
    buf_wipe(&text);
}

static void
bytes_after_the_key(void **state)
{
    EVP_PKEY *one = p256();
    unsigned char *der = NULL;
    struct buf raw = BUF_INIT(4096), text = BUF_INIT(4096);
    struct key *k = NULL;
    struct err e;
    int n = i2d_PrivateKey(one, &der);

    (void)state;
    assert_true(n > 0);
    assert_ok(buf_add(&raw, span_of(der, (size_t)n), &e));
    assert_ok(buf_add_str(&raw, "xx", &e));
    assert_ok(buf_add_str(&text, "-----BEGIN EC PRIVATE KEY-----\n", &e));
    assert_ok(base64_add(&text, buf_span(&raw), &e));
    assert_ok(buf_add_str(&text, "\n-----END EC PRIVATE KEY-----\n", &e));
    assert_err(key_from_pem(buf_span(&text), &k, &e), E_PARSE, "2 bytes after the key");
    EVP_PKEY_free(one);
    OPENSSL_free(der);
    buf_wipe(&raw);
    buf_wipe(&text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_round_trip),       cmocka_unit_test(kinds_by_name),
        cmocka_unit_test(every_form_of_openssl), cmocka_unit_test(what_may_follow_a_key),
        cmocka_unit_test(keys_refused),          cmocka_unit_test(halves_of_two_keys),
        cmocka_unit_test(bytes_after_the_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
