/* allow.c - allow rules: SPIFFE ids with "*" for a whole segment or the tail.
 *
 * '*' is no character of a SPIFFE id, so an id can never be read as a pattern, and a rule without
 * '*' matches one id only.
 */
#include <string.h>

#include "base/str.h"
#include "identity/identity.h"

enum { RULE_MAX_BYTES = SPIFFE_URI_MAX_BYTES };

/* The same rule with each "*" replaced by "x" must be a valid SPIFFE id. */
int
allow_rule_check(const char *rule, struct err *e)
{
    char plain[RULE_MAX_BYTES + 1];
    struct span td, s = span_str(rule);
    size_t path_at = 0;

    if (s.n == 0 || s.n > RULE_MAX_BYTES)
        return err_set(e, E_PARSE, "an allow rule of %zu bytes, want 1..%d", s.n, RULE_MAX_BYTES);
    memcpy(plain, rule, s.n + 1);
    for (size_t i = 0, slashes = 0; i < s.n; i++) {
        slashes += plain[i] == '/';
        path_at = path_at == 0 && slashes == 3 ? i : path_at;
        if (plain[i] != '*')
            continue;
        if (path_at == 0 || plain[i - 1] != '/' || (plain[i + 1] != '/' && plain[i + 1] != '\0'))
            return err_set(e, E_PARSE,
                           "allow rule \"%s\": '*' stands for a whole path segment or the tail, "
                           "as in spiffe://td/ns/shop/sa/*",
                           rule);
        plain[i] = 'x';
    }
    if (spiffe_uri_check(span_of(plain, s.n), &td, e) < 0)
        return err_wrap(e, "allow rule \"%s\"", rule);
    return 0;
}

bool
allow_rule_matches(const char *rule, struct span uri)
{
    struct err e;
    struct span td, want, have, r = span_str(rule);

    if (allow_rule_check(rule, &e) < 0 || spiffe_uri_check(uri, &td, &e) < 0)
        return false; /* a rule that is not one allows nobody */
    for (;;) {
        bool want_more = span_cut(&r, '/', &want), have_more = span_cut(&uri, '/', &have);

        if (!want_more || !have_more)
            return want_more == have_more;
        if (span_eq_str(want, "*") && r.p == NULL)
            return true; /* the tail: one segment or more */
        if (!span_eq_str(want, "*") && !span_eq(want, have))
            return false;
    }
}
