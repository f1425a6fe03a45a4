/* test_plan_map.c - the plan in a ConfigMap: what is read, what a save is made from, what is
 * believed when its answer is lost. */
#include "play_kube.h"

#include <stdlib.h>

#include "operator/plan_map.h"

#define PATH "/api/v1/namespaces/istio-system/configmaps"
#define NAME "default-plan"
#define LONG                                                                                       \
    "a resourceVersion of more than a hundred and twenty-seven bytes is none, and this is one"

static struct err e;

struct scene {
    struct plan_map *m;
    struct rotate_plans port;
    unsigned opened, saved, retired;
    struct err why; /* of the last of them */
    uint64_t revision;
};

static void
on_opened(const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->opened++;
    s->why = why == NULL ? (struct err){ 0 } : *why;
}

static void
on_retired(const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->retired++;
    s->why = why == NULL ? (struct err){ 0 } : *why;
}

static void
on_saved(const struct err *why, uint64_t revision, void *arg)
{
    struct scene *s = arg;

    s->saved++;
    s->why = *why;
    s->revision = revision;
}

static int
setup(void **state)
{
    static struct scene s;

    play_start();
    s = (struct scene){ .m = NULL };
    assert_ok(plan_map_new(NULL, NULL, "istio-system", "default", on_opened, &s, &s.m, &e));
    s.port = plan_map_port(s.m);
    *state = &s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    plan_map_free(s->m);
    play_wait(0);
    play_end();
    return 0;
}

static json_t *
map_of(const char *plan, const char *floor, const char *version)
{
    return play_object(
        "istio-system", NAME, version,
        json_pack("{s:{s:s*, s:s*}}", "data", "plan.json", plan, "generation", floor));
}

/* It lies there with that plan, at that version; or (NULL) there is none. */
static void
open_with(struct scene *s, const char *plan, const char *floor, const char *version)
{
    struct sent *q = play_find("GET", PATH "/" NAME);

    if (plan == NULL && floor == NULL)
        play_fail(q, E_NOTFOUND, "404");
    else
        play_answer(q, map_of(plan, floor, version), version);
    assert_int_equal(s->opened, 1);
    assert_int_equal(s->why.code, E_NONE);
    play_forget();
}

/* The port's `load`; "" when it has none. */
static char *
loaded(struct scene *s, uint64_t *revision)
{
    struct buf text = BUF_INIT(4096);
    char *ret = NULL;

    *revision = 0;
    int r = s->port.load(s->port.self, &text, revision, &e);
    assert_ok(r);
    assert_true(r == 0 || r == ROTATE_ABSENT);
    assert_ok(str_dup(buf_span(&text), &ret, &e));
    buf_done(&text);
    return ret;
}

#define assert_plan(s, text)                                                                       \
    do {                                                                                           \
        uint64_t revision_;                                                                        \
        char *plan_ = loaded((s), &revision_);                                                     \
        assert_string_equal(plan_, (text));                                                        \
        free(plan_);                                                                               \
    } while (0)

static uint64_t
revision_of(struct scene *s)
{
    uint64_t revision;

    free(loaded(s, &revision));
    return revision;
}

static int
save(struct scene *s, const char *text, uint64_t revision)
{
    return s->port.save(s->port.self, span_str(text), revision, NULL, on_saved, s, &e);
}

static const char *
data_of(const struct sent *q, const char *key)
{
    const char *v = json_string_value(json_object_get(json_object_get(q->body, "data"), key));

    return v == NULL ? "-" : v;
}

static void
none_there_is_no_plan(void **state)
{
    struct scene *s = *state;
    uint64_t floor = 7, revision = 0;

    assert_int_equal(s->opened, 0); /* not before it was read */
    open_with(s, NULL, NULL, NULL);
    assert_false(plan_map_has_plan(s->m));
    assert_int_equal(s->port.load(s->port.self, NULL, &revision, &e), ROTATE_ABSENT);
    assert_ok(s->port.floor(s->port.self, &floor, &e));
    assert_int_equal(floor, 0);
}

static void
what_is_there_is_the_plan(void **state)
{
    struct scene *s = *state;
    uint64_t floor = 0;

    open_with(s, "{\"p\":1}", "41", "9");
    assert_true(plan_map_has_plan(s->m));
    assert_plan(s, "{\"p\":1}");
    assert_ok(s->port.floor(s->port.self, &floor, &e));
    assert_int_equal(floor, 41);
}

static void
a_floor_without_a_plan_is_kept(void **state)
{
    struct scene *s = *state;
    uint64_t floor = 0;

    open_with(s, NULL, "41", "9");
    assert_false(plan_map_has_plan(s->m));
    assert_ok(s->port.floor(s->port.self, &floor, &e));
    assert_int_equal(floor, 41);
    assert_ok(save(s, "{}", 0)); /* over none: but the object is there */
    struct sent *q = play_find("PUT", PATH "/" NAME "?");
    assert_non_null(q);
    assert_string_equal(kube_object_version(q->body), "9");
    assert_string_equal(data_of(q, "generation"), "41");
    play_answer(q, NULL, "10");
    assert_int_equal(s->saved, 1);
}

static void
what_cannot_be_read_is_an_error(void **state)
{
    static const struct {
        const char *floor, *version, *words;
    } rows[] = {
        { "x", "9", "generation" },
        { "-1", "9", "generation" },
        { "9223372036854775807", "9", "generation" }, /* there is no next one */
        { "1", "", "resourceVersion" },
        { "1", LONG LONG, "resourceVersion" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct scene s = { .m = NULL };

        assert_ok(plan_map_new(NULL, NULL, "istio-system", "other", on_opened, &s, &s.m, &e));
        play_answer(play_find("GET", PATH "/other-plan"),
                    map_of("{}", rows[i].floor, rows[i].version), rows[i].version);
        assert_int_equal(s.opened, 1);
        assert_int_not_equal(s.why.code, E_NONE);
        assert_non_null(strstr(s.why.msg, "ConfigMap istio-system/other-plan"));
        assert_non_null(strstr(s.why.msg, rows[i].words));
        assert_false(plan_map_has_plan(s.m));
        plan_map_free(s.m);
    }
    struct scene s = { .m = NULL };
    assert_ok(plan_map_new(NULL, NULL, "istio-system", "other", on_opened, &s, &s.m, &e));
    play_fail(play_find("GET", PATH "/other-plan"), E_DENIED, "cannot get configmaps");
    assert_int_equal(s.why.code, E_DENIED);
    assert_non_null(strstr(s.why.msg, "ConfigMap istio-system/other-plan: cannot get configmaps"));
    plan_map_free(s.m);
}

static void
the_first_save_makes_it(void **state)
{
    struct scene *s = *state;

    open_with(s, NULL, NULL, NULL);
    assert_ok(save(s, "{\"p\":1}", 0));
    struct sent *q = play_find("POST", PATH "?");
    assert_non_null(q);
    assert_string_equal(kube_object_name(q->body), NAME);
    assert_string_equal(kube_object_version(q->body), "");
    assert_string_equal(data_of(q, "plan.json"), "{\"p\":1}");
    assert_string_equal(data_of(q, "generation"), "0");
    assert_string_equal(kube_object_get_label(q->body, "app.kubernetes.io/managed-by"), "meshroot");
    assert_int_equal(s->saved, 0); /* nothing may act on it yet */
    assert_plan(s, "");
    assert_err(save(s, "{\"p\":2}", 0), E_BUSY, "is being written");
    play_answer(q, NULL, "1");
    assert_int_equal(s->saved, 1);
    assert_int_equal(s->why.code, E_NONE);
    assert_plan(s, "{\"p\":1}");
    assert_int_equal(s->revision, revision_of(s));
    assert_int_not_equal(s->revision, 0);
}

static void
a_save_is_over_what_was_read(void **state)
{
    struct scene *s = *state;

    open_with(s, "{\"p\":1}", "5", "9");
    uint64_t first = revision_of(s);
    assert_ok(save(s, "{\"p\":2}", first));
    struct sent *q = play_find("PUT", PATH "/" NAME "?");
    assert_non_null(q);
    assert_string_equal(kube_object_version(q->body), "9");
    assert_string_equal(data_of(q, "generation"), "5");
    play_answer(q, NULL, "10");
    play_forget();
    assert_int_not_equal(s->revision, first);
    /* what was made from an older one is not even sent; it is told later, not at once */
    assert_ok(save(s, "{\"p\":3}", first));
    assert_nothing_sent();
    assert_int_equal(s->saved, 1);
    play_wait(0);
    assert_int_equal(s->saved, 2);
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_plan(s, "{\"p\":2}");
    assert_ok(save(s, "{\"p\":3}", s->revision));
    play_answer(play_find("PUT", PATH "/" NAME "?"), NULL, "11");
    assert_int_equal(s->saved, 3);
    assert_plan(s, "{\"p\":3}");
}

static void
a_lost_answer_is_looked_up(void **state)
{
    static const struct {
        enum err_code write, says; /* E_NONE: it was done all the same */
        const char *there;         /* NULL: as it was wanted */
    } rows[] = {
        { E_PEER, E_NONE, NULL },
        { E_TIMEOUT, E_NONE, NULL },
        { E_CONFLICT, E_NONE, NULL },
        { E_PEER, E_PEER, "{\"p\":1}" },
        { E_CONFLICT, E_CONFLICT, "{\"other\":1}" },
        { E_EXISTS, E_CONFLICT, "{\"other\":1}" },
        { E_DENIED, E_DENIED, "{\"p\":1}" },
    };
    struct scene *s = *state;

    open_with(s, "{\"p\":1}", "5", "9");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *there = rows[i].there == NULL ? "{\"p\":2}" : rows[i].there;

        assert_ok(save(s, "{\"p\":2}", revision_of(s)));
        play_fail(play_find("PUT", PATH "/" NAME "?"), rows[i].write, "words");
        assert_int_equal(s->saved, i);
        play_answer(play_find("GET", PATH "/" NAME), map_of(there, "5", "12"), "12");
        assert_int_equal(s->saved, i + 1);
        assert_int_equal(s->why.code, rows[i].says);
        assert_plan(s, there); /* the other's, or ours: from now on that */
        if (rows[i].says != E_NONE)
            assert_non_null(strstr(s->why.msg, "ConfigMap istio-system/" NAME ": words"));
        play_forget();
    }
    /* nobody can say */
    assert_ok(save(s, "{\"p\":2}", revision_of(s)));
    play_fail(play_find("PUT", PATH "/" NAME "?"), E_PEER, "away");
    play_fail(play_find("GET", PATH "/" NAME), E_TIMEOUT, "still away");
    assert_int_equal(s->why.code, E_TIMEOUT);
    /* the question cannot be asked */
    assert_ok(save(s, "{\"p\":2}", revision_of(s)));
    play_refuse_next(1);
    play_fail(play_find("PUT", PATH "/" NAME "?"), E_PEER, "away again");
    assert_int_equal(s->why.code, E_PEER);
    assert_int_equal(s->saved, ARRAY_LEN(rows) + 2);
}

/* Read again it is as it was: who tries once more does not have to read the plan first. */
static void
a_write_that_changed_nothing_leaves_its_revision(void **state)
{
    struct scene *s = *state;

    open_with(s, "{\"p\":1}", "5", "9");
    uint64_t first = revision_of(s);
    assert_ok(save(s, "{\"p\":2}", first));
    play_fail(play_find("PUT", PATH "/" NAME "?"), E_DENIED, "words");
    play_answer(play_find("GET", PATH "/" NAME), map_of("{\"p\":1}", "5", "9"), "9");
    assert_int_equal(s->why.code, E_DENIED);
    assert_int_equal(revision_of(s), first);
    play_forget();
    assert_ok(save(s, "{\"p\":2}", first));
    play_answer(play_find("PUT", PATH "/" NAME "?"), NULL, "10");
    assert_int_equal(s->why.code, E_NONE);
    assert_int_not_equal(s->revision, first);
}

static void
deleted_while_it_is_saved_it_is_made_anew_once(void **state)
{
    struct scene *s = *state;

    open_with(s, "{\"p\":1}", "5", "9");
    assert_ok(save(s, "{\"p\":2}", revision_of(s)));
    play_fail(play_find("PUT", PATH "/" NAME "?"), E_NOTFOUND, "not found");
    play_fail(play_find("GET", PATH "/" NAME), E_NOTFOUND, "not found");
    struct sent *q = play_find("POST", PATH "?");
    assert_non_null(q);
    assert_int_equal(s->saved, 0);
    assert_string_equal(data_of(q, "plan.json"), "{\"p\":2}");
    assert_string_equal(data_of(q, "generation"), "5"); /* generations only grow */
    play_answer(q, NULL, "20");
    assert_int_equal(s->saved, 1);
    assert_int_equal(s->why.code, E_NONE);
    play_forget();
    assert_ok(save(s, "{\"p\":3}", revision_of(s)));
    for (int i = 0; i < 2; i++) {
        play_fail(play_find(i == 0 ? "PUT" : "POST", PATH), E_NOTFOUND, "not found");
        play_fail(play_find("GET", PATH "/" NAME), E_NOTFOUND, "not found");
    }
    assert_int_equal(s->saved, 2);
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_false(plan_map_has_plan(s->m));
}

static void
what_does_not_begin_changes_nothing(void **state)
{
    struct scene *s = *state;

    open_with(s, "{\"p\":1}", "5", "9");
    play_refuse_next(1);
    assert_err(save(s, "{\"p\":2}", revision_of(s)), E_LIMIT, "too many");
    assert_int_equal(s->saved, 0);
    assert_plan(s, "{\"p\":1}");
    assert_ok(save(s, "{\"p\":2}", revision_of(s)));
    assert_int_equal(play_sent_n(), 1);
    play_answer(play_sent(0), NULL, "10");
    assert_int_equal(s->saved, 1);
}

static void
closed_it_answers_what_is_under_way(void **state)
{
    struct scene *s = *state;

    open_with(s, "{\"p\":1}", "5", "9");
    assert_ok(save(s, "{\"p\":2}", revision_of(s)));
    plan_map_free(STEAL(s->m));
    assert_int_equal(s->saved, 1);
    assert_int_equal(s->why.code, E_PEER);
    assert_true(play_sent(0)->is_over);
    /* one that is told later is told all the same, once */
    assert_ok(plan_map_new(NULL, NULL, "istio-system", "default", on_opened, s, &s->m, &e));
    s->port = plan_map_port(s->m);
    s->opened = 0;
    open_with(s, "{\"p\":1}", "5", "9");
    assert_ok(save(s, "{\"p\":2}", 77));
    plan_map_free(STEAL(s->m));
    assert_int_equal(s->saved, 1);
    play_wait(0);
    assert_int_equal(s->saved, 2);
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_int_equal(s->revision, 0);
}

static void
retired_the_plan_goes_and_the_generation_stays(void **state)
{
    static const struct {
        uint64_t generation;
        const char *stays;
    } rows[] = { { 8, "8" }, { 3, "8" }, { 0, "8" }, { 12, "12" } };
    struct scene *s = *state;
    uint64_t floor = 0;
    struct sent *again;

    open_with(s, "{\"p\":1}", "5", "9");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_ok(plan_map_retire(s->m, rows[i].generation, on_retired, s, &e));
        assert_err(plan_map_retire(s->m, 99, on_retired, s, &e), E_BUSY, "is being written");
        play_answer(play_find("GET", PATH "/" NAME), map_of("{\"p\":1}", "5", "9"), "9");
        struct sent *q = play_find("PUT", PATH "/" NAME "?");
        assert_non_null(q);
        assert_string_equal(data_of(q, "plan.json"), "-");
        assert_string_equal(data_of(q, "generation"), rows[i].stays);
        play_answer(q, NULL, "10");
        assert_int_equal(s->retired, i + 1);
        assert_int_equal(s->why.code, E_NONE);
        assert_false(plan_map_has_plan(s->m));
        play_forget();
    }
    assert_ok(s->port.floor(s->port.self, &floor, &e));
    assert_int_equal(floor, 12);
    assert_ok(save(s, "{\"p\":2}", 0));
    assert_err(plan_map_retire(s->m, 13, on_retired, s, &e), E_BUSY, "is being written");
    play_answer(play_find("PUT", PATH "/" NAME "?"), NULL, "11");
    assert_ok(plan_map_retire(s->m, 13, on_retired, s, &e));
    play_answer(play_find("GET", PATH "/" NAME), map_of("{\"p\":2}", "12", "11"), "11");
    play_fail(play_find("PUT", PATH "/" NAME "?"), E_CONFLICT, "modified");
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_plan(s, "{\"p\":2}");
    /* the next try is over what is there by then: a write of ours whose answer was lost, or a
     * hand's */
    play_forget();
    assert_ok(plan_map_retire(s->m, 13, on_retired, s, &e));
    play_answer(play_find("GET", PATH "/" NAME), map_of(NULL, "40", "31"), "31");
    again = play_find("PUT", PATH "/" NAME "?");
    assert_string_equal(kube_object_version(again->body), "31");
    assert_string_equal(data_of(again, "generation"), "40");
    play_answer(again, NULL, "32");
    assert_int_equal(s->why.code, E_NONE);
    play_forget();
    assert_ok(plan_map_retire(s->m, 13, on_retired, s, &e));
    play_fail(play_find("GET", PATH "/" NAME), E_TIMEOUT, "no answer");
    assert_int_equal(s->why.code, E_TIMEOUT);
    assert_int_equal(s->retired, ARRAY_LEN(rows) + 3);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(none_there_is_no_plan),
        TEST(what_is_there_is_the_plan),
        TEST(a_floor_without_a_plan_is_kept),
        TEST(what_cannot_be_read_is_an_error),
        TEST(the_first_save_makes_it),
        TEST(a_save_is_over_what_was_read),
        TEST(a_lost_answer_is_looked_up),
        TEST(a_write_that_changed_nothing_leaves_its_revision),
        TEST(deleted_while_it_is_saved_it_is_made_anew_once),
        TEST(what_does_not_begin_changes_nothing),
        TEST(closed_it_answers_what_is_under_way),
        TEST(retired_the_plan_goes_and_the_generation_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
