/* The driver: steps, what holds them, what is said of it, refusals and repairs. */
#include "scene.h"

#include <unistd.h>

static void
the_first_set_is_the_plan_at_once(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    assert_folder(s, 1, "A", &pki.a1, "a1");
    assert_int_equal(rotate_generation(s->r), 1);
    assert_int_equal((int)metric_value(s->metrics, "meshroot_rotate_generation", ""), 1);
}

static void
the_same_content_again_changes_nothing(void **state)
{
    struct scene *s = *state;
    struct store_stats before, after;

    settle(s, pki.a_a1, "a1");
    store_get_stats(s->store, &before);
    want(s, pki.a_a1, "set-again");
    rotate_look(s->r);
    assert_null(s->r->commit);
    store_get_stats(s->store, &after);
    assert_int_equal(before.operations, after.operations);
    assert_folder(s, 1, "A", &pki.a1, "a1");
}

static void
an_intermediate_under_the_same_root_signs_at_once(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", NULL, 0 };
    settle(s, pki.a_a2, "a2");
    assert_folder(s, 2, "A", &pki.a2, "a2");
}

static void
a_replaced_root_goes_through_every_gate(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    replica_loads(s);

    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    assert_folder(s, 2, "AB", &pki.a1, "a1");
    assert_held(s, "replicas", "move signer");

    replica_loads(s);
    rotate_look(s->r);
    assert_held(s, "trust", "move signer");
    assert_int_equal((int)metric_value(s->metrics, "meshroot_rotate_waiting_workloads", ""), 1);

    s->loads[0] = (struct load){ "A", "AB", 2 };
    rotate_poke(s->r);
    run_until(s, is_caught_up);
    rotate_look(s->r);
    run_until(s, is_held);
    assert_folder(s, 3, "AB", &pki.b1, "b1");
    assert_held(s, "replicas", "narrow");

    replica_loads(s);
    rotate_look(s->r);
    assert_held(s, "leaves", "narrow");

    s->loads[0] = (struct load){ "B", "AB", 3 };
    rotate_poke(s->r);
    run_until(s, is_settled);
    assert_folder(s, 4, "B", &pki.b1, "b1");
    assert_int_equal((int)metric_value(s->metrics, "meshroot_rotate_steps_total",
                                       "step=\"move signer\",forced=\"false\""),
                     1);
}

static void
status_says_who_is_waited_for_and_what_was_done(void **state)
{
    struct scene *s = *state;
    const char *class, *remaining, *step, *why, *identity, *until, *subject;
    json_t *held, *last;
    json_int_t total;
    int settled;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    replica_loads(s);
    rotate_look(s->r);

    json_t *j = rotate_status(s->r);
    assert_non_null(j);
    assert_int_equal(json_unpack(j, "{s:s, s:s, s:s, s:b, s:o, s:{s:s}, s:o}", "class", &class,
                                 "remaining", &remaining, "step", &step, "settled", &settled,
                                 "held", &held, "signer", "subject", &subject, "last_steps", &last),
                     0);
    assert_string_equal(class, "root replaced");
    assert_string_equal(remaining, "signer moved, root removed");
    assert_string_equal(step, "held");
    assert_false(settled);
    assert_non_null(strstr(subject, "Intermediate A1"));
    assert_int_equal(json_unpack(held, "{s:[{s:s, s:s, s:s}], s:I}", "waits_for", "identity",
                                 &identity, "why", &why, "until", &until, "waits_for_total",
                                 &total),
                     0);
    assert_string_equal(identity, "spiffe://td/ns/shop/sa/cart");
    assert_non_null(strstr(why, "generation 1 without the root; needs 2"));
    assert_string_equal(until, "2027-01-15T08:00:00Z");
    assert_int_equal(total, 1);
    assert_int_equal(json_array_size(last), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(last, 1), "step")),
                        "widen");
    assert_int_equal(json_array_size(json_object_get(j, "roots")), 2);
    json_decref(j);
}

static void
the_operator_goes_back_half_way(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    want(s, pki.a_a1, "a1");
    replica_loads(s);
    run_until(s, is_settled);
    assert_folder(s, 3, "A", &pki.a1, "a1");
}

static void
a_replacement_is_held_by_the_setting_until_it_is_forced(void **state)
{
    struct scene *s = *state;
    struct err e;
    json_t *risk = NULL;

    settle(s, pki.a_a1, "a1");
    s->r->conf.hold_replacement = true;
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    assert_held(s, "replacement", "widen");
    assert_folder(s, 1, "A", &pki.a1, "a1");
    assert_ok(rotate_force(s->r, NULL, &risk, &e));
    json_decref(risk);
    run_until(s, is_caught_up);
    assert_folder(s, 2, "AB", &pki.a1, "a1");
}

static void
force_says_who_may_be_stranded(void **state)
{
    struct scene *s = *state;
    struct err e;
    json_t *risk = NULL;
    const char *step, *reason, *identity;
    json_int_t total;

    assert_err(rotate_force(s->r, NULL, &risk, &e), E_BUSY, "nothing is held");
    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    assert_err(rotate_force(s->r, NULL, &risk, &e), E_STATE, "nothing is held");
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    replica_loads(s);
    assert_ok(rotate_force(s->r, NULL, &risk, &e));
    assert_int_equal(json_unpack(risk, "{s:s, s:s, s:[{s:s}], s:I}", "step", &step, "reason",
                                 &reason, "at_risk", "identity", &identity, "at_risk_total",
                                 &total),
                     0);
    assert_string_equal(step, "move signer");
    assert_string_equal(reason, "trust");
    assert_string_equal(identity, "spiffe://td/ns/shop/sa/cart");
    assert_int_equal(total, 1);
    json_decref(risk);
    assert_err(rotate_force(s->r, NULL, &risk, &e), E_BUSY, "being taken");
    run_until(s, is_caught_up);
    assert_folder(s, 3, "AB", &pki.b1, "b1");
}

/* -- refusals and repairs ------------------------------------------------------------------------
 */

static void
a_folder_that_cannot_be_written_is_tried_again(void **state)
{
    struct scene *s = *state;
    struct err e;

    assert_ok(file_write(s->folder, span_str("in the way"), 0600, &e));
    want(s, pki.a_a1, "a1");
    run_until(s, is_troubled);
    assert_held(s, "target", "none");
    assert_int_equal(rotate_generation(s->r), 1);
    assert_int_equal(unlink(s->folder), 0);
    run_until(s, is_caught_up);
    assert_folder(s, 1, "A", &pki.a1, "a1");
}

static void
a_damaged_folder_is_written_anew(void **state)
{
    struct scene *s = *state;
    struct err e;
    const struct fileset_file junk = { "ca-cert.pem", 0600, span_str("junk") };

    settle(s, pki.a_a1, "a1");
    assert_ok(fileset_write(s->folder, &junk, 1, &e));
    s->r->target_look_at = 0;
    rotate_look(s->r);
    assert_folder(s, 1, "A", &pki.a1, "a1");
}

static void
another_driver_s_plan_is_respected(void **state)
{
    struct scene *s = *state;
    struct rotate *other = NULL;
    struct err e;

    settle(s, pki.a_a1, "a1");
    assert_ok(rotate_new(s->loop, &s->conf, &other, &e));
    settle(s, pki.a_a2, "a2");
    struct sync_versions v = versions("b1");
    rotate_want(other, pki.ab_b1, &v); /* it still believes in generation 1 */
    rotate_look(other);
    struct rotate *first = s->r;
    s->r = other;
    run_until(s, is_troubled);
    assert_int_equal(other->trouble_why.code, E_CONFLICT);
    assert_int_equal(rotate_generation(other), 2);
    run_until(s, is_held);
    assert_folder(s, 3, "AB", &pki.a2, "a2");
    s->r = first;
    rotate_free(other);
}

static void
a_store_put_back_to_an_older_state_goes_on_above(void **state)
{
    struct scene *s = *state;
    struct err e;
    struct sync_versions v = versions("a1");
    const struct set_manifest m = { .generation = 41, .versions = v, .renew_window_ms = 5000 };

    settle(s, pki.a_a1, "a1");
    driver_crash(s);
    assert_ok(set_write(s->folder, pki.a_a1, &m, &e));
    driver_open(s);
    run_until(s, is_caught_up);
    assert_folder(s, 42, "A", &pki.a1, "a1");
    assert_int_equal(s->r->plan.roots[0].since, 42);
}

/* All signs of it that are left are in the folder: leaves under B are in use, and nobody trusts A.
 */
static void
a_plan_older_than_the_folder_narrows_nothing(void **state)
{
    struct scene *s = *state;
    struct err e;
    const struct set_manifest m = { .generation = 41,
                                    .versions = versions("b1"),
                                    .renew_window_ms = 5000 };

    settle(s, pki.a_a1, "a1");
    driver_crash(s);
    assert_ok(set_write(s->folder, pki.b_b1, &m, &e));
    driver_open(s);
    run_until(s, is_caught_up);
    assert_folder(s, 42, "B", &pki.b1, "b1");
    assert_int_equal(s->r->plan.roots[0].since, 42);
    s->loads[0] = (struct load){ "B", "B", 42 };
    want(s, pki.a_a1, "a1"); /* it is gone to by the gates */
    run_until(s, is_held);
    assert_folder(s, 43, "AB", &pki.b1, "b1");
}

/* The driver has seen its plan in the folder, so what is there now is somebody else's. */
static void
a_set_that_claims_to_be_newer_is_written_over(void **state)
{
    struct scene *s = *state;
    struct err e;
    const struct set_manifest m = { .generation = 41,
                                    .versions = versions("b1"),
                                    .renew_window_ms = 5000 };

    settle(s, pki.a_a1, "a1");
    assert_ok(set_write(s->folder, pki.b_b1, &m, &e));
    s->r->target_look_at = 0;
    rotate_look(s->r);
    run_until(s, is_caught_up);
    assert_folder(s, 42, "A", &pki.a1, "a1");
}

static void
store_lose(struct scene *s)
{
    char lost[160];
    struct err e;

    driver_crash(s);
    (void)snprintf(lost, sizeof(lost), "%s.lost", s->state);
    assert_int_equal(rename(s->state, lost), 0);
    assert_ok(dir_make(s->state, 0700, &e));
    driver_open(s);
}

/* Whoever takes the plan away, and no more, opens no gate. */
static void
a_lost_plan_is_what_the_target_holds(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    assert_folder(s, 2, "AB", &pki.a1, "a1");
    s->conf.recovers = true;
    store_lose(s);
    run_until(s, is_caught_up);
    assert_folder(s, 3, "AB", &pki.a1, "a1");
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    assert_held(s, "replicas", "move signer");
    assert_int_equal(s->r->plan.roots[1].since, 3);
    assert_folder(s, 3, "AB", &pki.a1, "a1");
}

static void
a_target_lifts_no_plan_beyond_all_numbers(void **state)
{
    struct scene *s = *state;
    struct err e;
    struct set_manifest m = { .generation = INT64_MAX,
                              .versions = versions("a1"),
                              .renew_window_ms = 5000 };

    settle(s, pki.a_a1, "a1");
    assert_ok(set_write(s->folder, pki.a_a1, &m, &e));
    s->r->target_look_at = 0;
    rotate_look(s->r);
    run_until(s, is_caught_up);
    assert_folder(s, 1, "A", &pki.a1, "a1");
}

static void
generations_grow_across_a_reset(void **state)
{
    struct scene *s = *state;
    struct err e;

    settle(s, pki.a_a1, "a1");
    settle(s, pki.a_a2, "a2");
    assert_ok(rotate_reset(s->r, &e));
    assert_int_equal(rotate_generation(s->r), 2);
    json_t *j = rotate_status(s->r);
    assert_true(json_is_null(json_object_get(j, "signer")));
    json_decref(j);
    driver_crash(s);
    folder_remove(s);
    driver_open(s);
    settle(s, pki.b_b1, "b1");
    assert_folder(s, 3, "B", &pki.b1, "b1");
}

static void
the_first_generation_is_above_what_workloads_hold(void **state)
{
    struct scene *s = *state;

    s->loads[0] = (struct load){ "A", "A", 7 };
    settle(s, pki.a_a1, "a1");
    assert_folder(s, 8, "A", &pki.a1, "a1");
}

/* A number that leaves no room above it was never handed out; their leaves are of generation 1. */
static void
a_generation_beyond_all_is_nobody_s(void **state)
{
    struct scene *s = *state;

    s->loads[0] = (struct load){ "A", "A", UINT64_MAX };
    s->loads[1] = (struct load){ "A", "A", INT64_MAX };
    settle(s, pki.a_a1, "a1");
    assert_folder(s, 2, "A", &pki.a1, "a1");
}

static void
a_reset_undoes_a_step_under_way(void **state)
{
    struct scene *s = *state;
    struct err e;

    settle(s, pki.a_a1, "a1");
    want(s, pki.a_a2, "a2");
    rotate_look(s->r);
    assert_non_null(s->r->commit);
    assert_ok(rotate_reset(s->r, &e));
    driver_crash(s);
    driver_open(s);
    assert_false(s->r->has_plan);
    assert_int_equal(rotate_generation(s->r), 2);
}

static void
a_wanted_signer_that_expires_while_it_waits_never_signs(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    want(s, pki.b_brief, "brief");
    run_until(s, is_held);
    replica_loads(s);
    clock_shift_for_test(2 * 24 * 3600);
    s->loads[0] = (struct load){ "A", "AB", 2 };
    rotate_look(s->r);
    assert_held(s, "short_life", "none");
    assert_folder(s, 2, "AB", &pki.a1, "a1");
    settle(s, pki.a_a1, "a1"); /* and back */
    assert_folder(s, 3, "A", &pki.a1, "a1");
}

static void
a_signer_that_the_ca_would_refuse_is_not_moved_to(void **state)
{
    struct scene *s = *state;

    s->r->conf.min_life_s = 3 * 24 * 3600;
    want(s, pki.b_brief, "brief");
    run_until(s, is_troubled);
    assert_held(s, "short_life", "none");
    assert_false(s->r->has_plan);
    settle(s, pki.a_a1, "a1");
    assert_folder(s, 1, "A", &pki.a1, "a1");
    assert_false(is_troubled(s));
}

static void
a_damaged_plan_stops_the_start(void **state)
{
    struct scene *s = *state;
    struct err e;
    struct rotate *r = NULL;
    uint64_t revision;
    const struct store_op op = { .kind = STORE_PUT,
                                 .key = "rotate/plan",
                                 .value = span_str("{\"format\":1}") };

    assert_ok(store_commit_wait(s->store, &op, 1, &revision, &e));
    assert_err(rotate_new(s->loop, &s->conf, &r, &e), E_PARSE, "rotate/plan");
    assert_null(r);
}

static void
replicas_are_bounded_and_may_go(void **state)
{
    struct scene *s = *state;
    char name[REPLICA_NAME_BYTES + 8];

    for (size_t i = 0; i < REPLICAS_MAX + 3; i++) {
        (void)snprintf(name, sizeof(name), "ca-%zu", i);
        rotate_replica(s->r, name, 1, bundle_roots(pki.a_a1), cert_id(pki.a1.cert));
    }
    assert_int_equal(s->r->replicas_n, REPLICAS_MAX);
    rotate_replica_gone(s->r, "ca-0");
    rotate_replica_gone(s->r, "ca-0");
    assert_int_equal(s->r->replicas_n, REPLICAS_MAX - 1);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    rotate_replica(s->r, name, 1, bundle_roots(pki.a_a1), cert_id(pki.a1.cert));
    assert_int_equal(s->r->replicas_n, REPLICAS_MAX - 1);
}

/* A target that is not written within the call, as a Secret is not. */
struct late {
    struct scene *s;
    struct rotate_target folder;
    struct bundle *b; /* owned; under way */
    struct set_manifest m;
    size_t writes_n, fail_n;
};

static void
late_done(void *arg)
{
    struct late *t = arg;
    struct err e = { 0 };

    if (t->fail_n > 0) {
        t->fail_n--;
        (void)err_set(&e, E_CONFLICT, "the Secret is not what was read");
    } else {
        assert_ok(t->folder.write(t->folder.self, t->b, &t->m, &e));
    }
    bundle_unref(STEAL(t->b));
    rotate_target_moved(t->s->r, e.code == E_NONE ? NULL : &e);
}

static int
late_read(void *self, struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    struct late *t = self;

    return t->folder.read(t->folder.self, ret, ret_m, e);
}

static int
late_write(void *self, const struct bundle *b, const struct set_manifest *m, struct err *e)
{
    struct late *t = self;

    assert_null(t->b); /* one at a time */
    t->writes_n++;
    TRY(bundle_with_roots(b, bundle_roots(b), &t->b, e));
    t->m = *m;
    TRY(loop_post(t->s->loop, late_done, t, e));
    return ROTATE_LATER;
}

static void
tell_and_be_lost(void *self, ledger_workload_fn *fn, void *arg)
{
    struct scene *s = self;

    (void)fn; /* out of memory before the first workload was told */
    (void)arg;
    rotate_replica_gone(s->r, "ca-0");
}

static void
a_replica_that_is_lost_while_it_tells_opens_no_gate(void **state)
{
    struct scene *s = *state;

    settle(s, pki.a_a1, "a1");
    s->loads[0] = (struct load){ "A", "A", 1 };
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    s->r->conf.workloads = tell_and_be_lost;
    replica_loads(s);
    rotate_look(s->r);
    assert_null(s->r->commit);
    assert_held(s, "replicas", "move signer");
}

static void
a_target_may_take_its_time_and_fail(void **state)
{
    struct scene *s = *state;
    struct late t = { .s = s, .folder = rotate_target_folder(s->folder), .fail_n = 1 };

    s->r->conf.target = (struct rotate_target){ "a Secret", late_read, late_write, &t };
    want(s, pki.a_a1, "a1");
    run_until(s, is_troubled);
    assert_held(s, "target", "none"); /* by the metric, too, before the next look */
    run_until(s, is_settled);
    assert_folder(s, 1, "A", &pki.a1, "a1");
    assert_int_equal(t.writes_n, 2);

    settle(s, pki.a_a2, "a2");
    assert_folder(s, 2, "A", &pki.a2, "a2");
    folder_remove(s); /* by another's hand */
    rotate_target_moved(s->r, NULL);
    rotate_look(s->r);
    run_until(s, is_settled);
    assert_folder(s, 2, "A", &pki.a2, "a2");
    assert_int_equal(t.writes_n, 4);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(the_first_set_is_the_plan_at_once),
        scene_test(the_same_content_again_changes_nothing),
        scene_test(an_intermediate_under_the_same_root_signs_at_once),
        scene_test(a_replaced_root_goes_through_every_gate),
        scene_test(status_says_who_is_waited_for_and_what_was_done),
        scene_test(the_operator_goes_back_half_way),
        scene_test(a_replacement_is_held_by_the_setting_until_it_is_forced),
        scene_test(force_says_who_may_be_stranded),
        scene_test(a_folder_that_cannot_be_written_is_tried_again),
        scene_test(a_damaged_folder_is_written_anew),
        scene_test(another_driver_s_plan_is_respected),
        scene_test(a_store_put_back_to_an_older_state_goes_on_above),
        scene_test(a_plan_older_than_the_folder_narrows_nothing),
        scene_test(a_set_that_claims_to_be_newer_is_written_over),
        scene_test(a_lost_plan_is_what_the_target_holds),
        scene_test(a_target_lifts_no_plan_beyond_all_numbers),
        scene_test(generations_grow_across_a_reset),
        scene_test(the_first_generation_is_above_what_workloads_hold),
        scene_test(a_generation_beyond_all_is_nobody_s),
        scene_test(a_reset_undoes_a_step_under_way),
        scene_test(a_wanted_signer_that_expires_while_it_waits_never_signs),
        scene_test(a_signer_that_the_ca_would_refuse_is_not_moved_to),
        scene_test(a_damaged_plan_stops_the_start),
        scene_test(replicas_are_bounded_and_may_go),
        scene_test(a_replica_that_is_lost_while_it_tells_opens_no_gate),
        scene_test(a_target_may_take_its_time_and_fail),
    };
    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
