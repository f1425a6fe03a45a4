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
    struct store *store;             /* borrowed, as all below */
    const struct secret *master_key; /* 32 bytes */
    const char *names[VAULT_MAX]; /* vaults served: first label of Host; an IP address or localhost
                                     means the first */
    size_t names_n;
    const char *dns_suffix; /* "vault.azure.net": resource and audience in challenges */
    const char
        *authority; /* "https://login.microsoftonline.com" or our own base URL; for the challenge */
    const char *tenant;
    struct jwks *keys;  /* of the token endpoint */
    const char *issuer; /* exact iss */
    /* The role of a caller in a vault; thread: the loop. */
    enum vault_role (*role)(void *self, const char *vault, const char *oid);
    void *self;
    struct metrics *metrics;
};

MUST_USE int vault_new(const struct vault_conf *conf, struct vault **ret, struct err *e);
void vault_free(struct vault *v); /* NULL is fine */
/* Answers one request whose path starts with /secrets or that is none of the token endpoint's. */
void vault_serve(struct vault *v, struct http_exchange *x);

#endif
