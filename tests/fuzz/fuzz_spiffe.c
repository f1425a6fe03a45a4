/* fuzz_spiffe.c - an id that is taken is its own text, byte for byte; allow rules agree with it. */
#include <stdlib.h>

#include "base/str.h"
#include "identity/identity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
rule_check(struct span s)
{
    CLEANUP(str_freep) char *rule = NULL;
    struct err e;

    if (str_dup(s, &rule, &e) < 0)
        return;
    bool ok = allow_rule_check(rule, &e) == 0;
    /* a rule that is none allows nobody; one that is an id allows itself */
    if (allow_rule_matches(rule, s) && (!ok || memchr(s.p, '*', s.n) != NULL))
        abort();
    if (ok && memchr(s.p, '*', s.n) == NULL && !allow_rule_matches(rule, s))
        abort();
    if (!ok && allow_rule_matches(rule, span_str("spiffe://td/ns/a/sa/b")))
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span td, s = span_of(data, size);
    struct spiffe_id id;
    char text[SPIFFE_ID_BYTES];
    struct err e;

    bool any = spiffe_uri_check(s, &td, &e) == 0;
    if (any && (td.n == 0 || td.p < data || td.p + td.n > data + size))
        abort();
    if (spiffe_parse(s, &id, &e) == 0) {
        spiffe_text(&id, text);
        if (!span_eq_str(s, text) || !any || !span_eq_str(td, id.trust_domain))
            abort();
        for (size_t i = 0; i < size; i++)
            if (data[i] == '%' || data[i] == 0 || (data[i] >= 'A' && data[i] <= 'Z'))
                abort();
    }
    if (size > 0)
        rule_check(s);
    return 0;
}
