/* What is accepted has an authority, a tenant and a scope, and survives being said again. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vault/challenge.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct challenge c, again;
    struct err e = { 0 };
    char *text = calloc(1, n + 1);

    if (text == NULL)
        return 0;
    memcpy(text, p, n);
    if (challenge_parse(text, &c, &e) == 0) {
        char authority[ORIGIN_BYTES], header[CHALLENGE_MAX_BYTES];

        assert(c.tenant[0] != '\0' && strpbrk(c.tenant, "/?\"") == NULL);
        assert(c.authority.port != 0 && c.resource.port != 0);
        assert(strlen(c.scope) > 9 && strcmp(c.scope + strlen(c.scope) - 9, "/.default") == 0);
        origin_text(&c.authority, authority);
        (void)snprintf(header, sizeof(header), "Bearer authorization=\"%s/%s\", scope=\"%s\"",
                       authority, c.tenant, c.scope);
        assert(challenge_parse(header, &again, &e) == 0);
        assert(origin_eq(&c.authority, &again.authority) &&
               origin_eq(&c.resource, &again.resource));
        assert(strcmp(c.scope, again.scope) == 0 && strcmp(c.tenant, again.tenant) == 0);
    }
    free(text);
    return 0;
}
