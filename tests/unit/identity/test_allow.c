#include "unit.h"

#include <string.h>

#include "identity/identity.h"

static void
matches(void **state)
{
    static const struct {
        const char *rule, *uri;
        bool want;
    } rows[] = {
        { "spiffe://td/ns/shop/sa/x", "spiffe://td/ns/shop/sa/x", true },
        { "spiffe://td/ns/shop/sa/x", "spiffe://td/ns/shop/sa/xx", false },
        { "spiffe://td/ns/shop/sa/x", "spiffe://td/ns/shop/sa/x/y", false },
        { "spiffe://td/ns/shop/sa/x", "spiffe://td/ns/shop/sa", false },
        { "spiffe://td/ns/shop/sa/x", "spiffe://other/ns/shop/sa/x", false },
        { "spiffe://td/ns/shop/sa/*", "spiffe://td/ns/shop/sa/x", true },
        { "spiffe://td/ns/shop/sa/*", "spiffe://td/ns/shop/sa/x/y", true },
        { "spiffe://td/ns/shop/sa/*", "spiffe://td/ns/shop/sa", false },
        { "spiffe://td/ns/shop/sa/*", "spiffe://td/ns/shop2/sa/x", false },
        { "spiffe://td/ns/*/sa/x", "spiffe://td/ns/shop/sa/x", true },
        { "spiffe://td/ns/*/sa/x", "spiffe://td/ns/a/b/sa/x", false },
        { "spiffe://td/ns/*/sa/x", "spiffe://td/ns/shop/sa/y", false },
        { "spiffe://td/ns/*/sa/*", "spiffe://td/ns/shop/sa/y", true },
        { "spiffe://td/*", "spiffe://td/a", true },
        { "spiffe://td/*", "spiffe://td/ns/shop/sa/y", true },
        { "spiffe://td/*", "spiffe://td", false },
        { "spiffe://td/*", "spiffe://td2/a", false },
        { "spiffe://td", "spiffe://td", true },
        { "spiffe://td", "spiffe://td/a", false },
        /* what is no id matches nothing, not even itself */
        { "spiffe://td/*", "spiffe://td/", false },
        { "spiffe://td/*", "spiffe://td/a/../b", false },
        { "spiffe://td/ns/*/sa/x", "spiffe://td/ns/*/sa/x", false },
        { "spiffe://td/*", "", false },
        /* a rule that is none allows nobody */
        { "*", "spiffe://td/a", false },
        { "spiffe://*", "spiffe://td", false },
        { "spiffe://*/a", "spiffe://td/a", false },
        { "spiffe://td/a*", "spiffe://td/ab", false },
        { "", "spiffe://td/a", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (allow_rule_matches(rows[i].rule, span_str(rows[i].uri)) != rows[i].want)
            fail_msg("%s against %s", rows[i].rule, rows[i].uri);
}

static void
bad_rules(void **state)
{
    static const char *const rows[] = {
        "",
        "*",
        "spiffe://",
        "spiffe://*",
        "spiffe://*/ns/a/sa/b",
        "spiffe://td/a*",
        "spiffe://td/*a",
        "spiffe://td/**",
        "spiffe://td/a/",
        "spiffe://td/a/*/",
        "spiffe://td/../*",
        "spiffe://TD/*",
        "spiffe://t*/a",
        "http://td/*",
    };
    char longest[SPIFFE_URI_MAX_BYTES + 2];
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(allow_rule_check(rows[i], &e), E_PARSE, "allow rule");
    memset(longest, 'a', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    memcpy(longest, "spiffe://td/", 12);
    assert_err(allow_rule_check(longest, &e), E_PARSE, "2049 bytes");
    longest[sizeof(longest) - 2] = '\0';
    assert_ok(allow_rule_check(longest, &e));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches),
        cmocka_unit_test(bad_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
