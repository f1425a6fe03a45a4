/* Connections that are being opened are few at a time, and silent ones keep nobody out. */
#include "mint.h"

#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"

enum { WAIT_MS = 20000, STEP_MS = 10 };

struct world {
    struct loop *l;
    struct timer *step;
    struct mint_ca root;
    struct key *key;
    struct cert *leaf;
    struct grpc_server *server;
    uint16_t port;
    int code; /* of the last answer; -1: none yet */
    /* what the loop runs for */
    bool (*until)(struct world *w);
    uint64_t by_ms;
    bool gave_up;
};

static void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct err e;

    (void)self;
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = { { .path = "/t.T/Echo", .on_request = echo } };

static void
on_step(void *arg)
{
    struct world *w = arg;

    w->gave_up = mono_ms() > w->by_ms;
    if (w->gave_up || w->until(w))
        loop_stop(w->l);
    else
        timer_set(w->step, STEP_MS);
}

static void
run_until(struct world *w, bool (*until)(struct world *w))
{
    struct err e;

    w->until = until;
    w->by_ms = mono_ms() + WAIT_MS;
    timer_set(w->step, 0);
    assert_ok(loop_run(w->l, &e));
    assert_false(w->gave_up);
}

static struct tls_conf *
tls(struct world *w, bool is_server)
{
    const struct tls_conf_args a = { .is_server = is_server,
                                     .key = is_server ? w->key : NULL,
                                     .leaf = is_server ? w->leaf : NULL,
                                     .roots = w->root.roots,
                                     .rule = is_server ? TLS_PEER_OPTIONAL : TLS_PEER_NAME,
                                     .alpn = "h2" };
    struct tls_conf *c;
    struct err e;

    assert_ok(tls_conf_new(&a, &c, &e));
    return c;
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct grpc_server_conf sc = {
        .methods = methods, .methods_n = ARRAY_LEN(methods), .self = w, .max_opening = 2
    };
    struct err e;

    assert_non_null(w);
    mint_ca(&w->root, "CN=Root", NULL);
    assert_ok(key_make(KEY_P256, &w->key, &e));
    w->leaf = mint_leaf(&w->root, w->key, "ca.local", 7200);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_step, w, &w->step, &e));
    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &w->port, &e));
    sc.tls = tls(w, true);
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    tls_conf_unref(sc.tls);
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    grpc_server_free(w->server);
    timer_free(w->step);
    loop_free(w->l);
    cert_unref(w->leaf);
    key_unref(w->key);
    mint_ca_done(&w->root);
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
}

static void
on_message(struct span msg, void *arg)
{
    (void)msg;
    (void)arg;
}

static bool
two_are_opening(struct world *w)
{
    return grpc_server_opening(w->server) == 2;
}

static bool
four_are_accepted(struct world *w)
{
    return grpc_server_connections(w->server) == 4;
}

static bool
one_is_left(struct world *w)
{
    return grpc_server_connections(w->server) == 1;
}

static bool
none_is_left(struct world *w)
{
    return grpc_server_connections(w->server) == 0;
}

static bool
is_answered(struct world *w)
{
    return w->code >= 0;
}

static void
silent_peers_are_few_at_a_time_and_keep_nobody_out(void **state)
{
    struct world *w = *state;
    const struct addr to = { "127.0.0.1", w->port };
    const struct grpc_answer answer = { on_message, on_done, w };
    struct tls_conf *conf = tls(w, false);
    struct grpc_client_conf cc = {
        .host = "127.0.0.1", .port = w->port, .verify_name = "ca.local", .tls = conf
    };
    struct grpc_client *client;
    int silent[4];
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        assert_ok(addr_connect(&to, &silent[i], &e));
    run_until(w, two_are_opening);
    assert_int_equal(grpc_server_connections(w->server), 2); /* the others wait in the kernel */
    run_until(w, four_are_accepted); /* the first two are no longer waited for */
    assert_true(grpc_server_opening(w->server) <= 2);
    w->code = -1;
    assert_ok(grpc_client_new(w->l, &cc, &client, &e));
    assert_ok(grpc_client_call(client, "/t.T/Echo", NULL, span_str("x"), 9000, &answer, NULL, &e));
    run_until(w, is_answered);
    assert_int_equal(w->code, GRPC_OK);
    assert_int_equal(grpc_server_connections(w->server), 5);
    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        (void)close(silent[i]);
    run_until(w, one_is_left);
    assert_int_equal(grpc_server_opening(w->server), 0);
    grpc_client_free(client);
    tls_conf_unref(conf);
}

/* Those that go away while they are being opened give their places back. */
static void
peers_that_hang_up_make_room(void **state)
{
    struct world *w = *state;
    const struct addr to = { "127.0.0.1", w->port };
    struct err e;

    for (int round = 0; round < 3; round++) {
        int a, b;

        assert_ok(addr_connect(&to, &a, &e));
        assert_ok(addr_connect(&to, &b, &e));
        run_until(w, two_are_opening);
        (void)close(a);
        (void)close(b);
    }
    run_until(w, none_is_left);
    assert_int_equal(grpc_server_opening(w->server), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(silent_peers_are_few_at_a_time_and_keep_nobody_out, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(peers_that_hang_up_make_room, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
