/* A mesh that ends while something of it is under way. */
#include "unit.h"

#include "mesh/mesh_private.h"
#include "tmpdir.h"

struct fix {
    char dir[64], state_dir[96];
    struct loop *loop;
    struct mesh *mesh;
    size_t answers;
    enum err_code last;
};

static struct err e;

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    tmpdir_make(f->dir);
    (void)snprintf(f->state_dir, sizeof(f->state_dir), "%s/state", f->dir);
    assert_ok(loop_new(&f->loop, &e));
    struct mesh_conf conf = { .state_dir = f->state_dir,
                              .ca_listen = "127.0.0.1:0",
                              .vault_listen = "127.0.0.1:0",
                              .monitoring_listen = "127.0.0.1:0",
                              .vault_name = "meshroot",
                              .trust_domain = "cluster.local",
                              .dns_names = { "localhost" },
                              .dns_names_n = 1,
                              .workers = 1,
                              .default_ttl_ms = 86400 * 1000,
                              .max_ttl_ms = 86400 * 1000,
                              .renew_window_ms = 1000,
                              .reread_ms = 1000 };
    assert_ok(mesh_new(f->loop, &conf, &f->mesh, &e));
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    mesh_free(f->mesh);
    loop_free(f->loop); /* runs what was posted to it before */
    tmpdir_remove(f->dir);
    free(f);
    return 0;
}

static void
on_done(const struct err *why, void *arg)
{
    struct fix *f = arg;

    f->answers++;
    f->last = why->code;
}

/* The store's answer comes to the loop when the mesh has gone. */
static void
an_end_while_settings_are_stored(void **state)
{
    struct fix *f = *state;
    const struct mesh_settings s = { .mode = MESH_SELF_SIGNED, .poll_ms = 1000 };

    assert_ok(mesh_enable(f->mesh, &s, on_done, f, &e));
    mesh_free(f->mesh);
    f->mesh = NULL;
    assert_int_equal(f->answers, 1);
    assert_int_equal(f->last, E_STATE);
}

/* The vault refuses, and before that is told to the caller the mesh ends. */
static void
an_end_while_a_refusal_is_under_way(void **state)
{
    struct fix *f = *state;
    const char *const names[] = { "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET" };
    const struct mesh_settings s = { .mode = MESH_PLUGGED_IN,
                                     .vault_id = "https://127.0.0.1:1",
                                     .object_names = { "root-cert", "ca-cert", "ca-key",
                                                       "cert-chain" },
                                     .poll_ms = 1000 };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        (void)setenv(names[i], "11111111-2222-4333-8444-555555555555", 1);
    assert_ok(mesh_enable(f->mesh, &s, on_done, f, &e));
    (void)err_set(&e, E_PEER, "no");
    mesh_on_refused(&e, f->mesh);
    mesh_free(f->mesh);
    f->mesh = NULL;
    assert_int_equal(f->answers, 1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = { T(an_end_while_settings_are_stored),
                                        T(an_end_while_a_refusal_is_under_way) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
