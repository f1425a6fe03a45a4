/* test_spread.c - the trust set in every selected namespace: who gets it, and how it is written. */
#include "spread_kit.h"

/* -- who gets it -- */

static void
nothing_is_written_before_it_is_known_what_is_there(void **state)
{
    struct scene *s = *state;

    play_list(NAMESPACES, NULL, 0);
    namespace_put("shop");
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    play_wait(1000);
    assert_nothing_sent(); /* it may lie there already */
    assert_false(spread_state(s->spread).is_whole);
    play_list(MAPS, NULL, 0);
    play_wait(0);
    assert_non_null(creation("shop"));
    assert_true(spread_state(s->spread).is_whole);
}

static void
no_set_no_write(void **state)
{
    struct scene *s = *state;

    play_list(NAMESPACES, NULL, 0);
    play_list(MAPS, NULL, 0);
    namespace_put("shop");
    map_put(s, "shop", pki.text_a);
    namespace_put("bank");
    map_put(s, "bank", "no PEM");
    play_wait(100000);
    assert_nothing_sent();
    assert_state(s, 2, 0);
    assert_string_equal(spread_state(s->spread).trouble, "");
    assert_true(spread_holds(s->spread, "shop", pki.only_a)); /* whoever wrote it */
}

static void
some_namespaces_are_left_out(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *going = namespace_of("going"), *ending = namespace_of("ending");

    begin(s, "kube-public kube-node-lease local-path-storage kube-system shop", pki.only_a);
    json_object_set_new(json_object_get(going, "metadata"), "deletionTimestamp",
                        json_string("2026-01-01T00:00:00Z"));
    json_object_set_new(json_object_get(ending, "status"), "phase", json_string("Terminating"));
    play_put(NAMESPACES, going);
    play_put(NAMESPACES, ending);
    play_wait(0);
    assert_int_equal(play_sent_n(), 2);
    assert_non_null(creation("kube-system"));
    assert_non_null(creation("shop"));
    assert_state(s, 2, 0);
}

static void
the_selector_decides_and_may_change_its_mind(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp)
    json_t *selector = json_pack("{s:{s:s}}", "matchLabels", "mesh", "on");
    CLEANUP(json_decrefp) json_t *ns = namespace_of("shop");

    spread_free(s->spread);
    open_with(s, selector);
    begin(s, "bank", pki.only_a);
    play_put(NAMESPACES, ns);
    play_wait(0);
    assert_nothing_sent();
    assert_state(s, 0, 0);
    assert_ok(kube_object_label(ns, "mesh", "on", &e));
    play_put(NAMESPACES, ns);
    play_wait(0);
    assert_int_equal(play_sent_n(), 1);
    answer(s, creation("shop"));
    assert_state(s, 1, 1);
    assert_ok(kube_object_label(ns, "mesh", "off", &e));
    play_put(NAMESPACES, ns);
    map_gone(s, "shop"); /* not ours to keep any more */
    play_wait(100000);
    assert_int_equal(play_sent_n(), 1);
    assert_int_equal(s->restored, 0);
    assert_state(s, 0, 0);
}

static void
names_that_no_namespace_has(void **state)
{
    static const char *const names[] = {
        "", "a-namespace-of-sixty-four-bytes-is-one-byte-longer-than-names-are"
    };
    struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(json_decrefp) json_t *ns = namespace_of(names[i]), *map = map_of(s, names[i], "");
        const struct kube_feed_conf *f = play_feed(NAMESPACES), *m = play_feed(MAPS);

        assert_err(f->put(ns, f->arg, &e), E_PEER, "a namespace has the name");
        assert_err(m->put(map, m->arg, &e), E_PEER, "a namespace has the name");
    }
}

/* -- how it is written -- */

static void
where_none_is_it_is_made(void **state)
{
    struct scene *s = *state;

    begin(s, "shop", pki.only_a);
    struct sent *q = creation("shop");
    assert_non_null(q);
    assert_string_equal(kube_object_name(q->body), SPREAD_CONFIG_MAP);
    assert_string_equal(kube_object_get_label(q->body, "istio.io/config"), "true");
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(q->body, "data"), SPREAD_KEY)),
        pki.text_a);
    assert_state(s, 1, 0); /* not before it is there */
    unsigned changed = s->changed;
    answer(s, q);
    assert_state(s, 1, 1);
    assert_true(s->changed > changed);
    assert_int_equal(play_sent_n(), 1);
}

static void
where_one_is_only_the_key_is_ours(void **state)
{
    struct scene *s = *state;

    begin(s, "bank", pki.both);
    map_put(s, "bank", pki.text_a); /* istiod was there before us: nobody changed what was right */
    assert_int_equal(s->restored, 0);
    map_put(s, "shop", pki.text_a);
    namespace_put("shop");
    play_wait(0);
    assert_int_equal(play_sent_n(), 2);
    struct sent *q = patch_of("shop");
    assert_non_null(q);
    CLEANUP(json_decrefp)
    json_t *want = json_pack("{s:{s:s}}", "data", SPREAD_KEY, pki.text_both);
    assert_true(json_equal(q->body, want));
    answer(s, q);
    assert_state(s, 2, 1);
}

static void
sets_are_compared_as_certificates(void **state)
{
    struct scene *s = *state;

    begin(s, "", pki.both);
    map_put(s, "turned", pki.text_turned);
    map_put(s, "less", pki.text_a);
    map_put(s, "none", "no PEM");
    namespace_put("turned");
    namespace_put("less");
    namespace_put("none");
    play_wait(0);
    assert_state(s, 3, 1);
    assert_null(patch_of("turned"));
    assert_non_null(patch_of("less"));
    assert_non_null(patch_of("none"));
    assert_true(spread_holds(s->spread, "turned", pki.both));
    assert_false(spread_holds(s->spread, "turned", pki.only_a));
    assert_true(spread_holds(s->spread, "less", pki.only_a));
    assert_false(spread_holds(s->spread, "none", pki.only_a));
    assert_false(spread_holds(s->spread, "nowhere", pki.only_a));
}

static void
so_many_at_once_and_no_more(void **state)
{
    enum { PLACES = 2 * SPREAD_CALLS_MAX + 5 };
    struct scene *s = *state;
    char name[16];

    play_list(NAMESPACES, NULL, 0);
    play_list(MAPS, NULL, 0);
    for (int i = 0; i < PLACES; i++) {
        (void)snprintf(name, sizeof(name), "n%d", i);
        namespace_put(name);
    }
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    play_wait(0);
    assert_int_equal(play_sent_n(), SPREAD_CALLS_MAX);
    answer(s, play_sent(3));
    assert_int_equal(play_sent_n(), SPREAD_CALLS_MAX + 1);
    for (size_t i = 0; i < play_sent_n(); i++)
        if (!play_sent(i)->is_over)
            answer(s, play_sent(i));
    assert_int_equal(play_sent_n(), PLACES);
    assert_state(s, PLACES, PLACES);
}

static void
another_set_goes_to_all_and_the_same_to_none(void **state)
{
    struct scene *s = *state;

    begin(s, "a b", pki.only_a);
    answer(s, creation("a"));
    answer(s, creation("b"));
    play_forget();
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    play_wait(0);
    assert_nothing_sent();
    assert_ok(spread_set(s->spread, pki.both, &e));
    map_put(s, "a", pki.text_a); /* somebody labels what is there: it was right until now */
    play_wait(0);
    assert_state(s, 2, 0);
    assert_int_equal(play_sent_n(), 2);
    answer(s, patch_of("a"));
    answer(s, patch_of("b"));
    assert_state(s, 2, 2);
    assert_int_equal(s->restored, 0); /* it was us */
}

/* A set that changes while a write of the one before is under way. */
static void
overtaken_it_is_written_again(void **state)
{
    struct scene *s = *state;

    begin(s, "a", pki.only_a);
    struct sent *q = creation("a");
    assert_ok(spread_set(s->spread, pki.both, &e));
    play_wait(0);
    assert_int_equal(play_sent_n(), 1);
    answer(s, q);
    assert_state(s, 1, 0);
    answer(s, patch_of("a"));
    assert_state(s, 1, 1);
    assert_int_equal(s->restored, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_written_before_it_is_known_what_is_there),
        TEST(no_set_no_write),
        TEST(some_namespaces_are_left_out),
        TEST(the_selector_decides_and_may_change_its_mind),
        TEST(names_that_no_namespace_has),
        TEST(where_none_is_it_is_made),
        TEST(where_one_is_only_the_key_is_ours),
        TEST(sets_are_compared_as_certificates),
        TEST(so_many_at_once_and_no_more),
        TEST(another_set_goes_to_all_and_the_same_to_none),
        TEST(overtaken_it_is_written_again),
    };

    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
