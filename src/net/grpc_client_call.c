/* grpc_client_call.c - the client's side of one call. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/grpc_client.h"

enum {
    CLIENT_MESSAGE_BYTES = 1024 * 1024, /* of an answer */
    WAITING_MAX = 1024,                 /* calls without a connection or beyond its streams */
    HEADERS_MAX = 32,
    TEXT_MAX_BYTES = 2 * 1024,
};

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

void
client_tick_by(struct grpc_client *c, uint64_t at_ms, uint64_t now_ms)
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

void
client_request_done(struct grpc_request *q, int code, const char *text)
{
    list_remove(list_of(q), q);
    if (q->st != NULL)
        h2_set_user(q->st, NULL);
    if (q->client->conn != NULL || q->client->old != NULL)
        client_sweep_soon(q->client);
    q->answer.on_done(code, text, q, q->answer.arg);
    request_free(q);
}

void
client_request_end(struct grpc_request *q, int code, const char *text)
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
    client_sweep_soon(q->client);
}

void
client_fail_waiting(struct grpc_client *c, const char *text)
{
    struct request_list *l = &c->waiting;

    for (size_t n = l->n; n > 0 && l->head != NULL; n--) /* not those that on_done starts anew */
        client_request_done(l->head, GRPC_UNAVAILABLE, text);
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
        return err_result(e);
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

void
client_send_waiting(struct grpc_client *c)
{
    struct err e;

    while (c->conn != NULL && c->waiting.head != NULL && h2_conn_is_open(c->conn->io) &&
           !c->conn->is_closing && h2_room(h2_conn_h2(c->conn->io)) > 0) {
        struct grpc_request *q = c->waiting.head;

        if (request_send(c->conn, q, &e) < 0)
            client_request_end(q, GRPC_UNAVAILABLE, e.msg);
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
            client_request_end(q, e.code == E_LIMIT ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL,
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
    client_request_done(q, q->code, q->text);
    if (c->client->waiting.n > 0)
        client_sweep_soon(c->client);
}

static void
on_goaway(void *self)
{
    struct client_conn *c = self;

    c->is_closing = true;
    client_sweep_soon(c->client);
}

/* The server allows more streams than it did before it said so. */
static void
on_settings(void *self)
{
    const struct client_conn *c = self;

    if (c->client->waiting.n > 0)
        client_sweep_soon(c->client);
}

const struct h2_ops client_call_ops = { .on_headers = on_headers,
                                        .on_data = on_data,
                                        .on_end = on_end,
                                        .on_close = on_close,
                                        .on_goaway = on_goaway,
                                        .on_settings = on_settings };

/* -- starting and ending one ---------------------------------------------------------------------
 */

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
    TRY(head_add(q, ":authority", client_server_name(q->client), e));
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
        return err_result(e);
    }
    uint64_t now = mono_ms();
    if (timeout_ms != 0) {
        q->deadline_ms = now + timeout_ms;
        client_tick_by(c, q->deadline_ms, now);
    }
    client_tick_by(c, now + c->keepalive_ms, now);
    list_add(&c->waiting, q);
    if (c->conn != NULL && h2_conn_is_open(c->conn->io) && !c->conn->is_closing)
        client_send_waiting(c);
    else
        client_sweep_soon(c);
    if (ret != NULL)
        *ret = q;
    return 0;
}

void
grpc_cancel(struct grpc_request *q)
{
    if (q->at != AT_ENDED)
        client_request_end(q, GRPC_CANCELLED, "the caller cancelled");
}

struct span
grpc_answer_trailer(const struct grpc_request *q, const char *name)
{
    return q->st == NULL ? span_of(NULL, 0) : h2_field(q->st, name, 0);
}
