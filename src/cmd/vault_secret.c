/* vault_secret.c - meshroot vault secret set, get, list, list-versions, update. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cmd/commands.h"
#include "cmd/vault_tool.h"

/* More than the vault takes, so that it is the vault's limit that is reported. */
enum { VALUE_FILE_BYTES = 64 * 1024 };

/* -- set ----------------------------------------------------------------------------------------
 */

struct set_conf {
    struct vault_target target;
    const char *name, *file, *value, *content_type, *expires, *output;
    bool disabled;
};

#define AT(member) offsetof(struct set_conf, member)
/* clang-format off */
static const struct opt set_opts[] = {
    { "name", OPT_STRING, AT(name), NULL, NULL, NULL, OPT_REQUIRED, "NAME", "the secret: 1 to 127 letters, digits, hyphens" },
    { "file", OPT_STRING, AT(file), NULL, NULL, NULL, 0, "FILE", "file with the value" },
    { "value", OPT_STRING, AT(value), NULL, NULL, NULL, 0, "TEXT", "the value (others may see it in the list of processes)" },
    { "content-type", OPT_STRING, AT(content_type), NULL, NULL, NULL, 0, "TYPE", "what the value is, for its readers" },
    { "expires", OPT_STRING, AT(expires), NULL, NULL, NULL, 0, "TIME", "2027-01-31, 2027-01-31T12:00:00Z, or 90d from now" },
    { "disabled", OPT_FLAG, AT(disabled), NULL, NULL, NULL, 0, NULL, "the new version cannot be read until it is enabled" },
    OPT_VAULT_TARGET(struct set_conf, target),
    OPT_OUTPUT(struct set_conf, output),
    { .name = NULL },
};
/* clang-format on */
#undef AT

static int
set_value(const struct set_conf *c, struct buf *b, struct err *e)
{
    if ((c->file == NULL) == (c->value == NULL))
        return err_set(e, E_INVAL, "one of --file and --value is needed");
    if (c->value != NULL)
        return buf_add_str(b, c->value, e);
    int r = file_read(c->file, b, e);
    return r == FILE_ABSENT ? err_set(e, E_NOTFOUND, "%s: no such file", c->file) : r;
}

static int
set_run_with(const struct set_conf *c, struct buf *value, struct err *e)
{
    CLEANUP(vault_session_freep) struct vault_session *s = NULL;
    struct vault_change ch = { .content_type = c->content_type,
                               .enabled = c->disabled ? 0 : VAULT_KEEP,
                               .expires = VAULT_KEEP,
                               .not_before = VAULT_KEEP };
    json_t *j = NULL;

    if (c->expires != NULL)
        TRY(vault_time_parse(c->expires, &ch.expires, e));
    TRY(set_value(c, value, e));
    ch.value = span_of(buf_text(value), value->n);
    TRY(vault_session_new(&c->target, &s, e));
    TRY(vault_put(vault_session_client(s), c->name, &ch, vault_session_done, s, e));
    TRY(vault_session_wait(s, NULL, &j, e));
    return vault_print(j, c->output, e);
}

static int
set_run(const void *conf, const struct opt_args *args, struct err *e)
{
    struct buf value = BUF_INIT(VALUE_FILE_BYTES);

    (void)args;
    int r = set_run_with(conf, &value, e);
    buf_wipe(&value);
    return r;
}

const struct command cmd_vault_secret_set = {
    "vault secret set",
    "",
    0,
    0,
    set_opts,
    sizeof(struct set_conf),
    set_run,
    "write a new version of a secret",
    "Writes a new version of a secret and prints its version id. The value is text of at most\n"
    "25,600 bytes.\n\n" VAULT_TARGET_HELP "\n"
    "Examples:\n"
    "  meshroot vault secret set --vault-name meshroot --name root-cert --file root-cert.pem\n"
    "  meshroot vault secret set --vault-url https://v.vault.azure.net --name ca-key --file "
    "ca-key.pem --expires 365d\n",
};

/* -- get ----------------------------------------------------------------------------------------
 */

struct get_conf {
    struct vault_target target;
    const char *name, *version, *out, *output;
};

#define AT(member) offsetof(struct get_conf, member)
/* clang-format off */
static const struct opt get_opts[] = {
    { "name", OPT_STRING, AT(name), NULL, NULL, NULL, OPT_REQUIRED, "NAME", "the secret" },
    { "version", OPT_STRING, AT(version), NULL, NULL, NULL, 0, "ID", "which version [the latest]" },
    { "out", OPT_STRING, AT(out), NULL, NULL, NULL, 0, "FILE", "write the value there, mode 0600" },
    { "output", OPT_CHOICE, AT(output), "table", "table|json|value", NULL, 0, "FORMAT", "how to print; the value only as \"value\" or \"json\"" },
    OPT_VAULT_TARGET(struct get_conf, target),
    { .name = NULL },
};
/* clang-format on */
#undef AT

static int
get_print(const struct get_conf *c, const struct buf *value, json_t *j, struct err *e)
{
    if (c->out != NULL)
        TRY(file_write(c->out, buf_span(value), 0600, e));
    if (c->output[0] == 'v')
        return fwrite(buf_text(value), 1, value->n, stdout) == value->n
                   ? 0
                   : err_set(e, E_SYS, "cannot write to the standard output");
    if (c->output[0] == 'j' && c->out == NULL &&
        json_object_set_new(j, "value", json_stringn(buf_text(value), value->n)) < 0)
        return err_nomem(e);
    return vault_print(json_incref(j), c->output, e);
}

static int
get_run(const void *conf, const struct opt_args *args, struct err *e)
{
    CLEANUP(vault_session_freep) struct vault_session *s = NULL;
    struct buf value = BUF_INIT(VAULT_CLIENT_ANSWER_BYTES);
    const struct get_conf *c = conf;
    json_t *j = NULL;

    (void)args;
    TRY(vault_session_new(&c->target, &s, e));
    TRY(vault_get(vault_session_client(s), c->name, c->version, vault_session_done, s, e));
    int r = vault_session_wait(s, &value, &j, e);
    if (r == 0)
        r = get_print(c, &value, j, e);
    buf_wipe(&value);
    json_decref(j);
    return r;
}

const struct command cmd_vault_secret_get = {
    "vault secret get",
    "",
    0,
    0,
    get_opts,
    sizeof(struct get_conf),
    get_run,
    "read a secret",
    "Reads one version of a secret. The value is shown only when it is asked for: as it is with\n"
    "--output value, inside the JSON with --output json, or in a file with "
    "--out.\n\n" VAULT_TARGET_HELP "\n"
    "Examples:\n"
    "  meshroot vault secret get --vault-name meshroot --name root-cert --output value\n"
    "  meshroot vault secret get --vault-name meshroot --name ca-key --out ca-key.pem\n",
};

/* -- list, list-versions ------------------------------------------------------------------------
 */

struct list_conf {
    struct vault_target target;
    const char *name, *output;
};

static const struct opt list_opts[] = {
    OPT_VAULT_TARGET(struct list_conf, target),
    OPT_OUTPUT(struct list_conf, output),
    { .name = NULL },
};
/* clang-format off */
static const struct opt list_versions_opts[] = {
    { "name", OPT_STRING, offsetof(struct list_conf, name), NULL, NULL, NULL, OPT_REQUIRED, "NAME", "the secret" },
    OPT_VAULT_TARGET(struct list_conf, target),
    OPT_OUTPUT(struct list_conf, output),
    { .name = NULL },
};
/* clang-format on */

static int
list_run(const void *conf, const struct opt_args *args, struct err *e)
{
    CLEANUP(vault_session_freep) struct vault_session *s = NULL;
    const struct list_conf *c = conf;
    json_t *j = NULL;

    (void)args;
    TRY(vault_session_new(&c->target, &s, e));
    TRY(vault_list(vault_session_client(s), c->name, vault_session_item, vault_session_done, s, e));
    TRY(vault_session_wait(s, NULL, &j, e));
    return vault_print(j, c->output, e);
}

const struct command cmd_vault_secret_list = {
    "vault secret list",
    "",
    0,
    0,
    list_opts,
    sizeof(struct list_conf),
    list_run,
    "list the secrets of a vault",
    "Lists the secrets of a vault, without values.\n\n" VAULT_TARGET_HELP "\n"
    "Examples:\n"
    "  meshroot vault secret list --vault-name meshroot\n"
    "  meshroot vault secret list --vault-name meshroot --output json\n",
};

const struct command cmd_vault_secret_list_versions = {
    "vault secret list-versions",
    "",
    0,
    0,
    list_versions_opts,
    sizeof(struct list_conf),
    list_run,
    "list the versions of a secret",
    "Lists all versions of a secret, in no particular order.\n\n" VAULT_TARGET_HELP "\n"
    "Examples:\n"
    "  meshroot vault secret list-versions --vault-name meshroot --name ca-cert\n"
    "  meshroot vault secret list-versions --vault-name meshroot --name ca-cert --output json\n",
};

/* -- update -------------------------------------------------------------------------------------
 */

struct update_conf {
    struct vault_target target;
    const char *name, *version, *enabled, *expires, *content_type, *output;
};

#define AT(member) offsetof(struct update_conf, member)
/* clang-format off */
static const struct opt update_opts[] = {
    { "name", OPT_STRING, AT(name), NULL, NULL, NULL, OPT_REQUIRED, "NAME", "the secret" },
    { "version", OPT_STRING, AT(version), NULL, NULL, NULL, 0, "ID", "which version [the latest]" },
    { "enabled", OPT_CHOICE, AT(enabled), NULL, "true|false", NULL, 0, "true|false", "may it be read?" },
    { "expires", OPT_STRING, AT(expires), NULL, NULL, NULL, 0, "TIME", "2027-01-31, 2027-01-31T12:00:00Z, or 90d from now" },
    { "content-type", OPT_STRING, AT(content_type), NULL, NULL, NULL, 0, "TYPE", "what the value is, for its readers" },
    OPT_VAULT_TARGET(struct update_conf, target),
    OPT_OUTPUT(struct update_conf, output),
    { .name = NULL },
};
/* clang-format on */
#undef AT

static int
update_run(const void *conf, const struct opt_args *args, struct err *e)
{
    CLEANUP(vault_session_freep) struct vault_session *s = NULL;
    const struct update_conf *c = conf;
    struct vault_change ch = { .content_type = c->content_type,
                               .enabled = c->enabled == NULL ? VAULT_KEEP : c->enabled[0] == 't',
                               .expires = VAULT_KEEP,
                               .not_before = VAULT_KEEP };
    json_t *j = NULL;

    (void)args;
    if (c->enabled == NULL && c->expires == NULL && c->content_type == NULL)
        return err_set(e, E_INVAL, "nothing to change: --enabled, --expires or --content-type");
    if (c->expires != NULL)
        TRY(vault_time_parse(c->expires, &ch.expires, e));
    TRY(vault_session_new(&c->target, &s, e));
    TRY(vault_update(vault_session_client(s), c->name, c->version, &ch, vault_session_done, s, e));
    TRY(vault_session_wait(s, NULL, &j, e));
    return vault_print(j, c->output, e);
}

const struct command cmd_vault_secret_update = {
    "vault secret update",
    "",
    0,
    0,
    update_opts,
    sizeof(struct update_conf),
    update_run,
    "change attributes of a secret",
    "Changes attributes of one version of a secret; its value never changes.\n\n" VAULT_TARGET_HELP
    "\n"
    "Examples:\n"
    "  meshroot vault secret update --vault-name meshroot --name ca-key --enabled false\n"
    "  meshroot vault secret update --vault-name meshroot --name ca-cert --expires 2027-01-31\n",
};
