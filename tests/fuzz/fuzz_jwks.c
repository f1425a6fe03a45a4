/* fuzz_jwks.c - a key set that is taken has a key or more, is within its bounds, and gives none for
 * a kid that is not in its text. */
#include <stdlib.h>

#include "identity/keyset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const algs[] = { "RS256", "PS256", "ES256", "ES384", "ES512" };
    static const uint8_t zeros[132];
    struct span stranger = span_str("no set has this key id");
    CLEANUP(jwks_unrefp) struct jwks *j = NULL;
    struct err e;

    if (jwks_from_json(span_of(data, size), &j, &e) < 0)
        return 0;
    if (jwks_count(j) == 0 || jwks_count(j) > JWKS_MAX_KEYS || size > JWKS_DOC_MAX_BYTES)
        abort();
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        const struct jws_alg *alg = jws_alg_find(span_str(algs[i]));
        const struct jws_key *k = NULL;

        if (keyset_find(j, &stranger, alg, &k) == 0 &&
            memmem(data, size, "no set has", 10) == NULL && memchr(data, '\\', size) == NULL)
            abort();
        /* no key takes a signature of zeros (CVE-2022-21449) */
        if (keyset_find(j, NULL, alg, &k) == 0 &&
            jws_verify(k, alg, span_str("x"), span_of(zeros, sizeof(zeros)), &e) == 0)
            abort();
    }
    return 0;
}
