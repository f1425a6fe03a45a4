/* bundle_kit.h - root A, A1 (path length 1) under it, A2 (path length 0) under A1; another root B;
 * and the four files of a bundle by any of them. */
#ifndef TESTS_UNIT_PKI_BUNDLE_KIT_H
#define TESTS_UNIT_PKI_BUNDLE_KIT_H

#include "ca_kit.h"
#include "pki/bundle.h"

static struct ca a, a1, a2, b;

static inline void
cas_make(void)
{
    ca_make(&a, NULL, "O=Istio,CN=Root A", -1);
    ca_make(&a1, &a, "O=Istio,CN=A1", 1);
    ca_make(&a2, &a1, "O=Istio,CN=A2", 0);
    ca_make(&b, NULL, "O=Istio,CN=Root B", -1);
}

static inline void
cas_done(void)
{
    struct ca *all[] = { &a, &a1, &a2, &b };

    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ca_done(all[i]);
}

/* Four files; certificate lists end with NULL. */
struct set {
    struct cert *roots[ROOTS_MAX + 2], *ca[3], *chain[CHAIN_MAX + 3];
    struct key *key;
};

static inline size_t
count(struct cert *const *v)
{
    size_t n = 0;

    while (v[n] != NULL)
        n++;
    return n;
}

static inline int
make(const struct set *s, struct bundle **ret, struct err *e)
{
    struct buf roots = pem_of(s->roots, count(s->roots)), ca = pem_of(s->ca, count(s->ca));
    struct buf chain = pem_of(s->chain, count(s->chain)), key = pem_of_key(s->key);
    const struct span parts[PART__N] = {
        [PART_ROOT_CERT] = buf_span(&roots),
        [PART_CA_CERT] = buf_span(&ca),
        [PART_CA_KEY] = buf_span(&key),
        [PART_CERT_CHAIN] = buf_span(&chain),
    };
    int r = bundle_new(parts, ret, e);

    buf_done(&roots);
    buf_done(&ca);
    buf_done(&chain);
    buf_wipe(&key);
    return r;
}

#endif
