/* creds.h - private to agent/: what a workload holds at one moment, checked to belong together.
 * Immutable once made. Source: specs/istio-ca.md 1.4, 13.2 (5, 6, 9).
 */
#ifndef AGENT_CREDS_H
#define AGENT_CREDS_H

#include "base/err.h"
#include "pki/crl.h"
#include "pki/pki.h"

struct creds {
    struct key *key;
    struct cert *leaf;
    struct cert *chain[CHAIN_MAX]; /* intermediates, nothing self-signed */
    size_t chain_n;
    struct roots *roots;      /* the trust set */
    struct crls *crls;        /* the revocation lists beside it; NULL: nothing is revoked */
    int64_t received_s;       /* wall clock when the leaf came: its half-life counts from here */
    uint64_t generation;      /* of the trust set; 0: a CA that has none */
    uint64_t leaf_generation; /* of the answer that brought the leaf; 0: it did not say */
    uint8_t signer_id[DIGEST_BYTES];    /* of the certificate that signed the leaf */
    uint8_t leaf_root_id[DIGEST_BYTES]; /* the root the leaf ends in; zero when `roots` has none */
};

void creds_free(struct creds *c); /* NULL is fine */
DEFINE_CLEANUP(struct creds, creds_free)

/* From a CreateCertificate answer: `chain` is leaf, intermediates, and last the whole root bundle,
 * each PEM. The leaf is checked: for this key, for exactly this identity, valid now, up to a root
 * of the answer, for server and client. Its generations are the caller's to set. Errors: PARSE,
 * DENIED, LIMIT; each says which element. */
MUST_USE int creds_from_answer(struct key *key, const char *identity, char *const *chain, size_t n,
                               struct creds **ret, struct err *e);
/* A set of roots as a CA or its ConfigMap says it: the same twice is one. Errors: as
 * roots_from_pem. */
MUST_USE int creds_roots_from_pem(struct span pem, struct roots **ret, struct err *e);
/* The same leaf with another trust set. References are taken; crls NULL: nothing is revoked. */
MUST_USE int creds_with_roots(const struct creds *c, struct roots *roots, struct crls *crls,
                              uint64_t generation, struct creds **ret, struct err *e);
/* The trust set accepts the leaf. */
bool creds_leaf_is_trusted(const struct creds *c);
/* Lists that somebody said are fit to be used with this leaf and these roots (of the same message):
 * none has expired, and what claims to be of one of our own intermediates, or of a root, is signed
 * by it; Envoy, given another, would refuse every peer of ours. The certificates of other signers
 * are not known here. Errors: DENIED (which rule). */
MUST_USE int creds_lists_check(const struct creds *c, const struct roots *roots,
                               const struct crls *lists, struct err *e);
/* Its leaf, or an intermediate above it, is in its lists: peers refuse it. */
bool creds_is_revoked(const struct creds *c);
/* Trust set and lists are the same in both. */
bool creds_trust_equal(const struct creds *a, const struct creds *b);
/* The lists as PEM, appended, when others may have them: those who want one for each issuer would
 * refuse every peer of one that has none (specs/istio-ca.md 7.8). r: whether there is any. */
MUST_USE int creds_crls_pem(const struct creds *c, struct buf *b, struct err *e);

/* Those lists reach up to the roots: each root of the trust set, and each intermediate of our own
 * chain, has a signed one, so that a verifier may look above the leaf. */
bool creds_lists_reach_roots(const struct creds *c);

/* The file set key.pem (0600), cert-chain.pem, root-cert.pem, meshroot.json, and ca-crl.pem while
 * there are lists for others; one atomic swap. */
MUST_USE int creds_write(const char *dir, const char *identity, const struct creds *c,
                         struct err *e);
/* Checked like an answer. r: 0 done; CREDS_ABSENT there is no set. Errors: as creds_from_answer,
 * DENIED (of another identity). */
enum { CREDS_ABSENT = 1 };
MUST_USE int creds_read(const char *dir, const char *identity, struct creds **ret, struct err *e);
/* An earlier run has left a set, good or not. */
bool creds_exist(const char *dir);
/* Overwrites and removes every copy of the key under `dir`, and the set. Best effort. */
void creds_wipe(const char *dir);

#endif
