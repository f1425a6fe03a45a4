#include "net/h2.h"

#include <assert.h>
#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

#include "base/bucket.h"
#include "net/h2_fields.h"
#include "net/h2_pool.h"

enum {
    WINDOW_BYTES = 1024 * 1024, /* per stream and connection: what Istio's clients use too */
    ACKS_MAX = 1000,            /* answers to PING and SETTINGS that wait */
    SETTINGS_MAX = 32,          /* entries of one SETTINGS frame */
    CONTINUATIONS_MAX = 8,
    TAIL_MAX_BYTES = 8 * 1024, /* trailers that wait */
    TRAILERS_MAX = 12,
    HEAD_KEEP_BYTES = 4 * 1024, /* memory that a pooled stream may keep */
    OUT_KEEP_BYTES = 16 * 1024,
};

struct h2_stream {
    struct h2 *h;
    struct h2_stream *next, *prev; /* of its connection, or of the pool (next only) */
    int32_t id;
    void *user;
    struct fields in, tail; /* what came; trailers that wait for the body */
    struct field in_v[H2_FIELDS_MAX], tail_v[TRAILERS_MAX];
    bool too_big;
    bool is_whole; /* the peer has finished it */
    struct buf out;
    size_t out_at;
    bool out_end;     /* nothing is added any more */
    bool is_deferred; /* nghttp2 waits for us to resume */
    bool has_body;    /* a data provider was given */
    bool is_counted;  /* its reset was charged to the budget */
};

struct h2 {
    struct h2_conf conf;
    nghttp2_session *session;
    struct h2_memory memory; /* of the session */
    struct h2_stream *streams;
    struct bucket resets, idle_frames;
    uint64_t frames_in, body_out;
    uint32_t error_said;
    bool is_flooded;
    bool said_more; /* in this h2_output, than SETTINGS */
};

static void
charge(struct h2 *h, struct bucket *b)
{
    if (h->is_flooded || bucket_take(b))
        return;
    h->is_flooded = true;
    (void)nghttp2_session_terminate_session(h->session, NGHTTP2_ENHANCE_YOUR_CALM);
}

/* -- streams ------------------------------------------------------------------------------------
 */

static void
stream_destroy(struct h2_stream *st)
{
    buf_done(&st->in.bytes);
    buf_done(&st->tail.bytes);
    buf_done(&st->out);
    free(st);
}

void
h2_pool_free(struct h2_pool *p)
{
    while (p != NULL && p->streams != NULL) {
        struct h2_stream *st = p->streams;

        p->streams = st->next;
        stream_destroy(st);
    }
    h2_pool_done(p);
}

static struct h2_stream *
stream_get(struct h2 *h)
{
    struct h2_pool *p = h->conf.pool;
    struct h2_stream *st = p->streams;

    if (st != NULL) {
        p->streams = st->next;
        p->streams_n--;
    } else {
        st = calloc(1, sizeof(*st));
        if (st == NULL)
            return NULL;
        st->in = (struct fields){ .v = st->in_v, .max = ARRAY_LEN(st->in_v) };
        st->tail = (struct fields){ .v = st->tail_v, .max = ARRAY_LEN(st->tail_v) };
    }
    st->h = h;
    st->in.bytes.max =
        h->conf.max_header_bytes < FIELDS_MAX_BYTES ? h->conf.max_header_bytes : FIELDS_MAX_BYTES;
    st->tail.bytes.max = TAIL_MAX_BYTES;
    st->out.max = H2_OUT_MAX_BYTES;
    st->prev = NULL;
    st->next = h->streams;
    if (st->next != NULL)
        st->next->prev = st;
    h->streams = st;
    return st;
}

static void
buf_reuse(struct buf *b, size_t keep)
{
    if (b->cap > keep)
        buf_done(b);
    b->n = 0;
}

static void
stream_put(struct h2_stream *st)
{
    struct h2 *h = st->h;
    /* the analyzer forgets that a stream on the list has its session */
    struct h2_pool *p = h->conf.pool; /* NOLINT(clang-analyzer-core.NullDereference) */

    if (h->conf.sends_secrets)
        buf_wipe(&st->out);
    if (st->prev != NULL)
        st->prev->next = st->next;
    else
        h->streams = st->next;
    if (st->next != NULL)
        st->next->prev = st->prev;
    if (p->streams_n >= H2_POOL_MAX) {
        stream_destroy(st);
        return;
    }
    buf_reuse(&st->in.bytes, HEAD_KEEP_BYTES);
    buf_reuse(&st->tail.bytes, HEAD_KEEP_BYTES);
    buf_reuse(&st->out, OUT_KEEP_BYTES);
    st->in.n = st->tail.n = st->out_at = 0;
    st->id = 0;
    st->user = NULL;
    st->h = NULL;
    st->too_big = st->is_whole = st->out_end = st->is_deferred = st->has_body = st->is_counted =
        false;
    st->next = p->streams;
    p->streams = st;
    p->streams_n++;
}

struct span
h2_field(const struct h2_stream *st, const char *name, size_t i)
{
    return fields_find(&st->in, name, i);
}

void
h2_forget_fields(struct h2_stream *st)
{
    fields_wipe(&st->in);
}

bool
h2_fields_too_big(const struct h2_stream *st)
{
    return st->too_big;
}

void *
h2_user(const struct h2_stream *st)
{
    return st->user;
}

void
h2_set_user(struct h2_stream *st, void *user)
{
    st->user = user;
}

/* -- nghttp2 calls us ---------------------------------------------------------------------------
 */

static struct h2_stream *
stream_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static int
on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *self)
{
    struct h2 *h = self;

    if (!h->conf.is_server || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct h2_stream *st = stream_get(h);
    if (st == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    st->id = frame->hd.stream_id;
    (void)nghttp2_session_set_stream_user_data(session, st->id, st);
    return 0;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
          const uint8_t *value, size_t value_n, uint8_t flags, void *self)
{
    struct h2_stream *st = stream_of(session, frame->hd.stream_id);
    struct err e;

    (void)flags;
    (void)self;
    if (st == NULL || st->too_big)
        return 0;
    if (fields_add(&st->in, span_of(name, name_n), span_of(value, value_n), &e) < 0)
        st->too_big = true;
    return 0;
}

static int
on_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
         void *self)
{
    struct h2 *h = self;
    struct h2_stream *st = stream_of(session, id);

    (void)flags;
    if (st != NULL && n > 0)
        h->conf.ops->on_data(st, span_of(p, n), h->conf.self);
    return 0;
}

static bool
moves_nothing(const nghttp2_frame *f)
{
    return f->hd.type == NGHTTP2_DATA
               ? f->hd.length == 0 && (f->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0
               : f->hd.type != NGHTTP2_HEADERS;
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *f, void *self)
{
    struct h2 *h = self;
    struct h2_stream *st = stream_of(session, f->hd.stream_id);
    bool end = (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    h->frames_in++;
    if (moves_nothing(f))
        charge(h, &h->idle_frames);
    if (f->hd.type == NGHTTP2_GOAWAY && h->conf.ops->on_goaway != NULL)
        h->conf.ops->on_goaway(h->conf.self);
    if (f->hd.type == NGHTTP2_SETTINGS && h->conf.ops->on_settings != NULL)
        h->conf.ops->on_settings(h->conf.self);
    if (st == NULL || (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA))
        return 0;
    if (f->hd.type == NGHTTP2_HEADERS) {
        bucket_give(&h->idle_frames, H2_IDLE_FRAMES_PAID);
        h->conf.ops->on_headers(st, end, h->conf.self);
    }
    st->is_whole = end;
    if (end)
        h->conf.ops->on_end(st, h->conf.self);
    return 0;
}

/* Frames of a type that nobody knows are skipped (RFC 9113 5.5), and counted. */
static int
on_unknown_frame(nghttp2_session *session, void **payload, const nghttp2_frame_hd *hd, void *self)
{
    struct h2 *h = self;

    (void)session;
    (void)payload;
    (void)hd;
    h->frames_in++;
    charge(h, &h->idle_frames);
    return NGHTTP2_ERR_CANCEL; /* skip it */
}

static void
charge_reset(struct h2_stream *st)
{
    if (st->is_counted)
        return;
    st->is_counted = true;
    charge(st->h, &st->h->resets);
}

static int
on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *self)
{
    struct h2 *h = self;
    struct h2_stream *st = stream_of(session, id);

    if (st == NULL)
        return 0;
    if (code != NGHTTP2_NO_ERROR)
        charge_reset(st);
    h->conf.ops->on_close(st, code, h->conf.self);
    (void)nghttp2_session_set_stream_user_data(session, id, NULL);
    stream_put(st);
    return 0;
}

/* A server that has answered before the request was complete tells the client to stop. Source: RFC
 * 9113 8.1. */
static int
on_frame_sent(nghttp2_session *session, const nghttp2_frame *f, void *self)
{
    struct h2 *h = self;

    if (f->hd.type == NGHTTP2_GOAWAY)
        h->error_said = f->goaway.error_code;
    if (f->hd.type != NGHTTP2_SETTINGS && f->hd.type != NGHTTP2_WINDOW_UPDATE)
        h->said_more = true;
    if (!h->conf.is_server || (f->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0 ||
        (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA))
        return 0;
    if (nghttp2_session_get_stream_remote_close(session, f->hd.stream_id) == 0)
        (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, f->hd.stream_id,
                                        NGHTTP2_NO_ERROR);
    return 0;
}

static nghttp2_nv
nv_of(struct span name, struct span value)
{
    return (nghttp2_nv){ (uint8_t *)(uintptr_t)name.p, (uint8_t *)(uintptr_t)value.p, name.n,
                         value.n, NGHTTP2_NV_FLAG_NONE };
}

static int
submit_tail(struct h2_stream *st)
{
    nghttp2_nv nv[TRAILERS_MAX];
    const uint8_t *p = st->tail.bytes.p;

    for (size_t i = 0; i < st->tail.n; i++) {
        struct field v = st->tail.v[i];

        nv[i] = nv_of(span_of(p + v.name_at, v.name_n), span_of(p + v.value_at, v.value_n));
    }
    return nghttp2_submit_trailer(st->h->session, st->id, nv, st->tail.n);
}

static ssize_t
on_body(nghttp2_session *session, int32_t id, uint8_t *p, size_t cap, uint32_t *flags,
        nghttp2_data_source *source, void *self)
{
    struct h2_stream *st = source->ptr;
    size_t n = st->out.n - st->out_at;

    (void)session;
    (void)id;
    (void)self;
    if (n == 0 && !st->out_end) {
        st->is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n > cap)
        n = cap;
    if (n > 0)
        memcpy(p, st->out.p + st->out_at, n);
    st->out_at += n;
    st->h->body_out += n;
    if (st->out_at == st->out.n) {
        if (st->h->conf.sends_secrets && st->out.p != NULL)
            explicit_bzero(st->out.p, st->out.cap);
        st->out_at = st->out.n = 0;
        if (!st->out_end)
            buf_done(&st->out); /* more may come in an hour */
        if (st->out_end)
            *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (st->out_end && st->tail.n > 0) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (submit_tail(st) != 0)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)n;
}

/* -- making and feeding -------------------------------------------------------------------------
 */

static int
h2_err(int code, struct err *e)
{
    return code == NGHTTP2_ERR_NOMEM ? err_nomem(e)
                                     : err_set(e, E_PEER, "http/2: %s", nghttp2_strerror(code));
}

static int
session_new(struct h2 *h, nghttp2_session_callbacks *cb, nghttp2_option *opt)
{
    nghttp2_mem mem = { &h->memory, h2_memory_malloc, h2_memory_free, h2_memory_calloc,
                        h2_memory_realloc };

    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_chunk);
    nghttp2_session_callbacks_set_unpack_extension_callback(cb, on_unknown_frame);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_sent);
    nghttp2_option_set_max_outbound_ack(opt, ACKS_MAX);
    nghttp2_option_set_max_settings(opt, SETTINGS_MAX);
    nghttp2_option_set_max_continuations(opt, CONTINUATIONS_MAX);
    nghttp2_option_set_stream_reset_rate_limit(opt, H2_RESETS_BURST, H2_RESETS_PER_S);
    nghttp2_option_set_no_closed_streams(opt, 1);
    if (h->conf.is_server) /* what we say of ours is short: a table each saves nothing */
        nghttp2_option_set_max_deflate_dynamic_table_size(opt, 0);
    for (unsigned type = NGHTTP2_CONTINUATION + 1; type <= UINT8_MAX; type++)
        nghttp2_option_set_user_recv_extension_type(opt, (uint8_t)type);
    nghttp2_option_set_peer_max_concurrent_streams(opt, 100);
    return h->conf.is_server ? nghttp2_session_server_new3(&h->session, cb, h, opt, &mem)
                             : nghttp2_session_client_new3(&h->session, cb, h, opt, &mem);
}

static int
session_open(struct h2 *h, struct err *e)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    int r = nghttp2_session_callbacks_new(&cb);

    if (r == 0)
        r = nghttp2_option_new(&opt);
    if (r == 0)
        r = session_new(h, cb, opt);
    nghttp2_session_callbacks_del(cb);
    nghttp2_option_del(opt);
    if (r != 0)
        return h2_err(r, e);
    const nghttp2_settings_entry iv[] = {
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h->conf.max_streams },
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)h->conf.max_header_bytes },
        { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
    };
    r = nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, iv,
                                h->conf.is_server ? ARRAY_LEN(iv) - 1 : ARRAY_LEN(iv));
    if (r == 0)
        r = nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES);
    return r == 0 ? 0 : h2_err(r, e);
}

int
h2_new(const struct h2_conf *conf, struct h2 **ret, struct err *e)
{
    struct h2 *h = calloc(1, sizeof(*h));

    if (h == NULL)
        return err_nomem(e);
    h->conf = *conf;
    h->memory.pool = conf->pool;
    h->resets = bucket_full(H2_RESETS_BURST, H2_RESETS_PER_S, 1000);
    h->idle_frames = bucket_full(H2_IDLE_FRAMES_BURST, H2_IDLE_FRAMES_PER_S, 1000);
    if (session_open(h, e) < 0) {
        h2_free(h);
        return err_result(e);
    }
    *ret = h;
    return 0;
}

void
h2_free(struct h2 *h)
{
    if (h == NULL)
        return;
    nghttp2_session_del(h->session); /* before what it points to */
    while (h->streams != NULL)
        stream_put(h->streams);
    free(h);
}

int
h2_input(struct h2 *h, struct span s, struct err *e)
{
    ssize_t n = nghttp2_session_mem_recv(h->session, s.p, s.n);

    return n < 0 ? h2_err((int)n, e) : 0;
}

int
h2_output(struct h2 *h, struct buf *b, size_t enough, struct err *e)
{
    h->said_more = false;
    while (b->n < enough) {
        const uint8_t *p;
        ssize_t n = nghttp2_session_mem_send(h->session, &p);

        if (n < 0)
            return h2_err((int)n, e);
        if (n == 0)
            return 0;
        TRY(buf_add(b, span_of(p, (size_t)n), e));
        if (h->conf.is_server && h->conf.sends_secrets)
            explicit_bzero((uint8_t *)(uintptr_t)p,
                           (size_t)n); /* nghttp2's copy: it is done with */
    }
    return 0;
}

bool
h2_answer_is_due(const struct h2 *h)
{
    if (!h->conf.is_server || h->said_more || h->streams == NULL)
        return false;
    for (const struct h2_stream *st = h->streams; st != NULL; st = st->next)
        if (!st->is_whole)
            return false; /* its rest may wait for a window */
    return true;
}

bool
h2_is_done(const struct h2 *h)
{
    return nghttp2_session_want_read(h->session) == 0 &&
           nghttp2_session_want_write(h->session) == 0;
}

bool
h2_is_flooded(const struct h2 *h)
{
    return h->is_flooded;
}

uint32_t
h2_error_said(const struct h2 *h)
{
    return h->error_said;
}

uint64_t
h2_frames_in(const struct h2 *h)
{
    return h->frames_in;
}

uint64_t
h2_body_out(const struct h2 *h)
{
    return h->body_out;
}

bool
h2_body_waits(const struct h2 *h)
{
    for (const struct h2_stream *st = h->streams; st != NULL; st = st->next)
        if (st->out_at < st->out.n)
            return true;
    return false;
}

/* -- what the owner asks for --------------------------------------------------------------------
 */

enum { NV_MAX = 48 };

static int
nv_fill(const struct h2_nv *nv, size_t n, nghttp2_nv ret[NV_MAX], struct err *e)
{
    if (n > NV_MAX)
        return err_set(e, E_LIMIT, "more than %d header fields to send", (int)NV_MAX);
    for (size_t i = 0; i < n; i++)
        ret[i] = nv_of(nv[i].name, nv[i].value);
    return 0;
}

size_t
h2_room(const struct h2 *h)
{
    uint32_t max =
        nghttp2_session_get_remote_settings(h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    size_t n = 0;

    for (const struct h2_stream *st = h->streams; st != NULL; st = st->next)
        n++;
    return n >= max || nghttp2_session_check_request_allowed(h->session) == 0 ? 0 : max - n;
}

int
h2_request(struct h2 *h, const struct h2_nv *nv, size_t n, bool end, void *user,
           struct h2_stream **ret, struct err *e)
{
    nghttp2_nv v[NV_MAX];

    TRY(nv_fill(nv, n, v, e));
    struct h2_stream *st = stream_get(h);
    if (st == NULL)
        return err_nomem(e);
    nghttp2_data_provider body = { .source.ptr = st, .read_callback = on_body };

    st->user = user;
    st->has_body = !end;
    st->id = nghttp2_submit_request(h->session, NULL, v, n, end ? NULL : &body, st);
    if (st->id < 0) {
        int r = st->id;

        stream_put(st);
        return h2_err(r, e);
    }
    *ret = st;
    return 0;
}

int
h2_respond(struct h2_stream *st, const struct h2_nv *nv, size_t n, bool end, struct err *e)
{
    nghttp2_data_provider body = { .source.ptr = st, .read_callback = on_body };
    nghttp2_nv v[NV_MAX];

    TRY(nv_fill(nv, n, v, e));
    st->has_body = !end;
    int r = nghttp2_submit_response(st->h->session, st->id, v, n, end ? NULL : &body);
    return r == 0 ? 0 : h2_err(r, e);
}

static void
resume(struct h2_stream *st)
{
    if (!st->is_deferred)
        return;
    st->is_deferred = false;
    (void)nghttp2_session_resume_data(st->h->session, st->id);
}

int
h2_send(struct h2_stream *st, struct span a, struct span b, struct err *e)
{
    uint8_t *p;

    assert(st->has_body && !st->out_end);
    if (st->out_at > 0) { /* room for what has gone out since */
        memmove(st->out.p, st->out.p + st->out_at, st->out.n - st->out_at);
        st->out.n -= st->out_at;
        st->out_at = 0;
    }
    TRY(buf_reserve(&st->out, a.n + b.n, &p, e));
    if (a.n > 0)
        memcpy(p, a.p, a.n);
    if (b.n > 0)
        memcpy(p + a.n, b.p, b.n);
    st->out.n += a.n + b.n;
    resume(st);
    return 0;
}

int
h2_finish(struct h2_stream *st, const struct h2_nv *nv, size_t n, struct err *e)
{
    assert(st->has_body && !st->out_end);
    if (n > TRAILERS_MAX)
        return err_set(e, E_LIMIT, "more than %d trailers", (int)TRAILERS_MAX);
    for (size_t i = 0; i < n; i++)
        TRY(fields_add(&st->tail, nv[i].name, nv[i].value, e));
    st->out_end = true;
    resume(st);
    return 0;
}

void
h2_reset(struct h2_stream *st, uint32_t code)
{
    st->is_counted = true; /* ours, not the peer's */
    (void)nghttp2_submit_rst_stream(st->h->session, NGHTTP2_FLAG_NONE, st->id, code);
}

void
h2_ping(struct h2 *h)
{
    (void)nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL);
}

void
h2_goaway(struct h2 *h)
{
    (void)nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(h->session),
                                NGHTTP2_NO_ERROR, NULL, 0);
}

void
h2_goaway_soon(struct h2 *h)
{
    (void)nghttp2_submit_shutdown_notice(h->session);
}
