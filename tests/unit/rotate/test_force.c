/* A step that is forced by its word: that one, once, whatever the vault and the store do meanwhile.
 */
#include "scene.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static char *
word_of(struct scene *s)
{
    json_t *j = rotate_status(s->r);
    const char *word = json_string_value(json_object_get(json_object_get(j, "held"), "force"));
    char *copy = word == NULL ? NULL : strdup(word);

    json_decref(j);
    return copy;
}

/* Everybody has A, the vault wants B, and a workload has not said that it trusts it. */
static void
hold(struct scene *s)
{
    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    assert_folder(s, 2, "AB", &pki.a1, "a1");
}

/* The step that is held and has that word is on its way into the plan. */
static void
force(struct scene *s, const char *word)
{
    json_t *risk = NULL;
    struct err e;

    assert_ok(rotate_force(s->r, word, &risk, &e));
    json_decref(risk);
}

static void
a_word_forces_its_step_once(void **state)
{
    struct scene *s = *state;
    CLEANUP(str_freep) char *word = NULL;
    CLEANUP(str_freep) char *next = NULL;
    struct err e;
    json_t *risk = NULL;

    hold(s);
    word = word_of(s);
    assert_non_null(word);
    assert_memory_equal(word, "2/move-signer/", 14);
    assert_int_equal(strlen(word), 14 + 16);
    assert_ok(rotate_forced(s->r, &e));
    force(s, word);
    assert_int_equal(rotate_forced(s->r, &e), ROTATE_STORING);
    assert_err(rotate_force(s->r, word, &risk, &e), E_BUSY, "being taken");
    run_until(s, is_caught_up);
    assert_ok(rotate_forced(s->r, &e));
    assert_folder(s, 3, "AB", &pki.b1, "b1");
    rotate_look(s->r); /* A is to go, and the replica has not told that it signs under B */
    assert_err(rotate_force(s->r, word, &risk, &e), E_STATE, "another step is held, 3/narrow/");
    next = word_of(s);
    assert_non_null(next);
    assert_memory_equal(next, "3/narrow/", 9);
    assert_folder(s, 3, "AB", &pki.b1, "b1");
}

/* Killed before anybody was told: whoever drives the plan then knows, until the next one. */
static void
the_plan_knows_what_was_forced(void **state)
{
    struct scene *s = *state;
    CLEANUP(str_freep) char *word = NULL;

    hold(s);
    word = word_of(s);
    assert_false(rotate_was_forced(s->r, word));
    force(s, word);
    assert_false(rotate_was_forced(s->r, word)); /* it may not get there */
    run_until(s, is_caught_up);
    assert_true(rotate_was_forced(s->r, word));
    driver_crash(s);
    driver_open(s);
    assert_true(rotate_was_forced(s->r, word));
    assert_false(rotate_was_forced(s->r, "2/move-signer/0123456789abcdef"));
    assert_false(rotate_was_forced(s->r, ""));
}

/* The same generation, the same kind of step, another signer. */
static void
a_word_is_of_one_wish_of_the_vault_s(void **state)
{
    struct scene *s = *state;
    CLEANUP(str_freep) char *word = NULL;
    CLEANUP(str_freep) char *other = NULL;
    CLEANUP(str_freep) char *again = NULL;
    struct err e;
    json_t *risk = NULL;

    hold(s);
    word = word_of(s);
    want(s, pki.b_brief, "brief");
    rotate_look(s->r);
    other = word_of(s);
    assert_memory_equal(other, "2/move-signer/", 14);
    assert_string_not_equal(other, word);
    assert_err(rotate_force(s->r, word, &risk, &e), E_STATE, other);
    want(s, pki.b_b1, "b1");
    driver_crash(s); /* another process says the same */
    driver_open(s);
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    again = word_of(s);
    assert_string_equal(again, word);
    assert_folder(s, 2, "AB", &pki.a1, "a1");
}

struct full {
    struct rotate_plans plans;
    rotate_saved_fn *done;
    void *arg;
};

static void
say_full(void *arg)
{
    struct full *f = arg;
    struct err e;

    (void)err_set(&e, E_SYS, "no room");
    f->done(&e, 0, f->arg);
}

static int
save_full(void *self, struct span text, uint64_t revision, struct loop *l, rotate_saved_fn *done,
          void *arg, struct err *e)
{
    static struct full f;

    (void)self, (void)text, (void)revision;
    f = (struct full){ .done = done, .arg = arg };
    return loop_post(l, say_full, &f, e);
}

static bool
is_told(struct scene *s)
{
    struct err e;

    return rotate_forced(s->r, &e) != ROTATE_STORING;
}

static void
a_step_that_is_not_stored_was_not_forced(void **state)
{
    struct scene *s = *state;
    CLEANUP(str_freep) char *word = NULL;
    struct err e;

    hold(s);
    word = word_of(s);
    struct rotate_plans good = s->r->conf.plans;
    s->r->conf.plans.save = save_full;
    force(s, word);
    run_until(s, is_told);
    assert_err(rotate_forced(s->r, &e), E_SYS, "no room");
    assert_folder(s, 2, "AB", &pki.a1, "a1");
    s->r->conf.plans = good;
    rotate_look(s->r); /* as before, and by the same word */
    force(s, word);
    run_until(s, is_caught_up);
    assert_folder(s, 3, "AB", &pki.b1, "b1");
}

static void
what_force_does_not_help_has_no_word(void **state)
{
    struct scene *s = *state;
    struct err e, why;
    json_t *risk = NULL;
    char *word;

    hold(s);
    (void)err_set(&why, E_SYS, "the disk is gone");
    rotate_trouble(s->r, TROUBLE_STORE, &why);
    word = word_of(s);
    assert_null(word);
    assert_err(rotate_force(s->r, "", &risk, &e), E_STATE, "cannot be forced: the disk is gone");
    rotate_trouble_over(s->r);
    s->r->step.hold = HOLD_ROOTS_MAX;
    word = word_of(s);
    assert_null(word);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(a_word_forces_its_step_once),
        scene_test(the_plan_knows_what_was_forced),
        scene_test(a_word_is_of_one_wish_of_the_vault_s),
        scene_test(a_step_that_is_not_stored_was_not_forced),
        scene_test(what_force_does_not_help_has_no_word),
    };
    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
