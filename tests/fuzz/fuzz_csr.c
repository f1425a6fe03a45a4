/* fuzz_csr.c - what our CSR reader takes, OpenSSL takes too, with the same key; and PEM comes to an
 * end. */
#include <stdlib.h>
#include <string.h>

#include "pki/leaf.h"
#include "pki/openssl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
same_as_openssl(struct span der, const struct csr *c)
{
    const uint8_t *p = der.p;
    X509_REQ *q = d2i_X509_REQ(NULL, &p, (long)der.n);
    uint8_t *spki = NULL;

    if (q == NULL || p != der.p + der.n)
        abort();
    int n = i2d_X509_PUBKEY(X509_REQ_get_X509_PUBKEY(q), &spki);
    if (n <= 0 || !span_eq(c->spki, span_of(spki, (size_t)n)))
        abort();
    OPENSSL_free(spki);
    X509_REQ_free(q);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CSR_MAX_BYTES);
    struct csr c;
    struct err e;

    if (csr_from_pem(span_of(data, size), &der, &e) < 0 || csr_parse(buf_span(&der), &c, &e) < 0)
        return 0;
    same_as_openssl(buf_span(&der), &c);
    (void)csr_verify(buf_span(&der), &c, &e); /* must not crash, whatever it says */
    return 0;
}
