/* identity.h - who calls: SPIFFE ids, JSON Web Tokens and key sets, allow rules. Layer: identity.
 * Source: SPIFFE-ID 2; RFC 7515, 7517, 7519; specs/istio-ca.md 3; specs/peers.md 5a.
 */
#ifndef IDENTITY_IDENTITY_H
#define IDENTITY_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"
#include "net/loop.h"
#include "obs/metrics.h"
#include "pki/pki.h"

/* -- SPIFFE ids ----------------------------------------------------------------------------------
 */

enum {
    SPIFFE_ID_BYTES = 512, /* of an id in Istio's form, with its NUL */
    TRUST_DOMAIN_BYTES = 256,
    K8S_NAME_BYTES = 254,
    SPIFFE_URI_MAX_BYTES = 2048 /* of any id; SPIFFE-ID 2.3 */
};

/* A workload identity in Istio's form, taken apart. */
struct spiffe_id {
    char trust_domain[TRUST_DOMAIN_BYTES];
    char ns[K8S_NAME_BYTES], sa[K8S_NAME_BYTES];
};

/* "spiffe://td/ns/NS/sa/SA", strictly: lower-case trust domain, no empty, "." or ".." segments, no
 * percent escapes, names of Kubernetes' grammar (RFC 1123). Errors: PARSE (what is wrong). Round
 * trip with spiffe_text is exact. */
MUST_USE int spiffe_parse(struct span s, struct spiffe_id *ret, struct err *e);
void spiffe_text(const struct spiffe_id *id, char ret[SPIFFE_ID_BYTES]);
/* The same from its three names, each checked, so that the text fits. Errors: PARSE (which). */
MUST_USE int spiffe_make(struct span trust_domain, struct span ns, struct span sa,
                         struct spiffe_id *ret, struct err *e);
/* Any SPIFFE id (other path shapes too): valid form, and its trust domain in *ret_td (borrowed).
 * Errors: PARSE. */
MUST_USE int spiffe_uri_check(struct span s, struct span *ret_td, struct err *e);
/* A trust domain name. Errors: PARSE. */
MUST_USE int trust_domain_check(const char *td, struct err *e);
/* Names of namespaces (RFC 1123 label) and of service accounts, pods, nodes (RFC 1123 subdomain).
 */
bool k8s_label_ok(struct span s);
bool k8s_subdomain_ok(struct span s);

/* An allow rule: a SPIFFE id in which one whole path segment, or the tail after a '/', may be "*":
 * "spiffe://td/ns/shop/sa/x", "spiffe://td/ns/shop/sa/" + "*", "spiffe://td/" + "*". */
MUST_USE int allow_rule_check(const char *rule, struct err *e);
bool allow_rule_matches(const char *rule, struct span spiffe_uri);

/* -- keys of token issuers -----------------------------------------------------------------------
 */

/* An immutable set of public keys, reference-counted; thread: any. */
struct jwks;
/* RFC 7517 JSON: RSA 2048..8192, EC P-256/384/521; others are skipped; no usable key is an error,
 * and so are a damaged key, two of one kind with one kid, and a private key. At most JWKS_MAX_KEYS
 * keys, JWKS_DOC_MAX_BYTES. Errors: PARSE (which key), LIMIT. */
enum { JWKS_MAX_KEYS = 64, JWKS_DOC_MAX_BYTES = 256 * 1024, JWKS_KID_BYTES = 256 };
MUST_USE int jwks_from_json(struct span json, struct jwks **ret, struct err *e);
struct jwks *jwks_ref(struct jwks *j);
void jwks_unref(struct jwks *j); /* NULL is fine */
DEFINE_CLEANUP(struct jwks, jwks_unref)
/* The public half of our own key as a JWKS document (one key, use sig, kid) into `out`. */
MUST_USE int jwks_of_key(const struct key *k, const char *kid, struct buf *out, struct err *e);
/* The key's RFC 7638 thumbprint (SHA-256, base64url): a kid that nobody has to invent. */
enum { JWK_THUMBPRINT_BYTES = 44 };
MUST_USE int jwk_thumbprint(const struct key *k, char ret[JWK_THUMBPRINT_BYTES], struct err *e);
/* A certificate's public key as one JWK without use and alg, as SPIFFE's JWT bundles have them,
 * appended; its kid is the thumbprint, also in ret_kid. Errors: INVAL (Ed25519), PARSE. */
MUST_USE int jwk_of_cert(const struct cert *c, char ret_kid[JWK_THUMBPRINT_BYTES], struct buf *out,
                         struct err *e);
size_t jwks_count(const struct jwks *j);

/* Key sets that keep themselves fresh: identity/jwks_source.h. */

/* -- tokens --------------------------------------------------------------------------------------
 */

enum { JWT_MAX_BYTES = 16 * 1024, JWT_AUDIENCES = 8, JWT_ISSUER_BYTES = 512 };

/* What a verified token says. */
struct jwt_claims {
    char issuer[JWT_ISSUER_BYTES], subject[512], id[128]; /* iss, sub, jti ("" when absent) */
    int64_t expires, not_before, issued; /* unix seconds; 0 when absent (expires never is) */
    char k8s_namespace[K8S_NAME_BYTES],
        k8s_service_account[K8S_NAME_BYTES]; /* kubernetes.io claim, or "" */
    char k8s_sa_uid[64], k8s_pod[K8S_NAME_BYTES], k8s_pod_uid[64], k8s_node[K8S_NAME_BYTES];
    char k8s_secret[K8S_NAME_BYTES];  /* what else it may be bound to */
    bool is_kubernetes;               /* has the kubernetes.io claim */
    char oid[64], tid[64], appid[64]; /* Entra's claims, or "" */
};

struct jwt_rule {
    const char *issuer;                   /* exact; NULL: any (never for callers of the CA) */
    const char *audiences[JWT_AUDIENCES]; /* one of them must be in aud; ended by NULL */
    uint64_t leeway_s;                    /* clock skew allowed: 60 for the CA, 300 for the vault */
};

/* Compact JWS with RS256/384/512, PS256, ES256/384/512 whose key kind fits the alg; header must
 * have no "crit", and "jwk", "x5c", "jku" in it are ignored. A token without kid is checked with
 * the only key of the set that fits, if there is only one. exp is required. Any other alg, "none"
 * above all, is refused; so is every token when the rule names no audience. Errors: NOMEM; AUTH,
 * each with its reason word in *ret_reason (static: "expired", "audience", "issuer", "alg", "kid",
 * "signature", "malformed", "not_yet_valid"), for metrics and logs. The key set remembers whose
 * signature was good (SHA-256 of the token, bounded); issuer, audience and time are judged at every
 * call, and another key set starts with no memory. Thread: any. */
MUST_USE int jwt_verify(const struct jwks *keys, struct span token, const struct jwt_rule *rule,
                        struct jwt_claims *ret, const char **ret_reason, struct err *e);

/* What a token says its issuer is, without any check: to choose who checks it, for nothing else.
 * False: it is no token, or does not say. */
bool jwt_claimed_issuer(struct span token, char ret[JWT_ISSUER_BYTES]);

/* The claims of a token that jwt_verify has let through, as JSON text: all of them, also those that
 * struct jwt_claims has no place for. Errors: AUTH (not a token). */
MUST_USE int jwt_claims_json(struct span token, struct buf *out, struct err *e);

/* Signs `claims_json` (an object) with alg by key kind (RS256, ES256, ES384), header
 * {"typ":"JWT","alg","kid"} plus, when x5t is true, "x5t": kid as Entra does; appends the compact
 * form to `out`. */
MUST_USE int jwt_sign(const struct key *k, const char *kid, bool x5t, struct span claims_json,
                      struct buf *out, struct err *e);

/* The workload that a service-account token stands for: kubernetes.io claim when present, and it
 * must agree with sub "system:serviceaccount:NS:SA". Errors: AUTH. Source: specs/istio-ca.md 3.2.
 */
MUST_USE int jwt_workload(const struct jwt_claims *c, const char *trust_domain,
                          struct spiffe_id *ret, struct err *e);

#endif
