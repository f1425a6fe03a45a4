/* fuzz_addr.c - an address that is taken has a host that fits and no bracket left in it. */
#include <stdlib.h>

#include "base/str.h"
#include "net/addr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    CLEANUP(str_freep) char *text = NULL;
    struct addr a;
    struct err e = { 0 };

    if (str_dup(span_of(data, n), &text, &e) < 0)
        return 0;
    if (addr_parse(text, &a, &e) < 0) {
        if (e.msg[0] == '\0')
            abort();
        return 0;
    }
    if (a.host[0] == '\0' || strlen(a.host) >= HOST_BYTES || strchr(a.host, '[') != NULL ||
        strchr(a.host, ']') != NULL)
        abort();
    return 0;
}
