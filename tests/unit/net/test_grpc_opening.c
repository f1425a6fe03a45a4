/* Connections that are being opened are few at a time, and silent ones keep nobody out. */
#include "grpc_tls_kit.h"

#include "net/grpc_client.h"

static bool peer_was_seen; /* with the message "again" */

static void
echo_peer(struct grpc_call *c, struct span msg, void *self)
{
    if (span_eq_str(msg, "again"))
        peer_was_seen = grpc_peer(c) != NULL && grpc_peer(c)->leaf != NULL;
    echo(c, msg, self);
}

static const struct grpc_method methods[] = { { .path = "/t.T/Echo", .on_request = echo_peer } };

static int
setup(void **state)
{
    struct world *w = world_open();

    serve(w, (struct grpc_server_conf){ .methods = methods,
                                        .methods_n = ARRAY_LEN(methods),
                                        .max_opening = 2,
                                        .tls = tls(w, true) });
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    world_close(*state);
    return 0;
}

static bool
two_are_opening(struct world *w)
{
    return grpc_server_opening(w->server) == 2;
}

/* In every turn: the others wait in the kernel. */
static bool
four_are_accepted(struct world *w)
{
    assert_true(grpc_server_opening(w->server) <= 2);
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

static void
silent_peers_are_few_at_a_time_and_keep_nobody_out(void **state)
{
    struct world *w = *state;
    const struct addr to = { "127.0.0.1", w->port };
    int silent[4];
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        assert_ok(addr_connect(&to, &silent[i], &e));
    run_until(w, four_are_accepted); /* the first two are no longer waited for */
    struct grpc_client *client = ask_once(w, WAIT_MS);
    assert_int_equal(w->code, GRPC_OK);
    assert_int_equal(grpc_server_connections(w->server), 5);
    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        (void)close(silent[i]);
    run_until(w, one_is_left);
    assert_int_equal(grpc_server_opening(w->server), 0);
    grpc_client_free(client);
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

static struct grpc_client *dialling;

static bool
is_dialling(struct world *w)
{
    (void)w;
    return dialling->conn != NULL;
}

static void
on_first_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    (void)code;
    (void)msg;
    (void)q;
    (void)arg;
}

/* A connection that is being made has the settings of before: it is left as an open one is. */
static void
a_connection_in_the_making_is_left_too(void **state)
{
    struct world *w = *state;
    const struct addr to = { "127.0.0.1", w->port };
    const struct grpc_answer first = { on_message, on_first_done, w },
                             answer = { on_message, on_done, w };
    const struct grpc_client_conf cc = {
        .host = "127.0.0.1", .port = w->port, .verify_name = "ca.local", .tls = tls(w, false)
    };
    struct cert *leaf = mint_leaf(&w->root, w->key, "spiffe://cluster.local/ns/a/sa/b", 3600);
    const struct tls_conf_args a = {
        .key = w->key, .leaf = leaf, .roots = w->root.roots, .rule = TLS_PEER_NAME, .alpn = "h2"
    };
    struct tls_conf *with_leaf;
    int silent[2];
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        assert_ok(addr_connect(&to, &silent[i], &e));
    run_until(w, two_are_opening); /* so that ours waits */
    assert_ok(grpc_client_new(w->l, &cc, &dialling, &e));
    tls_conf_unref(cc.tls);
    assert_ok(
        grpc_client_call(dialling, "/t.T/Echo", NULL, span_str("x"), 30000, &first, NULL, &e));
    run_until(w, is_dialling);
    assert_ok(tls_conf_new(&a, &with_leaf, &e));
    grpc_client_set_tls(dialling, with_leaf);
    tls_conf_unref(with_leaf);
    grpc_client_reconnect(dialling);
    assert_ok(
        grpc_client_call(dialling, "/t.T/Echo", NULL, span_str("again"), 30000, &answer, NULL, &e));
    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        (void)close(silent[i]);
    run_until(w, is_answered);
    assert_int_equal(w->code, GRPC_OK);
    assert_true(peer_was_seen);
    grpc_client_free(dialling);
    cert_unref(leaf);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(silent_peers_are_few_at_a_time_and_keep_nobody_out, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(peers_that_hang_up_make_room, setup, teardown),
        cmocka_unit_test_setup_teardown(a_connection_in_the_making_is_left_too, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
