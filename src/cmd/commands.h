/* commands.h - every subcommand, each defined in its own file. Layer: cmd. */
#ifndef CMD_COMMANDS_H
#define CMD_COMMANDS_H

#include "cmd/tool.h"

extern const struct command cmd_agent_run;
extern const struct command cmd_agent_status;
extern const struct command cmd_ca_serve;
extern const struct command cmd_demo;
extern const struct command cmd_identity_keygen;
extern const struct command cmd_identity_token;
extern const struct command cmd_ledger_export;
extern const struct command cmd_ca_revoke;
extern const struct command cmd_ca_revoked;
extern const struct command cmd_ledger_list;
extern const struct command cmd_ledger_show;
extern const struct command cmd_ledger_verify;
extern const struct command cmd_mesh_disable;
extern const struct command cmd_mesh_enable;
extern const struct command cmd_mesh_status;
extern const struct command cmd_mesh_validate;
extern const struct command cmd_operator_run;
extern const struct command cmd_pki_crl;
extern const struct command cmd_pki_inspect;
extern const struct command cmd_pki_intermediate;
extern const struct command cmd_pki_root;
extern const struct command cmd_pki_verify;
extern const struct command cmd_rotate_force;
extern const struct command cmd_sync_run;
extern const struct command cmd_up;
extern const struct command cmd_vault_credentials;
extern const struct command cmd_vault_secret_get;
extern const struct command cmd_vault_secret_list;
extern const struct command cmd_vault_secret_list_versions;
extern const struct command cmd_vault_secret_set;
extern const struct command cmd_vault_secret_update;
extern const struct command cmd_vault_serve;
extern const struct command cmd_version;

#endif
