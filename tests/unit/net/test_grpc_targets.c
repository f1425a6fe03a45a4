/* A client that knows several servers: when one cannot be reached, or ends a connection, it is at
 * another at once. */
#include "keep_port.h"

#include <string.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"

enum { WAIT_MS = 60000, SERVERS = 2 };

struct world;

struct server {
    struct world *w;
    struct grpc_server *s;
    uint16_t port;
    int port_fd, calls_n;
};

struct world {
    struct loop *l;
    struct timer *limit;
    struct server servers[SERVERS];
    struct grpc_client *client;
    int code;
    bool is_drained, timed_out;
};

static void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct server *s = self;
    struct err e;

    s->calls_n++;
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = { { .path = "/t.T/Echo", .on_request = echo } };

static void
on_limit(void *arg)
{
    struct world *w = arg;

    w->timed_out = true;
    loop_stop(w->l);
}

static void
server_open(struct world *w, struct server *s)
{
    struct grpc_server_conf sc = { .methods = methods, .methods_n = ARRAY_LEN(methods), .self = s };
    struct err e;

    s->w = w;
    assert_ok(
        addr_listen(&(struct addr){ "127.0.0.1", s->port }, false, &sc.listen_fd, &s->port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &s->s, &e));
}

static void
server_close(struct server *s)
{
    grpc_server_free(s->s);
    s->s = NULL;
}

static void
client_open(struct world *w)
{
    const struct addr other = { "127.0.0.1", w->servers[1].port };
    const struct grpc_client_conf cc = {
        .host = "127.0.0.1", .port = w->servers[0].port, .others = &other, .others_n = 1
    };
    struct err e;

    assert_ok(grpc_client_new(w->l, &cc, &w->client, &e));
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_limit, w, &w->limit, &e));
    for (size_t i = 0; i < SERVERS; i++) {
        w->servers[i].port_fd = keep_port(&w->servers[i].port);
        server_open(w, &w->servers[i]);
    }
    client_open(w);
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    grpc_client_free(w->client);
    for (size_t i = 0; i < SERVERS; i++) {
        server_close(&w->servers[i]);
        (void)close(w->servers[i].port_fd);
    }
    timer_free(w->limit);
    loop_free(w->l);
    free(w);
    return 0;
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    (void)msg;
    (void)q;
    w->code = code;
    loop_stop(w->l);
}

static void
run(struct world *w)
{
    struct err e;

    timer_set(w->limit, WAIT_MS);
    assert_ok(loop_run(w->l, &e));
    assert_false(w->timed_out);
    timer_stop(w->limit);
}

static void
on_message(struct span msg, void *arg)
{
    (void)arg;
    assert_true(span_eq_str(msg, "x"));
}

static void
call(struct world *w)
{
    const struct grpc_answer answer = { on_message, on_done, w };
    struct err e;

    w->code = -1;
    assert_ok(
        grpc_client_call(w->client, "/t.T/Echo", NULL, span_str("x"), WAIT_MS, &answer, NULL, &e));
    run(w);
}

static void
drained(void *arg)
{
    struct world *w = arg;

    w->is_drained = true;
    loop_stop(w->l);
}

/* The one that the client is at now. */
static struct server *
in_use(struct world *w)
{
    for (size_t i = 0; i < SERVERS; i++)
        if (w->servers[i].s != NULL && grpc_server_connections(w->servers[i].s) > 0)
            return &w->servers[i];
    fail_msg("no server has a connection");
    return &w->servers[0];
}

static void
whichever_is_down_the_call_is_answered(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < 4 * SERVERS; i++) {
        struct server *down = &w->servers[i % SERVERS];

        grpc_client_free(w->client); /* a new one takes either first, by chance */
        client_open(w);
        server_close(down);
        call(w);
        assert_int_equal(w->code, GRPC_OK);
        server_open(w, down);
    }
}

static void
a_server_that_drains_is_left_for_the_other(void **state)
{
    struct world *w = *state;

    for (int i = 0; i < 4; i++) {
        call(w);
        assert_int_equal(w->code, GRPC_OK);
        struct server *from = in_use(w), *to = &w->servers[from == &w->servers[0]];
        int before = to->calls_n;
        w->is_drained = false;
        grpc_server_drain(from->s, WAIT_MS, drained, w);
        while (!w->is_drained)
            run(w);
        server_close(from);
        call(w);
        assert_int_equal(w->code, GRPC_OK);
        assert_int_equal(to->calls_n, before + 1);
        server_open(w, from);
    }
}

/* The client's own wish for a new connection is no reason to go elsewhere. */
static void
a_reconnect_stays_where_it_is(void **state)
{
    struct world *w = *state;

    for (int i = 0; i < 8; i++) {
        call(w);
        assert_int_equal(w->code, GRPC_OK);
        grpc_client_reconnect(w->client);
    }
    assert_true(w->servers[0].calls_n == 0 || w->servers[1].calls_n == 0);
}

static void
with_none_the_call_fails(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < SERVERS; i++)
        server_close(&w->servers[i]);
    call(w);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
}

static void
too_many_are_refused(void **state)
{
    struct world *w = *state;
    struct addr others[GRPC_TARGETS_MAX] = { { "127.0.0.1", 1 } };
    const struct grpc_client_conf cc = {
        .host = "127.0.0.1", .port = 1, .others = others, .others_n = GRPC_TARGETS_MAX
    };
    struct grpc_client *c;
    struct err e;

    assert_err(grpc_client_new(w->l, &cc, &c, &e), E_INVAL, "4 servers");
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(whichever_is_down_the_call_is_answered),
        T(a_server_that_drains_is_left_for_the_other),
        T(a_reconnect_stays_where_it_is),
        T(with_none_the_call_fails),
        T(too_many_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
