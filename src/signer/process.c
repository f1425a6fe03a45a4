/* process.c - starts the child, speaks with it on the control channel, starts it again. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "obs/log.h"
#include "signer/room.h"

enum { HIGH_FD = 256, PEACE_MS = 10 * 1000 /* a child that lived so long starts a new count */ };

extern char **environ;

struct signer {
    atomic_uint refs;
    struct signer_process *process; /* a reference */
    struct leaf_template *leaf;
    uint32_t id;
};

static void
process_unref(struct signer_process *p)
{
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
        return;
    buf_done(&p->in);
    buf_done(&p->out);
    free(p);
}

static void
fd_done(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

/* -- the child's start -- */

struct ends { /* of the socket pairs; the child's are numbered from IPC_CONTROL_FD on */
    int ours[SIGNER_LANES_MAX + 1], its[SIGNER_LANES_MAX + 1];
    size_t n;
};

static void
ends_done(struct ends *x)
{
    for (size_t i = 0; i < x->n; i++) {
        fd_done(&x->ours[i]);
        fd_done(&x->its[i]);
    }
}

/* The child's ends get high numbers: dup2 onto 3, 4, ... must not hit one that is still to come. */
static int
ends_make(size_t n, struct ends *x, struct err *e)
{
    for (; x->n < n; x->n++) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            return err_sys(e, errno, "signer: socket pair");
        x->ours[x->n] = pair[0];
        x->its[x->n] = fcntl(pair[1], F_DUPFD_CLOEXEC, HIGH_FD);
        int why = errno;
        (void)close(pair[1]);
        if (x->its[x->n] < 0) {
            fd_done(&x->ours[x->n]);
            return err_sys(e, why, "signer: socket pair");
        }
    }
    return 0;
}

static int
child_spawn(const struct signer_process *p, const struct ends *x, pid_t *ret, struct err *e)
{
    char name[] = "meshroot", verb[] = "signer", lanes[24], life[24];
    char *argv[] = { name, verb, lanes, life, NULL, NULL, NULL, NULL };
    const char *td = p->conf.trust_domain == NULL ? "" : p->conf.trust_domain;
    posix_spawn_file_actions_t files;

    (void)snprintf(lanes, sizeof(lanes), "%zu", p->conf.lanes);
    (void)snprintf(life, sizeof(life), "%" PRId64, p->conf.max_life_s);
    memcpy(&argv[4], &td, sizeof(argv[4])); /* only read there */
    memcpy(&argv[5], &p->conf.token_uri, sizeof(argv[5]));
    if (p->conf.token_uri != NULL)
        memcpy(&argv[6], &p->conf.reads, sizeof(argv[6]));
    int no = posix_spawn_file_actions_init(&files);
    if (no != 0)
        return err_sys(e, no, "signer: start");
    no = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    if (no == 0)
        no = posix_spawn_file_actions_adddup2(&files, 2, 1);
    for (size_t i = 0; i < x->n && no == 0; i++)
        no = posix_spawn_file_actions_adddup2(&files, x->its[i], IPC_CONTROL_FD + (int)i);
    if (no == 0)
        no = posix_spawn_file_actions_addclosefrom_np(&files, IPC_CONTROL_FD + (int)x->n);
    if (no == 0) /* the very binary that runs, whatever lies under its name by now */
        no = posix_spawn(ret, "/proc/self/exe", &files, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&files);
    return no != 0 ? err_sys(e, no, "signer: start a process") : 0;
}

/* Its keys go with it; nothing of it is needed any more, so it is not asked. */
static void
child_end(struct signer_process *p, int *ret_status)
{
    if (p->pid > 0) {
        (void)kill(p->pid, SIGKILL);
        while (waitpid(p->pid, ret_status, 0) < 0 && errno == EINTR)
            ;
    }
    p->pid = 0;
    fd_watch_free(p->watch);
    p->watch = NULL;
    fd_done(&p->control);
    for (size_t i = 0; i < SIGNER_LANES_MAX; i++)
        fd_done(&p->lane_fds[i]);
}

/* -- the control channel -- */

static int
control_send(const struct signer_process *p, int fd, struct err *e)
{
    _Alignas(struct cmsghdr) char files[CMSG_SPACE(sizeof(int))] = { 0 };
    struct span s = buf_span(&p->out);

    while (s.n > 0) {
        struct iovec v = { .iov_len = s.n };
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

        memcpy(&v.iov_base, &s.p, sizeof(s.p));
        if (fd >= 0) {
            m.msg_control = files;
            m.msg_controllen = sizeof(files);
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            *c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                                   .cmsg_type = SCM_RIGHTS,
                                   .cmsg_len = CMSG_LEN(sizeof(int)) };
            memcpy(CMSG_DATA(c), &fd, sizeof(fd));
        }
        ssize_t r = sendmsg(p->control, &m, MSG_NOSIGNAL);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return err_set(e, E_PEER, "the signer process does not listen: %s", strerror(errno));
        s = span_skip(s, (size_t)r);
        fd = -1;
    }
    return 0;
}

static int
control_receive(struct signer_process *p, struct ipc_frame *ret, struct err *e)
{
    p->in.n = 0;
    for (;;) {
        struct span s = buf_span(&p->in);
        uint8_t *to;

        if (TRY(ipc_take(&s, ret, e)) == 0)
            return s.n == 0 ? 0 : err_set(e, E_PEER, "the signer process says too much");
        TRY(buf_reserve(&p->in, p->in.max - p->in.n, &to, e));
        ssize_t r = recv(p->control, to, p->in.max - p->in.n, 0);
        if (r == 0)
            return err_set(e, E_PEER, "the signer process has ended");
        if (r < 0 && errno != EINTR)
            return err_set(e, errno == EAGAIN ? E_TIMEOUT : E_PEER, "the signer process: %s",
                           errno == EAGAIN ? "no answer in time" : strerror(errno));
        p->in.n += r > 0 ? (size_t)r : 0;
    }
}

static void process_lost(struct signer_process *p, const char *why);

/* One request and its answer. A child that does not answer as it should is replaced. */
static int
control_call(struct signer_process *p, const struct ipc_frame *q, int fd, struct ipc_frame *ret,
             struct err *e)
{
    if (p->control < 0)
        return err_set(e, E_PEER, "the signer process is being started; try again");
    p->out.n = 0;
    TRY(ipc_put(&p->out, q, e));
    if (control_send(p, fd, e) < 0 || control_receive(p, ret, e) < 0) {
        process_lost(p, e->msg);
        return -(int)e->code;
    }
    if (ret->tag == IPC_LAST_WORDS) {
        (void)err_set(e, E_PEER, "%.*s", SPAN_ARG(ret->body));
        process_lost(p, e->msg);
        return err_result(e);
    }
    if (ret->tag != q->tag || ret->code >= E__MAX) {
        process_lost(p, "its answers do not fit");
        return err_set(e, E_PEER, "the signer process: its answers do not fit");
    }
    return ret->code == E_NONE ? 0
                               : err_set(e, (enum err_code)ret->code, "%.*s", SPAN_ARG(ret->body));
}

/* -- up and down -- */

static void
say_state(struct signer_process *p, bool is_up)
{
    if (p->conf.on_state != NULL && !p->is_closed)
        p->conf.on_state(is_up, p->conf.arg);
}

static void
start_later(struct signer_process *p)
{
    timer_set(p->again, p->pause_ms);
    p->pause_ms = p->pause_ms * 2 > SIGNER_RESTART_MAX_MS ? SIGNER_RESTART_MAX_MS : p->pause_ms * 2;
}

static void
process_lost(struct signer_process *p, const char *why)
{
    int pid = (int)p->pid, status = 0;

    if (p->control < 0)
        return;
    if (mono_ms() - p->up_since_ms > PEACE_MS)
        p->pause_ms = SIGNER_RESTART_MIN_MS;
    child_end(p, &status);
    (void)snprintf(p->trouble, sizeof(p->trouble), "%s", why);
    log_error("signer",
              "The signer process (pid %d) is lost: %s; calls are answered UNAVAILABLE, another "
              "is started in %" PRIu64 " ms",
              pid, why, p->pause_ms);
    start_later(p);
    say_state(p, false);
}

static void
on_control(void *arg)
{
    struct signer_process *p = arg;

    /* a watch is not freed in its own call; a timer that is set again and again never comes */
    if (!p->is_looking)
        timer_set(p->again, 0);
    p->is_looking = true;
}

static int
hello_take(struct signer_process *p, struct err *e)
{
    const struct timeval patience = { SIGNER_PATIENCE_MS / 1000, 0 };
    struct ipc_frame f;

    if (setsockopt(p->control, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        setsockopt(p->control, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
        return err_sys(e, errno, "signer: socket");
    TRY(control_receive(p, &f, e));
    if (f.code != E_NONE && f.code < E__MAX)
        return err_set(e, (enum err_code)f.code, "%.*s", SPAN_ARG(f.body));
    if (f.code != E_NONE || f.body.n != sizeof(p->hello))
        return err_set(e, E_PEER, "the signer process does not say what it should");
    memcpy(&p->hello, f.body.p, sizeof(p->hello));
    p->hello.token[sizeof(p->hello.token) - 1] = '\0';
    return fd_watch_new(p->conf.loop, p->control, on_control, p, &p->watch, e);
}

static void
log_up(const struct signer_process *p)
{
    log_info("signer",
             "The signer process (pid %d) %s the keys: no network and no files (seccomp%s), %s",
             (int)p->pid, p->conf.token_uri != NULL ? "uses" : "holds",
             p->hello.landlock_abi > 0 ? ", Landlock" : "",
             p->hello.memory_locked ? "all memory locked" : "memory of keys locked");
    if (p->conf.token_uri != NULL)
        log_info("signer", "The keys are in the PKCS#11 token %s; its module may read %s",
                 p->hello.token, p->conf.reads == NULL ? "no file" : p->conf.reads);
    if (p->hello.module_threads > 0)
        log_warn("signer",
                 "The PKCS#11 module has started %u threads of its own, which Landlock does not "
                 "bind: seccomp alone keeps them from writing files and from sockets",
                 p->hello.module_threads);
    if (p->hello.landlock_abi == 0)
        log_warn("signer", "This kernel has no Landlock: seccomp alone keeps the signer from "
                           "files and sockets");
}

static int
child_start(struct signer_process *p, struct err *e)
{
    CLEANUP(ends_done) struct ends x = { .n = 0 };
    int status;

    TRY(ends_make(p->conf.lanes + 1, &x, e));
    TRY(child_spawn(p, &x, &p->pid, e));
    for (size_t i = 0; i < x.n; i++)
        fd_done(&x.its[i]); /* so that its end is seen */
    p->control = x.ours[0];
    x.ours[0] = -1;
    if (hello_take(p, e) < 0) {
        child_end(p, &status);
        return -(int)e->code;
    }
    for (size_t i = 1; i < x.n; i++) {
        p->lane_fds[i - 1] = x.ours[i];
        x.ours[i] = -1;
    }
    p->up_since_ms = mono_ms();
    log_up(p);
    return 0;
}

/* Lanes that exist get their ends; those to come take theirs when they are made. */
static int
lanes_connect(struct signer_process *p, struct err *e)
{
    for (size_t i = 0; i < p->lanes_n; i++) {
        int fd = p->lane_fds[i];

        p->lane_fds[i] = -1;
        if (fd >= 0)
            TRY(lane_connect(p->lanes[i], fd, p->pid, e));
    }
    return 0;
}

static bool
has_gone(const struct signer_process *p)
{
    char c;
    ssize_t r = recv(p->control, &c, 1, MSG_PEEK | MSG_DONTWAIT);

    return r >= 0 || (errno != EAGAIN && errno != EINTR); /* unasked, it may only end */
}

/* Unasked it says at most one thing: why it ends. */
static const char *
last_words(struct signer_process *p, struct err *e)
{
    struct ipc_frame f;

    if (control_receive(p, &f, e) < 0 || f.tag != IPC_LAST_WORDS)
        return "it has ended";
    (void)err_set(e, E_PEER, "%.*s", SPAN_ARG(f.body));
    return e->msg;
}

static void
on_again(void *arg)
{
    struct signer_process *p = arg;
    struct err e;

    p->is_looking = false;
    if (p->control >= 0) {
        if (has_gone(p))
            process_lost(p, last_words(p, &e));
        return;
    }
    p->restarts++;
    if (child_start(p, &e) < 0) {
        if (strcmp(p->trouble, e.msg) != 0)
            log_error("signer", "The signer process does not start, and is tried again: %s", e.msg);
        (void)snprintf(p->trouble, sizeof(p->trouble), "%s", e.msg);
        if (e.code != E_AUTH) /* a PIN that is wrong stays wrong, and each try counts */
            start_later(p);
        return;
    }
    /* first the keys, then the calls: a lane's first call finds its signer */
    say_state(p, true);
    if (p->control >= 0 && lanes_connect(p, &e) < 0)
        process_lost(p, e.msg);
}

int
signer_process_new(const struct signer_process_conf *conf, struct signer_process **ret,
                   struct err *e)
{
    if (conf->lanes < 1 || conf->lanes > SIGNER_LANES_MAX || conf->max_life_s < 1)
        return err_set(e, E_INVAL, "a signer has 1 to %d lanes and a longest life",
                       SIGNER_LANES_MAX);
    struct signer_process *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return err_nomem(e);
    atomic_init(&p->refs, 1);
    p->conf = *conf;
    p->control = -1;
    p->pause_ms = SIGNER_RESTART_MIN_MS;
    p->in = p->out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    for (size_t i = 0; i < SIGNER_LANES_MAX; i++)
        p->lane_fds[i] = -1;
    if (timer_new(conf->loop, on_again, p, &p->again, e) < 0 || child_start(p, e) < 0) {
        signer_process_free(p);
        return -(int)e->code;
    }
    *ret = p;
    return 0;
}

void
signer_process_free(struct signer_process *p)
{
    int status;

    if (p == NULL)
        return;
    p->is_closed = true;
    child_end(p, &status);
    timer_free(p->again);
    p->again = NULL;
    process_unref(p);
}

int
signer_uri_check(const char *uri, struct err *e)
{
    return token_uri_check(uri, e);
}

struct signer_status
signer_process_status(const struct signer_process *p)
{
    return (struct signer_status){ .is_up = p->control >= 0,
                                   .pid = (int)p->pid,
                                   .restarts = p->restarts,
                                   .landlock_abi = p->hello.landlock_abi,
                                   .memory_locked = p->hello.memory_locked != 0,
                                   .trouble = p->trouble,
                                   .token = p->hello.token };
}

/* Its end of every channel closes with it: process_lost follows by itself. */
struct stuck {
    struct signer_process *process; /* a reference */
    pid_t pid;
};

static void
on_stuck(void *arg)
{
    struct stuck *s = arg;

    if (!s->process->is_closed && s->process->pid == s->pid && s->process->control >= 0)
        process_lost(s->process, "it does not answer");
    process_unref(s->process);
    free(s);
}

void
process_stuck(struct signer_process *p, pid_t pid)
{
    struct stuck *s = malloc(sizeof(*s));
    struct err e;

    if (s == NULL)
        return; /* the next call that waits too long says it again */
    *s = (struct stuck){ p, pid };
    (void)atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    if (loop_post(p->conf.loop, on_stuck, s, &e) < 0) {
        process_unref(p);
        free(s);
    }
}

int
signer_lane_new(struct signer_process *p, struct loop *loop, struct signer_lane **ret,
                struct err *e)
{
    struct signer_lane *l;

    if (p->lanes_n == p->conf.lanes)
        return err_set(e, E_LIMIT, "signer: more lanes than it was started with");
    TRY(lane_make(p, loop, &l, e));
    p->lanes[p->lanes_n++] = l;
    if (p->control >= 0 && lanes_connect(p, e) < 0) {
        p->lanes_n--;
        signer_lane_free(l);
        return -(int)e->code;
    }
    *ret = l;
    return 0;
}

/* -- signers -- */

int
signer_load(struct signer_process *p, const struct cert *cert, int key_fd, struct signer **ret,
            struct err *e)
{
    bool by_token = p->conf.token_uri != NULL;
    struct ipc_frame q = { .code = by_token ? IPC_LOAD_TOKEN : IPC_LOAD, .body = cert_der(cert) },
                     answer = { 0 };

    if (key_fd < 0 && !by_token)
        return err_set(e, E_DENIED, "ca-key.pem: missing");
    CLEANUP(signer_unrefp) struct signer *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    atomic_init(&s->refs, 1);
    TRY(leaf_template_new(cert, NULL, &s->leaf, e));
    q.tag = q.id = ++p->last_id;
    TRY(control_call(p, &q, by_token ? -1 : key_fd, &answer, e));
    s->id = q.id;
    s->process = p;
    (void)atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    *ret = STEAL(s);
    return 0;
}

int
signer_make_root(struct signer_process *p, const char *subject, uint64_t days, int key_fd,
                 struct cert **ret, struct err *e)
{
    struct ipc_frame q = { .code = IPC_MAKE, .tag = days, .body = span_str(subject) },
                     answer = { 0 };

    TRY(control_call(p, &q, key_fd, &answer, e));
    return cert_from_der(answer.body, ret, e);
}

struct signer *
signer_ref(struct signer *s)
{
    (void)atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

static void
signer_free(struct signer *s)
{
    leaf_template_free(s->leaf);
    if (s->process != NULL)
        process_unref(s->process);
    free(s);
}

static void
on_drop(void *arg)
{
    struct signer *s = arg;
    struct ipc_frame q = { .code = IPC_DROP, .id = s->id, .tag = s->id }, answer = { 0 };
    struct err e;

    /* a child that came later never had it: NOTFOUND is as good */
    if (!s->process->is_closed && s->process->control >= 0)
        (void)control_call(s->process, &q, -1, &answer, &e);
    signer_free(s);
}

void
signer_unref(struct signer *s)
{
    struct err e;

    if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    /* closed: its keys have gone with the child, and its loop may be gone too
     * out of memory: the child keeps the key until it ends, which its bound on keys survives */
    if (s->process == NULL || s->process->is_closed ||
        loop_post(s->process->conf.loop, on_drop, s, &e) < 0)
        signer_free(s);
}

const struct leaf_template *
signer_template(const struct signer *s)
{
    return s->leaf;
}

uint32_t
signer_id(const struct signer *s)
{
    return s->id;
}

/* One request whose answer is a signature. */
static int
signature_call(struct signer *s, const struct ipc_frame *q, int fd,
               uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n, struct err *e)
{
    struct ipc_frame answer = { 0 };

    TRY(control_call(s->process, q, fd, &answer, e));
    if (answer.body.n == 0 || answer.body.n > SIGNATURE_MAX_BYTES)
        return err_set(e, E_PEER, "the signer process gave no signature");
    memcpy(ret, answer.body.p, *ret_n = answer.body.n);
    return 0;
}

int
signer_sign_wait(struct signer *s, struct span tbs, uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n,
                 struct err *e)
{
    struct ipc_frame q = { .code = IPC_SIGN, .id = s->id, .tag = 1, .body = tbs };

    return signature_call(s, &q, -1, ret, ret_n, e);
}

int
signer_sign_crl(struct signer *s, struct span tbs, uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n,
                struct err *e)
{
    struct ipc_frame q = { .code = IPC_CRL, .id = s->id, .tag = 1 };
    int fd = memfd_create("tbs-crl", MFD_CLOEXEC);

    if (fd < 0)
        return err_sys(e, errno, "a file in memory for the revocation list");
    int r = ipc_file_write(fd, tbs, e);
    if (r == 0)
        r = signature_call(s, &q, fd, ret, ret_n, e);
    (void)close(fd);
    return r;
}
