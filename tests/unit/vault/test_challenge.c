#include "unit.h"

#include <stdio.h>
#include <string.h>

#include "vault/challenge.h"
#include "vault/client.h"

static struct err e;

static struct origin
origin(const char *url)
{
    struct origin o;

    assert_ok(origin_parse(span_str(url), &o, NULL, &e));
    return o;
}

static void
urls_are_taken_apart(void **state)
{
    static const struct {
        const char *url, *text;
        bool bare, loopback;
    } rows[] = {
        { "https://V.Vault.Azure.Net/x", "https://v.vault.azure.net", false, false },
        { "https://h:8443", "https://h:8443", false, false },
        { "https://h:443/", "https://h", false, false },
        { "http://127.0.0.1:80/", "http://127.0.0.1", true, true },
        { "https://10.0.0.1:1", "https://10.0.0.1:1", true, false },
        { "https://[::1]:8443/a", "https://[::1]:8443", true, true },
        { "https://localhost", "https://localhost", true, true },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct origin o = origin(rows[i].url);
        char text[ORIGIN_BYTES];

        origin_text(&o, text);
        assert_string_equal(text, rows[i].text);
        assert_int_equal(origin_is_bare(&o), rows[i].bare);
        assert_int_equal(origin_is_loopback(&o), rows[i].loopback);
    }
}

static void
what_is_no_url_is_refused(void **state)
{
    static const char *const rows[] = {
        "",
        "v.vault.azure.net",
        "ftp://h",
        "https://",
        "https:///x",
        "https://u@h/",
        "https://h:0/",
        "https://h:65536",
        "https://h:x",
        "https://h\\x",
        "https://a b/",
        "HTTPS//h",
    };
    struct origin o;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(origin_parse(span_str(rows[i]), &o, NULL, &e), E_INVAL, "");
}

#define AZURE                                                                                      \
    "Bearer authorization=\"https://login.microsoftonline.com/T-1\", "                             \
    "resource=\"https://vault.azure.net\""

static void
challenges_of_the_service_and_of_emulators(void **state)
{
    static const struct {
        const char *header, *authority, *tenant, *scope;
    } rows[] = {
        { AZURE, "login.microsoftonline.com", "T-1", "https://vault.azure.net/.default" },
        { "bearer authorization=\"https://a:1/t\",resource=\"https://r:1\"", "a", "t",
          "https://r:1/.default" },
        { "Bearer authorization_uri=\"https://a/t/\", scope=\"https://r/.default\", error=\"x\"",
          "a", "t", "https://r/.default" },
        { "Bearer authorization=\"https://a/t\", resource=\"https://r/\"", "a", "t",
          "https://r//.default" }, /* as the SDKs: specs/azure.md 2.4 */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct challenge c;

        assert_ok(challenge_parse(rows[i].header, &c, &e));
        assert_string_equal(c.authority.host, rows[i].authority);
        assert_string_equal(c.tenant, rows[i].tenant);
        assert_string_equal(c.scope, rows[i].scope);
    }
}

static void
malformed_challenges_are_refused(void **state)
{
    static const char *const rows[] = {
        "",
        "Bearer",
        "Bearer ",
        "Basic realm=\"x\"",
        "Bearer authorization=https://a/t, resource=\"https://r\"",
        "Bearer authorization=\"https://a/t\"",
        "Bearer resource=\"https://r\"",
        "Bearer authorization=\"https://a\", resource=\"https://r\"",
        "Bearer authorization=\"https://a/\", resource=\"https://r\"",
        "Bearer authorization=\"https://a/t/oauth2\", resource=\"https://r\"",
        "Bearer authorization=\"https://a/../t\", resource=\"https://r\"",
        "Bearer authorization=\"https://a/t?x\", resource=\"https://r\"",
        "Bearer authorization=\"https://a/t\", resource=\"r\"",
        "Bearer authorization=\"https://a/t\", resource=\"https://r",
        "Bearer authorization=\"https://a/t\", resource=\"https://r\", scope=\"\", scope=\"\"",
        "Bearer authorization=\"ldap://a/t\", resource=\"https://r\"",
    };
    struct challenge c;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(challenge_parse(rows[i], &c, &e), E_PEER, "challenge");
    char longer[CHALLENGE_MAX_BYTES + 2];
    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    assert_err(challenge_parse(longer, &c, &e), E_PEER, "too long");
}

static void
tokens_and_secrets_go_only_where_they_belong(void **state)
{
    static const struct {
        const char *vault, *authority, *resource;
        bool ok;
    } rows[] = {
        { "https://v.vault.azure.net", "https://login.microsoftonline.com",
          "https://vault.azure.net", true },
        { "https://v.vault.azure.cn", "https://login.partner.microsoftonline.cn",
          "https://vault.azure.cn", true },
        { "https://v.vault.lab:8443", "https://login.vault.lab:8443", "https://vault.lab:8443",
          true },
        { "https://127.0.0.1:8443", "https://127.0.0.1:8443", "https://127.0.0.1:8443", true },
        { "https://v.localhost:8443", "https://v.localhost:8443", "https://localhost:8443", true },
        { "http://127.0.0.1:80", "http://127.0.0.1:80", "http://127.0.0.1:80", true },
        { "https://203.0.113.5:8443", "https://203.0.113.5:8443", "https://203.0.113.5:8443",
          true },
        /* an address is under nothing: it may not ask for a token that is good elsewhere */
        { "https://203.0.113.5", "https://login.microsoftonline.com", "https://vault.azure.net",
          false },
        { "https://[2001:db8::5]", "https://login.microsoftonline.com", "https://vault.azure.net",
          false },
        { "https://203.0.113.5:8443", "https://203.0.113.5:8443", "https://203.0.113.5", false },
        { "https://v.vault.azure.net", "https://login.microsoftonline.com:8443",
          "https://vault.azure.net", false },
        /* the resource is not above the vault, or has another port */
        { "https://v.evil.net", "https://login.microsoftonline.com", "https://vault.azure.net",
          false },
        { "https://vault.azure.net.evil.net", "https://login.microsoftonline.com",
          "https://vault.azure.net", false },
        { "https://evilvault.azure.net", "https://login.microsoftonline.com",
          "https://vault.azure.net", false },
        { "https://vault.azure.net", "https://login.microsoftonline.com", "https://vault.azure.net",
          false },
        { "https://v.vault.lab:8443", "https://login.vault.lab", "https://vault.lab", false },
        /* the authority is a stranger, or clear text */
        { "https://v.vault.azure.net", "https://login.evil.net", "https://vault.azure.net", false },
        { "https://v.vault.azure.net", "http://login.microsoftonline.com",
          "https://vault.azure.net", false },
        { "https://127.0.0.1:8443", "http://127.0.0.1:80", "https://127.0.0.1:8443", false },
        { "https://127.0.0.1:8443", "https://evil.net", "https://vault.azure.net", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct origin vault = origin(rows[i].vault);
        struct challenge c;
        char header[1024];

        (void)snprintf(header, sizeof(header), "Bearer authorization=\"%s/t\", resource=\"%s\"",
                       rows[i].authority, rows[i].resource);
        assert_ok(challenge_parse(header, &c, &e));
        if (rows[i].ok)
            assert_ok(challenge_check(&c, &vault, &e));
        else
            assert_err(challenge_check(&c, &vault, &e), E_DENIED, " is sent");
    }
}

static void
credentials_have_hosts(void **state)
{
    static const char *const hosts[] = { "vault.azure.net", "Vault.Lab", "127.0.0.1", "::1",
                                         "0.0.2" };
    static const struct {
        const char *url;
        bool ok;
    } rows[] = {
        { "https://v.vault.azure.net", true },
        { "https://V.Vault.Azure.Net:8443/x", true },
        { "https://a.b.vault.lab", true },
        { "https://vault.lab:8443", true },
        { "http://127.0.0.1:80", true },
        { "https://evilvault.azure.net", false },
        { "https://vault.azure.net.evil.net", false },
        { "https://azure.net", false },
        { "https://evil.net/v.vault.azure.net", false },
        { "https://evil.net?v.vault.azure.net", false },
        { "https://127.0.0.1.evil.net", false },
        { "https://127.0.0.2", false }, /* an address is under nothing */
        { "https://localhost", false },
        { "https://v.vault.azure.net.", false },
    };
    static const char *const no_hosts[] = {
        "", ".a", "-a", "a b", "https://a", "a:1", "*.a", "a/b"
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].ok)
            assert_ok(vault_host_check(rows[i].url, hosts, ARRAY_LEN(hosts), &e));
        else
            assert_err(vault_host_check(rows[i].url, hosts, ARRAY_LEN(hosts), &e), E_DENIED,
                       "may be sent to");
    assert_err(vault_host_check("https://v.vault.azure.net", hosts, 0, &e), E_DENIED, "v.vault");
    assert_err(vault_host_check("https://u@v.vault.azure.net", hosts, 1, &e), E_INVAL, "");
    for (size_t i = 0; i < ARRAY_LEN(no_hosts); i++)
        assert_err(vault_host_valid(no_hosts[i], &e), E_INVAL, "is not a host");
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
        if (i != 3) /* an IPv6 address is written as in a URL */
            assert_ok(vault_host_valid(hosts[i], &e));
    assert_ok(vault_host_valid("[::1]", &e));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls_are_taken_apart),
        cmocka_unit_test(what_is_no_url_is_refused),
        cmocka_unit_test(challenges_of_the_service_and_of_emulators),
        cmocka_unit_test(malformed_challenges_are_refused),
        cmocka_unit_test(tokens_and_secrets_go_only_where_they_belong),
        cmocka_unit_test(credentials_have_hosts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
