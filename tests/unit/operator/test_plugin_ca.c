/* The reader of PluginCA: defaults, every field, and refusals that name the field. */
#include "unit.h"

#include "operator/plugin_ca.h"

static int
read_text(const char *spec, struct plugin_ca *p, struct err *e)
{
    char text[4096];

    (void)snprintf(text, sizeof(text),
                   "{\"apiVersion\":\"meshroot.io/v1alpha1\",\"kind\":\"PluginCA\",\"metadata\":{"
                   "\"name\":\"default\",\"namespace\":\"istio-system\",\"uid\":\"u\","
                   "\"generation\":3,\"finalizers\":[\"other\",\"meshroot.io/plugged-in\"]},"
                   "\"spec\":%s}",
                   spec);
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(j);
    int r = plugin_ca_read(j, p, e);
    json_decref(j);
    return r;
}

#define VAULT "\"vault\":{\"url\":\"https://v:8443\",\"auth\":{\"clientSecret\":{\"name\":\"s\"}}}"

static void
what_is_left_out_has_its_default(void **state)
{
    struct plugin_ca p = { .poll_ms = 0 };
    struct err e;

    (void)state;
    assert_ok(read_text("{" VAULT "}", &p, &e));
    assert_string_equal(p.vault_url, "https://v:8443");
    assert_int_equal(p.login, LOGIN_SECRET);
    assert_string_equal(p.secret, "s");
    assert_string_equal(p.object_names[PART_CERT_CHAIN], "cert-chain");
    assert_int_equal(p.poll_ms, 120000);
    assert_true(p.to_istiod);
    assert_false(p.to_meshroot);
    assert_string_equal(p.trust_domain, "cluster.local");
    assert_null(p.selector);
    assert_int_equal(p.stock_wait_ms, 24 * 3600 * 1000);
    assert_int_equal(p.mount_wait_ms, 120000);
    assert_false(p.hold_replacement || p.adopt || p.is_going);
    assert_true(p.has_finalizer);
    assert_int_equal(p.revision, 3);
    plugin_ca_done(&p);
}

static void
every_field_is_taken(void **state)
{
    struct plugin_ca p = { .poll_ms = 0 }, q = { .poll_ms = 0 };
    struct err e;
    static const char spec[] =
        "{\"vault\":{\"keyVaultID\":\"/subscriptions/S/resourceGroups/G/providers/"
        "Microsoft.KeyVault/vaults/acme\",\"auth\":{\"workloadIdentity\":{\"tenantID\":\"t\","
        "\"clientID\":\"c\"}}},\"objectNames\":{\"rootCert\":\"r\",\"caCert\":\"c1\",\"caKey\":"
        "\"k\",\"certChain\":\"ch\"},\"pollInterval\":\"20s\",\"target\":\"both\",\"trustDomain\":"
        "\"td\",\"namespaceSelector\":{\"matchLabels\":{\"a\":\"b\"}},\"ttl\":{\"default\":\"1h\","
        "\"renewWindow\":\"30s\"},\"gates\":{\"holdRootReplacement\":true,\"stockWait\":\"3s\","
        "\"mountWait\":\"1s\"},\"adopt\":true}";

    (void)state;
    assert_ok(read_text(spec, &p, &e));
    assert_ok(read_text(spec, &q, &e));
    assert_true(plugin_ca_same(&p, &q));
    q.adopt = false;
    assert_false(plugin_ca_same(&p, &q));
    assert_string_equal(p.vault_url, "https://acme.vault.azure.net");
    assert_int_equal(p.login, LOGIN_WORKLOAD);
    assert_string_equal(p.tenant, "t");
    assert_string_equal(p.client_id, "c");
    assert_string_equal(p.object_names[PART_CA_KEY], "k");
    assert_int_equal(p.poll_ms, 20000);
    assert_true(p.to_istiod && p.to_meshroot && p.hold_replacement && p.adopt);
    assert_non_null(p.selector);
    assert_int_equal(p.ttl_ms, 3600 * 1000);
    assert_int_equal(p.renew_window_ms, 30000);
    assert_int_equal(p.stock_wait_ms, 3000);
    plugin_ca_done(&p);
    plugin_ca_done(&q);
}

static void
a_refusal_names_the_field(void **state)
{
    static const struct {
        const char *spec, *says;
    } rows[] = {
        { "{}", "spec.vault: exactly one of url and keyVaultID" },
        { "{\"vault\":{\"url\":\"https://v\",\"auth\":{}}}", "spec.vault.auth: exactly one of" },
        { "{\"vault\":{\"url\":\"https://v\",\"keyVaultID\":\"/x\",\"auth\":{}}}",
          "spec.vault: exactly one" },
        { "{\"vault\":{\"url\":\"https://v\",\"auth\":{\"clientSecret\":{\"name\":\"s\"},"
          "\"managedIdentity\":{}}}}",
          "spec.vault.auth: exactly one of" },
        { "{\"vault\":{\"url\":\"https://"
          "v\",\"auth\":{\"workloadIdentity\":{\"tenantID\":\"t\"}}}}",
          "needs tenantID and clientID" },
        { "{\"vault\":{\"url\":\"ftp://v\",\"auth\":{\"managedIdentity\":{}}}}",
          "spec.vault: \"ftp://v\" is no vault" },
        { "{" VAULT ",\"pollInterval\":\"fast\"}", "spec.pollInterval: \"fast\" is no duration" },
        { "{" VAULT ",\"pollInterval\":\"1ms\"}", "spec.pollInterval: 1ms is outside 1s..24h" },
        { "{" VAULT ",\"pollInterval\":5}", "spec.pollInterval: is no text" },
        { "{" VAULT ",\"target\":\"envoy\"}", "spec.target: is one of istiod, meshroot and both" },
        { "{" VAULT ",\"adopt\":\"yes\"}", "spec.adopt: is true or false" },
        { "{" VAULT ",\"gates\":[]}", "spec.gates: is no object" },
        { "{" VAULT ",\"gates\":{\"wait\":\"1s\"}}", "spec.gates.wait: is not known" },
        { "{" VAULT ",\"colour\":1}", "spec.colour: is not known to this operator" },
        { "{" VAULT ",\"objectNames\":{\"caKey\":\"a/b\"}}", "spec.objectNames.caKey: a secret's" },
        { "{" VAULT ",\"objectNames\":{\"caKey\":\"ca-cert\"}}", "\"ca-cert\" is named twice" },
        { "{" VAULT ",\"trustDomain\":\"a b\"}", "spec.trustDomain: holds a blank" },
        { "{" VAULT ",\"trustDomain\":\"\"}", "spec.trustDomain: is empty" },
        { "{\"vault\":{\"url\":\"https://"
          "v\",\"caBundle\":\"x\",\"auth\":{\"managedIdentity\":{}}}}",
          "spec.vault.caBundle: want the roots" },
    };
    struct plugin_ca p = { .poll_ms = 0 };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(read_text(rows[i].spec, &p, &e), E_INVAL, rows[i].says);
}

static void
selectors_select(void **state)
{
#define EXPR(rest) "{\"matchExpressions\":[{\"key\":\"a\"," rest "}]}"
    static const struct {
        const char *selector, *labels;
        bool takes;
    } rows[] = {
        { "{}", "{}", true },
        { "{\"matchLabels\":{\"a\":\"b\"}}", "{\"a\":\"b\",\"c\":\"d\"}", true },
        { "{\"matchLabels\":{\"a\":\"b\"}}", "{\"a\":\"c\"}", false },
        { "{\"matchLabels\":{\"a\":\"b\"}}", "{}", false },
        { EXPR("\"operator\":\"In\",\"values\":[\"x\",\"y\"]"), "{\"a\":\"y\"}", true },
        { EXPR("\"operator\":\"In\",\"values\":[\"x\"]"), "{}", false },
        { EXPR("\"operator\":\"NotIn\",\"values\":[\"x\"]"), "{}", true },
        { EXPR("\"operator\":\"NotIn\",\"values\":[\"x\"]"), "{\"a\":\"x\"}", false },
        { EXPR("\"operator\":\"Exists\""), "{\"a\":\"\"}", true },
        { EXPR("\"operator\":\"DoesNotExist\""), "{\"a\":\"\"}", false },
        { EXPR("\"operator\":\"Like\""), "{\"a\":\"\"}", false },
    };

    (void)state;
    assert_true(selector_takes(NULL, NULL));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *s = json_loads(rows[i].selector, 0, NULL), *l = json_loads(rows[i].labels, 0, NULL);
        assert_int_equal(selector_takes(s, l), rows[i].takes);
        json_decref(s);
        json_decref(l);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_out_has_its_default),
        cmocka_unit_test(every_field_is_taken),
        cmocka_unit_test(a_refusal_names_the_field),
        cmocka_unit_test(selectors_select),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
