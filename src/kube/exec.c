/* exec.c - one run of a plug-in: its environment, its output, its end. */
#include "kube/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/spawn.h"
#include "base/str.h"

enum { ENV_MAX = 4096, CA_MAX_BYTES = 1024 * 1024 };

extern char **environ;

struct kube_exec {
    struct loop *loop;
    char *api, *hint; /* owned */
    char *name;       /* of the command; owned */
    pid_t pid;        /* 0: none */
    int pidfd, out;
    struct fd_watch *on_end, *on_out;
    struct timer *limit;
    struct buf text; /* wiped */
    kube_exec_fn *done;
    void *arg;
};

/* -- running ------------------------------------------------------------------------------------
 */

struct words { /* of its command line and environment; the texts are owned, and wiped */
    char *argv[KUBE_EXEC_MAX_WORDS + 2];
    char **envp;
    size_t own_n; /* of envp: ours, in front; the first of a name counts */
};

static void
wipe_text(char *s)
{
    if (s != NULL)
        explicit_bzero(s, strlen(s));
    free(s);
}

static void
words_done(struct words *w)
{
    for (size_t i = 0; w->argv[i] != NULL; i++)
        wipe_text(w->argv[i]);
    for (size_t i = 0; i < w->own_n; i++)
        wipe_text(w->envp[i]);
    free(w->envp);
}

/* A bare name is looked for in PATH; a path is beside the kubeconfig. */
static int
argv_fill(const struct kube_conf *conf, struct words *w, struct err *e)
{
    const char *command = json_string_value(json_object_get(conf->exec, "command"));
    const json_t *args = json_object_get(conf->exec, "args"), *one;
    bool is_beside = command[0] != '/' && strchr(command, '/') != NULL && conf->exec_dir != NULL &&
                     conf->exec_dir[0] != '\0';
    size_t i;

    TRY(is_beside ? str_format(&w->argv[0], e, "%s/%s", conf->exec_dir, command)
                  : str_dup(span_str(command), &w->argv[0], e));
    json_array_foreach(args, i, one)
        TRY(str_dup(span_str(json_string_value(one)), &w->argv[i + 1], e));
    return 0;
}

static int
cluster_info(const struct kube_conf *conf, json_t *spec, struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(CA_MAX_BYTES), text = BUF_INIT(CA_MAX_BYTES * 2);

    if (!json_is_true(json_object_get(conf->exec, "provideClusterInfo")))
        return 0;
    if (conf->ca_pem != NULL)
        TRY(buf_add_str(&pem, conf->ca_pem, e));
    else if (conf->ca_file != NULL && TRY(file_read(conf->ca_file, &pem, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "no such file %s", conf->ca_file);
    TRY(base64_add(&text, buf_span(&pem), e));
    json_t *cluster = pem.n == 0 ? json_pack("{s:s}", "server", conf->server)
                                 : json_pack("{s:s, s:s}", "server", conf->server,
                                             "certificate-authority-data", buf_text(&text));
    return json_object_set_new(spec, "cluster", cluster) != 0 ? err_nomem(e) : 0;
}

static int
info_fill(const struct kube_conf *conf, char **ret, struct err *e)
{
    CLEANUP(json_decrefp)
    json_t *o =
        json_pack("{s:O, s:s, s:{s:b}}", "apiVersion", json_object_get(conf->exec, "apiVersion"),
                  "kind", "ExecCredential", "spec", "interactive", 0);

    if (o == NULL)
        return err_nomem(e);
    TRY(cluster_info(conf, json_object_get(o, "spec"), e));
    CLEANUP(str_freep) char *text = json_dumps(o, JSON_COMPACT);
    if (text == NULL)
        return err_nomem(e);
    return str_format(ret, e, "KUBERNETES_EXEC_INFO=%s", text);
}

static int
envp_fill(const struct kube_conf *conf, struct words *w, struct err *e)
{
    const json_t *env = json_object_get(conf->exec, "env"), *one;
    size_t n = 0, i;

    while (environ[n] != NULL && n < ENV_MAX)
        n++;
    w->envp = calloc(n + KUBE_EXEC_MAX_WORDS + 2, sizeof(char *));
    if (w->envp == NULL)
        return err_nomem(e);
    TRY(info_fill(conf, &w->envp[0], e));
    w->own_n = 1;
    json_array_foreach(env, i, one) {
        TRY(str_format(&w->envp[w->own_n], e, "%s=%s",
                       json_string_value(json_object_get(one, "name")),
                       json_string_value(json_object_get(one, "value"))));
        w->own_n++;
    }
    memcpy(w->envp + w->own_n, environ, n * sizeof(char *));
    return 0;
}

static int
spawn_at(struct kube_exec *x, const struct words *w, int out, struct err *e)
{
    int no = spawn_group(w->argv, w->envp, out, &x->pid);

    if (no == 0)
        return 0;
    x->pid = 0;
    return err_sys(e, no, "cannot run %.200s%s%.200s", w->argv[0], x->hint == NULL ? "" : "; ",
                   x->hint == NULL ? "" : x->hint);
}

/* -- its end ------------------------------------------------------------------------------------
 */

static void
exec_free(struct kube_exec *x)
{
    fd_watch_free(x->on_end);
    fd_watch_free(x->on_out);
    timer_free(x->limit);
    if (x->pid != 0) {
        (void)kill(-x->pid, SIGKILL);
        (void)kill(x->pid, SIGKILL); /* it may not be the leader of its group yet */
        (void)waitpid(x->pid, NULL, 0);
    }
    if (x->pidfd >= 0)
        (void)close(x->pidfd);
    if (x->out >= 0)
        (void)close(x->out);
    buf_wipe(&x->text);
    free(x->api);
    free(x->hint);
    free(x->name);
    free(x);
}

static void
free_later(void *arg)
{
    exec_free(arg);
}

/* No watch and no timer calls any more; its memory goes after this turn. */
static void
stop(struct kube_exec *x)
{
    fd_watch_free(STEAL(x->on_end));
    fd_watch_free(STEAL(x->on_out));
    timer_stop(x->limit);
    loop_defer(x->loop, free_later, x);
}

static void
end(struct kube_exec *x, struct kube_creds *creds, struct err *why)
{
    stop(x);
    if (creds == NULL)
        (void)err_wrap(why, "exec plug-in %.100s", x->name);
    x->done(creds, why, x->arg);
}

/* r: false when there is nothing more now. */
static bool
read_some(struct kube_exec *x, struct err *e)
{
    uint8_t *to;

    if (buf_reserve(&x->text, 4096, &to, e) < 0)
        return false;
    ssize_t n = read(x->out, to, 4096);
    if (n > 0)
        x->text.n += (size_t)n;
    else if (n == 0)
        fd_watch_free(STEAL(x->on_out)); /* closed; its end is still to come */
    return n > 0;
}

static void
on_out(void *arg)
{
    struct kube_exec *x = arg;
    struct err e = { .code = E_NONE };

    (void)!read_some(x, &e);
    if (e.code != E_NONE) {
        (void)err_set(&e, E_LIMIT, "it writes more than %d bytes", KUBE_EXEC_MAX_BYTES);
        end(x, NULL, &e);
    }
}

static void
on_end(void *arg)
{
    CLEANUP(kube_creds_done) struct kube_creds creds = { .token = NULL };
    struct kube_exec *x = arg;
    siginfo_t info = { .si_pid = 0 };
    struct err e = { .code = E_NONE };

    if (waitid(P_PID, (id_t)x->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0)
        return;
    (void)kill(-x->pid, SIGKILL); /* what it left behind: nobody waits for that */
    (void)waitpid(x->pid, NULL, 0);
    x->pid = 0;
    while (x->on_out != NULL && read_some(x, &e))
        continue;
    if (e.code != E_NONE)
        (void)err_set(&e, E_LIMIT, "it writes more than %d bytes", KUBE_EXEC_MAX_BYTES);
    else if (info.si_code != CLD_EXITED || info.si_status != 0)
        (void)err_set(&e, E_PEER, "it ended with %s %d",
                      info.si_code == CLD_EXITED ? "exit status" : "signal", info.si_status);
    else if (kube_creds_read(buf_span(&x->text), x->api, &creds, &e) == 0) {
        end(x, &creds, NULL);
        return;
    }
    e.code = e.code == E_PARSE ? E_PEER : e.code;
    end(x, NULL, &e);
}

static void
on_limit(void *arg)
{
    struct err e;

    (void)err_set(&e, E_TIMEOUT, "it took longer than %d s and was killed", KUBE_EXEC_MS / 1000);
    end(arg, NULL, &e);
}

/* -- start --------------------------------------------------------------------------------------
 */

static int
run(struct kube_exec *x, const struct words *w, struct err *e)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_sys(e, errno, "pipe");
    x->out = ends[0];
    (void)fcntl(ends[1], F_SETFL, 0); /* the plug-in's end waits as any pipe does */
    int r = spawn_at(x, w, ends[1], e);
    (void)close(ends[1]);
    TRY(r);
    x->pidfd = pidfd_open(x->pid, 0);
    if (x->pidfd < 0)
        return err_sys(e, errno, "pidfd_open");
    TRY(fd_watch_new(x->loop, x->pidfd, on_end, x, &x->on_end, e));
    TRY(fd_watch_new(x->loop, x->out, on_out, x, &x->on_out, e));
    TRY(timer_new(x->loop, on_limit, x, &x->limit, e));
    timer_set(x->limit, KUBE_EXEC_MS);
    return 0;
}

static int
start(struct kube_exec *x, const struct kube_conf *conf, struct err *e)
{
    CLEANUP(words_done) struct words w = { .envp = NULL };
    const char *hint = json_string_value(json_object_get(conf->exec, "installHint"));

    TRY(str_dup(span_str(json_string_value(json_object_get(conf->exec, "apiVersion"))), &x->api,
                e));
    TRY(str_dup(span_str(json_string_value(json_object_get(conf->exec, "command"))), &x->name, e));
    if (hint != NULL)
        TRY(str_dup(span_str(hint), &x->hint, e));
    TRY(argv_fill(conf, &w, e));
    TRY(envp_fill(conf, &w, e));
    return run(x, &w, e);
}

int
kube_exec_start(struct loop *l, const struct kube_conf *conf, kube_exec_fn *done, void *arg,
                struct kube_exec **ret, struct err *e)
{
    struct kube_exec *x = calloc(1, sizeof(*x));

    if (x == NULL)
        return err_nomem(e);
    *x = (struct kube_exec){ .loop = l, .pidfd = -1, .out = -1, .done = done, .arg = arg };
    x->text = BUF_INIT(KUBE_EXEC_MAX_BYTES + 4096);
    if (start(x, conf, e) < 0) {
        exec_free(x);
        return err_wrap(e, "exec plug-in");
    }
    *ret = x;
    return 0;
}

void
kube_exec_cancel(struct kube_exec *x)
{
    if (x != NULL)
        stop(x);
}
