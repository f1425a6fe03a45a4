/* leaf_samples.c - leaves by the product's writer over all signers, keys, names and dates at the
 * edges, with what each was asked to be: one JSON line each, for parsers that are not ours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pki/issue.h"
#include "pki/leaf.h"
#include "samples.h"

static const int64_t times[][2] = {
    { 1700000000, 1700086400 },     /* a day */
    { 951782400, 951868799 },       /* 29 February 2000 */
    { 1709164799, 1709251200 },     /* over 29 February 2024 */
    { 2524607999, 2524608000 },     /* 2049 to 2050: one UTCTime, one GeneralizedTime */
    { 2524607998, 2524607999 },     /* the last seconds of 2049 */
    { 2524608000, 2524608001 },     /* the first of 2050 */
    { 3981312000, 3981398399 },     /* 29 February 2096 */
    { 4107542399, 4107542400 },     /* 1 March 2100: no leap day */
    { 0, 253402300799 },            /* 1970 to 9999 */
    { 253402300798, 253402300799 }, /* the last second there is */
};

static char longest[2049];

static const struct {
    enum leaf_profile profile;
    const char *sans[4];
    size_t n;
} names[] = {
    { LEAF_WORKLOAD, { "spiffe://cluster.local/ns/shop/sa/cart" }, 1 },
    { LEAF_WORKLOAD, { "spiffe://example.org/a" }, 1 },
    { LEAF_WORKLOAD, { longest }, 1 },
    { LEAF_SERVER, { "istiod.istio-system.svc" }, 1 },
    { LEAF_SERVER, { "localhost", "127.0.0.1", "::1", "istiod.istio-system.svc" }, 4 },
    { LEAF_SERVER, { "2001:db8::ffff", "10.255.0.1" }, 2 },
};

static void
put_hex(const char *name, struct span s)
{
    (void)printf("\"%s\":\"", name);
    for (size_t i = 0; i < s.n; i++)
        (void)printf("%02x", s.p[i]);
    (void)printf("\",");
}

static void
sample(const struct cert *signer, const struct leaf_template *t, const struct leaf_request *q)
{
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, n;
    struct err e = { 0 };

    CHECK(leaf_tbs(t, q, tbs, &tbs_n, &e));
    CHECK(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    CHECK(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &n, &e));
    CHECK(leaf_lint(t, q, span_of(der, n), &e));
    (void)printf("{");
    put_hex("der", span_of(der, n));
    put_hex("signer", cert_der(signer));
    put_hex("serial", span_of(q->serial, sizeof(q->serial)));
    put_hex("spki", q->spki);
    (void)printf("\"not_before\":%lld,\"not_after\":%lld,\"sans\":[", (long long)q->not_before,
                 (long long)q->not_after);
    for (size_t i = 0; i < q->sans_n; i++)
        (void)printf("%s\"%s\"", i == 0 ? "" : ",", q->sans[i]);
    (void)printf("]}\n");
}

/* Serials by a counter: short ones, a high first bit, a zero first byte. */
static void
serial_fill(uint8_t serial[LEAF_SERIAL_BYTES], size_t i)
{
    memset(serial, 0, LEAF_SERIAL_BYTES);
    for (size_t k = i % LEAF_SERIAL_BYTES; k < LEAF_SERIAL_BYTES; k++)
        serial[k] = (uint8_t)(i * 37 + k * 101 + 128);
    serial[LEAF_SERIAL_BYTES - 1] |= 1;
}

int
main(void)
{
    struct ca_request root = { .subject = "O=Istio,CN=Root A,L=cluster-1",
                               .days = 3650,
                               .path_len = -1 };
    struct buf spkis[ARRAY_LEN(kinds)];
    struct err e = { 0 };
    size_t i = 0;

    memset(longest, 'a', sizeof(longest) - 1);
    memcpy(longest, "spiffe://example.org/ns/n/sa/", 29);
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        CLEANUP(key_unrefp) struct key *key = NULL;

        spkis[k] = BUF_INIT(LEAF_MAX_BYTES);
        CHECK(key_make(kinds[k], &key, &e));
        CHECK(key_spki(key, &spkis[k], &e));
    }
    for (size_t c = 0; c < ARRAY_LEN(kinds); c++) {
        CLEANUP(key_unrefp) struct key *key = NULL;
        CLEANUP(cert_unrefp) struct cert *signer = NULL;
        CLEANUP(leaf_template_freep) struct leaf_template *t = NULL;

        CHECK(key_make(kinds[c], &key, &e));
        CHECK(root_make(&root, key, &signer, &e));
        CHECK(leaf_template_new(signer, key, &t, &e));
        for (size_t d = 0; d < ARRAY_LEN(times); d++)
            for (size_t n = 0; n < ARRAY_LEN(names); n++, i++) {
                struct leaf_request q = { .profile = names[n].profile,
                                          .spki = buf_span(&spkis[i % ARRAY_LEN(kinds)]),
                                          .sans = names[n].sans,
                                          .sans_n = names[n].n,
                                          .not_before = times[d][0],
                                          .not_after = times[d][1] };

                serial_fill(q.serial, i);
                sample(signer, t, &q);
            }
    }
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
        buf_done(&spkis[k]);
    return fflush(stdout) == 0 ? 0 : 1;
}
