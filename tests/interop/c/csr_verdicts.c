/* csr_verdicts.c - what our PKCS#10 reader and OpenSSL's say of many requests, for the program that
 * holds them against Go's (tests/interop/go/csrdiff).
 *
 * In: records of four bytes (little endian) of length and the DER. Out: one line for each, "ABCD
 * E", where A our parser, B our verification, C OpenSSL's parser, D its verification are '1' (yes)
 * or '0', and E is our reason for a no. 'K' for B: both parse, and they read different keys.
 */
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "pki/leaf.h"

enum { RECORD_MAX_BYTES = 256 * 1024 };

struct verdict {
    bool parse, verify, ossl_parse, ossl_verify, other_key;
    struct err why;
};

static void
ours(struct span der, struct csr *c, struct verdict *v)
{
    v->parse = csr_parse(der, c, &v->why) == 0;
    v->verify = v->parse && csr_verify(der, c, &v->why) == 0;
}

static void
openssl(struct span der, const struct csr *c, struct verdict *v)
{
    const uint8_t *p = der.p;
    X509_REQ *q = d2i_X509_REQ(NULL, &p, (long)der.n);
    EVP_PKEY *k = q == NULL || p != der.p + der.n ? NULL : X509_REQ_get0_pubkey(q);

    v->ossl_parse = k != NULL;
    v->ossl_verify = k != NULL && X509_REQ_verify(q, k) == 1;
    if (k != NULL && v->parse) {
        uint8_t *spki = NULL;
        int n = i2d_X509_PUBKEY(X509_REQ_get_X509_PUBKEY(q), &spki);

        v->other_key = n <= 0 || !span_eq(c->spki, span_of(spki, (size_t)n));
        OPENSSL_free(spki);
    }
    X509_REQ_free(q);
}

int
main(void)
{
    static uint8_t der[RECORD_MAX_BYTES];
    uint8_t head[4];

    while (fread(head, sizeof(head), 1, stdin) == 1) {
        size_t n = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        struct verdict v = { 0 };
        struct csr c = { 0 };

        if (n > sizeof(der) || (n > 0 && fread(der, n, 1, stdin) != 1))
            return 1;
        ours(span_of(der, n), &c, &v);
        openssl(span_of(der, n), &c, &v);
        if (printf("%d%c%d%d %s\n", v.parse,
                   v.other_key ? 'K'
                   : v.verify  ? '1'
                               : '0',
                   v.ossl_parse, v.ossl_verify, v.verify ? "" : v.why.msg) < 0)
            return 1;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
