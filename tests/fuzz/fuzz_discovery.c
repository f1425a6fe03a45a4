/* fuzz_discovery.c - a document that is taken is of this issuer, and leads to https. */
#include <stdlib.h>
#include <string.h>

#include "identity/jwks_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char issuer[] = "https://issuer.test";
    char uri[JWKS_URI_BYTES];
    struct err e;

    if (discovery_read(span_of(data, size), issuer, uri, &e) < 0)
        return 0;
    if (strncmp(uri, "https://", 8) != 0 || uri[8] == '/' || strpbrk(uri, "@# \\\"<>") != NULL)
        abort();
    if (memchr(data, '\\', size) == NULL && memmem(data, size, issuer, sizeof(issuer) - 1) == NULL)
        abort();
    return 0;
}
