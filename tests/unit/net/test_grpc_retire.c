/* How a server ends connections without losing a call: at their age, and in a drain. */
#include "unit.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"
#include "net/grpc_server.h"
#include "until.h"

enum { AGE_MS = 100 };

struct world {
    struct loop *l;
    struct grpc_server *server;
    struct grpc_client *client;
    struct grpc_call *held;
    int gone_n, done_n, code;
    bool drained;
    char pushback[16], msgs[64];
    bool (*until)(struct world *w);
};

static void
on_gone(void *arg)
{
    struct world *w = arg;

    w->gone_n++;
    w->held = NULL;
}

static void
hold(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;

    (void)msg;
    w->held = c;
    grpc_on_gone(c, on_gone, w);
}

static void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct err e;

    (void)self;
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = {
    { .path = "/t.T/Echo", .on_request = echo },
    { .path = "/t.T/Hold", .on_request = hold },
    { .path = "/t.T/Watch", .streams = true, .on_request = hold },
};

static bool
is_so(void *arg)
{
    struct world *w = arg;

    return w->until(w);
}

static void
run_until(struct world *w, bool (*until)(struct world *w))
{
    w->until = until;
    assert_true(loop_until(w->l, is_so, w));
}

static void
open_both(struct world *w, uint64_t max_age_ms, size_t max_opening)
{
    struct grpc_server_conf sc = { .methods = methods,
                                   .methods_n = ARRAY_LEN(methods),
                                   .self = w,
                                   .max_age_ms = max_age_ms,
                                   .max_opening = max_opening };
    struct grpc_client_conf cc = { .host = "127.0.0.1" };
    struct err e;

    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &cc.port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    assert_ok(grpc_client_new(w->l, &cc, &w->client, &e));
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    grpc_client_free(w->client);
    grpc_server_free(w->server);
    loop_free(w->l);
    free(w);
    return 0;
}

static void
on_message(struct span msg, void *arg)
{
    struct world *w = arg;

    (void)snprintf(w->msgs, sizeof(w->msgs), "%.*s", SPAN_ARG(msg));
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    (void)msg;
    w->done_n++;
    w->code = code;
    (void)snprintf(w->pushback, sizeof(w->pushback), "%.*s",
                   SPAN_ARG(grpc_answer_trailer(q, "grpc-retry-pushback-ms")));
}

static void
call(struct world *w, const char *path)
{
    const struct grpc_answer answer = { on_message, on_done, w };
    struct err e;

    w->done_n = 0;
    w->code = -1;
    assert_ok(grpc_client_call(w->client, path, NULL, span_str("x"), 0, &answer, NULL, &e));
}

static bool
is_done(struct world *w)
{
    return w->done_n > 0;
}

static bool
is_held(struct world *w)
{
    return w->held != NULL;
}

static bool
is_asked(struct world *w)
{
    return w->server->conns != NULL && w->server->conns->retire != RETIRE_NOT;
}

static bool
is_last(struct world *w)
{
    return w->server->conns != NULL && w->server->conns->retire == RETIRE_LAST;
}

static bool
is_empty(struct world *w)
{
    return grpc_server_connections(w->server) == 0;
}

static bool
is_drained(struct world *w)
{
    return w->drained;
}

static void
drained(void *arg)
{
    struct world *w = arg;

    w->drained = true;
}

/* -- promises -- */

static void
at_its_age_streams_are_told_to_move(void **state)
{
    struct world *w = *state;

    open_both(w, AGE_MS, 0);
    call(w, "/t.T/Watch");
    run_until(w, is_done);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
    assert_string_equal(w->pushback, "0");
    assert_int_equal(w->gone_n, 1);
    call(w, "/t.T/Echo"); /* at once, on another connection */
    run_until(w, is_done);
    assert_int_equal(w->code, GRPC_OK);
    run_until(w, is_empty);
}

static void
at_its_age_a_call_under_way_is_answered(void **state)
{
    struct world *w = *state;
    struct err e;

    open_both(w, AGE_MS, 0);
    call(w, "/t.T/Hold");
    run_until(w, is_last);
    assert_non_null(w->held);
    assert_ok(grpc_send(w->held, span_str("late"), &e));
    grpc_finish(w->held, GRPC_OK, NULL);
    run_until(w, is_done);
    assert_int_equal(w->code, GRPC_OK);
    assert_string_equal(w->msgs, "late");
    assert_int_equal(w->gone_n, 0);
}

static void
without_an_age_nothing_ends(void **state)
{
    struct world *w = *state;

    open_both(w, 0, 0);
    call(w, "/t.T/Hold");
    run_until(w, is_held);
    assert_int_equal(w->server->conns->retire_at_ms, UINT64_MAX);
}

static bool
place_is_taken(struct world *w)
{
    return grpc_server_opening(w->server) == 1;
}

static bool
client_is_in(struct world *w)
{
    return grpc_server_connections(w->server) == 2;
}

/* A server that drains takes in who believes to be connected to it: a reset would fail its calls.
 */
static void
a_drain_serves_who_waits_in_the_kernels_queue(void **state)
{
    struct world *w = *state;
    struct sockaddr_in at;
    socklen_t at_n = sizeof(at);

    open_both(w, 0, 1);
    assert_int_equal(getsockname(w->server->conf.listen_fd, (struct sockaddr *)&at, &at_n), 0);
    int silent = socket(AF_INET, SOCK_STREAM, 0), waiting = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(silent, (struct sockaddr *)&at, at_n), 0);
    run_until(w, place_is_taken);
    assert_int_equal(connect(waiting, (struct sockaddr *)&at, at_n), 0);
    assert_false(client_is_in(w));
    grpc_server_drain(w->server, 3000, drained, w);
    assert_true(client_is_in(w));
    (void)close(silent);
    (void)close(waiting);
    run_until(w, is_drained);
}

static void
a_drain_asks_first(void **state)
{
    struct world *w = *state;
    struct err e;

    open_both(w, 0, 0);
    call(w, "/t.T/Hold");
    run_until(w, is_held);
    grpc_server_drain(w->server, WAIT_MS, drained, w);
    assert_true(is_asked(w));
    assert_false(is_last(w));
    run_until(w, is_last);
    assert_false(w->drained);
    assert_ok(grpc_send(w->held, span_str("last"), &e));
    grpc_finish(w->held, GRPC_OK, NULL);
    run_until(w, is_drained);
    assert_int_equal(w->code, GRPC_OK);
    assert_string_equal(w->msgs, "last");
}

/* A handler that never answers holds no drain for longer than it was given. */
static void
a_drain_is_bounded(void **state)
{
    struct world *w = *state;

    open_both(w, 0, 0);
    call(w, "/t.T/Hold");
    run_until(w, is_held);
    grpc_server_drain(w->server, 50, drained, w);
    run_until(w, is_drained);
    assert_int_equal(w->gone_n, 1);
    run_until(w, is_done);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(at_its_age_streams_are_told_to_move),
        T(at_its_age_a_call_under_way_is_answered),
        T(without_an_age_nothing_ends),
        T(a_drain_serves_who_waits_in_the_kernels_queue),
        T(a_drain_asks_first),
        T(a_drain_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
