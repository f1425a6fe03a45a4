/* reload.c - tells whoever reads the files: a command, run without a shell, or a SIGHUP. */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "base/str.h"

enum { WORDS_MAX = 64 };

extern char **environ;

struct reload {
    struct agent *agent;
    pid_t pid;
    int pidfd;
    struct fd_watch *watch;
    struct timer *timer; /* limit of the one that runs, or the next try */
    bool is_running, is_late, again;
    bool is_settled; /* the readers have been told of the files of now, and took it */
};

static void reload_run(struct reload *r);

static void
retry(struct reload *r, const struct err *e)
{
    agent_note_error(r->agent, "reload command", e);
    timer_set(r->timer, WRITE_RETRY_MS);
}

static void
settled(struct reload *r)
{
    r->is_settled = true;
    trust_word_due(r->agent);
}

static void
child_done(struct reload *r)
{
    if (r->watch != NULL)
        fd_watch_free(STEAL(r->watch));
    if (r->pidfd >= 0)
        (void)close(r->pidfd);
    r->pidfd = -1;
    r->is_running = false;
    timer_stop(r->timer);
}

static void
child_ended(void *arg)
{
    struct reload *r = arg;
    struct err e = { 0 };
    siginfo_t info = { .si_pid = 0 };
    int got = waitid(P_PID, (id_t)r->pid, &info, WEXITED | WNOHANG);

    if (got == 0 && info.si_pid == 0)
        return;
    bool ok = got == 0 && info.si_code == CLD_EXITED && info.si_status == 0 && !r->is_late;
    if (r->is_late)
        (void)err_set(&e, E_TIMEOUT, "took longer than %d ms and was killed", (int)RELOAD_MS);
    else if (!ok)
        (void)err_set(&e, E_SYS, "%s %d", info.si_code == CLD_EXITED ? "exit status" : "signal",
                      info.si_status);
    child_done(r);
    if (r->again)
        reload_run(r); /* the files have changed since it was started */
    else if (ok)
        settled(r);
    else
        retry(r, &e);
}

static void
on_timer(void *arg)
{
    struct reload *r = arg;

    if (!r->is_running) {
        reload_run(r);
        return;
    }
    r->is_late = true;
    (void)kill(r->pid, SIGKILL);
}

static int
spawn(struct reload *r, struct err *e)
{
    CLEANUP(str_freep) char *text = NULL;
    char *words[WORDS_MAX + 1];
    posix_spawnattr_t attr;
    sigset_t defaults, none;

    TRY(str_dup(span_str(r->agent->conf.reload_command), &text, e));
    TRY(plan_words(text, words, WORDS_MAX, e));
    (void)sigfillset(&defaults);
    (void)sigemptyset(&none);
    if (posix_spawnattr_init(&attr) != 0)
        return err_nomem(e);
    (void)posix_spawnattr_setsigdefault(&attr, &defaults);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    int no = posix_spawnp(&r->pid, words[0], NULL, &attr, words, environ);
    (void)posix_spawnattr_destroy(&attr);
    if (no != 0)
        return err_sys(e, no, "cannot run %s", words[0]);
    r->is_running = true;
    r->is_late = false;
    timer_set(r->timer, RELOAD_MS);
    r->pidfd = pidfd_open(r->pid, 0);
    if (r->pidfd < 0)
        return err_sys(e, errno, "pidfd_open");
    return fd_watch_new(r->agent->loop, r->pidfd, child_ended, r, &r->watch, e);
}

static void
child_kill(struct reload *r)
{
    (void)kill(r->pid, SIGKILL);
    (void)waitpid(r->pid, NULL, 0);
    child_done(r);
}

static void
reload_run(struct reload *r)
{
    const struct agent_conf *c = &r->agent->conf;
    struct err e = { 0 };
    int got = 0;

    r->again = false;
    if (c->reload_pid != 0 && kill((pid_t)c->reload_pid, SIGHUP) < 0)
        got = err_sys(&e, errno, "SIGHUP to process %lld", (long long)c->reload_pid);
    if (got == 0 && c->reload_command != NULL) {
        got = spawn(r, &e);
        if (got < 0 && r->is_running)
            child_kill(r);
        if (got == 0)
            return; /* child_ended goes on */
    }
    if (got < 0)
        retry(r, &e);
    else
        settled(r);
}

bool
reload_is_settled(const struct reload *r)
{
    return r->is_settled;
}

void
reload_start(struct reload *r)
{
    r->is_settled = false;
    r->again = r->is_running;
    if (!r->is_running) {
        timer_stop(r->timer);
        reload_run(r);
    }
}

int
reload_new(struct agent *a, struct reload **ret, struct err *e)
{
    struct reload *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return err_nomem(e);
    r->agent = a;
    r->pidfd = -1;
    if (timer_new(a->loop, on_timer, r, &r->timer, e) < 0) {
        free(r);
        return err_result(e);
    }
    *ret = r;
    return 0;
}

void
reload_free(struct reload *r)
{
    if (r == NULL)
        return;
    if (r->is_running)
        child_kill(r);
    timer_free(r->timer);
    free(r);
}
