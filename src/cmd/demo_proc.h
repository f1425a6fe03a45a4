/* demo_proc.h - the demo's children: meshroot itself, as daemons and as commands. Layer: cmd.
 * Thread: main. */
#ifndef CMD_DEMO_PROC_H
#define CMD_DEMO_PROC_H

#include <sys/types.h>

#include "base/err.h"

enum { DEMO_PROC_MAX = 8 };

struct demo_procs {
    size_t n;
    pid_t pid[DEMO_PROC_MAX];
};

/* Starts this binary with `argv` (argv[0] is the subcommand's first word; NULL-ended), output to
 * `log`. It dies with us. */
MUST_USE int demo_start(struct demo_procs *p, const char *const *argv, const char *log,
                        struct err *e);
/* Runs this binary to its end. Errors: STATE (it failed: with its last words). */
MUST_USE int demo_run(const char *const *argv, const char *log, struct err *e);
/* SIGTERM, a bounded wait, then SIGKILL: each by its pid. */
void demo_stop_all(struct demo_procs *p);
/* Says which child has ended by itself. Errors: STATE. */
MUST_USE int demo_all_alive(const struct demo_procs *p, struct err *e);

#endif
