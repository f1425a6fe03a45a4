/* vault_keys.h - private to mesh/: the keys that the vault service makes once. Layer: mesh. Blocks:
 * disk. */
#ifndef MESH_VAULT_KEYS_H
#define MESH_VAULT_KEYS_H

#include "base/secret.h"
#include "net/tls.h"
#include "pki/pki.h"
#include "pki/seal.h"
#include "store/store.h"

enum { VAULT_TENANT_TEXT = 64, VAULT_SANS = 8 };

/* The master key from `path`, made (0600) when neither it nor anything sealed under it exists.
 * Errors: DENIED (others can read it), PARSE, STATE (values are sealed under a key that is gone, or
 * under another one), SYS. */
MUST_USE int master_key_open(struct store *s, const char *path, struct secret **ret, struct err *e);

/* A private key that is made once and kept sealed in the store under `name`. */
MUST_USE int kept_key(struct store *s, const struct seal *seal, const char *name,
                      enum key_kind kind, struct key **ret, struct err *e);
/* The self-signed root of the listener, kept in the store; its key is `key`. */
MUST_USE int kept_root(struct store *s, struct key *key, struct cert **ret, struct err *e);
/* A new serving certificate under that root, as TLS settings. */
MUST_USE int serving_tls(const struct cert *root, struct key *root_key,
                         const char *const sans[VAULT_SANS], size_t sans_n, struct tls_conf **ret,
                         struct err *e);
/* `given`, or the one of the first start, or a new one. Errors: STATE (given is another one). */
MUST_USE int kept_tenant(struct store *s, const char *given, char ret[VAULT_TENANT_TEXT],
                         struct err *e);

#endif
