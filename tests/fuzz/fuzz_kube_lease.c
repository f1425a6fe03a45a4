/* fuzz_kube_lease.c - a Lease of anybody's making: what is taken is within its bounds, and whatever
 * it says, it is taken over neither before its time nor never. */
#include <stdlib.h>
#include <string.h>

#include "kube/lease.h"
#include "net/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kube_lease_view v = { .who = "me", .renew_ms = KUBE_LEASE_RENEW_MS };
    CLEANUP(json_wipe_freep) json_t *o = NULL;
    struct kube_lease_record r;
    struct err e = { .code = E_NONE };

    if (json_object_parse(span_of(data, size), KUBE_MAX_DEPTH, &o, &e) < 0)
        return 0;
    if (kube_lease_read(o, &r, &e) < 0) {
        if (e.code != E_PARSE)
            abort();
        return 0;
    }
    if (r.duration_ms < 1000 || r.duration_ms > KUBE_LEASE_DURATION_MAX_S * 1000ULL ||
        r.transitions < 0 || strlen(r.holder) >= sizeof(r.holder))
        abort();
    bool is_free = r.holder[0] == '\0';
    if ((kube_lease_judge(&v, &r, 5) == KUBE_LEASE_TAKE) != is_free ||
        (kube_lease_judge(&v, &r, 4 + r.duration_ms) == KUBE_LEASE_TAKE) != is_free ||
        kube_lease_judge(&v, &r, 5 + r.duration_ms) != KUBE_LEASE_TAKE ||
        kube_lease_holds(&v, 5 + r.duration_ms))
        abort();
    kube_lease_confirm(&v, &r, 100);
    if (!kube_lease_holds(&v, 100) || kube_lease_holds(&v, 100 + KUBE_LEASE_RENEW_MS))
        abort();
    return 0;
}
