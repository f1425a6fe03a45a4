/* test_spiffe.c - specs/peers.md 5a row 6: nothing is normalised, nothing odd is taken. */
#include "unit.h"

#include <string.h>

#include "identity/identity.h"

#define S10  "aaaaaaaaaa"
#define S60  S10 S10 S10 S10 S10 S10
#define S250 S60 S60 S60 S60 S10

static void
good_ids_round_trip(void **state)
{
    static const struct {
        const char *text, *td, *ns, *sa;
    } rows[] = {
        { "spiffe://cluster.local/ns/shop/sa/cart", "cluster.local", "shop", "cart" },
        { "spiffe://td/ns/a/sa/a.b-c.d", "td", "a", "a.b-c.d" },
        { "spiffe://1_2-3.x/ns/0/sa/0", "1_2-3.x", "0", "0" },
        { "spiffe://td/ns/" S60 "abc/sa/" S250 "abc", "td", S60 "abc", S250 "abc" },
    };
    char text[SPIFFE_ID_BYTES];
    struct spiffe_id id;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_ok(spiffe_parse(span_str(rows[i].text), &id, &e));
        assert_string_equal(id.trust_domain, rows[i].td);
        assert_string_equal(id.ns, rows[i].ns);
        assert_string_equal(id.sa, rows[i].sa);
        spiffe_text(&id, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void
bad_ids(void **state)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        { "", "does not start with spiffe://" },
        { "spiffe:/td/ns/a/sa/b", "does not start with" },
        { "SPIFFE://td/ns/a/sa/b", "does not start with" },
        { "https://td/ns/a/sa/b", "does not start with" },
        { "spiffe://", "no trust domain" },
        { "spiffe:///ns/a/sa/b", "no trust domain" },
        { "spiffe://Td/ns/a/sa/b", "0x54 in the trust domain" },
        { "spiffe://t%64/ns/a/sa/b", "0x25 in the trust domain" },
        { "spiffe://user@td/ns/a/sa/b", "0x40 in the trust domain" },
        { "spiffe://td:8443/ns/a/sa/b", "0x3a in the trust domain" },
        { "spiffe://" S250 S10 "/ns/a/sa/b", "the trust domain has 260 bytes" },
        { "spiffe://td", "want spiffe://" },
        { "spiffe://td/", "empty path segment" },
        { "spiffe://td/ns/a/sa", "want spiffe://" },
        { "spiffe://td/ns/a/sa/", "empty path segment" },
        { "spiffe://td/ns/a/sa/b/", "empty path segment" },
        { "spiffe://td/ns/a/sa/b/c", "want spiffe://" },
        { "spiffe://td/ns//sa/b", "empty path segment" },
        { "spiffe://td//ns/a/sa/b", "empty path segment" },
        { "spiffe://td/ns/./sa/b", "\".\" or \"..\"" },
        { "spiffe://td/ns/a/sa/..", "\".\" or \"..\"" },
        { "spiffe://td/ns/a/../sa/b", "\".\" or \"..\"" },
        { "spiffe://td/ns/%61/sa/b", "0x25 in the path" },
        { "spiffe://td/ns/a/sa/b?x", "0x3f in the path" },
        { "spiffe://td/ns/a/sa/b#x", "0x23 in the path" },
        { "spiffe://td/ns/a/sa/*", "0x2a in the path" },
        { "spiffe://td/ns/a/sa/b ", "0x20 in the path" },
        { "spiffe://td/ns/a/sa/\xc3\xa4", "0xc3 in the path" },
        { "spiffe://td/NS/a/sa/b", "want spiffe://" },
        { "spiffe://td/sa/a/ns/b", "want spiffe://" },
        { "spiffe://td/ns/A/sa/b", "not the name of a namespace" },
        { "spiffe://td/ns/a.b/sa/b", "not the name of a namespace" },
        { "spiffe://td/ns/-a/sa/b", "not the name of a namespace" },
        { "spiffe://td/ns/" S60 "aaaa/sa/b", "not the name of a namespace" },
        { "spiffe://td/ns/a/sa/B", "not the name of a service account" },
        { "spiffe://td/ns/a/sa/b.", "not the name of a service account" },
        { "spiffe://td/ns/a/sa/b..c", "not the name of a service account" },
        { "spiffe://td/ns/a/sa/b.-c", "not the name of a service account" },
        { "spiffe://td/ns/a/sa/b_c", "not the name of a service account" },
        { "spiffe://td/ns/a/sa/" S250 "aaaa", "not the name of a service account" },
        { "spiffe://" S250 "/ns/" S60 "/sa/" S250, "over 511 bytes" },
        { "spiffe://td/" S250 S250 S250 S250 S250 S250 S250 S250 S60, "at most 2048" },
    };
    struct spiffe_id id;
    struct err e;

    (void)state;
    memset(&id, 'x', sizeof(id));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_err(spiffe_parse(span_str(rows[i].text), &id, &e), E_PARSE, rows[i].says);
        assert_int_equal(id.ns[0], 'x');
    }
    assert_err(spiffe_parse(span_of("spiffe://td/ns/a/sa/b\0c", 23), &id, &e), E_PARSE, "0x00");
}

static void
other_ids(void **state)
{
    static const struct {
        const char *text, *td; /* td NULL: refused */
    } rows[] = {
        { "spiffe://td", "td" },           { "spiffe://td/a", "td" },
        { "spiffe://td/A/b_c/D.e", "td" }, { "spiffe://td/", NULL },
        { "spiffe://td/a/", NULL },        { "spiffe://td/a//b", NULL },
        { "spiffe://td/a/../b", NULL },    { "spiffe://TD/a", NULL },
        { "spiffe://td/a?b", NULL },       { "urn:td", NULL },
        { "spiffe://td/.../a", "td" },
    };
    struct span td;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int r = spiffe_uri_check(span_str(rows[i].text), &td, &e);

        assert_int_equal(r, rows[i].td == NULL ? -E_PARSE : 0);
        if (rows[i].td != NULL)
            assert_true(span_eq_str(td, rows[i].td));
    }
}

static void
trust_domains(void **state)
{
    static const char *const bad[] = { "", "A", "a/b", "a b", "a:1", "a@b", S250 S10 };
    struct err e;

    (void)state;
    assert_ok(trust_domain_check("cluster.local", &e));
    assert_ok(trust_domain_check(S250, &e));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(trust_domain_check(bad[i], &e), E_PARSE, "trust domain");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_ids_round_trip),
        cmocka_unit_test(bad_ids),
        cmocka_unit_test(other_ids),
        cmocka_unit_test(trust_domains),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
