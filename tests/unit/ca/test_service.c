/* test_service.c - a whole CA in this process, called over TLS, with a ledger that fails on demand.
 *
 * Invariant 3: whatever the ledger does, no leaf comes out without its row.
 */
#include "service_kit.h"

/* -- the lint: the product's own, over a leaf with one bit turned where the test wants that -- */

int __real_leaf_lint(const struct leaf_template *t, const struct leaf_request *q, struct span der,
                     struct err *e);
int __wrap_leaf_lint(const struct leaf_template *t, const struct leaf_request *q, struct span der,
                     struct err *e);
int
__wrap_leaf_lint(const struct leaf_template *t, const struct leaf_request *q, struct span der,
                 struct err *e)
{
    uint8_t hurt[LEAF_MAX_BYTES];

    if (!leaf_is_hurt)
        return __real_leaf_lint(t, q, der, e);
    memcpy(hurt, der.p, der.n);
    hurt[der.n / 2] ^= 1;
    return __real_leaf_lint(t, q, span_of(hurt, der.n), e);
}

/* -- calls from loop to loop: the product's own, or no memory for one -- */

static struct loop *_Atomic no_memory_for; /* the next post there fails */

int __real_loop_post(struct loop *l, loop_fn *fn, void *arg, struct err *e);
int __wrap_loop_post(struct loop *l, loop_fn *fn, void *arg, struct err *e);
int
__wrap_loop_post(struct loop *l, loop_fn *fn, void *arg, struct err *e)
{
    if (no_memory_for == NULL || l != no_memory_for)
        return __real_loop_post(l, fn, arg, e);
    no_memory_for = NULL;
    return err_nomem(e);
}

/* -- promises -- */

static void
row_and_answer_are_of_one_leaf(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);
    struct cert *leaf;
    size_t n;
    struct err e = { 0 };

    assert_int_equal(s->loaded, 41);
    request(s, &q);
    call(s, create, buf_span(&q));
    assert_int_equal(s->code, GRPC_OK);
    assert_string_equal(s->generation, "41");
    Istio__V1__Auth__IstioCertificateResponse *m =
        istio__v1__auth__istio_certificate_response__unpack(NULL, s->answer.n, s->answer.p);
    assert_non_null(m);
    assert_int_equal(m->n_cert_chain, 3);
    assert_ok(certs_from_pem(span_str(m->cert_chain[0]), &leaf, 1, &n, &e));
    istio__v1__auth__istio_certificate_response__free_unpacked(m, NULL);
    assert_true(span_eq(cert_serial(leaf), span_of(fake.row.serial, fake.row.serial_n)));
    assert_int_equal(cert_not_after(leaf), fake.row.not_after);
    assert_int_equal(cert_not_before(leaf), fake.row.not_before);
    cert_unref(leaf);
    assert_string_equal(fake.row.identity, identity);
    assert_string_equal(fake.row.instance, instance);
    assert_string_equal(fake.row.auth, "jwt:j");
    assert_int_equal(fake.row.generation, 41);
    assert_memory_equal(fake.row.signer_id, cert_id(s->kit.ca), DIGEST_BYTES);
    assert_memory_equal(fake.row.root_id, cert_id(s->kit.root), DIGEST_BYTES);
}

static void
a_leaf_that_fails_its_lint_is_not_issued(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);

    request(s, &q);
    leaf_is_hurt = true;
    call(s, create, buf_span(&q));
    assert_int_equal(s->code, GRPC_INTERNAL);
    assert_non_null(strstr(s->msg, "CSR signing error (leaf lint: "));
    assert_int_equal(s->messages_n, 0);
    assert_int_equal(fake.row.serial_n, 0); /* and no row says that there was one */
    leaf_is_hurt = false;
    call(s, create, buf_span(&q));
    assert_int_equal(s->code, GRPC_OK);
}

static void
invariant_3_no_leaf_without_a_row(void **state)
{
    static const struct {
        const char *what;
        int at_once;
        enum err_code later;
        int code;
    } rows[] = {
        { "the queue is full", -E_LIMIT, E_NONE, GRPC_RESOURCE_EXHAUSTED },
        { "no memory for the row", -E_NOMEM, E_NONE, GRPC_UNAVAILABLE },
        { "the ledger refuses", -E_SYS, E_NONE, GRPC_UNAVAILABLE },
        { "the disk is full at commit", 0, E_SYS, GRPC_UNAVAILABLE },
        { "somebody else wrote", 0, E_CONFLICT, GRPC_UNAVAILABLE },
    };
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);

    request(s, &q);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fake.at_once = rows[i].at_once;
        fake.later = rows[i].later;
        call(s, create, buf_span(&q));
        if (s->code != rows[i].code || s->messages_n != 0)
            fail_msg("%s: %s %s, %zu messages", rows[i].what, grpc_code_name(s->code), s->msg,
                     s->messages_n);
    }
    assert_int_equal(
        (int)metric_value(s->metrics, "citadel_server_success_cert_issuance_count", ""), 0);
    assert_int_equal(s->evidence_n, 0);
}

/* The client hangs up while its row is being written; the row comes, and nobody is there. */
static void
a_client_that_leaves_early(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);
    struct grpc_request *r;
    struct err e = { 0 };

    request(s, &q);
    fake.hold = true;
    start(s, create, buf_span(&q), &r);
    for (int i = 0; i < 20000 && atomic_load(&fake.calls) == 0; i++)
        turn(s);
    assert_int_equal(atomic_load(&fake.calls), 1);
    grpc_cancel(r);
    run(s);
    assert_int_equal(s->code, GRPC_CANCELLED);
    assert_ok(loop_post(fake.held->loop, answer_now, fake.held, &e));
    fake.hold = false;
    call(s, create, buf_span(&q)); /* and the next one is served */
    assert_int_equal(s->code, GRPC_OK);
}

/* One call waits for the ledger, and there is one place: the others are told when to come back, at
 * once, each later than the one before; and they find a place when that one has ended. */
static void
calls_beyond_the_places_are_told_when_to_come_back(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);
    static const uint8_t none[] = { 0x0a, 0 };
    uint64_t ms = 0;
    struct err e = { 0 };

    request(s, &q);
    fake.hold = true;
    start(s, create, buf_span(&q), NULL);
    for (int i = 0; i < 20000 && atomic_load(&fake.calls) == 0; i++)
        turn(s);
    for (size_t i = 0; i < 3; i++) {
        call(s, create, buf_span(&q));
        assert_int_equal(s->code, GRPC_RESOURCE_EXHAUSTED);
        assert_int_equal(s->messages_n, 0);
        assert_ok(u64_parse(span_str(s->pushback), TURNSTILE_BACK_MIN_MS, TURNSTILE_BACK_MAX_MS,
                            &ms, &e));
    }
    assert_int_equal((int)metric_value(s->metrics, "meshroot_ca_told_to_come_back_total", ""), 3);
    call(s, acknowledge, span_of(none, sizeof(none))); /* words have places of their own */
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    assert_ok(loop_post(fake.held->loop, answer_now, fake.held, &e));
    run(s);
    assert_int_equal(s->code, GRPC_OK); /* the one that waited */
    fake.hold = false;
    call(s, create, buf_span(&q));
    assert_int_equal(s->code, GRPC_OK);
    assert_string_equal(s->pushback, "");
}

static void
words_are_recorded_as_said(void **state)
{
    struct scene *s = *state;
    char text[] = "0123456789abcdef0123456789abcdef";
    uint8_t id[DIGEST_BYTES] = { 9 }, serial[] = { 1, 2 }, msg[256];
    ProtobufCBinaryData ids[] = { { sizeof(id), id } };
    Meshroot__V1__Word w = MESHROOT__V1__WORD__INIT;

    w.instance = text;
    w.generation = 7;
    w.n_root_ids = 1;
    w.root_ids = ids;
    w.leaf_serial = (ProtobufCBinaryData){ sizeof(serial), serial };
    call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
    assert_int_equal(s->code, GRPC_OK);
    assert_string_equal(fake.ack.identity, identity);
    assert_string_equal(fake.ack.instance, instance);
    assert_int_equal(fake.ack.generation, 7);
    assert_int_equal(fake.ack.roots_n, 1);
    assert_memory_equal(fake.ack.roots[0], id, sizeof(id));
    assert_int_equal(fake.ack.serial_n, 2);
    assert_int_equal(fake.ack.leaf_generation, 0);
    assert_false(fake.ack.ended);
    w.leaf_generation = 7; /* an agent's trust set is as new as its leaf */
    w.ended = true;
    call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
    assert_int_equal(s->code, GRPC_OK);
    assert_int_equal(fake.ack.leaf_generation, 7);
    assert_true(fake.ack.ended);
    w.leaf_generation = 8;
    call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    w.leaf_generation = 0;

    static const struct {
        int at_once;
        enum err_code later;
        int code;
    } rows[] = {
        { LEDGER_STALE, E_NONE, GRPC_OK },
        { -E_DENIED, E_NONE, GRPC_PERMISSION_DENIED },
        { -E_LIMIT, E_NONE, GRPC_RESOURCE_EXHAUSTED },
        { 0, E_SYS, GRPC_UNAVAILABLE },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fake.at_once = rows[i].at_once;
        fake.later = rows[i].later;
        call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
        assert_int_equal(s->code, rows[i].code);
    }
    text[3] = 'G';
    call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    ids[0].len = 31;
    text[3] = '3';
    call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    call(s, acknowledge, span_str("\x0a\x05x"));
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
}

/* A gate believes what a workload says of a generation; so nobody may speak of one to come, which
 * would open gates that do not exist yet, and make the numbers of plans run out. */
static void
words_about_the_future_are_not_recorded(void **state)
{
    static const uint64_t generations[] = { 42, INT64_MAX, UINT64_MAX - 1, UINT64_MAX };
    struct scene *s = *state;
    char text[] = "0123456789abcdef0123456789abcdef";
    uint8_t msg[256];
    Meshroot__V1__Word w = MESHROOT__V1__WORD__INIT;

    w.instance = text;
    for (size_t i = 0; i < ARRAY_LEN(generations); i++) {
        w.generation = generations[i];
        fake.ack.generation = 0;
        call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
        assert_int_equal(s->code, GRPC_UNAVAILABLE);
        assert_int_equal(fake.ack.generation, 0);
    }
    w.generation = 41;
    call(s, acknowledge, span_of(msg, meshroot__v1__word__pack(&w, msg)));
    assert_int_equal(s->code, GRPC_OK);
    assert_int_equal(fake.ack.generation, 41);
}

static int
setup_drain(void **state, uint64_t ms)
{
    drain_ms = ms;
    int r = setup(state);
    drain_ms = 0;
    return r;
}

static int
setup_short_drain(void **state)
{
    return setup_drain(state, 1);
}

static int
setup_long_drain(void **state)
{
    return setup_drain(state, PATIENCE_MS);
}

static void
a_stop_ends_streams_and_waits_for_rows(void **state)
{
    struct scene *s = *state;

    start(s, watch, span_str(""), NULL);
    for (int i = 0; i < 20000 && s->messages_n == 0; i++)
        turn(s);
    Meshroot__V1__TrustSet *m = meshroot__v1__trust_set__unpack(NULL, s->answer.n, s->answer.p);
    assert_non_null(m);
    assert_int_equal(m->generation, 41);
    assert_int_equal(m->renew_window_ms, 500);
    meshroot__v1__trust_set__free_unpacked(m, NULL);
    uint64_t from = mono_ms();
    ca_free(s->ca);
    s->ca = NULL;
    assert_true(mono_ms() - from < PATIENCE_MS);
    if (s->code < 0)
        run(s);
    assert_int_equal(s->code, GRPC_UNAVAILABLE);
}

/* -- health, and the end of a replica -- */

static int
health(struct scene *s, const char *service)
{
    Grpc__Health__V1__HealthCheckRequest m = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    uint8_t msg[256];

    m.service = (char *)(uintptr_t)service;
    call(s, "/grpc.health.v1.Health/Check",
         span_of(msg, grpc__health__v1__health_check_request__pack(&m, msg)));
    if (s->code != GRPC_OK)
        return -s->code;
    Grpc__Health__V1__HealthCheckResponse *a =
        grpc__health__v1__health_check_response__unpack(NULL, s->answer.n, s->answer.p);
    assert_non_null(a);
    int status = (int)a->status;
    grpc__health__v1__health_check_response__free_unpacked(a, NULL);
    return status;
}

static void
health_is_what_readyz_says(void **state)
{
    enum { SERVING = 1, NOT_SERVING = 2 };
    struct scene *s = *state;

    s->token.n = 0; /* a probe has none */
    s->token.p[0] = '\0';
    assert_int_equal(health(s, ""), SERVING);
    assert_int_equal(health(s, "istio.v1.auth.IstioCertificateService"), SERVING);
    assert_int_equal(health(s, "some.Other"), -GRPC_NOT_FOUND);
    fake.disk_is_full = true;
    assert_int_equal(health(s, ""), NOT_SERVING);
    fake.disk_is_full = false;
    assert_int_equal(health(s, ""), SERVING);
    no_memory_for = s->ca->workers[0].loop;
    assert_int_equal(health(s, ""), SERVING); /* its answer is not lost, nor those to come */
    assert_null(no_memory_for);
    ca_leave(s->ca);
    assert_false(ca_is_ready(s->ca));
    assert_non_null(strstr(ca_why_not_ready(s->ca), "it is stopping"));
    assert_int_equal(health(s, ""), NOT_SERVING);
}

static void
on_drained(void *arg)
{
    struct scene *s = arg;

    s->loaded = 0; /* tells the test */
    loop_stop(s->loop);
}

/* A leaf whose row is on its way to the disk goes out; then the CA has ended, and nobody waits. */
static void
stop_loop(void *arg)
{
    loop_stop(arg);
}

static void
turn_of(struct loop *l)
{
    struct timer *t;
    struct err e = { 0 };

    assert_ok(timer_new(l, stop_loop, l, &t, &e));
    timer_set(t, 1);
    assert_ok(loop_run(l, &e));
    timer_free(t);
}

static bool
is_asked(const struct ca *c)
{
    return __atomic_load_n(&c->workers[0].health_is_asked, __ATOMIC_ACQUIRE);
}

/* A question to the control loop that finds the CA gone: `mesh disable` while somebody probes. */
static void
a_question_that_comes_after_the_end_is_nobodys(void **state)
{
    struct scene *s = *state;
    struct loop *own = s->loop, *other;
    struct grpc_client *client = s->client;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);
    struct tls_conf_args a = { .roots = bundle_roots(s->kit.bundle),
                               .rule = TLS_PEER_NAME,
                               .alpn = "h2" };
    struct tls_conf *tls;
    struct err e = { 0 };

    /* the client turns a loop of its own, so that the CA's control loop stands still */
    assert_ok(loop_new(&other, &e));
    assert_ok(tls_conf_new(&a, &tls, &e));
    struct grpc_client_conf c = { .host = "127.0.0.1", .port = ca_port(s->ca), .tls = tls };
    s->loop = other;
    assert_ok(grpc_client_new(other, &c, &s->client, &e));
    tls_conf_unref(tls);
    request(s, &q);
    start(s, create, buf_span(&q), NULL);
    assert_ok(loop_run(other, &e)); /* needs no control loop */
    assert_int_equal(s->code, GRPC_OK);
    start(s, "/grpc.health.v1.Health/Check", span_str(""), NULL);
    for (int i = 0; i < 60000 && !is_asked(s->ca); i++)
        turn_of(other);
    assert_true(is_asked(s->ca));
    ca_free(STEAL(s->ca));
    grpc_client_free(s->client);
    loop_free(other);
    s->loop = own;
    s->client = client;
    turn(s); /* the question */
    turn(s);
}

static void
a_drain_answers_what_is_under_way(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf q = BUF_INIT(CSR_MAX_BYTES);
    struct err e = { 0 };

    request(s, &q);
    fake.hold = true;
    start(s, create, buf_span(&q), NULL);
    for (int i = 0; i < 20000 && atomic_load(&fake.calls) == 0; i++)
        turn(s);
    ca_drain(s->ca, on_drained, s);
    assert_false(ca_is_ready(s->ca));
    turn(s);
    assert_int_equal(s->code, -1);
    assert_ok(loop_post(fake.held->loop, answer_now, fake.held, &e));
    run(s);
    assert_int_equal(s->code, GRPC_OK);
    assert_int_equal(s->messages_n, 1);
    if (s->loaded != 0)
        run(s);
    assert_int_equal(s->loaded, 0);
}

static void
on_any_loaded(uint64_t generation, const struct roots *roots, const uint8_t id[DIGEST_BYTES],
              void *arg)
{
    struct scene *s = arg;

    (void)roots;
    (void)id;
    s->loaded = generation;
    loop_stop(s->loop);
}

/* A text of the CA's status; "" for null. */
static void
assert_status(const struct ca *c, const char *key, const char *part)
{
    json_t *j = ca_status(c);
    const char *text = json_string_value(json_object_get(j, key));

    if (strstr(text == NULL ? "" : text, part) == NULL)
        fail_msg("%s is \"%s\", not \"%s\"", key, text == NULL ? "" : text, part);
    json_decref(j);
}

static void
self_signed_is_left_by_disabling_only(void **state)
{
    struct scene *s = *state;
    struct ca_conf conf = kit_conf();
    struct set_manifest m = { .generation = 3 };
    char dir[96], own[96];
    struct ca *c;
    struct err e = { 0 };

    (void)snprintf(dir, sizeof(dir), "%s/plugged", s->dir);
    (void)snprintf(own, sizeof(own), "%s/own", s->dir);
    conf.dir = dir;
    conf.self_signed_dir = own;
    conf.listen = "127.0.0.1:0";
    conf.workers = 2;
    conf.who.issuers[0].jwks = s->jwks;
    conf.on_loaded = on_any_loaded;
    conf.arg = s;
    assert_ok(ca_new(s->loop, &conf, &c, &e));
    run(s);
    assert_status(c, "mode", "self-signed");
    assert_ok(set_write(dir, s->kit.bundle, &m, &e));
    ca_poke(c);
    assert_status(c, "mode", "self-signed");
    assert_status(c, "refused", "disable, then enable");
    assert_true(ca_is_ready(c)); /* and goes on as it was */
    tmpdir_remove(own);
    s->loaded = 0;
    ca_poke(c);
    if (s->loaded == 0) /* the workers still held the former view */
        run(s);
    assert_int_equal(s->loaded, 3);
    assert_status(c, "mode", "plugged-in");
    assert_status(c, "refused", "");
    ca_free(c);
}

/* Key and certificate of the listener; a session of before is not resumed after (peers.md 23). */
static void
the_listener_has_a_new_certificate_at_half_life(void **state)
{
    struct scene *s = *state;
    struct ca *c = s->ca;
    CLEANUP(cert_unrefp) struct cert *leaf = cert_ref(c->server.leaf);
    CLEANUP(key_unrefp) struct key *key = key_ref(c->server.key);
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = tls_conf_ref(c->tls);
    int64_t lasts = cert_not_after(leaf) - unix_s();

    assert_in_range(c->server.half_life - unix_s(), lasts / 2 - 65, lasts / 2 + 5);
    ca_tick(c);
    assert_ptr_equal(c->server.leaf, leaf); /* not yet */
    c->server.half_life = unix_s() - 1;
    ca_tick(c);
    assert_memory_not_equal(cert_id(c->server.leaf), cert_id(leaf), DIGEST_BYTES);
    assert_ptr_not_equal(c->server.key, key);
    assert_false(cert_key_matches(c->server.leaf, key));
    assert_ptr_not_equal(c->tls, tls);
    assert_true(c->server.half_life > unix_s());
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
#define SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        SCENE(row_and_answer_are_of_one_leaf),
        SCENE(a_leaf_that_fails_its_lint_is_not_issued),
        SCENE(invariant_3_no_leaf_without_a_row),
        SCENE(a_client_that_leaves_early),
        cmocka_unit_test_setup_teardown(calls_beyond_the_places_are_told_when_to_come_back,
                                        setup_narrow, teardown),
        SCENE(words_are_recorded_as_said),
        SCENE(words_about_the_future_are_not_recorded),
        cmocka_unit_test_setup_teardown(a_stop_ends_streams_and_waits_for_rows, setup_long_drain,
                                        teardown),
        SCENE(health_is_what_readyz_says),
        cmocka_unit_test_setup_teardown(a_question_that_comes_after_the_end_is_nobodys,
                                        setup_short_drain, teardown),
        cmocka_unit_test_setup_teardown(a_drain_answers_what_is_under_way, setup_long_drain,
                                        teardown),
        SCENE(self_signed_is_left_by_disabling_only),
        SCENE(the_listener_has_a_new_certificate_at_half_life),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
