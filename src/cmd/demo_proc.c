#include "cmd/demo_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"

enum {
    ARGS_MAX = 48,
    STOP_WAIT_MS = 5000,
    STOP_STEP_US = 10 * 1000,
    LOG_MAX_BYTES = 64 * 1024 * 1024
};

static int
child_fork(const char *const *argv, const char *log, pid_t *ret, struct err *e)
{
    const char *args[ARGS_MAX + 2] = { "meshroot" };
    char exe[4096];
    size_t n = 1;

    for (; argv[n - 1] != NULL && n <= ARGS_MAX; n++)
        args[n] = argv[n - 1];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    if (len < 0)
        return err_sys(e, errno, "/proc/self/exe");
    exe[len] = '\0';
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (out < 0)
        return err_sys(e, errno, "%s: open", log);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) { /* only what is safe after a fork in a process with threads */
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
        (void)dup2(out, STDOUT_FILENO);
        (void)dup2(out, STDERR_FILENO);
        if (getppid() == parent)
            (void)execv(exe, (char *const *)(uintptr_t)args);
        _exit(127);
    }
    int why = errno;
    (void)close(out);
    if (pid < 0)
        return err_sys(e, why, "fork");
    *ret = pid;
    return 0;
}

int
demo_start(struct demo_procs *p, const char *const *argv, const char *log, struct err *e)
{
    if (p->n == DEMO_PROC_MAX)
        return err_set(e, E_LIMIT, "more than %d children", (int)DEMO_PROC_MAX);
    TRY(child_fork(argv, log, &p->pid[p->n], e));
    p->n++;
    return 0;
}

/* The last line of a child's output. */
static int
failed(const char *const *argv, const char *log, struct err *e)
{
    struct buf b = BUF_INIT(LOG_MAX_BYTES);
    struct err ignored;
    const char *last = "no output";

    if (file_read(log, &b, &ignored) == 0 && b.n > 0) {
        if (b.p[b.n - 1] == '\n')
            b.p[--b.n] = '\0';
        const char *nl = strrchr(buf_text(&b), '\n');
        last = nl != NULL ? nl + 1 : buf_text(&b);
    }
    int r = err_set(e, E_STATE, "meshroot %s %s failed: %.300s", argv[0], argv[1], last);
    buf_done(&b);
    return r;
}

int
demo_run(const char *const *argv, const char *log, struct err *e)
{
    pid_t pid;
    int status;

    TRY(child_fork(argv, log, &pid, e));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_sys(e, errno, "waitpid");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return failed(argv, log, e);
    return 0;
}

int
demo_all_alive(const struct demo_procs *p, struct err *e)
{
    for (size_t i = 0; i < p->n; i++) {
        int status;

        if (waitpid(p->pid[i], &status, WNOHANG) != 0)
            return err_set(e, E_STATE, "child %zu (pid %d) has ended; see its log", i,
                           (int)p->pid[i]);
    }
    return 0;
}

void
demo_stop_all(struct demo_procs *p)
{
    uint64_t until = mono_ms() + STOP_WAIT_MS;

    for (size_t i = 0; i < p->n; i++)
        (void)kill(p->pid[i], SIGTERM);
    for (size_t i = 0; i < p->n; i++) {
        while (waitpid(p->pid[i], NULL, WNOHANG) == 0 && mono_ms() < until)
            (void)usleep(STOP_STEP_US);
        if (mono_ms() >= until) {
            (void)kill(p->pid[i], SIGKILL);
            (void)waitpid(p->pid[i], NULL, 0);
        }
    }
    p->n = 0;
}
