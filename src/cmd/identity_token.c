/* identity_token.c - meshroot identity token: signs a token in the shape of Kubernetes'. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/pki_tool.h"
#include "identity/identity.h"

enum { TOKEN_ID_BYTES = 16, SUBJECT_BYTES = 640 };

struct token_conf {
    const char *key, *issuer, *subject, *identity, *out;
    struct opt_list audience;
    uint64_t ttl_ms;
};

static const struct opt opts[] = {
    { "key", OPT_STRING, offsetof(struct token_conf, key), NULL, NULL, NULL, OPT_REQUIRED, "FILE",
      "the issuer's key: issuer-key.pem of identity keygen" },
    { "issuer", OPT_STRING, offsetof(struct token_conf, issuer), NULL, NULL, NULL, 0, "URL",
      "the issuer's name [the file \"issuer\" beside the key]" },
    { "subject", OPT_STRING, offsetof(struct token_conf, subject), NULL, NULL, NULL, 0, "SUBJECT",
      "whom it names: system:serviceaccount:NAMESPACE:NAME" },
    { "identity", OPT_STRING, offsetof(struct token_conf, identity), NULL, NULL, NULL, 0,
      "SPIFFE_ID", "the same as spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/NAME" },
    { "audience", OPT_LIST, offsetof(struct token_conf, audience), NULL, NULL, NULL, 0, "NAME",
      "whom it is for; repeatable [istio-ca]" },
    { "ttl", OPT_DURATION, offsetof(struct token_conf, ttl_ms), "12h", "1s", "8760h", 0, "DURATION",
      "how long it is valid" },
    { "out", OPT_STRING, offsetof(struct token_conf, out), NULL, NULL, NULL, 0, "FILE",
      "write it there, mode 0600, replacing an older one [standard output]" },
    { .name = NULL },
};

/* The key's file tells where the issuer's name is; "issuer" lies beside it. */
static int
issuer_read(const struct token_conf *c, char **ret, struct err *e)
{
    const char *slash = strrchr(c->key, '/');
    struct buf b = BUF_INIT(1024);
    CLEANUP(str_freep) char *dir = NULL;

    if (c->issuer != NULL)
        return str_dup(span_str(c->issuer), ret, e);
    if (slash != NULL)
        TRY(str_dup(span_of(c->key, (size_t)(slash - c->key)), &dir, e));
    int r = read_input(dir == NULL || dir[0] != '\0' ? dir : "/", "issuer", &b, e);
    if (r == 0)
        r = str_dup(span_trim(buf_span(&b)), ret, e);
    buf_done(&b);
    return r < 0 ? err_wrap(e, "no --issuer given") : 0;
}

static int
key_read(const char *path, struct key **ret, struct err *e)
{
    struct buf b = BUF_INIT(PEM_MAX_BYTES);
    int r = read_input(NULL, path, &b, e);

    if (r == 0) {
        r = key_from_pem(buf_span(&b), ret, e);
        if (r < 0)
            (void)err_wrap(e, "%s", path);
    }
    buf_wipe(&b);
    return r;
}

/* Both ways of naming a workload end in the same grammar, so that nothing is signed that no CA
 * would take. */
static int
workload_read(const struct token_conf *c, struct spiffe_id *ret, struct err *e)
{
    struct jwt_claims claims = { 0 };

    if ((c->subject == NULL) == (c->identity == NULL))
        return err_set(e, E_INVAL, "want one of --subject and --identity");
    if (c->identity != NULL) {
        if (spiffe_parse(span_str(c->identity), ret, e) == 0)
            return 0;
        e->code = E_INVAL;
        return err_wrap(e, "--identity \"%.200s\"", c->identity);
    }
    if (strlen(c->subject) >= sizeof(claims.subject))
        return err_set(e, E_INVAL, "--subject is longer than %zu bytes",
                       sizeof(claims.subject) - 1);
    memcpy(claims.subject, c->subject, strlen(c->subject));
    if (jwt_workload(&claims, "x", ret, e) < 0) {
        e->code = E_INVAL;
        return err_wrap(e, "--subject");
    }
    return 0;
}

static json_t *
audiences_json(const struct opt_list *l)
{
    json_t *a = json_array();

    for (size_t i = 0; i < l->n; i++)
        if (json_array_append_new(a, json_string(l->v[i])) != 0) {
            json_decref(a);
            return NULL;
        }
    if (l->n == 0 && json_array_append_new(a, json_string("istio-ca")) != 0) {
        json_decref(a);
        return NULL;
    }
    return a;
}

static int
claims_make(const struct token_conf *c, const char *issuer, const struct spiffe_id *id, char **ret,
            struct err *e)
{
    uint8_t random[TOKEN_ID_BYTES];
    char jti[2 * TOKEN_ID_BYTES + 1], sub[SUBJECT_BYTES];
    int64_t now = unix_s();

    TRY(random_bytes(random, sizeof(random), e));
    hex_text(span_of(random, sizeof(random)), jti);
    (void)snprintf(sub, sizeof(sub), "system:serviceaccount:%s:%s", id->ns, id->sa);
    CLEANUP(json_decrefp)
    json_t *j =
        json_pack("{s:s, s:s, s:o*, s:I, s:I, s:I, s:s, s:{s:s, s:{s:s}}}", "iss", issuer, "sub",
                  sub, "aud", audiences_json(&c->audience), "iat", (json_int_t)now, "nbf",
                  (json_int_t)now, "exp", (json_int_t)(now + (int64_t)(c->ttl_ms / 1000)), "jti",
                  jti, "kubernetes.io", "namespace", id->ns, "serviceaccount", "name", id->sa);
    if (j == NULL || json_object_get(j, "aud") == NULL)
        return err_set(e, E_INVAL, "the issuer or an audience is not UTF-8 text");
    *ret = json_dumps(j, JSON_COMPACT);
    return *ret == NULL ? err_nomem(e) : 0;
}

static int
token_make(const struct token_conf *c, struct buf *out, struct err *e)
{
    CLEANUP(key_unrefp) struct key *k = NULL;
    CLEANUP(str_freep) char *issuer = NULL;
    CLEANUP(str_freep) char *claims = NULL;
    char kid[JWK_THUMBPRINT_BYTES];
    struct spiffe_id id;

    TRY(workload_read(c, &id, e));
    TRY(key_read(c->key, &k, e));
    TRY(issuer_read(c, &issuer, e));
    TRY(jwk_thumbprint(k, kid, e));
    TRY(claims_make(c, issuer, &id, &claims, e));
    return jwt_sign(k, kid, false, span_str(claims), out, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct token_conf *c = conf;
    struct buf token = BUF_INIT(JWT_MAX_BYTES);

    (void)args;
    int r = token_make(c, &token, e);
    if (r == 0 && c->out != NULL)
        r = file_write(c->out, buf_span(&token), 0600, e);
    else if (r == 0)
        printf("%s\n", buf_text(&token));
    buf_wipe(&token);
    return r;
}

const struct command cmd_identity_token = {
    "identity token",
    "",
    0,
    0,
    opts,
    sizeof(struct token_conf),
    run,
    "sign a token for a workload, for machines without Kubernetes",
    "Signs a token with which a workload asks the CA for its certificate, in the shape of a\n"
    "Kubernetes service-account token. The CA must know the issuer: ca serve --issuer\n"
    "URL=DIR/jwks.json. The trust domain of --identity is not part of a token; the CA puts its\n"
    "own. No network is used.\n"
    "\n"
    "Examples:\n"
    "  meshroot identity token --key issuer/issuer-key.pem --identity "
    "spiffe://cluster.local/ns/shop/sa/cart --out cart.token\n"
    "  meshroot identity token --key issuer/issuer-key.pem --issuer https://id.example.com "
    "--subject system:serviceaccount:shop:cart --ttl 1h\n",
};
