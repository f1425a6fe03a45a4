/* test_spread_again.c - the trust set in every selected namespace: when it is written again, and
 * when somebody else is let be. */
#include "spread_kit.h"

/* -- when it fails -- */

static void
tried_again_later_and_later(void **state)
{
    struct scene *s = *state;
    uint64_t wait = SPREAD_RETRY_FIRST_MS;

    begin(s, "a", pki.only_a);
    for (int i = 0; i < 12; i++) {
        struct sent *q = creation("a");

        assert_non_null(q);
        play_fail(q, E_DENIED, "cannot create configmaps");
        play_wait(0);
        assert_non_null(strstr(spread_state(s->spread).trouble, "cannot create configmaps"));
        play_wait(wait / 2 - 1);
        assert_null(creation("a"));
        play_wait(wait / 2 + 2);
        wait = 2 * wait > SPREAD_RETRY_MAX_MS ? SPREAD_RETRY_MAX_MS : 2 * wait;
    }
    answer(s, creation("a"));
    assert_state(s, 1, 1);
    assert_string_equal(spread_state(s->spread).trouble, "");
    /* what failed before counts no more */
    map_gone(s, "a");
    play_wait(0);
    play_fail(creation("a"), E_PEER, "away");
    play_wait(SPREAD_RETRY_FIRST_MS + 1);
    assert_non_null(creation("a"));
}

static void
the_watch_is_behind_the_other_verb_at_once(void **state)
{
    struct scene *s = *state;

    begin(s, "a", pki.only_a);
    play_fail(creation("a"), E_EXISTS, "already exists");
    play_wait(0);
    assert_non_null(patch_of("a"));
    play_fail(patch_of("a"), E_NOTFOUND, "not found");
    play_wait(0);
    answer(s, creation("a"));
    assert_state(s, 1, 1);
    /* but not for ever */
    map_gone(s, "a");
    play_wait(0);
    size_t before = play_sent_n();
    for (int i = 0; i < 20; i++) {
        struct sent *q = creation("a") != NULL ? creation("a") : patch_of("a");
        if (q != NULL)
            play_fail(q, strcmp(q->method, "POST") == 0 ? E_EXISTS : E_NOTFOUND, "words");
        play_wait(0);
    }
    assert_in_range(play_sent_n() - before, 2, 4);
}

static void
a_namespace_that_ends_is_left(void **state)
{
    struct scene *s = *state;

    begin(s, "a", pki.only_a);
    play_fail(creation("a"), E_STATE, "is being terminated");
    play_wait(SPREAD_RETRY_MAX_MS);
    assert_int_equal(play_sent_n(), 1);
    assert_state(s, 0, 0);
    assert_string_equal(spread_state(s->spread).trouble, "");
    /* and one of that name may come again */
    namespace_gone(s, "a");
    for (int i = 0; i < 2; i++) { /* what lay in it went with it, whether that is told or not */
        namespace_put("a");
        play_wait(0);
        answer(s, creation("a"));
        assert_state(s, 1, 1);
        namespace_gone(s, "a");
    }
    assert_int_equal(s->restored, 0);
}

static void
what_cannot_be_sent_is_tried_again(void **state)
{
    struct scene *s = *state;

    play_refuse_next(1);
    begin(s, "a", pki.only_a);
    assert_nothing_sent();
    assert_non_null(strstr(spread_state(s->spread).trouble, "too many requests"));
    play_wait(SPREAD_RETRY_FIRST_MS + 1);
    assert_non_null(creation("a"));
}

static void
the_trouble_of_a_watch_is_told(void **state)
{
    struct scene *s = *state;

    begin(s, "", pki.only_a);
    play_trouble(MAPS, "cannot watch configmaps");
    assert_string_equal(spread_state(s->spread).trouble, "cannot watch configmaps");
    play_trouble(NAMESPACES, "cannot list namespaces");
    assert_string_equal(spread_state(s->spread).trouble, "cannot list namespaces");
}

/* -- others -- */

static void
a_change_by_hand_is_put_back_at_once(void **state)
{
    struct scene *s = *state;

    begin(s, "a b", pki.both);
    answer(s, creation("a"));
    answer(s, creation("b"));
    map_put(s, "a", pki.text_a);
    play_wait(0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->restored_ns, "a");
    assert_state(s, 2, 1);
    answer(s, patch_of("a"));
    map_gone(s, "b");
    play_wait(0);
    assert_int_equal(s->restored, 2);
    assert_string_equal(s->restored_ns, "b");
    answer(s, creation("b"));
    assert_state(s, 2, 2);
    assert_int_equal(spread_state(s->spread).disputed, 0);
    /* another spacing of the same certificates are nobody's business */
    map_put(s, "a", pki.text_turned);
    play_wait(0);
    assert_int_equal(s->restored, 2);
    assert_null(patch_of("a"));
}

static void
a_value_that_comes_back_is_not_fought(void **state)
{
    struct scene *s = *state;
    uint64_t wait = SPREAD_DISPUTE_FIRST_MS;

    begin(s, "a", pki.both);
    answer(s, creation("a"));
    map_put(s, "a", pki.text_a); /* the first time */
    play_wait(0);
    answer(s, patch_of("a"));
    for (unsigned i = 2; i < 14; i++) {
        map_put(s, "a", pki.text_a);
        play_wait(0);
        struct spread_state st = spread_state(s->spread);
        assert_int_equal(st.disputed, i >= SPREAD_DISPUTES_N);
        if (st.disputed > 0)
            assert_string_equal(st.disputed_ns, "a");
        assert_null(patch_of("a"));
        play_wait(wait / 2 - 1);
        assert_null(patch_of("a"));
        play_wait(wait / 2 + 2);
        answer(s, patch_of("a"));
        wait = 2 * wait > SPREAD_DISPUTE_MAX_MS ? SPREAD_DISPUTE_MAX_MS : 2 * wait;
        assert_int_equal(s->restored, i);
    }
    /* peace for long enough, and it is as if nothing had been */
    play_wait(SPREAD_PEACE_MS + 1);
    assert_int_equal(spread_state(s->spread).disputed, 0);
    map_put(s, "a", pki.text_a);
    play_wait(0);
    assert_non_null(patch_of("a"));
    answer(s, patch_of("a"));
    /* the same set again changes nothing of it, another one is another matter */
    map_put(s, "a", pki.text_a);
    play_wait(0);
    assert_ok(spread_set(s->spread, pki.both, &e));
    play_wait(0);
    assert_null(patch_of("a"));
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    assert_ok(spread_set(s->spread, pki.both, &e));
    play_wait(0);
    assert_non_null(patch_of("a"));
}

static void
what_was_before_our_write_is_no_dispute(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *before = map_of(s, "a", pki.text_a);

    begin(s, "a", pki.both);
    answer(s, creation("a"));
    play_put(MAPS, before);
    play_wait(0);
    assert_int_equal(s->restored, 0);
    assert_state(s, 1, 1);
    assert_int_equal(play_sent_n(), 1);
    /* one that is no number cannot be told from news */
    CLEANUP(json_decrefp) json_t *odd = map_of(s, "a", pki.text_a);
    play_version(odd, "x1");
    play_put(MAPS, odd);
    play_wait(0);
    assert_int_equal(s->restored, 1);
}

static void
other_config_maps_are_nobodys(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *other = map_of(s, "a", pki.text_a);

    begin(s, "a", pki.only_a);
    json_object_set_new(json_object_get(other, "metadata"), "name", json_string("other"));
    play_put(MAPS, other); /* a server that does not know the selector */
    assert_state(s, 1, 0);
    answer(s, creation("a"));
    play_gone(MAPS, other);
    assert_state(s, 1, 1);
}

/* -- lists -- */

static void
what_a_list_leaves_out_is_gone(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *a = namespace_of("a"), *b = namespace_of("b");
    CLEANUP(json_decrefp) json_t *map_a = NULL;

    begin(s, "a b", pki.only_a);
    answer(s, creation("a"));
    answer(s, creation("b"));
    map_a = map_of(s, "a", pki.text_a);
    play_list(MAPS, (const json_t *const[]){ map_a }, 1);
    play_wait(0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->restored_ns, "b");
    answer(s, creation("b"));
    assert_state(s, 2, 2);
    play_list(NAMESPACES, (const json_t *const[]){ b }, 1);
    play_wait(0);
    assert_state(s, 1, 1);
    play_list(NAMESPACES, (const json_t *const[]){ a, b }, 2);
    play_wait(0);
    assert_state(s, 2, 2);
}

static void
what_is_gone_is_gone_whatever_is_answered_then(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *ns = namespace_of("a");

    begin(s, "a", pki.only_a);
    s->version = 200;
    map_gone(s, "a"); /* made by this write, and deleted */
    s->version = 150;
    answer(s, creation("a"));
    assert_state(s, 1, 0);
    play_list_version(MAPS, "300");
    play_list(MAPS, NULL, 0);
    answer(s, creation("a"));
    assert_state(s, 1, 0);
    play_version(ns, "400");
    play_gone(NAMESPACES, ns);
    play_version(ns, "401");
    play_put(NAMESPACES, ns);
    answer(s, creation("a"));
    assert_state(s, 1, 0);
    s->version = 500;
    answer(s, creation("a"));
    assert_state(s, 1, 1);
}

/* Two watches: that the namespace went is told after what lay in the next one of that name. */
static void
what_is_told_of_the_next_namespace_counts(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *ns = namespace_of("a");

    begin(s, "a", pki.only_a);
    s->version = 401;
    map_put(s, "a", pki.text_a); /* 402: by our write, */
    map_gone(s, "a");            /* 403: and deleted */
    play_version(ns, "400");
    play_gone(NAMESPACES, ns);
    play_version(ns, "401");
    play_put(NAMESPACES, ns);
    s->version = 401;
    answer(s, creation("a")); /* 402 */
    assert_state(s, 1, 0);
    assert_non_null(creation("a"));
    s->version = 500;
    answer(s, creation("a"));
    assert_state(s, 1, 1);
}

/* The answer to a write into the namespace that was on its way out comes after the next one of that
 * name. */
static void
an_end_that_is_over_holds_nothing_up(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *ns = namespace_of("a");

    begin(s, "a", pki.only_a);
    play_version(ns, "400");
    play_gone(NAMESPACES, ns);
    play_version(ns, "401");
    play_put(NAMESPACES, ns);
    play_fail(creation("a"), E_STATE, "is being terminated");
    play_wait(0);
    assert_state(s, 1, 0);
    play_fail(creation("a"), E_STATE, "is being terminated"); /* it is: nothing else was told */
    play_wait(0);
    assert_null(creation("a"));
    assert_state(s, 0, 0);
    play_version(ns, "402");
    play_put(NAMESPACES, ns);
    play_wait(0);
    s->version = 500;
    answer(s, creation("a"));
    assert_state(s, 1, 1);
}

/* An etcd that was restored with its revisions bumped: old objects in a list that is newer than all
 * that was known. And without: a list that is older. */
static void
a_restored_etcd_is_believed(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp)
    json_t *old = play_object("a", SPREAD_CONFIG_MAP, "20",
                              json_pack("{s:{s:s}}", "data", SPREAD_KEY, pki.text_both));

    begin(s, "a b", pki.only_a);
    s->version = 200;
    answer(s, creation("a"));
    answer(s, creation("b"));
    assert_state(s, 2, 2);
    play_list_version(MAPS, "1000000000");
    play_list(MAPS, (const json_t *[]){ old }, 1);
    play_wait(0);
    assert_state(s, 2, 0);
    assert_int_equal(s->restored, 2);
    s->version = 1000000000;
    answer(s, patch_of("a"));
    assert_state(s, 2, 1);
    assert_non_null(creation("b")); /* under way, and done in the history that is no more */
    play_rewind(MAPS);
    play_list_version(MAPS, "30");
    play_list(MAPS, (const json_t *[]){ old }, 1);
    play_wait(SPREAD_DISPUTE_MAX_MS);
    assert_state(s, 2, 0);
    s->version = 30;
    answer(s, patch_of("a"));
    answer(s, creation("b"));
    assert_state(s, 2, 2);
    map_gone(s, "b");
    assert_state(s, 2, 1);
}

static void
broken_watches_are_not_whole(void **state)
{
    static const char *const paths[] = { NAMESPACES, MAPS };
    struct scene *s = *state;

    begin(s, "", pki.only_a);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        const struct kube_feed_conf *f = play_feed(paths[i]);

        assert_true(spread_state(s->spread).is_whole);
        f->broken(f->arg);
        assert_false(spread_state(s->spread).is_whole);
        play_list(paths[i], NULL, 0);
    }
    assert_true(spread_state(s->spread).is_whole);
    assert_int_equal(play_feed(MAPS)->max_objects, SPREAD_NAMESPACES_MAX);
    assert_int_equal(play_feed(NAMESPACES)->max_objects, SPREAD_NAMESPACES_MAX);
}

static void
namespaces_that_are_gone_take_no_memory(void **state)
{
    struct scene *s = *state;

    begin(s, "stays", pki.only_a);
    answer(s, creation("stays"));
    for (int i = 0; i < 100; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "job-%d", i);
        CLEANUP(json_decrefp) json_t *ns = namespace_of(name);
        play_put(NAMESPACES, ns);
        play_wait(0);
        if (i % 3 == 0) { /* it ends while the write is under way */
            namespace_gone(s, name);
            play_wait(0);
            play_fail(creation(name), E_NOTFOUND, "no such namespace");
            play_wait(0);
            continue;
        }
        answer(s, creation(name));
        if (i % 3 == 1)
            map_gone(s, name);
        namespace_gone(s, name);
        play_wait(0);
    }
    play_list(NAMESPACES, NULL, 0);
    namespace_put("stays");
    play_wait(0);
    assert_true(spread_state(s->spread).known <= 2);
    assert_state(s, 1, 1);
}

static void
what_is_written_over_is_counted(void **state)
{
    struct scene *s = *state;

    begin(s, "a b", pki.only_a);
    answer(s, creation("a"));
    answer(s, creation("b"));
    map_gone(s, "b");
    play_wait(0);
    answer(s, creation("b"));
    assert_int_equal(spread_state(s->spread).overwritten, 0);
    map_put(s, "a", pki.text_both);
    play_wait(0);
    answer(s, patch_of("a"));
    assert_int_equal(spread_state(s->spread).overwritten, 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tried_again_later_and_later),
        TEST(the_watch_is_behind_the_other_verb_at_once),
        TEST(a_namespace_that_ends_is_left),
        TEST(what_cannot_be_sent_is_tried_again),
        TEST(the_trouble_of_a_watch_is_told),
        TEST(a_change_by_hand_is_put_back_at_once),
        TEST(a_value_that_comes_back_is_not_fought),
        TEST(what_was_before_our_write_is_no_dispute),
        TEST(other_config_maps_are_nobodys),
        TEST(what_a_list_leaves_out_is_gone),
        TEST(what_is_gone_is_gone_whatever_is_answered_then),
        TEST(what_is_told_of_the_next_namespace_counts),
        TEST(an_end_that_is_over_holds_nothing_up),
        TEST(a_restored_etcd_is_believed),
        TEST(broken_watches_are_not_whole),
        TEST(namespaces_that_are_gone_take_no_memory),
        TEST(what_is_written_over_is_counted),
    };

    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
