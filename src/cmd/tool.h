/* tool.h - what a subcommand is, and what all of them share. Layer: cmd. */
#ifndef CMD_TOOL_H
#define CMD_TOOL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "config/opts.h"

/* One subcommand: one row of the table in main.c; its file is cmd/<name with _>.c. */
struct command {
    const char *name;       /* "pki root"; may be two or three words */
    const char *args;       /* "DIR": the words that are no flags */
    int min, max;           /* how many of those */
    const struct opt *opts; /* its flags; ends with a row without name */
    size_t conf_bytes;      /* size of the struct that opts fill, at most COMMAND_CONF_BYTES */
    int (*run)(const void *conf, const struct opt_args *args, struct err *e);
    const char *summary; /* one line */
    const char *help;    /* paragraphs, then "Examples:" with two or more */
};
enum { COMMAND_CONF_BYTES = 8192 };

/* r of run: 0, or CMD_FAILED: the command did its work and the answer is "no" (exit 1; verify,
 * demo). */
enum { CMD_FAILED = 1 };

/* The shared row --output table|json for commands that print. `type` is the conf struct, `member` a
 * const char *. */
#define OPT_OUTPUT(type, member)                                                                   \
    {                                                                                              \
        "output", OPT_CHOICE, offsetof(type, member), "table", "table|json", NULL, 0, "FORMAT",    \
            "how to print the answer"                                                              \
    }
/* The shared rows of daemons: --log-format, --log-level. `member` is a struct log_flags. */
struct log_flags {
    const char *format, *level;
};
#define OPT_LOG(type, member)                                                                      \
    { "log-format", OPT_CHOICE, offsetof(type, member.format), "text", "text|json", NULL, 0,       \
      "FORMAT",     "log lines" },                                                                 \
    {                                                                                              \
        "log-level", OPT_CHOICE, offsetof(type, member.level), "info", "debug|info|warn|error",    \
            NULL, 0, "LEVEL", "least level that is logged"                                         \
    }
/* Log lines go to stdout from now on, as the flags say. */
void log_flags_setup(const struct log_flags *f);

/* Errors: SYS when what was printed did not reach its reader. */
MUST_USE int stdout_check(struct err *e);
/* Prints `take_j` to stdout, indented, with a final newline. Errors: NOMEM (NULL too: it could not
 * be made), SYS (cannot write). */
MUST_USE int print_json(json_t *take_j, struct err *e);
/* A member of an answer, for a table: "-" or 0 when it has none. Borrowed. */
const char *shown_text(const json_t *j, const char *member);
json_int_t shown_number(const json_t *j, const char *member);
/* stdout or stderr is a terminal, NO_COLOR is not set. */
bool use_color(int fd);

/* For daemons: as many open files as the hard limit allows. Each connection is one. */
void open_files_raise(void);

/* Where a command finds the running `meshroot up`: --state-dir, else MESHROOT_STATE_DIR, else
 * ~/.meshroot */
#define OPT_STATE_DIR(type, member)                                                                \
    {                                                                                              \
        "state-dir", OPT_STRING, offsetof(type, member), NULL, NULL, NULL, 0, "DIR",               \
            "the daemon's state folder [~/.meshroot]"                                              \
    }
/* The folder in use: `given`, or the default. Owner: caller, free(). */
MUST_USE int state_dir(const char *given, char **ret, struct err *e);

#endif
