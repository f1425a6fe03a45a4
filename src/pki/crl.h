/* crl.h - certificate revocation lists: written for one signer, judged again before they are
 * signed, read by those who refuse. Layer: pki.
 *
 * Thread: any; a crl and a set of them (crls) are immutable once made and reference-counted.
 * Source: RFC 5280 5; specs/istio-ca.md 7.8.
 */
#ifndef PKI_CRL_H
#define PKI_CRL_H

#include "pki/leaf.h"

enum {
    CRL_ENTRIES_MAX = 2048,
    CRL_MAX_BYTES = 120 * 1024,  /* room for so many entries of the longest form */
    CRLS_MAX = 40,               /* of one set: signed and bare, of each signer, and of roots */
    CRLS_MAX_BYTES = 176 * 1024, /* of them together: as PEM they fit PEM_MAX_BYTES */
};

/* RFC 5280 5.3.1, by their numbers. */
enum crl_reason {
    CRL_UNSPECIFIED = 0,
    CRL_KEY_COMPROMISE = 1,
    CRL_CA_COMPROMISE = 2,
    CRL_AFFILIATION_CHANGED = 3,
    CRL_SUPERSEDED = 4,
    CRL_CESSATION_OF_OPERATION = 5,
    CRL_PRIVILEGE_WITHDRAWN = 9,
    CRL_REASON__MAX = CRL_PRIVILEGE_WITHDRAWN,
};
/* "keyCompromise"; NULL for a number that has no name here. */
const char *crl_reason_name(enum crl_reason r);
/* Errors: INVAL lists the right words. */
MUST_USE int crl_reason_parse(const char *name, enum crl_reason *ret, struct err *e);

struct crl_entry {
    uint8_t serial[SERIAL_MAX_BYTES]; /* big endian, no leading zero */
    size_t serial_n;
    int64_t revoked; /* unix seconds */
    enum crl_reason reason;
};
struct crl_request {
    uint64_t number; /* grows with each list of one signer */
    int64_t this_update, next_update;
    const struct crl_entry *entries; /* in the order in which they are to stand */
    size_t n;                        /* 0..CRL_ENTRIES_MAX */
};

/* The TBSCertList, version 2, with authority key identifier and number, appended to `out`. Errors:
 * INVAL (times out of order, a serial that is none), LIMIT, NOMEM. */
MUST_USE int crl_tbs(const struct leaf_template *t, const struct crl_request *q, struct buf *out,
                     struct err *e);
/* TBS + signature to a whole list, appended. */
MUST_USE int crl_finish(const struct leaf_template *t, struct span tbs, struct span signature,
                        struct buf *out, struct err *e);

/* What a TBSCertList of unknown origin asks for: byte for byte what crl_tbs writes for this signer,
 * so of its name and key, with its algorithm, and nothing else. The caller judges the times.
 * Errors: DENIED (which rule), NOMEM. */
struct crl_facts {
    uint64_t number;
    int64_t this_update, next_update;
    size_t n;
};
MUST_USE int crl_tbs_lint(const struct leaf_template *t, struct span tbs, struct crl_facts *ret,
                          struct err *e);

/* -- one list, read ------------------------------------------------------------------------------
 */

struct crl;

/* A list of any issuer: version 1 or 2, extensions that change what an entry means (critical ones:
 * indirect, of a part only) are refused. The signature is not looked at. Owner: caller, crl_unref.
 * Errors: PARSE, DENIED (such an extension), LIMIT. */
MUST_USE int crl_from_der(struct span der, struct crl **ret, struct err *e);
/* The same of a TBSCertList alone: what its issuer says, when there is no one to sign it (its key
 * is gone, or its certificate may not sign lists). For those who have it from the CA itself. */
MUST_USE int crl_from_tbs(struct span tbs, struct crl **ret, struct err *e);
bool crl_is_signed(const struct crl *c); /* of crl_from_der */
/* What a signed list says, without its signature: for those who have it from the CA itself when no
 * verifier would take the list any more (it has expired). Errors: NOMEM. */
MUST_USE int crl_to_bare(const struct crl *c, struct crl **ret, struct err *e);
struct crl *crl_ref(struct crl *c);
void crl_unref(struct crl *c); /* NULL is fine */
DEFINE_CLEANUP(struct crl, crl_unref)
struct span crl_der(const struct crl *c); /* borrowed; a TBSCertList when it is not signed */
uint64_t crl_number(const struct crl *c); /* 0: it has none */
int64_t crl_this_update(const struct crl *c);
int64_t crl_next_update(const struct crl *c); /* INT64_MAX: it has none */
size_t crl_count(const struct crl *c);
void crl_issuer_text(const struct crl *c, char ret[NAME_TEXT_BYTES]); /* as cert_subject_text */
bool crl_same_issuer(const struct crl *a, const struct crl *b);       /* name and key */
/* Why it is not to be used at wall time `now`. Errors: DENIED (expired; of a time to come). */
MUST_USE int crl_check_time(const struct crl *c, int64_t now, struct err *e);
/* Its issuer is this certificate's subject and, where both say, key. */
bool crl_is_of(const struct crl *c, const struct cert *issuer);
/* Signed by this certificate, whose key usage allows it. Errors: DENIED (what does not fit). */
MUST_USE int crl_verify(const struct crl *c, const struct cert *issuer, struct err *e);
bool crl_has(const struct crl *c, struct span serial); /* of its issuer */
/* That entry, with its time and reason. r: 0 done; CRL_HAS_NOT. */
enum { CRL_HAS_NOT = 1 };
MUST_USE int crl_entry_of(const struct crl *c, struct span serial, struct crl_entry *ret,
                          struct err *e);
/* Calls fn for each entry, in order; a negative result stops and is returned. */
typedef int crl_entry_fn(const struct crl_entry *x, void *arg, struct err *e);
MUST_USE int crl_each(const struct crl *c, crl_entry_fn *fn, void *arg, struct err *e);
/* The certificate is of the list's issuer and in it. */
bool crl_revokes(const struct crl *c, const struct cert *cert);
/* Key usage is absent, or has cRLSign (RFC 5280 4.2.1.3): others believe lists that it signs. */
bool cert_may_sign_crls(const struct cert *c);

/* What a list says of a certificate hangs on these: kept where the certificate is too big. A key
 * identifier of more than CERT_MARK_AKI_BYTES counts as none. */
enum { CERT_MARK_AKI_BYTES = 32 };
struct cert_mark {
    uint8_t issuer_id[DIGEST_BYTES]; /* SHA-256 of its issuer's Name */
    uint8_t aki_n, aki[CERT_MARK_AKI_BYTES];
    uint8_t serial_n, serial[SERIAL_MAX_BYTES];
};
void cert_mark_of(const struct cert *c, struct cert_mark *ret);

/* -- a set of lists ------------------------------------------------------------------------------
 */

struct crls;

/* References are taken. Errors: LIMIT, NOMEM. */
MUST_USE int crls_new(struct crl *const *all, size_t n, struct crls **ret, struct err *e);
/* X509 CRL blocks, nothing else; an empty text is no list. Errors: as crl_from_der (which block),
 * LIMIT. */
MUST_USE int crls_from_pem(struct span pem, struct crls **ret, struct err *e);
/* The signed ones. */
MUST_USE int crls_to_pem(const struct crls *s, struct buf *b, struct err *e);
struct crls *crls_ref(struct crls *s);
void crls_unref(struct crls *s); /* NULL is fine */
DEFINE_CLEANUP(struct crls, crls_unref)
/* NULL is the empty set for all of these. */
size_t crls_count(const struct crls *s);
struct crl *crls_at(const struct crls *s, size_t i); /* borrowed */
bool crls_equal(const struct crls *a, const struct crls *b);
bool crls_revoke(const struct crls *s, const struct cert *cert);
bool crls_revoke_mark(const struct crls *s, const struct cert_mark *m);
/* The signed list of this certificate's; NULL: there is none. Borrowed. */
struct crl *crls_of(const struct crls *s, const struct cert *issuer);
size_t crls_entries(const struct crls *s); /* of all of them */
/* Every issuer of leaves has a signed list, so that those who want one for each (Envoy, OpenSSL)
 * may be given them; false for the empty set. What is of a root is of no leaf's issuer. Source:
 * specs/istio-ca.md 7.8. */
bool crls_are_for_all(const struct crls *s, const struct roots *roots);
/* Each of these roots has a signed list. */
bool crls_reach_roots(const struct crls *s, const struct roots *roots);

#endif
