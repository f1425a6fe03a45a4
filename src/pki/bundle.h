/* bundle.h - roots + chain + intermediate + key, checked to belong together. Layer: pki.
 * Immutable, reference-counted. Thread: any. Source: design.md "Words" and invariant 1; RFC
 * 5280 6.1; specs/istio-ca.md 5.3, 13.3.
 */
#ifndef PKI_BUNDLE_H
#define PKI_BUNDLE_H

#include "pki/pki.h"

struct bundle;

/* The four files, in the order of every array of four in this project. */
enum bundle_part { PART_ROOT_CERT, PART_CA_CERT, PART_CA_KEY, PART_CERT_CHAIN, PART__N };
/* "root-cert.pem", ... and the vault's names "root-cert", ... */
extern const char *const bundle_file_names[PART__N];
extern const char *const bundle_secret_names[PART__N];

/* Checks, in this order, each failure naming the part ("ca-key.pem: ..."): every part is strict
 * PEM; roots are self-signed CAs, none twice; ca-cert is a CA with keyCertSign, unexpired, already
 * valid, EKU (if any) fits; the key matches it; cert-chain starts with ca-cert, is in order, each
 * link signed by the next with path lengths kept, and ends in (or just below) one of the roots;
 * nothing in it is expired. The chain file may leave the root out. A missing root in `roots` is
 * "cert-chain.pem: ends in ..., which is not in root-cert.pem". A self-signed ca-cert that is
 * itself a root is a bundle too (chain may be empty). Owner: caller, bundle_unref. Errors: PARSE,
 * DENIED, LIMIT, NOMEM. */
MUST_USE int bundle_new(const struct span parts[PART__N], struct bundle **ret, struct err *e);
/* The same without a word about the key, for the process that must not hold it: the key's part is
 * not looked at, bundle_key is NULL, and that the key matches is for whoever holds it to check. */
MUST_USE int bundle_new_public(const struct span parts[PART__N], struct bundle **ret,
                               struct err *e);
struct bundle *bundle_ref(struct bundle *b);
void bundle_unref(struct bundle *b); /* NULL is fine */
DEFINE_CLEANUP(struct bundle, bundle_unref)

/* The same intermediate, key and chain with other roots (a trust set). `roots` must contain the
 * signer's root. Errors: DENIED, NOMEM. */
MUST_USE int bundle_with_roots(const struct bundle *b, struct roots *roots, struct bundle **ret,
                               struct err *e);

struct roots *bundle_roots(const struct bundle *b); /* borrowed */
struct cert *bundle_signer(const struct bundle *b); /* ca-cert; borrowed */
struct key *bundle_key(const struct bundle *b);     /* borrowed; NULL of a public one */
struct cert *
bundle_signer_root(const struct bundle *b); /* the root that the signer chains to; borrowed */
/* Intermediates as presented to peers: from ca-cert up, roots left out. */
size_t bundle_chain_count(const struct bundle *b);
struct cert *bundle_chain_at(const struct bundle *b, size_t i); /* borrowed */
/* The earliest end of anything in the path, roots included; unix seconds. */
int64_t bundle_not_after(const struct bundle *b);
/* One part as canonical PEM (LF, no text); the key only into a buffer that the caller wipes.
 * Errors: STATE (the key of a public bundle), NOMEM, LIMIT. */
MUST_USE int bundle_part_pem(const struct bundle *b, enum bundle_part part, struct buf *out,
                             struct err *e);

#endif
