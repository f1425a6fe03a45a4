/* keyset.h - what jwt.c asks of a set of issuers' keys. Layer: identity, private. */
#ifndef IDENTITY_KEYSET_H
#define IDENTITY_KEYSET_H

#include "identity/identity.h"
#include "identity/jws.h"
#include "identity/memo.h"

/* The key for a token's header. `kid` NULL: the header has none. r: 0 done, *ret borrowed;
 * KEYSET_NO_KEY no such kid, or without a kid not exactly one that fits; KEYSET_OTHER_ALG the key
 * is there, and is not for `alg`. */
enum { KEYSET_NO_KEY = 1, KEYSET_OTHER_ALG = 2 };
MUST_USE int keyset_find(const struct jwks *j, const struct span *kid, const struct jws_alg *alg,
                         const struct jws_key **ret);
/* Tokens that this set has vouched for; borrowed. */
struct memo *keyset_memo(const struct jwks *j);

#endif
