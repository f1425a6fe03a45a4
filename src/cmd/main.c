/* main.c - the subcommand table; help is made from it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "cmd/commands.h"
#include "base/str.h"
#include "signer/signer.h"

/* In the order of the help page. */
static const struct command *const commands[] = {
    &cmd_demo,
    &cmd_up,
    &cmd_mesh_enable,
    &cmd_mesh_disable,
    &cmd_mesh_status,
    &cmd_mesh_validate,
    &cmd_rotate_force,
    &cmd_ledger_list,
    &cmd_ledger_show,
    &cmd_ledger_verify,
    &cmd_ledger_export,
    &cmd_pki_root,
    &cmd_pki_intermediate,
    &cmd_pki_inspect,
    &cmd_pki_verify,
    &cmd_pki_crl,
    &cmd_vault_serve,
    &cmd_vault_credentials,
    &cmd_vault_secret_set,
    &cmd_vault_secret_get,
    &cmd_vault_secret_list,
    &cmd_vault_secret_list_versions,
    &cmd_vault_secret_update,
    &cmd_sync_run,
    &cmd_operator_run,
    &cmd_ca_serve,
    &cmd_ca_revoke,
    &cmd_ca_revoked,
    &cmd_agent_run,
    &cmd_agent_status,
    &cmd_identity_keygen,
    &cmd_identity_token,
    &cmd_version,
};

/* Words of argv that `name` uses up, 0 when it does not match. */
static int
name_match(const char *name, int argc, char *const argv[])
{
    int used = 0;

    for (struct span rest = span_str(name), word; span_cut(&rest, ' ', &word); used++)
        if (used == argc || !span_eq_str(word, argv[used]))
            return 0;
    return used;
}

static void
help_all(FILE *f, const char *prefix)
{
    size_t n = strlen(prefix);

    fprintf(f, "meshroot roots a service mesh in your PKI.\n\nUsage: meshroot COMMAND "
               "[FLAGS]\n\nCommands:\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strncmp(commands[i]->name, prefix, n) == 0)
            fprintf(f, "  %-28s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(f, "\n\"meshroot COMMAND --help\" explains one, with examples. Exit status: 0 done, 1 "
               "the answer is no,\n"
               "2 wrong usage, 3 not found, 10 and up: an error, one number for each kind "
               "(HACKING.md).\n");
}

static void
help_one(const struct command *c)
{
    printf("Usage: meshroot %s%s%s [FLAGS]\n\n%s\nFlags:\n", c->name, c->args[0] == '\0' ? "" : " ",
           c->args, c->help);
    opts_help(c->opts, stdout);
}

static int
command_run(const struct command *c, int argc, char *argv[])
{
    _Alignas(16) char conf[COMMAND_CONF_BYTES] = { 0 };
    struct opt_args args = { 0 };
    struct err e = { 0 };

    int r = opts_parse(c->opts, conf, argc, argv, &args, &e);
    if (r == OPT_HELP) {
        help_one(c);
        return 0;
    }
    if (r == 0 && (args.n < c->min || args.n > c->max))
        r = err_set(&e, E_INVAL, "usage: meshroot %s %s; see --help", c->name, c->args);
    if (r == 0)
        r = c->run(conf, &args, &e);
    if (r < 0)
        fprintf(stderr, "meshroot %s: %s\n", c->name, e.msg);
    return r < 0 ? err_meaning(e.code)->exit_status : r;
}

/* "meshroot pki" lists the pki commands; an unknown word says so. */
static int
no_command(int argc, char *argv[])
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help_all(argc < 2 ? stderr : stdout, "");
        return argc < 2 ? 2 : 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        struct span rest = span_str(commands[i]->name), group;

        (void)span_cut(&rest, ' ', &group);
        if (!span_eq_str(group, argv[1]))
            continue;
        bool asked = argc > 2 && strcmp(argv[argc - 1], "--help") == 0;
        help_all(asked ? stdout : stderr, argv[1]);
        return asked ? 0 : 2;
    }
    fprintf(stderr, "meshroot: \"%s\" is not a command; see meshroot --help\n", argv[1]);
    return 2;
}

int
main(int argc, char *argv[])
{
    const struct command *best = NULL;
    int used = 0;

    signer_child_run(argc, argv);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_DUMPABLE, 0); /* no core dump with a key in it; see design.md invariant 4 */
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        int n = name_match(commands[i]->name, argc - 1, argv + 1);

        if (n > used) {
            used = n;
            best = commands[i];
        }
    }
    if (best == NULL)
        return no_command(argc, argv);
    return command_run(best, argc - 1 - used, argv + 1 + used);
}
