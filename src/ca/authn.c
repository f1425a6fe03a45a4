/* authn.c - identity from a verified client certificate or a service-account token.
 *
 * A token is judged in two steps: what it says and who signed it (token_verify), which stays true
 * while the keys and the clock do, and whether its pod and account are there (ca_accept_claims),
 * which is asked anew for every call. A header never says who calls (CVE-2022-39388).
 */
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

/* The usage is asked for by name: a certificate that does not say what it is for, or says "any", is
 * not one that was issued to a workload (peers.md 5b 26). */
static bool
is_for_clients(const struct cert *c)
{
    char usage[USAGE_TEXT_BYTES];
    struct span rest, one;

    cert_usage_text(c, usage);
    rest = span_str(usage);
    while (span_cut(&rest, ',', &one))
        if (span_eq_str(one, "clientAuth"))
            return true;
    return false;
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
    if (cert_is_ca(peer->leaf) || !is_for_clients(peer->leaf))
        return no(
            ret_reason, "cert_usage", e,
            "the client certificate is not a workload's: it is a CA's, or not for client use");
    if (cert_not_after(peer->leaf) <= now || cert_not_before(peer->leaf) > now)
        return no(ret_reason, "cert_expired", e,
                  "the client certificate has expired or is not yet valid");
    if (!roots_has(bundle_roots(v->bundle), peer->root_id))
        return no(ret_reason, "cert_root", e,
                  "the client certificate chains to a root that is no longer trusted");
    if (ca_view_revokes(v, peer))
        return no(ret_reason, "cert_revoked", e,
                  "the client certificate, its identity, or the intermediate that signed it, is "
                  "revoked");
    cert_serial_text(peer->leaf, serial);
    spiffe_text(&id, ret->identity);
    (void)snprintf(ret->auth, sizeof(ret->auth), "cert:%s", serial);
    return 0;
}

/* What the ledger keeps of a token: its id, or a hash of whom it names; never the token. */
static void
token_text(const struct jwt_claims *claims, const char *kind, char ret[LEDGER_AUTH_BYTES])
{
    uint8_t id[DIGEST_BYTES];
    char hex[2 * AUTH_HASH_BYTES + 1];

    if (claims->id[0] != '\0') {
        (void)snprintf(ret, LEDGER_AUTH_BYTES, "%s:%s", kind, claims->id);
        return;
    }
    digest(span_str(claims->subject), id);
    hex_text(span_of(id, AUTH_HASH_BYTES), hex);
    (void)snprintf(ret, LEDGER_AUTH_BYTES, "%s:%s", kind, hex);
}

/* With several issuers, the complaint of the one whose token it is says most: "issuer", "kid" and
 * "signature" are what every other one says. */
static bool
is_other_issuers_word(const char *reason)
{
    return strcmp(reason, "issuer") == 0 || strcmp(reason, "kid") == 0 ||
           strcmp(reason, "signature") == 0;
}

/* Form, issuer, audience, time, signature: nothing that needs the cluster. */
static int
token_verify(const struct ca_conf *conf, const struct ca_view *v, struct span token,
             struct jwt_claims *ret, const char **ret_reason, struct err *e)
{
    struct jwt_rule rule = { .leeway_s = TOKEN_LEEWAY_S };
    int r = err_set(e, E_BUSY, "the token issuer's keys are not known yet");
    bool waits = false, no_keys = true;

    *ret_reason = "no_keys";
    memcpy(rule.audiences, conf->who.audiences, sizeof(rule.audiences));
    for (size_t i = 0; i < conf->who.issuers_n; i++)
        waits = waits || v->keys[i] == NULL;
    for (size_t i = 0; i < conf->who.issuers_n && r != 0; i++) {
        if (v->keys[i] == NULL)
            continue;
        const char *reason = "malformed";
        struct err why = { .code = E_NONE };

        rule.issuer = conf->who.issuers[i].issuer;
        int tried = jwt_verify(v->keys[i], token, &rule, ret, &reason, &why);
        if (tried != 0 && is_other_issuers_word(reason) && (waits || !no_keys))
            continue; /* it may be the token of one whose keys are still to come */
        r = tried;
        no_keys = false;
        *ret_reason = reason;
        *e = why;
    }
    return r == 0 ? 0 : err_result(e);
}

int
ca_accept_claims(const struct ca_conf *conf, const struct jwt_claims *claims, const char *kind,
                 struct ca_caller *ret, const char **ret_reason, struct err *e)
{
    struct spiffe_id id;

    *ret_reason = "workload";
    if (jwt_workload(claims, conf->trust_domain, &id, e) != 0)
        return err_result(e);
    if (conf->who.cluster != NULL &&
        cluster_check_bound(conf->who.cluster, claims, ret_reason, e) != 0)
        return err_result(e);
    spiffe_text(&id, ret->identity);
    token_text(claims, kind, ret->auth);
    memcpy(ret->proxy.ns, id.ns, sizeof(ret->proxy.ns));
    memcpy(ret->proxy.sa, id.sa, sizeof(ret->proxy.sa));
    memcpy(ret->proxy.pod, claims->k8s_pod, sizeof(ret->proxy.pod));
    memcpy(ret->proxy.pod_uid, claims->k8s_pod_uid, sizeof(ret->proxy.pod_uid));
    return 0;
}

/* Admission has seen to it that the identity is of our trust domain. */
bool
ca_account_is(const struct ca_caller *c, const char *const *accounts, size_t n)
{
    struct spiffe_id id;
    char text[2 * K8S_NAME_BYTES];
    struct err e;

    if (spiffe_parse(span_str(c->identity), &id, &e) < 0)
        return false;
    (void)snprintf(text, sizeof(text), "%s/%s", id.ns, id.sa);
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, accounts[i]) == 0)
            return true;
    return false;
}

int
ca_impersonate(const struct ca_conf *conf, struct span wanted, struct ca_caller *who, struct err *e)
{
    struct node_rule rule = { conf->who.node_accounts, conf->who.node_accounts_n,
                              conf->trust_domain, conf->who.cluster };
    char auth[LEDGER_AUTH_BYTES], hex[2 * AUTH_HASH_BYTES + 1];
    uint8_t sum[DIGEST_BYTES];
    struct spiffe_id id;

    if (node_rule_check(&rule, &who->proxy, wanted, &id, e) != 0)
        return err_result(e);
    int n = snprintf(auth, sizeof(auth), "node:%s/%s %s", who->proxy.ns, who->proxy.sa, who->auth);
    if (n < 0 || (size_t)n >= sizeof(auth)) { /* long names: their hash */
        digest(span_str(who->identity), sum);
        hex_text(span_of(sum, AUTH_HASH_BYTES), hex);
        (void)snprintf(auth, sizeof(auth), "node:%s %.*s", hex,
                       (int)(sizeof(auth) - sizeof("node: ") - sizeof(hex)), who->auth);
    }
    (void)snprintf(who->auth, sizeof(who->auth), "%s", auth);
    spiffe_text(&id, who->identity);
    return 0;
}

/* Which of two judges a token goes to. What it says of itself is not believed by that: either
 * checks it anew. */
static bool
is_of_our_issuers(const struct ca_conf *conf, const char *issuer)
{
    for (size_t i = 0; i < conf->who.issuers_n; i++)
        if (strcmp(conf->who.issuers[i].issuer, issuer) == 0)
            return true;
    return false;
}

static int
by_token(const struct ca_conf *conf, const struct ca_view *v, struct span token,
         struct ca_caller *ret, struct span *ret_token, const char **ret_reason, struct err *e)
{
    char issuer[JWT_ISSUER_BYTES];
    struct jwt_claims claims = { 0 };

    if (conf->who.token_review != 0 && !jwt_claimed_issuer(token, issuer))
        return no(ret_reason, "malformed", e, "the bearer token is no JWT with an issuer");
    if (conf->who.token_review != 0 && !is_of_our_issuers(conf, issuer)) {
        *ret_token = token;
        return CA_ASK_REVIEW;
    }
    if (conf->who.issuers_n == 0)
        return no(ret_reason, "no_issuer", e, "no issuer of tokens is configured (--issuer)");
    if (token_verify(conf, v, token, &claims, ret_reason, e) != 0)
        return err_result(e);
    return ca_accept_claims(conf, &claims, "jwt", ret, ret_reason, e);
}

int
ca_authenticate(const struct ca_conf *conf, const struct ca_view *v, const struct ca_credentials *c,
                struct ca_caller *ret, struct span *ret_token, const char **ret_reason,
                struct err *e)
{
    static const char prefix[] = "Bearer "; /* exactly: one space, this case */
    bool has_peer = c->peer != NULL && c->peer->leaf != NULL;

    *ret_reason = "none";
    if (has_peer && by_certificate(conf, v, c->peer, ret, ret_reason, e) == 0) {
        ret->proxy = (struct node_proxy){ .ns = "" };
        return 0;
    }
    if (c->authorization.n == 0 && has_peer)
        return err_result(e);
    if (c->authorization.n == 0)
        return no(ret_reason, "none", e, "no client certificate and no bearer token");
    if (!span_starts(c->authorization, prefix))
        return no(ret_reason, "scheme", e, "the authorization header does not start with Bearer");
    struct span token = span_skip(c->authorization, sizeof(prefix) - 1);
    if (token.n > JWT_MAX_BYTES)
        return no(ret_reason, "malformed", e, "the bearer token is too long");
    return by_token(conf, v, token, ret, ret_token, ret_reason, e);
}
