/* client.h - Key Vault secrets client: ours and the real Azure one. Layer: vault. Thread: its loop.
 * Answers the bearer challenge, gets tokens by client credentials, retries nothing by itself (the
 * caller has the clock): a 429 or 5xx is E_BUSY with retry_after_s. Source: specs/azure.md 1, 2, 7.
 */
#ifndef VAULT_CLIENT_H
#define VAULT_CLIENT_H

#include "base/secret.h"
#include "net/http.h"
#include "net/loop.h"

struct vault_client;

enum {
    VAULT_CLIENT_MAX_CALLS = 256, /* under way in one client; beyond: LIMIT */
    VAULT_CLIENT_MAX_PAGES = 400, /* of one list (10 000 items); beyond: LIMIT */
    VAULT_CLIENT_ANSWER_BYTES = 512 * 1024,
};

struct vault_client_conf {
    const char *url;     /* "https://v.vault.azure.net"; copied, as all below. Clear text only on
                            loopback */
    const char *ca_file; /* NULL: the system's roots */
    const char *tenant;  /* NULL: the challenge's */
    const char *client_id, *client_secret; /* client credentials; or, instead of the secret: */
    const char *assertion_file; /* a service-account token for workload identity, read for each
                                   token; or */
    bool managed_identity;      /* ask the platform's endpoint (IMDS); client_id NULL or "": the
                                   identity of the machine */
    const char *authority;      /* NULL: from the challenge (which must be on the same site, or
                                   Microsoft's: login.microsoftonline.com, ...); with an
                                   assertion_file AZURE_AUTHORITY_HOST, or Microsoft's */
    uint64_t timeout_ms;        /* of each request; 0: 10 s */
};

struct vault_secret { /* borrowed for the call-back */
    const char *name, *version;
    struct span value; /* empty for list items; wiped after the call-back */
    bool enabled;
    int64_t expires, not_before, created, updated; /* unix seconds; 0 when absent */
    const char *content_type;                      /* "" when absent */
};

/* Where the platform puts that token: AZURE_FEDERATED_TOKEN_FILE, or its usual path. Source:
 * specs/azure.md 2.5. */
const char *vault_assertion_file(void);

/* Whether the URL's host is one of `hosts`, or a name under one of them ("vault.azure.net"; an
 * address is itself only). Whoever writes the URL decides where credentials go, so who runs us says
 * which hosts may have them. Errors: INVAL (the URL), DENIED (its host is none of them). Thread:
 * any. */
MUST_USE int vault_host_check(const char *url, const char *const *hosts, size_t n, struct err *e);
/* Whether it may stand in such a list: a host's name or address alone. Errors: INVAL. */
MUST_USE int vault_host_valid(const char *host, struct err *e);

MUST_USE int vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                              struct vault_client **ret, struct err *e);
void vault_client_free(struct vault_client *c); /* calls under way are dropped; NULL is fine */

/* Exactly one call each, never before the function returns. Errors in `why`: NOTFOUND, DENIED
 * (disabled, no permission, or a challenge that must not be answered), AUTH, BUSY, INVAL (the vault
 * calls the request wrong), CONFLICT, PEER (unreachable, HTML, broken JSON), TIMEOUT, LIMIT. */
typedef void vault_secret_fn(const struct vault_secret *s, const struct err *why, void *arg);
/* version NULL: the latest. */
MUST_USE int vault_get(struct vault_client *c, const char *name, const char *version,
                       vault_secret_fn *done, void *arg, struct err *e);
/* Which version is the latest: as vault_get, with an empty value. This is the idle poll: one
 * request for one secret. Key Vault has no ETag; the list of secrets has no version ids, and that
 * of a secret's versions is unordered, grows without bound and counts time in whole seconds; so
 * reading the latest and comparing ids is both the cheapest and the only exact way. The value is
 * wiped unread. Source: specs/azure.md 1.2, 7.6. */
MUST_USE int vault_get_current_version(struct vault_client *c, const char *name,
                                       vault_secret_fn *done, void *arg, struct err *e);
MUST_USE int vault_set(struct vault_client *c, const char *name, struct span value,
                       const char *content_type, vault_secret_fn *done, void *arg, struct err *e);

enum { VAULT_KEEP = -1 };
struct vault_change {
    struct span value;           /* vault_put only: UTF-8, at most 25 600 bytes */
    const char *content_type;    /* NULL: unchanged, or none */
    int enabled;                 /* 0, 1 or VAULT_KEEP */
    int64_t expires, not_before; /* unix seconds, or VAULT_KEEP */
};
/* Sets a new version with attributes. */
MUST_USE int vault_put(struct vault_client *c, const char *name, const struct vault_change *ch,
                       vault_secret_fn *done, void *arg, struct err *e);
/* Changes attributes of a version (NULL: the latest); `done` gets it without a value. */
MUST_USE int vault_update(struct vault_client *c, const char *name, const char *version,
                          const struct vault_change *ch, vault_secret_fn *done, void *arg,
                          struct err *e);
/* All items over all pages, each to `item`, then done(NULL item) with why == NULL or the error.
 * name NULL: secrets; else the versions of it. */
MUST_USE int vault_list(struct vault_client *c, const char *name, vault_secret_fn *item,
                        vault_secret_fn *done, void *arg, struct err *e);

#endif
