/* issue.h - makes roots and intermediates, offline. Layer: pki. Thread: any. On OpenSSL's X.509
 * API. */
#ifndef PKI_ISSUE_H
#define PKI_ISSUE_H

#include "pki/pki.h"

struct ca_request {
    const char *subject;    /* "O=Istio,CN=Root A,L=cluster-1": RFC 4514-like, in the order given */
    uint64_t days;          /* 1..36500 */
    int path_len;           /* -1 none */
    const char *const *dns; /* SANs for an intermediate, may be empty */
    size_t dns_n;
};

/* A self-signed root: CA:TRUE critical, keyCertSign + cRLSign critical, SKI; no AKI needed. Owner:
 * caller. Errors: INVAL (the subject: says where), CRYPTO. */
MUST_USE int root_make(const struct ca_request *q, struct key *k, struct cert **ret, struct err *e);
/* An intermediate under `root`: CA:TRUE critical with path_len, keyCertSign + cRLSign critical,
 * SKI, AKI = the root's SKI. Ends no later than its issuer. Errors: INVAL, DENIED (the issuer's
 * path length is used up, the issuer is no CA, its key does not match), CRYPTO. */
MUST_USE int intermediate_make(const struct ca_request *q, struct key *k, const struct cert *issuer,
                               const struct key *issuer_key, struct cert **ret, struct err *e);

#endif
