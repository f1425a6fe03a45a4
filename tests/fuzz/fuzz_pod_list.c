/* fuzz_pod_list.c - a list that is taken answers by exact names only, within its bounds. */
#include <stdlib.h>

#include "identity/pods_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(pod_list_freep) struct pod_list *l = NULL;
    struct err e;

    if (pod_list_from_json(span_of(data, size), &l, &e) < 0)
        return 0;
    if (pod_list_pods(l) > PODS_FILE_MAX_ITEMS)
        abort();
    const struct cluster_pod *p = pod_list_pod(l, "shop", "cart-1");
    if (p != NULL &&
        (strcmp(p->ns, "shop") != 0 || strcmp(p->name, "cart-1") != 0 || p->uid[0] == '\0' ||
         (p->sa[0] != '\0' && !k8s_subdomain_ok(span_str(p->sa)))))
        abort();
    const struct cluster_account *a = pod_list_account(l, "shop", "cart");
    if (a != NULL && a->uid[0] == '\0')
        abort();
    /* no name that is none of Kubernetes' ever has an answer */
    if (pod_list_runs_on(l, "", "shop", "cart") || pod_list_pod(l, "shop", "*") != NULL ||
        pod_list_account(l, "", "cart") != NULL)
        abort();
    return 0;
}
