/* bundle.h - roots + chain + intermediate + key, checked to belong together. Layer: pki.
 * Immutable, reference-counted. Thread: any. Source: design.md "Words" and invariant 1; RFC
 * 5280 6.1; specs/istio-ca.md 5.3, 13.3.
 */
#ifndef PKI_BUNDLE_H
#define PKI_BUNDLE_H

#include "pki/crl.h"
#include "pki/pki.h"

struct bundle;

/* The four files, in the order of every array of four in this project, and the fifth, which there
 * may be: the revocation lists of the CAs in the bundle, made where their keys are (the root's,
 * over its intermediates). */
enum bundle_part {
    PART_ROOT_CERT,
    PART_CA_CERT,
    PART_CA_KEY,
    PART_CERT_CHAIN,
    PART__N,
    PART_CA_CRL = PART__N,
    PART__ALL
};
/* "root-cert.pem", ... "ca-crl.pem" and the vault's names "root-cert", ... "ca-crl" */
extern const char *const bundle_file_names[PART__ALL];
extern const char *const bundle_secret_names[PART__ALL];

enum {
    BUNDLE_LISTS_MAX = 8,               /* lists beside one bundle */
    BUNDLE_LISTS_MAX_BYTES = 32 * 1024, /* of DER: leaves room for those of our own signers */
};

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

/* The same bundle with these lists beside it, that bundle_lists_read gave for it; NULL: none. */
MUST_USE int bundle_with_lists(const struct bundle *b, struct crls *lists, struct bundle **ret,
                               struct err *e);

struct roots *bundle_roots(const struct bundle *b); /* borrowed */
struct crls *bundle_lists(const struct bundle *b);  /* borrowed; NULL: none */
struct cert *bundle_signer(const struct bundle *b); /* ca-cert; borrowed */
struct key *bundle_key(const struct bundle *b);     /* borrowed; NULL of a public one */
struct cert *
bundle_signer_root(const struct bundle *b); /* the root that the signer chains to; borrowed */
/* Intermediates as presented to peers: from ca-cert up, roots left out. */
size_t bundle_chain_count(const struct bundle *b);
struct cert *bundle_chain_at(const struct bundle *b, size_t i); /* borrowed */
/* The earliest end of anything in the path, roots included; unix seconds. */
int64_t bundle_not_after(const struct bundle *b);
/* One part as canonical PEM (LF, no text; nothing for lists that there are not); the key only into
 * a buffer that the caller wipes. Errors: STATE (the key of a public bundle), NOMEM, LIMIT. */
MUST_USE int bundle_part_pem(const struct bundle *b, enum bundle_part part, struct buf *out,
                             struct err *e);

/* -- the lists beside a bundle: bundle_lists.c ---------------------------------------------------
 */

/* Lists that may go with `b`: X509 CRL blocks, each signed by a certificate of root-cert.pem or
 * cert-chain.pem that may sign lists, one for each at most. Times are not
 * looked at. Owner: caller, crls_unref. Errors: PARSE (an empty text too: a file is soon cut by
 * accident, and no list means that nothing is revoked), DENIED (which list, whose), LIMIT, NOMEM.
 * Source: specs/istio-ca.md 5.1, 13.3. */
MUST_USE int bundle_lists_read(const struct bundle *b, struct span pem, struct crls **ret,
                               struct err *e);
/* Those of `lists` (of another bundle, or NULL) that a certificate of `b` has signed. *ret is NULL
 * when none is. Owner: caller. Errors: NOMEM. */
MUST_USE int bundle_lists_fitting(const struct bundle *b, const struct crls *lists,
                                  struct crls **ret, struct err *e);
/* Whether new lists may be used at wall time `now`. Errors: DENIED (which has expired, or is of a
 * time to come). */
MUST_USE int bundle_lists_check_time(const struct crls *lists, int64_t now, struct err *e);
/* `next` may follow `now` (either may be NULL): no issuer's list goes back, by number, or by time
 * where there is none. Errors: DENIED. Source: RFC 5280 5.2.3. */
MUST_USE int bundle_lists_follow(const struct crls *now, const struct crls *next, struct err *e);
/* Nothing that `b` presents is revoked by them. Errors: DENIED (what, by whom, since when, and that
 * another intermediate is the remedy). */
MUST_USE int bundle_lists_spare(const struct bundle *b, const struct crls *lists, struct err *e);
/* Each certificate that `b` presents, its root included, has a signed list, which a stock istiod
 * and Envoy want once there is one. Errors: DENIED (which one has none). Source:
 * specs/istio-ca.md 5.3 (check 7), 7.8. */
MUST_USE int bundle_lists_are_whole(const struct bundle *b, const struct crls *lists,
                                    struct err *e);
/* The earliest nextUpdate; INT64_MAX: none. */
int64_t bundle_lists_end(const struct crls *lists);

#endif
