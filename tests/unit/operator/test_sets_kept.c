/* test_sets_kept.c - the set in Secrets: what counts as a set of ours, what a watch tells of it,
 * who is told to look, and how it ends. */
#include "sets_kit.h"

/* -- what is a set of ours -- */

enum bend { NOTE, DATA, PUT_DATA };

static void
what_is_not_as_we_write_it_is_no_set(void **state)
{
    static const struct {
        bool in_ca; /* the one with a manifest */
        enum bend bend;
        const char *key, *value; /* NULL: away with it */
        const char *words;
    } rows[] = {
        { false, DATA, "ca-key.pem", NULL, "exactly its 4 keys" },
        { false, PUT_DATA, "more.pem", "x", "exactly its 4 keys" },
        { true, DATA, "manifest.json", NULL, "exactly its 5 keys" },
        { false, PUT_DATA, "root-cert.pem", "no PEM", "root-cert.pem" },
        { true, PUT_DATA, "manifest.json", "{", "manifest.json" },
        { false, DATA, "ca-cert.pem", "!", "ca-cert.pem" },
        { false, NOTE, SETS_GENERATION, NULL, "Secret istio-system/cacerts" },
        { false, NOTE, SETS_GENERATION, "0", "Secret istio-system/cacerts" },
        { false, NOTE, SETS_GENERATION, "-7", "Secret istio-system/cacerts" },
        { false, NOTE, SETS_GENERATION, "9223372036854775808", "Secret istio-system/cacerts" },
        { true, NOTE, SETS_GENERATION, "8", "not that of its manifest.json" },
        { false, NOTE, SETS_VERSIONS, NULL, SETS_VERSIONS },
        { false, NOTE, SETS_VERSIONS, "{\"root-cert\":\"v1\"}", SETS_VERSIONS },
        { false, NOTE, SETS_VERSIONS, "[]", SETS_VERSIONS },
    };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    unsigned version = 100, restored = 0;

    both_written(s, &cacerts, &ca);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *path = rows[i].in_ca ? CA : CACERTS;
        CLEANUP(json_decrefp) json_t *bent = json_deep_copy(rows[i].in_ca ? ca : cacerts);
        json_t *meta = json_object_get(bent, "metadata"), *data = json_object_get(bent, "data");
        json_t *at = rows[i].bend == NOTE ? json_object_get(meta, "annotations") : data;
        struct bundle *b = NULL;
        struct set_manifest m;
        char text[16];

        if (rows[i].value == NULL)
            assert_int_equal(json_object_del(at, rows[i].key), 0);
        else if (rows[i].bend == PUT_DATA)
            assert_ok(kube_secret_set(bent, rows[i].key, span_str(rows[i].value), &e));
        else
            assert_int_equal(json_object_set_new(at, rows[i].key, json_string(rows[i].value)), 0);
        (void)snprintf(text, sizeof(text), "%u", version++);
        play_version(bent, text);
        play_put(path, bent);
        assert_int_equal(sets_generation(s->sets), 0);
        int r = s->port.read(s->port.self, &b, &m, &e);
        assert_true(r < 0);
        if (strstr(e.msg, rows[i].words) == NULL)
            fail_msg("row %zu: \"%s\" does not say \"%s\"", i, e.msg, rows[i].words);
        assert_int_equal(s->restored, ++restored);
        /* and it is put back over what was read */
        assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
        assert_int_equal(play_sent_n(), 1);
        assert_string_equal(kube_object_version(play_sent(0)->body), text);
        (void)snprintf(text, sizeof(text), "%u", version++);
        answer_all(text);
        assert_int_equal(sets_generation(s->sets), 7);
    }
}

/* The same certificates in other bytes: istiod would read them, we would not have written them. */
static void
other_bytes_are_not_ours(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);

    both_written(s, &cacerts, &ca);
    assert_int_equal(kube_secret_get(cacerts, "root-cert.pem", &pem, &e), 0);
    assert_ok(buf_add_str(&pem, "\n", &e));
    assert_ok(kube_secret_set(cacerts, "root-cert.pem", buf_span(&pem), &e));
    buf_done(&pem);
    play_version(cacerts, "20");
    play_put(CACERTS, cacerts);
    assert_int_equal(sets_generation(s->sets), 0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->secret, "Secret istio-system/cacerts");
    assert_non_null(strstr(s->what, "root-cert.pem is not as it was written"));
}

/* -- watches -- */

static void
what_is_deleted_is_told(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL, *other = NULL;

    both_written(s, &cacerts, &ca);
    unsigned moved = s->moved;
    other = json_deep_copy(cacerts);
    json_object_set_new(json_object_get(other, "metadata"), "uid", json_string("uid-0"));
    play_gone(CACERTS, other); /* the end of the one before it */
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->restored, 0);
    play_gone(CACERTS, cacerts);
    assert_int_equal(sets_generation(s->sets), 0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->what, "was deleted");
    assert_int_equal(s->moved, moved + 1);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 1);
    assert_non_null(play_find("POST", CACERTS));
    answer_all("30");
    /* a list without it says the same */
    play_list(CA, NULL, 0);
    assert_int_equal(s->restored, 2);
    assert_string_equal(s->secret, "Secret meshroot-system/meshroot-ca");
}

static void
news_from_before_our_write_is_old(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL, *old = NULL;

    both_written(s, &cacerts, &ca);
    old = json_deep_copy(cacerts);
    assert_int_equal(json_object_del(json_object_get(old, "data"), "ca-key.pem"), 0);
    play_version(old, "9");
    play_put(CACERTS, old);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->restored, 0);
    unsigned moved = s->moved;
    play_put(CACERTS, cacerts); /* our own write, as the watch tells it */
    assert_int_equal(s->moved, moved);
    /* a later change overtakes the answer of our write */
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    play_version(old, "40");
    play_put(CACERTS, old);
    answer_all("39");
    assert_int_equal(sets_generation(s->sets), 0);
}

/* The answer to our write comes after the watch, or a list, has told that it is gone again. */
static void
what_is_gone_is_gone_whatever_is_answered_then(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    play_version(cacerts, "20");
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    play_gone(CACERTS, cacerts);
    answer_all("19");
    assert_int_equal(sets_generation(s->sets), 0);
    assert_int_equal(s->restored, 1);
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_non_null(play_find("POST", CACERTS));
    answer_all("21");
    assert_int_equal(sets_generation(s->sets), 8);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    play_list_version(CACERTS, "30");
    play_list(CACERTS, NULL, 0);
    answer_all("29");
    assert_int_equal(sets_generation(s->sets), 0);
    assert_int_equal(s->restored, 2);
    /* a list from before our write says nothing of it */
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    answer_all("41");
    play_list_version(CACERTS, "40");
    play_list(CACERTS, NULL, 0);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->restored, 2);
}

/* An etcd that was restored with its revisions bumped: an old object in a list that is newer than
 * all that was known. And without: a list that is older, and a write in a history that is no more.
 */
static void
a_restored_etcd_is_believed(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    answer_all("41");
    assert_int_equal(sets_generation(s->sets), 8);
    play_list_version(CACERTS, "1000000000");
    play_list(CACERTS, (const json_t *[]){ cacerts }, 1); /* as of 10 */
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->what, "another whole set was put there");
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_string_equal(kube_object_version(play_find("PUT", CACERTS)->body), "10");
    answer_all("1000000001");
    assert_int_equal(sets_generation(s->sets), 8);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    unsigned moved = s->moved;
    play_rewind(CA);
    play_rewind(CACERTS);
    assert_int_equal(s->moved, moved + 1);
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_null(play_find("PUT", "/")); /* nobody waits for their answers */
    play_list_version(CACERTS, "12");
    play_list(CACERTS, (const json_t *[]){ cacerts }, 1);
    play_list_version(CA, "12");
    play_list(CA, (const json_t *[]){ ca }, 1);
    assert_int_equal(sets_generation(s->sets), 7);
    play_version(cacerts, "13");
    play_gone(CACERTS, cacerts);
    assert_int_equal(sets_generation(s->sets), 0);
}

/* -- pods -- */

static void
pods_are_told_to_look(void **state)
{
    enum { PODS = 70, TOLD = 64 };
    struct scene *s = *state;
    json_t *items = json_array();
    char name[16];

    nothing_is_there();
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    play_answer(play_find("POST", CACERTS), NULL, "10");
    struct sent *q =
        play_find("GET", "/api/v1/namespaces/istio-system/pods?labelSelector=app=istiod");
    assert_non_null(q);
    for (int i = 0; i < PODS; i++) {
        (void)snprintf(name, sizeof(name), "p%d", i);
        json_array_append_new(items, play_object("istio-system", name, "1", NULL));
    }
    size_t before = play_sent_n();
    play_answer(q, json_pack("{s:o}", "items", items), NULL);
    assert_int_equal(play_sent_n() - before, TOLD);
    for (size_t i = before; i < play_sent_n(); i++) {
        q = play_sent(i);
        assert_string_equal(q->method, "PATCH");
        assert_non_null(strstr(q->path, "/api/v1/namespaces/istio-system/pods/p"));
        assert_string_equal(kube_object_get_annotation(q->body, SETS_GENERATION), "7");
        assert_int_equal(json_object_size(q->body), 1); /* nothing else of the pod */
        if (i % 2 == 0)
            play_answer(q, NULL, NULL);
        else
            play_fail(q, E_DENIED, "cannot patch pods"); /* a help, not a promise */
    }
    answer_all("11");
    assert_int_equal(s->moved, 1);
    assert_int_equal(s->why.code, E_NONE);
}

/* -- retire -- */

static void
retired_only_ours_goes(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    assert_ok(kube_object_annotate(ca, SETS_OWNER, "istio-system/other", &e));
    play_version(ca, "20");
    play_put(CA, ca);
    unsigned restored = s->restored;
    assert_ok(sets_retire(s->sets, on_retired, s, &e));
    assert_err(write_set(s, pki.a_a1, &first), E_DENIED, "meshroot-ca");
    assert_int_equal(play_sent_n(), 1);
    struct sent *q = play_find("DELETE", CACERTS "/cacerts");
    assert_non_null(q);
    const json_t *only = json_object_get(q->body, "preconditions");
    assert_string_equal(kube_object_text(only, "uid"), "uid-1");
    assert_string_equal(kube_object_text(only, "resourceVersion"), "10");
    play_wait(0);
    assert_int_equal(s->retired, 0);
    play_answer(q, NULL, NULL);
    assert_int_equal(s->retired, 1);
    assert_int_equal(s->why.code, E_NONE);
    unsigned moved = s->moved;
    play_gone(CACERTS, cacerts); /* nobody puts it back */
    assert_int_equal(s->restored, restored);
    assert_int_equal(s->moved, moved);
}

static void
retired_what_is_gone_is_gone_and_what_fails_is_told(void **state)
{
    static const struct {
        enum err_code first, second, says;
    } rows[] = { { E_NOTFOUND, E_NOTFOUND, E_NONE },
                 { E_CONFLICT, E_NONE, E_CONFLICT },
                 { E_NOTFOUND, E_DENIED, E_DENIED } };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_ok(sets_retire(s->sets, on_retired, s, &e));
        assert_err(sets_retire(s->sets, on_retired, s, &e), E_BUSY, "under way");
        play_fail(play_find("DELETE", CACERTS), rows[i].first, "words");
        if (rows[i].second == E_NONE)
            play_answer(play_find("DELETE", CA), NULL, NULL);
        else
            play_fail(play_find("DELETE", CA), rows[i].second, "words");
        assert_int_equal(s->retired, i); /* nor before this turn is over */
        play_wait(0);
        assert_int_equal(s->retired, i + 1);
        assert_int_equal(s->why.code, rows[i].says);
        if (rows[i].says != E_NONE)
            assert_non_null(strstr(s->why.msg, "Secret "));
        play_forget();
    }
}

static void
retired_with_nothing_there(void **state)
{
    struct scene *s = *state;

    nothing_is_there();
    assert_ok(sets_retire(s->sets, on_retired, s, &e));
    assert_int_equal(s->retired, 0);
    play_wait(0);
    assert_int_equal(s->retired, 1);
    assert_int_equal(s->why.code, E_NONE);
    assert_nothing_sent();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_not_as_we_write_it_is_no_set),
        TEST(other_bytes_are_not_ours),
        TEST(what_is_deleted_is_told),
        TEST(news_from_before_our_write_is_old),
        TEST(what_is_gone_is_gone_whatever_is_answered_then),
        TEST(a_restored_etcd_is_believed),
        TEST(pods_are_told_to_look),
        TEST(retired_only_ours_goes),
        TEST(retired_what_is_gone_is_gone_and_what_fails_is_told),
        TEST(retired_with_nothing_there),
    };

    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
