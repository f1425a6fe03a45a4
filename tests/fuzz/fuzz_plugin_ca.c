/* fuzz_plugin_ca.c - an object that is taken has a vault, a target, four names and bounded times;
 * one that is not names what is wrong; any selector can be asked. */
#include <stdlib.h>
#include <string.h>

#include "operator/plugin_ca.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct plugin_ca p = { .poll_ms = 0 };
    struct err e = { 0 };
    json_t *j = json_loadb((const char *)data, n, JSON_REJECT_DUPLICATES, NULL);
    int r = plugin_ca_read(j, &p, &e);

    if (r < 0 && e.msg[0] == '\0')
        abort();
    if (r == 0) {
        if (strncmp(p.vault_url, "https://", 8) != 0 || !(p.to_istiod || p.to_meshroot) ||
            p.poll_ms < 1000 || p.name[0] == '\0' || !plugin_ca_same(&p, &p))
            abort();
        for (size_t i = 0; i < PART__N; i++)
            if (p.object_names[i][0] == '\0')
                abort();
        (void)selector_takes(p.selector, json_object_get(j, "metadata"));
        plugin_ca_done(&p);
    }
    json_decref(j);
    return 0;
}
