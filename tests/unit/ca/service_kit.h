/* service_kit.h - a whole CA in this process, called over TLS, with a ledger that does what the
 * test says. The functions of the ledger here take the place of the room's own.
 */
#ifndef TESTS_CA_SERVICE_KIT_H
#define TESTS_CA_SERVICE_KIT_H

#include "kit.h"

#include <inttypes.h>

#include "../tmpdir.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "ca/turnstile.h"
#include "ca/wire.h"
#include "health.pb-c.h"
#include "istio_ca.pb-c.h"
#include "meshroot.pb-c.h"

static const char create[] = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
static const char acknowledge[] = "/meshroot.v1.Trust/Acknowledge";
static const char watch[] = "/meshroot.v1.Trust/Watch";
static const char identity[] = "spiffe://cluster.local/ns/shop/sa/cart";
static const char instance[] = "0123456789abcdef0123456789abcdef";

enum { PATIENCE_MS = 60 * 1000 };

static bool leaf_is_hurt; /* see test_service.c */

/* -- the ledger -- */

static struct {
    int at_once;         /* what the call itself returns; 0 asynchronous */
    enum err_code later; /* what done gets */
    bool hold;           /* done is called by ledger_let_go only */
    bool disk_is_full;
    struct ledger_row row;
    struct ledger_ack ack;
    struct held {
        struct loop *loop;
        ledger_done_fn *done;
        void *arg;
    } * held; /* freed when it is answered */
    atomic_int calls;
    void (*workloads)(ledger_workload_fn *fn, void *arg); /* NULL: none */
} fake;

static void
answer_now(void *arg)
{
    struct err e = { .code = fake.later, .msg = "the disk is full" };
    struct held *h = arg;

    h->done(&e, h->arg);
    free(h);
}

static int
take(struct loop *loop, ledger_done_fn *done, void *arg, struct err *e)
{
    if (fake.at_once < 0)
        return err_set(e, (enum err_code) - fake.at_once, "not now");
    if (fake.at_once > 0)
        return fake.at_once;
    struct held *h = malloc(sizeof(*h));
    if (h == NULL)
        return err_nomem(e);
    *h = (struct held){ loop, done, arg };
    if (!fake.hold)
        return loop_post(loop, answer_now, h, e);
    fake.held = h;
    (void)atomic_fetch_add(&fake.calls, 1); /* tells the test that `held` is there */
    return 0;
}

int
ledger_append(struct ledger *l, const struct ledger_row *row, struct loop *loop,
              ledger_done_fn *done, void *arg, struct err *e)
{
    (void)l;
    fake.row = *row;
    return take(loop, done, arg, e);
}

const uint8_t *
ledger_id(const struct ledger *l)
{
    (void)l;
    return (const uint8_t *)"sixteen bytes it";
}

int
ledger_acknowledge(struct ledger *l, const struct ledger_ack *a, struct loop *loop,
                   ledger_done_fn *done, void *arg, struct err *e)
{
    (void)l;
    fake.ack = *a;
    return take(loop, done, arg, e);
}

int
ledger_note_issuers(struct ledger *l, const struct bundle *b, struct err *e)
{
    (void)l;
    (void)b;
    return err_set(e, E_LIMIT, "too many writes wait");
}

int
ledger_health(struct ledger *l, struct err *e)
{
    (void)l;
    return fake.disk_is_full ? err_set(e, E_SYS, "meshroot.db: no space left on device") : 0;
}

void
ledger_workloads_said(struct ledger *l, ledger_workload_fn *fn, void *arg)
{
    (void)l;
    if (fake.workloads != NULL)
        fake.workloads(fn, arg);
}

uint64_t
ledger_leaves(struct ledger *l, const char *of, ledger_leaf_fn *fn, void *arg)
{
    (void)l;
    (void)of;
    (void)fn;
    (void)arg;
    return 0;
}

int
ledger_rows(struct ledger *l, uint64_t before, size_t limit, ledger_row_fn *fn, void *arg,
            struct err *e)
{
    (void)l;
    (void)before;
    (void)limit;
    (void)fn;
    (void)arg;
    return err_set(e, E_SYS, "no rows here");
}

/* -- the scene -- */

struct scene {
    char dir[64], ca_dir[80], jwks[80];
    struct loop *loop;
    struct kit kit;
    struct metrics *metrics;
    struct ca *ca;
    struct grpc_client *client;
    struct timer *patience, *turn;
    struct buf token, csr;
    size_t evidence_n;
    uint64_t loaded;
    /* the last call */
    int code;
    char msg[256], generation[24];
    char pushback[24]; /* of the last answer */
    struct buf answer;
    size_t messages_n;
};

static void
on_loaded(uint64_t generation, const struct roots *roots, const uint8_t id[DIGEST_BYTES], void *arg)
{
    struct scene *s = arg;

    assert_int_equal(roots_count(roots), 1);
    assert_memory_equal(id, cert_id(s->kit.ca), DIGEST_BYTES);
    s->loaded = generation;
    loop_stop(s->loop);
}

static void
on_evidence(void *arg)
{
    struct scene *s = arg;

    s->evidence_n++;
}

static void
out_of_patience(void *arg)
{
    (void)arg;
    fail_msg("nothing happened for 60 s");
}

static inline void
run(struct scene *s)
{
    struct err e = { 0 };

    timer_set(s->patience, PATIENCE_MS);
    assert_ok(loop_run(s->loop, &e));
    timer_stop(s->patience);
}

static void
on_turn(void *arg)
{
    struct scene *s = arg;

    loop_stop(s->loop);
}

/* A millisecond of our own loop. */
static inline void
turn(struct scene *s)
{
    struct err e = { 0 };

    timer_set(s->turn, 1);
    assert_ok(loop_run(s->loop, &e));
}

static uint64_t max_connection_age_ms, drain_ms;
static size_t serving_accounts_n;
static size_t evidence_readers_n; /* of the CA that setup makes */
static size_t narrow_places;      /* of the CA that setup makes; 0: as usual */

static void
ca_open(struct scene *s)
{
    struct ca_conf conf = kit_conf();
    struct tls_conf_args a = { .roots = bundle_roots(s->kit.bundle),
                               .rule = TLS_PEER_NAME,
                               .alpn = "h2" };
    struct tls_conf *tls;
    struct err e = { 0 };

    conf.dir = s->ca_dir;
    conf.listen = "127.0.0.1:0";
    conf.workers = 1;
    conf.max_waiting = narrow_places;
    conf.who.issuers[0].jwks = s->jwks;
    conf.metrics = s->metrics;
    conf.replica = "ca-0";
    conf.max_connection_age_ms = max_connection_age_ms;
    conf.drain_ms = drain_ms;
    conf.who.evidence_readers[0] = "shop/cart";
    conf.who.evidence_readers_n = evidence_readers_n;
    conf.who.serving_accounts[0] = "shop/cart";
    conf.who.serving_accounts_n = serving_accounts_n;
    conf.who.serving_names[0] = "istiod.istio-system.svc";
    conf.who.serving_names[1] = "istiod-asm-1-17.aks-istio-system.svc";
    conf.who.serving_names_n = 2;
    conf.on_loaded = on_loaded;
    conf.on_evidence = on_evidence;
    conf.arg = s;
    assert_ok(ca_new(s->loop, &conf, &s->ca, &e));
    assert_false(ca_is_ready(s->ca));
    assert_non_null(strstr(ca_why_not_ready(s->ca), "no usable set"));
    run(s);
    assert_true(ca_is_ready(s->ca));
    fake.disk_is_full = true;
    assert_false(ca_is_ready(s->ca));
    assert_non_null(strstr(ca_why_not_ready(s->ca), "no space left on device\n"));
    fake.disk_is_full = false;
    assert_true(ca_is_ready(s->ca));
    assert_ok(tls_conf_new(&a, &tls, &e));
    struct grpc_client_conf c = { .host = "127.0.0.1", .port = ca_port(s->ca), .tls = tls };
    assert_ok(grpc_client_new(s->loop, &c, &s->client, &e));
    tls_conf_unref(tls);
}

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    CLEANUP(buf_done) struct buf keys = BUF_INIT(8192), claims = BUF_INIT(1024);
    struct set_manifest m = { .generation = 41, .renew_window_ms = 500 };
    struct err e = { 0 };

    assert_non_null(s);
    *state = s;
    memset(&fake, 0, sizeof(fake));
    leaf_is_hurt = false;
    tmpdir_make(s->dir);
    (void)snprintf(s->ca_dir, sizeof(s->ca_dir), "%s/ca", s->dir);
    (void)snprintf(s->jwks, sizeof(s->jwks), "%s/jwks", s->dir);
    s->token = BUF_INIT(8192);
    s->csr = BUF_INIT(CSR_MAX_BYTES);
    s->answer = BUF_INIT(1024 * 1024);
    kit_make(&s->kit, "A", 365);
    assert_ok(set_write(s->ca_dir, s->kit.bundle, &m, &e));
    assert_ok(jwks_of_key(s->kit.root_key, "k", &keys, &e));
    assert_ok(file_write(s->jwks, buf_span(&keys), 0600, &e));
    assert_ok(buf_addf(&claims, &e,
                       "{\"iss\":\"https://issuer.test\",\"aud\":\"istio-ca\",\"jti\":\"j\","
                       "\"sub\":\"system:serviceaccount:shop:cart\",\"exp\":%" PRId64 "}",
                       unix_s() + 600));
    assert_ok(buf_add_str(&s->token, "Bearer ", &e));
    assert_ok(jwt_sign(s->kit.root_key, "k", false, buf_span(&claims), &s->token, &e));
    assert_ok(csr_make(s->kit.ca_key, "spiffe://ignored/ns/a/sa/b", &s->csr, &e));
    assert_ok(metrics_new(&s->metrics, &e));
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(timer_new(s->loop, out_of_patience, NULL, &s->patience, &e));
    assert_ok(timer_new(s->loop, on_turn, s, &s->turn, &e));
    ca_open(s);
    return 0;
}

static inline int
setup_narrow(void **state)
{
    narrow_places = 1;
    int r = setup(state);
    narrow_places = 0;
    return r;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    grpc_client_free(s->client);
    ca_free(s->ca);
    timer_free(s->patience);
    timer_free(s->turn);
    loop_free(s->loop);
    metrics_free(s->metrics);
    kit_done(&s->kit);
    buf_done(&s->token);
    buf_done(&s->csr);
    buf_done(&s->answer);
    tmpdir_remove(s->dir);
    free(s);
    return 0;
}

static void
on_message(struct span msg, void *arg)
{
    struct scene *s = arg;
    struct err e = { 0 };

    s->messages_n++;
    assert_ok(buf_add(&s->answer, msg, &e));
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct scene *s = arg;

    s->code = code;
    (void)snprintf(s->msg, sizeof(s->msg), "%s", msg == NULL ? "" : msg);
    (void)snprintf(s->generation, sizeof(s->generation), "%.*s",
                   SPAN_ARG(grpc_answer_trailer(q, "meshroot-generation")));
    (void)snprintf(s->pushback, sizeof(s->pushback), "%.*s",
                   SPAN_ARG(grpc_answer_trailer(q, "grpc-retry-pushback-ms")));
    loop_stop(s->loop);
}

static inline void
start(struct scene *s, const char *path, struct span msg, struct grpc_request **ret)
{
    const struct grpc_header_kv headers[] = { { "authorization", buf_text(&s->token) },
                                              { "meshroot-instance", instance },
                                              { NULL, NULL } };
    const struct grpc_answer answer = { on_message, on_done, s };
    struct err e = { 0 };

    s->answer.n = s->messages_n = 0;
    s->code = -1;
    assert_ok(grpc_client_call(s->client, path, headers, msg, PATIENCE_MS, &answer, ret, &e));
}

static inline void
call(struct scene *s, const char *path, struct span msg)
{
    start(s, path, msg, NULL);
    run(s);
}

static inline void
request(const struct scene *s, struct buf *b)
{
    struct err e = { 0 };

    assert_ok(wire_answer_add(b, buf_span(&s->csr), &e)); /* field 1 of both messages */
}

#endif
