/* main.c - the subcommand table; help is made from it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/str.h"
#include "cmd/commands.h"
#include "config/help.h"
#include "config/near.h"
#include "signer/signer.h"

enum { COMMAND_WORDS_MAX = 3, EXIT_STATUSES = 64 };

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

/* One number for each kind of error; scripts may count on them. */
static void
help_exit_statuses(size_t columns, FILE *f)
{
    fprintf(f, "\nExit status:\n");
    for (int status = 0; status < EXIT_STATUSES; status++) {
        if (status == CMD_FAILED)
            help_wrap(span_str("the answer is no (pki verify, ledger verify, demo, a status)"),
                      (size_t)fprintf(f, "  %2d  ", status), 6, columns, f);
        for (int code = 0; code < E__MAX; code++)
            if (err_meaning((enum err_code)code)->exit_status == status)
                help_wrap(span_str(err_meaning((enum err_code)code)->what),
                          (size_t)fprintf(f, "  %2d  ", status), 6, columns, f);
    }
}

/* The commands whose name starts with `prefix`, and what holds for all. */
static void
help_all(FILE *f, const char *prefix)
{
    size_t n = strlen(prefix), columns = help_columns(fileno(f));

    fprintf(f, "meshroot roots a service mesh in your PKI.\n\n"
               "Usage: meshroot COMMAND [FLAGS]\n\nCommands:\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strncmp(commands[i]->name, prefix, n) == 0)
            help_wrap(span_str(commands[i]->summary),
                      (size_t)fprintf(f, "  %-28s ", commands[i]->name), 31, columns, f);
    fputc('\n', f);
    help_text("\"meshroot COMMAND --help\" explains one, with examples. A flag may also come from "
              "the environment: --state-dir is MESHROOT_STATE_DIR; the command line wins.\n",
              columns, f);
    help_exit_statuses(columns, f);
}

static void
help_one(const struct command *c)
{
    size_t columns = help_columns(STDOUT_FILENO);

    printf("Usage: meshroot %s%s%s [FLAGS]\n\n", c->name, c->args[0] == '\0' ? "" : " ", c->args);
    help_text(c->help, columns, stdout);
    printf("\nFlags:\n");
    opts_help(c->opts, columns, stdout);
    if (strstr(c->help, "Exit status:") == NULL)
        help_text("\nExit status: 0 done, 2 wrong usage; meshroot --help lists all.\n", columns,
                  stdout);
}

/* What is wrong with the words that are no flags. */
static int
args_refuse(const struct command *c, const struct opt_args *args, struct err *e)
{
    if (args->n > c->max)
        return err_set(e, E_INVAL, "\"%s\" is one word too many; usage: meshroot %s%s%s [FLAGS]",
                       args->v[c->max], c->name, c->args[0] == '\0' ? "" : " ", c->args);
    return err_set(e, E_INVAL, "%s is missing; usage: meshroot %s %s [FLAGS]", c->args, c->name,
                   c->args);
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
        r = args_refuse(c, &args, &e);
    if (r == 0)
        r = c->run(conf, &args, &e);
    if (r < 0)
        fprintf(stderr, "meshroot %s: %s\n", c->name, e.msg);
    return r < 0 ? err_meaning(e.code)->exit_status : r;
}

/* Writes `argc` words as one, with blanks between. */
static void
words_join(int argc, char *const argv[], char ret[NEAR_WORD_BYTES + 1])
{
    size_t n = 0;

    ret[0] = '\0';
    for (int i = 0; i < argc && n < NEAR_WORD_BYTES; i++) {
        int more = snprintf(ret + n, NEAR_WORD_BYTES + 1 - n, "%s%s", i > 0 ? " " : "", argv[i]);
        n += more > 0 ? (size_t)more : 0;
    }
}

static int
unknown_command(const char *text)
{
    struct near near = near_start(span_str(text));

    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        near_try(&near, commands[i]->name);
    const char *meant = near_word(&near);
    fprintf(stderr, "meshroot: \"%s\" is not a command; %s%s%ssee meshroot --help\n", text,
            meant == NULL ? "" : "did you mean \"meshroot ", meant == NULL ? "" : meant,
            meant == NULL ? "" : "\"? Else ");
    return err_meaning(E_INVAL)->exit_status;
}

static bool
is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* "meshroot", "meshroot pki" and "meshroot vault secret" list what there is, with --help as asked;
 * other words are no command. */
static int
no_command(int argc, char *argv[])
{
    char text[NEAR_WORD_BYTES + 1];
    int n = 1;

    while (n < argc && n <= COMMAND_WORDS_MAX && !is_help(argv[n]))
        n++;
    words_join(n - 1, argv + 1, text);
    bool asked = n < argc && is_help(argv[n]), is_group = n == 1;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        is_group |= strncmp(commands[i]->name, text, strlen(text)) == 0 &&
                    commands[i]->name[strlen(text)] == ' ';
    if (!is_group)
        return unknown_command(text);
    help_all(asked ? stdout : stderr, text);
    return asked ? 0 : err_meaning(E_INVAL)->exit_status;
}

int
main(int argc, char *argv[])
{
    const struct command *best = NULL;
    int used = 0;

    signer_child_run(argc, argv);
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        argv[1] += 2; /* "version" */
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
