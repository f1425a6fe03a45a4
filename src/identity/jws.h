/* jws.h - JSON Web Signatures' keys and algorithms on OpenSSL. Layer: identity, private.
 * Source: RFC 7518 3 and 6. Thread: any. */
#ifndef IDENTITY_JWS_H
#define IDENTITY_JWS_H

#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"
#include "pki/pki.h"

enum jws_kind { JWS_RSA, JWS_P256, JWS_P384, JWS_P521, JWS__N };

enum {
    JWS_RSA_MIN_BITS = 2048,
    JWS_RSA_MAX_BITS = 8192, /* one check of a longer one costs too much (CVE-2023-6237) */
    JWS_RSA_MAX_E_BYTES = 4,
    JWS_COORD_BYTES = 66, /* P-521 */
};

/* One row for each algorithm that we verify; "none" and HMAC have none, so they do not exist here.
 */
struct jws_alg {
    const char *name;
    enum jws_kind kind; /* of the key that it goes with */
    const char *md;
    bool pss;
};
const struct jws_alg *jws_alg_find(struct span name); /* NULL: not one of ours */

/* A public key, immutable. Owner: caller, jws_key_free. */
struct jws_key;
/* RFC 7518 6.3.1, big endian. Errors: PARSE (even, exponent), LIMIT (modulus too short or long). */
MUST_USE int jws_key_rsa(struct span n, struct span exponent, struct jws_key **ret, struct err *e);
/* RFC 7518 6.2.1: "P-256", ...; coordinates of full length. r: 0 done; JWS_OTHER_CURVE. Errors:
 * PARSE (length, not on the curve). */
enum { JWS_OTHER_CURVE = 1 };
MUST_USE int jws_key_ec(struct span crv, struct span x, struct span y, struct jws_key **ret,
                        struct err *e);
void jws_key_free(struct jws_key *k); /* NULL is fine */
DEFINE_CLEANUP(struct jws_key, jws_key_free)
enum jws_kind jws_key_kind(const struct jws_key *k);

/* `sig` in JWS form: raw r||s for ECDSA. Errors: CRYPTO (wrong, or the key does not fit). */
MUST_USE int jws_verify(const struct jws_key *k, const struct jws_alg *alg, struct span input,
                        struct span sig, struct err *e);

/* The algorithm that our own key signs with. Errors: INVAL (Ed25519). */
MUST_USE int jws_alg_of(const struct key *k, const struct jws_alg **ret, struct err *e);
/* Appends the signature in JWS form. Errors: CRYPTO, NOMEM, LIMIT. */
MUST_USE int jws_sign(const struct key *k, const struct jws_alg *alg, struct span input,
                      struct buf *out, struct err *e);
/* The public half: modulus and exponent, or x and y, into two buffers; *ret_crv "P-256", or NULL
 * for RSA. Errors: INVAL, CRYPTO. */
MUST_USE int jws_public(const struct key *k, const char **ret_crv, struct buf *n_or_x,
                        struct buf *e_or_y, struct err *e);

#endif
