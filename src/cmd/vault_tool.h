/* vault_tool.h - private to the vault commands: which vault, who we are, one call at a time. Layer:
 * cmd. Blocks: until the vault answers. */
#ifndef CMD_VAULT_TOOL_H
#define CMD_VAULT_TOOL_H

#include "cmd/tool.h"
#include "vault/client.h"

/* First member of the conf struct of each command that talks to a vault. */
struct vault_target {
    const char *state_dir, *vault_name, *vault_url, *credential_file, *ca_file;
    uint64_t timeout_ms;
};

/* clang-format off */
#define OPT_VAULT_TARGET(type, member)                                                                                     \
    { "vault-name", OPT_STRING, offsetof(type, member.vault_name), NULL, NULL, NULL, 0, "NAME",                            \
      "the vault: a local one when the state folder has it, else https://NAME.vault.azure.net" },                          \
    { "vault-url", OPT_STRING, offsetof(type, member.vault_url), NULL, NULL, NULL, 0, "URL", "the vault, by its URL" },    \
    { "credential-file", OPT_STRING, offsetof(type, member.credential_file), NULL, NULL, NULL, 0, "FILE",                  \
      "JSON with tenant, client_id, client_secret [AZURE_* variables, STATE/credentials/admin.json]" },                    \
    { "ca-file", OPT_STRING, offsetof(type, member.ca_file), NULL, NULL, NULL, 0, "FILE",                                  \
      "roots that the vault's certificate must end in [STATE/vault-ca.pem for a local vault]" },                           \
    { "timeout", OPT_DURATION, offsetof(type, member.timeout_ms), "10s", "100ms", "5m", 0, "DURATION", "of each request" }, \
    OPT_STATE_DIR(type, member.state_dir)
/* clang-format on */

#define VAULT_TARGET_HELP                                                                          \
    "Which vault: --vault-url, or --vault-name. Who asks: --credential-file, or the variables\n"   \
    "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or, for a local vault, the admin\n" \
    "credentials that it made in its state folder.\n"

/* For daemons: a client on the caller's loop, and the URL that it talks to. Owner: caller,
 * vault_client_free. Errors: as below. */
enum { VAULT_URL_TEXT_BYTES = 512 };
MUST_USE int vault_target_open(const struct vault_target *t, struct loop *l,
                               char ret_url[VAULT_URL_TEXT_BYTES], struct vault_client **ret,
                               struct err *e);

struct vault_session;
/* A client on a loop of its own. Errors: INVAL (what is missing), NOTFOUND, PARSE, SYS. */
MUST_USE int vault_session_new(const struct vault_target *t, struct vault_session **ret,
                               struct err *e);
void vault_session_free(struct vault_session *s); /* NULL is fine */
DEFINE_CLEANUP(struct vault_session, vault_session_free)
struct vault_client *vault_session_client(struct vault_session *s); /* borrowed */
/* Call-backs for one call; `arg` is the session. The secret is kept as JSON; a list as an array. */
void vault_session_done(const struct vault_secret *s, const struct err *why, void *arg);
void vault_session_item(const struct vault_secret *s, const struct err *why, void *arg);
/* Waits for the call that was started with the two above. *ret_value (may be NULL) gets the value,
 * which the caller wipes; *ret_j the secret without its value, or the list; owner: caller. Errors:
 * those of the call. */
MUST_USE int vault_session_wait(struct vault_session *s, struct buf *ret_value, json_t **ret_j,
                                struct err *e);

/* NAME, VERSION, ENABLED, EXPIRES ... of a secret or an array of them, as a table or JSON.
 * Errors: NOMEM, SYS (cannot write). */
MUST_USE int vault_print(json_t *take_j, const char *output, struct err *e);

/* "2027-01-31", "2027-01-31T12:00:00Z", or a duration from now such as "90d". Errors: INVAL. */
MUST_USE int vault_time_parse(const char *text, int64_t *ret, struct err *e);

#endif
