/* test_settings.c - what mesh enable may be told, and what it is told back. */
#include "unit.h"

#include <string.h>

#include "base/attr.h"
#include "mesh/settings.h"

#define ARM "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/"

static void
test_vault_ids(void **state)
{
    static const struct {
        const char *id, *name, *url; /* name NULL: refused */
    } rows[] = {
        { ARM "kv1", "kv1", "https://kv1.vault.azure.net" },
        { "/subscriptions/s/resourcegroups/g/providers/microsoft.keyvault/vaults/KV-2", "KV-2",
          "https://KV-2.vault.azure.net" },
        { "https://kv1.vault.azure.net", "kv1", "https://kv1.vault.azure.net" },
        { "https://127.0.0.1:8443", "127.0.0.1", "https://127.0.0.1:8443" },
        { "http://kv1.vault.azure.net", NULL, NULL },
        { "kv1", NULL, NULL },
        { "", NULL, NULL },
        { ARM, NULL, NULL },
        { ARM "a/b", NULL, NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char name[VAULT_NAME_BYTES], url[VAULT_URL_BYTES];
        struct err e = { 0 };

        if (rows[i].name == NULL) {
            assert_err(vault_id_name(rows[i].id, name, &e), E_INVAL, "is no vault");
            continue;
        }
        assert_ok(vault_id_name(rows[i].id, name, &e));
        assert_string_equal(name, rows[i].name);
        assert_ok(vault_id_url(rows[i].id, url, &e));
        assert_string_equal(url, rows[i].url);
    }
}

static void
test_settings_are_strict(void **state)
{
    static const struct {
        const char *json, *says; /* NULL: fine */
    } rows[] = {
        { "{\"mode\":\"self-signed\"}", NULL },
        { "{\"mode\":\"plugged-in\",\"key_vault_id\":\"" ARM "kv\"}", NULL },
        { "{\"mode\":\"plugged-in\"}", "key_vault_id: missing" },
        { "{\"mode\":\"plugged-in\",\"key_vault_id\":7}", "key_vault_id: is no text" },
        { "{\"mode\":\"plugged\"}", "not one of" },
        { "{}", "mode: missing" },
        { "[]", "no JSON object" },
        { "{\"mode\":\"self-signed\",\"pol_ms\":1}", "pol_ms: no such setting" },
        { "{\"mode\":\"self-signed\",\"poll_ms\":999}", "outside 1s..24h" },
        { "{\"mode\":\"self-signed\",\"poll_ms\":86400001}", "outside 1s..24h" },
        { "{\"mode\":\"plugged-in\",\"key_vault_id\":\"" ARM "kv\",\"ca_key_object_name\":\"a_b\"}",
          "is no secret name" },
        { "{\"mode\":\"plugged-in\",\"key_vault_id\":\"" ARM
          "kv\",\"ca_key_object_name\":\"CA-cert\"}",
          "name the same secret" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *j = json_loads(rows[i].json, 0, NULL);
        struct mesh_settings s = { .poll_ms = 42 };
        struct err e = { 0 };

        if (rows[i].says == NULL) {
            assert_ok(settings_from_json(j, &s, &e));
        } else {
            assert_err(settings_from_json(j, &s, &e), E_INVAL, rows[i].says);
            assert_int_equal(s.poll_ms, 42); /* untouched */
        }
        json_decref(j);
    }
}

static void
test_settings_round_trip(void **state)
{
    struct mesh_settings s = { .mode = MESH_PLUGGED_IN,
                               .vault_id = ARM "kv",
                               .object_names = { "r", "c", "k", "ch" },
                               .poll_ms = 20000,
                               .hold_replacement = true },
                         back = { 0 };
    struct err e = { 0 };
    json_t *j = settings_to_json(&s);

    (void)state;
    assert_ok(settings_from_json(j, &back, &e));
    assert_memory_equal(&s, &back, sizeof(s));
    json_decref(j);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vault_ids),
        cmocka_unit_test(test_settings_are_strict),
        cmocka_unit_test(test_settings_round_trip),
    };
    return cmocka_run_group_tests_name("mesh/settings", tests, NULL, NULL);
}
