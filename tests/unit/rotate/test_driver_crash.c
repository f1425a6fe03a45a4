/* Crashes of the driver between any two writes, and what the vault may answer afterwards. */
#include "scene.h"

/* Each step of a replacement is queued in the store, and the process ends before the folder is
 * written. The next one brings the folder to the plan by itself, whatever is latest in the vault:
 * a signer that is not in the folder is fetched by the versions that the plan pins. */
static void
a_crash_between_store_and_folder_is_a_delay(void **state)
{
    struct scene *s = *state;
    static const struct {
        const char *roots, *version;
        const struct authority *signer;
        size_t fetches;
    } steps[] = {
        { "A", "a1", &pki.a1, 1 }, /* the first plan: nothing in the folder */
        { "AB", "a1", &pki.a1, 0 },
        { "AB", "b1", &pki.b1, 1 },
        { "B", "b1", &pki.b1, 0 },
    };

    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        want(s, i == 0 ? pki.a_a1 : pki.b_b1, i == 0 ? "a1" : "b1");
        if (i > 0)
            replica_loads(s);
        rotate_look(s->r);
        assert_non_null(s->r->commit);
        driver_crash(s);

        s->fetches = 0;
        s->answer = i == 0 ? pki.a_a1 : pki.b_b1;
        driver_open(s);
        assert_int_equal(rotate_generation(s->r), i + 1);
        run_until(s, is_caught_up);
        assert_int_equal(s->fetches, steps[i].fetches);
        struct sync_versions pinned = versions(steps[i].version);
        if (s->fetches > 0)
            assert_memory_equal(&s->asked, &pinned, sizeof(pinned));
        assert_folder(s, i + 1, steps[i].roots, steps[i].signer, steps[i].version);
    }
}

static void
a_crash_after_the_folder_loses_nothing(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    want(s, pki.ab_b1, "b1");
    run_until(s, is_held);
    driver_crash(s);
    driver_open(s);
    run_until(s, is_caught_up);
    assert_int_equal(s->fetches, 0);
    assert_folder(s, 2, "AB", &pki.a1, "a1");
}

/* The intermediate is the same certificate below the old root and the renewed one. */
static void
a_root_renewed_with_its_key_is_another_root(void **state)
{
    struct scene *s = *state;
    struct set_manifest m;

    settle(s, pki.a_a1, "a1");
    want(s, pki.a_renewed_a1, "renewed");
    run_until(s, is_held);
    replica_loads(s);
    rotate_look(s->r);
    assert_non_null(s->r->commit);
    driver_crash(s);
    s->answer = pki.a_renewed_a1;
    driver_open(s);
    run_until(s, is_caught_up);
    assert_int_equal(s->fetches, 1);
    CLEANUP(bundle_unrefp) struct bundle *b = folder_read(s, &m);
    assert_int_equal(m.generation, 3);
    assert_memory_equal(cert_id(bundle_signer_root(b)), cert_id(pki.a_renewed.cert), DIGEST_BYTES);
    want(s, pki.a_renewed_a1, "renewed");
    replica_loads(s);
    run_until(s, is_settled);
    assert_int_equal(roots_count(s->r->roots), 1);
}

static void
a_vault_that_is_down_is_asked_again(void **state)
{
    struct scene *s = *state;

    want(s, pki.a_a1, "a1");
    rotate_look(s->r);
    driver_crash(s);
    driver_open(s);
    run_until(s, is_troubled);
    assert_held(s, "signer", "none");
    s->answer = pki.a_a1;
    run_until(s, is_caught_up);
    assert_true(s->fetches >= 2);
    assert_folder(s, 1, "A", &pki.a1, "a1");
    rotate_look(s->r);
    assert_false(is_troubled(s));
}

static void
a_vault_that_gives_another_signer_is_not_believed(void **state)
{
    struct scene *s = *state;

    want(s, pki.a_a1, "a1");
    rotate_look(s->r);
    driver_crash(s);
    s->answer = pki.a_a2;
    driver_open(s);
    run_until(s, is_troubled);
    assert_non_null(strstr(s->r->trouble_why.msg, "pinned versions"));
    assert_int_equal(target_generation(s->r), 0);
}

static void
without_a_vault_a_missing_signer_is_said(void **state)
{
    struct scene *s = *state;

    want(s, pki.a_a1, "a1");
    rotate_look(s->r);
    driver_crash(s);
    s->conf.fetch = NULL;
    driver_open(s);
    run_until(s, is_troubled);
    assert_non_null(strstr(s->r->trouble_why.msg, "no vault is configured"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(a_crash_between_store_and_folder_is_a_delay),
        scene_test(a_crash_after_the_folder_loses_nothing),
        scene_test(a_root_renewed_with_its_key_is_another_root),
        scene_test(a_vault_that_is_down_is_asked_again),
        scene_test(a_vault_that_gives_another_signer_is_not_believed),
        scene_test(without_a_vault_a_missing_signer_is_said),
    };
    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
