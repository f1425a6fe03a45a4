/* test_signer.c - one answer for each call, under the bundle's key. */
#include "unit.h"

#include <string.h>

#include "pki/issue.h"
#include "pki/openssl.h"
#include "signer/signer.h"

struct seen {
    size_t calls;
    bool failed;
    uint8_t bytes[SIGNATURE_MAX_BYTES];
    size_t n;
};

static void
on_signed(struct span signature, const struct err *why, void *arg)
{
    struct seen *s = arg;

    s->calls++;
    s->failed = why != NULL;
    memcpy(s->bytes, signature.p, s->n = signature.n);
}

static void
signs_under_the_certificates_key(void **state)
{
    struct ca_request q = { .subject = "CN=a", .days = 2, .path_len = -1 };
    struct key *key, *other;
    struct cert *cert;
    struct signer *s = NULL;
    struct seen seen = { .calls = 0 };
    struct err e = { 0 };

    (void)state;
    assert_ok(key_make(KEY_P256, &key, &e));
    assert_ok(key_make(KEY_P256, &other, &e));
    assert_ok(root_make(&q, key, &cert, &e));
    assert_err(signer_new(cert, other, &s, &e), E_DENIED, "does not match");
    assert_null(s);
    assert_ok(signer_new(cert, key, &s, &e));
    signer_sign(s, span_str("to be signed"), NULL, on_signed, &seen);
    assert_int_equal(seen.calls, 1);
    assert_false(seen.failed);
    EVP_MD_CTX *x = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestVerifyInit_ex(x, NULL, "SHA256", NULL, NULL,
                                             X509_get0_pubkey(cert_x509(cert)), NULL),
                     1);
    assert_int_equal(EVP_DigestVerify(x, seen.bytes, seen.n, (const uint8_t *)"to be signed", 12),
                     1);
    EVP_MD_CTX_free(x);
    signer_free(s);
    signer_free(NULL);
    cert_unref(cert);
    key_unref(key);
    key_unref(other);
}

int
main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(signs_under_the_certificates_key) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
