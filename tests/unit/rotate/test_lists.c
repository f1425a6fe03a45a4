/* test_lists.c - the lists beside the signer: they follow the vault, not back, and not against what
 * signs; they stay over a restart. */
#include "scene.h"

#include "mint_list.h"

/* The vault's set with `lists` (taken; NULL: none) of that version; "" is no secret at all. */
static void
want_lists(struct scene *s, struct bundle *b, const char *version, struct crls *take_lists,
           const char *lists_version)
{
    struct sync_versions v = versions(version);
    struct bundle *with = NULL;
    struct err e;

    (void)snprintf(v.v[PART_CA_CRL], VERSION_TEXT_BYTES, "%s", lists_version);
    assert_ok(bundle_with_lists(b, take_lists, &with, &e));
    rotate_want(s->r, with, &v);
    bundle_unref(with);
    crls_unref(take_lists);
}

static bool
has_no_step(struct scene *s)
{
    return is_settled(s) && !rotate_lists_are_pending(s->r);
}

static struct crls *
by_a(uint64_t number, const struct authority *revoked)
{
    return mint_lists(pki.a.cert, pki.a.key, number, revoked == NULL ? NULL : revoked->cert);
}

static void
assert_lists(struct scene *s, uint64_t generation, size_t entries, const char *version)
{
    struct set_manifest m;
    CLEANUP(bundle_unrefp) struct bundle *b = folder_read(s, &m);

    assert_int_equal(m.generation, generation);
    assert_int_equal(m.lists_why.code, E_NONE);
    assert_string_equal(m.versions.v[PART_CA_CRL], version);
    assert_int_equal(bundle_lists(b) != NULL, version[0] != '\0');
    assert_int_equal(crls_entries(bundle_lists(b)), entries);
}

static void
assert_not_in_force(struct scene *s, const char *says)
{
    json_t *j = rotate_status(s->r);
    const char *held = json_string_value(json_object_get(json_object_get(j, "lists"), "held"));

    assert_non_null(held);
    if (strstr(held, says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", held, says);
    json_decref(j);
}

static void
lists_of_the_first_set_are_in_force_with_it(void **state)
{
    struct scene *s = *state;

    want_lists(s, pki.a_a1, "a1", by_a(1, NULL), "c1");
    run_until(s, has_no_step);
    assert_lists(s, 1, 0, "c1");
}

static void
other_lists_are_a_step_of_their_own(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    want_lists(s, pki.a_a1, "a1", by_a(1, &pki.a2), "c1");
    run_until(s, has_no_step);
    assert_lists(s, 2, 1, "c1");
    want_lists(s, pki.a_a1, "a1", NULL, "");
    run_until(s, has_no_step);
    assert_lists(s, 3, 0, "");
    want_lists(s, pki.a_a1, "a1", NULL, "");
    run_until(s, has_no_step);
    assert_lists(s, 3, 0, "");
}

/* The vault has a list that sync refused: what is in force stays, with the signer that moves. */
static void
refused_lists_leave_those_in_force(void **state)
{
    struct scene *s = *state;

    want_lists(s, pki.a_a1, "a1", by_a(4, NULL), "c1");
    run_until(s, has_no_step);
    want_lists(s, pki.a_a2, "a2", NULL, "c2");
    run_until(s, has_no_step);
    assert_lists(s, 2, 0, "c1");
    assert_memory_equal(s->r->plan.signer.id, cert_id(pki.a2.cert), DIGEST_BYTES);
}

static void
rfc5280_5_2_3_lists_do_not_go_back(void **state)
{
    struct scene *s = *state;

    want_lists(s, pki.a_a1, "a1", by_a(5, NULL), "c1");
    run_until(s, has_no_step);
    want_lists(s, pki.a_a1, "a1", by_a(4, &pki.a2), "c2");
    rotate_look(s->r);
    assert_not_in_force(s, "goes back: its number is 4, the one in force has 5");
    assert_lists(s, 1, 0, "c1");
    want_lists(s, pki.a_a2, "a2", by_a(4, &pki.a1), "c2"); /* the key is not kept waiting */
    run_until(s, is_settled);
    assert_lists(s, 2, 0, "c1");
    driver_crash(s);
    driver_open(s);
    want_lists(s, pki.a_a2, "a2", by_a(4, &pki.a1), "c2"); /* after a restart neither */
    rotate_look(s->r);
    assert_not_in_force(s, "goes back");
    want_lists(s, pki.a_a2, "a2", by_a(6, &pki.a1), "c3");
    run_until(s, has_no_step);
    assert_lists(s, 3, 1, "c3");
}

/* Signer and lists go together: never the one that revokes beside the one that is revoked. */
static void
a_list_waits_for_the_signer_that_it_revokes_to_move(void **state)
{
    struct scene *s = *state;

    settle(s, pki.ab_a1, "a1");
    replica_loads(s);
    s->loads[0] = (struct load){ "A", "A", 1 }; /* trusts no B yet */
    want_lists(s, pki.ab_b1, "b1", by_a(1, &pki.a1), "c1");
    run_until(s, is_held);
    assert_not_in_force(s, "not before the signer has moved: \"CN=Intermediate A1,O=Test\"");
    assert_lists(s, 1, 0, "");
    s->loads[0] = (struct load){ "A", "AB", 1 };
    rotate_poke(s->r);
    run_until(s, has_no_step);
    assert_lists(s, 2, 1, "c1");
    assert_memory_equal(s->r->plan.signer.id, cert_id(pki.b1.cert), DIGEST_BYTES);
}

static void
a_signer_that_the_lists_in_force_revoke_never_signs(void **state)
{
    struct scene *s = *state;

    want_lists(s, pki.a_a2, "a2", by_a(3, &pki.a1), "c1");
    run_until(s, has_no_step);
    want_lists(s, pki.a_a1, "a1", NULL, "c2"); /* with lists that sync refused */
    run_until(s, is_troubled);
    assert_held(s, "revoked", "none");
    assert_lists(s, 1, 1, "c1");
    want_lists(s, pki.a_a1, "a1", NULL, ""); /* by a person's word: no list any more */
    run_until(s, has_no_step);
    assert_lists(s, 2, 0, "");
    assert_memory_equal(s->r->plan.signer.id, cert_id(pki.a1.cert), DIGEST_BYTES);
}

static void
lists_stay_over_a_crash_and_a_lost_file_comes_back(void **state)
{
    struct scene *s = *state;
    struct err e;

    want_lists(s, pki.a_a1, "a1", by_a(1, &pki.a2), "c1");
    run_until(s, has_no_step);
    driver_crash(s);
    driver_open(s); /* the vault has not answered yet */
    assert_lists(s, 1, 1, "c1");
    struct set_manifest m;
    CLEANUP(bundle_unrefp) struct bundle *b = folder_read(s, &m), *bare = NULL;
    assert_ok(bundle_with_lists(b, NULL, &bare, &e));
    assert_ok(set_write(s->folder, bare, &m, &e)); /* somebody takes it away */
    rotate_target_moved(s->r, NULL);
    rotate_look(s->r);
    run_until(s, is_caught_up);
    assert_lists(s, 1, 1, "c1");
}

/* A root goes, and with it its list. */
static void
lists_of_a_root_that_goes_do_not_stay(void **state)
{
    struct scene *s = *state;

    want_lists(s, pki.ab_b1, "b1", by_a(1, NULL), "c1");
    run_until(s, has_no_step);
    assert_lists(s, 1, 0, "c1");
    replica_loads(s);
    want_lists(s, pki.b_b1, "b1", NULL, "c2"); /* sync has refused A's list: it is not of the set */
    run_until(s, is_settled);
    assert_folder(s, 2, "B", &pki.b1, "b1");
}

/* A stock istiod wants one of each certificate. */
static void
a_target_that_wants_whole_lists_gets_no_others(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct crls *both = NULL;
    struct err e;

    s->r->conf.lists_whole = true;
    want_lists(s, pki.a_a1, "a1", by_a(1, NULL), "c1");
    run_until(s, is_settled);
    assert_not_in_force(s, "there is no list of \"CN=Intermediate A1,O=Test\"");
    mint_list(pki.a.cert, pki.a.key, 2, -60, 60, NULL, &pem);
    mint_list(pki.a1.cert, pki.a1.key, 1, -60, 60, NULL, &pem);
    assert_ok(crls_from_pem(buf_span(&pem), &both, &e));
    want_lists(s, pki.a_a1, "a1", both, "c2");
    run_until(s, has_no_step);
    assert_lists(s, 2, 0, "c2");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(lists_of_the_first_set_are_in_force_with_it),
        scene_test(other_lists_are_a_step_of_their_own),
        scene_test(refused_lists_leave_those_in_force),
        scene_test(rfc5280_5_2_3_lists_do_not_go_back),
        scene_test(a_list_waits_for_the_signer_that_it_revokes_to_move),
        scene_test(a_signer_that_the_lists_in_force_revoke_never_signs),
        scene_test(lists_stay_over_a_crash_and_a_lost_file_comes_back),
        scene_test(lists_of_a_root_that_goes_do_not_stay),
        scene_test(a_target_that_wants_whole_lists_gets_no_others),
    };
    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
