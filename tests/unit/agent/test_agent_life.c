/* test_agent_life.c - an agent's starts and ends against a CA that the test plays: what it goes on
 * with, when it is another instance, what it says and leaves when it stops. */
#include "play_ca.h"

#include "agent/plan.h"

static bool
said_with_a_new_leaf(struct world *w)
{
    return w->csrs_n > w->csrs_before && w->words_n > w->words_before;
}

/* istiod reads the roots that vouch for its clients once, at its start: after a rotation it breaks
 * the handshake with a new leaf. The token is enough. */
static void
a_ca_that_cannot_verify_our_leaf_is_asked_without_it(void **state)
{
    struct world *w = *state;

    w->life_s = 4;
    start(w);
    run_until(w, word_is_said);
    grpc_server_free(w->server);
    w->words_before = w->words_n;
    w->csrs_before = w->csrs_n; /* on a slow day there was one more of the short ones */
    w->life_s = 3600;
    server_start(w, w->other.roots);
    run_until(w, said_with_a_new_leaf);
    assert_string_equal(w->seen_uri, "");
}

static void
a_restart_goes_on_with_leaf_and_instance(void **state)
{
    struct world *w = *state;
    char serial[64], instance[64];

    start(w);
    run_until(w, word_is_said);
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    (void)snprintf(instance, sizeof(instance), "%s", status(w, "instance"));
    crash(w);
    start(w);
    run_until(w, word_is_said);
    assert_int_equal(w->csrs_n, 1);
    assert_string_equal(status(w, "serial"), serial);
    assert_string_equal(status(w, "instance"), instance);
}

static void
a_restart_knows_its_leaf_s_generation(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    push(w, w->generation = 6, w->roots, w->signer, 0);
    run_until(w, newest_is_said);
    crash(w);
    start(w);
    run_until(w, word_is_said);
    assert_int_equal(last_word(w)->generation, 6);
    assert_int_equal(last_word(w)->leaf_generation, 5);
    assert_int_equal(w->csrs_n, 1);
}

/* A CA that names no generation: nothing is said of one, whatever a trust set has. */
static void
no_generation_is_made_up(void **state)
{
    struct world *w = *state;

    w->generation = 0;
    start(w);
    run_until(w, word_is_said);
    assert_int_equal(last_word(w)->generation, 1);
    assert_int_equal(last_word(w)->leaf_generation, 0);
}

/* The CA takes it that what one instance uses only grows in generation. So who cannot know any more
 * what it has said is another one: without a set, or with one that cannot be read or used. */
static void
without_its_set_it_is_another_instance(void **state)
{
    static const char *const lost[] = { "meshroot.json", "..data", NULL };
    struct world *w = *state;
    char path[160], instance[64];

    w->life_s = 600;
    start(w);
    for (size_t i = 0; i < ARRAY_LEN(lost); i++) {
        run_until(w, word_is_said);
        (void)snprintf(instance, sizeof(instance), "%s", status(w, "instance"));
        crash(w);
        (void)snprintf(path, sizeof(path), "%s/%s", w->state, lost[i] == NULL ? "" : lost[i]);
        if (lost[i] == NULL)
            clock_shift_for_test(700); /* it has expired */
        else if (i == 0)
            assert_int_equal(truncate(path, 3), 0);
        else
            assert_int_equal(unlink(path), 0); /* the link to the set */
        start(w);
        run_until(w, word_is_said);
        assert_string_not_equal(status(w, "instance"), instance);
        assert_string_equal(status(w, "instance"), w->seen_instance);
        assert_string_equal(status(w, "ready"), "true");
    }
    assert_int_equal(w->csrs_n, 1 + ARRAY_LEN(lost));
}

/* notBefore is two minutes back; a leaf of 2 s is renewed at 1 s, not at once and for ever. */
static void
a_short_leaf_is_renewed_at_half_of_what_was_left(void **state)
{
    struct world *w = *state;
    uint64_t from = mono_ms();

    w->life_s = 4; /* whole seconds: between 3 and 4 are left */
    start(w);
    run_until(w, two_csrs);
    assert_true(mono_ms() - from >= 1000);
}

static void
on_stopped(void *arg)
{
    struct world *w = arg;

    w->stopped = true;
}

static bool
is_stopped(struct world *w)
{
    return w->stopped;
}

static void
an_end_is_said_when_the_key_is_gone(void **state)
{
    struct world *w = *state;
    char path[160];
    struct stat st;

    start(w);
    run_until(w, word_is_said);
    agent_stop(w->agent, true, on_stopped, w);
    run_until(w, is_stopped);
    assert_true(last_word(w)->ended);
    assert_int_equal(last_word(w)->leaf_generation, 5);
    (void)snprintf(path, sizeof(path), "%s/key.pem", w->state);
    assert_int_equal(lstat(path, &st), -1);
}

static void
a_stop_keeps_the_key(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    agent_stop(w->agent, false, on_stopped, w);
    run_until(w, is_stopped);
    assert_false(last_word(w)->ended);
    assert_true(file_holds(w, "key.pem", "PRIVATE KEY"));
}

static void
a_goodbye_nobody_takes_is_bounded(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    grpc_server_free(w->server);
    w->server = NULL;
    agent_stop(w->agent, true, on_stopped, w);
    run_until(w, is_stopped);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_ca_that_cannot_verify_our_leaf_is_asked_without_it),
        T(a_restart_goes_on_with_leaf_and_instance),
        T(a_restart_knows_its_leaf_s_generation),
        T(no_generation_is_made_up),
        T(without_its_set_it_is_another_instance),
        T(a_short_leaf_is_renewed_at_half_of_what_was_left),
        T(an_end_is_said_when_the_key_is_gone),
        T(a_stop_keeps_the_key),
        T(a_goodbye_nobody_takes_is_bounded),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
