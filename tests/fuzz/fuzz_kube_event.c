/* fuzz_kube_event.c - a line of a watch: what is taken has a type, an object and a version. */
#include <stdlib.h>
#include <string.h>

#include "kube/feed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kube_event ev = { .object = NULL };
    struct err e;

    if (kube_event_read(span_of(data, size), &ev, &e) < 0) {
        if (ev.object != NULL || e.code == E_NONE)
            abort();
        return 0;
    }
    if (!json_is_object(ev.object) || (ev.type == KUBE_ERROR) != (ev.version[0] == '\0') ||
        strpbrk(ev.version, " &?#%/\r\n") != NULL)
        abort();
    json_decref(ev.object);
    return 0;
}
