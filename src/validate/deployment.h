/* deployment.h - what istiod's Deployment says, and what we write on it. Layer: validate (private).
 * No I/O. Thread: any. Source: kubectl's rollout restart and rollout status; specs/istio-ca.md 0.2.
 */
#ifndef VALIDATE_DEPLOYMENT_H
#define VALIDATE_DEPLOYMENT_H

#include <jansson.h>

#include "base/attr.h"
#include "base/clock.h"
#include "base/err.h"
#include "validate/decide.h"

#define VALIDATE_MEMORY    "meshroot.io/validate" /* annotation: what was tried, as JSON */
#define VALIDATE_RESTARTED "kubectl.kubernetes.io/restartedAt"

enum { VALIDATE_VERSION_BYTES = 64, VALIDATE_RUN_BYTES = 17 };

/* -- which istiod ------------------------------------------------------------------------------ */

struct validate_istiod {
    char version[VALIDATE_VERSION_BYTES]; /* the image's tag; "" when it has none */
    bool is_multiroot;                    /* ISTIO_MULTIROOT_MESH is on */
    bool takes_roots_hot, hot_compares_text;
};
/* Reads the container "discovery", or the only one. A version that is no version counts as new.
 * Errors: PARSE (no such container). */
MUST_USE int validate_istiod_read(const json_t *deployment, struct validate_istiod *ret,
                                  struct err *e);

/* -- the rollout ------------------------------------------------------------------------------- */

enum validate_rollout { ROLLOUT_DONE, ROLLOUT_UNDER_WAY, ROLLOUT_FAILED };
/* As kubectl rollout status judges it, in its words. */
enum validate_rollout validate_rollout_read(const json_t *deployment, char ret[VALIDATE_WHY_BYTES]);
bool validate_is_paused(const json_t *deployment);
/* Whether a pod (its object) is the Deployment's, by the labels that it selects. Errors: PARSE (it
 * selects by expressions, or nothing). r: 0; VALIDATE_NOT_ITS. */
enum { VALIDATE_NOT_ITS = 1 };
MUST_USE int validate_is_its_pod(const json_t *deployment, const json_t *pod, struct err *e);
/* Whether a pod gets its certificate from the mesh's CA: it has a container "istio-proxy", or
 * mounts the CA's roots (`config_map`, or the CA's ClusterTrustBundle) or a token for the CA; and
 * is not istiod (a container "discovery"), nor one of our own parts, by the chart's labels. Source:
 * specs/istio-ca.md 7.10. */
bool validate_is_workload(const json_t *pod, const char *config_map);
/* When the object's data was last changed, by its managedFields; 0: they do not say. */
int64_t validate_data_changed(const json_t *object);

/* -- what is remembered ------------------------------------------------------------------------ */

struct validate_memory {
    uint8_t roots[DIGEST_BYTES]; /* SHA-256 of root-cert.pem, as it was tried */
    enum validate_tried tried;
    char run[VALIDATE_RUN_BYTES]; /* whose: random hex */
    char at[RFC3339_BYTES];
    char why[VALIDATE_WHY_BYTES]; /* TRIED_FAILED */
};
/* What is there and cannot be read counts as none. */
void validate_memory_read(const json_t *deployment, struct validate_memory *ret);
/* The merge patch that writes it; with `restarts_at` (RFC 3339) also restarts the pods, and with
 * `was_read` only over that version. Owner: caller. Errors: NOMEM, PARSE. */
MUST_USE int validate_memory_patch(const struct validate_memory *m, const char *restarts_at,
                                   const json_t *was_read, json_t **ret, struct err *e);

#endif
