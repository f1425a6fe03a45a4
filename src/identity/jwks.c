#include <stdatomic.h>

#include "base/str.h"
#include "net/json.h"
#include "identity/keyset.h"

struct entry {
    struct jws_key *key; /* owned */
    char kid[JWKS_KID_BYTES];
    bool has_kid;
    const struct jws_alg *alg; /* NULL: any that fits the kind */
};

struct jwks {
    atomic_uint refs;
    struct memo *memo; /* owned */
    size_t n;
    struct entry v[JWKS_MAX_KEYS];
};

enum { SKIPPED = 1, NUMBER_MAX_BYTES = 1536 /* base64url needs some slack over 1024 */ };

static int
number_read(const json_t *o, const char *name, struct buf *out, struct err *e)
{
    struct span text;

    if (TRY(json_text(o, name, &text, e)) == JSON_MEMBER_ABSENT)
        return err_set(e, E_PARSE, "no \"%s\"", name);
    if (base64url_decode(out, text, e) < 0)
        return err_wrap(e, "\"%s\"", name);
    return 0;
}

/* Whether the key may check signatures: use and key_ops, RFC 7517 4.2 and 4.3. */
static int
purpose_read(const json_t *o, bool *ret_verifies, struct err *e)
{
    const json_t *ops = json_object_get(o, "key_ops"), *op;
    struct span use;
    size_t i;
    bool ok = TRY(json_text(o, "use", &use, e)) == JSON_MEMBER_ABSENT || span_eq_str(use, "sig");

    if (ops != NULL && !json_is_array(ops))
        return err_set(e, E_PARSE, "\"key_ops\" is not a list");
    bool in_ops = ops == NULL;
    json_array_foreach(ops, i, op)
        in_ops = in_ops || (json_is_string(op) && strcmp(json_string_value(op), "verify") == 0);
    *ret_verifies = ok && in_ops;
    return 0;
}

/* r: 0 done; SKIPPED a kind or curve that is not ours. */
static int
material_read(const json_t *o, struct jws_key **ret, struct err *e)
{
    struct buf a = BUF_INIT(NUMBER_MAX_BYTES), b = BUF_INIT(NUMBER_MAX_BYTES);
    struct span kty, crv = { 0 };
    int r;

    if (TRY(json_text(o, "kty", &kty, e)) == JSON_MEMBER_ABSENT)
        return err_set(e, E_PARSE, "no \"kty\"");
    bool rsa = span_eq_str(kty, "RSA");
    if (!rsa && !span_eq_str(kty, "EC"))
        return SKIPPED;
    if (json_object_get(o, "d") != NULL)
        return err_set(e, E_PARSE,
                       "a private key (\"d\"): whoever can read it can sign tokens; publish only "
                       "the public half, and make a new key");
    if (!rsa && TRY(json_text(o, "crv", &crv, e)) == JSON_MEMBER_ABSENT)
        return err_set(e, E_PARSE, "no \"crv\"");
    r = number_read(o, rsa ? "n" : "x", &a, e);
    if (r == 0)
        r = number_read(o, rsa ? "e" : "y", &b, e);
    if (r == 0)
        r = rsa ? jws_key_rsa(buf_span(&a), buf_span(&b), ret, e)
                : jws_key_ec(crv, buf_span(&a), buf_span(&b), ret, e);
    buf_done(&a);
    buf_done(&b);
    return r == JWS_OTHER_CURVE ? SKIPPED : r;
}

static int
entry_read(const json_t *o, struct entry *ret, struct err *e)
{
    CLEANUP(jws_key_freep) struct jws_key *key = NULL;
    struct entry x = { 0 };
    struct span alg;
    bool verifies;

    if (!json_is_object(o))
        return err_set(e, E_PARSE, "not an object");
    TRY(json_text_copy(o, "kid", x.kid, sizeof(x.kid), e));
    x.has_kid = json_object_get(o, "kid") != NULL;
    TRY(purpose_read(o, &verifies, e));
    if (!verifies)
        return SKIPPED;
    if (TRY(json_text(o, "alg", &alg, e)) != JSON_MEMBER_ABSENT) {
        x.alg = jws_alg_find(alg);
        if (x.alg == NULL)
            return SKIPPED;
    }
    if (TRY(material_read(o, &key, e)) == SKIPPED)
        return SKIPPED;
    if (x.alg != NULL && x.alg->kind != jws_key_kind(key))
        return err_set(e, E_PARSE, "\"alg\" %s does not go with the key", x.alg->name);
    x.key = STEAL(key);
    *ret = x;
    return 0;
}

static int
entries_read(const json_t *keys, struct jwks *j, struct err *e)
{
    const json_t *o;
    size_t i;

    json_array_foreach(keys, i, o) {
        int r = entry_read(o, &j->v[j->n], e);

        if (r < 0)
            return err_wrap(e, "key %zu", i + 1);
        if (r == SKIPPED)
            continue;
        const struct entry *x = &j->v[j->n++];
        for (const struct entry *y = j->v; y < x; y++)
            if (x->has_kid && y->has_kid && strcmp(x->kid, y->kid) == 0 &&
                jws_key_kind(x->key) == jws_key_kind(y->key))
                return err_set(e, E_PARSE, "key %zu: kid \"%.64s\" is there twice", i + 1, x->kid);
    }
    if (j->n == 0)
        return err_set(e, E_PARSE,
                       "no key that can check tokens; want RSA of 2048 bits or more, P-256, P-384 "
                       "or P-521");
    return 0;
}

int
jwks_from_json(struct span json, struct jwks **ret, struct err *e)
{
    CLEANUP(json_decrefp) json_t *doc = NULL;
    CLEANUP(jwks_unrefp) struct jwks *j = NULL;

    if (json.n > JWKS_DOC_MAX_BYTES)
        return err_set(e, E_LIMIT, "key set of %zu bytes, at most %d are allowed", json.n,
                       JWKS_DOC_MAX_BYTES);
    if (json_object_parse(json, JSON_MAX_DEPTH, &doc, e) < 0)
        return err_wrap(e, "key set");
    const json_t *keys = json_object_get(doc, "keys");
    if (!json_is_array(keys))
        return err_set(e, E_PARSE, "key set: no list \"keys\" (RFC 7517 5)");
    if (json_array_size(keys) > JWKS_MAX_KEYS)
        return err_set(e, E_LIMIT, "key set: %zu keys, at most %d are allowed",
                       json_array_size(keys), JWKS_MAX_KEYS);
    j = calloc(1, sizeof(*j));
    if (j == NULL)
        return err_nomem(e);
    atomic_init(&j->refs, 1);
    TRY(memo_new(&j->memo, e));
    if (entries_read(keys, j, e) < 0)
        return err_wrap(e, "key set");
    *ret = STEAL(j);
    return 0;
}

struct jwks *
jwks_ref(struct jwks *j)
{
    atomic_fetch_add(&j->refs, 1);
    return j;
}

void
jwks_unref(struct jwks *j)
{
    if (j == NULL || atomic_fetch_sub(&j->refs, 1) != 1)
        return;
    for (size_t i = 0; i < j->n; i++)
        jws_key_free(j->v[i].key);
    memo_free(j->memo);
    free(j);
}

struct memo *
keyset_memo(const struct jwks *j)
{
    return j->memo;
}

size_t
jwks_count(const struct jwks *j)
{
    return j->n;
}

static bool
fits(const struct entry *x, const struct jws_alg *alg)
{
    return jws_key_kind(x->key) == alg->kind && (x->alg == NULL || x->alg == alg);
}

int
keyset_find(const struct jwks *j, const struct span *kid, const struct jws_alg *alg,
            const struct jws_key **ret)
{
    const struct entry *found = NULL;
    size_t named_n = 0, fit_n = 0;

    for (size_t i = 0; i < j->n; i++) {
        const struct entry *x = &j->v[i];

        if (kid != NULL && (!x->has_kid || !span_eq_str(*kid, x->kid)))
            continue;
        named_n++;
        if (!fits(x, alg))
            continue;
        fit_n++;
        found = x;
    }
    if (fit_n == 1) {
        *ret = found->key;
        return 0;
    }
    return kid != NULL && named_n > 0 ? KEYSET_OTHER_ALG : KEYSET_NO_KEY;
}

/* The public half as JSON members; only those that a thumbprint covers (RFC 7638 3.2). */
static int
public_json(const struct key *k, json_t **ret, struct err *e)
{
    struct buf raw[2] = { BUF_INIT(NUMBER_MAX_BYTES), BUF_INIT(NUMBER_MAX_BYTES) };
    struct buf text[2] = { BUF_INIT(2 * NUMBER_MAX_BYTES), BUF_INIT(2 * NUMBER_MAX_BYTES) };
    const char *crv = NULL;
    int r = jws_public(k, &crv, &raw[0], &raw[1], e);

    for (size_t i = 0; i < 2 && r == 0; i++)
        r = base64url_add(&text[i], buf_span(&raw[i]), e);
    if (r == 0) {
        *ret = crv == NULL ? json_pack("{s:s, s:s, s:s}", "kty", "RSA", "n", buf_text(&text[0]),
                                       "e", buf_text(&text[1]))
                           : json_pack("{s:s, s:s, s:s, s:s}", "kty", "EC", "crv", crv, "x",
                                       buf_text(&text[0]), "y", buf_text(&text[1]));
        r = *ret == NULL ? err_nomem(e) : 0;
    }
    for (size_t i = 0; i < 2; i++) {
        buf_done(&raw[i]);
        buf_done(&text[i]);
    }
    return r;
}

int
jwks_of_key(const struct key *k, const char *kid, struct buf *out, struct err *e)
{
    CLEANUP(json_decrefp) json_t *jwk = NULL;
    const struct jws_alg *alg;

    TRY(jws_alg_of(k, &alg, e));
    TRY(public_json(k, &jwk, e));
    CLEANUP(json_decrefp)
    json_t *doc =
        json_pack("{s:[{s:s, s:s, s:s}]}", "keys", "kid", kid, "use", "sig", "alg", alg->name);
    if (doc == NULL ||
        json_object_update(json_array_get(json_object_get(doc, "keys"), 0), jwk) != 0)
        return err_nomem(e);
    CLEANUP(str_freep) char *text = json_dumps(doc, JSON_COMPACT);
    return text == NULL ? err_nomem(e) : buf_add_str(out, text, e);
}

int
jwk_thumbprint(const struct key *k, char ret[JWK_THUMBPRINT_BYTES], struct err *e)
{
    CLEANUP(json_decrefp) json_t *jwk = NULL;
    struct buf b = BUF_INIT(JWK_THUMBPRINT_BYTES * 2);
    uint8_t sum[DIGEST_BYTES];

    TRY(public_json(k, &jwk, e));
    CLEANUP(str_freep) char *text = json_dumps(jwk, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL)
        return err_nomem(e);
    digest(span_str(text), sum);
    int r = base64url_add(&b, span_of(sum, sizeof(sum)), e);
    if (r == 0)
        memcpy(ret, buf_text(&b), JWK_THUMBPRINT_BYTES);
    buf_done(&b);
    return r;
}

int
jwk_of_cert(const struct cert *c, char ret_kid[JWK_THUMBPRINT_BYTES], struct buf *out,
            struct err *e)
{
    CLEANUP(key_unrefp) struct key *k = NULL;
    CLEANUP(json_decrefp) json_t *jwk = NULL;
    const struct jws_alg *alg;

    TRY(cert_public_key(c, &k, e));
    TRY(jws_alg_of(k, &alg, e)); /* that it can sign tokens at all */
    TRY(jwk_thumbprint(k, ret_kid, e));
    TRY(public_json(k, &jwk, e));
    if (json_object_set_new(jwk, "kid", json_string(ret_kid)) != 0)
        return err_nomem(e);
    CLEANUP(str_freep) char *text = json_dumps(jwk, JSON_COMPACT | JSON_SORT_KEYS);
    return text == NULL ? err_nomem(e) : buf_add_str(out, text, e);
}
