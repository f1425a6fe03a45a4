/* leaf.h - CSR in, leaf out: the hot path, with its own strict DER. Layer: pki.
 *
 * Thread: any; a leaf_template is immutable and shared, a call uses the caller's memory only.
 * Source: RFC 2986 (PKCS#10), RFC 5280 4, X.690 (DER), specs/istio-ca.md 4.
 */
#ifndef PKI_LEAF_H
#define PKI_LEAF_H

#include "pki/pki.h"

/* What is taken from a CSR: the public key, as bytes, and nothing else. */
struct csr {
    struct span spki; /* SubjectPublicKeyInfo, DER, borrowed from the input */
    enum key_kind kind;
    struct span tbs;     /* CertificationRequestInfo, DER: what the signature covers; borrowed */
    struct span subject; /* Name, DER, borrowed; for diagnosis only */
};

enum { CSR_MAX_BYTES = 16 * 1024, LEAF_MAX_BYTES = 4 * 1024, TBS_MAX_BYTES = LEAF_MAX_BYTES };

/* First PEM block of any label, or DER, to DER in `out` (istiod does not check the label). Errors:
 * PARSE "certificate signing request is not properly encoded". */
MUST_USE int csr_from_pem(struct span pem, struct buf *out, struct err *e);
/* Strict PKCS#10: DER only, nothing trailing, bounded. Keys: P-256, P-384, P-521, RSA 2048..8192
 * with a sane exponent, Ed25519. Extensions that are asked for are parsed for form and then
 * ignored, except that asking for CA:TRUE, for several URIs, or for a name that is no URI, DNS name
 * or IP address is refused. Errors: PARSE, DENIED (weak key, other curve, CA asked: says which). */
MUST_USE int csr_parse(struct span der, struct csr *ret, struct err *e);
/* The CSR's signature by its own key. Errors: CRYPTO "... verification error". */
MUST_USE int csr_verify(struct span der, const struct csr *c, struct err *e);
/* Makes a CSR: empty subject, one critical URI SAN `uri`. PEM, label CERTIFICATE REQUEST, into
 * `out`. Source: specs/istio-ca.md 13.2. */
MUST_USE int csr_make(const struct key *k, const char *uri, struct buf *out, struct err *e);

/* Everything of a leaf that is the same for all leaves of one signer: prepared once per bundle.
 * `signer_key` NULL: for all but leaf_sign, as in the process that never holds the key. */
struct leaf_template;
MUST_USE int leaf_template_new(const struct cert *signer, const struct key *signer_key,
                               struct leaf_template **ret, struct err *e);
void leaf_template_free(struct leaf_template *t); /* NULL is fine */
DEFINE_CLEANUP(struct leaf_template, leaf_template_free)

enum leaf_profile {
    LEAF_WORKLOAD, /* empty subject, critical SAN: one URI; serverAuth + clientAuth */
    LEAF_SERVER, /* the same with DNS names and IP addresses: the CA's and the vault's own listeners
                  */
};

enum {
    LEAF_SERIAL_BYTES = 16,
    LEAF_BACKDATE_S = 120, /* notBefore = now - 2 min: specs/istio-ca.md 4.2 */
};

struct leaf_request {
    enum leaf_profile profile;
    struct span spki;        /* DER, checked by csr_parse or our own */
    const char *const *sans; /* 1..8; "spiffe://..." is a URI, an IP address is one, else DNS */
    size_t sans_n;
    int64_t not_before, not_after;     /* unix seconds; the caller has clamped them */
    uint8_t serial[LEAF_SERIAL_BYTES]; /* random; made positive and minimal by the writer */
};

/* The TBSCertificate for `q` into `ret` (TBS_MAX_BYTES). Extensions in istiod's order: KU, EKU, BC,
 * AKI, SAN. Errors: INVAL (a SAN that is none, times out of order), LIMIT. */
MUST_USE int leaf_tbs(const struct leaf_template *t, const struct leaf_request *q,
                      uint8_t ret[TBS_MAX_BYTES], size_t *ret_n, struct err *e);
/* TBS + signature to a whole certificate in `ret` (LEAF_MAX_BYTES). */
MUST_USE int leaf_finish(const struct leaf_template *t, struct span tbs, struct span signature,
                         uint8_t ret[LEAF_MAX_BYTES], size_t *ret_n, struct err *e);
/* A finished leaf as one PEM block, appended. */
MUST_USE int leaf_to_pem(struct span der, struct buf *out, struct err *e);
/* Signs as the template's key and algorithm say: ECDSA with the curve's hash, RSA PKCS#1 v1.5 with
 * SHA-256, Ed25519. `ret` has room for 1024 bytes. What the signer room calls. */
enum { SIGNATURE_MAX_BYTES = 1024 };
MUST_USE int leaf_sign(const struct leaf_template *t, struct span tbs,
                       uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n, struct err *e);

/* Our own SubjectPublicKeyInfo as DER into `out`: for server leaves. */
MUST_USE int key_spki(const struct key *k, struct buf *out, struct err *e);

/* The same from the other side: what a TBSCertificate asks for, when nobody has said what it
 * should. One of the two profiles, with this signer as issuer; no CA, no other extension, a sound
 * key. The caller judges the times. Errors: DENIED (which rule). */
struct leaf_facts {
    enum leaf_profile profile;
    int64_t not_before, not_after;
};
MUST_USE int leaf_tbs_lint(const struct leaf_template *t, struct span tbs, struct leaf_facts *ret,
                           struct err *e);

/* One SubjectPublicKeyInfo of a kind that csr_parse accepts. Errors: PARSE, DENIED. */
MUST_USE int spki_check(struct span spki, struct err *e);

/* Profile lint of a finished certificate, before it leaves: serial, times, key usage, EKU, basic
 * constraints, one SAN set equal to `q`, AKI of the signer. Cheap (own DER reader). Errors: DENIED
 * (which rule). */
MUST_USE int leaf_lint(const struct leaf_template *t, const struct leaf_request *q, struct span der,
                       struct err *e);

#endif
