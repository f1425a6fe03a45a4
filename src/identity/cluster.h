/* cluster.h - what a Kubernetes cluster knows of pods and service accounts now, as a port, and the
 * two rules that ask it: bound tokens, and node proxies. Layer: identity.
 *
 * Whoever fills the port answers from memory: no call of a workload waits for the API server. What
 * is not known is never taken for granted: a source that is not in step with its cluster any more
 * fails with BUSY, and the caller is told to come again.
 * Source: specs/istio-ca.md 3.2, 3.4; Kubernetes pkg/serviceaccount (what a bound token needs).
 */
#ifndef IDENTITY_CLUSTER_H
#define IDENTITY_CLUSTER_H

#include "identity/identity.h"

enum { K8S_UID_BYTES = 64, CLUSTER_DELETED_GRACE_S = 60 /* as the API server's own check */ };

struct cluster_pod {
    char ns[K8S_NAME_BYTES], name[K8S_NAME_BYTES], sa[K8S_NAME_BYTES], node[K8S_NAME_BYTES];
    char uid[K8S_UID_BYTES];
    int64_t deleted_s; /* metadata.deletionTimestamp, unix seconds: when its grace ends; 0: none */
    bool is_over;      /* phase Failed or Succeeded */
};

struct cluster_account {
    char uid[K8S_UID_BYTES];
    int64_t deleted_s;
};

/* The port. Thread: any, at the same time. Blocks: never. Errors of all: BUSY (what it knows is too
 * old, or nothing is known yet), NOMEM. */
enum { CLUSTER_ABSENT = 1 };
struct cluster {
    /* r: 0 done; CLUSTER_ABSENT no such object. */
    int (*pod)(void *self, const char *ns, const char *name, struct cluster_pod *ret,
               struct err *e);
    int (*account)(void *self, const char *ns, const char *name, struct cluster_account *ret,
                   struct err *e);
    /* r: 0 a pod that is neither over nor deleted runs on `node` with that service account;
     * CLUSTER_ABSENT none does. */
    int (*runs_on)(void *self, const char *node, const char *ns, const char *sa, struct err *e);
    void *self;
};

/* True when its time is over at wall time now, with the API server's grace. */
bool cluster_is_deleted(int64_t deleted_s);

/* A token of Kubernetes stands for a service account, and mostly for a pod: both must be there
 * still, with the UIDs that the token names. A token without the kubernetes.io claim is of an
 * issuer outside Kubernetes and passes. One that is bound to what we cannot look up (a Secret, a
 * Node) is refused. To be called for every call, never kept. `claims` are verified ones. Errors:
 * AUTH, with *ret_reason (static): "account_gone", "account_uid", "pod_gone", "pod_uid",
 * "pod_account", "unbound"; BUSY with "cluster_unknown". */
MUST_USE int cluster_check_bound(const struct cluster *c, const struct jwt_claims *claims,
                                 const char **ret_reason, struct err *e);

/* A node proxy, as its own token says it. */
struct node_proxy {
    char ns[K8S_NAME_BYTES], sa[K8S_NAME_BYTES], pod[K8S_NAME_BYTES], pod_uid[K8S_UID_BYTES];
};

/* Whether that proxy may ask for a leaf of `wanted` (a SPIFFE id as it was sent): it runs as one of
 * the trusted accounts ("NS/SA"), in the pod that its token is bound to, and a pod with the wanted
 * account is on the same node. Stricter than istiod: the trust domain must be ours. `cluster` NULL:
 * nobody may. Errors: AUTH (istiod's words), BUSY. Source: specs/istio-ca.md 3.4, steps 0 to 6. */
struct node_rule {
    const char *const *accounts; /* "NS/SA" */
    size_t n;
    const char *trust_domain;
    const struct cluster *cluster;
};
MUST_USE int node_rule_check(const struct node_rule *rule, const struct node_proxy *caller,
                             struct span wanted, struct spiffe_id *ret, struct err *e);
/* "NS/SA", both names of Kubernetes' grammar. Errors: PARSE. */
MUST_USE int node_account_check(const char *text, struct err *e);

#endif
