/* proc.h - the real binary as a child process, and what the kernel says of it. */
#ifndef BENCH_PROC_H
#define BENCH_PROC_H

#include <sys/types.h>

#include "base/err.h"

enum { PROC_ARGS_MAX = 32 };

/* `args` ends with NULL. Output goes to the end of `out`; NULL: /dev/null (a terminal that scrolls
 * is not what is measured). Errors: SYS. */
MUST_USE int proc_start(const char *const *args, const char *out, pid_t *ret, struct err *e);
/* Runs it to its end. Errors: STATE (it failed: its name and status). */
MUST_USE int proc_run(const char *const *args, const char *out, struct err *e);
/* Sends `sig` and waits for the end; *pid 0 is harmless, and so it is left. */
void proc_end(pid_t *pid, int sig);

pid_t proc_child(pid_t pid); /* its first child; 0: none */
/* "VmRSS", "VmHWM" (the most so far): MiB. Errors: STATE (it has ended). */
MUST_USE int proc_memory_mib(pid_t pid, const char *what, double *ret, struct err *e);
double proc_cpu_us(pid_t pid); /* all threads so far; 0: it has ended */

/* Waits for a file with something in it. Errors: TIMEOUT. */
MUST_USE int proc_wait_file(const char *path, struct err *e);
void proc_sleep_ms(long ms);

#endif
