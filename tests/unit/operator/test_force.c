/* The annotation that names a step: judged once, answered once, and taken away, in whatever order
 * watch and answers come. Rotation, the API server and the clock are the test's, by --wrap. */
#include "unit.h"

#include <stdio.h>
#include <string.h>

#include "operator/room.h"

static struct {
    /* rotation */
    enum err_code says;  /* E_NONE: it takes the step */
    int forced;          /* as rotate_forced; -1: the store refused */
    const char *in_plan; /* the word that the plan has; NULL: none */
    unsigned asked;
    /* the API server */
    kube_done_fn *done; /* of the annotation's removal; NULL: none is under way */
    char over[32];      /* the version that it is over */
    unsigned removals;
    /* what is told */
    unsigned forced_n, refused_n;
    char note[EVENT_NOTE_BYTES];
    bool is_told;
    uint64_t now_ms;
} play;

int
__wrap_rotate_force(struct rotate *r, const char *only, json_t **ret_risk, struct err *e)
{
    (void)r;
    play.asked++;
    if (play.says != E_NONE)
        return err_set(e, play.says, "not %s", only);
    *ret_risk = json_pack("{s:s, s:[{s:s, s:s}], s:i}", "step", "narrow", "at_risk", "identity",
                          "spiffe://td/x", "why", "is gone", "at_risk_total", 7);
    play.forced = ROTATE_STORING;
    return 0;
}

int
__wrap_rotate_forced(const struct rotate *r, struct err *e)
{
    (void)r;
    return play.forced < 0 ? err_set(e, E_SYS, "no room") : play.forced;
}

bool
__wrap_rotate_was_forced(const struct rotate *r, const char *word)
{
    (void)r;
    return play.in_plan != NULL && strcmp(play.in_plan, word) == 0;
}

bool
__wrap_evidence_is_told(const struct plugin *p)
{
    (void)p;
    return play.is_told;
}

int
__wrap_kube_patch(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
                  struct kube_call **ret, struct err *e)
{
    const json_t *notes = json_object_get(json_object_get(w->object, "metadata"), "annotations");

    (void)c;
    (void)arg;
    (void)e;
    assert_null(play.done);
    assert_true(json_is_null(json_object_get(notes, PLUGIN_FORCE)));
    (void)snprintf(play.over, sizeof(play.over), "%s", kube_object_version(w->object));
    play.done = done;
    play.removals++;
    *ret = (struct kube_call *)(uintptr_t)1;
    return 0;
}

void
__wrap_kube_cancel(struct kube_call *q)
{
    (void)q;
}

void
__wrap_plugin_event(struct plugin *p, bool is_warning, const char *reason, const char *note)
{
    (void)p;
    assert_true(is_warning);
    play.forced_n += strcmp(reason, "Forced") == 0;
    play.refused_n += strcmp(reason, "ForceRefused") == 0;
    (void)snprintf(play.note, sizeof(play.note), "%s", note);
}

uint64_t
__wrap_mono_ms(void)
{
    return play.now_ms;
}

/* -- one PluginCA --------------------------------------------------------------------------------
 */

struct scene {
    struct mesh_operator op;
    struct plugin p;
};

/* What the watch has told last; `word` NULL: without the annotation. */
static void
watch(struct scene *s, const char *word, const char *version)
{
    json_t *o = json_pack("{s:{s:s, s:s, s:{s:s*}}}", "metadata", "name", "default",
                          "resourceVersion", version, "annotations", PLUGIN_FORCE, word);

    assert_non_null(o);
    assert_int_equal(json_object_set_new(s->op.objects, "default", o), 0);
}

/* A tick, and the status is written after it. */
static void
tick(struct scene *s)
{
    force_tick(&s->p);
    if (s->p.force.last != NULL && s->p.force.call == NULL)
        (void)json_object_set(s->p.status, "lastForce", s->p.force.last);
}

static void
removed(struct scene *s, enum err_code code, const char *version)
{
    json_t *body = json_pack("{s:{s:s}}", "metadata", "resourceVersion", version);
    kube_done_fn *done = play.done;
    struct err e = { .code = code };

    assert_non_null(done);
    play.done = NULL;
    done(code == E_NONE ? body : NULL, code == E_NONE ? NULL : &e, &s->p);
    json_decref(body);
}

static int
set_up(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    memset(&play, 0, sizeof(play));
    play.is_told = true;
    play.now_ms = 1000;
    s->op.objects = json_object();
    s->p = (struct plugin){ .op = &s->op,
                            .spec = { .ns = "mesh", .name = "default" },
                            .rotate = (struct rotate *)(uintptr_t)1,
                            .status = json_object() };
    *state = s;
    return 0;
}

static int
tear_down(void **state)
{
    struct scene *s = *state;

    force_end(&s->p);
    json_decref(s->op.objects);
    json_decref(s->p.status);
    free(s);
    return 0;
}

static void
a_step_is_taken_told_and_the_annotation_goes(void **state)
{
    struct scene *s = *state;

    watch(s, "2/narrow/aa", "10");
    tick(s);
    tick(s); /* on its way to the store: nothing is said yet */
    assert_int_equal(play.asked, 1);
    assert_int_equal(play.forced_n + play.refused_n, 0);
    assert_int_equal(play.removals, 0);
    play.forced = 0;
    force_tick(&s->p);
    assert_int_equal(play.forced_n, 1);
    assert_string_equal(play.note, "2/narrow/aa: narrow is taken without its gate; 7 were not "
                                   "ready: spiffe://td/x (is gone), and more");
    assert_int_equal(play.removals, 0); /* not before the status has the answer */
    tick(s);
    watch(s, "2/narrow/aa", "12"); /* that status */
    tick(s);
    assert_int_equal(play.removals, 1);
    assert_int_equal(play.asked, 1);
}

static void
a_late_watch_is_not_judged_again(void **state)
{
    struct scene *s = *state;

    play.says = E_STATE;
    watch(s, "9/narrow/aa", "10");
    tick(s);
    tick(s);
    assert_string_equal(play.over, "10");
    removed(s, E_NONE, "14");
    tick(s);                       /* the watch has not told of it, */
    watch(s, "9/narrow/aa", "12"); /* and then tells of what was before */
    tick(s);
    assert_int_equal(play.refused_n, 1);
    assert_int_equal(play.removals, 1);
    watch(s, NULL, "14");
    tick(s);
    watch(s, "9/narrow/aa", "15"); /* put there again */
    tick(s);
    assert_int_equal(play.refused_n, 2);
}

static void
over_another_version_nothing_is_taken_away(void **state)
{
    struct scene *s = *state;

    play.says = E_STATE;
    watch(s, "9/narrow/aa", "10");
    tick(s);
    tick(s);
    removed(s, E_CONFLICT, NULL);
    watch(s, "9/narrow/aa", "12"); /* a status: the answer stands */
    tick(s);
    assert_string_equal(play.over, "12");
    removed(s, E_CONFLICT, NULL);
    watch(s, "9/narrow/bb", "13"); /* another word: it is judged */
    tick(s);
    assert_int_equal(play.refused_n, 2);
    assert_string_equal(play.note, "9/narrow/bb is not forced: not 9/narrow/bb");
    tick(s);
    removed(s, E_TIMEOUT, NULL);
    tick(s);
    assert_null(play.done); /* after a while */
    play.now_ms += 5000;
    tick(s);
    assert_non_null(play.done);
    assert_int_equal(play.refused_n, 2);
}

static void
evidence_is_waited_for_but_not_for_ever(void **state)
{
    struct scene *s = *state;

    play.is_told = false;
    watch(s, "2/narrow/aa", "10");
    tick(s);
    play.now_ms += 29999;
    tick(s);
    assert_int_equal(play.asked, 0);
    play.now_ms += 1;
    play.says = E_BUSY;
    tick(s);
    assert_int_equal(play.asked, 1);
    assert_int_equal(play.refused_n, 1);
    watch(s, "2/narrow/bb", "11"); /* another one has a while of its own */
    tick(s);
    assert_int_equal(play.asked, 1);
    play.is_told = true;
    tick(s); /* a step is under way */
    assert_int_equal(play.refused_n, 1);
    play.says = E_NONE;
    tick(s);
    play.forced = 0;
    tick(s);
    assert_int_equal(play.forced_n, 1);
}

static void
what_the_vault_s_door_holds_up_is_said(void **state)
{
    struct scene *s = *state;

    s->p.rotate = NULL;
    watch(s, "2/narrow/aa", "10");
    tick(s);
    assert_int_equal(play.refused_n, 0);
    s->p.problem.reason = "VaultHost";
    (void)snprintf(s->p.problem.message, sizeof(s->p.problem.message), "no such host");
    play.now_ms += 30000;
    tick(s);
    assert_string_equal(play.note, "2/narrow/aa is not forced: no such host");
}

static void
a_store_that_refuses_is_an_answer(void **state)
{
    struct scene *s = *state;

    watch(s, "2/narrow/aa", "10");
    tick(s);
    play.forced = -1;
    tick(s);
    assert_string_equal(play.note, "2/narrow/aa is not forced: no room");
    tick(s);
    removed(s, E_NONE, "12");
    watch(s, NULL, "12");
    tick(s);
    watch(s, "2/narrow/aa", "13"); /* the word is still good */
    tick(s);
    play.forced = 0;
    tick(s);
    assert_int_equal(play.forced_n, 1);
    tick(s);
    removed(s, E_NONE, "14");
    watch(s, NULL, "14");
    tick(s);
    watch(s, "2/narrow/aa", "15"); /* and now it is used */
    tick(s);
    assert_int_equal(play.asked, 2);
    assert_non_null(strstr(play.note, "2/narrow/aa is not forced: it was forced already, at 2"));
}

/* Somebody led before us, and was killed when the plan was written: he could not tell any more. */
static void
what_the_plan_knows_was_forced(void **state)
{
    struct scene *s = *state;

    play.in_plan = "2/narrow/aa";
    play.is_told = false; /* it takes no evidence */
    watch(s, "2/narrow/aa", "10");
    tick(s);
    assert_int_equal(play.forced_n, 1);
    assert_int_equal(play.refused_n + play.asked, 0);
    tick(s);
    assert_int_equal(play.removals, 1);
    removed(s, E_NONE, "12");
    watch(s, "2/narrow/aa", "13"); /* put there again, with us */
    tick(s);
    assert_int_equal(play.forced_n, 1);
    assert_non_null(strstr(play.note, "it was forced already, at 2"));
}

/* ... or when he had told: the answer stands, and the annotation goes. */
static void
what_was_told_is_not_told_otherwise(void **state)
{
    struct scene *s = *state;

    s->p.force.last =
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "force", "2/narrow/aa", "answer", "Forced",
                  "message", "so it was", "time", "2026-11-26T12:00:00Z", "resourceVersion", "7");
    (void)json_object_set(s->p.status, "lastForce", s->p.force.last);
    watch(s, "2/narrow/aa", "10");
    tick(s);
    assert_int_equal(play.forced_n + play.refused_n + play.asked, 0);
    assert_int_equal(play.removals, 1);
    removed(s, E_NONE, "12");
    tick(s);
    watch(s, "2/narrow/aa", "13");
    tick(s);
    assert_non_null(strstr(play.note, "it was forced already, at 2026-11-26T12:00:00Z"));
}

static void
what_is_no_word_is_not_repeated(void **state)
{
    static const char *const words[] = {
        "Narrow",   "a b", "%s",
        "\xc3\xa4", "\n",  "2/narrow/0123456789012345678901234567890123456789012345678901234",
    };
    struct scene *s = *state;
    char version[16];

    play.says = E_STATE;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        (void)snprintf(version, sizeof(version), "%zu", 10 + 10 * i);
        watch(s, words[i], version);
        tick(s);
        assert_int_equal(play.refused_n, i + 1);
        assert_string_equal(play.note, "what is no word of a step is not forced: not what is no "
                                       "word of a step");
        tick(s);
        (void)snprintf(version, sizeof(version), "%zu", 15 + 10 * i);
        removed(s, E_NONE, version);
    }
    watch(s, "", "99"); /* as good as none */
    tick(s);
    assert_int_equal(play.refused_n, ARRAY_LEN(words));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_step_is_taken_told_and_the_annotation_goes),
        TEST(a_late_watch_is_not_judged_again),
        TEST(over_another_version_nothing_is_taken_away),
        TEST(evidence_is_waited_for_but_not_for_ever),
        TEST(what_the_vault_s_door_holds_up_is_said),
        TEST(a_store_that_refuses_is_an_answer),
        TEST(what_the_plan_knows_was_forced),
        TEST(what_was_told_is_not_told_otherwise),
        TEST(what_is_no_word_is_not_repeated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
