/* discovery.c - OpenID Connect discovery: the two members that matter. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "net/json.h"
#include "identity/jwks_source.h"

static const char https[] = "https://";

/* An https URL of printable ASCII with a host, without user, fragment and what a reader might take
 * in two ways. */
static bool
url_ok(struct span s, bool may_query)
{
    if (!span_starts(s, https) || s.n == sizeof(https) - 1 || s.p[sizeof(https) - 1] == '/')
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] > '~' || strchr("@#\\\"<>^`{|}", s.p[i]) != NULL ||
            (s.p[i] == '?' && !may_query))
            return false;
    return true;
}

int
discovery_issuer_check(const char *issuer, struct err *e)
{
    if (!url_ok(span_str(issuer), false))
        return err_set(e, E_INVAL,
                       "issuer \"%.200s\": its keys can only be found when it is an https:// URL; "
                       "name where they are instead (ISSUER=JWKS)",
                       issuer);
    return 0;
}

int
discovery_url(const char *issuer, char **ret, struct err *e)
{
    size_t n = strlen(issuer);

    while (n > 0 && issuer[n - 1] == '/') /* 4.1: a terminating / is removed first */
        n--;
    return str_format(ret, e, "%.*s/.well-known/openid-configuration", (int)n, issuer);
}

int
discovery_read(struct span json, const char *issuer, char ret_uri[JWKS_URI_BYTES], struct err *e)
{
    CLEANUP(json_decrefp) json_t *doc = NULL;
    struct span iss, uri;

    TRY(json_object_parse(json, JSON_MAX_DEPTH, &doc, e));
    if (TRY(json_text(doc, "issuer", &iss, e)) == JSON_MEMBER_ABSENT || !span_eq_str(iss, issuer))
        return err_set(e, E_DENIED,
                       "the document is of another issuer than \"%.200s\" (OpenID Connect "
                       "Discovery 4.3)",
                       issuer);
    if (TRY(json_text(doc, "jwks_uri", &uri, e)) == JSON_MEMBER_ABSENT)
        return err_set(e, E_PARSE, "the document has no \"jwks_uri\"");
    if (!url_ok(uri, true) || uri.n >= JWKS_URI_BYTES)
        return err_set(e, E_PARSE,
                       "\"jwks_uri\" is no https:// URL (keys that come over http prove nothing)");
    memcpy(ret_uri, uri.p, uri.n);
    ret_uri[uri.n] = '\0';
    return 0;
}
