/* cloud.h - an Entra-like token endpoint for client credentials. Layer: cloud. Thread: its loop.
 * Source: specs/azure.md 2.
 */
#ifndef CLOUD_CLOUD_H
#define CLOUD_CLOUD_H

#include "identity/identity.h"
#include "net/http.h"
#include "obs/metrics.h"
#include "store/store.h"

struct cloud;

struct cloud_conf {
    struct store *store; /* borrowed, as all below */
    struct key *key;     /* RSA; signs access tokens */
    const char *tenant;  /* GUID */
    struct metrics *metrics;
};

MUST_USE int cloud_new(const struct cloud_conf *conf, struct cloud **ret, struct err *e);
void cloud_free(struct cloud *c); /* NULL is fine */
/* True when the path is the token endpoint's: /{tenant}/oauth2/..., /{tenant}/v2.0/..., discovery.
 */
bool cloud_serves(const struct cloud *c, const char *path);
void cloud_serve(struct cloud *c, struct http_exchange *x);
struct jwks *cloud_jwks(const struct cloud *c);          /* borrowed */
void cloud_issuer(const struct cloud *c, char ret[512]); /* https://sts.windows.net/{tenant}/ */

/* An application (service principal). The secret is kept as a salted hash. */
struct cloud_app {
    char client_id[64], oid[64], name[64], role[64]; /* role: an Azure role name */
};
/* Makes one with a random secret, which is returned once (owner: caller). Blocks: disk. Errors:
 * EXISTS, SYS. */
struct secret;
MUST_USE int cloud_app_add(struct cloud *c, const char *name, const char *role,
                           struct cloud_app *ret, struct secret **ret_secret, struct err *e);
/* By object id. r: 0; CLOUD_NO_APP. */
enum { CLOUD_NO_APP = 1 };
MUST_USE int cloud_app_by_oid(struct cloud *c, const char *oid, struct cloud_app *ret,
                              struct err *e);

#endif
