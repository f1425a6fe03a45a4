/* fuzz_token_review.c - no answer is a yes that does not have the words in it. */
#include <stdlib.h>
#include <string.h>

#include "kube/kube.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const audiences[] = { "istio-ca", NULL };
    if (size == 0)
        return 0;
    json_t *o = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    bool is_escaped = memchr(data, '\\', size) != NULL;
    struct kube_review r;
    struct err e;

    if (o != NULL && kube_review_read(o, audiences, &r, &e) == 0) {
        if ((r.is_authenticated && memmem(data, size, "true", 4) == NULL) ||
            (r.has_audience && !is_escaped && memmem(data, size, "\"istio-ca\"", 10) == NULL) ||
            (r.is_service_account && !is_escaped &&
             memmem(data, size, "\"system:serviceaccounts\"", 24) == NULL))
            abort();
        if (strlen(r.username) >= KUBE_TEXT_BYTES || strlen(r.pod_uid) >= sizeof(r.pod_uid))
            abort();
    }
    json_decref(o);
    return 0;
}
