/* cloud.c - the token service's pages: discovery documents, keys, and the way to the token
 * endpoint. */
#include "cloud/cloud.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "cloud/room.h"
#include "pki/leaf.h"

enum { JWKS_MAX_BYTES = 8 * 1024, SEGMENTS_MAX = 6 };

void
base_url(const struct http_exchange *x, char ret[512])
{
    const char *host = http_header(x, "host");

    (void)snprintf(ret, 512, "https://%.400s", host != NULL ? host : "localhost");
}

void
reply_json(struct http_exchange *x, int status, json_t *take_j)
{
    char *text = take_j == NULL ? NULL : json_dumps(take_j, JSON_COMPACT);

    json_decref(take_j);
    http_reply(x, text == NULL ? 500 : status, "application/json; charset=utf-8", span_str(text));
    free(text);
}

/* -- pages ---------------------------------------------------------------------------------------
 */

/* Members that MSAL reads. Source: specs/azure.md 2.2. */
static void
serve_openid(struct cloud *c, struct http_exchange *x, struct span tenant)
{
    char base[512], at[640];

    (void)c;
    base_url(x, base);
    (void)snprintf(at, sizeof(at), "%s/%.*s", base, (int)(tenant.n < 100 ? tenant.n : 100),
                   (const char *)tenant.p);
    reply_json(x, 200,
               json_pack("{s:s+, s:s+, s:s+, s:s+, s:[s], s:[s], s:[s], s:[s]}", "issuer", at,
                         "/v2.0", "authorization_endpoint", at, "/oauth2/v2.0/authorize",
                         "token_endpoint", at, "/oauth2/v2.0/token", "jwks_uri", at,
                         "/discovery/v2.0/keys", "response_types_supported", "code",
                         "subject_types_supported", "pairwise",
                         "id_token_signing_alg_values_supported", "RS256",
                         "token_endpoint_auth_methods_supported", "client_secret_post"));
}

static void
serve_instance(struct cloud *c, struct http_exchange *x, struct span tenant)
{
    const char *host = http_header(x, "host");
    char base[512];

    (void)tenant;
    base_url(x, base);
    host = host != NULL ? host : "localhost";
    reply_json(x, 200,
               json_pack("{s:s+++, s:s, s:[{s:s, s:s, s:[s]}]}", "tenant_discovery_endpoint", base,
                         "/", c->tenant, "/v2.0/.well-known/openid-configuration", "api-version",
                         "1.1", "metadata", "preferred_network", host, "preferred_cache", host,
                         "aliases", host));
}

static void
serve_keys(struct cloud *c, struct http_exchange *x, struct span tenant)
{
    (void)tenant;
    http_reply(x, 200, "application/json; charset=utf-8", buf_span(&c->jwks_json));
}

static void
serve_token_v2(struct cloud *c, struct http_exchange *x, struct span tenant)
{
    token_serve(c, x, tenant, false);
}

static void
serve_token_v1(struct cloud *c, struct http_exchange *x, struct span tenant)
{
    token_serve(c, x, tenant, true);
}

/* After the tenant. "common/discovery/instance" has its literal first. Source: specs/azure.md 2.1.
 */
static const struct page {
    const char *method, *tenant, *rest; /* tenant NULL: any */
    void (*serve)(struct cloud *c, struct http_exchange *x, struct span tenant);
} pages[] = {
    { "GET", "common", "discovery/instance", serve_instance },
    { "GET", NULL, "v2.0/.well-known/openid-configuration", serve_openid },
    { "GET", NULL, ".well-known/openid-configuration", serve_openid },
    { "GET", NULL, "discovery/v2.0/keys", serve_keys },
    { "GET", NULL, "discovery/keys", serve_keys },
    { "POST", NULL, "oauth2/v2.0/token", serve_token_v2 },
    { "POST", NULL, "oauth2/token", serve_token_v1 },
};

static const struct page *
page_find(const char *path, struct span *ret_tenant)
{
    struct span rest = span_str(path);

    if (rest.n < 2 || rest.p[0] != '/')
        return NULL;
    rest = span_skip(rest, 1);
    if (!span_cut(&rest, '/', ret_tenant) || rest.p == NULL)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(pages); i++)
        if (span_eq_str(rest, pages[i].rest) &&
            (pages[i].tenant == NULL || span_eq_str(*ret_tenant, pages[i].tenant)))
            return &pages[i];
    return NULL;
}

bool
cloud_serves(const struct cloud *c, const char *path)
{
    struct span tenant;

    (void)c;
    return page_find(path, &tenant) != NULL;
}

void
cloud_serve(struct cloud *c, struct http_exchange *x)
{
    struct span tenant = { 0 };
    const struct page *p = page_find(http_path(x), &tenant);

    if (p == NULL)
        http_reply(x, 404, "text/plain", span_str("no such page\n"));
    else if (strcmp(p->method, http_method(x)) != 0)
        http_reply(x, 405, "text/plain", span_str("wrong method\n"));
    else
        p->serve(c, x, tenant);
}

/* -- open and close ------------------------------------------------------------------------------
 */

/* The key id: the thumbprint of its public half. */
static int
kid_make(const struct key *k, char ret[KID_BYTES], struct err *e)
{
    struct buf spki = BUF_INIT(4096), text = BUF_INIT(KID_BYTES);
    uint8_t id[DIGEST_BYTES];
    int r = key_spki(k, &spki, e);

    if (r == 0) {
        digest(buf_span(&spki), id);
        r = base64url_add(&text, span_of(id, sizeof(id)), e);
    }
    if (r == 0)
        (void)snprintf(ret, KID_BYTES, "%s", buf_text(&text));
    buf_done(&spki);
    buf_done(&text);
    return r;
}

int
cloud_new(const struct cloud_conf *conf, struct cloud **ret, struct err *e)
{
    struct cloud *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    c->store = conf->store;
    c->metrics = conf->metrics;
    c->key = key_ref(conf->key);
    c->jwks_json = BUF_INIT(JWKS_MAX_BYTES);
    (void)snprintf(c->tenant, sizeof(c->tenant), "%s", conf->tenant);
    if (kid_make(c->key, c->kid, e) < 0 || jwks_of_key(c->key, c->kid, &c->jwks_json, e) < 0 ||
        jwks_from_json(buf_span(&c->jwks_json), &c->jwks, e) < 0) {
        cloud_free(c);
        return err_wrap(e, "token endpoint");
    }
    *ret = c;
    return 0;
}

void
cloud_free(struct cloud *c)
{
    if (c == NULL)
        return;
    jwks_unref(c->jwks);
    key_unref(c->key);
    buf_done(&c->jwks_json);
    free(c);
}

struct jwks *
cloud_jwks(const struct cloud *c)
{
    return c->jwks;
}

void
cloud_issuer(const struct cloud *c, char ret[512])
{
    (void)snprintf(ret, 512, "https://sts.windows.net/%s/", c->tenant);
}
