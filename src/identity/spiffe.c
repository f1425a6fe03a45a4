/* spiffe.c - SPIFFE ids and allow rules' common ground: one strict reader of the URI.
 *
 * Nothing is normalised, ever: two texts are the same identity only when they are the same bytes.
 * Normalising is how one identity came to stand for another (CVE-2021-27099, specs/peers.md 5a 6).
 */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "identity/identity.h"

enum { K8S_LABEL_MAX = 63, K8S_SUBDOMAIN_MAX = K8S_NAME_BYTES - 1 };

static const char scheme[] = "spiffe://";

static bool
is_lower_alnum(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* SPIFFE-ID 2.1: the characters of a trust domain. */
static bool
is_domain_char(uint8_t c)
{
    return is_lower_alnum(c) || c == '.' || c == '-' || c == '_';
}

/* SPIFFE-ID 2.2: the characters of a path segment. */
static bool
is_path_char(uint8_t c)
{
    return is_domain_char(c) || (c >= 'A' && c <= 'Z');
}

bool
k8s_label_ok(struct span s)
{
    if (s.n == 0 || s.n > K8S_LABEL_MAX || s.p[0] == '-' || s.p[s.n - 1] == '-')
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (!is_lower_alnum(s.p[i]) && s.p[i] != '-')
            return false;
    return true;
}

bool
k8s_subdomain_ok(struct span s)
{
    if (s.n == 0 || s.n > K8S_SUBDOMAIN_MAX || s.p[s.n - 1] == '.')
        return false;
    for (struct span rest = s, part; span_cut(&rest, '.', &part);)
        if (part.n == 0 || part.p[0] == '-' || part.p[part.n - 1] == '-')
            return false;
    for (size_t i = 0; i < s.n; i++)
        if (!is_lower_alnum(s.p[i]) && s.p[i] != '-' && s.p[i] != '.')
            return false;
    return true;
}

/* How much of a text from outside goes into a message. */
static int
text_n(struct span s)
{
    return s.n > K8S_LABEL_MAX ? K8S_LABEL_MAX : (int)s.n;
}

static int
domain_check(struct span td, struct err *e)
{
    if (td.n == 0)
        return err_set(e, E_PARSE, "no trust domain");
    if (td.n >= TRUST_DOMAIN_BYTES)
        return err_set(e, E_PARSE, "the trust domain has %zu bytes, at most %d are allowed", td.n,
                       TRUST_DOMAIN_BYTES - 1);
    for (size_t i = 0; i < td.n; i++)
        if (!is_domain_char(td.p[i]))
            return err_set(e, E_PARSE,
                           "byte 0x%02x in the trust domain; a-z, 0-9, '.', '-' and '_' are "
                           "allowed (SPIFFE-ID 2.1)",
                           td.p[i]);
    return 0;
}

int
trust_domain_check(const char *td, struct err *e)
{
    if (domain_check(span_str(td), e) < 0)
        return err_wrap(e, "trust domain \"%.*s\"", TRUST_DOMAIN_BYTES, td == NULL ? "" : td);
    return 0;
}

static int
segment_check(struct span s, struct err *e)
{
    if (s.n == 0)
        return err_set(e, E_PARSE, "an empty path segment (SPIFFE-ID 2.2)");
    if (span_eq_str(s, ".") || span_eq_str(s, ".."))
        return err_set(e, E_PARSE, "a \".\" or \"..\" path segment (SPIFFE-ID 2.2)");
    for (size_t i = 0; i < s.n; i++)
        if (!is_path_char(s.p[i]))
            return err_set(e, E_PARSE,
                           "byte 0x%02x in the path; letters, digits, '.', '-' and '_' are allowed "
                           "(SPIFFE-ID 2.2)",
                           s.p[i]);
    return 0;
}

/* Takes the trust domain off `s`; *ret_path is what follows its '/', with p == NULL when there is
 * no '/' at all. */
static int
uri_cut(struct span s, struct span *ret_td, struct span *ret_path, struct err *e)
{
    struct span td;

    if (s.n > SPIFFE_URI_MAX_BYTES)
        return err_set(e, E_PARSE, "a SPIFFE id of %zu bytes, at most %d are allowed", s.n,
                       SPIFFE_URI_MAX_BYTES);
    if (!span_starts(s, scheme))
        return err_set(e, E_PARSE, "does not start with %s", scheme);
    s = span_skip(s, sizeof(scheme) - 1);
    const uint8_t *slash = s.n == 0 ? NULL : memchr(s.p, '/', s.n);
    td = slash == NULL ? s : span_of(s.p, (size_t)(slash - s.p));
    TRY(domain_check(td, e));
    *ret_td = td;
    *ret_path = slash == NULL ? span_of(NULL, 0) : span_skip(s, td.n + 1);
    return 0;
}

int
spiffe_uri_check(struct span s, struct span *ret_td, struct err *e)
{
    struct span td, path;

    TRY(uri_cut(s, &td, &path, e));
    if (path.p != NULL) {
        struct span part;

        if (path.n == 0 || path.p[path.n - 1] == '/')
            return err_set(e, E_PARSE, "a '/' at the end (SPIFFE-ID 2.2)");
        while (span_cut(&path, '/', &part))
            TRY(segment_check(part, e));
    }
    *ret_td = td;
    return 0;
}

int
spiffe_make(struct span td, struct span ns, struct span sa, struct spiffe_id *ret, struct err *e)
{
    static const char fixed[] = "spiffe:///ns//sa/";
    struct spiffe_id id = { 0 };

    TRY(domain_check(td, e));
    if (!k8s_label_ok(ns))
        return err_set(e, E_PARSE, "\"%.*s\" is not the name of a namespace (RFC 1123 label)",
                       text_n(ns), (const char *)ns.p);
    if (!k8s_subdomain_ok(sa))
        return err_set(e, E_PARSE,
                       "\"%.*s\" is not the name of a service account (RFC 1123 subdomain)",
                       text_n(sa), (const char *)sa.p);
    if (sizeof(fixed) + td.n + ns.n + sa.n > SPIFFE_ID_BYTES)
        return err_set(e, E_PARSE, "the id is over %d bytes", SPIFFE_ID_BYTES - 1);
    memcpy(id.trust_domain, td.p, td.n);
    memcpy(id.ns, ns.p, ns.n);
    memcpy(id.sa, sa.p, sa.n);
    *ret = id;
    return 0;
}

int
spiffe_parse(struct span s, struct spiffe_id *ret, struct err *e)
{
    enum { PARTS = 4 };
    static const char want[] = "want spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT";
    struct span td, rest, part[PARTS] = { 0 };
    size_t n = 0;

    TRY(uri_cut(s, &td, &rest, e));
    for (struct span p; span_cut(&rest, '/', &p); n++) {
        TRY(segment_check(p, e));
        if (n < PARTS)
            part[n] = p;
    }
    if (n != PARTS || !span_eq_str(part[0], "ns") || !span_eq_str(part[2], "sa"))
        return err_set(e, E_PARSE, "%s", want);
    return spiffe_make(td, part[1], part[3], ret, e);
}

void
spiffe_text(const struct spiffe_id *id, char ret[SPIFFE_ID_BYTES])
{
    int n = snprintf(ret, SPIFFE_ID_BYTES, "%s%s/ns/%s/sa/%s", scheme, id->trust_domain, id->ns,
                     id->sa);

    if (n < 0 || n >= SPIFFE_ID_BYTES)
        ret[0] = '\0'; /* not made by spiffe_make: no id rather than another one */
}
