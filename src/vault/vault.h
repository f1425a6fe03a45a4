/* vault.h - Key Vault-compatible secrets server. Layer: vault. Thread: its loop.
 * Source: specs/azure.md 0, 1. Values are encrypted at rest: AES-256-GCM, one data key per version,
 * wrapped by the master key.
 */
#ifndef VAULT_VAULT_H
#define VAULT_VAULT_H

#include "identity/identity.h"
#include "net/http.h"
#include "obs/metrics.h"
#include "store/store.h"

struct vault;

enum { VAULT_MAX = 16 };

/* What a caller (by its token's oid) may do; names of Azure's built-in roles. */
enum vault_role { VAULT_NOBODY, VAULT_READER, VAULT_SECRETS_USER, VAULT_SECRETS_OFFICER };

struct vault_conf {
    struct loop *loop; /* borrowed, as all below; on which the store answers */
    struct store *store;
    const struct secret *master_key; /* 32 bytes */
    const char *names[VAULT_MAX];    /* vaults served: NAME.dns_suffix or NAME.localhost; an IP
                                        address or localhost means the first */
    size_t names_n;
    const char *dns_suffix; /* "vault.azure.net": resource and audience in challenges */
    const char *authority;  /* "https://login.microsoftonline.com": in challenges to clients that
                               came by DNS name; the others, and all when NULL, are sent to this
                               listener's own base URL */
    const char *tenant;
    struct jwks *keys;  /* of the token endpoint */
    const char *issuer; /* exact iss */
    /* The role of a caller in a vault; thread: the loop. */
    enum vault_role (*role)(void *self, const char *vault, const char *oid);
    void *self;
    struct metrics *metrics;
    uint64_t creates_per_10s, reads_per_10s; /* per vault; 0: 300 and 4000, as the service */
};

MUST_USE int vault_new(const struct vault_conf *conf, struct vault **ret, struct err *e);
void vault_free(struct vault *v); /* NULL is fine */
/* Answers one request whose path starts with /secrets or that is none of the token endpoint's. */
void vault_serve(struct vault *v, struct http_exchange *x);

#endif
