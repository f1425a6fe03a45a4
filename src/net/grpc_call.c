/* grpc_call.c - the server's side of one call: what may be said before the message, the message,
 * and the answer. */
#include <stdlib.h>
#include <string.h>

#include "net/grpc_server.h"

enum {
    POOL_MAX = 256, /* calls kept for reuse */
    MESSAGE_KEEP_BYTES = 16 * 1024,
    TRAILERS_BYTES = 4 * 1024,
    TRAILERS_MAX = 8,
    TEXT_MAX_BYTES = 2 * 1024, /* of grpc-message */
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

size_t
grpc_connection_calls(const struct grpc_call *c)
{
    size_t n = 0;

    for (const struct grpc_call *o = c->conn->calls; o != NULL; o = o->next)
        n++;
    return n;
}

void
server_call_free(struct grpc_call *call)
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
        server_call_free(call);
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

void
server_call_gone(struct grpc_call *call)
{
    loop_fn *fn = call->on_gone;
    void *arg = call->gone_arg;

    call_put(call);
    if (fn != NULL)
        fn(arg);
}

void
server_call_move(struct grpc_call *call)
{
    struct err e;

    (void)!grpc_trailer(call, "grpc-retry-pushback-ms", "0", &e); /* gRPC proposal A6; a hint */
    server_call_fail(call, GRPC_UNAVAILABLE, "the connection ends; come again on another");
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

void
server_call_fail(struct grpc_call *call, int code, const char *msg)
{
    loop_fn *gone = call->on_gone;
    void *arg = call->gone_arg;

    grpc_finish(call, code, msg);
    if (gone != NULL)
        gone(arg);
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
        return err_result(e);
    if (buf_add(&c->trailers, span_of(value, strlen(value) + 1), e) < 0) {
        c->trailers.n = before;
        return err_result(e);
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

int
grpc_peer_unix(const struct grpc_call *c, struct unix_peer *ret, struct err *e)
{
    return unix_peer_of(h2_conn_fd(c->conn->io), ret, e);
}

void
grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg)
{
    c->on_gone = fn;
    c->gone_arg = arg;
}

void *
grpc_call_arg(const struct grpc_call *c)
{
    return c->gone_arg;
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

/* The request is there in time, also that of a stream; the answer by grpc-timeout. */
static int
set_deadline(struct grpc_call *call, struct err *e)
{
    struct span asked = grpc_header(call, "grpc-timeout");
    uint64_t now = h2_conn_last_read_ms(call->conn->io), ms = 0;

    if (asked.p != NULL) {
        TRY(grpc_timeout_parse(asked, &ms, e));
        ms = ms == 0 ? 1 : ms;
    }
    if (call->method->streams)
        call->answer_by_ms = ms == 0 ? 0 : now + ms;
    if (call->method->on_message != NULL) { /* what comes in the stream is the handler's */
        call->deadline_ms = call->answer_by_ms;
    } else {
        call->is_our_limit = ms == 0 || ms > GRPC_MAX_CALL_MS;
        call->deadline_ms = now + (call->is_our_limit ? GRPC_MAX_CALL_MS : ms);
    }
    if (call->deadline_ms != 0)
        server_conn_tick_by(call->conn, call->deadline_ms, now);
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
    if (c->retire == RETIRE_LAST) {
        h2_reset(st, H2_REFUSED);
        return;
    }
    struct grpc_call *call = call_get(c, st);
    if (call == NULL) {
        h2_reset(st, H2_REFUSED);
        return;
    }
    c->last_call_ms = h2_conn_last_read_ms(c->io);
    if (request_ok(call) && call->method->streams && c->retire != RETIRE_NOT)
        server_call_move(call);
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

/* One message of a stream of requests after the other, until the handler has ended the call. */
static void
take_stream(struct h2_stream *st, struct span s, struct server_conn *c)
{
    struct grpc_call *call;
    struct err e;

    while ((call = h2_user(st)) != NULL && s.n > 0) {
        int r = grpc_reader_feed(&call->reader, &s, &e);

        if (r < 0) {
            server_call_fail(call, code_of(&e), e.msg);
            return;
        }
        if (r != GRPC_MESSAGE)
            return;
        c->last_call_ms = h2_conn_last_read_ms(c->io);
        call->method->on_message(call, buf_span(&call->reader.msg), c->s->conf.self);
        if (h2_user(st) != call)
            return; /* it has ended the call */
        grpc_reader_next(&call->reader);
        if (call->reader.msg.cap > MESSAGE_KEEP_BYTES)
            grpc_reader_done(&call->reader); /* the stream may last, and say little */
    }
}

static void
on_data(struct h2_stream *st, struct span s, void *self)
{
    struct grpc_call *call = h2_user(st);
    struct err e;

    if (call == NULL)
        return; /* answered already */
    if (call->method->on_message != NULL) {
        take_stream(st, s, self);
        return;
    }
    bool is_whole = call->reader.prefix_n == GRPC_PREFIX_BYTES && call->reader.left == 0;
    if (!is_whole && grpc_reader_feed(&call->reader, &s, &e) < 0)
        grpc_finish(call, code_of(&e), e.msg);
    else if (s.n > 0)
        grpc_finish(call, GRPC_INTERNAL, "grpc: more than one request message");
}

static void
end_stream(struct grpc_call *call, void *self)
{
    if (!grpc_reader_is_between(&call->reader))
        server_call_fail(call, GRPC_INTERNAL, "grpc: the request ended inside a message");
    else if (call->method->on_half_close != NULL)
        call->method->on_half_close(call, self);
    else
        server_call_fail(call, GRPC_OK, NULL);
}

/* The handler runs when the client has finished, so that there is exactly one message. */
static void
on_end(struct h2_stream *st, void *self)
{
    struct server_conn *c = self;
    struct grpc_call *call = h2_user(st);

    if (call == NULL || call->is_handed)
        return;
    call->is_handed = true;
    if (call->method->on_message != NULL) {
        end_stream(call, c->s->conf.self);
        return;
    }
    if (call->reader.prefix_n < GRPC_PREFIX_BYTES || call->reader.left > 0) {
        grpc_finish(call, GRPC_INTERNAL, "grpc: the request ended before its message");
        return;
    }
    const struct grpc_method *method = call->method;
    if (method->streams) {
        call->is_our_limit = false;
        call->deadline_ms = call->answer_by_ms;
        if (call->deadline_ms != 0)
            server_conn_tick_by(c, call->deadline_ms, h2_conn_last_read_ms(c->io));
    }
    method->on_request(call, buf_span(&call->reader.msg), c->s->conf.self);
    if (method->streams && h2_user(st) == call) { /* it may stay for days: what came goes */
        h2_forget_fields(st);
        grpc_reader_done(&call->reader);
    }
}

static void
on_close(struct h2_stream *st, uint32_t code, void *self)
{
    struct grpc_call *call = h2_user(st);

    (void)code;
    (void)self;
    if (call != NULL)
        server_call_gone(call);
}

const struct h2_ops server_call_ops = {
    .on_headers = on_headers, .on_data = on_data, .on_end = on_end, .on_close = on_close
};
