/* Connections that are being opened are few at a time, and silent ones keep nobody out. */
#include "grpc_tls_kit.h"

static const struct grpc_method methods[] = { { .path = "/t.T/Echo", .on_request = echo } };

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

static void
silent_peers_are_few_at_a_time_and_keep_nobody_out(void **state)
{
    struct world *w = *state;
    const struct addr to = { "127.0.0.1", w->port };
    int silent[4];
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        assert_ok(addr_connect(&to, &silent[i], &e));
    run_until(w, two_are_opening);
    assert_int_equal(grpc_server_connections(w->server), 2); /* the others wait in the kernel */
    run_until(w, four_are_accepted); /* the first two are no longer waited for */
    assert_true(grpc_server_opening(w->server) <= 2);
    struct grpc_client *client = ask_once(w, 9000);
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
