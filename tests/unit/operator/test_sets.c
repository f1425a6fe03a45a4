/* test_sets.c - the set in Secrets: what is written and over what, and what is left alone. */
#include "sets_kit.h"

/* -- writes -- */

static void
nothing_is_written_before_all_is_known(void **state)
{
    struct scene *s = *state;

    assert_err(write_set(s, pki.a_a1, &first), E_BUSY, "Secret istio-system/cacerts");
    play_list(CACERTS, NULL, 0);
    assert_int_equal(s->known, 0);
    assert_false(sets_are_known(s->sets));
    assert_err(write_set(s, pki.a_a1, &first), E_BUSY, "Secret meshroot-system/meshroot-ca");
    assert_nothing_sent();
    play_list(CA, NULL, 0);
    assert_int_equal(s->known, 1);
    assert_true(sets_are_known(s->sets));
    play_list(CA, NULL, 0); /* the next list is no news */
    assert_int_equal(s->known, 1);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
}

static void
a_whole_set_is_one_create(void **state)
{
    static const char *const keys[] = { "root-cert.pem", "ca-cert.pem", "ca-key.pem",
                                        "cert-chain.pem" };
    struct scene *s = *state;
    struct bundle *b = NULL;
    struct set_manifest m;

    nothing_is_there();
    assert_int_equal(s->port.read(s->port.self, &b, &m, &e), SET_ABSENT);
    assert_false(sets_exist(s->sets));
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 2);
    CLEANUP(json_decrefp)
    json_t *cacerts = written("POST", CACERTS "?"), *ca = written("POST", CA "?");
    assert_string_equal(kube_object_text(cacerts, "type"), "Opaque");
    assert_int_equal(json_object_size(json_object_get(cacerts, "data")), 4);
    assert_int_equal(json_object_size(json_object_get(ca, "data")), 5);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        secret_part(cacerts, keys[i], pki.a_a1, (enum bundle_part)i);
        secret_part(ca, keys[i], pki.a_a1, (enum bundle_part)i);
    }
    assert_string_equal(kube_object_get_annotation(cacerts, SETS_OWNER), OWNER);
    assert_string_equal(kube_object_get_annotation(cacerts, SETS_GENERATION), "7");
    assert_string_equal(kube_object_get_annotation(cacerts, SETS_VERSIONS),
                        "{\"root-cert\":\"v1\",\"ca-cert\":\"v2\",\"ca-key\":\"v3\","
                        "\"cert-chain\":\"v4\"}");
    assert_string_equal(kube_object_get_label(cacerts, "app.kubernetes.io/managed-by"), "meshroot");
    /* until both are there, the set is not */
    play_answer(play_find("POST", CACERTS), NULL, "10");
    assert_int_equal(s->moved, 0);
    assert_int_equal(sets_generation(s->sets), 0);
    play_answer(play_find("POST", CA), NULL, "11");
    assert_int_equal(s->moved, 1);
    assert_int_equal(s->why.code, E_NONE);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->port.read(s->port.self, &b, &m, &e), 0);
    assert_memory_equal(cert_id(bundle_signer(b)), cert_id(pki.a1.cert), DIGEST_BYTES);
    assert_int_equal(m.generation, 7);
    assert_memory_equal(&m.versions, &first.versions, sizeof(m.versions));
    bundle_unref(b);
    /* what is there is not written again */
    answer_all("12");
    assert_int_equal(write_set(s, pki.a_a1, &first), 0);
    assert_nothing_sent();
}

static void
an_update_says_what_it_was_made_from(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    /* somebody labels it: what is his stays, the set is as good as before */
    assert_ok(kube_object_label(cacerts, "team", "sre", &e));
    assert_ok(kube_object_annotate(cacerts, "note", "hands off", &e));
    json_t *owners = json_pack("[{s:s}]", "uid", "o-1");
    assert_int_equal(
        json_object_set_new(json_object_get(cacerts, "metadata"), "ownerReferences", owners), 0);
    play_version(cacerts, "20");
    play_put(CACERTS, cacerts);
    assert_int_equal(s->restored, 0);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    CLEANUP(json_decrefp) json_t *now = written("PUT", CACERTS "/cacerts?");
    assert_string_equal(kube_object_version(now), "20");
    assert_string_equal(kube_object_get_label(now, "team"), "sre");
    assert_string_equal(kube_object_get_annotation(now, "note"), "hands off");
    assert_string_equal(kube_object_get_annotation(now, SETS_GENERATION), "8");
    assert_true(
        json_equal(json_object_get(json_object_get(now, "metadata"), "ownerReferences"), owners));
    secret_part(now, "ca-cert.pem", pki.a_a2, PART_CA_CERT);
    assert_string_equal(kube_object_version(play_find("PUT", CA "/meshroot-ca?")->body), "10");
    answer_all("21");
    assert_int_equal(sets_generation(s->sets), 8);
}

/* Another signer, other roots, another generation: each is another set. */
static void
any_difference_is_written(void **state)
{
    static const struct set_manifest later = { .generation = 8,
                                               .versions = { { "v1", "v2", "v3", "v4" } } };
    const struct {
        const struct bundle *b;
        const struct set_manifest *m;
        size_t writes;
    } rows[] = { { pki.a_a1, &first, 0 }, { pki.a_a2, &first, 2 },  { pki.a_a2, &first, 0 },
                 { pki.a_a1, &first, 2 }, { pki.ab_a1, &first, 2 }, { pki.ab_a1, &later, 2 } };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    char version[8];

    both_written(s, &cacerts, &ca);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(write_set(s, rows[i].b, rows[i].m),
                         rows[i].writes == 0 ? 0 : ROTATE_LATER);
        assert_int_equal(play_sent_n(), rows[i].writes);
        (void)snprintf(version, sizeof(version), "%zu", 11 + i);
        answer_all(version);
    }
}

static void
a_write_that_fails_is_told_with_its_secret(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    unsigned moved = s->moved;
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_err(write_set(s, pki.a_a2, &second), E_BUSY, "a write is under way");
    play_fail(play_find("PUT", CACERTS), E_CONFLICT, "has been modified");
    assert_int_equal(s->moved, moved);
    play_answer(play_find("PUT", CA), NULL, "11");
    assert_int_equal(s->moved, moved + 1);
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_non_null(strstr(s->why.msg, "Secret istio-system/cacerts: has been modified"));
    assert_int_equal(sets_generation(s->sets), 7); /* the least of the two */
    struct bundle *b = NULL;
    struct set_manifest m;
    assert_int_equal(s->port.read(s->port.self, &b, &m, &e), 0);
    assert_int_equal(m.generation, 7);
    bundle_unref(b);
    answer_all("11");
    /* the next try writes what is missing, and no more */
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 1);
    assert_string_equal(kube_object_version(play_find("PUT", CACERTS)->body), "10");
    /* it is gone: the one after that makes it */
    play_fail(play_find("PUT", CACERTS), E_NOTFOUND, "not found");
    play_forget();
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_string_equal(kube_object_version(play_find("POST", CACERTS)->body), "");
    answer_all("12");
    assert_int_equal(s->why.code, E_NONE);
    assert_int_equal(sets_generation(s->sets), 8);
}

static void
a_write_that_does_not_begin(void **state)
{
    struct scene *s = *state;

    nothing_is_there();
    play_refuse_next(2);
    assert_err(write_set(s, pki.a_a1, &first), E_LIMIT, "too many requests");
    assert_int_equal(s->moved, 0);
    play_refuse_next(1); /* one of the two: told with the other's end */
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(s->moved, 0);
    answer_all("10");
    assert_int_equal(s->moved, 1);
    assert_int_equal(s->why.code, E_LIMIT);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 1);
    answer_all("11");
    assert_int_equal(sets_generation(s->sets), 7);
}

/* -- whose it is -- */

static void
somebody_elses_is_not_touched(void **state)
{
    static const char *const owners[] = { NULL, "istio-system/other", "istio-system/default2" };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    struct bundle *b = NULL;
    struct set_manifest m;

    both_written(s, &cacerts, &ca);
    json_t *notes = json_object_get(json_object_get(cacerts, "metadata"), "annotations");
    for (size_t i = 0; i < ARRAY_LEN(owners); i++) {
        if (owners[i] == NULL)
            assert_int_equal(json_object_del(notes, SETS_OWNER), 0);
        else
            assert_ok(kube_object_annotate(cacerts, SETS_OWNER, owners[i], &e));
        char version[8];
        (void)snprintf(version, sizeof(version), "%zu", 20 + i);
        play_version(cacerts, version);
        play_put(CACERTS, cacerts);
        assert_true(sets_exist(s->sets));
        assert_int_equal(sets_generation(s->sets), 0);
        assert_err(s->port.read(s->port.self, &b, &m, &e), E_DENIED, "not marked as ours");
        /* nor is the other Secret written: a set is in both, or in none */
        assert_err(write_set(s, pki.a_a2, &second), E_DENIED, "spec.adopt: true");
        assert_nothing_sent();
    }
}

static void
adopted_it_is_taken_over(void **state)
{
    struct scene *s = *state;
    json_t *foreign = play_object("istio-system", "cacerts", "33",
                                  json_pack("{s:s, s:{s:s}, s:{s:{s:s}}}", "type", "Opaque", "data",
                                            "own.pem", "eA==", "metadata", "labels", "by", "hand"));

    sets_free(s->sets);
    open_places(s, 1, true);
    play_list(CACERTS, (const json_t *const *)&foreign, 1);
    assert_int_equal(s->known, 1);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    CLEANUP(json_decrefp) json_t *now = written("PUT", CACERTS "/cacerts?");
    assert_string_equal(kube_object_version(now), "33");
    assert_string_equal(kube_object_get_label(now, "by"), "hand");
    assert_string_equal(kube_object_get_annotation(now, SETS_OWNER), OWNER);
    assert_int_equal(json_object_size(json_object_get(now, "data")), 4); /* ours as a whole */
    answer_all("34");
    assert_int_equal(sets_generation(s->sets), 7);
    json_decref(foreign);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_written_before_all_is_known),
        TEST(a_whole_set_is_one_create),
        TEST(an_update_says_what_it_was_made_from),
        TEST(any_difference_is_written),
        TEST(a_write_that_fails_is_told_with_its_secret),
        TEST(a_write_that_does_not_begin),
        TEST(somebody_elses_is_not_touched),
        TEST(adopted_it_is_taken_over),
    };

    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
