/* reload.c - tells whoever reads the files: a command, run without a shell, or a SIGHUP. One at a
 * time: a change that comes meanwhile starts it again. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "base/clock.h"
#include "base/spawn.h"
#include "base/str.h"
#include "obs/log.h"

enum { WORDS_MAX = 64, ENV_MAX = 4096 };

static const struct metric_desc m_runs = { "meshroot_agent_reload_total",
                                           "Runs of the reload command or signal by result.",
                                           METRIC_COUNTER };
static const struct metric_desc m_took = { "meshroot_agent_reload_milliseconds",
                                           "Milliseconds that the last run took.", METRIC_GAUGE };

enum result { RESULT_NONE, RESULT_OK, RESULT_FAILED, RESULT_TIMEOUT, RESULT__N };
static const char *const result_names[RESULT__N] = { "none", "ok", "failed", "timeout" };

extern char **environ;

struct reload {
    struct agent *agent;
    pid_t pid;
    int pidfd;
    struct fd_watch *watch;
    struct timer *timer; /* limit of the one that runs, or the next try */
    bool is_running, is_late, again;
    bool is_settled; /* the readers have been told of the files of now, and took it */
    unsigned why;    /* it is to be run: bits of enum reload_why, until it has worked */
    uint64_t started_ms;
    enum result last; /* run: how it ended, when, why it was run, what it took */
    unsigned last_why;
    int64_t last_s;
    uint64_t last_ms;
    char last_text[ERR_MSG_BYTES];
};

static void reload_run(struct reload *r);

/* "start", "certificate", "trust", "certificate,trust". */
static void
why_text(unsigned why, char *text, size_t cap)
{
    (void)snprintf(text, cap, "%s%s%s",
                   (why & RELOAD_LEAF) != 0    ? "certificate"
                   : (why & RELOAD_TRUST) != 0 ? ""
                                               : "start",
                   (why & RELOAD_LEAF) != 0 && (why & RELOAD_TRUST) != 0 ? "," : "",
                   (why & RELOAD_TRUST) != 0 ? "trust" : "");
}

/* How the last run ended: for metrics, status and log. */
static void
note(struct reload *r, enum result result, const char *text)
{
    char labels[METRIC_LABELS_BYTES], why[32], ms[24];

    r->last = result;
    r->last_why = r->why;
    r->last_s = unix_s();
    r->last_ms = mono_ms() - r->started_ms;
    (void)snprintf(r->last_text, sizeof(r->last_text), "%s", text);
    (void)snprintf(labels, sizeof(labels), "result=\"%s\"", result_names[result]);
    metric_add(r->agent->conf.metrics, &m_runs, labels, 1);
    metric_set(r->agent->conf.metrics, &m_took, "", (double)r->last_ms);
    why_text(r->why, why, sizeof(why));
    (void)snprintf(ms, sizeof(ms), "%llu", (unsigned long long)r->last_ms);
    if (result == RESULT_OK && r->agent->conf.reload_command != NULL)
        log_with(LOG_INFO, "reload", LABELS({ "reason", why }, { "ms", ms }),
                 "the reload command has run");
}

static void
retry(struct reload *r, enum result result, const struct err *e)
{
    note(r, result, e->msg);
    agent_note_error(r->agent, "reload command", e);
    timer_set(r->timer, WRITE_RETRY_MS);
}

static void
settled(struct reload *r)
{
    if (r->agent->conf.reload_command != NULL || r->agent->conf.reload_pid != 0)
        note(r, RESULT_OK, "");
    r->is_settled = true;
    r->why = 0;
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
        (void)err_set(&e, E_TIMEOUT, "took longer than %llu ms and was killed",
                      (unsigned long long)r->agent->conf.reload_timeout_ms);
    else if (!ok)
        (void)err_set(&e, E_SYS, "%s %d", info.si_code == CLD_EXITED ? "exit status" : "signal",
                      info.si_status);
    child_done(r);
    if (r->again)
        reload_run(r); /* the files have changed since it was started */
    else if (ok)
        settled(r);
    else
        retry(r, r->is_late ? RESULT_TIMEOUT : RESULT_FAILED, &e);
}

/* What it has started goes too, unless it has left our group: it must not be there twice. */
static void
group_kill(const struct reload *r)
{
    (void)kill(-r->pid, SIGKILL);
    (void)kill(r->pid, SIGKILL); /* it may not be the leader of its group yet */
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
    group_kill(r);
}

/* Ours, with what the command may want to know in front: the first of a name counts. */
struct command_env {
    char *dir, *identity, *reason, *generation;
    char **all;
};

static void
command_env_done(struct command_env *v)
{
    free(v->dir);
    free(v->identity);
    free(v->reason);
    free(v->generation);
    free(v->all);
}

static int
command_env_fill(const struct reload *r, struct command_env *v, struct err *e)
{
    const struct agent *a = r->agent;
    char why[32];
    size_t n = 0, out = 0;

    why_text(r->why, why, sizeof(why));
    TRY(str_format(&v->dir, e, "MESHROOT_DIR=%s", a->conf.dir));
    TRY(str_format(&v->identity, e, "MESHROOT_IDENTITY=%s", a->conf.identity));
    TRY(str_format(&v->reason, e, "MESHROOT_REASON=%s", why));
    TRY(str_format(&v->generation, e, "MESHROOT_GENERATION=%llu",
                   (unsigned long long)a->now->generation));
    while (environ[n] != NULL && n < ENV_MAX)
        n++;
    v->all = calloc(n + 5, sizeof(char *));
    if (v->all == NULL)
        return err_nomem(e);
    char *const ours[] = { v->dir, v->identity, v->reason, v->generation };
    for (size_t i = 0; i < ARRAY_LEN(ours); i++)
        v->all[out++] = ours[i];
    memcpy(v->all + out, environ, n * sizeof(char *));
    return 0;
}

static int
spawn(struct reload *r, struct err *e)
{
    CLEANUP(str_freep) char *text = NULL;
    CLEANUP(command_env_done) struct command_env env = { .all = NULL };
    char *words[WORDS_MAX + 1];

    TRY(str_dup(span_str(r->agent->conf.reload_command), &text, e));
    TRY(plan_words(text, words, WORDS_MAX, e));
    TRY(command_env_fill(r, &env, e));
    int no = spawn_group(words, env.all, -1, &r->pid);
    if (no != 0)
        return err_sys(e, no, "cannot run %s", words[0]);
    r->is_running = true;
    r->is_late = false;
    timer_set(r->timer, r->agent->conf.reload_timeout_ms);
    r->pidfd = pidfd_open(r->pid, 0);
    if (r->pidfd < 0)
        return err_sys(e, errno, "pidfd_open");
    return fd_watch_new(r->agent->loop, r->pidfd, child_ended, r, &r->watch, e);
}

static void
child_kill(struct reload *r)
{
    group_kill(r);
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
    r->started_ms = mono_ms();
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
        retry(r, RESULT_FAILED, &e);
    else
        settled(r);
}

bool
reload_is_settled(const struct reload *r)
{
    return r->is_settled;
}

json_t *
reload_status(const struct reload *r)
{
    const struct agent_conf *c = &r->agent->conf;
    char at[RFC3339_BYTES], why[32];

    if (c->reload_command == NULL && c->reload_pid == 0)
        return json_null();
    rfc3339_s(r->last_s, at);
    why_text(r->last_why, why, sizeof(why));
    bool has_run = r->last != RESULT_NONE;
    return json_pack("{s:s*, s:I, s:b, s:s, s:o, s:o, s:o, s:I}", "command", c->reload_command,
                     "pid", (json_int_t)c->reload_pid, "running", r->is_running, "last_result",
                     result_names[r->last], "last_error",
                     r->last_text[0] == '\0' ? json_null() : json_string(r->last_text), "last_at",
                     has_run ? json_string(at) : json_null(), "last_reason",
                     has_run ? json_string(why) : json_null(), "last_ms", (json_int_t)r->last_ms);
}

void
reload_start(struct reload *r, unsigned why)
{
    r->is_settled = false;
    r->why |= why;
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
