/* client.h - Key Vault secrets client: ours and the real Azure one. Layer: vault. Thread: its loop.
 * Answers the bearer challenge, gets tokens by client credentials, retries nothing by itself (the
 * caller has the clock): a 429 or 5xx is E_BUSY with retry_after_s. Source: specs/azure.md 1, 2.
 */
#ifndef VAULT_CLIENT_H
#define VAULT_CLIENT_H

#include "base/secret.h"
#include "net/http.h"
#include "net/loop.h"

struct vault_client;

struct vault_client_conf {
    const char *url;     /* "https://v.vault.azure.net"; copied, as all below */
    const char *ca_file; /* NULL: the system's roots */
    const char *tenant, *client_id, *client_secret; /* client credentials */
    const char *authority; /* NULL: from the challenge (which must be on the same site, or
                              login.microsoftonline.com) */
    uint64_t timeout_ms;   /* 0: 10 s */
};

struct vault_secret { /* borrowed for the call-back */
    const char *name, *version;
    struct span value; /* empty for list items; wiped after the call-back */
    bool enabled;
    int64_t expires, not_before, created, updated; /* unix seconds; 0 when absent */
    const char *content_type;                      /* "" when absent */
};

MUST_USE int vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                              struct vault_client **ret, struct err *e);
void vault_client_free(struct vault_client *c); /* calls under way are dropped; NULL is fine */

/* Exactly one call each. Errors in `why`: NOTFOUND, DENIED (disabled, no permission), AUTH, BUSY,
 * PEER (HTML, broken JSON), TIMEOUT. */
typedef void vault_secret_fn(const struct vault_secret *s, const struct err *why, void *arg);
/* version NULL: the latest. */
MUST_USE int vault_get(struct vault_client *c, const char *name, const char *version,
                       vault_secret_fn *done, void *arg, struct err *e);
MUST_USE int vault_set(struct vault_client *c, const char *name, struct span value,
                       const char *content_type, vault_secret_fn *done, void *arg, struct err *e);
/* All items over all pages, each to `item`, then done(NULL item) with why == NULL or the error.
 * name NULL: secrets; else the versions of it. */
MUST_USE int vault_list(struct vault_client *c, const char *name, vault_secret_fn *item,
                        vault_secret_fn *done, void *arg, struct err *e);

#endif
