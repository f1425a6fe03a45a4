/* opts.h - every flag of a command once: parser, defaults, environment and help read it. Layer:
 * config.
 *
 * GNU style: --name value, --name=value, --flag, --no-flag; "--" ends the flags. A flag may also
 * come from the environment as MESHROOT_NAME ("--rotation-poll-interval" is
 * MESHROOT_ROTATION_POLL_INTERVAL); the command line wins. Thread: any; no state of its own.
 */
#ifndef CONFIG_OPTS_H
#define CONFIG_OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/attr.h"
#include "base/err.h"

enum opt_kind {
    OPT_STRING,   /* const char *; NULL when not given and without default */
    OPT_LIST,     /* struct opt_list: repeatable */
    OPT_FLAG,     /* bool */
    OPT_COUNT,    /* uint64_t, min..max */
    OPT_DURATION, /* uint64_t milliseconds, min..max as durations */
    OPT_CHOICE,   /* const char *, one of the words in `min`, separated by '|' */
};

enum { OPT_LIST_MAX = 64 };
struct opt_list {
    size_t n;
    const char *v[OPT_LIST_MAX];
};

enum { OPT_REQUIRED = 1 << 0, OPT_HIDDEN = 1 << 1 };

struct opt {
    const char *name; /* "rotation-poll-interval"; NULL ends the table */
    enum opt_kind kind;
    size_t at;             /* offsetof the value in the command's own struct */
    const char *def;       /* as text; NULL for none */
    const char *min, *max; /* as text; NULL for no bound. OPT_CHOICE: the words in min */
    unsigned flags;
    const char *arg;  /* what help calls the value: "DURATION"; NULL for flags */
    const char *help; /* one line */
};

struct opt_args { /* what is left after the flags; borrowed from argv */
    int n;
    char *const *v;
};

/* Fills `conf` (a struct of the command's own, zeroed by the caller) from defaults, environment and
 * argv. opts       the table, ended by a row without name argv       argc words, the command's own
 * words already removed; permuted so that the rest is in order ret_args   the words that are no
 * flags r: 0 done; OPT_HELP --help was asked. Errors: INVAL (names the flag, what is wrong, what is
 * right). */
enum { OPT_HELP = 1 };
MUST_USE int opts_parse(const struct opt *opts, void *conf, int argc, char **argv,
                        struct opt_args *ret_args, struct err *e);

/* The "Flags:" part of a command's help, aligned, with defaults and ranges; `columns` wide. */
void opts_help(const struct opt *opts, size_t columns, FILE *f);

#endif
