/* test_jwks.c - RFC 7517 key sets: what is taken, skipped, refused. */
#include "jwt_kit.h"

#include "identity/keyset.h"

#define P256                                                                                       \
    "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","      \
    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\""

static void
counts_and_refusals(void **state)
{
    static const struct {
        const char *json;
        size_t count; /* 0: refused */
        enum err_code code;
        const char *says;
    } rows[] = {
        { "{\"keys\":[{" P256 "}]}", 1, E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"use\":\"sig\",\"alg\":\"ES256\",\"kid\":\"a\"}],\"x\":1}", 1,
          E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"key_ops\":[\"verify\"]}]}", 1, E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"kid\":\"a\"},{" P256 ",\"kid\":\"b\"}]}", 2, E_NONE, "" },
        /* skipped, as long as one is left */
        { "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"},{" P256 "}]}", 1, E_NONE, "" },
        { "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"},{" P256 "}]}", 1, E_NONE,
          "" },
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AA\",\"y\":\"AA\"},{" P256
          "}]}",
          1, E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"use\":\"enc\"},{" P256 "}]}", 1, E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"key_ops\":[\"sign\"]},{" P256 "}]}", 1, E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"alg\":\"ECDH-ES\"},{" P256 "}]}", 1, E_NONE, "" },
        { "{\"keys\":[{" P256 ",\"alg\":\"none\"}]}", 0, E_PARSE, "no key that can check" },
        { "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", 0, E_PARSE, "no key that can check" },
        { "{\"keys\":[]}", 0, E_PARSE, "no key that can check" },
        { "", 0, E_PARSE, "JSON" },
        { "[]", 0, E_PARSE, "not an object" },
        { "{}", 0, E_PARSE, "no list \"keys\"" },
        { "{\"keys\":{}}", 0, E_PARSE, "no list \"keys\"" },
        { "{\"keys\":[],\"keys\":[]}", 0, E_PARSE, "duplicate" },
        { "<html>login</html>", 0, E_PARSE, "JSON" },
        { "{\"keys\":[1]}", 0, E_PARSE, "key 1: not an object" },
        { "{\"keys\":[{" P256 "},{}]}", 0, E_PARSE, "key 2: no \"kty\"" },
        { "{\"keys\":[{" P256 ",\"kid\":7}]}", 0, E_PARSE, "\"kid\" is not a text" },
        { "{\"keys\":[{" P256 ",\"kid\":\"a\"},{" P256 ",\"kid\":\"a\"}]}", 0, E_PARSE,
          "\"a\" is there twice" },
        { "{\"keys\":[{" P256 ",\"d\":\"AAAA\"}]}", 0, E_PARSE, "a private key" },
        { "{\"keys\":[{" P256 ",\"alg\":\"RS256\"}]}", 0, E_PARSE, "does not go with the key" },
        { "{\"keys\":[{" P256 ",\"key_ops\":\"verify\"}]}", 0, E_PARSE, "key_ops" },
        { "{\"keys\":[{\"kty\":\"EC\",\"x\":\"AA\",\"y\":\"AA\"}]}", 0, E_PARSE, "no \"crv\"" },
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}", 0, E_PARSE,
          "coordinates of 1 and 1 bytes" },
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"A=\",\"y\":\"AA\"}]}", 0, E_PARSE,
          "base64" },
        /* the last digit of y changed: not on the curve (invalid curve attack) */
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"
          "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":"
          "\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5aw\"}]}",
          0, E_PARSE, "curve" },
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"
          "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"y\":"
          "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}",
          0, E_PARSE, "curve" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\"}]}", 0, E_PARSE, "no \"n\"" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"_____w\",\"e\":\"AQAB\"}]}", 0, E_LIMIT,
          "RSA key of 32 bits" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"\",\"e\":\"AQAB\"}]}", 0, E_LIMIT, "0 bits" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct jwks *j = NULL;
        struct err e;

        if (rows[i].count == 0) {
            assert_err(jwks_from_json(span_str(rows[i].json), &j, &e), rows[i].code, rows[i].says);
            assert_null(j);
            continue;
        }
        assert_ok(jwks_from_json(span_str(rows[i].json), &j, &e));
        assert_int_equal(jwks_count(j), rows[i].count);
        jwks_unref(j);
    }
}

/* Sizes and exponents of RSA keys; the modulus is `n` bytes of 0xff with the last one set. */
static void
rsa_bounds(void **state)
{
    static const struct {
        size_t n;
        uint8_t last;
        const char *exponent; /* hex */
        bool ok;
    } rows[] = {
        { 256, 0xff, "010001", true },      { 256, 0xff, "03", true },
        { 1024, 0xff, "010001", true },     { 256, 0xff, "00010001", true },
        { 255, 0xff, "010001", false },     { 1025, 0xff, "010001", false },
        { 256, 0xfe, "010001", false },     { 256, 0xff, "01", false },
        { 256, 0xff, "00", false },         { 256, 0xff, "010000", false },
        { 256, 0xff, "0100000001", false },
    };
    uint8_t n[1025], exponent[8];

    (void)state;
    memset(n, 0xff, sizeof(n));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t exponent_n = strlen(rows[i].exponent) / 2;
        struct jws_key *k = NULL;
        struct err e;

        assert_ok(hex_parse(span_str(rows[i].exponent), exponent, exponent_n, &e));
        n[rows[i].n - 1] = rows[i].last;
        int r = jws_key_rsa(span_of(n, rows[i].n), span_of(exponent, exponent_n), &k, &e);
        if ((r == 0) != rows[i].ok)
            fail_msg("%zu bytes, exponent %s: %d", rows[i].n, rows[i].exponent, r);
        n[rows[i].n - 1] = 0xff;
        jws_key_free(k);
    }
}

static void
too_many_and_too_long(void **state)
{
    struct buf b = BUF_INIT(JWKS_DOC_MAX_BYTES + 64);
    struct jwks *j = NULL;
    struct err e;

    (void)state;
    assert_ok(buf_add_str(&b, "{\"keys\":[{" P256 ",\"kid\":\"k\"}", &e));
    for (int i = 1; i < JWKS_MAX_KEYS; i++)
        assert_ok(buf_addf(&b, &e, ",{%s,\"kid\":\"k%d\"}", P256, i));
    size_t n = b.n;
    assert_ok(buf_add_str(&b, "]}", &e));
    assert_ok(jwks_from_json(buf_span(&b), &j, &e));
    assert_int_equal(jwks_count(j), JWKS_MAX_KEYS);
    jwks_unref(j);
    b.n = n;
    assert_ok(buf_addf(&b, &e, ",{%s}]}", P256));
    assert_err(jwks_from_json(buf_span(&b), &j, &e), E_LIMIT, "65 keys");
    while (b.n <= JWKS_DOC_MAX_BYTES)
        assert_ok(buf_add_byte(&b, ' ', &e));
    assert_err(jwks_from_json(buf_span(&b), &j, &e), E_LIMIT, "at most 262144");
    buf_done(&b);
}

static void
finding(void **state)
{
    static const struct {
        const char *kid, *alg;
        int want;
    } rows[] = {
        { "ec", "ES256", 0 },
        { "rsa", "RS256", 0 },
        { NULL, "ES256", 0 },
        { NULL, "RS256", 0 },
        { "rsa", "PS256", KEYSET_OTHER_ALG }, /* the set says RS256 */
        { "ec", "RS256", KEYSET_OTHER_ALG },
        { "rsa", "ES256", KEYSET_OTHER_ALG },
        { "EC", "ES256", KEYSET_NO_KEY },
        { NULL, "ES512", KEYSET_NO_KEY },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct jws_alg *alg = jws_alg_find(span_str(rows[i].alg));
        struct span kid = span_str(rows[i].kid);
        const struct jws_key *k = NULL;

        assert_non_null(alg);
        assert_int_equal(keyset_find(kit.jwks, rows[i].kid == NULL ? NULL : &kid, alg, &k),
                         rows[i].want);
    }
}

/* Which of them is not for us to guess. */
static void
two_keys_and_no_kid(void **state)
{
    const struct jws_key *k = NULL;
    struct jwks *j = NULL;
    struct err e;

    (void)state;
    assert_ok(jwks_from_json(span_str("{\"keys\":[{" P256 "},{" P256 ",\"kid\":\"b\"}]}"), &j, &e));
    assert_int_equal(keyset_find(j, NULL, jws_alg_find(span_str("ES256")), &k), KEYSET_NO_KEY);
    jwks_unref(j);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_and_refusals),   cmocka_unit_test(rsa_bounds),
        cmocka_unit_test(too_many_and_too_long), cmocka_unit_test(finding),
        cmocka_unit_test(two_keys_and_no_kid),
    };

    return cmocka_run_group_tests(tests, kit_setup, kit_teardown);
}
