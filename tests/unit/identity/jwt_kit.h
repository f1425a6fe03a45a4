/* jwt_kit.h - keys, clocks and hand-made tokens for the tests of tokens. */
#ifndef TESTS_UNIT_IDENTITY_JWT_KIT_H
#define TESTS_UNIT_IDENTITY_JWT_KIT_H

#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "identity/identity.h"
#include "identity/jws.h"

enum { KIT_NOW_S = 2000000000 };

enum { KIT_EC, KIT_RSA, KIT_STRANGER, KIT__N };
static struct {
    struct key *keys[KIT__N]; /* kids "ec" and "rsa" are in `jwks`; the stranger's is not */
    struct jwks *jwks;
    char jwks_text[2048];
} kit;

/* The wall clock stands (to the second) at KIT_NOW_S. */
static inline void
kit_clock(void)
{
    clock_shift_for_test(0);
    clock_shift_for_test(KIT_NOW_S - unix_s());
}

static inline int
kit_setup(void **state)
{
    static const enum key_kind kinds[KIT__N] = { KEY_P256, KEY_RSA2048, KEY_P256 };
    struct buf ec = BUF_INIT(1024), rsa = BUF_INIT(1024);
    struct err e;

    (void)state;
    for (size_t i = 0; i < KIT__N; i++)
        assert_ok(key_make(kinds[i], &kit.keys[i], &e));
    assert_ok(jwks_of_key(kit.keys[KIT_EC], "ec", &ec, &e));
    assert_ok(jwks_of_key(kit.keys[KIT_RSA], "rsa", &rsa, &e));
    /* {"keys":[A]} and {"keys":[B]} to {"keys":[A,B]} */
    (void)snprintf(kit.jwks_text, sizeof(kit.jwks_text), "%.*s,%s", (int)ec.n - 2, buf_text(&ec),
                   buf_text(&rsa) + strlen("{\"keys\":["));
    assert_ok(jwks_from_json(span_str(kit.jwks_text), &kit.jwks, &e));
    buf_done(&ec);
    buf_done(&rsa);
    kit_clock();
    return 0;
}

static inline int
kit_teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < KIT__N; i++)
        key_unref(kit.keys[i]);
    jwks_unref(kit.jwks);
    clock_shift_for_test(0);
    return 0;
}

/* header.claims.signature with the algorithm of the key, whatever the header says. */
static inline void
kit_token(const char *header, const char *claims, int key, struct buf *out)
{
    const struct jws_alg *alg;
    struct buf sig = BUF_INIT(2048);
    struct err e;

    assert_ok(base64url_add(out, span_str(header), &e));
    assert_ok(buf_add_byte(out, '.', &e));
    assert_ok(base64url_add(out, span_str(claims), &e));
    assert_ok(jws_alg_of(kit.keys[key], &alg, &e));
    assert_ok(jws_sign(kit.keys[key], alg, buf_span(out), &sig, &e));
    assert_ok(buf_add_byte(out, '.', &e));
    assert_ok(base64url_add(out, buf_span(&sig), &e));
    buf_done(&sig);
}

#endif
