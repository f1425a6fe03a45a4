/* test_grpc_raw.c - raw HTTP/2 against the gRPC server. */
#include "grpc_kit.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/grpc_server.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

struct raw {
    struct world *w;
    int fd;
    struct fd_watch *watch;
    struct buf in;
    bool closed;
};

static void
on_raw(void *arg)
{
    struct raw *r = arg;
    uint8_t bytes[4096];
    struct err e;
    ssize_t n = read(r->fd, bytes, sizeof(bytes));

    if (n > 0) {
        assert_ok(buf_add(&r->in, span_of(bytes, (size_t)n), &e));
        return;
    }
    r->closed = true;
    fd_watch_free(STEAL(r->watch));
    loop_stop(r->w->l);
}

static void
frame(struct buf *b, uint8_t type, uint8_t flags, uint32_t id, struct span s)
{
    const uint8_t head[9] = {
        (uint8_t)(s.n >> 16), (uint8_t)(s.n >> 8), (uint8_t)s.n, type, flags, 0, 0,
        (uint8_t)(id >> 8),   (uint8_t)id
    };
    struct err e;

    assert_ok(buf_add(b, span_of(head, sizeof(head)), &e));
    assert_ok(buf_add(b, s, &e));
}

/* HPACK: literals without indexing, in turns name and value. */
static void
headers(struct buf *b, uint32_t id, uint8_t flags, const char *const *words)
{
    struct buf h = BUF_INIT(60000);
    struct err e;

    for (size_t i = 0; words[i] != NULL; i++) {
        size_t n = strlen(words[i]);

        if (i % 2 == 0)
            assert_ok(buf_add_byte(&h, 0, &e));
        assert_true(n < 127 || i % 2 == 1);
        if (n < 127) {
            assert_ok(buf_add_byte(&h, (uint8_t)n, &e));
        } else { /* RFC 7541 5.1 */
            size_t rest = n - 127;
            assert_ok(buf_add_byte(&h, 127, &e));
            for (; rest >= 128; rest /= 128)
                assert_ok(buf_add_byte(&h, (uint8_t)(rest % 128 + 128), &e));
            assert_ok(buf_add_byte(&h, (uint8_t)rest, &e));
        }
        assert_ok(buf_add_str(&h, words[i], &e));
    }
    frame(b, 1, flags, id, buf_span(&h));
    buf_done(&h);
}

static void
raw_start(struct raw *r, struct world *w, struct buf *b)
{
    struct err e;
    int fds[2];

    *r = (struct raw){ .w = w, .in = BUF_INIT(1 << 20) };
    *b = BUF_INIT(1 << 20);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    r->fd = fds[0];
    assert_ok(grpc_server_adopt(w->server, fds[1], &e));
    assert_ok(fd_watch_new(w->l, r->fd, on_raw, r, &r->watch, &e));
    assert_ok(buf_add_str(b, PREFACE, &e));
    frame(b, 4, 0, 0, span_of(NULL, 0));
}

/* Sends all and ends sending; runs until the server has closed. */
static void
raw_play(struct raw *r, struct buf *b, bool shut)
{
    for (size_t at = 0; at < b->n && !r->closed;) {
        ssize_t n = send(r->fd, b->p + at, b->n - at, MSG_NOSIGNAL);

        if (n > 0)
            at += (size_t)n;
        else {
            struct timer *t;
            struct err e;

            if (errno != EAGAIN)
                break;
            assert_ok(timer_new(r->w->l, (loop_fn *)loop_stop, r->w->l, &t, &e));
            timer_set(t, 1);
            assert_ok(loop_run(r->w->l, &e));
            timer_free(t);
        }
    }
    if (shut)
        (void)shutdown(r->fd, SHUT_WR);
    if (!r->closed)
        run(r->w, 1);
    buf_done(b);
}

/* One request whose DATA is `body`, with those flags. */
static void
raw_ask(struct raw *r, struct world *w, const char *const *words, uint8_t flags, struct span body)
{
    struct buf b;

    raw_start(r, w, &b);
    headers(&b, 1, 4, words);
    frame(&b, 0, flags, 1, body);
    raw_play(r, &b, true);
}

static void
raw_done(struct raw *r)
{
    fd_watch_free(r->watch);
    (void)close(r->fd);
    buf_done(&r->in);
}

static bool
has(const struct raw *r, const char *text)
{
    return memmem(r->in.p, r->in.n, text, strlen(text)) != NULL;
}

#define GOOD_HEAD                                                                                  \
    ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/t.T/Echo", "content-type", \
        "application/grpc", "te", "trailers"

/* A frame of `type` with error code `code` is in what came back (RST_STREAM 3, GOAWAY 7). */
static bool
has_error(const struct raw *r, uint8_t type, uint32_t code)
{
    for (size_t at = 0; at + 9 <= r->in.n;) {
        const uint8_t *p = r->in.p + at;
        size_t n = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
        size_t code_at = 9 + (type == 7 ? 4u : 0u) + 3;

        if (p[3] == type && at + code_at < r->in.n && p[code_at] == code)
            return true;
        at += 9 + n;
    }
    return false;
}

/* All header blocks that came back, as "name: value" lines. */
static void
raw_headers(const struct raw *r, char *text, size_t cap)
{
    nghttp2_hd_inflater *inflater;

    assert_int_equal(nghttp2_hd_inflate_new(&inflater), 0);
    text[0] = '\0';
    for (size_t at = 0; at + 9 <= r->in.n;) {
        const uint8_t *p = r->in.p + at;
        size_t n = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2], used = 0;

        at += 9 + n;
        for (int flags = 0; p[3] == 1 && (flags & NGHTTP2_HD_INFLATE_FINAL) == 0;) {
            nghttp2_nv nv;
            ssize_t took = nghttp2_hd_inflate_hd2(inflater, &nv, &flags, p + 9 + used, n - used, 1);

            assert_true(took >= 0);
            used += (size_t)took;
            if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0)
                (void)snprintf(text + strlen(text), cap - strlen(text), "%s: %s\n",
                               (const char *)nv.name, (const char *)nv.value);
        }
        if (p[3] == 1)
            (void)nghttp2_hd_inflate_end_headers(inflater);
    }
    nghttp2_hd_inflate_del(inflater);
}

static void
assert_answer(const struct raw *r, const char *part)
{
    char text[4096];

    raw_headers(r, text, sizeof(text));
    if (strstr(text, part) == NULL)
        fail_msg("no \"%s\" in: %s", part, text);
}

static void
raw_requests_that_are_not_grpc(void **state)
{
    static char long_value[40000];
    static const struct {
        const char *words[16], *part;
    } rows[] = {
        { { ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/t.T/Echo",
            "content-type", "application/grpc", NULL },
          ":status: 405\n" },
        { { ":method", "post", ":scheme", "http", ":authority", "a", ":path", "/t.T/Echo",
            "content-type", "application/grpc", NULL },
          ":status: 405\n" },
        { { ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/t.T/Echo",
            "content-type", "application/json", NULL },
          ":status: 415\n" },
        { { ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/t.T/Echo", NULL },
          ":status: 415\n" },
        { { GOOD_HEAD, "grpc-timeout", "soon", NULL }, "grpc-status: 13\n" },
        { { GOOD_HEAD, NULL }, "ended before its message" },
        { { GOOD_HEAD, "x-long", long_value, NULL }, "grpc-status: 8\n" },
    };
    struct world *w = *state;

    memset(long_value, 'a', sizeof(long_value) - 1);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct raw r;
        struct buf b;

        raw_start(&r, w, &b);
        if (i == ARRAY_LEN(rows) - 1) { /* over one frame: HEADERS and CONTINUATIONs */
            struct buf h = BUF_INIT(60000);

            headers(&h, 1, 0, rows[i].words);
            struct span all = span_skip(buf_span(&h), 9);
            frame(&b, 1, 1, 1, span_of(all.p, 16000));
            frame(&b, 9, 0, 1, span_of(all.p + 16000, 16000));
            frame(&b, 9, 4, 1, span_skip(all, 32000));
            buf_done(&h);
        } else
            headers(&b, 1, 4 | 1, rows[i].words);
        raw_play(&r, &b, true);
        assert_int_equal(w->requests_n, 0);
        assert_answer(&r, rows[i].part);
        raw_done(&r);
    }
}

#define HEAD_OF(path)                                                                              \
    ":method", "POST", ":scheme", "http", ":authority", "a", ":path", path, "content-type",        \
        "application/grpc", "te", "trailers", NULL

/* A stream of requests in pieces of every size: what is answered, how it ends, and whether the
 * handler hears that its call has gone. */
static void
raw_requests_may_come_as_a_stream(void **state)
{
    static const struct {
        const char *head[14], *body;
        size_t body_n;
        bool is_ended;
        int requests_n, gone_n;
        const char *part, *back;
        size_t back_n;
    } rows[] = {
        { { HEAD_OF("/t.T/Chat") },
          "\0\0\0\0\1a\0\0\0\0\0\0\0\0\0\2cd",
          18,
          true,
          3,
          0,
          "x-seen: 3\n",
          "\0\0\0\0\2cd",
          7 },
        { { HEAD_OF("/t.T/Chat") }, "", 0, true, 0, 0, "x-seen: 0\n", "", 0 },
        { { HEAD_OF("/t.T/Chat") },
          "\0\0\0\0\3bye\0\0\0\0\1x",
          14,
          false,
          1,
          0,
          "grpc-message: as asked\n",
          "\0\0\0\0\3bye",
          8 },
        { { HEAD_OF("/t.T/Chat") },
          "\0\0\0\0\1a\0\0\0\0\2b",
          12,
          true,
          1,
          1,
          "ended inside a message\n",
          "",
          0 },
        { { HEAD_OF("/t.T/Chat") },
          "\0\0\0\0\1a\0\0\1\0\1",
          11,
          false,
          1,
          1,
          "grpc-status: 8\n",
          "",
          0 },
        { { HEAD_OF("/t.T/Listen") }, "\0\0\0\0\1a", 6, true, 1, 1, "grpc-status: 0\n", "", 0 },
    };
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (size_t step = 1; step <= rows[i].body_n + 1; step++) {
            struct raw r;
            struct buf b;

            w->requests_n = w->gone_n = 0;
            raw_start(&r, w, &b);
            headers(&b, 1, 4, rows[i].head);
            for (size_t at = 0; at < rows[i].body_n; at += step)
                frame(&b, 0, 0, 1,
                      span_of(rows[i].body + at,
                              rows[i].body_n - at < step ? rows[i].body_n - at : step));
            if (rows[i].is_ended)
                frame(&b, 0, 1, 1, span_of(NULL, 0));
            raw_play(&r, &b, true);
            assert_int_equal(w->requests_n, rows[i].requests_n);
            assert_int_equal(w->gone_n, rows[i].gone_n);
            assert_answer(&r, rows[i].part);
            assert_non_null(memmem(r.in.p, r.in.n, rows[i].back, rows[i].back_n));
            raw_done(&r);
        }
}

/* A client that goes away in the middle: the handler is told. */
static void
raw_stream_of_requests_that_breaks(void **state)
{
    static const char *const words[] = { HEAD_OF("/t.T/Chat") };
    struct world *w = *state;
    struct raw r;

    raw_ask(&r, w, words, 0, span_of("\0\0\0\0\1a", 6));
    assert_int_equal(w->requests_n, 1);
    assert_int_equal(w->gone_n, 1);
    raw_done(&r);
}

static void
raw_compressed_message_is_unimplemented(void **state)
{
    static const char *const words[] = { GOOD_HEAD, "grpc-encoding", "gzip", NULL };
    static const uint8_t body[] = { 1, 0, 0, 0, 1, 'x' };
    struct world *w = *state;
    struct raw r;

    raw_ask(&r, w, words, 1, span_of(body, sizeof(body)));
    assert_int_equal(w->requests_n, 0);
    assert_answer(&r, "grpc-status: 12\n");
    assert_answer(&r, "grpc-accept-encoding: identity\n");
    raw_done(&r);
}

static void
raw_answer_before_the_end_stops_the_client(void **state)
{
    static const char *const words[] = { GOOD_HEAD, NULL };
    static const uint8_t body[] = { 0, 0, 1, 0, 1 }; /* 65537 bytes will come */
    struct world *w = *state;
    struct raw r;

    raw_ask(&r, w, words, 0, span_of(body, sizeof(body)));
    assert_answer(&r, "grpc-status: 8\n");
    assert_true(has_error(&r, 3, 0)); /* RST_STREAM NO_ERROR: RFC 9113 8.1 */
    raw_done(&r);
}

static void
raw_rapid_reset_ends_the_connection(void **state)
{
    static const char *const words[] = { GOOD_HEAD, NULL };
    static const uint8_t cancel[] = { 0, 0, 0, 8 };
    struct world *w = *state;
    struct raw r;
    struct buf b;

    raw_start(&r, w, &b);
    for (uint32_t id = 1; id < 2 * 1500; id += 2) {
        headers(&b, id, 4, words);
        frame(&b, 3, 0, id, span_of(cancel, 4));
    }
    raw_play(&r, &b, false);
    assert_true(r.closed);
    assert_true(has_error(&r, 7, 11) || has_error(&r, 7, 2)); /* ours, or nghttp2's own limit */
    assert_int_equal(w->requests_n, 0);
    raw_done(&r);
}

static void
raw_floods_end_the_connection(void **state)
{
    static const uint8_t zero[8] = { 0 };
    static const struct {
        uint8_t type, flags;
        size_t n; /* payload */
    } rows[] = { { 6, 0, 8 }, { 4, 0, 0 }, { 2, 0, 5 }, { 9, 0, 0 } };
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct raw r;
        struct buf b;
        uint32_t id = rows[i].type == 2 ? 1 : 0;

        raw_start(&r, w, &b);
        if (rows[i].type == 9) {
            frame(&b, 1, 0, 1, span_of(NULL, 0));
            id = 1;
        }
        for (int k = 0; k < 20000; k++)
            frame(&b, rows[i].type, rows[i].flags, id, span_of(zero, rows[i].n));
        raw_play(&r, &b, false);
        assert_true(r.closed);
        raw_done(&r);
    }
}

static void
raw_pings_at_a_normal_pace_are_answered(void **state)
{
    static const uint8_t eight[8] = { 'p', 'i', 'n', 'g', 'p', 'i', 'n', 'g' };
    struct world *w = *state;
    struct raw r;
    struct buf b;

    raw_start(&r, w, &b);
    for (int i = 0; i < 100; i++)
        frame(&b, 6, 0, 0, span_of(eight, 8));
    raw_play(&r, &b, true);
    assert_true(has(&r, "pingping"));
    assert_false(has_error(&r, 7, 11));
    raw_done(&r);
}

static void
raw_garbage_is_closed(void **state)
{
    struct world *w = *state;
    struct raw r;
    struct buf b;
    struct err e;

    raw_start(&r, w, &b);
    b.n = 0;
    assert_ok(buf_add_str(&b, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &e));
    raw_play(&r, &b, false);
    assert_true(r.closed);
    raw_done(&r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(raw_requests_that_are_not_grpc),
        T(raw_requests_may_come_as_a_stream),
        T(raw_stream_of_requests_that_breaks),
        T(raw_compressed_message_is_unimplemented),
        T(raw_answer_before_the_end_stops_the_client),
        T(raw_rapid_reset_ends_the_connection),
        T(raw_floods_end_the_connection),
        T(raw_pings_at_a_normal_pace_are_answered),
        T(raw_garbage_is_closed),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
