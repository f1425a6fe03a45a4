/* test_agent_late.c - what comes late, or while something else is under way, against a CA that the
 * test plays. */
#include "play_ca.h"

#include "agent/plan.h"
#include "agent/room.h"
#include "pki/pem.h"

static bool
is_held(struct world *w)
{
    return w->held != NULL;
}

static bool
signer_is_theirs(struct world *w)
{
    char id[DIGEST_TEXT_BYTES];

    hex_text(span_of(cert_id(w->signer->cert), DIGEST_BYTES), id);
    return strcmp(status(w, "signer_id"), id) == 0 && newest_is_said(w);
}

/* With the leaf of the last request in use. */
static bool
is_renewed_and_said(struct world *w)
{
    return w->csrs_n >= 2 && strcmp(status(w, "serial"), w->issued) == 0 && newest_is_said(w);
}

/* A move that was taken back before anybody followed it is followed when it comes again. */
static void
a_signer_that_moves_twice_is_followed_twice(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    push(w, w->generation = 6, w->roots, &w->mid2, 1);
    push(w, w->generation = 7, w->roots, &w->mid, 1);
    run_until(w, is_renewed_and_said); /* under the old one: it has come back */
    assert_true(signer_is_theirs(w));
    w->signer = &w->mid2;
    push(w, w->generation = 8, w->roots, &w->mid2, 1);
    run_until(w, signer_is_theirs);
    assert_int_equal(w->csrs_n, 3);
}

static bool
list_is_used(struct world *w)
{
    return !lists_are_gone(w);
}

static bool
is_third_and_good(struct world *w)
{
    return w->csrs_n >= 3 && word_is_said(w) && strcmp(status(w, "revoked"), "false") == 0;
}

/* `ca revoke --identity` while a leaf is on its way: the list is here before the leaf is. */
static void
a_leaf_that_is_revoked_before_it_comes_is_renewed(void **state)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    struct world *w = *state;
    char serial[SERIAL_TEXT_BYTES];

    start(w);
    run_until(w, word_is_said);
    w->holds = true;
    w->signer = &w->mid2;
    push(w, w->generation = 6, w->roots, &w->mid2, 1);
    run_until(w, is_held);
    cert_serial_text(w->held_leaf, serial);
    list_make(w, &w->mid2, &w->mid2, 3600, serial, &der);
    push(w, 6, w->roots, &w->mid2, 1);
    run_until(w, list_is_used);
    let_go(w);
    run_until(w, is_third_and_good);
}

/* Killed between the list that names its leaf and the renewal. */
static void
a_start_with_a_revoked_leaf_renews_it(void **state)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES), pem = BUF_INIT(65536);
    struct world *w = *state;
    char path[160], serial[64];
    struct err e;

    start(w);
    run_until(w, word_is_said);
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    crash(w);
    list_make(w, w->signer, w->signer, 3600, serial, &der);
    assert_ok(pem_add(&pem, "X509 CRL", buf_span(&der), &e));
    (void)snprintf(path, sizeof(path), "%s/..data/ca-crl.pem", w->state);
    assert_ok(file_write(path, buf_span(&pem), 0644, &e));
    start(w);
    assert_string_equal(status(w, "revoked"), "true");
    run_until(w, is_renewed_and_said);
    assert_string_equal(status(w, "revoked"), "false");
}

static bool
is_known_to_be_plain(struct world *w)
{
    return w->watches_n > 0 && w->watch == NULL && strcmp(status(w, "ready"), "true") == 0 &&
           w->agent->ca_is_plain;
}

/* The first set on a stream is what ends "this CA takes no words": the word about it is said. */
static void
the_word_to_a_ca_that_had_no_trust_stream_is_said(void **state)
{
    struct world *w = *state;

    w->is_plain = true;
    w->life_s = 4;
    start(w);
    run_until(w, is_known_to_be_plain);
    assert_int_equal(w->words_n, 0);
    w->is_plain = false;
    w->life_s = 3600;
    run_until(w, word_is_said);
}

static bool
has_another_stream(struct world *w)
{
    return w->watches_n > w->watches_before && w->watch != NULL;
}

static bool
is_said_again(struct world *w)
{
    return w->words_n > w->words_before && newest_is_said(w);
}

/* A replica that is behind when the stream comes to it, as one that has just started is, has not
 * heard the word; it is told when it has caught up. */
static void
a_replica_that_was_behind_is_told_too(void **state)
{
    struct world *w = *state;
    struct err e;

    start(w);
    run_until(w, word_is_said);
    push(w, w->generation = 6, w->roots, w->signer, 0);
    run_until(w, newest_is_said);
    w->words_before = w->words_n;
    w->watches_before = w->watches_n;
    w->generation = 5;
    assert_ok(grpc_trailer(w->watch, "grpc-retry-pushback-ms", "0", &e));
    grpc_on_gone(w->watch, NULL, NULL);
    grpc_finish(STEAL(w->watch), GRPC_UNAVAILABLE, "it leaves");
    run_until(w, has_another_stream);
    push(w, w->generation = 6, w->roots, w->signer, 0);
    run_until(w, is_said_again);
}

static bool
file_is_seen(struct world *w)
{
    return w->agent->roots_due;
}

/* The trust set of a CA without a stream comes with its leaves. One that is on its way was made
 * before the CA's roots have changed. */
static void
roots_that_change_while_a_leaf_is_on_its_way_are_asked_for(void **state)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(65536);
    struct world *w = *state;
    struct roots *wide;
    struct err e;

    w->is_plain = w->holds = true;
    w->generation = 0;
    start(w);
    run_until(w, is_held);
    assert_ok(roots_union(w->root.roots, w->other.roots, &wide, &e));
    assert_ok(roots_to_pem(wide, &pem, &e));
    assert_ok(file_write(w->ca_root, buf_span(&pem), 0644, &e));
    run_until(w, file_is_seen);
    let_go(w);
    run_until(w, is_known_to_be_plain);
    assert_true(w->agent->renew_at_ms <= mono_ms() + CA_FILE_WINDOW_MS);
    roots_unref(wide);
}

static bool
is_pending(struct world *w)
{
    return w->agent->pending != NULL;
}

static void
on_stopped(void *arg)
{
    struct world *w = arg;

    w->stopped = true;
}

static bool
retry_is_over(struct world *w)
{
    return w->stopped && mono_ms() >= w->refused_at_ms + WRITE_RETRY_MS;
}

/* A set that waits for its next try to be written, when the agent stops. */
static void
a_stop_ends_what_could_not_be_written(void **state)
{
    struct world *w = *state;
    struct roots *wide;
    char link[160];
    struct err e;

    start(w);
    run_until(w, word_is_said);
    (void)snprintf(link, sizeof(link), "%s/..data", w->state);
    assert_int_equal(unlink(link), 0);
    (void)snprintf(link, sizeof(link), "%s/..data/in-the-way", w->state);
    assert_ok(dir_make(link, 0755, &e));
    assert_ok(roots_union(w->root.roots, w->other.roots, &wide, &e));
    push(w, 6, wide, w->signer, 0);
    run_until(w, is_pending);
    w->refused_at_ms = mono_ms();
    agent_stop(w->agent, false, on_stopped, w);
    run_until(w, retry_is_over);
    agent_free(STEAL(w->agent));
    roots_unref(wide);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_signer_that_moves_twice_is_followed_twice),
        T(a_leaf_that_is_revoked_before_it_comes_is_renewed),
        T(a_start_with_a_revoked_leaf_renews_it),
        T(the_word_to_a_ca_that_had_no_trust_stream_is_said),
        T(a_replica_that_was_behind_is_told_too),
        T(roots_that_change_while_a_leaf_is_on_its_way_are_asked_for),
        T(a_stop_ends_what_could_not_be_written),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
