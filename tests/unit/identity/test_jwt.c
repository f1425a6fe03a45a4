/* test_jwt.c - every way in which a token can be wrong, one row each; RFC 7515 A.2 and A.3. */
#include "jwt_kit.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#define ISS  "\"iss\":\"https://issuer\""
#define AUD  "\"aud\":\"istio-ca\""
#define SUB  "\"sub\":\"system:serviceaccount:shop:cart\""
#define EXP  "\"exp\":2000003600"
#define GOOD "{" ISS "," AUD "," SUB "," EXP "}"
#define ES   "{\"alg\":\"ES256\",\"kid\":\"ec\"}"
#define T10  "aaaaaaaaaa"
#define T200 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10 T10

static const struct jwt_rule ca_rule = {
    .issuer = "https://issuer",
    .audiences = { "istio-ca", "other", NULL },
    .leeway_s = 60,
};

static void
taken(void **state)
{
    static const struct {
        const char *header, *claims;
        int key;
    } rows[] = {
        { ES, GOOD, KIT_EC },
        { "{\"alg\":\"ES256\",\"kid\":\"ec\",\"typ\":\"JWT\"}", GOOD, KIT_EC },
        { "{\"alg\":\"ES256\",\"kid\":\"ec\",\"typ\":\"at+JWT\"}", GOOD, KIT_EC },
        { "{\"alg\":\"ES256\"}", GOOD, KIT_EC },
        { "{\"alg\":\"RS256\"}", GOOD, KIT_RSA },
        { "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", GOOD, KIT_RSA },
        { ES, "{" ISS ",\"aud\":[\"istio-ca\"]," SUB "," EXP "}", KIT_EC },
        { ES, "{" ISS ",\"aud\":[\"x\",\"other\"]," SUB "," EXP "}", KIT_EC },
        { ES, "{" ISS "," AUD "," SUB ",\"exp\":1999999990}", KIT_EC },
        { ES, "{" ISS "," AUD "," SUB "," EXP ",\"nbf\":2000000030}", KIT_EC },
        { ES, "{" ISS "," AUD "," SUB "," EXP ",\"iat\":1999999000,\"unknown\":[{}]}", KIT_EC },
        { ES, " " GOOD "\n", KIT_EC },
        /* keys that the token brings itself are not even looked at (peers.md 5a 8) */
        { "{\"alg\":\"ES256\",\"kid\":\"ec\",\"jwk\":{},\"x5c\":[1],\"jku\":\"http://x\"}", GOOD,
          KIT_EC },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf token = BUF_INIT(JWT_MAX_BYTES);
        struct jwt_claims c;
        const char *reason;
        struct err e;

        kit_token(rows[i].header, rows[i].claims, rows[i].key, &token);
        assert_ok(jwt_verify(kit.jwks, buf_span(&token), &ca_rule, &c, &reason, &e));
        assert_string_equal(c.issuer, "https://issuer");
        assert_string_equal(c.subject, "system:serviceaccount:shop:cart");
        buf_done(&token);
    }
}

static void
refused(void **state)
{
    static const struct {
        const char *name, *header, *claims;
        int key;
        const char *reason, *says;
    } rows[] = {
        { "expired", ES, "{" ISS "," AUD "," SUB ",\"exp\":1999999930}", KIT_EC, "expired",
          "expired at 2033-05-18T03:32:10Z" },
        { "not yet valid", ES, "{" ISS "," AUD "," SUB "," EXP ",\"nbf\":2000000120}", KIT_EC,
          "not_yet_valid", "not valid before" },
        { "wrong audience", ES, "{" ISS ",\"aud\":\"vault\"," SUB "," EXP "}", KIT_EC, "audience",
          "not for the audience \"istio-ca\"" },
        { "audience as a prefix", ES, "{" ISS ",\"aud\":\"istio-ca2\"," SUB "," EXP "}", KIT_EC,
          "audience", "not for" },
        { "no audience", ES, "{" ISS "," SUB "," EXP "}", KIT_EC, "audience", "not for" },
        { "empty audience list", ES, "{" ISS ",\"aud\":[]," SUB "," EXP "}", KIT_EC, "audience",
          "not for" },
        { "aud as object", ES, "{" ISS ",\"aud\":{\"istio-ca\":1}," SUB "," EXP "}", KIT_EC,
          "malformed", "neither text nor list" },
        { "aud as number", ES, "{" ISS ",\"aud\":1," SUB "," EXP "}", KIT_EC, "malformed",
          "neither text nor list" },
        { "aud list with a number", ES, "{" ISS ",\"aud\":[\"istio-ca\",1]," SUB "," EXP "}",
          KIT_EC, "malformed", "no text" },
        { "wrong issuer", ES, "{\"iss\":\"https://evil\"," AUD "," SUB "," EXP "}", KIT_EC,
          "issuer", "https://evil" },
        { "issuer with a slash more", ES, "{\"iss\":\"https://issuer/\"," AUD "," SUB "," EXP "}",
          KIT_EC, "issuer", "want \"https://issuer\"" },
        { "no issuer", ES, "{" AUD "," SUB "," EXP "}", KIT_EC, "issuer", "want" },
        { "iss as number", ES, "{\"iss\":1," AUD "," SUB "," EXP "}", KIT_EC, "malformed",
          "\"iss\" is not a text" },
        { "iss too long", ES, "{\"iss\":\"" T200 T200 T200 "\"," AUD "," SUB "," EXP "}", KIT_EC,
          "malformed", "\"iss\" has 600 bytes" },
        { "sub as list", ES, "{" ISS "," AUD ",\"sub\":[]," EXP "}", KIT_EC, "malformed",
          "\"sub\"" },
        { "sub with a NUL", ES, "{" ISS "," AUD ",\"sub\":\"a\\u0000b\"," EXP "}", KIT_EC,
          "malformed", "JSON" },
        { "no exp", ES, "{" ISS "," AUD "," SUB "}", KIT_EC, "malformed", "no \"exp\"" },
        { "exp null", ES, "{" ISS "," AUD "," SUB ",\"exp\":null}", KIT_EC, "malformed",
          "not a whole number" },
        { "exp text", ES, "{" ISS "," AUD "," SUB ",\"exp\":\"2000003600\"}", KIT_EC, "malformed",
          "not a whole number" },
        { "exp float", ES, "{" ISS "," AUD "," SUB ",\"exp\":2000003600.5}", KIT_EC, "malformed",
          "not a whole number" },
        { "exp exponent", ES, "{" ISS "," AUD "," SUB ",\"exp\":2e9}", KIT_EC, "malformed",
          "not a whole number" },
        { "exp negative", ES, "{" ISS "," AUD "," SUB ",\"exp\":-1}", KIT_EC, "malformed",
          "out of range" },
        { "exp zero", ES, "{" ISS "," AUD "," SUB ",\"exp\":0}", KIT_EC, "malformed",
          "out of range" },
        { "exp huge", ES, "{" ISS "," AUD "," SUB ",\"exp\":9223372036854775807}", KIT_EC,
          "malformed", "out of range" },
        { "exp over 64 bits", ES, "{" ISS "," AUD "," SUB ",\"exp\":9223372036854775808}", KIT_EC,
          "malformed", "JSON" },
        { "nbf text", ES, "{" ISS "," AUD "," SUB "," EXP ",\"nbf\":\"1\"}", KIT_EC, "malformed",
          "\"nbf\"" },
        { "iat float", ES, "{" ISS "," AUD "," SUB "," EXP ",\"iat\":1.5}", KIT_EC, "malformed",
          "\"iat\"" },
        { "exp twice", ES, "{" ISS "," AUD "," SUB "," EXP ",\"exp\":1}", KIT_EC, "malformed",
          "duplicate" },
        { "aud twice", ES, "{" ISS "," AUD ",\"aud\":\"vault\"," SUB "," EXP "}", KIT_EC,
          "malformed", "duplicate" },
        { "claims as list", ES, "[" GOOD "]", KIT_EC, "malformed", "not an object" },
        { "claims with a tail", ES, GOOD "{}", KIT_EC, "malformed", "JSON" },
        { "claims too deep", ES,
          "{" ISS "," AUD "," SUB "," EXP ",\"x\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}", KIT_EC,
          "malformed", "nested deeper than 16" },
        { "kubernetes.io as text", ES, "{" ISS "," AUD "," SUB "," EXP ",\"kubernetes.io\":\"x\"}",
          KIT_EC, "malformed", "not an object" },
        { "pod as list", ES, "{" ISS "," AUD "," SUB "," EXP ",\"kubernetes.io\":{\"pod\":[]}}",
          KIT_EC, "malformed", "\"pod\"" },
        { "namespace no name", ES,
          "{" ISS "," AUD "," SUB "," EXP ",\"kubernetes.io\":{\"namespace\":\"a/b\"}}", KIT_EC,
          "malformed", "not a name" },
        { "uid with a line break", ES,
          "{" ISS "," AUD "," SUB "," EXP ",\"kubernetes.io\":{\"pod\":{\"uid\":\"a\\nb\"}}}",
          KIT_EC, "malformed", "not a name" },
        { "alg none", "{\"alg\":\"none\"}", GOOD, KIT_EC, "alg", "\"none\" is not accepted" },
        { "alg None", "{\"alg\":\"None\",\"kid\":\"ec\"}", GOOD, KIT_EC, "alg", "not accepted" },
        { "alg HS256", "{\"alg\":\"HS256\",\"kid\":\"ec\"}", GOOD, KIT_EC, "alg", "not accepted" },
        { "alg empty", "{\"alg\":\"\",\"kid\":\"ec\"}", GOOD, KIT_EC, "alg", "not accepted" },
        { "alg absent", "{\"kid\":\"ec\"}", GOOD, KIT_EC, "alg", "no \"alg\"" },
        { "alg a number", "{\"alg\":256,\"kid\":\"ec\"}", GOOD, KIT_EC, "malformed", "\"alg\"" },
        { "RS256 with an EC key", "{\"alg\":\"RS256\",\"kid\":\"ec\"}", GOOD, KIT_RSA, "alg",
          "\"ec\" is not for RS256" },
        { "ES384 with a P-256 key", "{\"alg\":\"ES384\",\"kid\":\"ec\"}", GOOD, KIT_EC, "alg",
          "not for ES384" },
        { "RS512 where the set says RS256", "{\"alg\":\"RS512\",\"kid\":\"rsa\"}", GOOD, KIT_RSA,
          "alg", "not for RS512" },
        { "kid unknown", "{\"alg\":\"ES256\",\"kid\":\"x\"}", GOOD, KIT_EC, "kid",
          "\"x\" is not one of the issuer's" },
        { "kid empty", "{\"alg\":\"ES256\",\"kid\":\"\"}", GOOD, KIT_EC, "kid", "not one of" },
        { "kid a path", "{\"alg\":\"ES256\",\"kid\":\"../../dev/null\"}", GOOD, KIT_EC, "kid",
          "not one of" },
        { "kid a number", "{\"alg\":\"ES256\",\"kid\":7}", GOOD, KIT_EC, "malformed", "\"kid\"" },
        { "no kid and nothing fits", "{\"alg\":\"ES384\"}", GOOD, KIT_EC, "kid", "names no key" },
        { "another's key", ES, GOOD, KIT_STRANGER, "signature", "signature is wrong" },
        { "signature of the other kind", ES, GOOD, KIT_RSA, "signature", "256 bytes, want 64" },
        { "crit", "{\"alg\":\"ES256\",\"kid\":\"ec\",\"crit\":[\"exp\"]}", GOOD, KIT_EC,
          "malformed", "crit" },
        { "kid twice", "{\"alg\":\"ES256\",\"kid\":\"ec\",\"kid\":\"ec\"}", GOOD, KIT_EC,
          "malformed", "duplicate" },
        { "typ of a proof", "{\"alg\":\"ES256\",\"kid\":\"ec\",\"typ\":\"dpop+jwt\"}", GOOD, KIT_EC,
          "malformed", "dpop+jwt" },
        { "header no JSON", "x", GOOD, KIT_EC, "malformed", "header" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf token = BUF_INIT(JWT_MAX_BYTES);
        struct jwt_claims c = { .expires = 7 };
        const char *reason = NULL;
        struct err e;

        kit_token(rows[i].header, rows[i].claims, rows[i].key, &token);
        int r = jwt_verify(kit.jwks, buf_span(&token), &ca_rule, &c, &reason, &e);
        if (r != -E_AUTH || strcmp(reason, rows[i].reason) != 0 ||
            strstr(e.msg, rows[i].says) == NULL)
            fail_msg("%s: %d, %s, \"%s\"", rows[i].name, r, reason, e.msg);
        assert_int_equal(c.expires, 7);
        buf_done(&token);
    }
}

/* RFC 8725 2.1: the public key's text as a shared secret. */
static void
hmac_with_the_public_key(void **state)
{
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims c;
    const char *reason;
    uint8_t mac[32];
    unsigned n = sizeof(mac);
    struct err e;

    (void)state;
    assert_ok(base64url_add(&token, span_str("{\"alg\":\"HS256\",\"kid\":\"rsa\"}"), &e));
    assert_ok(buf_add_byte(&token, '.', &e));
    assert_ok(base64url_add(&token, span_str(GOOD), &e));
    assert_non_null(
        HMAC(EVP_sha256(), kit.jwks_text, (int)strlen(kit.jwks_text), token.p, token.n, mac, &n));
    assert_ok(buf_add_byte(&token, '.', &e));
    assert_ok(base64url_add(&token, span_of(mac, n), &e));
    assert_err(jwt_verify(kit.jwks, buf_span(&token), &ca_rule, &c, &reason, &e), E_AUTH, "HS256");
    assert_string_equal(reason, "alg");
    buf_done(&token);
}

/* RFC 7515 7.1: the compact form and nothing else. */
static void
forms(void **state)
{
    static const struct {
        const char *before, *first, *second, *after; /* around header, claims, signature */
        bool ok;
    } rows[] = {
        { "", ".", ".", "", true },         { "", ".", ".", ".", false },
        { "", ".", ".", ".x", false },      { "", ".", ".", "=", false },
        { "", "=.", ".", "", false },       { "", ".", "=.", "", false },
        { "", ".", ".", "\n", false },      { " ", ".", ".", "", false },
        { "", "..", ".", "", false },       { ".", ".", ".", "", false },
        { "", ".", ".", "A", false },       { "", ".", ".", "AAAA", false },
        { "", "", "", "", false },          { "", ".", "", "", false },
        { "Bearer ", ".", ".", "", false },
    };
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct span rest, part[3];
    char text[JWT_MAX_BYTES];
    struct jwt_claims c;
    const char *reason;
    struct err e;

    (void)state;
    kit_token(ES, GOOD, KIT_EC, &token);
    rest = buf_span(&token);
    for (size_t i = 0; i < 3; i++)
        assert_true(span_cut(&rest, '.', &part[i]));
    for (size_t i = 0; i < 3; i++)
        token.p[part[i].p + part[i].n - token.p] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        (void)snprintf(text, sizeof(text), "%s%s%s%s%s%s%s", rows[i].before, part[0].p,
                       rows[i].first, part[1].p, rows[i].second, part[2].p, rows[i].after);
        int r = jwt_verify(kit.jwks, span_str(text), &ca_rule, &c, &reason, &e);
        if (r != (rows[i].ok ? 0 : -E_AUTH))
            fail_msg("%s: %d", text, r);
    }
    /* no signature, also with a good kid and alg */
    (void)snprintf(text, sizeof(text), "%s.%s.", part[0].p, part[1].p);
    assert_err(jwt_verify(kit.jwks, span_str(text), &ca_rule, &c, &reason, &e), E_AUTH,
               "signature");
    assert_string_equal(reason, "signature");
    assert_err(jwt_verify(kit.jwks, span_str(""), &ca_rule, &c, &reason, &e), E_AUTH, "0 bytes");
    memset(text, 'A', sizeof(text));
    assert_err(jwt_verify(kit.jwks, span_of(text, sizeof(text)), &ca_rule, &c, &reason, &e), E_AUTH,
               "three parts");
    buf_done(&token);
}

static void
every_bit_counts(void **state)
{
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims c;
    const char *reason;
    struct err e;

    (void)state;
    kit_token(ES, GOOD, KIT_EC, &token);
    for (size_t i = 0; i < token.n; i++)
        for (int bit = 0; bit < 8; bit++) {
            token.p[i] ^= (uint8_t)(1 << bit);
            assert_int_equal(jwt_verify(kit.jwks, buf_span(&token), &ca_rule, &c, &reason, &e),
                             -E_AUTH);
            token.p[i] ^= (uint8_t)(1 << bit);
        }
    assert_ok(jwt_verify(kit.jwks, buf_span(&token), &ca_rule, &c, &reason, &e));
    buf_done(&token);
}

static void
without_keys_or_audiences(void **state)
{
    static const struct jwt_rule nobody = { .issuer = "https://issuer", .leeway_s = 60 };
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims c;
    const char *reason;
    struct err e;

    (void)state;
    kit_token(ES, GOOD, KIT_EC, &token);
    assert_err(jwt_verify(NULL, buf_span(&token), &ca_rule, &c, &reason, &e), E_AUTH,
               "have not been loaded");
    assert_string_equal(reason, "kid");
    assert_err(jwt_verify(kit.jwks, buf_span(&token), &nobody, &c, &reason, &e), E_AUTH,
               "audience");
    buf_done(&token);
}

static void
kubernetes_claims(void **state)
{
    static const char claims[] =
        "{" ISS "," AUD "," SUB "," EXP ",\"nbf\":1999999999,\"iat\":1999999998,\"jti\":\"j\","
        "\"oid\":\"o\",\"tid\":\"t\",\"appid\":\"a\",\"kubernetes.io\":{\"namespace\":\"shop\","
        "\"serviceaccount\":{\"name\":\"cart\",\"uid\":\"11-aB\"},\"pod\":{\"name\":\"cart-1\","
        "\"uid\":\"22\"},\"node\":{\"name\":\"n.1\"}}}";
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims c;
    const char *reason;
    struct err e;

    (void)state;
    kit_token(ES, claims, KIT_EC, &token);
    assert_ok(jwt_verify(kit.jwks, buf_span(&token), &ca_rule, &c, &reason, &e));
    assert_string_equal(c.k8s_namespace, "shop");
    assert_string_equal(c.k8s_service_account, "cart");
    assert_string_equal(c.k8s_sa_uid, "11-aB");
    assert_string_equal(c.k8s_pod, "cart-1");
    assert_string_equal(c.k8s_pod_uid, "22");
    assert_string_equal(c.k8s_node, "n.1");
    assert_string_equal(c.id, "j");
    assert_string_equal(c.oid, "o");
    assert_string_equal(c.tid, "t");
    assert_string_equal(c.appid, "a");
    assert_int_equal(c.expires, 2000003600);
    assert_int_equal(c.not_before, 1999999999);
    assert_int_equal(c.issued, 1999999998);
    buf_done(&token);
}

/* specs/peers.md 5c 36: a malformed sub crashed istiod. */
static void
workloads(void **state)
{
    static const struct {
        const char *sub, *ns, *sa;
        const char *want; /* NULL: refused */
    } rows[] = {
        { "system:serviceaccount:shop:cart", "", "", "spiffe://td/ns/shop/sa/cart" },
        { "system:serviceaccount:shop:cart", "shop", "cart", "spiffe://td/ns/shop/sa/cart" },
        { "system:serviceaccount:shop:a.b", "", "", "spiffe://td/ns/shop/sa/a.b" },
        { "system:serviceaccount:shop:cart", "shop", "admin", NULL },
        { "system:serviceaccount:shop:cart", "other", "cart", NULL },
        { "system:serviceaccount:shop:cart", "shop", "", NULL },
        { "system:serviceaccount:shop:cart", "", "cart", NULL },
        { "", "", "", NULL },
        { "", "shop", "cart", NULL },
        { "system", "", "", NULL },
        { "system:serviceaccount", "", "", NULL },
        { "system:serviceaccount:", "", "", NULL },
        { "system:serviceaccount:shop", "", "", NULL },
        { "system:serviceaccount:shop:", "", "", NULL },
        { "system:serviceaccount::cart", "", "", NULL },
        { "system:serviceaccount:shop:cart:x", "", "", NULL },
        { "system:serviceaccount:shop:cart:", "", "", NULL },
        { "system:serviceaccounts:shop:cart", "", "", NULL },
        { "system:node:shop:cart", "", "", NULL },
        { "xsystem:serviceaccount:shop:cart", "", "", NULL },
        { "system:serviceaccount:shop/sa/x:cart", "", "", NULL },
        { "system:serviceaccount:shop:../admin", "", "", NULL },
        { "system:serviceaccount:Shop:cart", "", "", NULL },
        { "system:serviceaccount:shop:c%61rt", "", "", NULL },
        { "system:serviceaccount:shop:*", "", "", NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct jwt_claims c = { 0 };
        struct spiffe_id id;
        char text[SPIFFE_ID_BYTES];
        struct err e;

        (void)snprintf(c.subject, sizeof(c.subject), "%s", rows[i].sub);
        (void)snprintf(c.k8s_namespace, sizeof(c.k8s_namespace), "%s", rows[i].ns);
        (void)snprintf(c.k8s_service_account, sizeof(c.k8s_service_account), "%s", rows[i].sa);
        if (rows[i].want == NULL) {
            assert_err(jwt_workload(&c, "td", &id, &e), E_AUTH, "token: subject");
            continue;
        }
        assert_ok(jwt_workload(&c, "td", &id, &e));
        spiffe_text(&id, text);
        assert_string_equal(text, rows[i].want);
        assert_err(jwt_workload(&c, "TD", &id, &e), E_AUTH, "trust domain");
    }
}

/* RFC 7515 A.2 and A.3: the signatures are right; the tokens are not for us. */
static void
rfc7515_appendix(void **state)
{
    static const char keys[] =
        "{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_"
        "wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJ"
        "PMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0"
        "LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uD"
        "Zlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2"
        "PAcDTW9gb54h4FRWyuXpoQ\"},"
        "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
        "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";
    static const char *const tokens[] = {
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9"
        "leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2Vt"
        "Qgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKB"
        "YNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN"
        "9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI"
        "8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9"
        "leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXF"
        "CgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    };
    struct jwt_rule rule = { .issuer = "joe", .audiences = { "x", NULL } };
    struct jwks *j = NULL;
    struct jwt_claims c;
    const char *reason;
    struct err e;

    (void)state;
    assert_ok(jwks_from_json(span_str(keys), &j, &e));
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
        char changed[1024];

        /* everything up to the audience is checked, so the signature was right */
        assert_err(jwt_verify(j, span_str(tokens[i]), &rule, &c, &reason, &e), E_AUTH, "audience");
        (void)snprintf(changed, sizeof(changed), "%s", tokens[i]);
        changed[strlen(changed) - 20] ^= 1;
        assert_err(jwt_verify(j, span_str(changed), &rule, &c, &reason, &e), E_AUTH, "signature");
    }
    jwks_unref(j);
}

static void
signing_round_trips(void **state)
{
    static const struct {
        enum key_kind kind;
        const char *header; /* base64url of {"typ":"JWT","alg": */
    } rows[] = { { KEY_P256, "ES256" }, { KEY_P384, "ES384" }, { KEY_RSA2048, "RS256" } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(key_unrefp) struct key *k = NULL;
        CLEANUP(jwks_unrefp) struct jwks *j = NULL;
        struct buf doc = BUF_INIT(4096), token = BUF_INIT(JWT_MAX_BYTES), head = BUF_INIT(1024);
        char kid[JWK_THUMBPRINT_BYTES];
        struct span rest, part;
        struct jwt_claims c;
        const char *reason;
        struct err e;

        assert_ok(key_make(rows[i].kind, &k, &e));
        assert_ok(jwk_thumbprint(k, kid, &e));
        assert_int_equal(strlen(kid), JWK_THUMBPRINT_BYTES - 1);
        assert_ok(jwks_of_key(k, kid, &doc, &e));
        assert_ok(jwks_from_json(buf_span(&doc), &j, &e));
        for (int n = 0; n < 20; n++) { /* short r and s are padded: one in 128 has one */
            buf_done(&token);
            assert_ok(jwt_sign(k, kid, true, span_str(GOOD), &token, &e));
            assert_ok(jwt_verify(j, buf_span(&token), &ca_rule, &c, &reason, &e));
        }
        rest = buf_span(&token);
        assert_true(span_cut(&rest, '.', &part));
        assert_ok(base64url_decode(&head, part, &e));
        assert_non_null(strstr(buf_text(&head), rows[i].header));
        assert_non_null(strstr(buf_text(&head), "\"typ\":\"JWT\""));
        assert_non_null(strstr(buf_text(&head), "\"x5t\":"));
        buf_done(&doc);
        buf_done(&token);
        buf_done(&head);
    }
}

static void
signing_fails_whole(void **state)
{
    CLEANUP(key_unrefp) struct key *ed = NULL;
    struct buf out = BUF_INIT(64);
    struct err e;

    (void)state;
    assert_ok(buf_add_str(&out, "before", &e));
    assert_err(jwt_sign(kit.keys[KIT_EC], "k", false, span_str(GOOD), &out, &e), E_LIMIT, "");
    assert_string_equal(buf_text(&out), "before");
    assert_ok(key_make(KEY_ED25519, &ed, &e));
    assert_err(jwt_sign(ed, "k", false, span_str(GOOD), &out, &e), E_INVAL, "ed25519");
    buf_done(&out);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taken),
        cmocka_unit_test(refused),
        cmocka_unit_test(hmac_with_the_public_key),
        cmocka_unit_test(forms),
        cmocka_unit_test(every_bit_counts),
        cmocka_unit_test(without_keys_or_audiences),
        cmocka_unit_test(kubernetes_claims),
        cmocka_unit_test(workloads),
        cmocka_unit_test(rfc7515_appendix),
        cmocka_unit_test(signing_round_trips),
        cmocka_unit_test(signing_fails_whole),
    };

    return cmocka_run_group_tests(tests, kit_setup, kit_teardown);
}
