/* test_admit.c - whatever a check of the caller fails with, nothing is signed (peers.md 5a 1,
 * CVE-2025-44005), and what the caller is told fits (specs/istio-ca.md 1.5, 1.7).
 *
 * The functions that begin with __wrap_ take the place of the real ones by the linker's --wrap.
 */
#include "kit.h"

#include <inttypes.h>

#include "base/clock.h"
#include "ca/wire.h"

/* -- faults: one function fails at a time -- */

enum fault {
    NONE,
    JWT_VERIFY,
    JWT_WORKLOAD,
    BOUND,
    NODE_RULE,
    SPIFFE,
    WIRE,
    REVIEW,
    CSR,
    FAULT__N
};
enum { UNDOCUMENTED = -1000, FORGOTTEN = -1001 }; /* r == 1; a failure that says nothing */

static struct {
    enum fault at;
    int code; /* enum err_code, or one of the two above */
    size_t hits, signed_n, finished_n;
    int finish_code;
    char words[256];
    struct span authorization;
    const struct tls_peer *peer;
} now;

static int
broken(struct err *e)
{
    now.hits++;
    e->code = E_NONE;
    if (now.code == UNDOCUMENTED)
        return 1;
    return now.code == FORGOTTEN ? -1 : err_set(e, (enum err_code)now.code, "broken on purpose");
}

#define WRAP(fault, name, params, args)                                                            \
    int __real_##name params;                                                                      \
    int __wrap_##name params;                                                                      \
    int __wrap_##name params                                                                       \
    {                                                                                              \
        return now.at == (fault) ? broken(e) : __real_##name args;                                 \
    }
WRAP(JWT_VERIFY, jwt_verify,
     (const struct jwks *k, struct span t, const struct jwt_rule *r, struct jwt_claims *c,
      const char **reason, struct err *e),
     (k, t, r, c, reason, e))
WRAP(JWT_WORKLOAD, jwt_workload,
     (const struct jwt_claims *c, const char *td, struct spiffe_id *id, struct err *e),
     (c, td, id, e))
WRAP(BOUND, cluster_check_bound,
     (const struct cluster *c, const struct jwt_claims *t, const char **reason, struct err *e),
     (c, t, reason, e))
WRAP(NODE_RULE, node_rule_check,
     (const struct node_rule *r, const struct node_proxy *p, struct span w, struct spiffe_id *id,
      struct err *e),
     (r, p, w, id, e))
WRAP(SPIFFE, spiffe_parse, (struct span s, struct spiffe_id *id, struct err *e), (s, id, e))
WRAP(WIRE, wire_request_read, (struct span m, struct wire_request *q, struct err *e), (m, q, e))
WRAP(REVIEW, ca_review, (struct ca * c, struct ca_ask *q, struct err *e), (c, q, e))
WRAP(CSR, csr_from_pem, (struct span s, struct buf *b, struct err *e), (s, b, e))

/* -- the call, without a network, and the signer, which only counts -- */

void __wrap_signer_sign(struct signer_lane *l, struct signer *s, struct span tbs,
                        signer_done_fn *done, void *arg);
void
__wrap_signer_sign(struct signer_lane *l, struct signer *s, struct span tbs, signer_done_fn *done,
                   void *arg)
{
    struct err e;

    (void)l;
    (void)s;
    (void)tbs;
    now.signed_n++;
    (void)err_set(&e, E_PEER, "this test has no signer");
    done((struct span){ NULL, 0 }, &e, arg);
}

size_t __wrap_grpc_connection_calls(const struct grpc_call *c);
size_t
__wrap_grpc_connection_calls(const struct grpc_call *c)
{
    (void)c;
    return 1;
}

struct span __wrap_grpc_header(const struct grpc_call *c, const char *name);
struct span
__wrap_grpc_header(const struct grpc_call *c, const char *name)
{
    (void)c;
    return strcmp(name, "authorization") == 0 ? now.authorization : (struct span){ NULL, 0 };
}

const struct tls_peer *__wrap_grpc_peer(const struct grpc_call *c);
const struct tls_peer *
__wrap_grpc_peer(const struct grpc_call *c)
{
    (void)c;
    return now.peer;
}

const char *__wrap_grpc_peer_addr(const struct grpc_call *c);
const char *
__wrap_grpc_peer_addr(const struct grpc_call *c)
{
    (void)c;
    return "test";
}

void __wrap_grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg);
void
__wrap_grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg)
{
    (void)c;
    (void)fn;
    (void)arg;
}

void __wrap_grpc_finish(struct grpc_call *c, int code, const char *msg);
void
__wrap_grpc_finish(struct grpc_call *c, int code, const char *msg)
{
    (void)c;
    now.finished_n++;
    now.finish_code = code;
    (void)snprintf(now.words, sizeof(now.words), "%s", msg == NULL ? "" : msg);
}

/* -- the scene -- */

static int
pod(void *self, const char *ns, const char *name, struct cluster_pod *ret, struct err *e)
{
    (void)self;
    (void)e;
    *ret = (struct cluster_pod){ .node = "n1", .uid = "u" };
    (void)snprintf(ret->ns, sizeof(ret->ns), "%s", ns);
    (void)snprintf(ret->name, sizeof(ret->name), "%s", name);
    (void)snprintf(ret->sa, sizeof(ret->sa), "cart");
    return 0;
}

static int
account(void *self, const char *ns, const char *name, struct cluster_account *ret, struct err *e)
{
    (void)self;
    (void)ns;
    (void)name;
    (void)e;
    *ret = (struct cluster_account){ .uid = "u" };
    return 0;
}

static int
runs_on(void *self, const char *node, const char *ns, const char *sa, struct err *e)
{
    (void)self;
    (void)node;
    (void)ns;
    (void)sa;
    (void)e;
    return 0;
}

static const struct cluster cluster = { pod, account, runs_on, NULL };

struct scene {
    struct kit kit;
    struct ca ca;
    struct ca_worker worker;
    struct tls_peer peer;
    struct buf bound, other, plain, proxy; /* headers and messages */
};

static void
token(const struct key *k, const char *issuer, struct buf *out)
{
    CLEANUP(buf_done) struct buf claims = BUF_INIT(2048);
    struct err e = { 0 };

    *out = BUF_INIT(8192);
    assert_ok(
        buf_addf(&claims, &e,
                 "{\"iss\":\"%s\",\"aud\":\"istio-ca\",\"exp\":%" PRId64
                 ",\"sub\":\"system:serviceaccount:shop:cart\",\"kubernetes.io\":{"
                 "\"namespace\":\"shop\",\"serviceaccount\":{\"name\":\"cart\",\"uid\":\"u\"},"
                 "\"pod\":{\"name\":\"cart-1\",\"uid\":\"u\"}}}",
                 issuer, unix_s() + 600));
    assert_ok(buf_add_str(out, "Bearer ", &e));
    assert_ok(jwt_sign(k, "k", false, buf_span(&claims), out, &e));
}

static int
setup(void **state)
{
    static const char asks[] = "\x22\x40\x0a\x3e\x0a\x14ImpersonatedIdentity\x12\x26\x1a\x24spiffe:"
                               "//cluster.local/ns/a/sa/bcdef";
    struct scene *s = calloc(1, sizeof(*s));
    CLEANUP(buf_done) struct buf set = BUF_INIT(8192), csr = BUF_INIT(CSR_MAX_BYTES);
    struct jwks *keys;
    struct err e = { 0 };

    assert_non_null(s);
    *state = s;
    memset(&now, 0, sizeof(now));
    kit_make(&s->kit, "A", 365);
    assert_ok(jwks_of_key(s->kit.root_key, "k", &set, &e));
    assert_ok(jwks_from_json(buf_span(&set), &keys, &e));
    s->ca.conf = kit_conf();
    s->ca.conf.who.cluster = &cluster;
    s->ca.conf.who.node_accounts[0] = "shop/cart";
    s->ca.conf.who.node_accounts_n = 1;
    s->ca.conf.who.token_review = true;
    s->ca.loop = s->kit.loop;
    s->worker =
        (struct ca_worker){ .ca = &s->ca, .loop = s->kit.loop, .view = kit_view(&s->kit, 1, keys) };
    jwks_unref(keys);
    token(s->kit.root_key, "https://issuer.test", &s->bound);
    token(s->kit.root_key, "https://other.test", &s->other);
    s->plain = BUF_INIT(8192);
    s->proxy = BUF_INIT(8192);
    assert_ok(csr_make(s->kit.ca_key, "spiffe://ignored/ns/a/sa/b", &csr, &e));
    assert_ok(wire_answer_add(&s->plain, buf_span(&csr), &e));
    assert_ok(buf_add(&s->proxy, buf_span(&s->plain), &e));
    assert_ok(buf_add(&s->proxy, span_of(asks, sizeof(asks) - 1), &e));
    s->peer.leaf =
        kit_leaf(&s->kit, "spiffe://cluster.local/ns/shop/sa/cart", unix_s() - 60, unix_s() + 60);
    assert_int_equal(cert_spiffe_uri(s->peer.leaf, &s->peer.uri, &e), 0);
    memcpy(s->peer.root_id, cert_id(s->kit.root), DIGEST_BYTES);
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    ca_issues_free(&s->worker);
    cert_unref(s->peer.leaf);
    ca_view_unref(s->worker.view);
    kit_done(&s->kit);
    buf_done(&s->bound);
    buf_done(&s->other);
    buf_done(&s->plain);
    buf_done(&s->proxy);
    free(s);
    return 0;
}

enum way { BY_TOKEN, BY_CERTIFICATE, BY_REVIEW, AS_PROXY };

static void
call(struct scene *s, enum way way, enum fault at, int code)
{
    static const struct ca_method m = { CA_QUEUE_LEAVES, "CreateCertificate",
                                        ca_create_certificate };
    static char nobody; /* what stands for the call: only its address counts */

    now.at = at;
    now.code = code;
    now.hits = now.signed_n = now.finished_n = 0;
    now.authorization = way == BY_CERTIFICATE ? (struct span){ NULL, 0 }
                                              : buf_span(way == BY_REVIEW ? &s->other : &s->bound);
    now.peer = way == BY_CERTIFICATE ? &s->peer : NULL;
    ca_admit(&s->worker, (struct grpc_call *)(void *)&nobody,
             buf_span(way == AS_PROXY ? &s->proxy : &s->plain), &m);
}

static bool
is_final(int code)
{
    return code == E_AUTH || code == E_DENIED;
}

static void
peers_5a_1_every_check_with_every_error(void **state)
{
    static const struct {
        const char *what;
        enum way way;
        enum fault at;
        bool is_form; /* what fails is the request's form: INVALID_ARGUMENT whatever the code */
        bool is_no;   /* and this one: UNAUTHENTICATED */
    } rows[] = {
        { "token", BY_TOKEN, JWT_VERIFY, false, false },
        { "workload", BY_TOKEN, JWT_WORKLOAD, false, false },
        { "pod", BY_TOKEN, BOUND, false, false },
        { "certificate", BY_CERTIFICATE, SPIFFE, false, true },
        { "review", BY_REVIEW, REVIEW, false, false },
        { "proxy", AS_PROXY, NODE_RULE, false, false },
        { "message", BY_TOKEN, WIRE, true, false },
        { "csr", BY_TOKEN, CSR, true, false },
    };
    struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].way != BY_REVIEW) { /* the same call without a fault is signed */
            call(s, rows[i].way, NONE, 0);
            assert_int_equal(now.signed_n, 1);
        }
        for (int code = E_NOMEM; code < E__MAX + 2; code++) {
            int fault = code < E__MAX ? code : code == E__MAX ? FORGOTTEN : UNDOCUMENTED;
            int want = rows[i].is_form                               ? GRPC_INVALID_ARGUMENT
                       : rows[i].is_no || is_final(fault)            ? GRPC_UNAUTHENTICATED
                       : fault == E_LIMIT && rows[i].at != NODE_RULE ? GRPC_RESOURCE_EXHAUSTED
                                                                     : GRPC_UNAVAILABLE;

            if (fault == UNDOCUMENTED && (rows[i].at == CSR || rows[i].at == REVIEW))
                continue; /* no caller's identity comes from these */
            call(s, rows[i].way, rows[i].at, fault);
            if (now.hits == 0 || now.signed_n != 0 || now.finished_n != 1 ||
                now.finish_code != want)
                fail_msg("%s, fault %d: hits %zu signed %zu finished %zu code %s (%s)",
                         rows[i].what, fault, now.hits, now.signed_n, now.finished_n,
                         grpc_code_name(now.finish_code), now.words);
            assert_null(strstr(now.words, rows[i].is_form ? "Bearer" : "broken on purpose"));
        }
    }
}

static void
a_clock_that_steps(void **state)
{
    static const struct {
        int64_t step_s;
        bool ok; /* token of 600 s and leeway 60, certificate of +-60 s: both, or neither */
    } rows[] = { { 0, true },      { 7200, false }, { 0, true },  { -7200, true },
                 { 86400, false }, { -30, true },   { 30, true }, { 0, true } };
    struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        clock_shift_for_test(rows[i].step_s);
        call(s, BY_TOKEN, NONE, 0);
        if (now.signed_n != rows[i].ok)
            fail_msg("token, step %" PRId64 ": %s", rows[i].step_s, now.words);
        call(s, BY_CERTIFICATE, NONE, 0);
        bool cert_ok = rows[i].ok && rows[i].step_s > -60; /* not yet valid is refused too */
        if (now.signed_n != cert_ok)
            fail_msg("certificate, step %" PRId64 ": %s", rows[i].step_s, now.words);
    }
    clock_shift_for_test(0);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(peers_5a_1_every_check_with_every_error, setup, teardown),
        cmocka_unit_test_setup_teardown(a_clock_that_steps, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
