/* Peers that hold a place and move nothing: each is cut off within its limit, and counted. Time is
 * what h2_conn_check is told. Source: peers.md 5c (42), CVE-2023-44487, CVE-2024-28182 and the
 * slow-loris family. */
#include "unit.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/grpc.h"
#include "net/grpc_server.h"

enum { TURNS_MAX = 5000, BIG = 60 * 1024 };

#define PREFACE  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SETTINGS "\0\0\0\4\0\0\0\0\0"

struct world {
    struct loop *l;
    struct metrics *metrics;
    struct grpc_server *server;
    int fd; /* the raw client's */
    int requests_n;
};

static void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    struct err e;

    w->requests_n++;
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static void
watch(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;

    (void)c;
    (void)msg;
    w->requests_n++;
}

static const struct grpc_method methods[] = {
    { .path = "/t.T/Echo", .on_request = echo },
    { .path = "/t.T/Watch", .streams = true, .on_request = watch },
};

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct grpc_server_conf sc = {
        .methods = methods, .methods_n = ARRAY_LEN(methods), .self = w, .name = "test"
    };
    uint16_t port;
    int fds[2];
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(metrics_new(&w->metrics, &e));
    sc.metrics = w->metrics;
    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    w->fd = fds[0];
    assert_ok(grpc_server_adopt(w->server, fds[1], &e));
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    grpc_server_free(w->server);
    loop_free(w->l);
    metrics_free(w->metrics);
    (void)close(w->fd);
    free(w);
    return 0;
}

static void
on_turn(void *arg)
{
    loop_stop(arg);
}

static void
turn(struct world *w)
{
    struct timer *t;
    struct err e;

    assert_ok(timer_new(w->l, on_turn, w->l, &t, &e));
    timer_set(t, 1);
    assert_ok(loop_run(w->l, &e));
    timer_free(t);
}

static struct h2_conn *
conn(const struct world *w)
{
    return w->server->conns == NULL ? NULL : w->server->conns->io;
}

static bool
is_up(const struct world *w, uint64_t n)
{
    return h2_conn_is_open(conn(w)) && h2_frames_in(h2_conn_h2(conn(w))) >= n;
}

/* Until `n` frames have been understood. */
static void
frames_wait(struct world *w, uint64_t n)
{
    for (int i = 0; i < TURNS_MAX && !is_up(w, n); i++)
        turn(w);
    assert_true(is_up(w, n));
    for (int i = 0; i < 3; i++)
        turn(w); /* and what was sent after them is read */
}

static void
say(struct world *w, const void *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t r = send(w->fd, (const uint8_t *)p + at, n - at, MSG_NOSIGNAL);

        if (r > 0)
            at += (size_t)r;
        else
            turn(w);
    }
}

static void
frame(struct world *w, uint8_t type, uint8_t flags, uint32_t id, struct span s)
{
    const uint8_t head[9] = {
        (uint8_t)(s.n >> 16), (uint8_t)(s.n >> 8), (uint8_t)s.n, type, flags, 0, 0,
        (uint8_t)(id >> 8),   (uint8_t)id
    };

    say(w, head, sizeof(head));
    if (s.n > 0)
        say(w, s.p, s.n);
}

/* HPACK: literals without indexing, names and values under 127 bytes. */
static struct span
head_of(const char *path, uint8_t ret[512])
{
    const char *const words[] = { ":method", "POST",     ":scheme",      "http",
                                  ":path",   path,       ":authority",   "a",
                                  "te",      "trailers", "content-type", "application/grpc" };
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (i % 2 == 0)
            ret[n++] = 0;
        ret[n++] = (uint8_t)strlen(words[i]);
        memcpy(ret + n, words[i], strlen(words[i]));
        n += strlen(words[i]);
    }
    return span_of(ret, n);
}

static void
hello(struct world *w)
{
    say(w, PREFACE SETTINGS, sizeof(PREFACE SETTINGS) - 1);
    frames_wait(w, 1);
}

/* Still there after `ms`, cut at one more; counted under `reason`. */
static void
assert_cut_after(struct world *w, uint64_t from_ms, uint64_t ms, const char *reason)
{
    char labels[96];

    (void)snprintf(labels, sizeof(labels), "listener=\"test\",reason=\"%s\"", reason);
    (void)h2_conn_check(conn(w), from_ms + ms - 1, 0);
    assert_int_equal(grpc_server_connections(w->server), 1);
    (void)h2_conn_check(conn(w), from_ms + ms + 1, 0);
    assert_int_equal(grpc_server_connections(w->server), 0);
    assert_true(metric_value(w->metrics, "meshroot_grpc_connections_cut_total", labels) == 1);
}

static void
who_never_says_hello_is_cut(void **state)
{
    struct world *w = *state;
    uint64_t now = mono_ms();

    for (int i = 0; i < TURNS_MAX && !h2_conn_is_open(conn(w)); i++)
        turn(w);
    now = h2_conn_last_read_ms(conn(w));
    assert_cut_after(w, now, H2_FRAME_MS, "drip");
}

static void
headers_that_drip_are_cut(void **state)
{
    struct world *w = *state;

    hello(w);
    uint64_t before = h2_conn_last_read_ms(conn(w));
    for (int i = 0; i < 5; i++) { /* a header block without an end, in pieces */
        frame(w, i == 0 ? 1 : 9, 0, 1, span_of("\0", 1));
        for (int k = 0; k < TURNS_MAX && i == 0 && h2_conn_last_read_ms(conn(w)) == before; k++)
            turn(w);
        turn(w);
    }
    uint64_t first = h2_conn_last_read_ms(conn(w));
    assert_true(first > before);
    (void)h2_conn_check(conn(w), first + H2_FRAME_MS, 0);
    assert_int_equal(grpc_server_connections(w->server), 0);
    assert_true(metric_value(w->metrics, "meshroot_grpc_connections_cut_total",
                             "listener=\"test\",reason=\"drip\"") == 1);
}

static void
who_is_idle_between_whole_frames_is_not_cut(void **state)
{
    struct world *w = *state;

    hello(w);
    (void)h2_conn_check(conn(w), mono_ms() + 20 * 60 * 1000, 0);
    assert_int_equal(grpc_server_connections(w->server), 1);
}

static void
ask_echo(struct world *w, size_t n)
{
    static uint8_t msg[5 + BIG];
    uint8_t head[512];

    msg[2] = (uint8_t)(n >> 16);
    msg[3] = (uint8_t)(n >> 8);
    msg[4] = (uint8_t)n;
    frame(w, 1, 4, 1, head_of("/t.T/Echo", head));
    for (size_t at = 0; at < 5 + n;) {
        size_t part = 5 + n - at < 16384 ? 5 + n - at : 16384;

        frame(w, 0, at + part == 5 + n, 1, span_of(msg + at, part));
        at += part;
    }
    for (int i = 0; i < TURNS_MAX && w->requests_n == 0; i++)
        turn(w);
    assert_int_equal(w->requests_n, 1);
}

static void
a_window_that_stays_shut_is_cut(void **state)
{
    static const uint8_t zero_window[] = { 0, 4, 0, 0, 0, 0 };
    struct world *w = *state;
    uint64_t now = mono_ms();

    hello(w);
    frame(w, 4, 0, 0, span_of(zero_window, sizeof(zero_window)));
    ask_echo(w, 100);
    turn(w);
    assert_true(h2_body_waits(h2_conn_h2(conn(w))));
    (void)h2_conn_check(conn(w), now, 0); /* it is seen */
    assert_cut_after(w, now, H2_STALL_MS, "stall");
}

static void
a_window_that_opens_in_time_is_well(void **state)
{
    static const uint8_t zero_window[] = { 0, 4, 0, 0, 0, 0 };
    static const uint8_t more[] = { 0, 0, 0, 50 };
    struct world *w = *state;
    uint64_t now = mono_ms();

    hello(w);
    frame(w, 4, 0, 0, span_of(zero_window, sizeof(zero_window)));
    ask_echo(w, 100);
    (void)h2_conn_check(conn(w), now, 0);
    frame(w, 8, 0, 1, span_of(more, sizeof(more)));
    for (int i = 0; i < TURNS_MAX && h2_body_out(h2_conn_h2(conn(w))) == 0; i++)
        turn(w);
    (void)h2_conn_check(conn(w), now + H2_STALL_MS - 1, 0); /* half of it has gone */
    assert_cut_after(w, now + H2_STALL_MS - 1, H2_STALL_MS, "stall");
}

static void
a_reader_that_never_reads_is_cut(void **state)
{
    static const uint8_t windows[] = { 0, 4, 0x7f, 0xff, 0xff, 0xff };
    static const uint8_t more[] = { 0x7f, 0, 0, 0 };
    struct world *w = *state;
    int small = 4096;

    (void)setsockopt(h2_conn_fd(conn(w)), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    hello(w);
    frame(w, 4, 0, 0, span_of(windows, sizeof(windows)));
    frame(w, 8, 0, 0, span_of(more, sizeof(more)));
    ask_echo(w, BIG);
    for (int i = 0; i < 5; i++)
        turn(w);
    uint64_t now = mono_ms();
    (void)h2_conn_check(conn(w), now + H2_STALL_MS, 0);
    assert_int_equal(grpc_server_connections(w->server), 0);
    assert_true(metric_value(w->metrics, "meshroot_grpc_connections_cut_total",
                             "listener=\"test\",reason=\"stall\"") == 1);
}

/* A stream has no end of its own, but its request has: until it is there the call has a deadline.
 */
static void
the_request_of_a_stream_has_a_deadline(void **state)
{
    struct world *w = *state;
    uint8_t head[512];

    hello(w);
    frame(w, 1, 4, 1, head_of("/t.T/Watch", head));
    frames_wait(w, 2);
    const struct grpc_call *call = w->server->conns->calls;
    assert_non_null(call);
    assert_in_range(call->deadline_ms, mono_ms(), mono_ms() + GRPC_MAX_CALL_MS);
    frame(w, 0, 1, 1, span_of("\0\0\0\0\0", 5));
    for (int i = 0; i < TURNS_MAX && w->requests_n == 0; i++)
        turn(w);
    assert_ptr_equal(w->server->conns->calls, call);
    assert_int_equal(call->deadline_ms, 0);
}

static void
frames_of_no_known_type_are_counted(void **state)
{
    struct world *w = *state;

    hello(w);
    for (int i = 0; i < 2 * H2_IDLE_FRAMES_BURST && grpc_server_connections(w->server) > 0; i++) {
        uint8_t head[9] = { 0, 0, 0, 0x42 };

        if (send(w->fd, head, sizeof(head), MSG_NOSIGNAL) < 0)
            turn(w);
    }
    for (int i = 0; i < TURNS_MAX && grpc_server_connections(w->server) > 0; i++)
        turn(w);
    assert_int_equal(grpc_server_connections(w->server), 0);
    assert_true(metric_value(w->metrics, "meshroot_grpc_connections_cut_total",
                             "listener=\"test\",reason=\"flood\"") == 1);
}

/* grpc-core says WINDOW_UPDATE and PING about each of its calls: thousands of calls in a few
 * seconds are no flood. */
static void
a_busy_client_is_no_flood(void **state)
{
    enum { CALLS = 3000, FRAMES = 6, AT_ONCE = 50 };
    static uint8_t answers[65536];
    struct world *w = *state;
    uint8_t head[512];

    hello(w);
    for (int i = 0; i < CALLS; i++) {
        uint32_t id = 2 * (uint32_t)i + 1;

        frame(w, 1, 4, id, head_of("/t.T/Echo", head));
        frame(w, 0, 1, id, span_of("\0\0\0\0\0", 5));
        for (int k = 0; k < FRAMES; k++)
            frame(w, 8, 0, 0, span_of("\0\0\0\1", 4));
        for (int k = 0; k < TURNS_MAX && (i + 1) % AT_ONCE == 0 && w->requests_n <= i; k++) {
            turn(w);
            while (recv(w->fd, answers, sizeof(answers), 0) > 0)
                ;
        }
        assert_int_equal(grpc_server_connections(w->server), 1);
    }
    assert_int_equal(w->requests_n, CALLS);
}

static void
what_is_not_http2_is_counted(void **state)
{
    static const char upgrade[] =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    struct world *w = *state;

    say(w, upgrade, sizeof(upgrade) - 1);
    for (int i = 0; i < TURNS_MAX && grpc_server_connections(w->server) > 0; i++)
        turn(w);
    assert_int_equal(grpc_server_connections(w->server), 0);
    assert_true(metric_value(w->metrics, "meshroot_grpc_connections_cut_total",
                             "listener=\"test\",reason=\"protocol\"") == 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(who_never_says_hello_is_cut),
        T(headers_that_drip_are_cut),
        T(who_is_idle_between_whole_frames_is_not_cut),
        T(a_window_that_stays_shut_is_cut),
        T(a_window_that_opens_in_time_is_well),
        T(a_reader_that_never_reads_is_cut),
        T(the_request_of_a_stream_has_a_deadline),
        T(frames_of_no_known_type_are_counted),
        T(a_busy_client_is_no_flood),
        T(what_is_not_http2_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
