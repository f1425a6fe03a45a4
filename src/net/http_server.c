/* http_server.c - evhttp behind net/http.h; the only file that sees event2/http.h. */
#include "net/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/http_head.h"
#include "net/http_target.h"
#include "net/loop_event.h"
#include "net/tls_openssl.h"

enum {
    HTTP_METHODS_N = 6,
    HTTP_REPLY_HEADERS = 24,
    LISTEN_BACKLOG = 256,
    FULL_LOOK_MS = 200,
    LOOK_MS = 1000
};

static const struct {
    enum evhttp_cmd_type type;
    const char *name;
} methods[HTTP_METHODS_N] = {
    { EVHTTP_REQ_GET, "GET" },     { EVHTTP_REQ_PUT, "PUT" },       { EVHTTP_REQ_POST, "POST" },
    { EVHTTP_REQ_PATCH, "PATCH" }, { EVHTTP_REQ_DELETE, "DELETE" }, { EVHTTP_REQ_HEAD, "HEAD" },
};

/* One open connection. libevent does not say when evhttp lets go of one that never made a request,
 * so connections are known by descriptor and inode, and looked over while there are any. */
struct conn {
    struct conn *next;
    struct gate *gate;
    struct bufferevent *bev; /* a reference, until its descriptor is known */
    int fd;
    ino_t ino;
    uint64_t since_ms; /* we wait for a whole request; 0: one is being answered */
};

/* Keeps the number of connections under the limit, and each moving. */
struct gate {
    size_t open, max;
    uint64_t request_ms;
    struct conn *conns;
    struct loop *loop;
    struct metrics *metrics;
    const char *name;
    struct evconnlistener *listener; /* evhttp's own; off while the gate is full */
    struct event *refuse;            /* on while the gate is full: accepts and closes */
    struct timer *look;              /* on while there are connections */
};

struct http_server {
    struct evhttp *http;
    struct tls_conf *tls; /* owned reference, or NULL */
    struct gate gate;
    struct http_exchange *exchanges; /* under way */
    void (*on_request)(struct http_exchange *x, void *self);
    void *self;
};

struct http_exchange {
    struct http_server *server;
    struct http_exchange *next, **prev; /* in server->exchanges */
    struct evhttp_request *req;         /* evhttp's */
    struct http_target target;
    struct span body;
    char peer[ADDR_TEXT_BYTES];
    bool is_tls;
    size_t headers_n; /* of the answer */
    loop_fn *gone;
    void *gone_arg;
};

/* -- the gate -----------------------------------------------------------------------------------
 */

static bool
conn_is_open(const struct conn *c)
{
    struct stat st;

    return c->bev != NULL || (fstat(c->fd, &st) == 0 && st.st_ino == c->ino);
}

static void
count_cut(const struct gate *g, const char *reason)
{
    static const struct metric_desc cut = { "meshroot_http_connections_cut_total",
                                            "Connections that were cut, by listener and reason.",
                                            METRIC_COUNTER };
    char labels[METRIC_LABELS_BYTES];

    (void)snprintf(labels, sizeof(labels), "listener=\"%s\",reason=\"%s\"",
                   g->name == NULL ? "" : g->name, reason);
    metric_add(g->metrics, &cut, labels, 1);
}

/* Forgets those that are closed; cuts off those that have dripped for too long: evhttp, whose
 * timeouts begin anew with each byte, reads the end and closes them. */
static void
gate_look(struct gate *g)
{
    uint64_t now = mono_ms();

    for (struct conn **at = &g->conns; *at != NULL;) {
        struct conn *c = *at;

        if (!conn_is_open(c)) {
            *at = c->next;
            free(c);
            g->open--;
            continue;
        }
        at = &c->next;
        if (c->bev == NULL && c->since_ms != 0 && now - c->since_ms >= g->request_ms) {
            c->since_ms = 0; /* once */
            (void)shutdown(c->fd, SHUT_RDWR);
            count_cut(g, "drip");
        }
    }
}

static void
look_later(struct gate *g)
{
    uint64_t ms = g->open >= g->max ? FULL_LOOK_MS : LOOK_MS;

    timer_set(g->look, ms < g->request_ms ? ms : g->request_ms);
}

static void
on_gate_look(void *arg)
{
    struct gate *g = arg;
    bool was_full = g->open >= g->max;

    gate_look(g);
    if (g->conns != NULL)
        look_later(g);
    if (!was_full || g->open >= g->max)
        return;
    (void)event_del(g->refuse);
    (void)evconnlistener_enable(g->listener);
}

/* The connection that evhttp has at `fd`; NULL: it is not known any more. */
static struct conn *
conn_of(const struct gate *g, int fd)
{
    for (struct conn *c = g->conns; c != NULL; c = c->next)
        if (c->bev == NULL && c->fd == fd && conn_is_open(c))
            return c;
    return NULL;
}

/* evhttp has given the connection its descriptor by now. */
static void
on_conn_known(void *arg)
{
    struct conn *c = arg;
    struct stat st = { 0 };

    c->fd = bufferevent_getfd(c->bev);
    c->ino = c->fd >= 0 && fstat(c->fd, &st) == 0 ? st.st_ino : 0;
    /* evhttp writes head and body one after the other: without this each answer waits 40 ms for an
     * ACK of its head. Fails on Unix sockets, which do not need it. */
    if (c->fd >= 0)
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    (void)bufferevent_decref(STEAL(c->bev));
    if (c->gate == NULL) /* the server ended in the meantime */
        free(c);
}

/* Counts a new connection; does nothing with NULL. */
static struct bufferevent *
gate_enter(struct gate *g, struct bufferevent *bev)
{
    struct conn *c = bev == NULL ? NULL : calloc(1, sizeof(*c));

    if (c == NULL) {
        if (bev != NULL)
            bufferevent_free(bev);
        return NULL;
    }
    bufferevent_incref(bev);
    *c = (struct conn){ .next = g->conns, .gate = g, .bev = bev, .fd = -1, .since_ms = mono_ms() };
    if (g->conns == NULL)
        look_later(g);
    g->conns = c;
    loop_defer(g->loop, on_conn_known, c);
    if (++g->open >= g->max)
        gate_look(g);
    if (g->open >= g->max) {
        (void)evconnlistener_disable(g->listener);
        (void)event_add(g->refuse, NULL); /* else they wait for the next look */
        look_later(g);
    }
    return bev;
}

static void
gate_done(struct gate *g)
{
    while (g->conns != NULL) {
        struct conn *c = g->conns;

        g->conns = c->next;
        c->gate = NULL;
        if (c->bev == NULL) /* else on_conn_known frees it */
            free(c);
    }
    if (g->refuse != NULL)
        event_free(g->refuse);
    timer_free(g->look);
}

/* The gate is full: a quick "no" is better than a connection that waits for nothing. */
static void
on_refuse(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    for (int i = 0; i < LISTEN_BACKLOG; i++) {
        int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (c < 0)
            return;
        (void)close(c);
        count_cut(arg, "full");
    }
}

/* -- connections --------------------------------------------------------------------------------
 */

static struct bufferevent *
tls_bev(struct http_server *s, struct event_base *base)
{
    struct err e = { 0 };
    SSL *ssl = NULL;

    if (tls_ssl_new(s->tls, NULL, &ssl, &e) < 0)
        return NULL;
    /* libevent asks SSL_pending, which does not count records read ahead: a body that comes in one
     * segment with the end of the handshake would wait for ever */
    SSL_set_read_ahead(ssl, 0);
    struct bufferevent *bev = bufferevent_openssl_socket_new(
        base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (bev == NULL)
        SSL_free(ssl);
    else /* clients that hang up without a TLS goodbye are no error */
        bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    return bev;
}

/* NULL makes evhttp use a clear-text connection of its own: on_evhttp refuses it on a TLS server.
 */
static struct bufferevent *
on_connection(struct event_base *base, void *arg)
{
    struct http_server *s = arg;

    return gate_enter(&s->gate,
                      s->tls != NULL ? tls_bev(s, base) : bufferevent_socket_new(base, -1, 0));
}

static void
peer_text(evutil_socket_t fd, char ret[ADDR_TEXT_BYTES])
{
    struct sockaddr_storage sa = { 0 };
    socklen_t n = sizeof(sa);
    char ip[INET6_ADDRSTRLEN] = "";
    const struct sockaddr_in *v4 = (const void *)&sa;
    const struct sockaddr_in6 *v6 = (const void *)&sa;

    if (getpeername(fd, (void *)&sa, &n) == 0 && sa.ss_family == AF_INET &&
        inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip)) != NULL)
        (void)snprintf(ret, ADDR_TEXT_BYTES, "%s:%u", ip, ntohs(v4->sin_port));
    else if (sa.ss_family == AF_INET6 &&
             inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof(ip)) != NULL)
        (void)snprintf(ret, ADDR_TEXT_BYTES, "[%s]:%u", ip, ntohs(v6->sin6_port));
    else
        (void)snprintf(ret, ADDR_TEXT_BYTES, "unix");
}

/* -- exchanges ----------------------------------------------------------------------------------
 */

static void
exchange_free(struct http_exchange *x)
{
    if (x->prev != NULL) {
        *x->prev = x->next;
        if (x->next != NULL)
            x->next->prev = x->prev;
    }
    if (x->body.n > 0) /* it may have been a secret's value; the bytes are ours until the reply */
        explicit_bzero(evbuffer_pullup(evhttp_request_get_input_buffer(x->req), -1), x->body.n);
    http_target_done(&x->target);
    free(x);
}

/* evhttp gives up a connection with an unanswered request. When it has let the request go
 * (the client hung up) that one is ours to free; else (the server ends) evhttp does. */
static void
on_connection_gone(struct evhttp_connection *c, void *arg)
{
    struct http_exchange *x = arg;
    struct evhttp_request *req = x->req;
    loop_fn *gone = x->gone;
    void *gone_arg = x->gone_arg;
    bool is_ours = evhttp_request_get_connection(req) == NULL;

    evhttp_connection_set_closecb(c, NULL, NULL);
    exchange_free(x);
    if (is_ours)
        evhttp_request_free(req);
    if (gone != NULL)
        gone(gone_arg);
}

static void
error_reply(struct evhttp_request *req, int status, const char *text)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *body = evhttp_request_get_output_buffer(req);

    (void)evhttp_add_header(headers, "Content-Type", "text/plain; charset=utf-8");
    (void)evhttp_add_header(headers, "Connection", "close");
    (void)evbuffer_add_printf(body, "%s\n", text);
    evhttp_send_reply(req, status, NULL, NULL);
}

static int
head_check(struct evhttp_request *req, struct err *e)
{
    struct http_head h = { 0 };
    const struct evkeyval *f = TAILQ_FIRST(evhttp_request_get_input_headers(req));

    for (; f != NULL; f = TAILQ_NEXT(f, next))
        TRY(http_head_see(&h, f->key, f->value, e));
    return 0;
}

static int
exchange_fill(struct http_exchange *x, struct err *e)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(x->req);
    const char *uri = evhttp_request_get_uri(x->req);

    TRY(head_check(x->req, e));
    TRY(http_target_parse(span_str(uri == NULL ? "" : uri), &x->target, e));
    x->body.n = evbuffer_get_length(in);
    x->body.p = x->body.n == 0 ? NULL : evbuffer_pullup(in, -1);
    if (x->body.n > 0 && x->body.p == NULL) {
        x->body.n = 0;
        return err_nomem(e);
    }
    return 0;
}

/* From here on we wait for a request of that connection (since_ms), or it for us (0). */
static void
mark(const struct http_server *s, int fd, uint64_t since_ms)
{
    struct conn *c = conn_of(&s->gate, fd);

    if (c != NULL)
        c->since_ms = since_ms;
}

static void
on_evhttp(struct evhttp_request *req, void *arg)
{
    struct http_server *s = arg;
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    struct bufferevent *bev = evhttp_connection_get_bufferevent(c);
    bool is_tls = bufferevent_openssl_get_ssl(bev) != NULL;
    struct err e = { 0 };

    struct http_exchange *x = is_tls != (s->tls != NULL) ? NULL : calloc(1, sizeof(*x));
    if (x == NULL) {
        error_reply(req, 503, "out of memory");
        return;
    }
    *x = (struct http_exchange){ .server = s, .req = req, .is_tls = is_tls };
    if (exchange_fill(x, &e) < 0) {
        exchange_free(x);
        error_reply(req, e.code == E_NOMEM ? 503 : 400, e.msg);
        return;
    }
    peer_text(bufferevent_getfd(bev), x->peer);
    x->next = s->exchanges;
    x->prev = &s->exchanges;
    if (x->next != NULL)
        x->next->prev = &x->next;
    s->exchanges = x;
    evhttp_connection_set_closecb(c, on_connection_gone, x);
    mark(s, bufferevent_getfd(bev), 0);
    s->on_request(x, s->self);
}

const char *
http_method(const struct http_exchange *x)
{
    for (size_t i = 0; i < HTTP_METHODS_N; i++)
        if (methods[i].type == evhttp_request_get_command(x->req))
            return methods[i].name;
    return "";
}

const char *
http_path(const struct http_exchange *x)
{
    return x->target.path;
}

const char *
http_query(const struct http_exchange *x, const char *name)
{
    return http_target_query(&x->target, name);
}

const char *
http_header(const struct http_exchange *x, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(x->req), name);
}

struct span
http_body(const struct http_exchange *x)
{
    return x->body;
}

const char *
http_peer_addr(const struct http_exchange *x)
{
    return x->peer;
}

bool
http_is_tls(const struct http_exchange *x)
{
    return x->is_tls;
}

void
http_on_gone(struct http_exchange *x, loop_fn *fn, void *arg)
{
    x->gone = fn;
    x->gone_arg = arg;
}

void
http_reply_header(struct http_exchange *x, const char *name, const char *value)
{
    if (x->headers_n++ < HTTP_REPLY_HEADERS)
        (void)evhttp_add_header(evhttp_request_get_output_headers(x->req), name, value);
}

void
http_reply(struct http_exchange *x, int status, const char *type, struct span body)
{
    struct evhttp_request *req = x->req;
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *out = evhttp_request_get_output_buffer(req);
    bool is_head = evhttp_request_get_command(req) == EVHTTP_REQ_HEAD;
    char length[24];

    if (type != NULL)
        (void)evhttp_add_header(headers, "Content-Type", type);
    if (is_head) { /* RFC 9110 9.3.2: the length that GET would have */
        (void)snprintf(length, sizeof(length), "%zu", body.n);
        (void)evhttp_add_header(headers, "Content-Length", length);
    } else if (body.n > 0 && evbuffer_add(out, body.p, body.n) < 0) {
        status = 503;
    }
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    evhttp_connection_set_closecb(c, NULL, NULL);
    mark(x->server, bufferevent_getfd(evhttp_connection_get_bufferevent(c)), mono_ms());
    exchange_free(x);
    evhttp_send_reply(req, status, NULL, NULL);
}

/* -- the server ---------------------------------------------------------------------------------
 */

static int
server_listen(struct http_server *s, struct event_base *base, int *take_fd, struct err *e)
{
    int fd = *take_fd;

    struct evconnlistener *lev = evconnlistener_new(
        base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, LISTEN_BACKLOG, fd);
    if (lev == NULL)
        return err_sys(e, errno, "cannot listen");
    *take_fd = -1;
    if (evhttp_bind_listener(s->http, lev) == NULL) {
        evconnlistener_free(lev);
        return err_nomem(e);
    }
    s->gate.listener = lev;
    s->gate.refuse = event_new(base, fd, EV_READ | EV_PERSIST, on_refuse, &s->gate);
    return s->gate.refuse == NULL ? err_nomem(e) : 0;
}

static int
server_open(struct http_server *s, struct loop *l, const struct http_server_conf *conf,
            int *take_fd, struct err *e)
{
    size_t max_body = conf->max_body_bytes == 0 ? HTTP_MAX_BODY_BYTES : conf->max_body_bytes;
    ev_uint16_t allowed = 0;

    if (evutil_make_socket_nonblocking(*take_fd) < 0)
        return err_sys(e, errno, "listening socket");
    s->http = evhttp_new(loop_base(l));
    if (s->http == NULL)
        return err_nomem(e);
    TRY(timer_new(l, on_gate_look, &s->gate, &s->gate.look, e));
    s->gate.loop = l;
    s->gate.metrics = conf->metrics;
    s->gate.name = conf->name;
    s->gate.request_ms = conf->request_ms == 0 ? HTTP_REQUEST_MS : conf->request_ms;
    s->gate.max = conf->max_connections == 0 ? HTTP_MAX_CONNECTIONS : conf->max_connections;
    for (size_t i = 0; i < HTTP_METHODS_N; i++)
        allowed = (ev_uint16_t)(allowed | methods[i].type);
    evhttp_set_allowed_methods(s->http, allowed);
    evhttp_set_max_headers_size(s->http, HTTP_MAX_HEADER_BYTES);
    evhttp_set_max_body_size(s->http, (ev_ssize_t)max_body);
    evhttp_set_timeout(s->http, HTTP_IDLE_S);
    evhttp_set_default_content_type(s->http, NULL);
    evhttp_set_bevcb(s->http, on_connection, s);
    evhttp_set_gencb(s->http, on_evhttp, s);
    return server_listen(s, loop_base(l), take_fd, e);
}

int
http_server_new(struct loop *l, const struct http_server_conf *conf, struct http_server **ret,
                struct err *e)
{
    int fd = conf->listen_fd;
    struct http_server *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        (void)close(fd);
        return err_nomem(e);
    }
    s->on_request = conf->on_request;
    s->self = conf->self;
    s->tls = conf->tls == NULL ? NULL : tls_conf_ref(conf->tls);
    if (server_open(s, l, conf, &fd, e) < 0) {
        if (fd >= 0)
            (void)close(fd);
        http_server_free(s);
        return err_wrap(e, "HTTP server");
    }
    *ret = s;
    return 0;
}

void
http_server_set_tls(struct http_server *s, struct tls_conf *tls)
{
    struct tls_conf *old = s->tls;

    s->tls = tls_conf_ref(tls);
    tls_conf_unref(old);
}

void
http_server_free(struct http_server *s)
{
    if (s == NULL)
        return;
    if (s->http != NULL)
        evhttp_free(s->http); /* on_connection_gone for each exchange under way */
    gate_done(&s->gate);
    tls_conf_unref(s->tls);
    free(s);
}
