/* jwks_source.h - the keys of one issuer of tokens, kept fresh. Layer: identity.
 * Source: OpenID Connect Discovery 1.0, 4; Kubernetes, "service account issuer discovery".
 */
#ifndef IDENTITY_JWKS_SOURCE_H
#define IDENTITY_JWKS_SOURCE_H

#include "identity/identity.h"

struct kube_client;

/* Where the keys are:
 *   a path, "file:..."     read every 5 s, taken when the content is new
 *   "https://..."          fetched every 5 min
 *   "kubernetes"           the API server's /openid/v1/jwks, through its client; every 5 min
 *   NULL                   by discovery: ISSUER/.well-known/openid-configuration must name exactly
 *                          that issuer, and an https jwks_uri; both are fetched every 5 min. No
 *                          redirect is followed, no proxy used, and the jwks_uri may not lead to
 *                          this host (unless the issuer does), to link-local addresses or a cloud's
 *                          metadata service (peers.md 5a 37)
 * What is fetched is tried every 10 s until the first good set, and on an unknown key id at most
 * once in 10 s. The last good set is kept over an outage; before the first there is none, never a
 * default (peers.md 5a 21). on_change runs on `l`, never inside jwks_source_new. A failure is
 * logged when its reason changes, and counted. */
struct jwks_source;
struct jwks_source_conf {
    const char *issuer;                              /* for discovery and messages; copied */
    const char *location;                            /* as above; copied */
    const char *ca_file;                             /* for https; NULL: the system's */
    struct kube_client *kube;                        /* for "kubernetes"; borrowed */
    void (*on_change)(struct jwks *keys, void *arg); /* `keys` borrowed */
    void *arg;
    struct metrics *metrics; /* borrowed; may be NULL */
    uint64_t every_ms;       /* 0: as above */
};
enum { JWKS_UNKNOWN_KID_MS = 10 * 1000, DISCOVERY_MAX_BYTES = 64 * 1024, JWKS_URI_BYTES = 2048 };
/* Errors: INVAL (http:// and other schemes: keys that came in the clear prove nothing). */
MUST_USE int jwks_source_new(struct loop *l, const struct jwks_source_conf *conf,
                             struct jwks_source **ret, struct err *e);
void jwks_source_free(struct jwks_source *s); /* NULL is fine */
DEFINE_CLEANUP(struct jwks_source, jwks_source_free)
/* A token named a key we do not have: fetch soon. Thread: its loop. */
void jwks_source_unknown_kid(struct jwks_source *s);

/* Where they come from, and why not now ("" when all is well). Borrowed; thread: its loop. */
const char *jwks_source_from(const struct jwks_source *s);
const char *jwks_source_trouble(const struct jwks_source *s);

/* An issuer whose keys can be found by discovery: https, no query, no fragment, no user. Errors:
 * INVAL.
 */
MUST_USE int discovery_issuer_check(const char *issuer, struct err *e);
/* ISSUER/.well-known/openid-configuration. Owner of *ret: caller. */
MUST_USE int discovery_url(const char *issuer, char **ret, struct err *e);
/* Reads the document. Errors: PARSE (no JSON object, no https jwks_uri), DENIED (another issuer).
 */
MUST_USE int discovery_read(struct span json, const char *issuer, char ret_uri[JWKS_URI_BYTES],
                            struct err *e);

#endif
