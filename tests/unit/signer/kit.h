/* kit.h - a CA with its key in an anonymous file, and TBSCertificates under it. */
#ifndef TESTS_SIGNER_KIT_H
#define TESTS_SIGNER_KIT_H

#include "unit.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "pki/issue.h"
#include "signer/signer.h"

struct kit {
    struct key *key;
    struct cert *cert;
    int key_fd;
    struct leaf_template *leaf; /* without the key */
    struct buf spki;
};

/* An open file with `text`, as the CA opens ca-key.pem. */
static inline int
kit_file(struct span text)
{
    int fd = memfd_create("ca-key.pem", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text.p, text.n), text.n);
    return fd;
}

static inline int
kit_key_file(const struct key *k)
{
    CLEANUP(buf_wipe) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct err e = { 0 };

    assert_ok(key_to_pem(k, &pem, &e));
    return kit_file(buf_span(&pem));
}

static inline void
kit_make(struct kit *k, enum key_kind kind, const char *subject, uint64_t days)
{
    struct ca_request q = { .subject = subject, .days = days, .path_len = -1 };
    struct err e = { 0 };

    *k = (struct kit){ .spki = BUF_INIT(LEAF_MAX_BYTES) };
    assert_ok(key_make(kind, &k->key, &e));
    assert_ok(root_make(&q, k->key, &k->cert, &e));
    assert_ok(leaf_template_new(k->cert, NULL, &k->leaf, &e));
    assert_ok(key_spki(k->key, &k->spki, &e)); /* any key will do */
    k->key_fd = kit_key_file(k->key);
}

static inline void
kit_done(struct kit *k)
{
    (void)close(k->key_fd);
    leaf_template_free(k->leaf);
    buf_done(&k->spki);
    cert_unref(k->cert);
    key_unref(k->key);
}

struct kit_tbs {
    uint8_t p[TBS_MAX_BYTES];
    size_t n;
};

/* What the CA would have signed for `name`, which decides the profile. */
static inline void
kit_tbs(const struct kit *k, const char *name, int64_t from_s, int64_t life_s, struct kit_tbs *ret)
{
    int64_t from = unix_s() + from_s;
    bool is_workload = strncmp(name, "spiffe://", 9) == 0;
    struct leaf_request q = { .profile = is_workload ? LEAF_WORKLOAD : LEAF_SERVER,
                              .spki = buf_span(&k->spki),
                              .sans = &name,
                              .sans_n = 1,
                              .not_before = from,
                              .not_after = from + life_s,
                              .serial = { 7, 1 } };
    struct err e = { 0 };

    assert_ok(leaf_tbs(k->leaf, &q, ret->p, &ret->n, &e));
}

#endif
