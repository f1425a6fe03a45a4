/* pods.h - the pods that mount a Secret are told of a new one. Layer: operator (private).
 *
 * The kubelet syncs a pod whose annotations change, and with it the Secrets that it mounts: else it
 * may take more than a minute. A help, not a promise: trouble is in the log only. Thread: its loop.
 * Source: specs/istio-ca.md 5.1.
 */
#ifndef OPERATOR_PODS_H
#define OPERATOR_PODS_H

#include "kube/kube.h"

enum { PODS_TOLD_MAX = 64 };

struct pods {                 /* stays where it is */
    struct kube_client *kube; /* borrowed */
    char ns[64];
    char *selector;         /* owned */
    uint64_t generation;    /* to be told */
    struct kube_call *call; /* that asks which pods there are */
};
/* `selector`: of their labels; copied. Errors: NOMEM. */
MUST_USE int pods_init(struct pods *p, struct kube_client *kube, const char *ns,
                       const char *selector, struct err *e);
void pods_done(struct pods *p); /* zeroed is fine */
/* Sets the annotation meshroot.io/generation of PODS_TOLD_MAX of them at most. What was being told
 * before is given up. */
void pods_tell(struct pods *p, uint64_t generation);

#endif
