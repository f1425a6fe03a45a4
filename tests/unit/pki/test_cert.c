#include "ca_kit.h"

#include "pki/internal.h"

static void
names_as_go_prints_them(void **state)
{
    /* of Go's own table in pkix_test.go the promises, not the text; "type=value" in DER order */
    static const struct {
        const char *attributes[12], *want;
    } rows[] = {
        { { NULL }, "" },
        { { "CN=a", NULL }, "CN=a" },
        { { "O=Istio", "CN=Intermediate CA - A1", "L=cluster-A1", NULL },
          "CN=Intermediate CA - A1,O=Istio,L=cluster-A1" },
        { { "serialNumber=7", "CN=c", "OU=u", "O=o", "postalCode=p", "street=s", "L=l", "ST=t",
            "C=DE", NULL },
          "SERIALNUMBER=7,CN=c,OU=u,O=o,POSTALCODE=p,STREET=s,L=l,ST=t,C=DE" },
        { { "C=DE", "ST=t", "L=l", "O=o", "CN=c", NULL }, "CN=c,O=o,L=l,ST=t,C=DE" },
        { { "O=a", "O=b", NULL }, "O=a+O=b" },
        { { "CN=first", "CN=last", NULL }, "CN=last" },
        { { "CN= a,b+c\"d\\e<f>g;h ", NULL }, "CN=\\ a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h\\ " },
        { { "CN=#a#", NULL }, "CN=\\#a#" },
        { { "CN=\xc3\x9cnal", NULL }, "CN=\xc3\x9cnal" },
        { { "CN=a\nb", NULL }, "CN=a\\0Ab" }, /* ours: no control character reaches a log */
        { { "emailAddress=a@b", "CN=c", "DC=x", NULL },
          "CN=c,0.9.2342.19200300.100.1.25=#130178,1.2.840.113549.1.9.1=#0c03614062" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        X509_NAME *n = X509_NAME_new();
        char text[NAME_TEXT_BYTES];

        for (const char *const *a = rows[i].attributes; *a != NULL; a++) {
            char type[32] = "";
            const char *eq = strchr(*a, '=');

            memcpy(type, *a, (size_t)(eq - *a));
            assert_int_equal(X509_NAME_add_entry_by_txt(n, type, MBSTRING_UTF8,
                                                        (const unsigned char *)eq + 1, -1, -1, 0),
                             1);
        }
        name_text(n, text);
        assert_string_equal(text, rows[i].want);
        X509_NAME_free(n);
    }
}

static void
long_names_are_cut_at_a_character(void **state)
{
    X509_NAME *n = X509_NAME_new();
    char text[NAME_TEXT_BYTES], value[64 * 2 + 1] = "";

    (void)state;
    for (size_t i = 0; i < 64; i++)
        memcpy(value + 2 * i, "\xc3\xbc", 3);
    for (int i = 0; i < 4; i++)
        assert_int_equal(X509_NAME_add_entry_by_txt(n, "OU", MBSTRING_UTF8,
                                                    (const unsigned char *)value, -1, -1, 0),
                         1);
    name_text(n, text);
    size_t len = strlen(text);
    assert_true(len < NAME_TEXT_BYTES && len > NAME_TEXT_BYTES - 6);
    assert_string_equal(text + len - 3, "...");
    assert_int_equal((unsigned char)text[len - 4], 0xbc); /* the second byte of a whole one */
    X509_NAME_free(n);
}

static void
facts(void **state)
{
    struct buf line = BUF_INIT(4096);
    struct ca a;
    struct err e;
    char text[SERIAL_TEXT_BYTES], usage[USAGE_TEXT_BYTES];
    uint8_t id[DIGEST_BYTES];

    (void)state;
    ca_bent(&a, NULL, "A \"quoted\" \\ name", -1, 10, CA_EXT ";subjectKeyIdentifier=hash");
    cert_serial_text(a.cert, text);
    assert_string_equal(text, "4d"); /* 77 */
    assert_int_equal(cert_key_kind(a.cert), KEY_P256);
    assert_int_equal(cert_ski(a.cert).n, 20);
    assert_int_equal(cert_aki(a.cert).n, 0);
    digest(cert_der(a.cert), id);
    assert_memory_equal(id, cert_id(a.cert), DIGEST_BYTES);
    cert_usage_text(a.cert, usage);
    assert_string_equal(usage, "keyCertSign,cRLSign");
    assert_ok(cert_log_line(a.cert, &line, &e));
    assert_non_null(strstr(buf_text(&line),
                           "x509 cert - Issuer: \"CN=A \\\\\\\"quoted\\\\\\\" \\\\\\\\ "
                           "name\", Subject: \"CN="));
    assert_non_null(strstr(buf_text(&line), ", SN: 4d, NotBefore: \"2"));
    assert_true(line.n > 2 && line.p[line.n - 2] == 'Z' && line.p[line.n - 1] == '"');
    buf_done(&line);
    ca_done(&a);
}

static void
rfc5280_4_2_1_9_what_is_a_ca(void **state)
{
    static const struct {
        const char *ext;
        bool is_ca;
        int path_len;
    } rows[] = {
        { CA_EXT, true, -1 },
        { "basicConstraints=CA:TRUE", true, -1 }, /* no key usage: nothing forbids it */
        { "basicConstraints=critical,CA:TRUE,pathlen:0", true, 0 },
        { "basicConstraints=critical,CA:TRUE,pathlen:3", true, 3 },
        { "basicConstraints=critical,CA:FALSE", false, -1 },
        { "keyUsage=keyCertSign", false, -1 },
        { "subjectKeyIdentifier=hash", false, -1 },
        { "basicConstraints=critical,CA:TRUE;keyUsage=digitalSignature", false, -1 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca a;

        ca_bent(&a, NULL, "A", -1, 10, rows[i].ext);
        assert_int_equal(cert_is_ca(a.cert), rows[i].is_ca);
        assert_int_equal(cert_path_len(a.cert), rows[i].path_len);
        assert_true(cert_is_self_signed(a.cert));
        ca_done(&a);
    }
}

/* A name that issues itself, signed by another key, is no root. */
static void
self_signed_means_signed(void **state)
{
    struct ca a, fake;

    (void)state;
    ca_bent(&a, NULL, "A", -1, 10, CA_EXT);
    ca_bent(&fake, &a, "A", -1, 10, CA_EXT);
    assert_false(cert_is_self_signed(fake.cert));
    assert_true(cert_is_signed_by(fake.cert, a.cert));
    assert_false(cert_is_signed_by(a.cert, fake.cert));
    assert_true(cert_key_matches(fake.cert, fake.key));
    assert_false(cert_key_matches(fake.cert, a.key));
    ca_done(&fake);
    ca_done(&a);
}

static void
spiffe_uri(void **state)
{
    static const struct {
        const char *ext, *uri;
        int r;
    } rows[] = {
        { "subjectAltName=URI:spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", 0 },
        { "subjectAltName=DNS:x,URI:spiffe://td/a,IP:127.0.0.1,email:a@b", "spiffe://td/a", 0 },
        { "subjectAltName=DNS:x", NULL, CERT_NO_URI },
        { "basicConstraints=CA:FALSE", NULL, CERT_NO_URI },
        { "subjectAltName=URI:spiffe://td/a,URI:spiffe://td/b", NULL, -(int)E_DENIED },
        { "subjectAltName=URI:spiffe://td/a b", NULL, -(int)E_DENIED },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct span uri = { NULL, 0 };
        struct ca a;

        ca_bent(&a, NULL, "A", -1, 10, rows[i].ext);
        assert_int_equal(cert_spiffe_uri(a.cert, &uri, &e), rows[i].r);
        assert_true(rows[i].uri == NULL ? uri.p == NULL : span_eq_str(uri, rows[i].uri));
        if (i == 1) {
            assert_int_equal(cert_san_count(a.cert), 4);
            assert_int_equal(cert_san_at(a.cert, 0).kind, SAN_DNS);
            assert_int_equal(cert_san_at(a.cert, 2).kind, SAN_IP);
            assert_true(span_eq(cert_san_at(a.cert, 2).value, span_of("\x7f\0\0\1", 4)));
            assert_int_equal(cert_san_at(a.cert, 3).kind, SAN_EMAIL);
        }
        ca_done(&a);
    }
}

static void
malformed_certificates(void **state)
{
    struct cert *c = NULL, *many[2] = { NULL };
    struct buf b = BUF_INIT(PEM_MAX_BYTES);
    struct ca a;
    struct err e;
    size_t n = 7;

    (void)state;
    ca_make(&a, NULL, "CN=A", -1);
    assert_ok(buf_add(&b, cert_der(a.cert), &e));
    assert_ok(buf_add_str(&b, "xyz", &e));
    assert_err(cert_from_der(buf_span(&b), &c, &e), E_PARSE, "3 bytes after the certificate");
    assert_err(cert_from_der(span_of(b.p, b.n - 4), &c, &e), E_PARSE, "does not parse");
    assert_err(cert_from_der(span_of(NULL, 0), &c, &e), E_PARSE, "0 bytes");
    assert_null(c);
    buf_done(&b);
    for (int i = 0; i < 3; i++)
        assert_ok(cert_to_pem(a.cert, &b, &e));
    assert_err(certs_from_pem(buf_span(&b), many, 2, &n, &e), E_LIMIT, "more than 2 certificates");
    assert_true(n == 7 && many[0] == NULL && many[1] == NULL);
    buf_done(&b);
    ca_done(&a);
}

/* -- roots --------------------------------------------------------------------------------------
 */

static void
sets_of_roots(void **state)
{
    struct roots *ab = NULL, *ba = NULL, *only_a = NULL, *both = NULL, *none = NULL, *twice = NULL;
    struct buf one = BUF_INIT(PEM_MAX_BYTES), two = BUF_INIT(PEM_MAX_BYTES);
    struct ca a, b;
    struct err e;

    (void)state;
    ca_make(&a, NULL, "CN=A", -1);
    ca_make(&b, NULL, "CN=B", -1);
    assert_ok(roots_from_certs((struct cert *[]){ a.cert, b.cert }, 2, &ab, &e));
    assert_ok(roots_from_certs((struct cert *[]){ b.cert, a.cert, b.cert }, 3, &ba, &e));
    assert_ok(roots_from_certs(&a.cert, 1, &only_a, &e));
    assert_true(roots_equal(ab, ba) && roots_count(ba) == 2);
    assert_ok(roots_to_pem(ab, &one, &e));
    assert_ok(roots_to_pem(ba, &two, &e));
    assert_string_equal(buf_text(&one), buf_text(&two));
    assert_true(memcmp(cert_id(roots_at(ab, 0)), cert_id(roots_at(ab, 1)), DIGEST_BYTES) < 0);
    assert_true(roots_contain(ab, only_a) && !roots_contain(only_a, ab));
    assert_true(roots_has(only_a, cert_id(a.cert)) && !roots_has(only_a, cert_id(b.cert)));
    assert_false(roots_equal(ab, only_a));
    assert_ok(roots_union(only_a, ab, &both, &e));
    assert_true(roots_equal(both, ab));
    assert_ok(roots_from_pem(buf_span(&one), &twice, &e));
    assert_true(roots_equal(twice, ab));
    assert_err(roots_from_certs(NULL, 0, &none, &e), E_DENIED, "at least one");
    roots_unref(ab);
    roots_unref(ba);
    roots_unref(only_a);
    roots_unref(both);
    roots_unref(twice);
    buf_done(&one);
    buf_done(&two);
    ca_done(&a);
    ca_done(&b);
}

static void
at_most_16_roots(void **state)
{
    struct ca all[ROOTS_MAX + 1];
    struct cert *v[ROOTS_MAX + 1];
    struct roots *r = NULL;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        ca_make(&all[i], NULL, "CN=Same", -1);
        v[i] = all[i].cert;
    }
    assert_err(roots_from_certs(v, ROOTS_MAX + 1, &r, &e), E_LIMIT, "more than 16 roots");
    assert_null(r);
    assert_ok(roots_from_certs(v, ROOTS_MAX, &r, &e));
    roots_unref(r);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ca_done(&all[i]);
}

#define LEAF                                                                                       \
    "basicConstraints=critical,CA:FALSE;keyUsage=digitalSignature;subjectAltName=URI:spiffe://a/b"

static void
rfc5280_6_1_leaves(void **state)
{
    struct ca a, a1, b, expired, both, any, plain, server, late, early, stranger, below_leaf;
    struct roots *roots = NULL;
    struct err e;

    (void)state;
    ca_make(&a, NULL, "CN=A", -1);
    ca_make(&b, NULL, "CN=B", -1);
    ca_make(&a1, &a, "CN=A1", 0);
    ca_bent(&expired, &a, "Expired", -10, -1, CA_EXT);
    ca_bent(&both, &a1, "both", -1, 2, LEAF ";extendedKeyUsage=serverAuth,clientAuth");
    ca_bent(&any, &a1, "any", -1, 2, LEAF ";extendedKeyUsage=anyExtendedKeyUsage");
    ca_bent(&plain, &a1, "plain", -1, 2, LEAF);
    ca_bent(&server, &a1, "server", -1, 2, LEAF ";extendedKeyUsage=serverAuth");
    ca_bent(&late, &a1, "late", -3, -1, LEAF);
    ca_bent(&early, &a1, "early", 1, 2, LEAF);
    ca_bent(&stranger, &expired, "stranger", -1, 2, LEAF);
    ca_bent(&below_leaf, &plain, "below", -1, 2, LEAF);
    const struct {
        struct ca *leaf;
        struct cert *others[3];
        const char *why; /* NULL: good, ends in A */
    } rows[] = {
        { &both, { a1.cert }, NULL },
        { &any, { a1.cert }, NULL },
        { &plain, { a1.cert }, NULL },
        { &plain, { b.cert, a1.cert, a.cert }, NULL }, /* any order, more than is needed */
        { &a1, { NULL }, NULL },
        { &a, { NULL }, NULL },
        { &server, { a1.cert }, "\"CN=server\": its extended key usage" },
        { &late, { a1.cert }, "\"CN=late\" expired at" },
        { &early, { a1.cert }, "\"CN=early\" is not valid before" },
        { &plain, { NULL }, "\"CN=plain\" is signed by an unknown authority: \"CN=A1\"" },
        { &stranger, { expired.cert }, "\"CN=Expired\": certificate has expired" },
        { &below_leaf, { plain.cert, a1.cert }, "\"CN=plain\": invalid CA certificate" },
        { &b, { NULL }, "\"CN=B\" is self-signed and not among the roots" },
    };
    assert_ok(roots_from_certs(&a.cert, 1, &roots, &e));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct cert *root = NULL;
        size_t n = 0;

        while (n < 3 && rows[i].others[n] != NULL)
            n++;
        if (rows[i].why == NULL) {
            assert_ok(roots_verify(roots, rows[i].leaf->cert, rows[i].others, n, &root, &e));
            assert_ptr_equal(root, a.cert);
        } else {
            assert_err(roots_verify(roots, rows[i].leaf->cert, rows[i].others, n, &root, &e),
                       E_DENIED, rows[i].why);
            assert_null(root);
        }
    }
    clock_shift_for_test(3 * 86400);
    struct cert *root = NULL;
    assert_err(roots_verify(roots, both.cert, &a1.cert, 1, &root, &e), E_DENIED, "expired at");
    clock_shift_for_test(0);
    struct ca *all[] = { &a,     &a1,     &b,    &expired, &both,     &any,
                         &plain, &server, &late, &early,   &stranger, &below_leaf };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ca_done(all[i]);
    roots_unref(roots);
}

/* X.690 11.1: what our own roots once said, and OpenSSL reads. */
static void
x690_der_throughout_or_not(void **state)
{
    static const uint8_t is_ca[] = { 0x30, 0x03, 0x01, 0x01, 0xff };
    struct ca_request q = { .subject = "CN=R,L=x", .days = 1, .path_len = -1 };
    struct cert *good = NULL, *bad = NULL;
    struct key *k = NULL;
    uint8_t der[2048];
    struct err e;

    (void)state;
    assert_ok(key_make(KEY_P256, &k, &e));
    assert_ok(root_make(&q, k, &good, &e));
    assert_true(cert_is_der(good));
    struct span s = cert_der(good);
    assert_true(s.n < sizeof(der));
    memcpy(der, s.p, s.n);
    uint8_t *at = memmem(der, s.n, is_ca, sizeof(is_ca));
    assert_non_null(at);
    at[4] = 1;
    assert_ok(cert_from_der(span_of(der, s.n), &bad, &e));
    assert_false(cert_is_der(bad));
    cert_unref(good);
    cert_unref(bad);
    key_unref(k);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_as_go_prints_them),
        cmocka_unit_test(x690_der_throughout_or_not),
        cmocka_unit_test(long_names_are_cut_at_a_character),
        cmocka_unit_test(facts),
        cmocka_unit_test(rfc5280_4_2_1_9_what_is_a_ca),
        cmocka_unit_test(self_signed_means_signed),
        cmocka_unit_test(spiffe_uri),
        cmocka_unit_test(malformed_certificates),
        cmocka_unit_test(sets_of_roots),
        cmocka_unit_test(at_most_16_roots),
        cmocka_unit_test(rfc5280_6_1_leaves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
