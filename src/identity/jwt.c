/* jwt.c - tokens: what is checked is the very bytes that are then read (peers.md 5a 7, 8), in the
 * order form, algorithm, key, signature, claims; nothing of a token is used before its signature.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "identity/keyset.h"

enum {
    AUD_MAX = 32, /* audiences in one token */
    B64_SLACK = 8,
};
static const json_int_t time_max_s = 253402300799; /* 9999-12-31T23:59:59Z */

/* Records a refusal with its reason word. Yields -E_AUTH. */
#define refuse(reason, word, e, ...) (*(reason) = (word), err_set((e), E_AUTH, __VA_ARGS__))

/* A failure below says what is wrong with the bytes; to the caller it is who sent them that counts.
 * Memory that ran out stays what it is. */
static int
malformed(const char **reason, struct err *e, const char *where)
{
    *reason = "malformed";
    if (e->code != E_NOMEM)
        e->code = E_AUTH;
    return err_wrap(e, "token: %s", where);
}

/* -- form ---------------------------------------------------------------------------------------
 */

struct parts {
    struct span header, claims, signature; /* as sent */
    struct span input;                     /* header.claims: what is signed */
};

static int
parts_cut(struct span token, struct parts *ret, const char **reason, struct err *e)
{
    struct parts p;
    struct span rest = token;

    if (token.n == 0 || token.n > JWT_MAX_BYTES)
        return refuse(reason, "malformed", e, "token: %zu bytes, want 1..%d", token.n,
                      JWT_MAX_BYTES);
    if (!span_cut(&rest, '.', &p.header) || !span_cut(&rest, '.', &p.claims) ||
        !span_cut(&rest, '.', &p.signature) || rest.p != NULL)
        return refuse(reason, "malformed", e, "token: want three parts (RFC 7515 7.1)");
    if (p.header.n == 0 || p.claims.n == 0)
        return refuse(reason, "malformed", e, "token: an empty part (RFC 7515 7.1)");
    p.input = span_of(token.p, p.header.n + 1 + p.claims.n);
    *ret = p;
    return 0;
}

static int
part_json(struct span text, const char *where, json_t **ret, const char **reason, struct err *e)
{
    struct buf raw = BUF_INIT(JWT_MAX_BYTES + B64_SLACK);
    int r = base64url_decode(&raw, text, e);

    if (r == 0)
        r = json_object_parse(buf_span(&raw), JSON_MAX_DEPTH, ret, e);
    buf_wipe(&raw);
    return r < 0 ? malformed(reason, e, where) : 0;
}

/* -- header -------------------------------------------------------------------------------------
 */

struct header {
    const struct jws_alg *alg;
    struct span kid; /* borrowed from the JSON */
    bool has_kid;
};

/* Tokens of another use, DPoP proofs and logout tokens for example, carry another type. */
static bool
type_ok(struct span typ)
{
    static const char *const types[] = { "JWT", "JOSE", "at+jwt", "application/jwt",
                                         "application/at+jwt" };

    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (typ.n == strlen(types[i]) && strncasecmp((const char *)typ.p, types[i], typ.n) == 0)
            return true;
    return false;
}

static int
header_read(const json_t *o, struct header *ret, const char **reason, struct err *e)
{
    struct span text;
    struct header h = { 0 };

    if (json_object_get(o, "crit") != NULL)
        return refuse(reason, "malformed", e,
                      "token: header \"crit\" asks for an extension that "
                      "is not known here (RFC 7515 4.1.11)");
    int r = json_text(o, "typ", &text, e);
    if (r < 0)
        return malformed(reason, e, "header");
    if (r == 0 && !type_ok(text))
        return refuse(reason, "malformed", e, "token: type \"%.32s\", want JWT",
                      (const char *)text.p);
    r = json_text(o, "alg", &text, e);
    if (r < 0)
        return malformed(reason, e, "header");
    if (r == JSON_MEMBER_ABSENT)
        return refuse(reason, "alg", e, "token: header has no \"alg\" (RFC 7515 4.1.1)");
    h.alg = jws_alg_find(text);
    if (h.alg == NULL)
        return refuse(reason, "alg", e, "token: algorithm \"%.32s\" is not accepted",
                      (const char *)text.p);
    r = json_text(o, "kid", &h.kid, e);
    if (r < 0)
        return malformed(reason, e, "header");
    h.has_kid = r == 0;
    *ret = h;
    return 0;
}

static int
signature_check(const struct jwks *keys, const struct header *h, const struct parts *p,
                const char **reason, struct err *e)
{
    const struct jws_key *key = NULL;
    struct buf sig = BUF_INIT(JWT_MAX_BYTES + B64_SLACK);
    /* header_read has filled it, or signature_check is not called: the analyzer loses that */
    const struct span *kid = h->has_kid ? &h->kid : NULL; /* NOLINT(clang-analyzer-core.*) */
    int r = keys == NULL ? KEYSET_NO_KEY : keyset_find(keys, kid, h->alg, &key);

    if (keys == NULL)
        return refuse(reason, "kid", e, "token: the issuer's keys have not been loaded yet");
    if (r == KEYSET_OTHER_ALG)
        return refuse(reason, "alg", e, "token: key \"%.64s\" is not for %s",
                      (const char *)h->kid.p, h->alg->name);
    if (r == KEYSET_NO_KEY && h->has_kid)
        return refuse(reason, "kid", e, "token: key \"%.64s\" is not one of the issuer's",
                      (const char *)h->kid.p);
    if (r == KEYSET_NO_KEY)
        return refuse(reason, "kid", e,
                      "token: names no key, and not exactly one of the issuer's "
                      "fits %s",
                      h->alg->name);
    r = base64url_decode(&sig, p->signature, e);
    if (r < 0) {
        buf_done(&sig);
        return malformed(reason, e, "signature");
    }
    r = jws_verify(key, h->alg, p->input, buf_span(&sig), e);
    buf_done(&sig);
    if (r < 0 && e->code != E_NOMEM)
        return refuse(reason, "signature", e, "token: %s", e->msg);
    return r;
}

/* -- claims -------------------------------------------------------------------------------------
 */

enum grammar { ANY_TEXT, LABEL, SUBDOMAIN, UID };

static bool
uid_ok(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];

        if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-'))
            return false;
    }
    return true;
}

/* Everything that a verified token may tell us, as text. These words go into ledger rows, log lines
 * and SPIFFE ids, so each has its grammar (CVE-2021-41803, peers.md 5a 11). */
#define CLAIM(inner, name, member, grammar)                                                        \
    {                                                                                              \
        inner, name, offsetof(struct jwt_claims, member),                                          \
            sizeof(((struct jwt_claims *)NULL)->member), grammar                                   \
    }
static const struct claim {
    const char *inner; /* object inside "kubernetes.io"; "" itself; NULL: of the token */
    const char *name;
    size_t at, cap;
    enum grammar grammar;
} claims[] = {
    CLAIM(NULL, "iss", issuer, ANY_TEXT),
    CLAIM(NULL, "sub", subject, ANY_TEXT),
    CLAIM(NULL, "jti", id, ANY_TEXT),
    CLAIM(NULL, "oid", oid, ANY_TEXT),
    CLAIM(NULL, "tid", tid, ANY_TEXT),
    CLAIM(NULL, "appid", appid, ANY_TEXT),
    CLAIM("", "namespace", k8s_namespace, LABEL),
    CLAIM("serviceaccount", "name", k8s_service_account, SUBDOMAIN),
    CLAIM("serviceaccount", "uid", k8s_sa_uid, UID),
    CLAIM("pod", "name", k8s_pod, SUBDOMAIN),
    CLAIM("pod", "uid", k8s_pod_uid, UID),
    CLAIM("node", "name", k8s_node, SUBDOMAIN),
    CLAIM("secret", "name", k8s_secret, SUBDOMAIN),
};

static bool
grammar_ok(enum grammar g, const char *text)
{
    struct span s = span_str(text);

    if (s.n == 0 || g == ANY_TEXT)
        return true;
    if (g == UID)
        return uid_ok(s);
    return g == LABEL ? k8s_label_ok(s) : k8s_subdomain_ok(s);
}

/* The object that a claim is in; NULL when the token has none. */
static int
claim_home(const json_t *o, const struct claim *c, const json_t **ret, struct err *e)
{
    const json_t *home = o;

    if (c->inner != NULL)
        home = json_object_get(o, "kubernetes.io");
    if (home != NULL && !json_is_object(home))
        return err_set(e, E_PARSE, "\"kubernetes.io\" is not an object");
    if (home != NULL && c->inner != NULL && c->inner[0] != '\0')
        home = json_object_get(home, c->inner);
    if (home != NULL && !json_is_object(home))
        return err_set(e, E_PARSE, "\"%s\" of \"kubernetes.io\" is not an object", c->inner);
    *ret = home;
    return 0;
}

static int
texts_read(const json_t *o, struct jwt_claims *ret, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(claims); i++) {
        const struct claim *c = &claims[i];
        const json_t *home = NULL;
        char *at = (char *)ret + c->at;

        TRY(claim_home(o, c, &home, e));
        if (home == NULL)
            continue;
        TRY(json_text_copy(home, c->name, at, c->cap, e));
        if (!grammar_ok(c->grammar, at))
            return err_set(e, E_PARSE, "\"%s\" of \"kubernetes.io\" is not a name", c->name);
    }
    return 0;
}

/* RFC 7519 2, NumericDate, whole seconds only: a float, a text or a number out of range is refused,
 * as nobody agrees on what it would mean (peers.md 5b 28). */
static int
time_read(const json_t *o, const char *name, int64_t *ret, struct err *e)
{
    const json_t *v = json_object_get(o, name);

    if (v == NULL)
        return 0;
    if (!json_is_integer(v))
        return err_set(e, E_PARSE, "\"%s\" is not a whole number", name);
    if (json_integer_value(v) <= 0 || json_integer_value(v) > time_max_s)
        return err_set(e, E_PARSE, "\"%s\" is out of range", name);
    *ret = json_integer_value(v);
    return 0;
}

static int
claims_read(const json_t *o, struct jwt_claims *ret, struct err *e)
{
    TRY(texts_read(o, ret, e));
    ret->is_kubernetes = json_object_get(o, "kubernetes.io") != NULL;
    TRY(time_read(o, "exp", &ret->expires, e));
    TRY(time_read(o, "nbf", &ret->not_before, e));
    TRY(time_read(o, "iat", &ret->issued, e));
    if (ret->expires == 0)
        return err_set(e, E_PARSE, "no \"exp\"");
    return 0;
}

/* RFC 7519 4.1.3: a text, or a list of texts. Each goes into `out` with its NUL. */
static int
audiences_read(const json_t *o, struct buf *out, struct err *e)
{
    const json_t *aud = json_object_get(o, "aud"), *one;
    size_t i;

    if (aud != NULL && !json_is_string(aud) && !json_is_array(aud))
        return err_set(e, E_PARSE, "\"aud\" is neither text nor list");
    if (json_array_size(aud) > AUD_MAX)
        return err_set(e, E_PARSE, "more than %d audiences", AUD_MAX);
    if (json_is_string(aud))
        return buf_add(out, span_of(json_string_value(aud), json_string_length(aud) + 1), e);
    json_array_foreach(aud, i, one) {
        if (!json_is_string(one))
            return err_set(e, E_PARSE, "\"aud\" has a member that is no text");
        TRY(buf_add(out, span_of(json_string_value(one), json_string_length(one) + 1), e));
    }
    return 0;
}

/* -- the rule: at every call, remembered or not --------------------------------------------------
 */

static bool
audience_is_wanted(const struct jwt_rule *rule, struct span audiences)
{
    for (struct span rest = audiences, one; span_cut(&rest, '\0', &one);)
        for (size_t i = 0; i < JWT_AUDIENCES && rule->audiences[i] != NULL; i++)
            if (rest.p != NULL && span_eq_str(one, rule->audiences[i]))
                return true;
    return false;
}

static int
rule_check(const struct jwt_rule *rule, const struct jwt_claims *c, struct span audiences,
           const char **reason, struct err *e)
{
    int64_t now = unix_s(), leeway = (int64_t)rule->leeway_s;
    char when[RFC3339_BYTES];

    if (rule->issuer != NULL && strcmp(rule->issuer, c->issuer) != 0)
        return refuse(reason, "issuer", e, "token: issuer \"%s\", want \"%s\"", c->issuer,
                      rule->issuer);
    if (!audience_is_wanted(rule, audiences))
        return refuse(reason, "audience", e, "token: is not for the audience \"%s\"",
                      rule->audiences[0] == NULL ? "" : rule->audiences[0]);
    if (now >= c->expires + leeway) {
        rfc3339_s(c->expires, when);
        return refuse(reason, "expired", e, "token: expired at %s", when);
    }
    if (c->not_before > now + leeway) {
        rfc3339_s(c->not_before, when);
        return refuse(reason, "not_yet_valid", e, "token: not valid before %s", when);
    }
    return 0;
}

/* -- memory: what was read of a token whose signature is good ------------------------------------
 */

struct vouched {
    struct jwt_claims claims;
    struct buf audiences; /* each with its NUL */
};

/* The claims as they lie in memory, mostly the zeros behind short texts: runs of them are counted,
 * not kept. A run: how many zeros, how many bytes follow (two bytes each), these bytes. */
static void
vouched_remember(struct memo *m, const uint8_t id[DIGEST_BYTES], const struct vouched *v)
{
    struct buf b = BUF_INIT(MEMO_CONTENT_BYTES);
    const uint8_t *p = (const uint8_t *)&v->claims;
    struct err e;
    int r = 0;

    static_assert(sizeof(v->claims) <= UINT16_MAX, "a run's length has two bytes");
    for (size_t at = 0, end = 0; end < sizeof(v->claims) && r == 0;) {
        at = end;
        while (at < sizeof(v->claims) && p[at] == 0)
            at++;
        uint16_t head[2] = { (uint16_t)(at - end), 0 };
        for (end = at; end < sizeof(v->claims) && p[end] != 0;)
            end++;
        head[1] = (uint16_t)(end - at);
        r = buf_add(&b, span_of(head, sizeof(head)), &e);
        if (r == 0)
            r = buf_add(&b, span_of(p + at, head[1]), &e);
    }
    if (r == 0)
        r = buf_add(&b, buf_span(&v->audiences), &e);
    if (r == 0)
        memo_add(m, id, buf_span(&b));
    buf_done(&b);
}

/* `ret` is all zero before; after false it may not be. */
static bool
vouched_recall(struct memo *m, const uint8_t id[DIGEST_BYTES], struct vouched *ret)
{
    struct buf b = BUF_INIT(MEMO_CONTENT_BYTES);
    uint8_t *p = (uint8_t *)&ret->claims;
    struct err e;
    bool good = memo_find(m, id, &b);
    struct span rest = buf_span(&b);
    size_t at = 0;

    while (good && at < sizeof(ret->claims)) {
        uint16_t head[2] = { 0 };

        good = rest.n >= sizeof(head);
        if (good)
            memcpy(head, rest.p, sizeof(head));
        rest = span_skip(rest, sizeof(head));
        at += head[0];
        good = good && rest.n >= head[1] && at + head[1] <= sizeof(ret->claims);
        if (good && head[1] > 0)
            memcpy(p + at, rest.p, head[1]);
        at += head[1];
        rest = span_skip(rest, head[1]);
    }
    good = good && buf_add(&ret->audiences, rest, &e) == 0;
    buf_done(&b);
    return good;
}

static int
token_read(const struct jwks *keys, struct span token, struct vouched *ret, const char **ret_reason,
           struct err *e)
{
    CLEANUP(json_decrefp) json_t *head = NULL;
    CLEANUP(json_decrefp) json_t *body = NULL;
    struct parts p;
    struct header h;

    TRY(parts_cut(token, &p, ret_reason, e));
    TRY(part_json(p.header, "header", &head, ret_reason, e));
    TRY(header_read(head, &h, ret_reason, e));
    TRY(signature_check(keys, &h, &p, ret_reason, e));
    TRY(part_json(p.claims, "claims", &body, ret_reason, e));
    if (claims_read(body, &ret->claims, e) < 0 || audiences_read(body, &ret->audiences, e) < 0)
        return malformed(ret_reason, e, "claims");
    return 0;
}

int
jwt_verify(const struct jwks *keys, struct span token, const struct jwt_rule *rule,
           struct jwt_claims *ret, const char **ret_reason, struct err *e)
{
    struct vouched v = { .audiences = BUF_INIT(JWT_MAX_BYTES) };
    struct memo *m = keys == NULL || token.n > JWT_MAX_BYTES ? NULL : keyset_memo(keys);
    uint8_t id[DIGEST_BYTES];
    int r = 0;

    *ret_reason = "malformed";
    if (m != NULL)
        digest(token, id);
    if (m == NULL || !vouched_recall(m, id, &v)) {
        v.claims = (struct jwt_claims){ .expires = 0 };
        v.audiences.n = 0;
        r = token_read(keys, token, &v, ret_reason, e);
        if (r == 0 && m != NULL)
            vouched_remember(m, id, &v);
    }
    if (r == 0)
        r = rule_check(rule, &v.claims, buf_span(&v.audiences), ret_reason, e);
    if (r == 0)
        *ret = v.claims;
    buf_done(&v.audiences);
    return r;
}

bool
jwt_claimed_issuer(struct span token, char ret[JWT_ISSUER_BYTES])
{
    CLEANUP(json_decrefp) json_t *body = NULL;
    const char *reason;
    struct parts p;
    struct err e;

    return parts_cut(token, &p, &reason, &e) == 0 &&
           part_json(p.claims, "claims", &body, &reason, &e) == 0 &&
           json_text_copy(body, "iss", ret, JWT_ISSUER_BYTES, &e) == 0 && ret[0] != '\0';
}

int
jwt_claims_json(struct span token, struct buf *out, struct err *e)
{
    const char *reason;
    struct parts p;

    TRY(parts_cut(token, &p, &reason, e));
    return base64url_decode(out, p.claims, e) < 0 ? malformed(&reason, e, "claims") : 0;
}

/* -- making -------------------------------------------------------------------------------------
 */

static int
sign_into(const struct key *k, const char *kid, bool x5t, struct span claims_json, struct buf *out,
          struct err *e)
{
    const struct jws_alg *alg;
    struct buf sig = BUF_INIT(JWS_RSA_MAX_BITS / 8 + B64_SLACK);
    size_t start = out->n;

    TRY(jws_alg_of(k, &alg, e));
    CLEANUP(json_decrefp)
    json_t *h = json_pack("{s:s, s:s, s:s}", "typ", "JWT", "alg", alg->name, "kid", kid);
    if (h == NULL || (x5t && json_object_set_new(h, "x5t", json_string(kid)) != 0))
        return err_nomem(e);
    CLEANUP(str_freep) char *text = json_dumps(h, JSON_COMPACT);
    if (text == NULL)
        return err_nomem(e);
    TRY(base64url_add(out, span_str(text), e));
    TRY(buf_add_byte(out, '.', e));
    TRY(base64url_add(out, claims_json, e));
    int r = jws_sign(k, alg, span_skip(buf_span(out), start), &sig, e);
    if (r == 0)
        r = buf_add_byte(out, '.', e);
    if (r == 0)
        r = base64url_add(out, buf_span(&sig), e);
    buf_done(&sig);
    return r;
}

int
jwt_sign(const struct key *k, const char *kid, bool x5t, struct span claims_json, struct buf *out,
         struct err *e)
{
    size_t start = out->n;
    int r = sign_into(k, kid, x5t, claims_json, out, e);

    if (r < 0 && out->p != NULL) {
        out->n = start;
        out->p[start] = '\0';
    }
    return r;
}

/* -- service accounts ---------------------------------------------------------------------------
 */

/* The grammar of sub is strict because a reader that counted on its parts crashed istiod
 * (ISTIO-SECURITY-2026-007, peers.md 5c 36). */
int
jwt_workload(const struct jwt_claims *c, const char *trust_domain, struct spiffe_id *ret,
             struct err *e)
{
    static const char prefix[] = "system:serviceaccount:";
    struct span rest = span_str(c->subject), ns, sa;
    struct spiffe_id id = { 0 };

    if (!span_starts(rest, prefix))
        return err_set(e, E_AUTH,
                       "token: subject \"%.128s\" is not system:serviceaccount:NAMESPACE:NAME",
                       c->subject);
    rest = span_skip(rest, sizeof(prefix) - 1);
    if (!span_cut(&rest, ':', &ns) || !span_cut(&rest, ':', &sa) || rest.p != NULL)
        return err_set(e, E_AUTH,
                       "token: subject \"%.128s\" is not system:serviceaccount:NAMESPACE:NAME",
                       c->subject);
    if (spiffe_make(span_str(trust_domain), ns, sa, &id, e) < 0) {
        e->code = E_AUTH;
        return err_wrap(e, "token: subject \"%.128s\"", c->subject);
    }
    bool claimed = c->k8s_namespace[0] != '\0' || c->k8s_service_account[0] != '\0';
    if (claimed && (!span_eq_str(ns, c->k8s_namespace) || !span_eq_str(sa, c->k8s_service_account)))
        return err_set(e, E_AUTH,
                       "token: subject \"%.128s\" and the kubernetes.io claim (%s, %.128s) do not "
                       "agree",
                       c->subject, c->k8s_namespace, c->k8s_service_account);
    *ret = id;
    return 0;
}
