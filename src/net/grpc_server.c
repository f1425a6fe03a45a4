/* grpc_server.c - connections, their time, and the listener. */
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/grpc_server.h"
#include "net/loop_event.h"

enum {
    ACCEPTS_PER_TURN = 64,
    ACCEPT_RETRY_MS = 100, /* after the system ran out of descriptors */
    KEEPALIVE_MS = 30 * 1000,
    TRIM_AFTER = 128, /* new connections, then a pause: what handshakes took is given back */
    TRIM_PAUSE_MS = 1000,
};

/* -- connections --------------------------------------------------------------------------------
 */

static void accept_resume(struct grpc_server *s);

void
server_conn_tick_by(struct server_conn *c, uint64_t at_ms, uint64_t now_ms)
{
    if (at_ms >= c->tick_at_ms)
        return;
    c->tick_at_ms = at_ms;
    timer_set(c->tick, at_ms > now_ms ? at_ms - now_ms : 0);
}

/* Open, gone, or too slow to be waited for. */
static void
opening_over(struct server_conn *c)
{
    if (!c->is_opening)
        return;
    c->is_opening = false;
    c->s->opening_n--;
    accept_resume(c->s);
}

static void
conn_destroy(void *arg)
{
    struct server_conn *c = arg;

    timer_free(c->tick);
    free(c);
}

static void
conn_end(struct server_conn *c)
{
    struct grpc_server *s = c->s;

    while (c->calls != NULL)
        server_call_gone(c->calls);
    h2_conn_free(c->io);
    timer_stop(c->tick);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    s->conns_n--;
    loop_defer(s->loop, conn_destroy, c);
    if (s->is_freed)
        return;
    opening_over(c);
    accept_resume(s);
    if (s->is_draining && s->conns_n == 0)
        timer_set(s->grace, 0);
}

static void
count_cut(const struct server_conn *c)
{
    static const struct metric_desc cut = { "meshroot_grpc_connections_cut_total",
                                            "Connections that were cut, by listener and reason.",
                                            METRIC_COUNTER };
    enum h2_end end = h2_conn_end(c->io);
    char labels[METRIC_LABELS_BYTES];

    if (end == H2_END_PEER || c->s->conf.metrics == NULL)
        return; /* a client that goes away is nothing to report */
    (void)snprintf(labels, sizeof(labels), "listener=\"%s\",reason=\"%s\"", c->s->conf.name,
                   h2_end_name(end));
    metric_add(c->s->conf.metrics, &cut, labels, 1);
}

static void
on_closed(const struct err *why, void *self)
{
    (void)why;
    count_cut(self);
    conn_end(self);
}

/* At its age, or at once when the server drains. */
static uint64_t
retire_first(const struct grpc_server *s, uint64_t now)
{
    uint64_t age = s->conf.max_age_ms;

    if (s->is_draining)
        return now;
    return age == 0 ? UINT64_MAX : now + age - age / 10 + random_below(age / 5 + 1);
}

static void
on_open(void *self)
{
    struct server_conn *c = self;

    opening_over(c);
    c->last_call_ms = mono_ms();
    c->tick_at_ms = UINT64_MAX;
    c->retire_at_ms = retire_first(c->s, c->last_call_ms);
    server_conn_tick_by(c, c->last_call_ms + H2_FRAME_MS, c->last_call_ms);
    server_conn_tick_by(c, c->retire_at_ms, c->last_call_ms);
}

/* Streams have no end of their own: they are told to come back elsewhere. A handler's on_gone may
 * end other calls. */
static void
streams_move(struct server_conn *c)
{
    struct grpc_call *call = c->calls;

    while (call != NULL) {
        if (call->method != NULL && call->method->streams) {
            server_call_move(call);
            call = c->calls;
        } else
            call = call->next;
    }
}

/* One step towards the connection's end. r: false when it has ended. */
static bool
retire_step(struct server_conn *c, uint64_t now)
{
    switch (c->retire) {
    case RETIRE_NOT:
        c->retire = RETIRE_ASKED;
        c->retire_at_ms = now + GRPC_RETIRE_MS;
        h2_goaway_soon(h2_conn_h2(c->io)); /* before the streams end: their clients dial anew */
        streams_move(c);
        break;
    case RETIRE_ASKED:
        c->retire = RETIRE_LAST;
        c->retire_at_ms = now + GRPC_RETIRE_GRACE_MS;
        streams_move(c);
        h2_goaway(h2_conn_h2(c->io));
        break;
    case RETIRE_LAST:
        conn_end(c);
        return false;
    }
    h2_conn_flush(c->io);
    return true;
}

/* A deadline is the caller's; beyond our own limit it may well try again, and Istio's agents, which
 * set no deadline, do so after UNAVAILABLE. Source: gRPC status codes; specs/istio-ca.md 1.7. */
static void
call_expire(struct grpc_call *call)
{
    static_assert(GRPC_MAX_CALL_MS == 10 * 1000, "the words below say so");

    if (call->is_our_limit)
        server_call_fail(call, GRPC_UNAVAILABLE, "no answer within the 10 s of a call; try again");
    else
        server_call_fail(call, GRPC_DEADLINE_EXCEEDED, "the deadline has passed");
}

/* Ends what is over; r: when the next deadline is. A handler's on_gone may end other calls. */
static uint64_t
expire_calls(struct server_conn *c, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    struct grpc_call *call = c->calls;

    while (call != NULL) {
        if (call->deadline_ms != 0 && call->deadline_ms <= now) {
            call_expire(call);
            call = c->calls;
            next = UINT64_MAX;
            continue;
        }
        if (call->deadline_ms != 0 && call->deadline_ms < next)
            next = call->deadline_ms;
        call = call->next;
    }
    return next;
}

static void
on_tick(void *arg)
{
    struct server_conn *c = arg;
    uint64_t now = mono_ms(), last = h2_conn_last_read_ms(c->io);

    if (c->is_opening) {
        opening_over(c); /* GRPC_HANDSHAKE_MS ends it */
        return;
    }
    c->tick_at_ms = UINT64_MAX;
    if (now >= c->retire_at_ms && !retire_step(c, now))
        return;
    if (c->calls == NULL && now - c->last_call_ms >= GRPC_IDLE_MS && now - last >= KEEPALIVE_MS) {
        h2_goaway(h2_conn_h2(c->io));
        conn_end(c);
        return;
    }
    uint64_t next = expire_calls(c, now);
    bool was_open = h2_conn_is_open(c->io);
    struct h2_conn *io = c->io;
    uint64_t check = now + h2_conn_check(io, now, c->calls == NULL ? 0 : KEEPALIVE_MS);
    if (was_open && !h2_conn_is_open(io))
        return; /* conn_end has run; `c` goes at the end of the turn */
    server_conn_tick_by(c, next < check ? next : check, now);
    server_conn_tick_by(c, c->retire_at_ms, now);
}

static int
conn_start(struct grpc_server *s, struct server_conn *c, int fd, struct err *e)
{
    const struct h2_conn_conf conf = { .fd = fd,
                                       .tls = s->conf.tls,
                                       .open_ms = GRPC_HANDSHAKE_MS,
                                       .h2 = { .is_server = true,
                                               .max_streams = GRPC_MAX_STREAMS,
                                               .max_header_bytes = GRPC_MAX_HEADER_BYTES,
                                               .sends_secrets = s->conf.sends_secrets,
                                               .ops = &server_call_ops,
                                               .self = c,
                                               .pool = s->streams },
                                       .on_open = on_open,
                                       .on_closed = on_closed };

    if (timer_new(s->loop, on_tick, c, &c->tick, e) < 0) {
        (void)close(fd);
        return err_result(e);
    }
    addr_of_peer(fd, c->addr);
    return h2_conn_new(s->loop, &conf, &c->io, e);
}

/* One user's processes cannot take every place. */
static int
check_uid(const struct grpc_server *s, struct server_conn *c, int fd, struct err *e)
{
    struct unix_peer peer;
    size_t n = 0;

    if (s->conf.max_per_uid == 0)
        return 0;
    TRY(unix_peer_of(fd, &peer, e));
    c->uid = peer.uid;
    for (const struct server_conn *o = s->conns; o != NULL; o = o->next)
        n += o->uid == peer.uid;
    return n < s->conf.max_per_uid
               ? 0
               : err_set(e, E_LIMIT, "uid %u has %zu connections", (unsigned)peer.uid, n);
}

int
grpc_server_adopt(struct grpc_server *s, int take_fd, struct err *e)
{
    struct server_conn *c = calloc(1, sizeof(*c));

    if (c == NULL) {
        (void)close(take_fd);
        return err_nomem(e);
    }
    c->s = s;
    c->retire_at_ms = UINT64_MAX;
    if (check_uid(s, c, take_fd, e) < 0) {
        (void)close(take_fd);
        free(c);
        return -(int)e->code;
    }
    if (conn_start(s, c, take_fd, e) < 0) {
        conn_destroy(c);
        return err_result(e);
    }
    c->next = s->conns;
    if (c->next != NULL)
        c->next->prev = c;
    s->conns = c;
    s->conns_n++;
    if (++s->untrimmed_n >= TRIM_AFTER)
        timer_set(s->trim, TRIM_PAUSE_MS);
    c->is_opening = true;
    s->opening_n++;
    timer_set(c->tick, GRPC_OPENING_MS);
    return 0;
}

/* -- listening ----------------------------------------------------------------------------------
 */

static bool
may_accept(const struct grpc_server *s)
{
    return s->conns_n < s->conf.max_connections && s->opening_n < s->conf.max_opening;
}

/* Who has hung up while it waited in the kernel's queue has left a ClientHello there: answering it
 * would cost a signature. */
static bool
has_hung_up(int fd)
{
    struct tcp_info info;
    socklen_t n = sizeof(info);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 &&
           info.tcpi_state != TCP_ESTABLISHED;
}

/* r: true when there may be more to accept. */
static bool
accept_one(struct grpc_server *s)
{
    struct err e;
    int one = 1, fd = accept4(s->conf.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            (void)event_del(s->accept_ev);
            timer_set(s->accept_retry, ACCEPT_RETRY_MS);
        }
        return errno == EINTR || errno == ECONNABORTED;
    }
    if (has_hung_up(fd)) {
        (void)close(fd);
        return true;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)!grpc_server_adopt(s, fd, &e); /* the client sees a closed connection */
    return true;
}

static void
on_accept(evutil_socket_t fd, short what, void *arg)
{
    struct grpc_server *s = arg;

    (void)fd;
    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        if (!may_accept(s)) {
            (void)event_del(s->accept_ev); /* the next ones wait in the kernel's queue */
            return;
        }
        if (!accept_one(s))
            return;
    }
}

static void
accept_resume(struct grpc_server *s)
{
    if (!s->is_draining && may_accept(s) && event_add(s->accept_ev, NULL) < 0)
        timer_set(s->accept_retry, ACCEPT_RETRY_MS);
}

static void
on_accept_retry(void *arg)
{
    accept_resume(arg);
}

static void
on_grace(void *arg)
{
    struct grpc_server *s = arg;
    loop_fn *fn = s->drained;

    while (s->conns != NULL)
        conn_end(s->conns);
    timer_stop(s->grace);
    s->drained = NULL;
    if (fn != NULL)
        fn(s->drained_arg);
}

/* Handshakes leave holes of many pages between what stays: after a burst they are most of it. */
static void
on_trim(void *arg)
{
    struct grpc_server *s = arg;

    s->untrimmed_n = 0;
    (void)malloc_trim(0);
}

static int
server_start(struct grpc_server *s, struct err *e)
{
    TRY(h2_pool_new(&s->streams, e));
    TRY(timer_new(s->loop, on_accept_retry, s, &s->accept_retry, e));
    TRY(timer_new(s->loop, on_grace, s, &s->grace, e));
    TRY(timer_new(s->loop, on_trim, s, &s->trim, e));
    s->accept_ev =
        event_new(loop_base(s->loop), s->conf.listen_fd, EV_READ | EV_PERSIST, on_accept, s);
    if (s->accept_ev == NULL || event_add(s->accept_ev, NULL) < 0)
        return err_nomem(e);
    return 0;
}

int
grpc_server_new(struct loop *l, const struct grpc_server_conf *conf, struct grpc_server **ret,
                struct err *e)
{
    struct grpc_server *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        (void)close(conf->listen_fd);
        return err_nomem(e);
    }
    s->conf = *conf;
    s->loop = l;
    if (conf->tls != NULL)
        s->conf.tls = tls_conf_ref(conf->tls);
    if (s->conf.max_message_bytes == 0)
        s->conf.max_message_bytes = GRPC_MAX_MESSAGE_BYTES;
    if (s->conf.max_connections == 0)
        s->conf.max_connections = GRPC_MAX_CONNECTIONS;
    if (s->conf.max_opening == 0)
        s->conf.max_opening = GRPC_MAX_OPENING;
    if (server_start(s, e) < 0) {
        grpc_server_free(s);
        return err_wrap(e, "grpc server");
    }
    *ret = s;
    return 0;
}

void
grpc_server_set_tls(struct grpc_server *s, struct tls_conf *tls)
{
    struct tls_conf *old = s->conf.tls;

    s->conf.tls = tls == NULL ? NULL : tls_conf_ref(tls);
    tls_conf_unref(old);
}

size_t
grpc_server_connections(const struct grpc_server *s)
{
    return s->conns_n;
}

size_t
grpc_server_opening(const struct grpc_server *s)
{
    return s->opening_n;
}

/* Who waits in the kernel's queue believes to be connected: a reset would fail its calls. */
static void
accept_rest(struct grpc_server *s)
{
    while (s->conns_n < s->conf.max_connections && accept_one(s))
        ;
}

void
grpc_server_drain(struct grpc_server *s, uint64_t grace_ms, loop_fn *done, void *arg)
{
    uint64_t now = mono_ms();

    accept_rest(s);
    s->is_draining = true;
    s->drained = done;
    s->drained_arg = arg;
    (void)event_del(s->accept_ev);
    timer_stop(s->accept_retry);
    (void)close(s->conf.listen_fd);
    s->conf.listen_fd = -1;
    for (struct server_conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next;
        if (!h2_conn_is_open(c->io) || c->retire != RETIRE_NOT)
            continue;              /* on_open sees to it; or it is ending */
        (void)retire_step(c, now); /* the first: it does not end the connection */
        server_conn_tick_by(c, c->retire_at_ms, now);
    }
    timer_set(s->grace, s->conns == NULL ? 0 : grace_ms);
}

static void
server_destroy(void *arg)
{
    struct grpc_server *s = arg;

    while (s->free_calls != NULL) {
        struct grpc_call *call = s->free_calls;

        s->free_calls = call->next;
        server_call_free(call);
    }
    h2_pool_free(s->streams); /* the connections' sessions have gone before, in order */
    free(s);
}

void
grpc_server_free(struct grpc_server *s)
{
    if (s == NULL)
        return;
    s->is_freed = true;
    while (s->conns != NULL)
        conn_end(s->conns);
    if (s->accept_ev != NULL)
        event_free(s->accept_ev);
    timer_free(s->accept_retry);
    timer_free(s->grace);
    timer_free(s->trim);
    if (s->conf.listen_fd >= 0)
        (void)close(s->conf.listen_fd);
    tls_conf_unref(s->conf.tls);
    loop_defer(s->loop, server_destroy, s);
}
