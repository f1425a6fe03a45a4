#include "vault/challenge.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"
#include "vault/client.h"

/* Where Microsoft takes credentials, by cloud. Source: specs/azure.md 7.7. */
static const char *const authorities[] = {
    "login.microsoftonline.com",  "login.partner.microsoftonline.cn", "login.chinacloudapi.cn",
    "login.microsoftonline.us",   "login.sovcloud-identity.fr",       "login.sovcloud-identity.de",
    "login.sovcloud-identity.sg",
};

/* -- origins ------------------------------------------------------------------------------------
 */

static bool
host_copy(struct span host, char ret[URL_HOST_BYTES])
{
    bool is_v6 = host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';

    if (host.n == 0 || host.n >= URL_HOST_BYTES)
        return false;
    for (size_t i = 0; i < host.n; i++) {
        uint8_t c = host.p[i];

        if (!isalnum(c) && c != '-' && c != '.' && !(is_v6 && (c == ':' || c == '[' || c == ']')))
            return false;
        ret[i] = (char)tolower(c);
    }
    ret[host.n] = '\0';
    return true;
}

int
origin_parse(struct span url, struct origin *ret, struct span *ret_path, struct err *e)
{
    struct origin o = { .is_https = span_starts(url, "https://") };
    struct span host, port = { 0 };
    uint64_t n = o.is_https ? 443 : 80;
    size_t host_n = 0;

    if (!o.is_https && !span_starts(url, "http://"))
        return err_set(e, E_INVAL, "\"%.*s\" does not start with https://",
                       (int)(url.n < 200 ? url.n : 200), (const char *)url.p);
    url = span_skip(url, o.is_https ? 8 : 7);
    while (host_n < url.n && url.p[host_n] != '/' && url.p[host_n] != '?')
        host_n++;
    host = span_of(url.p, host_n);
    const uint8_t *colon = host_n == 0 ? NULL : memrchr(host.p, ':', host.n);
    if (colon != NULL && memchr(colon, ']', host.n - (size_t)(colon - host.p)) == NULL) {
        port = span_of(colon + 1, host.n - (size_t)(colon - host.p) - 1);
        host.n = (size_t)(colon - host.p);
        if (u64_parse(port, 1, 65535, &n, e) < 0)
            return err_set(e, E_INVAL, "the URL's port is not one");
    }
    if (!host_copy(host, o.host))
        return err_set(e, E_INVAL, "the URL's host name is not one");
    o.port = (uint16_t)n;
    *ret = o;
    if (ret_path != NULL)
        *ret_path = span_skip(url, host_n);
    return 0;
}

void
origin_text(const struct origin *o, char ret[ORIGIN_BYTES])
{
    if (o->port == (o->is_https ? 443 : 80))
        (void)snprintf(ret, ORIGIN_BYTES, "%s://%s", o->is_https ? "https" : "http", o->host);
    else
        (void)snprintf(ret, ORIGIN_BYTES, "%s://%s:%u", o->is_https ? "https" : "http", o->host,
                       o->port);
}

bool
origin_eq(const struct origin *a, const struct origin *b)
{
    return a->is_https == b->is_https && a->port == b->port && strcmp(a->host, b->host) == 0;
}

bool
origin_is_bare(const struct origin *o)
{
    struct in_addr v4;

    return o->host[0] == '[' || strcmp(o->host, "localhost") == 0 ||
           inet_pton(AF_INET, o->host, &v4) == 1;
}

bool
origin_is_loopback(const struct origin *o)
{
    return origin_is_bare(o) &&
           (strncmp(o->host, "127.", 4) == 0 || strcmp(o->host, "[::1]") == 0 ||
            strcmp(o->host, "localhost") == 0);
}

/* "v.vault.azure.net" lies under "vault.azure.net". */
static bool
host_is_under(const char *host, const char *parent)
{
    size_t n = strlen(host), p = strlen(parent);

    return n > p + 1 && host[n - p - 1] == '.' && strcasecmp(host + n - p, parent) == 0;
}

int
vault_host_valid(const char *host, struct err *e)
{
    char copy[URL_HOST_BYTES];

    if (!host_copy(span_str(host), copy) || host[0] == '.' || host[0] == '-')
        return err_set(
            e, E_INVAL,
            "\"%.100s\" is not a host: write its name alone, without https://, a port or "
            "a dot before it (vault.azure.net takes every name under it)",
            host);
    return 0;
}

int
vault_host_check(const char *url, const char *const *hosts, size_t n, struct err *e)
{
    struct origin o;

    TRY(origin_parse(span_str(url), &o, NULL, e));
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(o.host, hosts[i]) == 0 ||
            (!origin_is_bare(&o) && host_is_under(o.host, hosts[i])))
            return 0;
    return err_set(e, E_DENIED, "the host %s is not one that credentials may be sent to", o.host);
}

/* -- the challenge ------------------------------------------------------------------------------
 */

/* Takes `key="value"` and the comma and blanks after it off the front of *s. */
static bool
pair_cut(struct span *s, struct span *ret_key, struct span *ret_value)
{
    struct span rest = *s;
    size_t n = 0;

    while (n < rest.n && (isalnum(rest.p[n]) || rest.p[n] == '_'))
        n++;
    *ret_key = span_of(rest.p, n);
    rest = span_skip(rest, n);
    if (n == 0 || !span_starts(rest, "=\""))
        return false;
    rest = span_skip(rest, 2);
    for (n = 0; n < rest.n && rest.p[n] != '"'; n++)
        if (rest.p[n] < ' ' || rest.p[n] >= 0x7f || rest.p[n] == '\\')
            return false;
    if (n == rest.n)
        return false;
    *ret_value = span_of(rest.p, n);
    rest = span_skip(rest, n + 1);
    while (rest.n > 0 && (rest.p[0] == ' ' || rest.p[0] == ','))
        rest = span_skip(rest, 1);
    *s = rest;
    return true;
}

static int
bad(struct err *e, const char *what)
{
    return err_set(e, E_PEER, "the vault's challenge %s", what);
}

static int
authority_take(struct span url, struct challenge *c, struct err *e)
{
    struct span path, tenant;

    if (url.n == 0 || origin_parse(url, &c->authority, &path, e) < 0)
        return bad(e, "names no authority");
    path = span_skip(path, 1);
    (void)span_cut(&path, '/', &tenant);
    if (tenant.n == 0 || tenant.n >= CHALLENGE_TENANT_BYTES || path.n > 0 || tenant.p[0] == '.')
        return bad(e, "names no tenant");
    for (size_t i = 0; i < tenant.n; i++)
        if (!isalnum(tenant.p[i]) && tenant.p[i] != '-' && tenant.p[i] != '.')
            return bad(e, "names no tenant");
    memcpy(c->tenant, tenant.p, tenant.n);
    c->tenant[tenant.n] = '\0';
    return 0;
}

/* The resource as the token service wants it: with "/.default", however many slashes it ends in. */
static int
resource_take(struct span resource, struct span scope, struct challenge *c, struct err *e)
{
    struct span of = scope.n > 0 ? scope : resource;
    bool is_whole = of.n > 9 && memcmp(of.p + of.n - 9, "/.default", 9) == 0;

    if (of.n == 0 || of.n + 10 > CHALLENGE_SCOPE_BYTES ||
        origin_parse(of, &c->resource, NULL, e) < 0)
        return bad(e, "names no resource");
    (void)snprintf(c->scope, sizeof(c->scope), "%.*s%s", SPAN_ARG(of), is_whole ? "" : "/.default");
    return 0;
}

int
challenge_parse(const char *header, struct challenge *ret, struct err *e)
{
    struct span rest = span_str(header), key, value, url = { 0 }, resource = { 0 }, scope = { 0 };
    struct challenge c = { 0 };

    if (rest.n > CHALLENGE_MAX_BYTES)
        return bad(e, "is too long");
    if (rest.n < 7 || strncasecmp(header, "Bearer ", 7) != 0)
        return bad(e, "is not a bearer challenge");
    rest = span_trim(span_skip(rest, 7));
    while (rest.n > 0) {
        if (!pair_cut(&rest, &key, &value))
            return bad(e, "is malformed");
        struct span *at = span_eq_str(key, "authorization") || span_eq_str(key, "authorization_uri")
                              ? &url
                          : span_eq_str(key, "resource") ? &resource
                          : span_eq_str(key, "scope")    ? &scope
                                                         : NULL;
        if (at == NULL)
            continue; /* error, claims, ... */
        if (at->p != NULL)
            return bad(e, "says the same thing twice");
        *at = value;
    }
    TRY(authority_take(url, &c, e));
    TRY(resource_take(resource, scope, &c, e));
    *ret = c;
    return 0;
}

bool
challenge_is_of_microsoft(const struct challenge *c)
{
    for (size_t i = 0; i < ARRAY_LEN(authorities); i++)
        if (c->authority.is_https && c->authority.port == 443 &&
            strcmp(c->authority.host, authorities[i]) == 0)
            return true;
    return false;
}

/* A vault at an address asks for tokens of its own; on this machine there are no strangers. */
static bool
resource_is_of_vault(const struct challenge *c, const struct origin *vault)
{
    if (origin_is_loopback(vault))
        return true;
    return vault->port == c->resource.port &&
           (origin_is_bare(vault) ? strcmp(vault->host, c->resource.host) == 0
                                  : host_is_under(vault->host, c->resource.host));
}

static bool
authority_is_known(const struct challenge *c, const struct origin *vault)
{
    return challenge_is_of_microsoft(c) || strcmp(c->authority.host, vault->host) == 0 ||
           (!origin_is_bare(&c->resource) && host_is_under(c->authority.host, c->resource.host));
}

int
challenge_check(const struct challenge *c, const struct origin *vault, struct err *e)
{
    bool is_local = !vault->is_https && origin_is_loopback(vault);

    if (!resource_is_of_vault(c, vault))
        return err_set(e, E_DENIED,
                       "the vault %s:%u asks for a token for %s:%u, which is another service's: "
                       "no token is sent",
                       vault->host, vault->port, c->resource.host, c->resource.port);
    if (!c->authority.is_https && !(is_local && origin_is_loopback(&c->authority)))
        return err_set(e, E_DENIED, "the vault's authority %s is not https: no secret is sent",
                       c->authority.host);
    if (!authority_is_known(c, vault))
        return err_set(e, E_DENIED,
                       "the vault sends us to the authority %s, which is neither Microsoft's nor "
                       "its own: no secret is sent",
                       c->authority.host);
    return 0;
}
