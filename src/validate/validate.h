/* validate.h - the root validator: restarts a stock istiod when its Secret has other roots than it
 * has loaded, and only when no workload is cut off by that. Layer: validate.
 *
 * One run looks once, does at most one restart and sees it to its end; it keeps nothing but one
 * annotation on the Deployment, so any number of runs may overlap or die: the restart is written
 * over the version that was judged, in one patch with the word that it was tried. Source:
 * specs/istio-ca.md 5.7, 10.2; kubectl's rollout restart.
 */
#ifndef VALIDATE_VALIDATE_H
#define VALIDATE_VALIDATE_H

#include <jansson.h>

#include "base/attr.h"
#include "base/err.h"
#include "kube/kube.h"

enum { VALIDATE_POLL_MS = 1000, VALIDATE_RACES_MAX = 5 };

struct validate_conf { /* borrowed for the call */
    const struct kube_conf *kube;
    const char *ns, *deployment;     /* istiod's */
    const char *secret, *config_map; /* "cacerts", "istio-ca-root-cert" */
    const char *server_name;         /* that istiod's certificate has; NULL: istiod.NS.svc */
    uint16_t port;                   /* of its pods, where it shows that: 15012 */
    uint64_t timeout_ms;             /* of a rollout and what comes after it */
    uint64_t leaf_life_ms, hot_wait_ms, skew_ms; /* decide.h */
    bool looks_at_workloads; /* the cluster's pods are all workloads that there are: their ages
                                count as evidence */
    bool is_forced, is_dry_run;
    void (*line)(const char *text, void *arg); /* what happens, as it happens */
    void *arg;
};

struct validate_result {
    json_t *report; /* owned: validate_result_done */
    struct err why; /* E_NONE, or: held, blocked or failed (STATE), no end in time (TIMEOUT) */
};
void validate_result_done(struct validate_result *r);

/* Blocks, on a loop of its own. Errors: what could not be looked at (DENIED: with the server's
 * words, which name verb, resource and namespace; NOTFOUND, PEER, TIMEOUT, BUSY), what cannot be
 * judged (PARSE, DENIED, STATE: the Secret is half, or its parts do not belong together), CONFLICT
 * (the Deployment changed again and again). Nothing is changed then, or it is seen to its end by
 * the next run. */
MUST_USE int validate_run(const struct validate_conf *conf, struct validate_result *ret,
                          struct err *e);

#endif
