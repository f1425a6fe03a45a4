#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/grpc.h"
#include "net/grpc_frame.h"
#include "net/grpc_server.h"
#include "net/h2_conn.h"
#include "net/loop_event.h"

enum {
    ACCEPTS_PER_TURN = 64,
    ACCEPT_RETRY_MS = 100, /* after the system ran out of descriptors */
    KEEPALIVE_MS = 30 * 1000,
    POOL_MAX = 256, /* calls kept for reuse */
    MESSAGE_KEEP_BYTES = 16 * 1024,
    TRAILERS_BYTES = 4 * 1024,
    TRAILERS_MAX = 8,
    TEXT_MAX_BYTES = 2 * 1024, /* of grpc-message */
    NEVER_MS = 24 * 3600 * 1000,
};

struct grpc_call {
    struct grpc_call *next, *prev; /* of its connection; of the pool (next only) */
    struct server_conn *conn;
    struct h2_stream *st;
    const struct grpc_method *method;
    struct grpc_reader reader;
    uint64_t deadline_ms; /* mono; 0: none */
    loop_fn *on_gone;
    void *gone_arg;
    struct buf trailers; /* name NUL value NUL, in the order given */
    bool is_handed;      /* on_request has been called */
    bool has_headers;    /* sent */
};

struct server_conn {
    struct server_conn *next, *prev;
    struct grpc_server *s;
    struct h2_conn *io;
    struct grpc_call *calls;
    struct timer *tick;
    uint64_t tick_at_ms, last_call_ms;
    char addr[ADDR_TEXT_BYTES];
};

struct grpc_server {
    struct grpc_server_conf conf;
    struct loop *loop;
    struct event *accept_ev;
    struct timer *accept_retry, *grace;
    struct h2_pool *streams;
    struct grpc_call *free_calls;
    size_t free_calls_n;
    struct server_conn *conns;
    size_t conns_n;
    bool is_draining, is_freed;
    loop_fn *drained;
    void *drained_arg;
};

/* -- calls --------------------------------------------------------------------------------------
 */

static struct grpc_call *
call_get(struct server_conn *c, struct h2_stream *st)
{
    struct grpc_server *s = c->s;
    struct grpc_call *call = s->free_calls;

    if (call != NULL) {
        s->free_calls = call->next;
        s->free_calls_n--;
    } else {
        call = calloc(1, sizeof(*call));
        if (call == NULL)
            return NULL;
        call->reader = GRPC_READER_INIT(s->conf.max_message_bytes);
        call->trailers = BUF_INIT(TRAILERS_BYTES);
    }
    call->conn = c;
    call->st = st;
    call->prev = NULL;
    call->next = c->calls;
    if (call->next != NULL)
        call->next->prev = call;
    c->calls = call;
    h2_set_user(st, call);
    return call;
}

static void
call_destroy(struct grpc_call *call)
{
    grpc_reader_done(&call->reader);
    buf_done(&call->trailers);
    free(call);
}

/* Parts the call from its stream and connection. */
static void
call_put(struct grpc_call *call)
{
    struct server_conn *c = call->conn;
    struct grpc_server *s = c->s;

    if (call->prev != NULL)
        call->prev->next = call->next;
    else
        c->calls = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    h2_set_user(call->st, NULL); /* it may outlive the call: on_close comes for it */
    if (s->free_calls_n >= POOL_MAX) {
        call_destroy(call);
        return;
    }
    grpc_reader_next(&call->reader);
    if (call->reader.msg.cap > MESSAGE_KEEP_BYTES)
        grpc_reader_done(&call->reader);
    *call = (struct grpc_call){ .reader = call->reader, .trailers = call->trailers };
    call->trailers.n = 0;
    call->next = s->free_calls;
    s->free_calls = call;
    s->free_calls_n++;
}

/* Tells the handler, if one holds the call, and lets go of it. */
static void
call_gone(struct grpc_call *call)
{
    loop_fn *fn = call->on_gone;
    void *arg = call->gone_arg;

    call_put(call);
    if (fn != NULL)
        fn(arg);
}

static struct h2_nv
nv(const char *name, const char *value)
{
    return (struct h2_nv){ span_str(name), span_str(value) };
}

/* The last header block: as trailers, or alone. */
static int
send_end(struct grpc_call *call, const char *status, const char *code, struct span text,
         struct err *e)
{
    struct h2_nv v[5 + TRAILERS_MAX];
    size_t n = 0;
    bool is_only = !call->has_headers;

    if (is_only) {
        v[n++] = nv(":status", status);
        v[n++] = nv("content-type", "application/grpc");
    }
    v[n++] = nv("grpc-status", code);
    if (text.n > 0)
        v[n++] = (struct h2_nv){ span_str("grpc-message"), text };
    if (code[0] == '1' && code[1] == '2')
        v[n++] = nv("grpc-accept-encoding", "identity");
    for (struct span rest = buf_span(&call->trailers); rest.n > 0;) {
        size_t name_n = strlen((const char *)rest.p);
        struct span value = span_skip(rest, name_n + 1);

        value.n = strlen((const char *)value.p);
        v[n++] = (struct h2_nv){ span_of(rest.p, name_n), value };
        rest = span_skip(rest, name_n + value.n + 2);
    }
    return is_only ? h2_respond(call->st, v, n, true, e) : h2_finish(call->st, v, n, e);
}

static void
finish_with_status(struct grpc_call *call, const char *status, int code, const char *msg)
{
    CLEANUP(buf_done) struct buf text = BUF_INIT(TEXT_MAX_BYTES);
    struct h2_conn *io = call->conn->io;
    struct h2_stream *st = call->st;
    char digits[12];
    struct err e;

    (void)snprintf(digits, sizeof(digits), "%d", code);
    if (msg != NULL && grpc_percent_encode(&text, msg, &e) < 0)
        text.n = 0;
    int r = send_end(call, status, digits, buf_span(&text), &e);
    call->on_gone = NULL;
    call_put(call);
    if (r < 0)
        h2_reset(st, H2_INTERNAL);
    h2_conn_flush(io);
}

void
grpc_finish(struct grpc_call *c, int code, const char *msg)
{
    finish_with_status(c, "200", code, msg);
}

static int
send_headers(struct grpc_call *c, struct err *e)
{
    const struct h2_nv v[] = { nv(":status", "200"), nv("content-type", "application/grpc") };

    if (c->has_headers)
        return 0;
    TRY(h2_respond(c->st, v, ARRAY_LEN(v), false, e));
    c->has_headers = true;
    return 0;
}

int
grpc_send(struct grpc_call *c, struct span msg, struct err *e)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    TRY(send_headers(c, e));
    grpc_prefix(msg.n, prefix);
    if (h2_send(c->st, span_of(prefix, sizeof(prefix)), msg, e) < 0)
        return e->code == E_LIMIT ? err_set(e, E_LIMIT, "grpc: the client does not read")
                                  : -(int)e->code;
    h2_conn_flush(c->conn->io);
    return 0;
}

int
grpc_trailer(struct grpc_call *c, const char *name, const char *value, struct err *e)
{
    size_t before = c->trailers.n, n = 0;

    for (size_t i = 0; i < before; i++)
        n += c->trailers.p[i] == 0;
    if (n >= 2 * (size_t)TRAILERS_MAX)
        return err_set(e, E_LIMIT, "grpc: more than %d trailers", (int)TRAILERS_MAX);
    if (buf_add(&c->trailers, span_of(name, strlen(name) + 1), e) < 0)
        return -(int)e->code;
    if (buf_add(&c->trailers, span_of(value, strlen(value) + 1), e) < 0) {
        c->trailers.n = before;
        return -(int)e->code;
    }
    return 0;
}

struct span
grpc_header(const struct grpc_call *c, const char *name)
{
    return h2_field(c->st, name, 0);
}

size_t
grpc_header_count(const struct grpc_call *c, const char *name)
{
    size_t n = 0;

    while (h2_field(c->st, name, n).p != NULL)
        n++;
    return n;
}

const struct tls_peer *
grpc_peer(const struct grpc_call *c)
{
    return h2_conn_peer(c->conn->io);
}

const char *
grpc_peer_addr(const struct grpc_call *c)
{
    return c->conn->addr;
}

void
grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg)
{
    c->on_gone = fn;
    c->gone_arg = arg;
}

/* -- requests -----------------------------------------------------------------------------------
 */

static const struct grpc_method *
method_find(const struct grpc_server *s, struct span path)
{
    for (size_t i = 0; i < s->conf.methods_n; i++)
        if (span_eq_str(path, s->conf.methods[i].path))
            return &s->conf.methods[i];
    return NULL;
}

/* In the words of grpc-go, which istiod's users know. */
static void
refuse_unknown(struct grpc_call *call, struct span path)
{
    const uint8_t *slash = path.n < 2 ? NULL : memrchr(path.p + 1, '/', path.n - 1);
    char text[256];

    if (path.n == 0 || path.p[0] != '/' || slash == NULL) {
        grpc_finish(call, GRPC_UNIMPLEMENTED, "malformed method name");
        return;
    }
    int service_n = (int)(slash - path.p - 1);
    (void)snprintf(text, sizeof(text), "unknown service %.*s", service_n > 200 ? 200 : service_n,
                   (const char *)path.p + 1);
    for (size_t i = 0; i < call->conn->s->conf.methods_n; i++) {
        const char *known = call->conn->s->conf.methods[i].path;

        if (strncmp(known, (const char *)path.p, (size_t)service_n + 2) == 0)
            (void)snprintf(text, sizeof(text), "unknown method %.*s for service %.*s",
                           (int)(path.n - (size_t)service_n - 2) > 80
                               ? 80
                               : (int)(path.n - (size_t)service_n - 2),
                           (const char *)slash + 1, service_n > 100 ? 100 : service_n,
                           (const char *)path.p + 1);
    }
    grpc_finish(call, GRPC_UNIMPLEMENTED, text);
}

static void
conn_tick_by(struct server_conn *c, uint64_t at_ms, uint64_t now_ms)
{
    if (at_ms >= c->tick_at_ms)
        return;
    c->tick_at_ms = at_ms;
    timer_set(c->tick, at_ms > now_ms ? at_ms - now_ms : 0);
}

static int
set_deadline(struct grpc_call *call, struct err *e)
{
    struct span asked = grpc_header(call, "grpc-timeout");
    uint64_t now = h2_conn_last_read_ms(call->conn->io), ms = GRPC_MAX_CALL_MS;

    if (asked.p != NULL) {
        TRY(grpc_timeout_parse(asked, &ms, e));
        if (!call->method->streams && ms > GRPC_MAX_CALL_MS)
            ms = GRPC_MAX_CALL_MS;
    } else if (call->method->streams)
        return 0;
    call->deadline_ms = now + (ms == 0 ? 1 : ms);
    conn_tick_by(call->conn, call->deadline_ms, now);
    return 0;
}

/* Everything that can be said before the message. true: go on. */
static bool
request_ok(struct grpc_call *call)
{
    struct span path = grpc_header(call, ":path");
    struct err e;

    if (h2_fields_too_big(call->st)) {
        grpc_finish(call, GRPC_RESOURCE_EXHAUSTED, "grpc: too many or too long request headers");
        return false;
    }
    if (!span_eq_str(grpc_header(call, ":method"), "POST")) {
        finish_with_status(call, "405", GRPC_UNIMPLEMENTED, "the method is not POST");
        return false;
    }
    if (!grpc_content_type_ok(grpc_header(call, "content-type"))) {
        finish_with_status(call, "415", GRPC_UNKNOWN, "the content-type is not application/grpc");
        return false;
    }
    call->method = method_find(call->conn->s, path);
    if (call->method == NULL) {
        refuse_unknown(call, path);
        return false;
    }
    if (set_deadline(call, &e) < 0) {
        grpc_finish(call, GRPC_INTERNAL, e.msg);
        return false;
    }
    return true;
}

static void
on_headers(struct h2_stream *st, bool end, void *self)
{
    struct server_conn *c = self;

    (void)end;
    if (h2_user(st) != NULL)
        return; /* the client's trailers: nothing in them is for us */
    if (grpc_server_is_draining(c->s)) {
        h2_reset(st, H2_REFUSED);
        return;
    }
    struct grpc_call *call = call_get(c, st);
    if (call == NULL) {
        h2_reset(st, H2_REFUSED);
        return;
    }
    c->last_call_ms = h2_conn_last_read_ms(c->io);
    (void)request_ok(call);
}

static int
code_of(const struct err *e)
{
    if (e->code == E_DENIED)
        return GRPC_UNIMPLEMENTED;
    if (e->code == E_LIMIT || e->code == E_NOMEM)
        return GRPC_RESOURCE_EXHAUSTED;
    return GRPC_INTERNAL;
}

static void
on_data(struct h2_stream *st, struct span s, void *self)
{
    struct grpc_call *call = h2_user(st);
    struct err e;

    (void)self;
    if (call == NULL)
        return; /* answered already */
    bool is_whole = call->reader.prefix_n == GRPC_PREFIX_BYTES && call->reader.left == 0;
    if (!is_whole && grpc_reader_feed(&call->reader, &s, &e) < 0)
        grpc_finish(call, code_of(&e), e.msg);
    else if (s.n > 0)
        grpc_finish(call, GRPC_INTERNAL, "grpc: more than one request message");
}

/* The handler runs when the client has finished, so that there is exactly one message. */
static void
on_end(struct h2_stream *st, void *self)
{
    struct server_conn *c = self;
    struct grpc_call *call = h2_user(st);

    if (call == NULL || call->is_handed)
        return;
    if (call->reader.prefix_n < GRPC_PREFIX_BYTES || call->reader.left > 0) {
        grpc_finish(call, GRPC_INTERNAL, "grpc: the request ended before its message");
        return;
    }
    call->is_handed = true;
    call->method->on_request(call, buf_span(&call->reader.msg), c->s->conf.self);
}

static void
on_close(struct h2_stream *st, uint32_t code, void *self)
{
    struct grpc_call *call = h2_user(st);

    (void)code;
    (void)self;
    if (call != NULL)
        call_gone(call);
}

/* -- connections --------------------------------------------------------------------------------
 */

static void accept_resume(struct grpc_server *s);

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
        call_gone(c->calls);
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
    accept_resume(s);
    if (s->is_draining && s->conns_n == 0)
        timer_set(s->grace, 0);
}

static void
on_closed(const struct err *why, void *self)
{
    (void)why; /* a client that goes away is nothing to report */
    conn_end(self);
}

static void
on_open(void *self)
{
    struct server_conn *c = self;

    c->last_call_ms = mono_ms();
    c->tick_at_ms = UINT64_MAX;
    conn_tick_by(c, c->last_call_ms + KEEPALIVE_MS, c->last_call_ms);
}

/* The call's time is over. */
static void
call_expire(struct grpc_call *call)
{
    loop_fn *gone = call->on_gone;
    void *arg = call->gone_arg;

    grpc_finish(call, GRPC_DEADLINE_EXCEEDED, "the deadline has passed");
    if (gone != NULL)
        gone(arg);
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

    c->tick_at_ms = UINT64_MAX;
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
    conn_tick_by(c, next < check ? next : check, now);
}

static const struct h2_ops server_ops = {
    .on_headers = on_headers, .on_data = on_data, .on_end = on_end, .on_close = on_close
};

static int
conn_start(struct grpc_server *s, struct server_conn *c, int fd, struct err *e)
{
    const struct h2_conn_conf conf = { .fd = fd,
                                       .tls = s->conf.tls,
                                       .open_ms = GRPC_HANDSHAKE_MS,
                                       .h2 = { .is_server = true,
                                               .max_streams = GRPC_MAX_STREAMS,
                                               .max_header_bytes = GRPC_MAX_HEADER_BYTES,
                                               .ops = &server_ops,
                                               .self = c,
                                               .pool = s->streams },
                                       .on_open = on_open,
                                       .on_closed = on_closed };

    if (timer_new(s->loop, on_tick, c, &c->tick, e) < 0) {
        (void)close(fd);
        return -(int)e->code;
    }
    addr_of_peer(fd, c->addr);
    return h2_conn_new(s->loop, &conf, &c->io, e);
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
    if (conn_start(s, c, take_fd, e) < 0) {
        conn_destroy(c);
        return -(int)e->code;
    }
    c->next = s->conns;
    if (c->next != NULL)
        c->next->prev = c;
    s->conns = c;
    s->conns_n++;
    return 0;
}

/* -- listening ----------------------------------------------------------------------------------
 */

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
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)!grpc_server_adopt(s, fd, &e); /* out of memory: the client sees a closed connection */
    return true;
}

static void
on_accept(evutil_socket_t fd, short what, void *arg)
{
    struct grpc_server *s = arg;

    (void)fd;
    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        if (s->conns_n >= s->conf.max_connections) {
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
    if (!s->is_draining && s->conns_n < s->conf.max_connections)
        (void)event_add(s->accept_ev, NULL);
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

static int
server_start(struct grpc_server *s, struct err *e)
{
    TRY(h2_pool_new(&s->streams, e));
    TRY(timer_new(s->loop, on_accept_retry, s, &s->accept_retry, e));
    TRY(timer_new(s->loop, on_grace, s, &s->grace, e));
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

bool
grpc_server_is_draining(const struct grpc_server *s)
{
    return s->is_draining;
}

/* Streams have no end of their own: they are told to come back elsewhere. */
static void
conn_drain(struct server_conn *c)
{
    for (struct grpc_call *call = c->calls, *next; call != NULL; call = next) {
        next = call->next;
        if (call->method != NULL && call->method->streams) {
            loop_fn *gone = call->on_gone;
            void *arg = call->gone_arg;

            grpc_finish(call, GRPC_UNAVAILABLE, "the server is shutting down");
            if (gone != NULL)
                gone(arg);
        }
    }
    h2_goaway(h2_conn_h2(c->io));
    h2_conn_flush(c->io);
}

void
grpc_server_drain(struct grpc_server *s, uint64_t grace_ms, loop_fn *done, void *arg)
{
    s->is_draining = true;
    s->drained = done;
    s->drained_arg = arg;
    (void)event_del(s->accept_ev);
    timer_stop(s->accept_retry);
    (void)close(s->conf.listen_fd);
    s->conf.listen_fd = -1;
    for (struct server_conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next;
        if (h2_conn_is_open(c->io))
            conn_drain(c);
        else
            conn_end(c);
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
        call_destroy(call);
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
    if (s->conf.listen_fd >= 0)
        (void)close(s->conf.listen_fd);
    tls_conf_unref(s->conf.tls);
    loop_defer(s->loop, server_destroy, s);
}
