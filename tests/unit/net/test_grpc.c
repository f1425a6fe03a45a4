/* The client against the server over clear text on loopback. */
#include "grpc_kit.h"
#include "net/grpc_server.h"

static void
unary_call_with_trailers(void **state)
{
    struct world *w = *state;

    (void)call(w, "/t.T/Echo", "hello", WAIT_MS);
    run(w, 1);
    assert_int_equal(w->code, GRPC_OK);
    assert_string_equal(w->msgs, "[hello]");
    assert_string_equal(w->trailer, "yes");
}

static void
many_calls_share_one_connection(void **state)
{
    struct world *w = *state;

    for (int i = 0; i < 1000; i++)
        (void)call(w, "/t.T/Echo", "x", WAIT_MS);
    run(w, 1000);
    assert_int_equal(w->code, GRPC_OK);
    assert_int_equal(w->requests_n, 1000);
    assert_int_equal(grpc_server_connections(w->server), 1);
}

static void
errors_come_with_their_text(void **state)
{
    static const struct {
        const char *path;
        int code;
        const char *text;
    } rows[] = {
        { "/t.T/Fail", GRPC_INVALID_ARGUMENT, "100% wrong really \xc3\xa9" },
        { "/t.T/echo", GRPC_UNIMPLEMENTED, "unknown method echo for service t.T" },
        { "/t.T/Echo/", GRPC_UNIMPLEMENTED, "unknown service t.T/Echo" },
        { "/u.U/Echo", GRPC_UNIMPLEMENTED, "unknown service u.U" },
        { "/", GRPC_UNIMPLEMENTED, "malformed method name" },
    };
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        (void)call(w, rows[i].path, "x", WAIT_MS);
        run(w, (int)i + 1);
        assert_int_equal(w->code, rows[i].code);
        assert_string_equal(w->text, rows[i].text);
    }
    assert_int_equal(w->requests_n, 0);
}

static void
a_message_may_have_64_kib_and_no_more(void **state)
{
    struct world *w = *state;
    char *big = malloc(GRPC_MAX_MESSAGE_BYTES + 2);

    memset(big, 'x', GRPC_MAX_MESSAGE_BYTES + 2);
    big[GRPC_MAX_MESSAGE_BYTES] = '\0';
    (void)call(w, "/t.T/Echo", big, WAIT_MS);
    run(w, 1);
    assert_int_equal(w->code, GRPC_OK);
    big[GRPC_MAX_MESSAGE_BYTES] = 'x';
    big[GRPC_MAX_MESSAGE_BYTES + 1] = '\0';
    (void)call(w, "/t.T/Echo", big, WAIT_MS);
    run(w, 2);
    assert_int_equal(w->code, GRPC_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(w->text, "larger than max (65537 vs. 65536)"));
    (void)call(w, "/t.T/Echo", "again", WAIT_MS); /* the connection lives */
    run(w, 3);
    assert_int_equal(w->code, GRPC_OK);
    assert_int_equal(grpc_server_connections(w->server), 1);
    free(big);
}

static void
streams_deliver_in_order(void **state)
{
    struct world *w = *state;

    (void)call(w, "/t.T/Stream", "abc", 0);
    run(w, 1);
    assert_int_equal(w->code, GRPC_OK);
    assert_string_equal(w->msgs, "[][a][ab]");
}

static void
a_stream_that_is_not_read_has_a_limit(void **state)
{
    struct world *w = *state;

    (void)call(w, "/t.T/Pour", "", 0);
    run(w, 1);
    assert_int_equal(w->code, GRPC_RESOURCE_EXHAUSTED);
    assert_string_equal(w->text, "grpc: the client does not read");
}

static void
deadline_ends_a_held_call_on_both_sides(void **state)
{
    struct world *w = *state;
    int n = 0;

    for (uint64_t ms = 50; w->held_n == 0; ms *= 2) { /* it may be over before the call is sent */
        (void)call(w, "/t.T/Hold", "x", ms);
        run(w, ++n);
        assert_int_equal(w->code, GRPC_DEADLINE_EXCEEDED);
        (void)call(w, "/t.T/Echo", "x", WAIT_MS); /* after the reset has gone out */
        run(w, ++n);
    }
    assert_int_equal(w->held_n, 1);
    assert_int_equal(w->gone_n, 1);
}

static bool
is_held(void *arg)
{
    struct world *w = arg;

    return w->held != NULL;
}

/* Istio's agents set no deadline, and take DEADLINE_EXCEEDED for the last word. Source:
 * specs/istio-ca.md 1.7. */
static void
our_own_limit_of_a_call_may_be_tried_again(void **state)
{
    static const uint64_t deadlines[] = { 0, 10 * GRPC_MAX_CALL_MS };
    struct world *w = *state;

    for (int i = 0; i < (int)ARRAY_LEN(deadlines); i++) {
        (void)call(w, "/t.T/Hold", "x", deadlines[i]);
        assert_true(loop_until(w->l, is_held, w));
        uint64_t now = mono_ms();
        w->held->deadline_ms = now; /* it has waited so long */
        server_conn_tick_by(w->held->conn, now, now);
        run(w, i + 1);
        assert_int_equal(w->code, GRPC_UNAVAILABLE);
        assert_string_equal(w->text, "no answer within the 10 s of a call; try again");
    }
}

static void
cancel_tells_both_sides(void **state)
{
    struct world *w = *state;
    struct grpc_request *q = call(w, "/t.T/Watch", "x", 0);

    assert_true(loop_until(w->l, is_held, w));
    grpc_cancel(q);
    run(w, 1);
    assert_int_equal(w->code, GRPC_CANCELLED);
    (void)call(w, "/t.T/Echo", "x", WAIT_MS);
    run(w, 2);
    assert_int_equal(w->gone_n, 1);
}

static void
cancel_before_it_is_sent(void **state)
{
    struct world *w = *state;

    grpc_cancel(call(w, "/t.T/Echo", "x", 0));
    assert_int_equal(w->done_n, 0); /* never before it returns */
    run(w, 1);
    assert_int_equal(w->code, GRPC_CANCELLED);
}

static bool
is_one_connection(void *arg)
{
    struct world *w = arg;

    return grpc_server_connections(w->server) == 1;
}

static void
reconnect_dials_anew_and_lets_calls_finish(void **state)
{
    struct world *w = *state;
    struct err e;

    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 1);
    (void)call(w, "/t.T/Hold", "x", WAIT_MS);
    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 2);
    grpc_client_reconnect(w->client);
    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 3);
    assert_int_equal(grpc_server_connections(w->server), 2);
    assert_non_null(w->held);
    assert_ok(grpc_send(w->held, span_str("late"), &e));
    grpc_finish(w->held, GRPC_OK, NULL);
    run(w, 4);
    assert_int_equal(w->code, GRPC_OK);
    assert_non_null(strstr(w->msgs, "[late]"));
    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 5);
    assert_true(loop_until(w->l, is_one_connection, w));
}

static void
nobody_listens(void **state)
{
    struct world *w = *state;

    grpc_server_free(w->server);
    w->server = NULL;
    (void)call(w, "/t.T/Echo", "x", WAIT_MS);
    run(w, 1);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
    assert_non_null(strstr(w->text, "connect to 127.0.0.1:"));
}

static void
server_that_goes_away_ends_calls_unavailable(void **state)
{
    struct world *w = *state;

    (void)call(w, "/t.T/Hold", "x", 0);
    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 1);
    grpc_server_free(w->server);
    w->server = NULL;
    assert_int_equal(w->gone_n, 1);
    run(w, 2);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
}

static void
drained(void *arg)
{
    struct world *w = arg;

    w->server = NULL;
    loop_stop(w->l);
}

static void
drain_lets_calls_finish_and_ends_streams(void **state)
{
    struct world *w = *state;
    struct grpc_server *s = w->server;
    struct err e;

    (void)call(w, "/t.T/Watch", "x", 0);
    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 1);
    (void)call(w, "/t.T/Hold", "x", WAIT_MS);
    (void)call(w, "/t.T/Echo", "x", 0);
    run(w, 2);
    struct grpc_call *held = w->held;
    grpc_server_drain(s, WAIT_MS, drained, w);
    assert_int_equal(w->gone_n, 1); /* the stream */
    run(w, 3);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
    assert_ok(grpc_send(held, span_str("last"), &e));
    grpc_finish(held, GRPC_OK, NULL);
    run(w, 99); /* until drained stops it */
    assert_null(w->server);
    assert_int_equal(w->done_n, 4);
    assert_int_equal(w->code, GRPC_OK);
    grpc_server_free(s);
}

struct late { /* a call that has to wait for a place */
    struct world *w;
    int code, ended_before;
};

static void
on_late_message(struct span msg, void *arg)
{
    struct late *late = arg;

    on_message(msg, late->w);
}

static void
on_late_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct late *late = arg;

    late->code = code;
    late->ended_before = late->w->done_n;
    on_done(code, msg, q, late->w);
}

static bool
all_are_held(void *arg)
{
    struct world *w = arg;

    return w->held_n == GRPC_MAX_STREAMS;
}

static bool
some_turns_went_by(void *arg)
{
    int *left = arg;

    return --*left == 0;
}

/* 128 calls are under way at once; the next one waits at the client and is not lost. */
static void
streams_beyond_the_limit_wait(void **state)
{
    struct world *w = *state;
    struct late late = { .w = w, .code = -1 };
    const struct grpc_answer answer = { on_late_message, on_late_done, &late };
    struct grpc_request *held[GRPC_MAX_STREAMS];
    int turns = 10;
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(held); i++)
        held[i] = call(w, "/t.T/Watch", "x", 0);
    assert_ok(
        grpc_client_call(w->client, "/t.T/Echo", NULL, span_str("x"), WAIT_MS, &answer, NULL, &e));
    assert_true(loop_until(w->l, all_are_held, w));
    assert_true(loop_until(w->l, some_turns_went_by, &turns));
    assert_int_equal(late.code, -1);
    grpc_cancel(held[0]);
    run(w, 2);
    assert_int_equal(late.code, GRPC_OK);
    assert_int_equal(late.ended_before, 1);
    for (size_t i = 1; i < ARRAY_LEN(held); i++)
        grpc_cancel(held[i]);
    (void)call(w, "/t.T/Echo", "y", WAIT_MS); /* after the last reset has gone out */
    run(w, GRPC_MAX_STREAMS + 2);
    assert_string_equal(w->msgs, "[x][y]");
    assert_int_equal(w->gone_n, GRPC_MAX_STREAMS);
}

static void
accept_pauses_at_the_limit_of_connections(void **state)
{
    struct world *w = *state;
    struct grpc_server_conf sc = {
        .methods = methods, .methods_n = ARRAY_LEN(methods), .self = w, .max_connections = 1
    };
    struct grpc_client_conf cc = { .host = "localhost" };
    const struct grpc_answer answer = { on_message, on_done, w };
    struct grpc_client *one, *two;
    struct grpc_server *s;
    struct err e;

    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &cc.port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &s, &e));
    assert_ok(grpc_client_new(w->l, &cc, &one, &e));
    assert_ok(grpc_client_new(w->l, &cc, &two, &e));
    assert_ok(grpc_client_call(one, "/t.T/Echo", NULL, span_str("1"), WAIT_MS, &answer, NULL, &e));
    run(w, 1);
    assert_ok(grpc_client_call(two, "/t.T/Echo", NULL, span_str("2"), 200, &answer, NULL, &e));
    run(w, 2);
    assert_int_equal(w->code, GRPC_DEADLINE_EXCEEDED); /* it waits in the kernel's queue */
    assert_int_equal(grpc_server_connections(s), 1);
    assert_ok(grpc_client_call(two, "/t.T/Echo", NULL, span_str("3"), WAIT_MS, &answer, NULL, &e));
    grpc_client_free(one); /* makes room */
    run(w, 3);
    assert_int_equal(w->code, GRPC_OK);
    grpc_client_free(two);
    grpc_server_free(s);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(unary_call_with_trailers),
        T(many_calls_share_one_connection),
        T(errors_come_with_their_text),
        T(a_message_may_have_64_kib_and_no_more),
        T(streams_deliver_in_order),
        T(a_stream_that_is_not_read_has_a_limit),
        T(deadline_ends_a_held_call_on_both_sides),
        T(our_own_limit_of_a_call_may_be_tried_again),
        T(cancel_tells_both_sides),
        T(cancel_before_it_is_sent),
        T(reconnect_dials_anew_and_lets_calls_finish),
        T(nobody_listens),
        T(server_that_goes_away_ends_calls_unavailable),
        T(drain_lets_calls_finish_and_ends_streams),
        T(streams_beyond_the_limit_wait),
        T(accept_pauses_at_the_limit_of_connections),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
