/* The whole agent against a CA that the test plays: what is used, what is put aside, what is
 * said. Restarts and ends: test_agent_life.c. */
#include "play_ca.h"

#include <errno.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "pki/pem.h"

static bool
csr_is_refused(struct world *w)
{
    return status(w, "last_error")[0] != '\0';
}

/* -- tests -- */

static void
first_leaf_is_used_and_said(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    assert_int_equal(w->csrs_n, 1);
    assert_string_equal(w->seen_auth, "Bearer abc.def.ghi");
    assert_int_equal(strlen(w->seen_instance), 32);
    assert_int_equal(last_word(w)->generation, 5);
    assert_int_equal(last_word(w)->roots_n, 1);
    assert_true(last_word(w)->serial_n > 0);
    assert_false(last_word(w)->ended);
    assert_true(file_holds(w, "meshroot.json", "\"generation\": 5"));
    assert_true(file_holds(w, "key.pem", "PRIVATE KEY"));
    assert_string_equal(status(w, "trusted"), "true");
}

static void
bad_answers_are_never_used(void **state)
{
    static const struct {
        enum answer_kind kind;
        const char *part;
    } rows[] = {
        { OTHER_IDENTITY, "not for " ID },
        { OTHER_KEY, "does not belong to our key" },
        { OTHER_ROOTS, "CA's answer" },
        { NO_ROOTS, "leaf and roots are needed" },
    };
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        w->kind = rows[i].kind;
        start(w);
        run_until(w, csr_is_refused);
        if (strstr(status(w, "last_error"), rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, status(w, "last_error"));
        assert_string_equal(status(w, "ready"), "false");
        assert_int_equal(w->words_n, 0);
        agent_free(w->agent);
        w->agent = NULL;
    }
}

static void
a_busy_ca_is_asked_again(void **state)
{
    struct world *w = *state;

    w->kind = BUSY;
    start(w);
    run_until(w, two_csrs);
    assert_string_equal(status(w, "last_error"), "");
}

/* gRPC proposal A6: not before the time that the CA has named, and it says that it was there. */
static void
who_is_told_when_comes_back_then(void **state)
{
    struct world *w = *state;

    w->kind = BUSY;
    w->pushback = "400"; /* a first retry of its own would come within 100 ms */
    start(w);
    run_until(w, two_csrs);
    /* the loop reads the time from a coarse clock: a few ms less are no less waiting */
    assert_true(w->taken_at_ms - w->refused_at_ms + 50 >= 400);
    assert_string_equal(w->seen_attempts, "1");
}

static bool
two_roots(struct world *w)
{
    return strcmp(status(w, "roots"), "2") == 0 && word_is_said(w);
}

static bool
generation_7(struct world *w)
{
    return strcmp(status(w, "generation"), "7") == 0 && word_is_said(w);
}

static struct roots *
both(struct world *w)
{
    struct roots *r;
    struct err e;

    assert_ok(roots_union(w->root.roots, w->other.roots, &r, &e));
    return r;
}

static void
wider_trust_set_is_used_and_said_with_the_same_leaf(void **state)
{
    struct world *w = *state;
    struct roots *wide = both(w);

    start(w);
    run_until(w, word_is_said);
    char serial[64];
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    push(w, 6, wide, w->signer, 0);
    run_until(w, two_roots);
    assert_int_equal(last_word(w)->generation, 6);
    assert_int_equal(last_word(w)->leaf_generation, 5); /* of the answer, not of the trust set */
    assert_int_equal(last_word(w)->roots_n, 2);
    assert_string_equal(status(w, "serial"), serial);
    assert_int_equal(w->csrs_n, 1);
    assert_true(file_holds(w, "meshroot.json", "\"generation\": 6"));
    /* one that was held back in the network comes late: put aside; the next one shows the order */
    push(w, 5, w->root.roots, w->signer, 0);
    push(w, 7, wide, w->signer, 0);
    run_until(w, generation_7);
    assert_string_equal(status(w, "roots"), "2");
    roots_unref(wide);
}

static bool
signer_is_mid2(struct world *w)
{
    char id[DIGEST_TEXT_BYTES];

    hex_text(span_of(cert_id(w->mid2.cert), DIGEST_BYTES), id);
    return strcmp(status(w, "signer_id"), id) == 0 && word_is_said(w);
}

static bool
aside(struct world *w)
{
    return strstr(status(w, "last_error"), "older than 9") != NULL;
}

/* A replica that lags behind answers with an older generation: neither leaf nor roots are used. */
static void
an_older_answer_is_put_aside_whole(void **state)
{
    struct world *w = *state;
    struct roots *wide = both(w);

    start(w);
    run_until(w, word_is_said);
    char serial[64];
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    push(w, 9, wide, &w->mid2, 1); /* the signer has moved: it asks, and gets generation 5 */
    run_until(w, aside);
    assert_string_equal(status(w, "serial"), serial);
    assert_string_equal(status(w, "generation"), "9");
    assert_string_equal(status(w, "roots"), "2");
    w->generation = 9;
    w->signer = &w->mid2;
    roots_unref(w->roots);
    w->roots = wide;
    run_until(w, signer_is_mid2);
    assert_string_equal(status(w, "generation"), "9");
}

static void
a_moved_signer_is_followed_within_the_window(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    w->signer = &w->mid2;
    push(w, 6, w->roots, &w->mid2, 50);
    w->generation = 6;
    run_until(w, signer_is_mid2);
    assert_int_equal(w->csrs_n, 2);
    assert_int_equal(last_word(w)->leaf_generation, 6);
    assert_string_equal(w->seen_uri, ID); /* it showed its leaf */
    /* the same again changes nothing; the next one shows that it has been read */
    uint64_t renew_at_ms = w->agent->renew_at_ms;
    push(w, 6, w->roots, &w->mid2, 1);
    push(w, w->generation = 7, w->roots, &w->mid2, 1);
    run_until(w, newest_is_said);
    assert_int_equal(w->csrs_n, 2);
    assert_int_equal(w->agent->renew_at_ms, renew_at_ms);
}

static void
an_empty_trust_set_is_refused(void **state)
{
    Meshroot__V1__TrustSet m = MESHROOT__V1__TRUST_SET__INIT;
    uint8_t packed[64];
    struct world *w = *state;
    struct err e;

    start(w);
    run_until(w, word_is_said);
    m.generation = 99;
    size_t n = meshroot__v1__trust_set__pack(&m, packed);
    assert_ok(grpc_send(w->watch, span_of(packed, n), &e));
    run_until(w, csr_is_refused);
    assert_non_null(strstr(status(w, "last_error"), "trust set of 0 roots"));
    assert_string_equal(status(w, "generation"), "5");
}

/* -- revocation lists -- */

static bool
lists_are_refused(struct world *w)
{
    return strstr(status(w, "last_error"), "revocation lists are not used") != NULL &&
           word_is_said(w) && last_word(w)->generation == w->generation;
}

static bool
signer_is_followed(struct world *w)
{
    char id[DIGEST_TEXT_BYTES];

    hex_text(span_of(cert_id(w->signer->cert), DIGEST_BYTES), id);
    return strcmp(status(w, "signer_id"), id) == 0 && word_is_said(w);
}

/* specs/peers.md 5, row 30 (istio#61073, #61075): what comes beside a bad list is used, the lists
 * of before stay; and they can be cleared. */
static void
cve_30_a_bad_list_blocks_neither_key_nor_root(void **state)
{
    static const struct {
        int64_t life_s;
        const char *part; /* of why */
    } rows[] = { { 0, "not a revocation list" },
                 { 3600, "signature is not that of" },
                 { -60, "has expired at" } };
    CLEANUP(buf_done)
    struct buf der = BUF_INIT(CRL_MAX_BYTES), first = BUF_INIT(CRL_MAX_BYTES),
               good = BUF_INIT(65536), now = BUF_INIT(65536);
    struct world *w = *state;
    struct roots *wide = both(w), *narrow = w->roots;

    start(w);
    run_until(w, word_is_said);
    list_make(w, w->signer, w->signer, 3600, "42", &first);
    push(w, w->generation = 7, w->roots, w->signer, 0);
    run_until(w, generation_7);
    lists_file(w, &good);
    assert_non_null(strstr(buf_text(&good), "BEGIN X509 CRL"));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct mint_ca *next = w->signer == &w->mid ? &w->mid2 : &w->mid;

        list_make(w, w->signer, rows[i].life_s == 3600 ? next : w->signer,
                  rows[i].life_s == 0 ? 60 : rows[i].life_s, "43", &der);
        if (rows[i].life_s == 0)
            w->lists = (ProtobufCBinaryData){ 4, (uint8_t *)(uintptr_t) "junk" };
        w->signer = next;
        w->roots = i % 2 == 0 ? wide : narrow;
        push(w, ++w->generation, w->roots, w->signer, 20);
        run_until(w, lists_are_refused);
        assert_non_null(strstr(status(w, "last_error"), rows[i].part));
        assert_int_equal(last_word(w)->generation, w->generation);
        assert_int_equal(last_word(w)->roots_n, roots_count(w->roots));
        w->lists = (ProtobufCBinaryData){ first.n, first.p }; /* for the stream of the new leaf */
        run_until(w, signer_is_followed);
        assert_string_equal(status(w, "last_error"), "");
        lists_file(w, &now);
        assert_string_equal(buf_text(&now), buf_text(&good));
    }
    w->lists.len = 0;
    push(w, ++w->generation, w->roots, w->signer, 0);
    run_until(w, newest_is_said);
    assert_true(lists_are_gone(w));
    w->roots = narrow;
    roots_unref(wide);
}

/* A bad list that lies beside the set on disk: the leaf is gone on with, without it. */
static void
cve_30_a_bad_list_on_disk_blocks_no_key(void **state)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES), pem = BUF_INIT(65536);
    struct world *w = *state;
    char path[160], serial[64];
    struct err e;

    start(w);
    run_until(w, word_is_said);
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    for (size_t i = 0; i < 3; i++) {
        crash(w);
        list_make(w, w->signer, i == 1 ? &w->mid2 : w->signer, i == 2 ? -60 : 3600, serial, &der);
        w->lists.len = 0; /* on disk only */
        pem.n = 0;
        if (i == 0)
            assert_ok(buf_add(&pem, span_str("junk"), &e));
        else
            assert_ok(pem_add(&pem, "X509 CRL", buf_span(&der), &e));
        (void)snprintf(path, sizeof(path), "%s/..data/ca-crl.pem", w->state);
        assert_ok(file_write(path, buf_span(&pem), 0644, &e));
        (void)snprintf(path, sizeof(path), "%s/ca-crl.pem", w->state);
        if (symlink("..data/ca-crl.pem", path) != 0)
            assert_int_equal(errno, EEXIST);
        start(w);
        run_until(w, word_is_said);
        assert_int_equal(w->csrs_n, 1);
        assert_string_equal(status(w, "serial"), serial);
        assert_string_equal(status(w, "revoked"), "false");
    }
}

/* Lists of a new signer are with everybody before its first leaf is. */
static void
a_new_signer_s_list_goes_ahead_of_its_leaves(void **state)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    w->signer = &w->mid2;
    w->generation = 6;
    list_make(w, &w->mid2, &w->mid2, 3600, "42", &der);
    uint64_t from = mono_ms();
    push(w, 6, w->roots, &w->mid2, 1);
    run_until(w, signer_is_mid2);
    assert_true(w->taken_at_ms - from + 50 >= LISTS_AHEAD_MS);
}

static bool
said_at_last(struct world *w)
{
    return w->refuse_words_n == 0 && word_is_said(w);
}

static void
a_word_that_is_not_taken_is_said_again(void **state)
{
    struct world *w = *state;

    w->refuse_words_n = 2;
    start(w);
    run_until(w, said_at_last);
}

static bool
said_again(struct world *w)
{
    return w->watches_n > w->watches_before && w->words_n > w->words_before;
}

static void
after_an_outage_it_watches_and_says_it_again(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    w->watches_before = w->watches_n;
    grpc_server_free(w->server);
    run_until(w, csr_is_refused);
    assert_string_equal(status(w, "ready"), "true");
    w->words_before = w->words_n;
    server_start(w, w->root.roots);
    run_until(w, said_again); /* a word that was under way may come before the stream */
    assert_int_equal(w->csrs_n, 1);
}

static void
wrong_settings(void **state)
{
    static const struct {
        const char *identity, *inbound, *part;
    } rows[] = {
        { "http://a", NULL, "identity" },
        { ID, "127.0.0.1:0=127.0.0.1:1", "without a rule" },
    };
    struct world *w = *state;
    struct agent *a;
    struct err e;
    char addr[64];

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct agent_conf c = conf(w, addr, sizeof(addr));

        c.identity = rows[i].identity;
        c.inbound = rows[i].inbound;
        assert_true(agent_new(w->l, &c, &a, &e) < 0);
        if (strstr(e.msg, rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, e.msg);
    }
}

static void
a_set_that_cannot_be_written_is_not_used(void **state)
{
    struct world *w = *state;
    struct roots *wide = both(w);
    char link[160];
    struct err e;

    start(w);
    run_until(w, word_is_said);
    /* ..data cannot be replaced by a rename when it is a folder with something in it */
    (void)snprintf(link, sizeof(link), "%s/..data", w->state);
    assert_int_equal(unlink(link), 0);
    (void)snprintf(link, sizeof(link), "%s/..data/in-the-way", w->state);
    assert_ok(dir_make(link, 0755, &e));
    push(w, 6, wide, w->signer, 0);
    run_until(w, csr_is_refused);
    assert_non_null(strstr(status(w, "last_error"), "the old one stays"));
    assert_string_equal(status(w, "generation"), "5"); /* and nothing was said of 6 */
    assert_int_equal(last_word(w)->generation, 5);
    assert_int_equal(rmdir(link), 0);
    *strrchr(link, '/') = '\0';
    assert_int_equal(rmdir(link), 0);
    run_until(w, two_roots);
    assert_int_equal(last_word(w)->generation, 6);
    roots_unref(wide);
}

static void
on_pushed(struct span msg, void *arg)
{
    struct world *w = arg;

    assert_true(msg.n > 0);
    w->pushes_n++;
}

static void
on_ended(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    (void)code;
    (void)msg;
    (void)q;
    (void)arg;
}

static bool
was_pushed(struct world *w)
{
    return w->pushes_n > 0;
}

/* A workload of the Workload API trusts a new root when it has read what was pushed; the CA is not
 * told before. */
static void
the_word_waits_for_workloads(void **state)
{
    static const struct grpc_header_kv security[] = { { "workload.spiffe.io", "true" },
                                                      { NULL, NULL } };
    struct world *w = *state;
    const struct grpc_answer answer = { on_pushed, on_ended, w };
    struct roots *wide = both(w);
    struct grpc_client *client;
    char addr[64], path[96];
    struct err e;

    (void)snprintf(path, sizeof(path), "%s/api.sock", w->dir);
    struct agent_conf c = conf(w, addr, sizeof(addr));
    c.workload_socket = path;
    assert_ok(agent_new(w->l, &c, &w->agent, &e));
    run_until(w, word_is_said);
    const struct grpc_client_conf cc = { .host = path };
    assert_ok(grpc_client_new(w->l, &cc, &client, &e));
    assert_ok(grpc_client_call(client, "/SpiffeWorkloadAPI/FetchX509SVID", security, span_str(""),
                               0, &answer, NULL, &e));
    run_until(w, was_pushed);
    uint64_t from = mono_ms();
    push(w, 6, wide, w->signer, 0);
    run_until(w, two_roots);
    assert_int_equal(w->pushes_n, 2);
    assert_int_equal(last_word(w)->generation, 6);
    /* the loop reads the time once a turn, from a coarse clock: a few ms less are no less waiting
     */
    assert_true(last_word(w)->at_ms - from + 50 >= WORKLOAD_SETTLE_MS);
    grpc_client_free(client);
    roots_unref(wide);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(first_leaf_is_used_and_said),
        T(bad_answers_are_never_used),
        T(a_busy_ca_is_asked_again),
        T(who_is_told_when_comes_back_then),
        T(wider_trust_set_is_used_and_said_with_the_same_leaf),
        T(an_older_answer_is_put_aside_whole),
        T(a_moved_signer_is_followed_within_the_window),
        T(an_empty_trust_set_is_refused),
        T(cve_30_a_bad_list_blocks_neither_key_nor_root),
        T(cve_30_a_bad_list_on_disk_blocks_no_key),
        T(a_new_signer_s_list_goes_ahead_of_its_leaves),
        T(a_word_that_is_not_taken_is_said_again),
        T(after_an_outage_it_watches_and_says_it_again),
        T(wrong_settings),
        T(a_set_that_cannot_be_written_is_not_used),
        T(the_word_waits_for_workloads),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
