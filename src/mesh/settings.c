#include "mesh/settings.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/span.h"

#define ARM_VAULTS "/providers/microsoft.keyvault/vaults/"

enum { POLL_MIN_MS = 1000, POLL_MAX_MS = 24 * 60 * 60 * 1000 };

static const char *const mode_names[] = {
    [MESH_DISABLED] = "disabled",
    [MESH_SELF_SIGNED] = "self-signed",
    [MESH_PLUGGED_IN] = "plugged-in",
};

const char *
mesh_mode_name(enum mesh_mode m)
{
    return mode_names[m];
}

static int
name_copy(struct span s, const char *vault_id, char ret[VAULT_NAME_BYTES], struct err *e)
{
    bool ok = s.n > 0 && s.n < VAULT_NAME_BYTES;

    for (size_t i = 0; ok && i < s.n; i++)
        ok = isalnum(s.p[i]) || s.p[i] == '-' || s.p[i] == '.';
    if (!ok)
        return err_set(
            e, E_INVAL,
            "\"%.200s\" is no vault: want /subscriptions/.../providers/Microsoft.KeyVault/"
            "vaults/NAME, or https://NAME.vault.azure.net",
            vault_id);
    memcpy(ret, s.p, s.n);
    ret[s.n] = '\0';
    return 0;
}

int
vault_id_name(const char *vault_id, char ret[VAULT_NAME_BYTES], struct err *e)
{
    const char *arm = strcasestr(vault_id, ARM_VAULTS);
    struct span head = { 0 };

    if (strncmp(vault_id, "https://", 8) == 0) {
        struct span host = span_str(vault_id + 8);

        host.n = strcspn(vault_id + 8, ":/");
        head = span_of(host.p, host.n);
        const uint8_t *dot = memchr(host.p, '.', host.n);
        bool is_address = host.n > 0 && isdigit(host.p[host.n - 1]);
        if (dot != NULL && !is_address)
            head.n = (size_t)(dot - host.p);
    } else if (arm != NULL && vault_id[0] == '/') {
        head = span_str(arm + strlen(ARM_VAULTS));
    }
    return name_copy(head, vault_id, ret, e);
}

int
vault_id_url(const char *vault_id, char ret[VAULT_URL_BYTES], struct err *e)
{
    char name[VAULT_NAME_BYTES];

    TRY(vault_id_name(vault_id, name, e));
    int n = strncmp(vault_id, "https://", 8) == 0
                ? snprintf(ret, VAULT_URL_BYTES, "%s", vault_id)
                : snprintf(ret, VAULT_URL_BYTES, "https://%s.vault.azure.net", name);
    if (n >= VAULT_URL_BYTES)
        return err_set(e, E_INVAL, "a vault URL of more than %d bytes", (int)VAULT_URL_BYTES - 1);
    return 0;
}

/* -- JSON ----------------------------------------------------------------------------------------
 */

static const char *const object_members[PART__ALL] = {
    [PART_ROOT_CERT] = "root_cert_object_name", [PART_CA_CERT] = "ca_cert_object_name",
    [PART_CA_KEY] = "ca_key_object_name",       [PART_CERT_CHAIN] = "cert_chain_object_name",
    [PART_CA_CRL] = "ca_crl_object_name",
};

static bool
object_name_is_good(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '-')
            return false;
    return n >= 1 && n <= 127; /* specs/azure.md 1.5 */
}

static int
text_get(const json_t *j, const char *member, const char *def, char *ret, size_t cap, struct err *e)
{
    const json_t *v = json_object_get(j, member);
    const char *s = json_string_value(v);

    if (v == NULL)
        s = def;
    if (s == NULL)
        return err_set(e, E_INVAL, "%s: %s", member, v == NULL ? "missing" : "is no text");
    if (strlen(s) >= cap)
        return err_set(e, E_INVAL, "%s: longer than %zu bytes", member, cap - 1);
    memcpy(ret, s, strlen(s) + 1);
    return 0;
}

static int
mode_get(const json_t *j, enum mesh_mode *ret, struct err *e)
{
    char text[32];

    TRY(text_get(j, "mode", NULL, text, sizeof(text), e));
    for (size_t i = 0; i < ARRAY_LEN(mode_names); i++)
        if (strcmp(text, mode_names[i]) == 0) {
            *ret = (enum mesh_mode)i;
            return 0;
        }
    return err_set(e, E_INVAL, "mode: \"%s\" is not one of disabled, self-signed, plugged-in",
                   text);
}

static int
members_check(const json_t *j, struct err *e)
{
    static const char *const known[] = { "mode",
                                         "key_vault_id",
                                         "poll_ms",
                                         "hold_replacement",
                                         "root_cert_object_name",
                                         "ca_cert_object_name",
                                         "ca_key_object_name",
                                         "cert_chain_object_name",
                                         "ca_crl_object_name" };
    const char *key;
    json_t *value;

    if (!json_is_object(j))
        return err_set(e, E_INVAL, "the settings are no JSON object");
    json_object_foreach((json_t *)(uintptr_t)j, key, value) {
        bool found = false;

        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found)
            return err_set(e, E_INVAL, "%.60s: no such setting", key);
    }
    return 0;
}

static int
plugged_in_get(const json_t *j, struct mesh_settings *s, struct err *e)
{
    char name[VAULT_NAME_BYTES];

    TRY(text_get(j, "key_vault_id", NULL, s->vault_id, sizeof(s->vault_id), e));
    TRY(vault_id_name(s->vault_id, name, e));
    for (size_t i = 0; i < PART__ALL; i++) {
        if (i == PART_CA_CRL && json_object_get(j, object_members[i]) == NULL)
            continue; /* the fifth is only there for those who name it */
        TRY(text_get(j, object_members[i], bundle_secret_names[i], s->object_names[i],
                     sizeof(s->object_names[i]), e));
        if (!object_name_is_good(s->object_names[i]))
            return err_set(e, E_INVAL, "%s: \"%s\" is no secret name (letters, digits and '-')",
                           object_members[i], s->object_names[i]);
        for (size_t k = 0; k < i; k++)
            if (strcasecmp(s->object_names[i], s->object_names[k]) == 0)
                return err_set(e, E_INVAL, "%s and %s name the same secret \"%s\"",
                               object_members[k], object_members[i], s->object_names[i]);
    }
    return 0;
}

int
settings_from_json(const json_t *j, struct mesh_settings *ret, struct err *e)
{
    struct mesh_settings s = { 0 };
    const json_t *poll = json_object_get(j, "poll_ms");

    TRY(members_check(j, e));
    TRY(mode_get(j, &s.mode, e));
    s.hold_replacement = json_is_true(json_object_get(j, "hold_replacement"));
    s.poll_ms = poll == NULL ? 2 * 60 * 1000 : (uint64_t)json_integer_value(poll);
    if (s.poll_ms < POLL_MIN_MS || s.poll_ms > POLL_MAX_MS)
        return err_set(e, E_INVAL, "poll_ms: %llu is outside 1s..24h",
                       (unsigned long long)s.poll_ms);
    if (s.mode == MESH_PLUGGED_IN)
        TRY(plugged_in_get(j, &s, e));
    *ret = s;
    return 0;
}

json_t *
settings_to_json(const struct mesh_settings *s)
{
    json_t *j = json_pack("{s:s, s:I, s:b}", "mode", mesh_mode_name(s->mode), "poll_ms",
                          (json_int_t)s->poll_ms, "hold_replacement", (int)s->hold_replacement);

    if (j == NULL || s->mode != MESH_PLUGGED_IN)
        return j;
    int r = json_object_set_new(j, "key_vault_id", json_string(s->vault_id));
    for (size_t i = 0; i < PART__ALL && r == 0; i++)
        if (s->object_names[i][0] != '\0')
            r = json_object_set_new(j, object_members[i], json_string(s->object_names[i]));
    if (r < 0) {
        json_decref(j);
        return NULL;
    }
    return j;
}
