#include "net/tls_proxy.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/loop_event.h"
#include "net/resolve.h"
#include "net/tls_stream.h"

enum { ACCEPTS_PER_TURN = 32, ROUNDS_PER_TURN = 8, ACCEPT_RETRY_MS = 100 };

/* One direction: what was read from `from` and is not yet written to `to`. */
struct way {
    struct stream *from, *to; /* borrowed from the pair */
    size_t at, n;
    bool is_end, is_finished; /* the source has ended; the end was passed on */
    uint8_t bytes[PROXY_BUFFER_BYTES];
};

struct pair {
    struct pair *next, *prev;
    struct proxy *p;
    struct stream *near, *far; /* accepted, dialled */
    struct tls_conf *tls;      /* as when it was accepted */
    struct resolve *resolving;
    struct addr found[RESOLVE_MAX];
    size_t found_n, found_at;
    struct timer *idle;
    uint64_t moved_ms;
    bool is_piping, is_reported;
    struct way out, back; /* near to far, far to near */
    char addr[ADDR_TEXT_BYTES];
};

struct proxy {
    struct proxy_conf conf;
    struct loop *loop;
    struct tls_conf *tls;
    struct event *accept_ev;
    struct timer *accept_retry;
    struct pair *pairs;
    size_t pairs_n;
    bool is_freed;
};

static void accept_resume(struct proxy *p);

/* -- ends ---------------------------------------------------------------------------------------
 */

static void
report(struct pair *c, const struct err *why)
{
    if (c->is_reported)
        return;
    c->is_reported = true;
    if (c->p->conf.on_result != NULL)
        c->p->conf.on_result(why, c->addr, c->p->conf.self);
}

static void
pair_destroy(void *arg)
{
    struct pair *c = arg;

    timer_free(c->idle);
    free(c);
}

static void
pair_end(struct pair *c)
{
    struct proxy *p = c->p;

    stream_free(c->near);
    stream_free(c->far);
    resolve_cancel(c->resolving);
    tls_conf_unref(c->tls);
    timer_stop(c->idle);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        p->pairs = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    p->pairs_n--;
    loop_defer(p->loop, pair_destroy, c);
    if (!p->is_freed)
        accept_resume(p);
}

static void
pair_fail(struct pair *c, const struct err *why)
{
    report(c, why);
    pair_end(c);
}

/* A break is passed on as a break: a reader must not take cut-off data for all of it. */
static void
pair_abort(struct pair *c)
{
    const struct linger now = { .l_onoff = 1, .l_linger = 0 };
    struct stream *clear = c->p->conf.is_inbound ? c->far : c->near;

    (void)setsockopt(stream_fd(clear), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    pair_end(c);
}

/* -- piping -------------------------------------------------------------------------------------
 */

/* r: 0 go on; STREAM_AGAIN it waits for one of its sides, or is finished. */
static int
way_step(struct pair *c, struct way *w, struct err *e)
{
    if (w->n == 0 && !w->is_end) {
        int r = TRY(stream_read(w->from, w->bytes, sizeof(w->bytes), &w->n, e));

        if (r == STREAM_AGAIN)
            return r;
        w->at = 0;
        w->is_end = r == STREAM_END;
        if (w->is_end)
            w->n = 0;
        c->moved_ms = mono_ms();
    }
    while (w->n > 0) {
        size_t n = 0;
        int r = TRY(stream_write(w->to, span_of(w->bytes + w->at, w->n), &n, e));

        if (r == STREAM_AGAIN)
            return r;
        w->at += n;
        w->n -= n;
        c->moved_ms = mono_ms();
    }
    if (!w->is_end)
        return 0;
    if (!w->is_finished && TRY(stream_finish(w->to, e)) == 0)
        w->is_finished = true;
    return STREAM_AGAIN;
}

static int
way_run(struct pair *c, struct way *w, struct err *e)
{
    int r = 0;

    for (int i = 0; i < ROUNDS_PER_TURN && r == 0; i++)
        r = TRY(way_step(c, w, e));
    return r;
}

static bool
way_reads(const struct way *w)
{
    return w->n == 0 && !w->is_end;
}

static bool
way_writes(const struct way *w)
{
    return w->n > 0 || (w->is_end && !w->is_finished);
}

static void
pipe_on(struct pair *c)
{
    struct err e = { 0 };
    int out = way_run(c, &c->out, &e), back = out < 0 ? out : way_run(c, &c->back, &e);

    if (out < 0 || back < 0) {
        pair_abort(c);
        return;
    }
    if (c->out.is_finished && c->back.is_finished) {
        pair_end(c);
        return;
    }
    stream_want(c->near, way_reads(&c->out), way_writes(&c->back));
    stream_want(c->far, way_reads(&c->back), way_writes(&c->out));
    if (out == 0)
        stream_again(c->near);
    if (back == 0)
        stream_again(c->far);
}

static void
on_io(bool readable, bool writable, void *arg)
{
    struct pair *c = arg;

    (void)readable;
    (void)writable;
    if (c->is_piping)
        pipe_on(c);
}

static void
on_idle(void *arg)
{
    struct pair *c = arg;
    uint64_t quiet = mono_ms() - c->moved_ms;

    if (quiet >= c->p->conf.idle_ms)
        pair_end(c);
    else
        timer_set(c->idle, c->p->conf.idle_ms - quiet);
}

/* -- opening ------------------------------------------------------------------------------------
 */

static int
check_peer(struct pair *c, const struct stream *s, struct err *e)
{
    const struct tls_peer *peer = stream_peer(s);

    if (peer == NULL)
        return err_set(e, E_DENIED, "the peer showed no certificate");
    return c->p->conf.check_peer(peer, c->p->conf.self, e);
}

static void
on_far_open(void *arg)
{
    struct pair *c = arg;
    struct err e = { 0 };

    /* the near one again: what proxy_recheck came for may have come while the app was dialled */
    if (check_peer(c, c->p->conf.is_inbound ? c->near : c->far, &e) < 0) {
        pair_fail(c, &e);
        return;
    }
    report(c, NULL);
    c->is_piping = true;
    c->out.from = c->back.to = c->near;
    c->out.to = c->back.from = c->far;
    c->moved_ms = mono_ms();
    timer_set(c->idle, c->p->conf.idle_ms);
    pipe_on(c);
}

static void dial_next(struct pair *c, const struct err *why);

static void
on_far_fail(const struct err *why, void *arg)
{
    struct pair *c = arg;

    stream_free(STEAL(c->far));
    dial_next(c, why);
}

static int
dial_addr(struct pair *c, const struct addr *a, struct err *e)
{
    int fd, one = 1;

    TRY(addr_connect(a, &fd, e));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    const struct stream_conf conf = { .fd = fd,
                                      .tls = c->p->conf.is_inbound ? NULL : c->tls,
                                      .open_ms = PROXY_OPEN_MS,
                                      .on_open = on_far_open,
                                      .on_io = on_io,
                                      .on_fail = on_far_fail,
                                      .arg = c };
    return stream_new(c->p->loop, &conf, &c->far, e);
}

/* The next address, while connecting fails; a refused handshake would be refused there too, but
 * does no harm. */
static void
dial_next(struct pair *c, const struct err *why)
{
    struct err e = *why;

    while (c->found_at < c->found_n)
        if (dial_addr(c, &c->found[c->found_at++], &e) == 0)
            return;
    (void)err_wrap(&e, "%s:%u", c->p->conf.to.host, c->p->conf.to.port);
    pair_fail(c, &e);
}

static void
on_resolved(const struct addr *found, size_t n, const struct err *why, void *arg)
{
    struct pair *c = arg;

    c->resolving = NULL;
    for (size_t i = 0; i < n; i++)
        c->found[i] = found[i];
    c->found_n = n;
    dial_next(c, why);
}

static void
on_near_open(void *arg)
{
    struct pair *c = arg;
    struct err e = { 0 };

    stream_want(c->near, false, false); /* until there is somewhere to write to */
    if ((c->p->conf.is_inbound && check_peer(c, c->near, &e) < 0) ||
        resolve_start(c->p->loop, c->p->conf.to.host, c->p->conf.to.port, on_resolved, c,
                      &c->resolving, &e) < 0)
        pair_fail(c, &e);
}

static void
on_near_fail(const struct err *why, void *arg)
{
    pair_fail(arg, why);
}

static int
pair_start(struct pair *c, int take_fd, struct err *e)
{
    const struct stream_conf conf = { .fd = take_fd,
                                      .tls = c->p->conf.is_inbound ? c->tls : NULL,
                                      .open_ms = PROXY_OPEN_MS,
                                      .on_open = on_near_open,
                                      .on_io = on_io,
                                      .on_fail = on_near_fail,
                                      .arg = c };

    addr_of_peer(take_fd, c->addr);
    TRY(stream_new(c->p->loop, &conf, &c->near, e));
    return timer_new(c->p->loop, on_idle, c, &c->idle, e);
}

static void
pair_new(struct proxy *p, int take_fd)
{
    struct pair *c = calloc(1, sizeof(*c));
    struct err e = { 0 };

    if (c == NULL) {
        (void)close(take_fd);
        return;
    }
    c->p = p;
    c->tls = tls_conf_ref(p->tls);
    if (pair_start(c, take_fd, &e) < 0) {
        report(c, &e);
        stream_free(c->near);
        tls_conf_unref(c->tls);
        pair_destroy(c);
        return;
    }
    c->next = p->pairs;
    if (c->next != NULL)
        c->next->prev = c;
    p->pairs = c;
    p->pairs_n++;
}

/* -- the listener -------------------------------------------------------------------------------
 */

static void
on_accept(evutil_socket_t fd, short what, void *arg)
{
    struct proxy *p = arg;
    int one = 1;

    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        if (p->pairs_n >= p->conf.max_n) {
            (void)event_del(p->accept_ev);
            return;
        }
        int got = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (got < 0 &&
            (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            (void)event_del(p->accept_ev);
            timer_set(p->accept_retry, ACCEPT_RETRY_MS);
        }
        if (got < 0)
            return;
        (void)setsockopt(got, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        pair_new(p, got);
    }
}

static void
accept_resume(struct proxy *p)
{
    if (p->tls != NULL && p->pairs_n < p->conf.max_n && event_add(p->accept_ev, NULL) < 0)
        timer_set(p->accept_retry, ACCEPT_RETRY_MS);
}

static void
on_accept_retry(void *arg)
{
    accept_resume(arg);
}

int
proxy_new(struct loop *l, const struct proxy_conf *conf, struct proxy **ret, struct err *e)
{
    struct proxy *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        (void)close(conf->listen_fd);
        return err_nomem(e);
    }
    p->conf = *conf;
    p->loop = l;
    if (p->conf.max_n == 0)
        p->conf.max_n = PROXY_MAX_CONNECTIONS;
    if (p->conf.idle_ms == 0)
        p->conf.idle_ms = PROXY_IDLE_MS;
    p->accept_ev = event_new(loop_base(l), conf->listen_fd, EV_READ | EV_PERSIST, on_accept, p);
    if (p->accept_ev == NULL || timer_new(l, on_accept_retry, p, &p->accept_retry, e) < 0) {
        proxy_free(p);
        return err_nomem(e);
    }
    *ret = p;
    return 0;
}

void
proxy_set_tls(struct proxy *p, struct tls_conf *tls)
{
    struct tls_conf *old = p->tls;

    p->tls = tls_conf_ref(tls);
    tls_conf_unref(old);
    accept_resume(p);
}

size_t
proxy_recheck(struct proxy *p)
{
    size_t n = 0;

    for (struct pair *c = p->pairs, *next; c != NULL; c = next) {
        struct err e;

        next = c->next;
        if (!c->is_piping || check_peer(c, p->conf.is_inbound ? c->near : c->far, &e) == 0)
            continue;
        pair_abort(c);
        n++;
    }
    return n;
}

size_t
proxy_connections(const struct proxy *p)
{
    return p->pairs_n;
}

void
proxy_free(struct proxy *p)
{
    if (p == NULL)
        return;
    p->is_freed = true;
    while (p->pairs != NULL)
        pair_end(p->pairs);
    if (p->accept_ev != NULL)
        event_free(p->accept_ev);
    timer_free(p->accept_retry);
    (void)close(p->conf.listen_fd);
    tls_conf_unref(p->tls);
    free(p);
}
