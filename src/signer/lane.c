/* lane.c - one worker's channel to the signer: calls gathered in one write, answers in order. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "signer/room.h"

struct call {
    signer_done_fn *done;
    void *arg;
    size_t max; /* bytes of its answer */
};

struct signer_lane {
    atomic_uint refs; /* its owner's, and one for each descriptor on its way to it */
    struct signer_process *process;
    struct loop *loop;
    int fd; /* -1: no child */
    pid_t pid;
    bool is_broken; /* the child has gone; fd is closed by on_flush */
    bool is_closed; /* its owner has let go */
    struct fd_watch *watch;
    struct timer *flush, *patience;
    bool is_flush_set;
    struct buf in, out;
    struct call calls[SIGNER_LANE_CALLS]; /* ring: the child answers in order */
    size_t first, n;
    uint64_t first_tag; /* of calls[first] */
};

static const struct err not_there = { .code = E_PEER,
                                      .msg = "the signer process is being started; try again" };

static void
lane_unref(struct signer_lane *l)
{
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
        return;
    buf_done(&l->in);
    buf_done(&l->out);
    free(l);
}

static void
lane_close(struct signer_lane *l)
{
    fd_watch_free(l->watch);
    l->watch = NULL;
    if (l->fd >= 0)
        (void)close(l->fd);
    l->fd = -1;
    l->is_broken = false;
    l->in.n = l->out.n = 0;
}

/* The first call's; it is gone from the ring when done runs, which may sign again. */
static void
call_end(struct signer_lane *l, struct span signature, const struct err *why)
{
    struct call c = l->calls[l->first];

    l->first = (l->first + 1) % SIGNER_LANE_CALLS;
    l->first_tag++;
    l->n--;
    c.done(signature, why, c.arg);
}

static void
flush_soon(struct signer_lane *l)
{
    if (!l->is_flush_set)
        timer_set(l->flush, 0);
    l->is_flush_set = true;
}

/* What is under way fails; calls that are made meanwhile fail at once. */
static void
lane_fail(struct signer_lane *l, const struct err *why)
{
    if (l->is_broken)
        return;
    l->is_broken = true;
    timer_stop(l->patience);
    flush_soon(l);
    for (size_t n = l->n; n > 0; n--)
        call_end(l, (struct span){ NULL, 0 }, why);
}

static void
out_write(struct signer_lane *l)
{
    ssize_t r = send(l->fd, l->out.p, l->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);

    /* a full socket means that answers are under way: each of them comes back here */
    if (r < 0 && errno != EAGAIN && errno != EINTR) {
        lane_fail(l, &not_there);
        return;
    }
    if (r <= 0)
        return;
    l->out.n -= (size_t)r;
    memmove(l->out.p, l->out.p + r, l->out.n);
}

static void
on_flush(void *arg)
{
    struct signer_lane *l = arg;

    l->is_flush_set = false;
    if (l->is_broken)
        lane_close(l);
    else if (l->fd >= 0 && l->out.n > 0)
        out_write(l);
}

static void
on_patience(void *arg)
{
    struct signer_lane *l = arg;
    struct err why;

    process_stuck(l->process, l->pid);
    (void)err_set(&why, E_TIMEOUT, "the signer process does not answer");
    lane_fail(l, &why);
}

static int
answer_take(struct signer_lane *l, const struct ipc_frame *f, struct err *e)
{
    struct err why;

    if (l->n == 0 || f->tag != l->first_tag || f->code >= E__MAX ||
        (f->code == E_NONE && (f->body.n == 0 || f->body.n > l->calls[l->first].max)))
        return err_set(e, E_PEER, "the signer process: its answers do not fit");
    if (f->code == E_NONE) {
        call_end(l, f->body, NULL);
        return 0;
    }
    (void)err_set(&why, (enum err_code)f->code, "%.*s", SPAN_ARG(f->body));
    call_end(l, (struct span){ NULL, 0 }, &why);
    return 0;
}

static void
answers_take(struct signer_lane *l)
{
    struct span s = buf_span(&l->in);
    struct ipc_frame f;
    struct err e;
    int r = 0;

    while (r == 0 && !l->is_broken) {
        r = ipc_take(&s, &f, &e);
        if (r == 0)
            r = answer_take(l, &f, &e);
    }
    if (r < 0)
        lane_fail(l, &e);
    if (l->is_broken)
        return;
    if (s.n > 0)
        memmove(l->in.p, s.p, s.n);
    l->in.n = s.n;
    if (l->n > 0)
        timer_set(l->patience, SIGNER_PATIENCE_MS);
    else
        timer_stop(l->patience);
    if (l->out.n > 0)
        flush_soon(l);
}

static void
on_readable(void *arg)
{
    struct signer_lane *l = arg;
    uint8_t *to;
    struct err e;

    if (l->is_broken || l->fd < 0)
        return;
    if (buf_reserve(&l->in, l->in.max - l->in.n, &to, &e) < 0) {
        lane_fail(l, &e);
        return;
    }
    ssize_t r = recv(l->fd, to, l->in.max - l->in.n, MSG_DONTWAIT);
    if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR)) {
        lane_fail(l, &not_there);
        return;
    }
    if (r > 0) {
        l->in.n += (size_t)r;
        answers_take(l);
    }
}

/* -- a new child -- */

struct link { /* a descriptor on its way to its lane */
    struct signer_lane *lane;
    int fd;
    pid_t pid;
};

static void
on_link(void *arg)
{
    struct link *k = arg;
    struct signer_lane *l = k->lane;
    struct err e;

    if (!l->is_closed) {
        lane_fail(l, &not_there); /* the former child's calls */
        lane_close(l);
        l->fd = k->fd;
        l->pid = k->pid;
        k->fd = -1;
        if (fd_watch_new(l->loop, l->fd, on_readable, l, &l->watch, &e) < 0) {
            lane_close(l);
            process_stuck(l->process, l->pid);
        }
    }
    if (k->fd >= 0)
        (void)close(k->fd);
    lane_unref(l);
    free(k);
}

int
lane_connect(struct signer_lane *l, int take_fd, pid_t pid, struct err *e)
{
    struct link *k = malloc(sizeof(*k));

    if (k == NULL) {
        (void)close(take_fd);
        return err_nomem(e);
    }
    *k = (struct link){ l, take_fd, pid };
    (void)atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    if (loop_post(l->loop, on_link, k, e) < 0) {
        (void)close(take_fd);
        lane_unref(l);
        free(k);
        return -(int)e->code;
    }
    return 0;
}

int
lane_make(struct signer_process *p, struct loop *loop, struct signer_lane **ret, struct err *e)
{
    struct signer_lane *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    atomic_init(&l->refs, 1);
    l->process = p;
    l->loop = loop;
    l->fd = -1;
    l->in = BUF_INIT(IPC_BATCH_BYTES);
    l->out = BUF_INIT((size_t)SIGNER_LANE_CALLS * (IPC_HEAD_BYTES + TBS_MAX_BYTES));
    if (timer_new(loop, on_flush, l, &l->flush, e) < 0 ||
        timer_new(loop, on_patience, l, &l->patience, e) < 0) {
        signer_lane_free(l);
        return -(int)e->code;
    }
    *ret = l;
    return 0;
}

void
signer_lane_free(struct signer_lane *l)
{
    if (l == NULL)
        return;
    lane_close(l);
    timer_free(l->flush);
    timer_free(l->patience);
    l->is_closed = true;
    lane_unref(l);
}

static void
ask(struct signer_lane *l, struct ipc_frame q, const struct call *c)
{
    signer_done_fn *done = c->done;
    void *arg = c->arg;
    struct err e;

    q.tag = l->first_tag + l->n;

    if (l->fd < 0 || l->is_broken) {
        done((struct span){ NULL, 0 }, &not_there, arg);
        return;
    }
    if (l->n == SIGNER_LANE_CALLS) {
        (void)err_set(&e, E_LIMIT, "more than %d calls wait for the signer", SIGNER_LANE_CALLS);
        done((struct span){ NULL, 0 }, &e, arg);
        return;
    }
    if (ipc_put(&l->out, &q, &e) < 0) {
        done((struct span){ NULL, 0 }, &e, arg);
        return;
    }
    l->calls[(l->first + l->n) % SIGNER_LANE_CALLS] = *c;
    if (l->n++ == 0)
        timer_set(l->patience, SIGNER_PATIENCE_MS);
    flush_soon(l);
}

void
signer_sign(struct signer_lane *l, struct signer *s, struct span tbs, signer_done_fn *done,
            void *arg)
{
    ask(l, (struct ipc_frame){ .code = IPC_SIGN, .id = signer_id(s), .body = tbs },
        &(struct call){ done, arg, SIGNATURE_MAX_BYTES });
}

void
signer_jwt_sign(struct signer_lane *l, struct signer *s, const struct signer_jwt *q,
                signer_done_fn *done, void *arg)
{
    CLEANUP(buf_done) struct buf body = BUF_INIT(TBS_MAX_BYTES);
    struct err e;
    int r = buf_addf(&body, &e, "%s%c%s%c", q->kid, 0, q->subject, 0);

    for (size_t i = 0; i < q->audiences_n && r == 0; i++)
        r = buf_addf(&body, &e, "%s%c", q->audiences[i], 0);
    if (r < 0)
        done((struct span){ NULL, 0 }, &e, arg);
    else
        ask(l, (struct ipc_frame){ .code = IPC_JWT, .id = signer_id(s), .body = buf_span(&body) },
            &(struct call){ done, arg, SIGNER_JWT_MAX_BYTES });
}
