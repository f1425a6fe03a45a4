/* test_enable.c - `mesh enable` while its parts take their time; these are the test's own (--wrap).
 */
#include "unit.h"

#include "mesh/mesh_private.h"

/* What they stand for is never looked into. */
static uint8_t first_bundle, second_bundle, a_sync, a_rotate;

static struct {
    store_done_fn *stored;
    void *stored_arg;
    size_t commits_n, refs_n;
    struct bundle *wanted;
    struct sync_versions wanted_versions;
} seen;

struct bundle *__wrap_bundle_ref(struct bundle *b);
struct bundle *
__wrap_bundle_ref(struct bundle *b)
{
    seen.refs_n++;
    return b;
}

void __wrap_bundle_unref(struct bundle *b);
void
__wrap_bundle_unref(struct bundle *b)
{
    seen.refs_n -= b != NULL;
}

int __wrap_store_commit(struct store *s, const struct store_op *ops, size_t n, struct loop *l,
                        store_done_fn *done, void *arg, struct err *e);
int
__wrap_store_commit(struct store *s, const struct store_op *ops, size_t n, struct loop *l,
                    store_done_fn *done, void *arg, struct err *e)
{
    (void)s;
    (void)l;
    (void)e;
    assert_int_equal(n, 1);
    assert_string_equal(ops[0].key, "mesh/settings");
    seen.commits_n++;
    seen.stored = done;
    seen.stored_arg = arg;
    return 0;
}

int __wrap_plugged_open(struct mesh *m, const struct mesh_settings *s, struct err *e);
int
__wrap_plugged_open(struct mesh *m, const struct mesh_settings *s, struct err *e)
{
    (void)s;
    (void)e;
    m->plugged.sync = (struct sync *)(void *)&a_sync;
    return 0;
}

int __wrap_plugged_start_rotation(struct mesh *m, struct err *e);
int
__wrap_plugged_start_rotation(struct mesh *m, struct err *e)
{
    (void)e;
    m->plugged.rotate = (struct rotate *)(void *)&a_rotate;
    return 0;
}

void __wrap_rotate_want(struct rotate *r, struct bundle *b, const struct sync_versions *v);
void
__wrap_rotate_want(struct rotate *r, struct bundle *b, const struct sync_versions *v)
{
    assert_ptr_equal(r, &a_rotate);
    seen.wanted = b;
    seen.wanted_versions = *v;
}

int __wrap_ca_new(struct loop *l, const struct ca_conf *conf, struct ca **ret, struct err *e);
int
__wrap_ca_new(struct loop *l, const struct ca_conf *conf, struct ca **ret, struct err *e)
{
    (void)l;
    (void)conf;
    (void)e;
    *ret = NULL;
    return 0;
}

static void
on_patience(void *arg)
{
    (void)arg;
}

static void
on_done(const struct err *e, void *arg)
{
    (void)e;
    (void)arg;
    fail_msg("nothing is loaded yet");
}

/* sync gives each set once: the newest is the one to go on with. */
static void
a_set_that_comes_while_the_settings_are_stored_is_the_one_that_is_wanted(void **state)
{
    const struct mesh_settings plugged_in = { .mode = MESH_PLUGGED_IN };
    struct sync_versions v1 = { .v = { "one" } }, v2 = { .v = { "two" } };
    struct mesh m = { .lock_fd = -1 };
    struct err e = { .code = E_NONE };

    (void)state;
    assert_ok(loop_new(&m.loop, &e));
    assert_ok(metrics_new(&m.metrics, &e));
    assert_ok(timer_new(m.loop, on_patience, &m, &m.patience, &e));
    assert_ok(mesh_enable(&m, &plugged_in, on_done, NULL, &e));
    mesh_on_bundle((struct bundle *)(void *)&first_bundle, &v1, &m);
    mesh_on_bundle((struct bundle *)(void *)&second_bundle, &v2, &m);
    assert_int_equal(seen.commits_n, 1);
    seen.stored(&(struct err){ .code = E_NONE }, 1, seen.stored_arg);
    assert_ptr_equal(seen.wanted, &second_bundle);
    assert_string_equal(seen.wanted_versions.v[0], "two");
    assert_int_equal(seen.refs_n, 1); /* until the CA has loaded something */
    timer_free(m.patience);
    metrics_free(m.metrics);
    loop_free(m.loop);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_set_that_comes_while_the_settings_are_stored_is_the_one_that_is_wanted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
