/* mint.h - certificates for tests: a root and leaves under it, made with our own pki room. */
#ifndef TESTS_UNIT_MINT_H
#define TESTS_UNIT_MINT_H

#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "pki/issue.h"
#include "pki/leaf.h"
#include "pki/pki.h"

struct mint_ca {
    struct key *key;
    struct cert *cert;
    struct roots *roots; /* just itself; NULL for an intermediate */
};

static inline void
mint_ca(struct mint_ca *ret, const char *subject, const struct mint_ca *issuer)
{
    struct ca_request q = { .subject = subject, .days = 30, .path_len = -1 };
    struct err e;

    *ret = (struct mint_ca){ .key = NULL };
    assert_ok(key_make(KEY_P256, &ret->key, &e));
    if (issuer == NULL) {
        assert_ok(root_make(&q, ret->key, &ret->cert, &e));
        assert_ok(roots_from_certs(&ret->cert, 1, &ret->roots, &e));
    } else
        assert_ok(intermediate_make(&q, ret->key, issuer->cert, issuer->key, &ret->cert, &e));
}

static inline void
mint_ca_done(struct mint_ca *c)
{
    key_unref(c->key);
    cert_unref(c->cert);
    roots_unref(c->roots);
}

/* A leaf for `key` with one SAN, valid from now - 60 s for `life_s`. */
static inline struct cert *
mint_leaf(const struct mint_ca *ca, const struct key *key, const char *san, int64_t life_s)
{
    const char *const sans[] = { san };
    struct buf spki = BUF_INIT(2048);
    struct leaf_template *t;
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, der_n;
    struct cert *c;
    struct err e;

    assert_ok(key_spki(key, &spki, &e));
    struct leaf_request q = { .profile =
                                  strncmp(san, "spiffe://", 9) == 0 ? LEAF_WORKLOAD : LEAF_SERVER,
                              .spki = buf_span(&spki),
                              .sans = sans,
                              .sans_n = 1,
                              .not_before = unix_s() - 60,
                              .not_after = unix_s() + life_s };
    assert_ok(random_bytes(q.serial, sizeof(q.serial), &e));
    assert_ok(leaf_template_new(ca->cert, ca->key, &t, &e));
    assert_ok(leaf_tbs(t, &q, tbs, &tbs_n, &e));
    assert_ok(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    assert_ok(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &der_n, &e));
    assert_ok(cert_from_der(span_of(der, der_n), &c, &e));
    leaf_template_free(t);
    buf_done(&spki);
    return c;
}

#endif
