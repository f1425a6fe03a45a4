/* mesh_of_roots.h - roots A, B and their intermediates, as bundles, for the tests of rotate. */
#ifndef TESTS_ROTATE_MESH_OF_ROOTS_H
#define TESTS_ROTATE_MESH_OF_ROOTS_H

#include <stdio.h>

#include "pki/bundle.h"
#include "pki/issue.h"
#include "rotate/plan.h"

struct authority {
    struct key *key;
    struct cert *cert;
};

static inline void
authority_done(struct authority *a)
{
    key_unref(a->key);
    cert_unref(a->cert);
}

static inline void
make_root(const char *cn, struct authority *ret)
{
    struct err e;
    char subject[64];
    const struct ca_request q = { .subject = subject, .days = 3650, .path_len = -1 };

    (void)snprintf(subject, sizeof(subject), "O=Test,CN=%s", cn);
    assert_ok(key_make(KEY_P256, &ret->key, &e));
    assert_ok(root_make(&q, ret->key, &ret->cert, &e));
}

/* Another certificate with the same name and key. */
static inline void
renew_root(const char *cn, const struct authority *root, struct authority *ret)
{
    struct err e;
    char subject[64];
    const struct ca_request q = { .subject = subject, .days = 3650, .path_len = -1 };

    (void)snprintf(subject, sizeof(subject), "O=Test,CN=%s", cn);
    ret->key = key_ref(root->key);
    assert_ok(root_make(&q, ret->key, &ret->cert, &e));
}

static inline void
make_intermediate(const char *cn, uint64_t days, const struct authority *root,
                  struct authority *ret)
{
    struct err e;
    char subject[64];
    const struct ca_request q = { .subject = subject, .days = days, .path_len = 0 };

    (void)snprintf(subject, sizeof(subject), "O=Test,CN=%s", cn);
    assert_ok(key_make(KEY_P256, &ret->key, &e));
    assert_ok(intermediate_make(&q, ret->key, root->cert, root->key, &ret->cert, &e));
}

/* `inter` signs, under `root`; `other` (may be NULL) is trusted beside it. */
static inline struct bundle *
make_bundle(const struct authority *root, const struct authority *inter,
            const struct authority *other)
{
    struct err e;
    struct bundle *b = NULL;
    struct buf bufs[PART__N];
    struct span parts[PART__N];

    for (size_t i = 0; i < PART__N; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(cert_to_pem(root->cert, &bufs[PART_ROOT_CERT], &e));
    if (other != NULL)
        assert_ok(cert_to_pem(other->cert, &bufs[PART_ROOT_CERT], &e));
    assert_ok(cert_to_pem(inter->cert, &bufs[PART_CA_CERT], &e));
    assert_ok(key_to_pem(inter->key, &bufs[PART_CA_KEY], &e));
    assert_ok(cert_to_pem(inter->cert, &bufs[PART_CERT_CHAIN], &e));
    assert_ok(cert_to_pem(root->cert, &bufs[PART_CERT_CHAIN], &e));
    for (size_t i = 0; i < PART__N; i++)
        parts[i] = buf_span(&bufs[i]);
    assert_ok(bundle_new(parts, &b, &e));
    for (size_t i = 0; i < PART__N; i++)
        buf_wipe(&bufs[i]);
    return b;
}

#endif
