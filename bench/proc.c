/* proc.c - see proc.h. */
#include "proc.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

enum { WAIT_MS = 30 * 1000 };

extern char **environ;

void
proc_sleep_ms(long ms)
{
    const struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

    (void)nanosleep(&t, NULL);
}

int
proc_start(const char *const *args, const char *out, pid_t *ret, struct err *e)
{
    posix_spawn_file_actions_t files;
    char *argv[PROC_ARGS_MAX];
    size_t n = 0;

    for (; args[n] != NULL && n < PROC_ARGS_MAX - 1; n++)
        memcpy(&argv[n], &args[n], sizeof(argv[n])); /* posix_spawn has no const */
    argv[n] = NULL;
    (void)posix_spawn_file_actions_init(&files);
    (void)posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out == NULL ? "/dev/null" : out,
                                           O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (out != NULL)
        (void)posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
    int no = posix_spawn(ret, args[0], &files, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&files);
    return no == 0 ? 0 : err_sys(e, no, "start %s", args[0]);
}

int
proc_run(const char *const *args, const char *out, struct err *e)
{
    pid_t pid;
    int status = 0;

    TRY(proc_start(args, out, &pid, e));
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, E_STATE, "%s %s %s failed (wait status %d): see %s", args[0], args[1],
                       args[2], status, out == NULL ? "its output" : out);
    return 0;
}

void
proc_end(pid_t *pid, int sig)
{
    if (*pid > 0) {
        (void)kill(*pid, sig);
        (void)waitpid(*pid, NULL, 0);
    }
    *pid = 0;
}

pid_t
proc_child(pid_t pid)
{
    char path[64];
    int child = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL || fscanf(f, "%d", &child) != 1)
        child = 0;
    if (f != NULL)
        (void)fclose(f);
    return child;
}

int
proc_memory_mib(pid_t pid, const char *what, double *ret, struct err *e)
{
    char path[64], line[256];
    size_t n = strlen(what);
    long kib = -1;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (strncmp(line, what, n) == 0 && line[n] == ':')
            kib = strtol(line + n + 1, NULL, 10);
    if (f != NULL)
        (void)fclose(f);
    if (kib < 0)
        return err_set(e, E_STATE, "no memory figure in %s: the process has ended", path);
    *ret = (double)kib / 1024;
    return 0;
}

double
proc_cpu_us(pid_t pid)
{
    clockid_t id;

    return pid > 0 && clock_getcpuclockid(pid, &id) == 0 ? clock_us(id) : 0;
}

int
proc_wait_file(const char *path, struct err *e)
{
    struct stat st;
    double until = clock_us(CLOCK_MONOTONIC) + WAIT_MS * 1e3;

    while (stat(path, &st) < 0 || st.st_size == 0) {
        if (clock_us(CLOCK_MONOTONIC) > until)
            return err_set(e, E_TIMEOUT, "%s did not come", path);
        proc_sleep_ms(1);
    }
    return 0;
}
