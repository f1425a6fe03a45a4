/* What a workload holds, from a CA's answer and from the trust stream; without time or network. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "agent/trust_set.h"
#include "base/buf.h"
#include "base/str.h"
#include "mint.h"

#define ID "spiffe://td/ns/n/sa/a"

enum { LEAF, MIDDLE, ROOT, OTHER, PEM_N };

struct scene {
    struct mint_ca root, middle, other;
    struct key *key;
    struct cert *leaf;
    struct buf pem[PEM_N];
    struct creds *held; /* of generation 5 */
};

static int
answer(struct scene *s, const int *elements, size_t n, struct creds **ret, struct err *e)
{
    char *chain[8];

    for (size_t i = 0; i < n; i++)
        chain[i] = (char *)s->pem[elements[i]].p;
    return creds_from_answer(s->key, ID, chain, n, ret, e);
}

static int
setup(void **state)
{
    static const int good[] = { LEAF, MIDDLE, ROOT };
    struct scene *s = calloc(1, sizeof(*s));
    struct err e;

    assert_non_null(s);
    mint_ca(&s->root, "CN=Root A", NULL);
    mint_ca(&s->middle, "CN=Intermediate A1", &s->root);
    mint_ca(&s->other, "CN=Root B", NULL);
    assert_ok(key_make(KEY_P256, &s->key, &e));
    s->leaf = mint_leaf(&s->middle, s->key, ID, 600);
    struct cert *const certs[PEM_N] = { s->leaf, s->middle.cert, s->root.cert, s->other.cert };
    for (size_t i = 0; i < PEM_N; i++) {
        s->pem[i] = BUF_INIT(8192);
        assert_ok(cert_to_pem(certs[i], &s->pem[i], &e));
    }
    assert_ok(answer(s, good, ARRAY_LEN(good), &s->held, &e));
    s->held->generation = s->held->leaf_generation = 5;
    *state = s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    creds_free(s->held);
    for (size_t i = 0; i < PEM_N; i++)
        buf_done(&s->pem[i]);
    cert_unref(s->leaf);
    key_unref(s->key);
    mint_ca_done(&s->root);
    mint_ca_done(&s->middle);
    mint_ca_done(&s->other);
    free(s);
    return 0;
}

/* Who comes after the leaf is who signed it: the agent tells a new signer by it. */
static void
rfc8446_4_4_2_the_chain_is_in_order(void **state)
{
    static const int twice[] = { LEAF, LEAF, MIDDLE, ROOT };
    struct scene *s = *state;
    struct creds *c = NULL;
    struct err e;

    assert_memory_equal(s->held->signer_id, cert_id(s->middle.cert), DIGEST_BYTES);
    assert_err(answer(s, twice, ARRAY_LEN(twice), &c, &e), E_DENIED, "not its issuer's");
    assert_null(c);
}

/* -- the trust stream -- */

static Meshroot__V1__TrustSet
message(uint64_t generation, ProtobufCBinaryData *roots, size_t n)
{
    Meshroot__V1__TrustSet m = MESHROOT__V1__TRUST_SET__INIT;

    m.generation = generation;
    m.roots = roots;
    m.n_roots = n;
    return m;
}

static ProtobufCBinaryData
bytes(struct span s)
{
    return (ProtobufCBinaryData){ s.n, (uint8_t *)(uintptr_t)s.p };
}

static void
a_set_is_taken_once(void **state)
{
    struct scene *s = *state;
    ProtobufCBinaryData roots[] = { bytes(cert_der(s->root.cert)), bytes(cert_der(s->other.cert)) };
    Meshroot__V1__TrustSet m = message(6, roots, 2);
    struct creds *next = NULL, *again = NULL;
    struct err lists, e;

    assert_int_equal(trust_set_take(&m, s->held, &next, &lists, &e), 0);
    assert_int_equal(next->generation, 6);
    assert_int_equal(roots_count(next->roots), 2);
    assert_true(creds_leaf_is_trusted(next));
    assert_ptr_equal(next->leaf, s->held->leaf);
    assert_int_equal(trust_set_take(&m, next, &again, &lists, &e), TRUST_SET_SAME);
    m.generation = 5;
    assert_int_equal(trust_set_take(&m, next, &again, &lists, &e), TRUST_SET_OLD);
    assert_null(again);
    creds_free(next);
}

static void
a_bad_set_changes_nothing(void **state)
{
    struct scene *s = *state;
    ProtobufCBinaryData roots[] = { bytes(cert_der(s->root.cert)), bytes(span_str("no")) };
    Meshroot__V1__TrustSet none = message(6, NULL, 0), half = message(6, roots, 2);
    struct creds *next = NULL;
    struct err lists, e;

    assert_err(trust_set_take(&none, s->held, &next, &lists, &e), E_LIMIT, "0 roots");
    assert_int_equal(trust_set_take(&half, s->held, &next, &lists, &e), -(int)E_PARSE);
    assert_null(next);
}

static void
a_bad_list_blocks_no_root(void **state)
{
    struct scene *s = *state;
    ProtobufCBinaryData root = bytes(cert_der(s->root.cert)), list = bytes(span_str("no list"));
    Meshroot__V1__TrustSet m = message(6, &root, 1);
    struct creds *next = NULL;
    struct err lists, e;

    m.n_crls = 1;
    m.crls = &list;
    assert_int_equal(trust_set_take(&m, s->held, &next, &lists, &e), 0);
    assert_int_not_equal(lists.code, E_NONE);
    assert_null(next->crls);
    creds_free(next);
}

/* A window beyond a day, of whatever a CA says, neither wraps nor outlasts the leaf. */
static void
a_renewal_window_is_bounded(void **state)
{
    struct scene *s = *state;
    Meshroot__V1__TrustSet m = message(6, NULL, 0);
    uint64_t from, to;

    assert_false(trust_set_renewal(&m, s->held, &from, &to));
    m.signer_id = bytes(span_of(s->held->signer_id, DIGEST_BYTES));
    m.renew_window_ms = 500;
    assert_false(trust_set_renewal(&m, s->held, &from, &to));
    m.signer_id = bytes(span_of(cert_id(s->other.cert), DIGEST_BYTES));
    assert_true(trust_set_renewal(&m, s->held, &from, &to));
    assert_int_equal(from, 0);
    assert_int_equal(to, 500);
    m.renew_window_ms = UINT64_MAX;
    m.n_crls = 1;
    assert_true(trust_set_renewal(&m, s->held, &from, &to));
    assert_int_equal(to - from, RENEW_WINDOW_MAX_MS);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rfc8446_4_4_2_the_chain_is_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_set_is_taken_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bad_set_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bad_list_blocks_no_root, setup, teardown),
        cmocka_unit_test_setup_teardown(a_renewal_window_is_bounded, setup, teardown),
    };

    cmocka_set_message_output(CM_OUTPUT_STDOUT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
