/* kit.h - a hierarchy in memory, for the CA's unit tests. */
#ifndef TESTS_CA_KIT_H
#define TESTS_CA_KIT_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ca/room.h"
#include "pki/issue.h"
#include "unit.h"

struct kit {
    struct key *root_key, *ca_key;
    struct cert *root, *ca;
    struct bundle *bundle;
    struct loop *loop; /* the signer's; it never runs */
    struct signer_process *process;
    struct signer *signer;
};

/* A signer process of its own for the kit's key. */
static inline void
kit_signer(struct kit *k, struct span key_pem)
{
    struct signer_process_conf c = { .lanes = 1, .max_life_s = (int64_t)3650 * 86400 };
    int fd = memfd_create("ca-key.pem", MFD_CLOEXEC);
    struct err e = { 0 };

    assert_ok(loop_new(&k->loop, &e));
    c.loop = k->loop;
    assert_ok(signer_process_new(&c, &k->process, &e));
    assert_int_equal(write(fd, key_pem.p, key_pem.n), key_pem.n);
    assert_ok(signer_load(k->process, k->ca, fd, &k->signer, &e));
    (void)close(fd);
}

/* An intermediate of `days` under a fresh root; `name` tells two kits apart. */
static inline void
kit_make(struct kit *k, const char *name, uint64_t days)
{
    char root_name[64], ca_name[64];
    struct ca_request rq = { .subject = root_name, .days = 3650, .path_len = -1 },
                      iq = { .subject = ca_name, .days = days, .path_len = 0 };
    CLEANUP(buf_done) struct buf root = BUF_INIT(PEM_MAX_BYTES), ca = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(buf_wipe) struct buf key = BUF_INIT(PEM_MAX_BYTES);
    struct err e = { 0 };

    (void)snprintf(root_name, sizeof(root_name), "O=Istio,CN=Root %s", name);
    (void)snprintf(ca_name, sizeof(ca_name), "O=Istio,CN=Intermediate %s", name);
    assert_ok(key_make(KEY_P256, &k->root_key, &e));
    assert_ok(key_make(KEY_P256, &k->ca_key, &e));
    assert_ok(root_make(&rq, k->root_key, &k->root, &e));
    assert_ok(intermediate_make(&iq, k->ca_key, k->root, k->root_key, &k->ca, &e));
    assert_ok(cert_to_pem(k->root, &root, &e));
    assert_ok(cert_to_pem(k->ca, &ca, &e));
    assert_ok(key_to_pem(k->ca_key, &key, &e));
    struct span parts[PART__N] = { buf_span(&root), buf_span(&ca), buf_span(&key), buf_span(&ca) };
    assert_ok(bundle_new(parts, &k->bundle, &e));
    kit_signer(k, buf_span(&key));
}

static inline void
kit_done(struct kit *k)
{
    bundle_unref(k->bundle);
    signer_unref(k->signer);
    signer_process_free(k->process);
    loop_free(k->loop);
    cert_unref(k->root);
    cert_unref(k->ca);
    key_unref(k->root_key);
    key_unref(k->ca_key);
}

static inline struct ca_view *
kit_view(const struct kit *k, uint64_t generation, struct jwks *keys)
{
    struct jwks *all[CA_JWKS_MAX] = { keys };
    struct ca_view_args a = { k->bundle, k->signer, all, NULL, generation, 750, NULL, NULL, NULL };
    struct ca_view *v;
    struct err e = { 0 };

    assert_ok(ca_view_new(&a, &v, &e));
    return v;
}

static inline struct ca_conf
kit_conf(void)
{
    return (struct ca_conf){ .trust_domain = "cluster.local",
                             .who = { .issuers = { { "https://issuer.test", "unused", NULL } },
                                      .issuers_n = 1,
                                      .audiences = { "istio-ca" },
                                      .dns_names = { "localhost", "127.0.0.1" },
                                      .dns_names_n = 2 },
                             .default_ttl_ms = 86400 * 1000,
                             .max_ttl_ms = (uint64_t)2160 * 3600 * 1000 };
}

/* A leaf under the kit's intermediate, as the CA would issue it. */
static inline struct cert *
kit_leaf(const struct kit *k, const char *uri, int64_t from, int64_t to)
{
    struct leaf_template *t;
    CLEANUP(buf_done) struct buf spki = BUF_INIT(LEAF_MAX_BYTES);
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, der_n;
    struct cert *c;
    struct err e = { 0 };

    assert_ok(key_spki(k->root_key, &spki, &e)); /* any key will do */
    struct leaf_request q = { .spki = buf_span(&spki),
                              .sans = &uri,
                              .sans_n = 1,
                              .not_before = from,
                              .not_after = to,
                              .serial = { 7 } };
    assert_ok(leaf_template_new(k->ca, k->ca_key, &t, &e));
    assert_ok(leaf_tbs(t, &q, tbs, &tbs_n, &e));
    assert_ok(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    assert_ok(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &der_n, &e));
    assert_ok(cert_from_der(span_of(der, der_n), &c, &e));
    leaf_template_free(t);
    return c;
}

#endif
