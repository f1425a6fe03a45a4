/* fuzz_jwt.c - no bytes but the ones that were signed are a good token; the claims of a token that
 * is signed, whatever they are, come out within their bounds or not at all.
 *
 * First byte: even, the rest is a token; odd, the rest is the claims of a token that we sign. */
#include <stdlib.h>
#include <string.h>

#include "identity/identity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
    struct key *key;
    struct jwks *jwks;
    struct buf good;
} kit;

static const struct jwt_rule rule = {
    .issuer = "https://issuer",
    .audiences = { "istio-ca", NULL },
    .leeway_s = 60,
};

static void
kit_make(void)
{
    static const char claims[] =
        "{\"iss\":\"https://issuer\",\"aud\":\"istio-ca\",\"exp\":4102444800,"
        "\"sub\":\"system:serviceaccount:a:b\"}";
    struct buf doc = BUF_INIT(4096);
    struct err e;

    kit.good = BUF_INIT(JWT_MAX_BYTES);
    if (key_make(KEY_P256, &kit.key, &e) < 0 || jwks_of_key(kit.key, "k", &doc, &e) < 0 ||
        jwks_from_json(buf_span(&doc), &kit.jwks, &e) < 0 ||
        jwt_sign(kit.key, "k", false, span_str(claims), &kit.good, &e) < 0)
        abort();
    buf_done(&doc);
}

static bool
is_text(const char *s, size_t cap)
{
    return memchr(s, '\0', cap) != NULL;
}

static void
token_check(struct span token)
{
    struct jwt_claims c;
    const char *reason = NULL;
    struct err e;

    if (jwt_verify(kit.jwks, token, &rule, &c, &reason, &e) == 0)
        abort(); /* the key is of this run: nobody has signed with it */
    if (reason == NULL || e.code != E_AUTH)
        abort();
    char issuer[JWT_ISSUER_BYTES];
    jwt_claimed_issuer(token, issuer);
    if (!is_text(issuer, sizeof(issuer)))
        abort();
    /* the same bytes in place of the good token's signature */
    struct buf b = BUF_INIT(2 * JWT_MAX_BYTES);
    const uint8_t *dot = memrchr(kit.good.p, '.', kit.good.n);
    if (buf_add(&b, span_of(kit.good.p, (size_t)(dot + 1 - kit.good.p)), &e) == 0 &&
        buf_add(&b, token, &e) == 0 &&
        jwt_verify(kit.jwks, buf_span(&b), &rule, &c, &reason, &e) == 0)
        abort();
    buf_done(&b);
}

static void
claims_check(struct span claims)
{
    struct buf token = BUF_INIT(JWT_MAX_BYTES);
    struct jwt_claims c;
    struct spiffe_id id;
    const char *reason = NULL;
    char text[SPIFFE_ID_BYTES];
    struct err e;

    if (jwt_sign(kit.key, "k", false, claims, &token, &e) == 0 &&
        jwt_verify(kit.jwks, buf_span(&token), &rule, &c, &reason, &e) == 0) {
        if (!is_text(c.subject, sizeof(c.subject)) || !is_text(c.id, sizeof(c.id)) ||
            !is_text(c.k8s_pod, sizeof(c.k8s_pod)) || !is_text(c.oid, sizeof(c.oid)) ||
            strcmp(c.issuer, "https://issuer") != 0 || c.expires <= 0)
            abort();
        if (jwt_workload(&c, "td", &id, &e) == 0) {
            spiffe_text(&id, text);
            if (spiffe_parse(span_str(text), &id, &e) < 0)
                abort();
        }
    }
    buf_done(&token);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (kit.key == NULL)
        kit_make();
    if (size == 0 || size > JWT_MAX_BYTES)
        return 0;
    if (data[0] % 2 == 0)
        token_check(span_of(data + 1, size - 1));
    else
        claims_check(span_of(data + 1, size - 1));
    return 0;
}
