/* vault_service.h - the vault and its token endpoint on one TLS listener, with all that they need
 * made by themselves at first start. Layer: mesh. Thread: its loop.
 *
 * In the state folder: master.key (0600, made once), vault-ca.pem (the root of the listener's
 * certificate: what clients trust), vault.url, credentials/admin.json and credentials/sync.json
 * (0600, made once). The listener's root key, the key that signs tokens and the tenant are in the
 * store, keys sealed under the master key.
 */
#ifndef MESH_VAULT_SERVICE_H
#define MESH_VAULT_SERVICE_H

#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"
#include "net/loop.h"
#include "obs/metrics.h"
#include "store/store.h"

struct vault_service;

enum { VAULT_SERVICE_NAMES = 3, VAULT_SERVICE_BODY_BYTES = 256 * 1024 };

struct vault_service_conf {
    struct store *store;                    /* borrowed; its folder is locked by the caller */
    const char *state_dir;                  /* all texts are copied */
    const char *listen;                     /* "127.0.0.1:8443"; port 0 picks one */
    const char *names[VAULT_SERVICE_NAMES]; /* vaults served */
    size_t names_n;
    const char *dns_suffix;      /* NULL: "vault.azure.net" */
    const char *tenant;          /* GUID; NULL: the one of the first start, made then */
    const char *master_key_file; /* NULL: STATE/master.key */
    struct metrics *metrics;     /* borrowed; may be NULL */
};

/* Blocks: disk. Errors: SYS, STATE (another tenant; the master key is gone or is another one),
 * DENIED (master.key can be read by others), INVAL. */
MUST_USE int vault_service_new(struct loop *l, const struct vault_service_conf *conf,
                               struct vault_service **ret, struct err *e);
void vault_service_free(struct vault_service *s); /* NULL is fine */
/* "https://127.0.0.1:8443": the first vault, by address; borrowed. */
const char *vault_service_url(const struct vault_service *s);

#endif
