/* grpc_kit.h - a gRPC server and a client of it over clear text on loopback. */
#ifndef TESTS_UNIT_NET_GRPC_KIT_H
#define TESTS_UNIT_NET_GRPC_KIT_H

#include "unit.h"
#include "until.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "net/addr.h"
#include "net/grpc.h"

struct world {
    struct loop *l;
    struct timer *limit;
    struct grpc_server *server;
    struct grpc_client *client;
    uint16_t port;
    struct grpc_call *held; /* by /t.T/Hold and /t.T/Watch */
    int held_n, gone_n, requests_n;
    /* the client's side */
    int done_n, wanted_n, code;
    char text[256], trailer[64], msgs[512];
    bool timed_out;
};

static inline void
on_limit(void *arg)
{
    struct world *w = arg;

    w->timed_out = true;
    loop_stop(w->l);
}

static inline void
on_gone(void *arg)
{
    struct world *w = arg;

    w->gone_n++;
    w->held = NULL;
}

static inline void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    struct err e;

    w->requests_n++;
    assert_ok(grpc_trailer(c, "x-seen", "yes", &e));
    if (grpc_header_count(c, "x-word") == 2)
        assert_ok(grpc_trailer(c, "x-two", "2", &e));
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static inline void
refuse(struct grpc_call *c, struct span msg, void *self)
{
    (void)msg;
    (void)self;
    grpc_finish(c, GRPC_INVALID_ARGUMENT, "100% wrong\nreally \xc3\xa9");
}

static inline void
hold(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;

    (void)msg;
    w->held = c;
    w->held_n++;
    grpc_on_gone(c, on_gone, w);
}

static inline void
stream(struct grpc_call *c, struct span msg, void *self)
{
    struct err e;

    (void)self;
    for (size_t i = 0; i < 3; i++)
        assert_ok(grpc_send(c, span_of(msg.p, i < msg.n ? i : msg.n), &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static inline void
pour(struct grpc_call *c, struct span msg, void *self)
{
    static uint8_t big[64 * 1024];
    struct err e;
    int r = 0;

    (void)msg;
    (void)self;
    for (int i = 0; i < 64 && r == 0; i++)
        r = grpc_send(c, span_of(big, sizeof(big)), &e);
    assert_int_equal(r, -E_LIMIT);
    grpc_finish(c, GRPC_RESOURCE_EXHAUSTED, e.msg);
}

/* Says each message back; "bye" ends it; at the client's end, how many there were. */
static inline void
chat(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    struct err e;

    if (grpc_call_arg(c) == NULL)
        grpc_on_gone(c, on_gone, w);
    w->requests_n++;
    assert_ok(grpc_send(c, msg, &e));
    if (span_eq_str(msg, "bye"))
        grpc_finish(c, GRPC_OK, "as asked");
}

static inline void
chat_end(struct grpc_call *c, void *self)
{
    struct world *w = self;
    char n[8];
    struct err e;

    (void)snprintf(n, sizeof(n), "%d", w->requests_n);
    assert_ok(grpc_trailer(c, "x-seen", n, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = {
    { .path = "/t.T/Chat", .streams = true, .on_message = chat, .on_half_close = chat_end },
    { .path = "/t.T/Listen", .streams = true, .on_message = chat },
    { .path = "/t.T/Echo", .on_request = echo },
    { .path = "/t.T/Fail", .on_request = refuse },
    { .path = "/t.T/Hold", .on_request = hold },
    { .path = "/t.T/Stream", .streams = true, .on_request = stream },
    { .path = "/t.T/Watch", .streams = true, .on_request = hold },
    { .path = "/t.T/Pour", .streams = true, .on_request = pour },
};

static inline int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct grpc_server_conf sc = { .methods = methods, .methods_n = ARRAY_LEN(methods), .self = w };
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_limit, w, &w->limit, &e));
    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &w->port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    struct grpc_client_conf cc = { .host = "127.0.0.1", .port = w->port };
    assert_ok(grpc_client_new(w->l, &cc, &w->client, &e));
    *state = w;
    return 0;
}

static inline int
teardown(void **state)
{
    struct world *w = *state;

    grpc_client_free(w->client);
    grpc_server_free(w->server);
    timer_free(w->limit);
    loop_free(w->l);
    free(w);
    return 0;
}

static inline void
run(struct world *w, int n)
{
    struct err e;

    w->wanted_n = n;
    w->timed_out = false;
    timer_set(w->limit, WAIT_MS);
    assert_ok(loop_run(w->l, &e));
    assert_false(w->timed_out);
    timer_stop(w->limit);
}

static inline void
on_message(struct span msg, void *arg)
{
    struct world *w = arg;

    (void)snprintf(w->msgs + strlen(w->msgs), sizeof(w->msgs) - strlen(w->msgs), "[%.*s]",
                   SPAN_ARG(msg));
}

static inline void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    w->code = code;
    (void)snprintf(w->text, sizeof(w->text), "%s", msg);
    (void)snprintf(w->trailer, sizeof(w->trailer), "%.*s",
                   SPAN_ARG(grpc_answer_trailer(q, "x-seen")));
    if (++w->done_n == w->wanted_n)
        loop_stop(w->l);
}

static inline struct grpc_request *
call(struct world *w, const char *path, const char *msg, uint64_t timeout_ms)
{
    const struct grpc_answer answer = { on_message, on_done, w };
    const struct grpc_header_kv headers[] = { { "x-word", "a" },
                                              { "x-word", "b" },
                                              { NULL, NULL } };
    struct grpc_request *q = NULL;
    struct err e;

    assert_ok(
        grpc_client_call(w->client, path, headers, span_str(msg), timeout_ms, &answer, &q, &e));
    return q;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
