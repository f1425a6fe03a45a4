/* test_memo.c - what a key set remembers of tokens spares the signature and nothing else. */
#include "jwt_kit.h"

#include "identity/keyset.h"

#define ES "{\"alg\":\"ES256\",\"kid\":\"ec\"}"
#define CLAIMS                                                                                     \
    "{\"iss\":\"https://"                                                                          \
    "issuer\",\"aud\":[\"x\",\"istio-ca\"],\"sub\":\"system:serviceaccount:shop:cart\","           \
    "\"exp\":2000003600,\"nbf\":1999999000,\"jti\":\"id-1\",\"kubernetes.io\":{\"namespace\":"     \
    "\"shop\",\"serviceaccount\":{\"name\":\"cart\",\"uid\":\"u-1\"},\"pod\":{\"name\":\"p\","     \
    "\"uid\":\"u-2\"}}}"

static const struct jwt_rule ca_rule = { .issuer = "https://issuer",
                                         .audiences = { "istio-ca", NULL },
                                         .leeway_s = 60 };

static struct memo *
memory(void)
{
    return keyset_memo(kit.jwks);
}

static bool
is_known(struct span token)
{
    struct buf b = BUF_INIT(MEMO_CONTENT_BYTES);
    uint8_t id[DIGEST_BYTES];

    digest(token, id);
    bool known = memo_find(memory(), id, &b);
    buf_done(&b);
    return known;
}

static int
verify(struct span token, const struct jwt_rule *rule, struct jwt_claims *c, const char **reason)
{
    struct err e;

    return jwt_verify(kit.jwks, token, rule, c, reason, &e);
}

static void
the_same_claims_from_memory(void **state)
{
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims first, again;
    const char *reason;

    (void)state;
    kit_clock();
    memset(&first, 0, sizeof(first));
    memset(&again, 0xff, sizeof(again));
    kit_token(ES, CLAIMS, KIT_EC, &token);
    assert_false(is_known(buf_span(&token)));
    assert_int_equal(verify(buf_span(&token), &ca_rule, &first, &reason), 0);
    assert_true(is_known(buf_span(&token)));
    assert_int_equal(verify(buf_span(&token), &ca_rule, &again, &reason), 0);
    assert_memory_equal(&first, &again, sizeof(first));
    assert_string_equal(again.k8s_pod_uid, "u-2");
    assert_int_equal(again.expires, 2000003600);
    buf_done(&token);
}

/* Each rule at every call: the token is in memory when it is asked about. */
static void
rules_at_every_call(void **state)
{
    static const struct jwt_rule other_issuer = { .issuer = "https://other",
                                                  .audiences = { "istio-ca", NULL } },
                                 other_audience = { .issuer = "https://issuer",
                                                    .audiences = { "istio-c", "istio-ca2", NULL } },
                                 no_audience = { .issuer = "https://issuer" };
    static const struct {
        const struct jwt_rule *rule;
        int64_t later_s;
        const char *reason; /* NULL: taken */
    } rows[] = {
        { &ca_rule, 0, NULL },
        { &other_issuer, 0, "issuer" },
        { &other_audience, 0, "audience" },
        { &no_audience, 0, "audience" },
        { &ca_rule, 3600 + 55, NULL },
        { &ca_rule, 3600 + 65, "expired" },
        { &ca_rule, -1000 - 55, NULL },
        { &ca_rule, -1000 - 65, "not_yet_valid" },
    };
    struct buf token = BUF_INIT(JWT_MAX_BYTES);

    (void)state;
    kit_token(ES, CLAIMS, KIT_EC, &token);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct jwt_claims c;
        const char *reason = NULL;
        int r;

        kit_clock();
        assert_int_equal(verify(buf_span(&token), &ca_rule, &c, &reason), 0);
        assert_true(is_known(buf_span(&token)));
        do { /* again when some seconds went by meanwhile */
            clock_shift_for_test(0);
            clock_shift_for_test(KIT_NOW_S + rows[i].later_s - unix_s());
            r = verify(buf_span(&token), rows[i].rule, &c, &reason);
        } while (unix_s() > KIT_NOW_S + rows[i].later_s + 3);
        if (rows[i].reason == NULL)
            assert_int_equal(r, 0);
        else
            assert_string_equal(reason, rows[i].reason);
        assert_int_equal(r, rows[i].reason == NULL ? 0 : -E_AUTH);
    }
    kit_clock();
    buf_done(&token);
}

static void
a_bad_signature_is_not_remembered(void **state)
{
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims c;
    const char *reason = NULL;

    (void)state;
    kit_clock();
    kit_token(ES, CLAIMS, KIT_STRANGER, &token);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(verify(buf_span(&token), &ca_rule, &c, &reason), -E_AUTH);
        assert_string_equal(reason, "signature");
        assert_false(is_known(buf_span(&token)));
    }
    /* nor is a good one's memory of use to a token that differs in one byte of its signature */
    token.n = 0;
    kit_token(ES, CLAIMS, KIT_EC, &token);
    assert_int_equal(verify(buf_span(&token), &ca_rule, &c, &reason), 0);
    token.p[token.n - 10] = token.p[token.n - 10] == 'A' ? 'B' : 'A';
    assert_int_equal(verify(buf_span(&token), &ca_rule, &c, &reason), -E_AUTH);
    assert_string_equal(reason, "signature");
    buf_done(&token);
}

static void
another_key_set_remembers_nothing(void **state)
{
    CLEANUP(jwks_unrefp) struct jwks *other = NULL;
    struct buf token = BUF_INIT(JWT_MAX_BYTES), doc = BUF_INIT(4096);
    struct jwt_claims c;
    const char *reason = NULL;
    struct err e;

    (void)state;
    kit_clock();
    kit_token(ES, CLAIMS, KIT_EC, &token);
    assert_int_equal(verify(buf_span(&token), &ca_rule, &c, &reason), 0);
    /* the issuer took the key back: another one has its name */
    assert_ok(jwks_of_key(kit.keys[KIT_STRANGER], "ec", &doc, &e));
    assert_ok(jwks_from_json(buf_span(&doc), &other, &e));
    assert_int_equal(jwt_verify(other, buf_span(&token), &ca_rule, &c, &reason, &e), -E_AUTH);
    assert_string_equal(reason, "signature");
    buf_done(&token);
    buf_done(&doc);
}

/* Far more than it holds, among them one that is used all the time and one that is too long. */
static void
it_is_bounded(void **state)
{
    static uint8_t big[MEMO_CONTENT_BYTES + 1];
    struct memo *m = NULL;
    struct buf b = BUF_INIT(MEMO_CONTENT_BYTES);
    uint8_t kept[DIGEST_BYTES] = { 7, 0, 1 }, id[DIGEST_BYTES] = { 0 };
    size_t known = 0;
    struct err e;

    (void)state;
    assert_ok(memo_new(&m, &e));
    memo_add(m, kept, span_str("kept"));
    for (uint32_t i = 0; i < 4 * MEMO_TOKENS; i++) {
        memcpy(id, &i, sizeof(i));
        id[31] = 1;
        memo_add(m, id, span_str("other"));
        b.n = 0;
        assert_true(memo_find(m, kept, &b));
        assert_string_equal(buf_text(&b), "kept");
    }
    for (uint32_t i = 0; i < 4 * MEMO_TOKENS; i++) {
        memcpy(id, &i, sizeof(i));
        b.n = 0;
        known += memo_find(m, id, &b);
    }
    assert_int_equal(known, MEMO_TOKENS - 1);
    memset(id, 0xee, sizeof(id));
    memo_add(m, id, span_of(big, sizeof(big)));
    assert_false(memo_find(m, id, &b));
    memo_add(m, id, span_of(big, MEMO_CONTENT_BYTES));
    b.n = 0;
    assert_true(memo_find(m, id, &b));
    memo_free(m);
    buf_done(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_claims_from_memory),
        cmocka_unit_test(rules_at_every_call),
        cmocka_unit_test(a_bad_signature_is_not_remembered),
        cmocka_unit_test(another_key_set_remembers_nothing),
        cmocka_unit_test(it_is_bounded),
    };

    return cmocka_run_group_tests(tests, kit_setup, kit_teardown);
}
