/* mint_list.h - revocation lists for tests, signed by any CA of ours. */
#ifndef TESTS_UNIT_MINT_LIST_H
#define TESTS_UNIT_MINT_LIST_H

#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "pki/crl.h"
#include "pki/leaf.h"

/* By `cert`, whose key it is; `revoked` (NULL: nothing) is its only entry. `from_s` and `to_s`
 * count from now. Appended to `pem`. */
static inline void
mint_list(struct cert *cert, const struct key *key, uint64_t number, int64_t from_s, int64_t to_s,
          const struct cert *revoked, struct buf *pem)
{
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    struct crl_entry x = { .revoked = unix_s() - 5, .reason = CRL_KEY_COMPROMISE };
    struct crl_request q = { number, unix_s() + from_s, unix_s() + to_s, &x, revoked != NULL };
    uint8_t signature[SIGNATURE_MAX_BYTES];
    struct leaf_template *t;
    struct crl *c = NULL;
    struct crls *s = NULL;
    size_t n;
    struct err e;

    if (revoked != NULL) {
        x.serial_n = cert_serial(revoked).n;
        memcpy(x.serial, cert_serial(revoked).p, x.serial_n);
    }
    assert_ok(leaf_template_new(cert, key, &t, &e));
    assert_ok(crl_tbs(t, &q, &tbs, &e));
    assert_ok(leaf_sign(t, buf_span(&tbs), signature, &n, &e));
    assert_ok(crl_finish(t, buf_span(&tbs), span_of(signature, n), &der, &e));
    assert_ok(crl_from_der(buf_span(&der), &c, &e));
    assert_ok(crls_new(&c, 1, &s, &e));
    assert_ok(crls_to_pem(s, pem, &e));
    crls_unref(s);
    crl_unref(c);
    leaf_template_free(t);
}

/* The same as a set of one. */
static inline struct crls *
mint_lists(struct cert *cert, const struct key *key, uint64_t number, const struct cert *revoked)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct crls *s = NULL;
    struct err e;

    mint_list(cert, key, number, -60, 3600, revoked, &pem);
    assert_ok(crls_from_pem(buf_span(&pem), &s, &e));
    return s;
}

#endif
