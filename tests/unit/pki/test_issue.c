#include "ca_kit.h"

static void
subjects_refused(void **state)
{
    static const struct {
        const char *subject, *why;
    } rows[] = {
        { "", "a CA needs one" },
        { "Istio", "\"Istio\" has no '='" },
        { "CN=a,", "has no '='" },
        { ",CN=a", "is not an attribute" },
        { "CN=a,,O=b", "is not an attribute" },
        { "CN=", "CN= is empty" },
        { "CN=a,O=", "O= is empty" },
        { "X=1", "\"X\" is not an attribute; want CN" },
        { "cn=1", "\"cn\" is not an attribute" },
        { "CN=a\\", "a '\\' at the end" },
        { "CN=a+b", "'+' must be written '\\+'" },
        { "CN=a\nb", "a control character (0x0a)" },
        { "C=Germany", "subject: C=Germany: " },
        { "CN=\xff\xfe", "subject: CN=" },
        { "CN=0123456789012345678901234567890123456789012345678901234567890123456789",
          "subject: CN=" },
    };
    struct cert *c = NULL;
    struct key *k = NULL;
    struct err e;

    (void)state;
    assert_ok(key_make(KEY_P256, &k, &e));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_request q = { .subject = rows[i].subject, .days = 1, .path_len = -1 };

        assert_err(root_make(&q, k, &c, &e), E_INVAL, rows[i].why);
    }
    char *longest = calloc(1, 2000);
    assert_non_null(longest);
    memset(longest, 'a', 1999);
    struct ca_request q = { .subject = longest, .days = 1, .path_len = -1 };
    assert_err(root_make(&q, k, &c, &e), E_LIMIT, "longer than 1024");
    assert_null(c);
    free(longest);
    key_unref(k);
}

static void
subjects(void **state)
{
    static const struct {
        const char *subject, *text;
    } rows[] = {
        { "O=Istio,CN=Intermediate CA - A1,L=cluster-A1",
          "CN=Intermediate CA - A1,O=Istio,L=cluster-A1" },
        { "O=Example\\, Inc.,CN=a", "CN=a,O=Example\\, Inc." },
        { "CN=\\#1 \\+ \\\"x\\\"", "CN=\\#1 \\+ \\\"x\\\"" },
        { "CN=W\xc3\xbcrze, O=b", "CN=W\xc3\xbcrze,O=b" }, /* blanks around a type */
        { "C=DE,ST=s,L=l,STREET=x,POSTALCODE=1,OU=u,SERIALNUMBER=7,CN=a=b",
          "SERIALNUMBER=7,CN=a=b,OU=u,POSTALCODE=1,STREET=x,L=l,ST=s,C=DE" },
    };
    struct key *k = NULL;
    struct err e;

    (void)state;
    assert_ok(key_make(KEY_P256, &k, &e));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_request q = { .subject = rows[i].subject, .days = 1, .path_len = -1 };
        char text[NAME_TEXT_BYTES];
        struct cert *c = NULL;

        assert_ok(root_make(&q, k, &c, &e));
        cert_subject_text(c, text);
        assert_string_equal(text, rows[i].text);
        cert_issuer_text(c, text);
        assert_string_equal(text, rows[i].text);
        cert_unref(c);
    }
    key_unref(k);
}

static void
roots_of_every_kind(void **state)
{
    static const struct {
        enum key_kind kind;
        int path_len;
    } rows[] = {
        { KEY_P256, -1 }, { KEY_P384, 0 }, { KEY_P521, 2 }, { KEY_RSA2048, -1 }, { KEY_ED25519, 1 }
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_request q = { .subject = "CN=R", .days = 36500, .path_len = rows[i].path_len };
        struct cert *c = NULL, *again = NULL, *end = NULL;
        struct key *k = NULL;
        struct roots *r = NULL;

        assert_ok(key_make(rows[i].kind, &k, &e));
        int64_t now = unix_s();
        assert_ok(root_make(&q, k, &c, &e));
        assert_int_equal(cert_key_kind(c), rows[i].kind);
        assert_true(cert_is_ca(c) && cert_is_self_signed(c) && cert_key_matches(c, k));
        assert_int_equal(cert_path_len(c), rows[i].path_len);
        assert_true(cert_not_before(c) >= now - 120 && cert_not_before(c) <= unix_s() - 120);
        assert_true(cert_not_after(c) >= now + 36500LL * 86400); /* past 2050: GeneralizedTime */
        assert_ok(cert_from_der(cert_der(c), &again, &e));
        assert_ok(roots_from_certs(&again, 1, &r, &e));
        assert_ok(roots_verify(r, c, NULL, 0, &end, &e));
        roots_unref(r);
        cert_unref(c);
        cert_unref(again);
        key_unref(k);
    }
}

static void
intermediates(void **state)
{
    static const char *const dns[] = { "istiod.istio-system.svc", "*.example.com" };
    struct ca_request q = { "CN=I", 36500, 0, dns, ARRAY_LEN(dns) };
    struct cert *c = NULL, *second = NULL;
    struct key *k = NULL;
    struct ca root;
    struct err e;

    (void)state;
    ca_make(&root, NULL, "CN=Root", 1);
    assert_ok(key_make(KEY_RSA2048, &k, &e));
    assert_ok(intermediate_make(&q, k, root.cert, root.key, &c, &e));
    assert_int_equal(cert_not_after(c), cert_not_after(root.cert)); /* never past its issuer */
    assert_true(cert_not_before(c) >= cert_not_before(root.cert));
    assert_true(span_eq(cert_aki(c), cert_ski(root.cert)));
    assert_int_equal(cert_san_count(c), 2);
    assert_true(span_eq_str(cert_san_at(c, 0).value, dns[0]));
    assert_true(cert_is_ca(c) && cert_path_len(c) == 0);
    assert_true(cert_serial(c).n == 16);
    assert_ok(intermediate_make(&q, k, root.cert, root.key, &second, &e));
    assert_false(span_eq(cert_serial(c), cert_serial(second)));
    cert_unref(second);
    cert_unref(c);
    key_unref(k);
    ca_done(&root);
}

static void
intermediates_refused(void **state)
{
    static const char *const bad_dns[] = { "a b" }, *const dots[] = { "a..b" },
                             *const none[] = { "" };
    struct ca root, narrow, zero, leaf, old, other;
    struct cert *c = NULL;
    struct key *k = NULL;
    struct err e;

    (void)state;
    ca_make(&root, NULL, "CN=Root", -1);
    ca_make(&narrow, NULL, "CN=Narrow", 1);
    ca_make(&other, NULL, "CN=Other", -1);
    ca_make(&zero, &root, "CN=Zero", 0);
    ca_bent(&leaf, NULL, "Leaf", -1, 10, "basicConstraints=CA:FALSE");
    ca_bent(&old, NULL, "Old", -10, -1, CA_EXT);
    assert_ok(key_make(KEY_P256, &k, &e));
    const struct {
        struct ca_request q;
        const struct cert *issuer;
        const struct key *issuer_key;
        enum err_code code;
        const char *why;
    } rows[] = {
        { { "CN=I", 1, -1, NULL, 0 },
          zero.cert,
          zero.key,
          E_DENIED,
          "\"CN=Zero\" has path length 0" },
        { { "CN=I", 1, 1, NULL, 0 },
          narrow.cert,
          narrow.key,
          E_DENIED,
          "path length 1 does not fit" },
        { { "CN=I", 1, 0, NULL, 0 }, leaf.cert, leaf.key, E_DENIED, "\"CN=Leaf\" is not a CA" },
        { { "CN=I", 1, 0, NULL, 0 }, root.cert, other.key, E_DENIED, "the key does not belong" },
        { { "CN=I", 1, 0, NULL, 0 },
          old.cert,
          old.key,
          E_DENIED,
          "the issuer: \"CN=Old\" expired" },
        { { "CN=I", 0, 0, NULL, 0 }, root.cert, root.key, E_INVAL, "days: 0" },
        { { "CN=I", 36501, 0, NULL, 0 }, root.cert, root.key, E_INVAL, "days: 36501" },
        { { "CN=I", 1, 0, bad_dns, 1 }, root.cert, root.key, E_INVAL, "\"a b\" is not a DNS name" },
        { { "CN=I", 1, 0, dots, 1 }, root.cert, root.key, E_INVAL, "is not a DNS name" },
        { { "CN=I", 1, 0, none, 1 }, root.cert, root.key, E_INVAL, "is not a DNS name" },
        { { "CN=Root", 1, 0, NULL, 0 }, root.cert, root.key, E_INVAL, "the same as the issuer's" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(intermediate_make(&rows[i].q, k, rows[i].issuer, rows[i].issuer_key, &c, &e),
                   rows[i].code, rows[i].why);
    assert_null(c);
    key_unref(k);
    struct ca *all[] = { &root, &narrow, &zero, &leaf, &old, &other };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ca_done(all[i]);
}

/* X.690 11.1: TRUE is 0xff. Go's crypto/x509 refuses a CA certificate that says 0x01, and with it
 * the whole mesh that is rooted in it. */
static void
x690_11_1_true_is_ff(void **state)
{
    static const uint8_t no_limit[] = { 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff },
                         limit_0[] = { 0x04, 0x08, 0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00 };
    struct ca_request q = { .subject = "CN=r", .days = 2, .path_len = -1 };
    struct key *rk = NULL, *ik = NULL;
    struct cert *root = NULL, *mid = NULL;
    struct err e;

    (void)state;
    assert_ok(key_make(KEY_P256, &rk, &e));
    assert_ok(key_make(KEY_P256, &ik, &e));
    assert_ok(root_make(&q, rk, &root, &e));
    q = (struct ca_request){ .subject = "CN=i", .days = 1, .path_len = 0 };
    assert_ok(intermediate_make(&q, ik, root, rk, &mid, &e));
    struct span r = cert_der(root), m = cert_der(mid);
    assert_non_null(memmem(r.p, r.n, no_limit, sizeof(no_limit)));
    assert_non_null(memmem(m.p, m.n, limit_0, sizeof(limit_0)));
    cert_unref(root);
    cert_unref(mid);
    key_unref(rk);
    key_unref(ik);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subjects_refused),      cmocka_unit_test(subjects),
        cmocka_unit_test(roots_of_every_kind),   cmocka_unit_test(intermediates),
        cmocka_unit_test(intermediates_refused), cmocka_unit_test(x690_11_1_true_is_ff),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
