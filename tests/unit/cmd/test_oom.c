/* The main flows of every room with each of their allocations failing once, one after the other:
 * nothing crashes or leaks (./dev asan), the error is "out of memory", nothing is given, what was
 * there stays and can be used. For those of libraries, which have words of their own for it, any
 * error will do. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "agent/trust_set.h"
#include "alloc.h"
#include "base/str.h"
#include "ca/evidence_book.h"
#include "ca/revoke.h"
#include "identity/identity.h"
#include "ledger/ledger.h"
#include "mint.h"
#include "net/grpc_frame.h"
#include "obs/log.h"
#include "operator/versions.h"
#include "pki/bundle.h"
#include "pki/seal.h"
#include "rotate/plan.h"
#include "tmpdir.h"

#define ID "spiffe://td/ns/n/sa/a"

enum { ALLOCATIONS_MAX = 20000, TEXT_MAX = 1 << 17 };

static struct {
    struct mint_ca root, ca;
    struct key *key;
    struct cert *leaf;
    struct buf pem[3], ca_key, csr; /* leaf, intermediate, root */
    struct creds *held;
    struct buf jwks, token;
    struct jwks *keys;
    struct seal *seal;
    char *plan;
    struct buf trust_set, piece;
    char dir[64];
    struct loop *loop;
    struct store *store;
    struct metrics *metrics;
    struct ledger *ledger;
    uint64_t rows;
    struct err last;
} t;

static void
world_plan(void)
{
    struct plan p = { .generation = 9, .roots_n = 1 };
    struct err e;

    memcpy(p.roots[0].id, cert_id(t.root.cert), DIGEST_BYTES);
    p.roots[0].since = 4;
    memcpy(p.signer.root_id, cert_id(t.root.cert), DIGEST_BYTES);
    memset(p.signer.id, 7, DIGEST_BYTES);
    memset(p.signer.chain_id, 8, DIGEST_BYTES);
    for (size_t i = 0; i < PART__N; i++)
        (void)snprintf(p.signer.versions.v[i], VERSION_TEXT_BYTES, "version-%zu", i);
    assert_ok(plan_to_json(&p, t.root.roots, &t.plan, &e));
}

static void
world_messages(void)
{
    Meshroot__V1__TrustSet m = MESHROOT__V1__TRUST_SET__INIT;
    Meshroot__V1__EvidencePiece p = MESHROOT__V1__EVIDENCE_PIECE__INIT;
    Meshroot__V1__EvidenceLoaded l = MESHROOT__V1__EVIDENCE_LOADED__INIT;
    struct span der = cert_der(t.root.cert);
    ProtobufCBinaryData root = { der.n, (uint8_t *)(uintptr_t)der.p };
    char replica[] = "replica-0";
    struct err e;
    uint8_t *to;

    m.generation = 6;
    m.n_roots = 1;
    m.roots = &root;
    t.trust_set = BUF_INIT(TEXT_MAX);
    assert_ok(buf_reserve(&t.trust_set, meshroot__v1__trust_set__get_packed_size(&m), &to, &e));
    t.trust_set.n = meshroot__v1__trust_set__pack(&m, to);
    l.replica = replica;
    p.number = 1;
    p.last = 1;
    p.loaded = &l;
    t.piece = BUF_INIT(TEXT_MAX);
    assert_ok(buf_reserve(&t.piece, meshroot__v1__evidence_piece__get_packed_size(&p), &to, &e));
    t.piece.n = meshroot__v1__evidence_piece__pack(&p, to);
}

static int
world(void **state)
{
    static const char claims[] = "{\"aud\":\"istio-ca\",\"exp\":4102444800,\"sub\":\"" ID "\"}";
    char *chain[3];
    struct err e;

    (void)state;
    log_setup(2, LOG_ERROR, false);
    mint_ca(&t.root, "CN=Root A", NULL);
    mint_ca(&t.ca, "CN=Intermediate A1", &t.root);
    assert_ok(key_make(KEY_P256, &t.key, &e));
    t.leaf = mint_leaf(&t.ca, t.key, ID, 3600);
    struct cert *const certs[] = { t.leaf, t.ca.cert, t.root.cert };
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        t.pem[i] = BUF_INIT(8192);
        assert_ok(cert_to_pem(certs[i], &t.pem[i], &e));
        chain[i] = (char *)t.pem[i].p;
    }
    t.ca_key = BUF_INIT(8192);
    assert_ok(key_to_pem(t.ca.key, &t.ca_key, &e));
    assert_ok(creds_from_answer(t.key, ID, chain, 3, &t.held, &e));
    t.held->generation = t.held->leaf_generation = 5;
    t.jwks = BUF_INIT(8192);
    t.token = BUF_INIT(8192);
    assert_ok(jwks_of_key(t.key, "k", &t.jwks, &e));
    assert_ok(jwks_from_json(buf_span(&t.jwks), &t.keys, &e));
    assert_ok(jwt_sign(t.key, "k", false, span_str(claims), &t.token, &e));
    assert_ok(seal_new(span_str("0123456789abcdef0123456789abcdef"), &t.seal, &e));
    world_plan();
    world_messages();
    tmpdir_make(t.dir);
    assert_ok(loop_new(&t.loop, &e));
    assert_ok(metrics_new(&t.metrics, &e));
    assert_ok(store_open_sqlite(t.dir, &t.store, &e));
    assert_ok(ledger_open(t.store, t.metrics, &t.ledger, &e));
    return 0;
}

static int
world_end(void **state)
{
    (void)state;
    ledger_close(t.ledger);
    store_close(t.store);
    metrics_free(t.metrics);
    loop_free(t.loop);
    tmpdir_remove(t.dir);
    buf_done(&t.piece);
    buf_done(&t.trust_set);
    free(t.plan);
    seal_free(t.seal);
    jwks_unref(t.keys);
    buf_done(&t.token);
    buf_done(&t.jwks);
    creds_free(t.held);
    buf_wipe(&t.ca_key);
    for (size_t i = 0; i < ARRAY_LEN(t.pem); i++)
        buf_done(&t.pem[i]);
    cert_unref(t.leaf);
    key_unref(t.key);
    mint_ca_done(&t.ca);
    mint_ca_done(&t.root);
    return 0;
}

/* -- the flows: r < 0 with *e, and nothing given, or all of it and as it should be -- */

static int
certificates(struct err *e)
{
    struct cert *all[4];
    struct roots *roots = NULL;
    size_t n = 0;
    int r = certs_from_pem(buf_span(&t.pem[2]), all, ARRAY_LEN(all), &n, e);

    if (r == 0)
        r = roots_from_certs(all, n, &roots, e);
    for (size_t i = 0; i < n; i++)
        cert_unref(all[i]);
    assert_true((r == 0) == (roots != NULL));
    roots_unref(roots);
    return r;
}

static int
bundle(struct err *e)
{
    const struct span parts[PART__N] = { [PART_ROOT_CERT] = buf_span(&t.pem[2]),
                                         [PART_CA_CERT] = buf_span(&t.pem[1]),
                                         [PART_CA_KEY] = buf_span(&t.ca_key),
                                         [PART_CERT_CHAIN] = buf_span(&t.pem[1]) };
    struct bundle *b = NULL;
    int r = bundle_new(parts, &b, e);

    assert_true((r == 0) == (b != NULL));
    bundle_unref(b);
    return r;
}

static int
leaf(struct err *e)
{
    static const char *const sans[] = { ID };
    CLEANUP(buf_done) struct buf spki = BUF_INIT(2048);
    CLEANUP(leaf_template_freep) struct leaf_template *tpl = NULL;
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, n;

    TRY(key_spki(t.key, &spki, e));
    struct leaf_request q = { .profile = LEAF_WORKLOAD,
                              .spki = buf_span(&spki),
                              .sans = sans,
                              .sans_n = 1,
                              .not_before = unix_s() - 60,
                              .not_after = unix_s() + 600,
                              .serial = { 7 } };
    TRY(leaf_template_new(t.ca.cert, t.ca.key, &tpl, e));
    TRY(leaf_tbs(tpl, &q, tbs, &tbs_n, e));
    TRY(leaf_sign(tpl, span_of(tbs, tbs_n), sig, &sig_n, e));
    TRY(leaf_finish(tpl, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &n, e));
    return leaf_lint(tpl, &q, span_of(der, n), e);
}

static int
answer(struct err *e)
{
    char *chain[] = { (char *)t.pem[0].p, (char *)t.pem[1].p, (char *)t.pem[2].p };
    struct creds *c = NULL;
    int r = creds_from_answer(t.key, ID, chain, 3, &c, e);

    assert_true((r == 0) == (c != NULL));
    creds_free(c);
    return r;
}

static int
trust_set(struct err *e)
{
    struct creds *next = NULL;
    struct err lists = { 0 };
    Meshroot__V1__TrustSet *m = meshroot__v1__trust_set__unpack(NULL, t.trust_set.n, t.trust_set.p);
    int r = m == NULL ? err_nomem(e) : trust_set_take(m, t.held, &next, &lists, e);

    assert_true((r == 0) == (next != NULL));
    assert_int_equal(t.held->generation, 5);
    if (next != NULL && t.held->chain_n != next->chain_n)
        fail_msg("the leaf's chain has changed");
    creds_free(next);
    if (m != NULL)
        meshroot__v1__trust_set__free_unpacked(m, NULL);
    return r;
}

static int
key_set(struct err *e)
{
    struct jwks *j = NULL;
    int r = jwks_from_json(buf_span(&t.jwks), &j, e);

    assert_true((r == 0) == (j != NULL));
    jwks_unref(j);
    return r;
}

static int
token(struct err *e)
{
    const struct jwt_rule rule = { .audiences = { "istio-ca" } };
    struct jwks *fresh = NULL;
    struct jwt_claims c;
    const char *reason;

    TRY(jwks_from_json(buf_span(&t.jwks), &fresh, e)); /* remembers no token */
    int r = jwt_verify(fresh, buf_span(&t.token), &rule, &c, &reason, e);
    jwks_unref(fresh);
    if (r == 0)
        assert_string_equal(c.subject, ID);
    return r;
}

static int
frame(struct err *e)
{
    static const char wire[] = "\0\0\0\0\5hello";
    struct span in = span_of(wire, sizeof(wire) - 1);
    struct grpc_reader rd = GRPC_READER_INIT(1024);
    CLEANUP(buf_done) struct buf text = BUF_INIT(1024);
    int r = grpc_reader_feed(&rd, &in, e);

    if (r == GRPC_MESSAGE)
        assert_true(span_eq_str(buf_span(&rd.msg), "hello"));
    grpc_reader_done(&rd);
    TRY(r);
    return grpc_percent_encode(&text, "50 % \xe4", e);
}

static int
plan(struct err *e)
{
    struct roots *roots = NULL;
    char *text = NULL;
    struct plan p;
    int r = plan_from_json(span_str(t.plan), &p, &roots, e);

    assert_true((r == 0) == (roots != NULL));
    if (r == 0)
        r = plan_to_json(&p, roots, &text, e);
    if (r == 0)
        assert_string_equal(text, t.plan);
    free(text);
    roots_unref(roots);
    return r;
}

static int
versions(struct err *e)
{
    struct sync_versions v = { .v = { "a", "b", "c", "d" } }, w;
    CLEANUP(str_freep) char *text = NULL;

    TRY(versions_text(&v, &text, e));
    alloc_rest();
    assert_int_equal(versions_read(text, &w), 0);
    assert_memory_equal(&v, &w, sizeof(v));
    return 0;
}

static int
evidence(struct err *e)
{
    struct evidence_book b = { .now = { .number = 0 } };
    int r = evidence_book_take(&b, buf_span(&t.piece), e);

    assert_true(r < 0 ? b.now.number == 0 : r == 1 && b.now.number == 1);
    evidence_book_done(&b);
    return r;
}

static void
tell(void *self, ledger_workload_fn *fn, void *arg)
{
    static const uint8_t roots[1][DIGEST_BYTES] = { { 7 } };
    const struct ledger_workload w = { .identity = ID,
                                       .instance = "0123456789abcdef0123456789abcdef",
                                       .can_acknowledge = true,
                                       .ack_generation = 1,
                                       .ack_roots = roots,
                                       .ack_roots_n = 1,
                                       .said = 1800000000,
                                       .leaves_n = 1,
                                       .min_row_generation = 1,
                                       .last_issued = 1800000000 };

    (void)self;
    fn(&w, arg);
}

static void
on_workload(const struct ledger_workload *w, void *arg)
{
    assert_string_equal(w->identity, ID);
    ++*(size_t *)arg;
}

/* Out of memory a merge holds steps: whoever has leaves is told of all the same. */
static int
merge(struct err *e)
{
    const struct evidence_teller tellers[] = { { tell, NULL }, { tell, NULL } };
    size_t n = 0;

    (void)e;
    evidence_merge(tellers, ARRAY_LEN(tellers), on_workload, &n);
    assert_int_equal(n, 2);
    return 0;
}

static int
revoked(struct err *e)
{
    char id[] = ID, key[REVOKED_KEY_BYTES];
    const struct revoked v = { .entry = { .serial = { 7 }, .serial_n = 1 }, .identity = id };
    CLEANUP(buf_done) struct buf b = BUF_INIT(4096);
    struct revoked w = { .identity = NULL };

    revoked_record_key(&v, key);
    TRY(revoked_record_write(&v, &b, e));
    int r = revoked_record_read(key, buf_span(&b), &w, e);
    assert_true((r == 0) == (w.identity != NULL));
    free(w.identity);
    return r;
}

static int
revoked_identity(struct err *e)
{
    char id[] = ID, key[IDENTITY_KEY_BYTES];
    const struct revoked_identity v = { .identity = id, .at = 1, .until = 2 };
    CLEANUP(buf_done) struct buf b = BUF_INIT(4096);
    struct revoked_identity w = { .identity = NULL };

    identity_record_key(&v, key);
    TRY(identity_record_write(&v, &b, e));
    int r = identity_record_read(key, buf_span(&b), &w, e);
    assert_true((r == 0) == (w.identity != NULL));
    free(w.identity);
    return r;
}

static int
sealed(struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(4096), open = BUF_INIT(4096);

    TRY(seal_close(t.seal, "a", span_str("value"), &b, e));
    TRY(seal_open(t.seal, "a", buf_span(&b), &open, e));
    assert_true(span_eq_str(buf_span(&open), "value"));
    return 0;
}

/* FIPS 180-4, the example "abc": there is nothing to fail. */
static int
sum(struct err *e)
{
    static const uint8_t abc[] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                   0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                   0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad };
    uint8_t id[DIGEST_BYTES];

    (void)e;
    digest(span_str("abc"), id);
    assert_memory_equal(id, abc, sizeof(abc));
    return 0;
}

/* A page shows all rows, and all members of each, or is not there. */
static int
page(struct err *e)
{
    const struct crl_lists l = { .all = { { .cert = t.ca.cert }, { .cert = NULL } }, .n = 2 };
    json_t *j = lists_json(&l), *row;
    size_t i;

    if (j == NULL)
        return err_nomem(e);
    assert_int_equal(json_array_size(j), 2);
    json_array_foreach(j, i, row)
        assert_int_equal(json_object_size(row), 4);
    json_decref(j);
    return 0;
}

static void
on_row(const struct err *why, void *arg)
{
    t.last = *why;
    loop_stop(arg);
}

/* A row that is refused is not there; one that is answered for is. */
static int
ledger(struct err *e)
{
    struct ledger_row row = { .serial_n = 3, .identity = ID, .generation = 1 };
    uint64_t rows;

    row.serial[0] = 1;
    row.serial[1] = (uint8_t)(t.rows >> 8);
    row.serial[2] = (uint8_t)t.rows;
    row.issued = row.not_before = unix_s();
    row.not_after = row.issued + 600;
    TRY(ledger_append(t.ledger, &row, t.loop, on_row, t.loop, e));
    assert_int_equal(loop_run(t.loop, e), 0);
    *e = t.last;
    t.rows += t.last.code == E_NONE;
    alloc_rest();
    struct err x;
    assert_int_equal(ledger_verify(t.ledger, &rows, &x), 0);
    assert_int_equal(rows, t.rows);
    return t.last.code == E_NONE ? 0 : -(int)t.last.code;
}

static const struct flow {
    const char *name;
    int (*run)(struct err *e);
} flows[] = {
    { "certificates", certificates },
    { "bundle", bundle },
    { "leaf", leaf },
    { "a CA's answer", answer },
    { "trust set", trust_set },
    { "key set", key_set },
    { "token", token },
    { "gRPC frame", frame },
    { "plan", plan },
    { "versions", versions },
    { "evidence", evidence },
    { "merged evidence", merge },
    { "revoked leaf", revoked },
    { "revoked identity", revoked_identity },
    { "sealed value", sealed },
    { "page", page },
    { "digest", sum },
};

/* Every allocation of the flow once (of a library's thousands the first ones, then ever fewer);
 * then it does what it did before. r: how many there were, about. */
static size_t
torture(const struct flow *f, enum alloc_whose whose)
{
    struct err e = { 0 };
    size_t n = 1;

    for (unsigned i = 0; i < 2; i++) /* what is made once for all */
        if (f->run(&e) < 0)
            fail_msg("%s: %s", f->name, e.msg);
    for (; n < ALLOCATIONS_MAX; n += whose == ALLOC_OURS ? 1 : 1 + n / 16) {
        e = (struct err){ 0 };
        alloc_fail(whose, n);
        int r = f->run(&e);
        bool has_failed = alloc_has_failed();
        alloc_fail(whose, 0);
        if (!has_failed)
            break;
        if (r < 0 && e.msg[0] == '\0')
            fail_msg("%s, allocation %zu: an error without words", f->name, n);
        if (r < 0 && whose == ALLOC_OURS && e.code != E_NOMEM)
            fail_msg("%s, allocation %zu: %s", f->name, n, e.msg);
        if (f->run(&e) < 0)
            fail_msg("%s, after allocation %zu: %s", f->name, n, e.msg);
    }
    assert_true(n < ALLOCATIONS_MAX);
    return n - 1;
}

static void
our_own_allocations_fail(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(flows); i++)
        print_message("%s: %zu\n", flows[i].name, torture(&flows[i], ALLOC_OURS));
}

static void
those_of_libraries_fail(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(flows); i++)
        print_message("%s: %zu\n", flows[i].name, torture(&flows[i], ALLOC_LIBRARIES));
}

static void
a_row_of_the_ledger_is_there_or_refused(void **state)
{
    const struct flow f = { "ledger", ledger };

    (void)state;
    print_message("ledger: %zu\n", torture(&f, ALLOC_OURS));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(our_own_allocations_fail),
        cmocka_unit_test(those_of_libraries_fail),
        cmocka_unit_test(a_row_of_the_ledger_is_there_or_refused),
    };

    alloc_setup();
    cmocka_set_message_output(CM_OUTPUT_STDOUT);
    return cmocka_run_group_tests(tests, world, world_end);
}
