/* vault_credentials.c - meshroot vault credentials: what another process needs to call a vault. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "cmd/commands.h"

enum { FILE_MAX_BYTES = 16 * 1024 };

struct show_conf {
    const char *state_dir, *output, *secret_name;
};

#define AT(member) offsetof(struct show_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "output", OPT_CHOICE, AT(output), "json", "json|secret", NULL, 0, "FORMAT",
      "\"json\" for --credential-file, or \"secret\": a Kubernetes Secret, for kubectl apply" },
    { "secret-name", OPT_STRING, AT(secret_name), "meshroot-vault-credentials", NULL, NULL, 0, "NAME", "what that Secret is called" },
    OPT_STATE_DIR(struct show_conf, state_dir),
    { .name = NULL },
};
/* clang-format on */

/* Exactly what `vault serve` wrote there: an object of three texts. */
static int
caller_read(const char *dir, const char *who, json_t **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    struct buf text = BUF_INIT(FILE_MAX_BYTES);

    TRY(str_format(&path, e, "%s/credentials/%s.json", dir, who));
    int r = file_read(path, &text, e);
    json_t *j = r == 0 ? json_loadb(buf_text(&text), text.n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    buf_wipe(&text);
    if (r == FILE_ABSENT)
        return err_set(e, E_NOTFOUND,
                       "%s: no such file; it is made at the first start of meshroot vault serve",
                       path);
    if (r == 0 && !json_is_object(j)) {
        json_decref(j);
        r = err_set(e, E_PARSE, "%s: is not a JSON object", path);
    }
    if (r == 0)
        *ret = j;
    return r;
}

/* The caller's three texts, and the roots that the vault's certificate ends in. */
static int
secret_make(const struct show_conf *c, const char *dir, json_t *caller, json_t **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    CLEANUP(buf_done) struct buf roots = BUF_INIT(FILE_MAX_BYTES);

    TRY(str_format(&path, e, "%s/vault-ca.pem", dir));
    int r = file_read(path, &roots, e);
    if (r == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "%s: no such file", path);
    TRY(r);
    if (json_object_set_new(caller, "vault-ca.pem", json_stringn(buf_text(&roots), roots.n)) < 0)
        return err_nomem(e);
    *ret = json_pack("{s:s,s:s,s:{s:s},s:s,s:O}", "apiVersion", "v1", "kind", "Secret", "metadata",
                     "name", c->secret_name, "type", "Opaque", "stringData", caller);
    return *ret == NULL ? err_nomem(e) : 0;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct show_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    json_t *caller = NULL, *secret = NULL;
    const char *who = args->v[0];

    if (strcmp(who, "sync") != 0 && strcmp(who, "admin") != 0)
        return err_set(e, E_INVAL, "\"%.64s\" is no caller of the vault: sync, or admin", who);
    TRY(state_dir(c->state_dir, &dir, e));
    TRY(caller_read(dir, who, &caller, e));
    int r = c->output[0] == 's' ? secret_make(c, dir, caller, &secret, e) : 0;
    if (r == 0)
        r = print_json(json_incref(secret == NULL ? caller : secret), e);
    json_decref(secret);
    json_decref(caller);
    return r;
}

const struct command cmd_vault_credentials = {
    "vault credentials",
    "sync|admin",
    1,
    1,
    opts,
    sizeof(struct show_conf),
    run,
    "print what another process needs to call a vault",
    "Prints one of the two callers that meshroot vault serve made in its state folder: sync, "
    "which\n"
    "reads secrets, or admin, which writes them too. With --output secret it is a Kubernetes "
    "Secret,\n"
    "with the roots of the vault's certificate (vault-ca.pem), for the operator to call it with.\n"
    "\n"
    "Examples:\n"
    "  meshroot vault credentials sync --state-dir /var/lib/meshroot\n"
    "  kubectl -n meshroot-system exec meshroot-vault-0 -- meshroot vault credentials sync "
    "--output "
    "secret |\n"
    "      kubectl -n istio-system apply -f -\n",
};
