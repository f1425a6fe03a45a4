/* test_evidence.c - what a replica tells its readers, over TLS, from server to client.
 *
 * What the gates of a rotation believe: whole snapshots, from a generation on of which nothing
 * older is left, and nothing at all once the replica is lost.
 */
#include "service_kit.h"

#include "ca/evidence.h"

static const char evidence_path[] = "/meshroot.v1.Evidence/Watch";

/* -- the fleet that the ledger tells of; read by the worker -- */

static atomic_uint fleet_n;
static atomic_uint fleet_ids; /* distinct roots and signers of each */

static void
fleet(ledger_workload_fn *fn, void *arg)
{
    uint8_t ids[EVIDENCE_IDS_MAX + 1][DIGEST_BYTES] = { { 3 }, { 4 } };
    unsigned n = atomic_load(&fleet_n);
    uint64_t generations[EVIDENCE_IDS_MAX + 1];

    for (unsigned i = 0; i < n; i++) {
        char id[96], inst[INSTANCE_TEXT_BYTES];

        (void)snprintf(id, sizeof(id), "spiffe://cluster.local/ns/ns-%u/sa/workload-%u", i % 500,
                       i);
        (void)snprintf(inst, sizeof(inst), "%032x", i);
        for (unsigned k = 0; k < ARRAY_LEN(generations); k++)
            generations[k] = i + 3 + k;
        const struct ledger_workload w = { .identity = id,
                                           .instance = i % 2 == 0 ? inst : "",
                                           .can_acknowledge = i % 2 == 0,
                                           .ack_generation = i % 2 == 0 ? i : 0,
                                           .ack_roots = (const uint8_t(*)[DIGEST_BYTES])ids,
                                           .ack_roots_n = i % 2 == 0 ? 2 : 0,
                                           .min_row_generation = i + 1,
                                           .leaves_n = 3,
                                           .leaf_roots = (const uint8_t(*)[DIGEST_BYTES])ids,
                                           .leaf_roots_n = atomic_load(&fleet_ids),
                                           .leaf_signers = (const uint8_t(*)[DIGEST_BYTES])ids,
                                           .leaf_signers_n = 1,
                                           .last_not_after = 1800000000 + i,
                                           .said = 1700000000 + i,
                                           .last_issued = 1700000001 + i,
                                           .used_issued = i % 2 == 0 ? 1700000002 + i : 0,
                                           .used_generation = i + 2,
                                           .ended_generation = i % 3,
                                           .leaf_root_generations =
                                               i % 5 == 0 ? NULL : generations };
        fn(&w, arg);
    }
}

/* -- a reader -- */

struct reader {
    struct scene *s;
    struct evidence_client *client;
    char token[96];
    unsigned changes, losses, seen;
    enum err_code code;
    char why[256];
};

static void
on_change(struct evidence_client *c, void *arg)
{
    struct reader *r = arg;

    (void)c;
    r->changes++;
    loop_stop(r->s->loop);
}

static void
on_lost(struct evidence_client *c, const struct err *why, void *arg)
{
    struct reader *r = arg;

    assert_null(evidence_client_loaded(c));
    r->losses++;
    r->code = why->code;
    (void)snprintf(r->why, sizeof(r->why), "%.250s", why->msg);
    loop_stop(r->s->loop);
}

static void
reader_open(struct reader *r, struct scene *s)
{
    struct err e = { 0 };

    *r = (struct reader){ .s = s };
    (void)snprintf(r->token, sizeof(r->token), "%s/token", s->dir);
    assert_ok(file_write(r->token, span_skip(buf_span(&s->token), strlen("Bearer ")), 0600, &e));
    const struct evidence_conf c = { .host = "127.0.0.1",
                                     .port = ca_port(s->ca),
                                     .roots = bundle_roots(s->kit.bundle),
                                     .token_file = r->token,
                                     .on_change = on_change,
                                     .on_lost = on_lost,
                                     .arg = r };
    assert_ok(evidence_client_new(s->loop, &c, &r->client, &e));
    assert_null(evidence_client_loaded(r->client));
}

/* The i-th that is told is the i-th of the fleet. */
static void
on_workload(const struct ledger_workload *w, void *arg)
{
    struct reader *r = arg;
    char id[96];
    unsigned i = r->seen++;

    (void)snprintf(id, sizeof(id), "spiffe://cluster.local/ns/ns-%u/sa/workload-%u", i % 500, i);
    assert_string_equal(w->identity, id);
    assert_int_equal(w->can_acknowledge, i % 2 == 0);
    assert_int_equal(strlen(w->instance), i % 2 == 0 ? 32 : 0);
    assert_int_equal(w->ack_generation, i % 2 == 0 ? i : 0);
    assert_int_equal(w->ack_roots_n, i % 2 == 0 ? 2 : 0);
    assert_int_equal(w->min_row_generation, i + 1);
    assert_int_equal(w->leaves_n, 3);
    assert_int_equal(w->leaf_roots_n, 2);
    assert_int_equal(w->leaf_roots[1][0], 4);
    assert_int_equal(w->leaf_signers_n, 1);
    assert_int_equal(w->leaf_signers[0][0], 3);
    assert_int_equal(w->last_not_after, 1800000000 + (int64_t)i);
    assert_int_equal(w->said, 1700000000 + (int64_t)i);
    assert_int_equal(w->last_issued, 1700000001 + (int64_t)i);
    assert_int_equal(w->used_issued, i % 2 == 0 ? 1700000002 + (int64_t)i : 0);
    assert_int_equal(w->used_generation, i + 2);
    assert_int_equal(w->ended_generation, i % 3);
    if (i % 5 == 0) { /* a replica of before */
        assert_null(w->leaf_root_generations);
        return;
    }
    assert_int_equal(w->leaf_root_generations[0], i + 3);
    assert_int_equal(w->leaf_root_generations[1], i + 4);
}

static unsigned
reader_count(struct reader *r)
{
    r->seen = 0;
    evidence_client_workloads(r->client, on_workload, r);
    return r->seen;
}

static int
setup_reader(void **state)
{
    evidence_readers_n = 1;
    int r = setup(state);

    evidence_readers_n = 0;
    atomic_store(&fleet_n, 0);
    atomic_store(&fleet_ids, 2);
    fake.workloads = fleet;
    return r;
}

static int
setup_ageing(void **state)
{
    max_connection_age_ms = 200;
    int r = setup_reader(state);

    max_connection_age_ms = 0;
    return r;
}

/* -- promises -- */

static void
what_is_loaded_and_a_fleet_of_ten_thousand(void **state)
{
    struct scene *s = *state;
    struct reader r;

    atomic_store(&fleet_n, 10000);
    reader_open(&r, s);
    run(s);
    const struct evidence_loaded *l = evidence_client_loaded(r.client);
    assert_non_null(l);
    assert_string_equal(l->replica, "ca-0");
    assert_int_equal(l->generation, 41);
    assert_int_equal(l->roots_n, 1);
    assert_memory_equal(l->roots[0], cert_id(s->kit.root), DIGEST_BYTES);
    assert_memory_equal(l->signer_id, cert_id(s->kit.ca), DIGEST_BYTES);
    assert_memory_equal(l->ledger_id, "sixteen bytes it", LEDGER_ID_BYTES);
    assert_int_equal(reader_count(&r), 10000);
    assert_int_equal(r.losses, 0);
    evidence_client_free(r.client);
}

/* A word is news, and what the ledger says then is told. */
static void
a_change_is_told(void **state)
{
    struct scene *s = *state;
    struct reader r;

    reader_open(&r, s);
    run(s);
    assert_int_equal(reader_count(&r), 0);
    atomic_store(&fleet_n, 5);
    ca_evidence(s->ca);
    run(s);
    assert_int_equal(r.changes, 2);
    assert_int_equal(reader_count(&r), 5);
    evidence_client_free(r.client);
}

/* Whoever is not named by the flag is not told anything. */
static void
others_are_refused(void **state)
{
    struct scene *s = *state;
    struct reader r;

    call(s, evidence_path, span_str(""));
    assert_int_equal(s->code, GRPC_PERMISSION_DENIED);
    assert_int_equal(s->messages_n, 0);
    assert_int_equal((int)metric_value(s->metrics, "meshroot_ca_auth_failures_total",
                                       "reason=\"evidence_reader\""),
                     1);
    reader_open(&r, s);
    run(s);
    assert_int_equal(r.losses, 1);
    assert_int_equal(r.code, E_DENIED);
    assert_non_null(strstr(r.why, "PERMISSION_DENIED"));
    assert_int_equal(r.changes, 0);
    evidence_client_free(r.client);
}

/* Rules 2 and 3: while a call of the former set may still write its row, the new one is not said.
 */
static void
a_generation_is_told_when_nothing_older_is_left(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);
    struct set_manifest m = { .generation = 42 };
    struct reader r;
    struct err e = { 0 };

    reader_open(&r, s);
    run(s);
    request(s, &q);
    fake.hold = true;
    start(s, create, buf_span(&q), NULL);
    for (int i = 0; i < 20000 && atomic_load(&fake.calls) == 0; i++)
        turn(s);
    assert_ok(set_write(s->ca_dir, s->kit.bundle, &m, &e));
    ca_poke(s->ca);
    for (int i = 0; i < 20000 && ca_generation(s->ca) != 42; i++)
        turn(s);
    assert_int_equal(ca_generation(s->ca), 42);
    atomic_store(&fleet_n, 1);
    ca_evidence(s->ca);
    run(s); /* a newer snapshot, of the old generation */
    assert_int_equal(reader_count(&r), 1);
    assert_int_equal(evidence_client_loaded(r.client)->generation, 41);
    assert_int_equal(s->loaded, 41);
    assert_ok(loop_post(fake.held->loop, answer_now, fake.held, &e));
    fake.hold = false;
    for (int i = 0; i < 5 && evidence_client_loaded(r.client)->generation != 42; i++)
        run(s);
    assert_int_equal(evidence_client_loaded(r.client)->generation, 42);
    assert_int_equal(s->loaded, 42);
    evidence_client_free(r.client);
}

/* A connection that is ended for its age loses nothing: another takes its place. */
static void
a_connection_of_age_is_no_loss(void **state)
{
    struct scene *s = *state;
    struct reader r;

    atomic_store(&fleet_n, 3);
    reader_open(&r, s);
    for (int i = 0; i < 5; i++) { /* one snapshot, or more, for each connection */
        run(s);
        assert_int_equal(reader_count(&r), 3);
    }
    assert_int_equal(r.losses, 0);
    evidence_client_free(r.client);
}

/* Nothing is known of a replica that has gone, and all of it again when it is back. */
static void
a_lost_replica_is_not_known(void **state)
{
    struct scene *s = *state;
    struct reader r;

    atomic_store(&fleet_n, 3);
    reader_open(&r, s);
    run(s);
    assert_int_equal(reader_count(&r), 3);
    ca_free(s->ca);
    s->ca = NULL;
    while (r.losses == 0)
        run(s);
    assert_null(evidence_client_loaded(r.client));
    assert_int_equal(reader_count(&r), 0);
    assert_int_equal(r.code, E_PEER);
    evidence_client_free(r.client);
}

/* What cannot be told whole is not told: the reader knows nothing. */
static void
a_workload_beyond_the_bounds_ends_the_stream(void **state)
{
    struct scene *s = *state;
    struct reader r;

    atomic_store(&fleet_n, 1);
    atomic_store(&fleet_ids, EVIDENCE_IDS_MAX + 1);
    reader_open(&r, s);
    run(s);
    assert_int_equal(r.losses, 1);
    assert_non_null(strstr(r.why, "RESOURCE_EXHAUSTED"));
    assert_null(evidence_client_loaded(r.client));
    evidence_client_free(r.client);
}

static void
streams_are_few(void **state)
{
    struct scene *s = *state;
    struct grpc_request *open[EVIDENCE_STREAMS_MAX];

    for (size_t i = 0; i < EVIDENCE_STREAMS_MAX; i++) {
        start(s, evidence_path, span_str(""), &open[i]);
        for (int k = 0; k < 20000 && s->messages_n == 0; k++)
            turn(s);
        assert_int_equal(s->messages_n, 1);
    }
    call(s, evidence_path, span_str(""));
    assert_int_equal(s->code, GRPC_RESOURCE_EXHAUSTED);
    grpc_cancel(open[0]);
    run(s);
    assert_int_equal(s->code, GRPC_CANCELLED);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
#define READER(f) cmocka_unit_test_setup_teardown(f, setup_reader, teardown)
    const struct CMUnitTest tests[] = {
        READER(what_is_loaded_and_a_fleet_of_ten_thousand),
        READER(a_change_is_told),
        cmocka_unit_test_setup_teardown(others_are_refused, setup, teardown),
        READER(a_generation_is_told_when_nothing_older_is_left),
        cmocka_unit_test_setup_teardown(a_connection_of_age_is_no_loss, setup_ageing, teardown),
        READER(a_lost_replica_is_not_known),
        READER(a_workload_beyond_the_bounds_ends_the_stream),
        READER(streams_are_few),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
