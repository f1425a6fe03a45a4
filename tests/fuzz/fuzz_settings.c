/* fuzz_settings.c - settings that are taken survive a round trip; the vault id in them has a name
 * and a URL. */
#include <stdlib.h>
#include <string.h>

#include "mesh/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct mesh_settings s = { 0 }, back = { 0 };
    struct err e = { 0 };
    char url[VAULT_URL_BYTES];
    json_t *j = json_loadb((const char *)data, n, JSON_REJECT_DUPLICATES, NULL);
    int r = settings_from_json(j, &s, &e);

    json_decref(j);
    if (r < 0) {
        if (e.msg[0] == '\0')
            abort();
        return 0;
    }
    j = settings_to_json(&s);
    if (settings_from_json(j, &back, &e) < 0 || memcmp(&s, &back, sizeof(s)) != 0)
        abort();
    json_decref(j);
    if (s.mode == MESH_PLUGGED_IN && vault_id_url(s.vault_id, url, &e) == 0 &&
        strncmp(url, "https://", 8) != 0)
        abort();
    return 0;
}
