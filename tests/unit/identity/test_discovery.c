/* test_discovery.c - OpenID Connect Discovery 1.0, 4: the document's URL and its two members. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "identity/jwks_source.h"

static struct err e;

static void
discovery_4_1_where_the_document_is(void **state)
{
    static const struct {
        const char *issuer, *url;
    } rows[] = {
        { "https://a.test", "https://a.test/.well-known/openid-configuration" },
        { "https://a.test/", "https://a.test/.well-known/openid-configuration" },
        { "https://a.test:8443/tenant",
          "https://a.test:8443/tenant/.well-known/openid-configuration" },
    };
    static const char *const bad[] = { "",
                                       "a.test",
                                       "http://a.test",
                                       "HTTPS://a.test",
                                       "https://",
                                       "https:///x",
                                       "https://a.test?x",
                                       "https://a.test#x",
                                       "https://u@a.test",
                                       "https://a.test\\@b.test",
                                       "https://a.test/ x",
                                       "https://a.test/\n",
                                       "https://\xc3\xa4.test" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *url = NULL;

        assert_ok(discovery_issuer_check(rows[i].issuer, &e));
        assert_ok(discovery_url(rows[i].issuer, &url, &e));
        assert_string_equal(url, rows[i].url);
        free(url);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(discovery_issuer_check(bad[i], &e), E_INVAL, "https:// URL");
}

static void
discovery_4_3_the_document(void **state)
{
#define DOC(iss, uri) "{\"issuer\":" iss ",\"jwks_uri\":" uri "}"
    static const struct {
        const char *text;
        enum err_code code;
        const char *words;
    } rows[] = {
        { DOC("\"https://a.test\"", "\"https://b.test/k?x=1\""), E_NONE, NULL },
        { DOC("\"https://a.test/\"", "\"https://b.test/k\""), E_DENIED, "another issuer" },
        { DOC("\"https://A.test\"", "\"https://b.test/k\""), E_DENIED, "another issuer" },
        { DOC("[\"https://a.test\"]", "\"https://b.test/k\""), E_PARSE, "issuer" },
        { DOC("null", "\"https://b.test/k\""), E_PARSE, "issuer" },
        { DOC("\"https://a.test\"", "\"http://b.test/k\""), E_PARSE, "no https:// URL" },
        { DOC("\"https://a.test\"", "\"https://u@b.test/k\""), E_PARSE, "no https:// URL" },
        { DOC("\"https://a.test\"", "\"https://b.test/\\nk\""), E_PARSE, "no https:// URL" },
        { DOC("\"https://a.test\"", "3"), E_PARSE, "jwks_uri" },
        { "{\"jwks_uri\":\"https://b.test/k\"}", E_DENIED, "another issuer" },
        { "{\"issuer\":\"https://a.test\"}", E_PARSE, "no \"jwks_uri\"" },
        { "{\"issuer\":\"https://a.test\",\"issuer\":\"https://a.test\",\"jwks_uri\":\"https://"
          "b\"}",
          E_PARSE, "duplicate" },
        { "[]", E_PARSE, "" },
        { "", E_PARSE, "" },
    };
    char longer[JWKS_URI_BYTES + 256], uri[JWKS_URI_BYTES];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].words == NULL) {
            assert_ok(discovery_read(span_str(rows[i].text), "https://a.test", uri, &e));
            assert_string_equal(uri, "https://b.test/k?x=1");
            continue;
        }
        assert_err(discovery_read(span_str(rows[i].text), "https://a.test", uri, &e), rows[i].code,
                   rows[i].words);
    }
    (void)snprintf(longer, sizeof(longer), DOC("\"https://a.test\"", "\"https://b.test/%0*d\""),
                   JWKS_URI_BYTES, 0);
    assert_err(discovery_read(span_str(longer), "https://a.test", uri, &e), E_PARSE, "jwks_uri");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(discovery_4_1_where_the_document_is),
        cmocka_unit_test(discovery_4_3_the_document),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
