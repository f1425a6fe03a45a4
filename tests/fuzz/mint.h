/* mint.h - a small PKI of this run for targets whose input is answered for: a root, an intermediate
 * and a leaf. Nobody but this process has the keys, so what is taken was made here. */
#ifndef TESTS_FUZZ_MINT_H
#define TESTS_FUZZ_MINT_H

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pki/issue.h"
#include "pki/leaf.h"

#define MINT_ID "spiffe://td/ns/n/sa/a"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            abort();                                                                               \
    } while (0)

enum { MINT_LEAF, MINT_INTERMEDIATE, MINT_ROOT, MINT_N };
struct mint {
    struct key *key; /* the leaf's */
    struct cert *cert[MINT_N];
    struct buf pem[MINT_N];
};

static inline struct cert *
mint_leaf(const struct cert *ca, const struct key *ca_key, const struct key *key)
{
    static const char *const sans[] = { MINT_ID };
    struct buf spki = BUF_INIT(2048);
    struct leaf_template *t = NULL;
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, der_n;
    struct cert *c = NULL;
    struct err e;

    MUST(key_spki(key, &spki, &e));
    struct leaf_request q = { .profile = LEAF_WORKLOAD,
                              .spki = buf_span(&spki),
                              .sans = sans,
                              .sans_n = 1,
                              .not_before = unix_s() - 60,
                              .not_after = unix_s() + 24 * 3600,
                              .serial = { 0x41, 0x42 } };
    MUST(leaf_template_new(ca, ca_key, &t, &e));
    MUST(leaf_tbs(t, &q, tbs, &tbs_n, &e));
    MUST(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    MUST(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &der_n, &e));
    MUST(cert_from_der(span_of(der, der_n), &c, &e));
    leaf_template_free(t);
    buf_done(&spki);
    return c;
}

static inline void
mint(struct mint *ret)
{
    struct ca_request q = { .subject = "CN=fuzz", .days = 30, .path_len = -1 };
    struct key *root = NULL, *ca = NULL;
    struct err e;

    MUST(key_make(KEY_P256, &root, &e));
    MUST(key_make(KEY_P256, &ca, &e));
    MUST(key_make(KEY_P256, &ret->key, &e));
    MUST(root_make(&q, root, &ret->cert[MINT_ROOT], &e));
    q.subject = "CN=fuzz intermediate";
    MUST(intermediate_make(&q, ca, ret->cert[MINT_ROOT], root, &ret->cert[MINT_INTERMEDIATE], &e));
    ret->cert[MINT_LEAF] = mint_leaf(ret->cert[MINT_INTERMEDIATE], ca, ret->key);
    for (size_t i = 0; i < MINT_N; i++) {
        ret->pem[i] = BUF_INIT(8192);
        MUST(cert_to_pem(ret->cert[i], &ret->pem[i], &e));
    }
    key_unref(root);
    key_unref(ca);
}

/* The next part of an input: its length in one byte, or in two with `wide`; false: no more. */
static inline bool
part_cut(struct span *in, bool wide, struct span *ret)
{
    size_t head = wide ? 2 : 1;

    if (in->n < head)
        return false;
    size_t n = wide ? (size_t)(in->p[0] << 8 | in->p[1]) : in->p[0];
    *in = span_skip(*in, head);
    n = n < in->n ? n : in->n;
    *ret = span_of(in->p, n);
    *in = span_skip(*in, n);
    return true;
}

#endif
