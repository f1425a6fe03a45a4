/* authn.c - identity from a verified client certificate or a service-account token. */
#include <stdio.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/room.h"

enum { AUTH_HASH_BYTES = 8, TOKEN_LEEWAY_S = 60 };

static int
no(const char **ret_reason, const char *reason, struct err *e, const char *words)
{
    *ret_reason = reason;
    return err_set(e, E_AUTH, "%s", words);
}

/* TLS verified the chain when the connection began; since then time has passed and roots may have
 * gone, so both are looked at again for every call. */
static int
by_certificate(const struct ca_conf *conf, const struct ca_view *v, const struct tls_peer *peer,
               struct ca_caller *ret, const char **ret_reason, struct err *e)
{
    int64_t now = unix_s();
    struct spiffe_id id;
    char serial[SERIAL_TEXT_BYTES];
    struct err why;

    if (peer->uri.n == 0 || spiffe_parse(peer->uri, &id, &why) < 0)
        return no(ret_reason, "cert_identity", e,
                  "the client certificate does not name one workload (spiffe://TD/ns/NS/sa/SA)");
    if (strcmp(id.trust_domain, conf->trust_domain) != 0)
        return no(ret_reason, "cert_trust_domain", e,
                  "the client certificate is of another trust domain");
    if (cert_not_after(peer->leaf) <= now || cert_not_before(peer->leaf) > now)
        return no(ret_reason, "cert_expired", e,
                  "the client certificate has expired or is not yet valid");
    if (!roots_has(bundle_roots(v->bundle), peer->root_id))
        return no(ret_reason, "cert_root", e,
                  "the client certificate chains to a root that is no longer trusted");
    cert_serial_text(peer->leaf, serial);
    spiffe_text(&id, ret->identity);
    (void)snprintf(ret->auth, sizeof(ret->auth), "cert:%s", serial);
    return 0;
}

/* What the ledger keeps of a token: its id, or a hash of whom it names; never the token. */
static void
token_text(const struct jwt_claims *claims, char ret[LEDGER_AUTH_BYTES])
{
    uint8_t id[DIGEST_BYTES];
    char hex[2 * AUTH_HASH_BYTES + 1];

    if (claims->id[0] != '\0') {
        (void)snprintf(ret, LEDGER_AUTH_BYTES, "jwt:%s", claims->id);
        return;
    }
    digest(span_str(claims->subject), id);
    hex_text(span_of(id, AUTH_HASH_BYTES), hex);
    (void)snprintf(ret, LEDGER_AUTH_BYTES, "jwt:%s", hex);
}

/* With several issuers, the complaint of the one whose token it is says most: "issuer", "kid" and
 * "signature" are what every other one says. */
static bool
is_other_issuers_word(const char *reason)
{
    return strcmp(reason, "issuer") == 0 || strcmp(reason, "kid") == 0 ||
           strcmp(reason, "signature") == 0;
}

static int
by_token(const struct ca_conf *conf, const struct ca_view *v, struct span token,
         struct ca_caller *ret, const char **ret_reason, struct err *e)
{
    struct jwt_rule rule = { .leeway_s = TOKEN_LEEWAY_S };
    struct jwt_claims claims;
    struct spiffe_id id;
    int r = no(ret_reason, CA_REASON_NO_KEYS, e, "the token issuer's keys are not known yet");
    bool waits = false;

    memcpy(rule.audiences, conf->audiences, sizeof(rule.audiences));
    for (size_t i = 0; i < conf->issuers_n; i++)
        waits = waits || v->keys[i] == NULL;
    for (size_t i = 0; i < conf->issuers_n && r < 0; i++) {
        if (v->keys[i] == NULL)
            continue;
        const char *reason = "malformed";
        struct err why;

        rule.issuer = conf->issuers[i].issuer;
        int tried = jwt_verify(v->keys[i], token, &rule, &claims, &reason, &why);
        if (tried < 0 && is_other_issuers_word(reason) &&
            (waits || strcmp(*ret_reason, CA_REASON_NO_KEYS) != 0))
            continue; /* it may be the token of one whose keys are still to come */
        r = tried;
        *ret_reason = reason;
        *e = why;
    }
    if (r < 0)
        return r;
    if (jwt_workload(&claims, conf->trust_domain, &id, e) < 0) {
        *ret_reason = "workload";
        return err_result(e);
    }
    spiffe_text(&id, ret->identity);
    token_text(&claims, ret->auth);
    return 0;
}

int
ca_authenticate(const struct ca_conf *conf, const struct ca_view *v, const struct ca_credentials *c,
                struct ca_caller *ret, const char **ret_reason, struct err *e)
{
    static const char prefix[] = "Bearer "; /* exactly: one space, this case */
    bool has_peer = c->peer != NULL && c->peer->leaf != NULL;

    if (has_peer && by_certificate(conf, v, c->peer, ret, ret_reason, e) == 0)
        return 0;
    if (c->authorization.n == 0 && has_peer)
        return err_result(e);
    if (c->authorization.n == 0)
        return no(ret_reason, "none", e, "no client certificate and no bearer token");
    if (!span_starts(c->authorization, prefix))
        return no(ret_reason, "scheme", e, "the authorization header does not start with Bearer");
    struct span token = span_skip(c->authorization, sizeof(prefix) - 1);
    if (conf->issuers_n == 0)
        return no(ret_reason, "no_issuer", e, "no issuer of tokens is configured (--issuer)");
    if (token.n > JWT_MAX_BYTES)
        return no(ret_reason, "malformed", e, "the bearer token is too long");
    return by_token(conf, v, token, ret, ret_reason, e);
}
