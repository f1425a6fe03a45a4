/* vault_auth.c - who is asked (Host) and who asks (bearer token). */
#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"
#include "vault/request.h"

enum { TOKEN_LEEWAY_S = 300 };

/* Key Vault's own application id: an audience that old clients ask for. */
#define KEY_VAULT_APP_ID "cfa8b339-82a2-471a-a3c9-0fc0be7a4093"

struct host {
    char name[VAULT_HOST_BYTES]; /* lower-case, without port; IPv6 in brackets */
    char port[8];                /* "" when it is the scheme's own */
};

static bool
host_parse(const char *text, bool is_tls, struct host *ret)
{
    struct span all = span_str(text), port = { 0 };
    const uint8_t *colon;
    struct err e = { 0 };
    uint64_t n = 0;

    if (all.n == 0 || all.n >= VAULT_HOST_BYTES)
        return false;
    colon = memrchr(all.p, ':', all.n);
    if (colon != NULL && colon[1] != '\0' &&
        memchr(colon, ']', strlen((const char *)colon)) == NULL) {
        port = span_str((const char *)colon + 1);
        all.n = (size_t)(colon - all.p);
        if (u64_parse(port, 1, 65535, &n, &e) < 0)
            return false;
    }
    for (size_t i = 0; i < all.n; i++) {
        if (!isalnum(all.p[i]) && strchr("-.:[]", all.p[i]) == NULL)
            return false;
        ret->name[i] = (char)tolower(all.p[i]);
    }
    ret->name[all.n] = '\0';
    ret->port[0] = '\0';
    if (n != 0 && n != (is_tls ? 443 : 80))
        (void)snprintf(ret->port, sizeof(ret->port), ":%u", (unsigned)n);
    return all.n > 0;
}

static bool
is_bare_host(const char *name)
{
    struct in_addr v4;

    return name[0] == '[' || strcmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &v4) == 1;
}

/* "NAME.suffix": the vault of that name, or NULL. */
static struct vault_slot *
slot_under(struct vault *v, const char *host, const char *suffix)
{
    size_t host_n = strlen(host), suffix_n = strlen(suffix);

    if (host_n <= suffix_n + 1 || host[host_n - suffix_n - 1] != '.' ||
        strcasecmp(host + host_n - suffix_n, suffix) != 0)
        return NULL;
    for (size_t i = 0; i < v->conf.names_n; i++)
        if (strlen(v->slots[i].name) == host_n - suffix_n - 1 &&
            memcmp(v->slots[i].name, host, host_n - suffix_n - 1) == 0)
            return &v->slots[i];
    return NULL;
}

/* Clients compare their own host and port with the resource's, so the port must be in both. Source:
 * specs/azure.md 0 point 5, 1.10. */
bool
request_host(struct vault_request *q)
{
    const char *given = http_header(q->x, "Host");
    bool is_tls = http_is_tls(q->x);
    const char *scheme = is_tls ? "https" : "http", *suffix = q->v->dns_suffix;
    struct host h;

    if (given == NULL || !host_parse(given, is_tls, &h)) {
        request_fail(q, 400, "BadParameter", NULL, "The Host header is missing or wrong.");
        return false;
    }
    if (is_bare_host(h.name)) {
        q->slot = &q->v->slots[0];
        suffix = h.name;
    } else {
        q->slot = slot_under(q->v, h.name, suffix);
        if (q->slot == NULL) {
            suffix = "localhost";
            q->slot = slot_under(q->v, h.name, suffix);
        }
    }
    if (q->slot == NULL) {
        request_fail(q, 404, "VaultNotFound", NULL, "There is no vault at %s.", h.name);
        return false;
    }
    (void)snprintf(q->base, sizeof(q->base), "%s://%.250s%s", scheme, h.name, h.port);
    (void)snprintf(q->resource, sizeof(q->resource), "%s://%.250s%s", scheme, suffix, h.port);
    /* who came without a DNS name finds the token endpoint the same way: on this listener */
    bool is_elsewhere = suffix == q->v->dns_suffix && q->v->authority[0] != '\0';
    q->authority = is_elsewhere ? q->v->authority : q->base;
    return true;
}

/* One header line, comma and space, no slash after the tenant: all SDKs parse just this. */
static void
challenge(struct vault_request *q)
{
    char line[3 * VAULT_HOST_BYTES];

    (void)snprintf(line, sizeof(line), "Bearer authorization=\"%s/%s\", resource=\"%s\"",
                   q->authority, q->v->tenant, q->resource);
    http_reply_header(q->x, "WWW-Authenticate", line);
}

/* A text claim of a token that was refused, for the message; nothing is decided by it. */
static void
claim_text(struct span token, const char *name, char ret[200])
{
    struct buf json = BUF_INIT(JWT_MAX_BYTES);
    struct span payload;
    struct err e = { 0 };

    (void)snprintf(ret, 200, "nothing");
    (void)span_cut(&token, '.', &payload);
    (void)span_cut(&token, '.', &payload);
    if (token.p != NULL && base64url_decode(&json, payload, &e) == 0) {
        CLEANUP(json_unrefp) json_t *j = json_loadb(buf_text(&json), json.n, 0, NULL);
        const char *text = json_string_value(json_object_get(j, name));

        if (text != NULL)
            (void)snprintf(ret, 200, "%s", text);
    }
    buf_done(&json);
}

static void
refuse(struct vault_request *q, struct span token, const char *reason)
{
    char found[200];

    challenge(q);
    if (strcmp(reason, "audience") == 0) {
        claim_text(token, "aud", found);
        request_fail(q, 401, "Unauthorized", NULL,
                     "AKV10022: Invalid audience. Expected %s, found: %s.", q->resource, found);
    } else if (strcmp(reason, "issuer") == 0) {
        claim_text(token, "iss", found);
        request_fail(q, 401, "Unauthorized", NULL,
                     "AKV10032: Invalid issuer. Expected one of %s, found %s.", q->v->issuer,
                     found);
    } else {
        request_fail(q, 401, "Unauthorized", NULL,
                     "AKV10001: The access token was not accepted: %s.", reason);
    }
}

bool
request_authenticate(struct vault_request *q)
{
    const struct vault_conf *c = &q->v->conf;
    const char *header = http_header(q->x, "Authorization"), *reason = "malformed";
    char suffix[2][VAULT_HOST_BYTES + 16], slash[VAULT_HOST_BYTES + 1];
    struct jwt_claims claims;
    struct err e = { 0 };

    if (header == NULL || strncasecmp(header, "Bearer ", 7) != 0) {
        challenge(q);
        request_fail(q, 401, "Unauthorized", NULL,
                     "AKV10000: Request is missing a Bearer or PoP token.");
        return false;
    }
    struct span token = span_trim(span_str(header + 7));
    (void)snprintf(suffix[0], sizeof(suffix[0]), "https://%s", q->v->dns_suffix);
    (void)snprintf(suffix[1], sizeof(suffix[1]), "https://%s/", q->v->dns_suffix);
    (void)snprintf(slash, sizeof(slash), "%s/", q->resource);
    struct jwt_rule rule = { .issuer = q->v->issuer,
                             .audiences = { suffix[0], suffix[1], KEY_VAULT_APP_ID, q->resource,
                                            slash, NULL },
                             .leeway_s = TOKEN_LEEWAY_S };
    if (jwt_verify(c->keys, token, &rule, &claims, &reason, &e) < 0) {
        refuse(q, token, reason);
        return false;
    }
    if (claims.tid[0] != '\0' && strcasecmp(claims.tid, q->v->tenant) != 0) {
        refuse(q, token, "issuer");
        return false;
    }
    memcpy(q->oid, claims.oid, sizeof(q->oid));
    memcpy(q->appid, claims.appid, sizeof(q->appid));
    return true;
}
