#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/grpc.h"
#include "net/grpc_frame.h"
#include "net/h2_conn.h"
#include "net/resolve.h"

enum {
    CONNECT_MS = 5 * 1000,
    KEEPALIVE_MS = 30 * 1000,
    CLIENT_MESSAGE_BYTES = 1024 * 1024, /* of an answer */
    WAITING_MAX = 1024,                 /* calls without a connection or beyond its streams */
    HEADERS_MAX = 32,
    TEXT_MAX_BYTES = 2 * 1024,
    TICK_MAX_MS = 60 * 1000,
};

/* Where a call is. */
enum at { AT_WAITING, AT_SENT, AT_ENDED };

struct grpc_request {
    struct grpc_request *next, *prev; /* in the list that `at` names */
    enum at at;
    struct grpc_client *client;
    struct client_conn *conn; /* AT_SENT */
    struct h2_stream *st;     /* AT_SENT, and inside on_done when an answer came */
    struct grpc_answer answer;
    struct buf head; /* "name\0value\0"...: path first, then the caller's headers */
    size_t head_n;   /* pairs */
    struct buf body; /* prefix and message, until it is sent */
    struct grpc_reader reader;
    uint64_t deadline_ms; /* mono; 0: none */
    uint64_t timeout_ms;
    int code; /* AT_ENDED; or, before, -1: not known yet */
    char text[ERR_MSG_BYTES];
};

struct request_list {
    struct grpc_request *head, *tail;
    size_t n;
};

struct client_conn {
    struct client_conn *next; /* of the old ones */
    struct grpc_client *client;
    struct h2_conn *io;
    struct request_list sent;
    bool is_closing; /* takes no new calls */
};

struct grpc_client {
    struct loop *loop;
    char *host, *verify_name;
    uint16_t port;
    struct tls_conf *tls;
    uint64_t connect_ms, keepalive_ms;
    struct h2_pool *streams;
    struct client_conn *conn; /* in use or being made; NULL: dial at the next call */
    struct client_conn *old;  /* with calls under way */
    struct resolve *resolving;
    struct addr found[RESOLVE_MAX]; /* addresses to try, found_at next */
    size_t found_n, found_at;
    struct request_list waiting, ended;
    struct timer *tick;
    uint64_t tick_at_ms, dial_by_ms;
    bool sweep_is_due, is_freed;
};

static void sweep_soon(struct grpc_client *c);
static void dial(struct grpc_client *c);

/* -- lists --------------------------------------------------------------------------------------
 */

static void
list_add(struct request_list *l, struct grpc_request *q)
{
    q->next = NULL;
    q->prev = l->tail;
    if (l->tail != NULL)
        l->tail->next = q;
    else
        l->head = q;
    l->tail = q;
    l->n++;
}

static void
list_remove(struct request_list *l, struct grpc_request *q)
{
    if (q->prev != NULL)
        q->prev->next = q->next;
    else
        l->head = q->next;
    if (q->next != NULL)
        q->next->prev = q->prev;
    else
        l->tail = q->prev;
    l->n--;
}

static struct request_list *
list_of(struct grpc_request *q)
{
    if (q->at == AT_SENT)
        return &q->conn->sent;
    return q->at == AT_WAITING ? &q->client->waiting : &q->client->ended;
}

static void
tick_by(struct grpc_client *c, uint64_t at_ms, uint64_t now_ms)
{
    if (at_ms >= c->tick_at_ms)
        return;
    c->tick_at_ms = at_ms;
    timer_set(c->tick, at_ms > now_ms ? at_ms - now_ms : 0);
}

/* -- ends of calls ------------------------------------------------------------------------------
 */

static void
request_free(struct grpc_request *q)
{
    buf_done(&q->head);
    buf_done(&q->body);
    grpc_reader_done(&q->reader);
    free(q);
}

/* Off its list, the last word said, gone. */
static void
request_done(struct grpc_request *q, int code, const char *text)
{
    list_remove(list_of(q), q);
    if (q->st != NULL)
        h2_set_user(q->st, NULL);
    if (q->client->conn != NULL || q->client->old != NULL)
        sweep_soon(q->client);
    q->answer.on_done(code, text, q, q->answer.arg);
    request_free(q);
}

/* The same, but at the end of the turn: for callers that must not be called back. */
static void
request_end_later(struct grpc_request *q, int code, const char *text)
{
    list_remove(list_of(q), q);
    if (q->st != NULL) {
        h2_set_user(q->st, NULL);
        h2_reset(q->st, H2_CANCEL);
        h2_conn_flush(q->conn->io);
        q->st = NULL;
    }
    q->at = AT_ENDED;
    q->code = code;
    (void)snprintf(q->text, sizeof(q->text), "%s", text);
    list_add(&q->client->ended, q);
    sweep_soon(q->client);
}

static void
fail_all(struct request_list *l, const char *text)
{
    for (size_t n = l->n; n > 0 && l->head != NULL; n--) /* not those that on_done starts anew */
        request_done(l->head, GRPC_UNAVAILABLE, text);
}

/* -- one call on a connection -------------------------------------------------------------------
 */

static size_t
head_nv(const struct grpc_request *q, const char *timeout, struct h2_nv v[HEADERS_MAX + 8])
{
    struct span rest = buf_span(&q->head);
    size_t n = 0;

    v[n++] = (struct h2_nv){ span_str(":method"), span_str("POST") };
    v[n++] =
        (struct h2_nv){ span_str(":scheme"), span_str(q->client->tls == NULL ? "http" : "https") };
    for (size_t i = 0; i < q->head_n; i++) {
        struct span name = span_str((const char *)rest.p);
        struct span value = span_str((const char *)rest.p + name.n + 1);

        v[n++] = (struct h2_nv){ name, value };
        rest = span_skip(rest, name.n + value.n + 2);
        if (i != 1) /* :path, :authority, then what is the same for all, then the caller's */
            continue;
        v[n++] = (struct h2_nv){ span_str("content-type"), span_str("application/grpc") };
        v[n++] = (struct h2_nv){ span_str("te"), span_str("trailers") };
        v[n++] = (struct h2_nv){ span_str("user-agent"), span_str("meshroot/" MESHROOT_VERSION) };
        if (timeout[0] != '\0')
            v[n++] = (struct h2_nv){ span_str("grpc-timeout"), span_str(timeout) };
    }
    return n;
}

static int
request_send(struct client_conn *c, struct grpc_request *q, struct err *e)
{
    struct h2_nv v[HEADERS_MAX + 8];
    char timeout[GRPC_TIMEOUT_BYTES] = "";
    uint64_t now = mono_ms();

    if (q->deadline_ms != 0)
        grpc_timeout_text(q->deadline_ms > now ? q->deadline_ms - now : 1, timeout);
    size_t n = head_nv(q, timeout, v);
    struct h2_stream *st;
    TRY(h2_request(h2_conn_h2(c->io), v, n, false, q, &st, e));
    if (h2_send(st, buf_span(&q->body), span_of(NULL, 0), e) < 0 || h2_finish(st, NULL, 0, e) < 0) {
        h2_set_user(st, NULL);
        h2_reset(st, H2_CANCEL);
        return -(int)e->code;
    }
    list_remove(list_of(q), q);
    q->at = AT_SENT;
    q->conn = c;
    q->st = st;
    list_add(&c->sent, q);
    buf_wipe(&q->body);
    buf_wipe(&q->head); /* a token may be in it */
    h2_conn_flush(c->io);
    return 0;
}

static void
send_waiting(struct grpc_client *c)
{
    struct err e;

    while (c->conn != NULL && c->waiting.head != NULL && h2_conn_is_open(c->conn->io) &&
           !c->conn->is_closing && h2_room(h2_conn_h2(c->conn->io)) > 0) {
        struct grpc_request *q = c->waiting.head;

        if (request_send(c->conn, q, &e) < 0)
            request_end_later(q, GRPC_UNAVAILABLE, e.msg);
    }
}

/* Source: gRPC "HTTP to gRPC Status Code Mapping". */
static int
code_of_http(uint64_t status)
{
    static const struct {
        uint64_t status;
        int code;
    } rows[] = {
        { 400, GRPC_INTERNAL },      { 401, GRPC_UNAUTHENTICATED }, { 403, GRPC_PERMISSION_DENIED },
        { 404, GRPC_UNIMPLEMENTED }, { 429, GRPC_UNAVAILABLE },     { 502, GRPC_UNAVAILABLE },
        { 503, GRPC_UNAVAILABLE },   { 504, GRPC_UNAVAILABLE },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].status == status)
            return rows[i].code;
    return GRPC_UNKNOWN;
}

static void note_code(struct grpc_request *q, int code, const char *fmt, ...) PRINTF(3, 4);
static void
note_code(struct grpc_request *q, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(q->text, sizeof(q->text), fmt, ap);
    va_end(ap);
    q->code = code;
}

static void
note_status(struct grpc_request *q, struct span status)
{
    CLEANUP(buf_done) struct buf text = BUF_INIT(TEXT_MAX_BYTES);
    struct err e;
    uint64_t code;

    if (u64_parse(status, 0, 16, &code, &e) < 0)
        code = GRPC_UNKNOWN;
    if (grpc_percent_decode(&text, h2_field(q->st, "grpc-message", 0), &e) < 0)
        text.n = text.n < 256 ? text.n : 256;
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] < 0x20)
            text.p[i] = ' '; /* the peer's text may end in a log line */
    note_code(q, (int)code, "%.*s", (int)text.n, text.p == NULL ? "" : (const char *)text.p);
}

static void
on_headers(struct h2_stream *st, bool end, void *self)
{
    struct grpc_request *q = h2_user(st);
    struct span status = h2_field(st, ":status", 0), type = h2_field(st, "content-type", 0);
    struct err e;
    uint64_t http = 0;

    (void)self;
    (void)end;
    if (q == NULL)
        return;
    struct span code = h2_field(st, "grpc-status", 0);
    if (h2_fields_too_big(st))
        note_code(q, GRPC_RESOURCE_EXHAUSTED, "grpc: the answer's headers are too big");
    else if (code.p != NULL)
        note_status(q, code);
    else if (q->code < 0 && u64_parse(status, 200, 999, &http, &e) == 0 && http != 200)
        note_code(q, code_of_http(http), "the server answered with HTTP status %u", (unsigned)http);
    else if (q->code < 0 && !grpc_content_type_ok(type))
        note_code(q, GRPC_UNKNOWN, "the server's answer is not gRPC (content-type \"%.*s\")",
                  type.n > 80 ? 80 : (int)type.n, type.p == NULL ? "" : (const char *)type.p);
}

static void
on_data(struct h2_stream *st, struct span s, void *self)
{
    struct grpc_request *q = h2_user(st);
    struct err e;

    (void)self;
    while (q != NULL && q->code < 0 && s.n > 0) {
        int r = grpc_reader_feed(&q->reader, &s, &e);

        if (r < 0) {
            request_end_later(q, e.code == E_LIMIT ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL,
                              e.msg);
            return;
        }
        if (r != GRPC_MESSAGE)
            return;
        if (q->answer.on_message != NULL)
            q->answer.on_message(buf_span(&q->reader.msg), q->answer.arg);
        q = h2_user(st); /* it may have cancelled its call */
        if (q != NULL)
            grpc_reader_next(&q->reader);
    }
}

static void
on_end(struct h2_stream *st, void *self)
{
    struct grpc_request *q = h2_user(st);

    (void)self;
    if (q != NULL && q->code < 0)
        note_code(q, GRPC_INTERNAL, "the server's answer ends without grpc-status");
    if (q != NULL && q->code == GRPC_OK && !grpc_reader_is_between(&q->reader))
        note_code(q, GRPC_INTERNAL, "the server's answer ends inside a message");
}

static int
code_of_reset(uint32_t code)
{
    if (code == H2_REFUSED || code == H2_NO_ERROR)
        return GRPC_UNAVAILABLE;
    if (code == H2_CANCEL)
        return GRPC_CANCELLED;
    return code == H2_CALM ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL;
}

static void
on_close(struct h2_stream *st, uint32_t code, void *self)
{
    struct client_conn *c = self;
    struct grpc_request *q = h2_user(st);

    if (q == NULL)
        return;
    if (q->code < 0)
        note_code(q, code_of_reset(code), "the server reset the call (HTTP/2 error %u)",
                  (unsigned)code);
    request_done(q, q->code, q->text);
    if (c->client->waiting.n > 0)
        sweep_soon(c->client);
}

static void
on_goaway(void *self)
{
    struct client_conn *c = self;

    c->is_closing = true;
    sweep_soon(c->client);
}

static const struct h2_ops client_ops = { .on_headers = on_headers,
                                          .on_data = on_data,
                                          .on_end = on_end,
                                          .on_close = on_close,
                                          .on_goaway = on_goaway };

/* -- connections --------------------------------------------------------------------------------
 */

static void
conn_free(void *arg)
{
    free(arg);
}

/* Off the client; its calls have ended. */
static void
conn_drop(struct client_conn *c)
{
    struct grpc_client *client = c->client;
    struct client_conn **at = &client->old;

    if (client->conn == c)
        client->conn = NULL;
    while (*at != NULL && *at != c)
        at = &(*at)->next;
    if (*at == c)
        *at = c->next;
    h2_conn_free(c->io);
    loop_defer(client->loop, conn_free, c);
}

/* What happens at the end of a turn: calls that end, connections that are finished, calls that
 * wait for one. */
static void
sweep(void *arg)
{
    struct grpc_client *c = arg;

    c->sweep_is_due = false;
    if (c->is_freed)
        return;
    for (size_t n = c->ended.n; n > 0 && c->ended.head != NULL; n--)
        request_done(c->ended.head, c->ended.head->code, c->ended.head->text);
    if (c->conn != NULL && c->conn->is_closing) {
        c->conn->next = c->old;
        c->old = c->conn;
        c->conn = NULL;
    }
    for (struct client_conn *o = c->old, *next; o != NULL; o = next) {
        next = o->next;
        if (o->sent.n == 0)
            conn_drop(o);
    }
    if (c->waiting.n > 0 && c->conn == NULL && c->resolving == NULL)
        dial(c);
    send_waiting(c);
}

static void
sweep_soon(struct grpc_client *c)
{
    if (c->sweep_is_due || c->is_freed)
        return;
    c->sweep_is_due = true;
    loop_defer(c->loop, sweep, c);
}

static void
on_open(void *self)
{
    struct client_conn *c = self;

    c->client->found_n = 0; /* look the name up again next time */
    send_waiting(c->client);
}

static void dial_next(struct grpc_client *c, const struct err *why);

static void
dial_failed(struct grpc_client *c, const struct err *why)
{
    char text[ERR_MSG_BYTES];

    (void)snprintf(text, sizeof(text), "connect to %s:%u: %.400s", c->host, c->port, why->msg);
    c->found_n = 0;
    fail_all(&c->waiting, text);
}

/* The streams may say a last word while the connection is closed: no longer to these calls. */
static void
detach_all(struct client_conn *c)
{
    for (struct grpc_request *q = c->sent.head; q != NULL; q = q->next) {
        if (q->st != NULL)
            h2_set_user(q->st, NULL);
        q->st = NULL;
    }
}

static void
on_closed(const struct err *why, void *self)
{
    struct client_conn *c = self;
    struct grpc_client *client = c->client;
    bool was_open = h2_conn_last_read_ms(c->io) != 0, is_current = client->conn == c;

    detach_all(c);
    while (c->sent.head != NULL) { /* the connection is dropped only after its last call */
        struct grpc_request *q = c->sent.head;
        bool is_known = q->code >= 0;

        request_done(q, is_known ? q->code : GRPC_UNAVAILABLE, is_known ? q->text : why->msg);
    }
    conn_drop(c);
    if (is_current && !was_open)
        dial_next(client, why);
    else
        sweep_soon(client);
}

static int
dial_addr(struct grpc_client *c, const struct addr *a, struct err *e)
{
    int fd, one = 1;
    uint64_t now = mono_ms();
    struct client_conn *conn = calloc(1, sizeof(*conn));

    if (conn == NULL)
        return err_nomem(e);
    conn->client = c;
    if (addr_connect(a, &fd, e) < 0) {
        free(conn);
        return -(int)e->code;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    const struct h2_conn_conf conf = { .fd = fd,
                                       .tls = c->tls,
                                       .verify_name = c->verify_name,
                                       .open_ms = c->dial_by_ms > now ? c->dial_by_ms - now : 1,
                                       .h2 = { .max_streams = 0,
                                               .max_header_bytes = GRPC_MAX_HEADER_BYTES,
                                               .ops = &client_ops,
                                               .self = conn,
                                               .pool = c->streams },
                                       .on_open = on_open,
                                       .on_closed = on_closed };
    if (h2_conn_new(c->loop, &conf, &conn->io, e) < 0) {
        free(conn);
        return -(int)e->code;
    }
    c->conn = conn;
    return 0;
}

/* The next address, or the end of it. */
static void
dial_next(struct grpc_client *c, const struct err *why)
{
    struct err e = *why;

    while (c->found_at < c->found_n && mono_ms() < c->dial_by_ms)
        if (dial_addr(c, &c->found[c->found_at++], &e) == 0)
            return;
    dial_failed(c, &e);
}

static void
on_resolved(const struct addr *found, size_t n, const struct err *why, void *arg)
{
    struct grpc_client *c = arg;
    struct err e;

    c->resolving = NULL;
    (void)err_set(&e, E_TIMEOUT, "no connection in time");
    for (size_t i = 0; i < n; i++)
        c->found[i] = found[i];
    c->found_n = n;
    c->found_at = 0;
    dial_next(c, n == 0 ? why : &e);
}

static void
dial(struct grpc_client *c)
{
    struct err e = { 0 };
    uint64_t now = mono_ms();

    c->dial_by_ms = now + c->connect_ms;
    c->found_n = c->found_at = 0;
    if (resolve_start(c->loop, c->host, c->port, on_resolved, c, &c->resolving, &e) < 0)
        dial_failed(c, &e);
    else
        tick_by(c, c->dial_by_ms, now);
}

/* -- time ---------------------------------------------------------------------------------------
 */

static uint64_t
expire_list(struct request_list *l, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    for (struct grpc_request *q = l->head, *after; q != NULL; q = after) {
        after = q->next;
        if (q->deadline_ms != 0 && q->deadline_ms <= now)
            request_end_later(q, GRPC_DEADLINE_EXCEEDED, "the deadline has passed");
        else if (q->deadline_ms != 0 && q->deadline_ms < next)
            next = q->deadline_ms;
    }
    return next;
}

static uint64_t
check_conn(struct client_conn *c, uint64_t now)
{
    uint64_t next = expire_list(&c->sent, now);
    uint64_t check = now + h2_conn_check(c->io, now, c->sent.n == 0 ? 0 : c->client->keepalive_ms);

    return next < check ? next : check;
}

static void
on_tick(void *arg)
{
    struct grpc_client *c = arg;
    uint64_t now = mono_ms(), next = expire_list(&c->waiting, now), v;

    c->tick_at_ms = UINT64_MAX;
    if (c->resolving != NULL && now >= c->dial_by_ms) {
        struct err e;

        resolve_cancel(STEAL(c->resolving));
        (void)err_set(&e, E_TIMEOUT, "the name was not resolved within %llu ms",
                      (unsigned long long)c->connect_ms);
        dial_failed(c, &e);
    } else if (c->resolving != NULL && c->dial_by_ms < next)
        next = c->dial_by_ms;
    for (struct client_conn *o = c->old, *after; o != NULL; o = after) {
        after = o->next;
        v = check_conn(o, now);
        next = v < next ? v : next;
    }
    if (c->conn != NULL) {
        v = check_conn(c->conn, now);
        next = v < next ? v : next;
    }
    if (next != UINT64_MAX)
        tick_by(c, next < now + TICK_MAX_MS ? next : now + TICK_MAX_MS, now);
}

/* -- the public face ----------------------------------------------------------------------------
 */

int
grpc_client_new(struct loop *l, const struct grpc_client_conf *conf, struct grpc_client **ret,
                struct err *e)
{
    struct grpc_client *c = calloc(1, sizeof(*c));
    const char *verify = conf->verify_name == NULL ? conf->host : conf->verify_name;

    if (c == NULL)
        return err_nomem(e);
    *c = (struct grpc_client){ .loop = l,
                               .port = conf->port,
                               .tls = conf->tls == NULL ? NULL : tls_conf_ref(conf->tls),
                               .connect_ms = conf->connect_ms == 0 ? CONNECT_MS : conf->connect_ms,
                               .keepalive_ms =
                                   conf->keepalive_ms == 0 ? KEEPALIVE_MS : conf->keepalive_ms,
                               .tick_at_ms = UINT64_MAX };
    if (str_dup(span_str(conf->host), &c->host, e) < 0 ||
        str_dup(span_str(verify), &c->verify_name, e) < 0 || h2_pool_new(&c->streams, e) < 0 ||
        timer_new(l, on_tick, c, &c->tick, e) < 0) {
        grpc_client_free(c);
        return err_wrap(e, "grpc client");
    }
    *ret = c;
    return 0;
}

void
grpc_client_set_tls(struct grpc_client *c, struct tls_conf *tls)
{
    struct tls_conf *old = c->tls;

    c->tls = tls == NULL ? NULL : tls_conf_ref(tls);
    tls_conf_unref(old);
}

void
grpc_client_reconnect(struct grpc_client *c)
{
    if (c->conn == NULL || !h2_conn_is_open(c->conn->io))
        return;
    c->conn->is_closing = true;
    sweep_soon(c);
}

static void
client_destroy(void *arg)
{
    struct grpc_client *c = arg;

    h2_pool_free(c->streams);
    free(c->host);
    free(c->verify_name);
    free(c);
}

static void
conn_end(struct client_conn *c)
{
    detach_all(c);
    while (c->sent.head != NULL)
        request_done(c->sent.head, GRPC_CANCELLED, "the client was closed");
    conn_drop(c);
}

void
grpc_client_free(struct grpc_client *c)
{
    if (c == NULL)
        return;
    c->is_freed = true;
    while (c->old != NULL)
        conn_end(c->old);
    if (c->conn != NULL)
        conn_end(c->conn);
    while (c->waiting.head != NULL)
        request_done(c->waiting.head, GRPC_CANCELLED, "the client was closed");
    while (c->ended.head != NULL)
        request_done(c->ended.head, c->ended.head->code, c->ended.head->text);
    resolve_cancel(c->resolving);
    timer_free(c->tick);
    tls_conf_unref(c->tls);
    loop_defer(c->loop, client_destroy, c);
}

static int
head_add(struct grpc_request *q, const char *name, const char *value, struct err *e)
{
    if (q->head_n == HEADERS_MAX)
        return err_set(e, E_LIMIT, "grpc: more than %d request headers", (int)HEADERS_MAX);
    TRY(buf_add(&q->head, span_of(name, strlen(name) + 1), e));
    TRY(buf_add(&q->head, span_of(value, strlen(value) + 1), e));
    q->head_n++;
    return 0;
}

static int
request_fill(struct grpc_request *q, const char *path, const struct grpc_header_kv *headers,
             struct span msg, struct err *e)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    TRY(head_add(q, ":path", path, e));
    TRY(head_add(q, ":authority", q->client->verify_name, e));
    for (size_t i = 0; headers != NULL && headers[i].name != NULL; i++)
        TRY(head_add(q, headers[i].name, headers[i].value, e));
    grpc_prefix(msg.n, prefix);
    TRY(buf_add(&q->body, span_of(prefix, sizeof(prefix)), e));
    return buf_add(&q->body, msg, e);
}

int
grpc_client_call(struct grpc_client *c, const char *path, const struct grpc_header_kv *headers,
                 struct span msg, uint64_t timeout_ms, const struct grpc_answer *answer,
                 struct grpc_request **ret, struct err *e)
{
    if (c->is_freed)
        return err_set(e, E_STATE, "grpc: the client is closed");
    if (c->waiting.n >= WAITING_MAX)
        return err_set(e, E_LIMIT, "grpc: %d calls wait already", (int)WAITING_MAX);
    struct grpc_request *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return err_nomem(e);
    *q = (struct grpc_request){ .client = c,
                                .answer = *answer,
                                .head = BUF_INIT(GRPC_MAX_HEADER_BYTES),
                                .body = BUF_INIT(CLIENT_MESSAGE_BYTES),
                                .reader = GRPC_READER_INIT(CLIENT_MESSAGE_BYTES),
                                .timeout_ms = timeout_ms,
                                .code = -1 };
    if (request_fill(q, path, headers, msg, e) < 0) {
        request_free(q);
        return -(int)e->code;
    }
    uint64_t now = mono_ms();
    if (timeout_ms != 0) {
        q->deadline_ms = now + timeout_ms;
        tick_by(c, q->deadline_ms, now);
    }
    tick_by(c, now + c->keepalive_ms, now);
    list_add(&c->waiting, q);
    if (c->conn != NULL && h2_conn_is_open(c->conn->io) && !c->conn->is_closing)
        send_waiting(c);
    else
        sweep_soon(c);
    if (ret != NULL)
        *ret = q;
    return 0;
}

void
grpc_cancel(struct grpc_request *q)
{
    if (q->at != AT_ENDED)
        request_end_later(q, GRPC_CANCELLED, "the caller cancelled");
}

struct span
grpc_answer_trailer(const struct grpc_request *q, const char *name)
{
    return q->st == NULL ? span_of(NULL, 0) : h2_field(q->st, name, 0);
}
