/* crl_samples.c - revocation lists by the product's writer for all kinds of signer, lengths,
 * reasons and dates at the edges, as PEM: for parsers that are not ours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pki/crl.h"
#include "pki/issue.h"
#include "pki/pem.h"
#include "samples.h"

static const int64_t times[][2] = {
    { 1700000000, 1700003600 },
    { 1709164799, 1709251200 },     /* over 29 February 2024 */
    { 2524607999, 2524608000 },     /* UTCTime, then GeneralizedTime */
    { 253402300798, 253402300799 }, /* the last second there is */
};

static const size_t lengths[] = { 0, 1, 10, CRL_ENTRIES_MAX };

static const enum crl_reason reasons[] = {
    CRL_UNSPECIFIED, CRL_KEY_COMPROMISE,         CRL_AFFILIATION_CHANGED,
    CRL_SUPERSEDED,  CRL_CESSATION_OF_OPERATION, CRL_PRIVILEGE_WITHDRAWN,
};

static struct crl_entry entries[CRL_ENTRIES_MAX];

static void
entries_fill(int64_t revoked)
{
    for (size_t i = 0; i < CRL_ENTRIES_MAX; i++) {
        struct crl_entry *x = &entries[i];

        *x = (struct crl_entry){ .serial_n = 2 + i % 15,
                                 .revoked = revoked,
                                 .reason = reasons[i % ARRAY_LEN(reasons)] };
        for (size_t k = 0; k < x->serial_n; k++)
            x->serial[k] = (uint8_t)(i * 31 + k * 7 + 128);
        x->serial[0] = (uint8_t)(1 + i % 255); /* minimal, and no two the same */
        x->serial[1] = (uint8_t)(i >> 8 << 4 | i % 16);
    }
}

static void
sample(const struct leaf_template *t, const struct crl_request *q)
{
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    CLEANUP(buf_done) struct buf pem = BUF_INIT(CRLS_MAX_BYTES);
    uint8_t sig[SIGNATURE_MAX_BYTES];
    size_t sig_n;
    struct err e = { 0 };

    CHECK(crl_tbs(t, q, &tbs, &e));
    CHECK(leaf_sign(t, buf_span(&tbs), sig, &sig_n, &e));
    CHECK(crl_finish(t, buf_span(&tbs), span_of(sig, sig_n), &der, &e));
    CHECK(pem_add(&pem, "X509 CRL", buf_span(&der), &e));
    (void)fwrite(pem.p, 1, pem.n, stdout);
}

int
main(void)
{
    struct ca_request root = { .subject = "O=Istio,CN=Root A", .days = 3650, .path_len = -1 };
    struct err e = { 0 };

    for (size_t c = 0; c < ARRAY_LEN(kinds); c++) {
        CLEANUP(key_unrefp) struct key *key = NULL;
        CLEANUP(cert_unrefp) struct cert *signer = NULL;
        CLEANUP(leaf_template_freep) struct leaf_template *t = NULL;

        CHECK(key_make(kinds[c], &key, &e));
        CHECK(root_make(&root, key, &signer, &e));
        CHECK(leaf_template_new(signer, key, &t, &e));
        for (size_t d = 0; d < ARRAY_LEN(times); d++)
            for (size_t n = 0; n < ARRAY_LEN(lengths); n++) {
                struct crl_request q = { .number = 1 + d * 1000 + n,
                                         .this_update = times[d][0],
                                         .next_update = times[d][1],
                                         .entries = entries,
                                         .n = lengths[n] };

                entries_fill(times[d][0]);
                sample(t, &q);
            }
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
