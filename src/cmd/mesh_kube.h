/* mesh_kube.h - `mesh enable`, `disable` and `status` where the mesh is on Kubernetes: they write
 * and read the PluginCA that the operator reconciles. Layer: cmd. Blocks: until the API server
 * answers. */
#ifndef CMD_MESH_KUBE_H
#define CMD_MESH_KUBE_H

#include "cmd/tool.h"
#include "mesh/settings.h"

struct mesh_kube { /* flags that all three have */
    const char *kubeconfig, *context, *namespace, *name;
};

/* clang-format off */
#define OPT_MESH_KUBE(type, member)                                                                                     \
    { "namespace", OPT_STRING, offsetof(type, member.namespace), NULL, NULL, NULL, 0, "NAME",                           \
      "the mesh is on Kubernetes, istiod in this namespace" },                                                          \
    { "kubeconfig", OPT_STRING, offsetof(type, member.kubeconfig), NULL, NULL, NULL, 0, "FILE",                         \
      "the mesh is on Kubernetes, reached so [KUBECONFIG, ~/.kube/config, the cluster that it runs in]" },              \
    { "kube-context", OPT_STRING, offsetof(type, member.context), NULL, NULL, NULL, 0, "NAME",                          \
      "context of the kubeconfig [its current one]" },                                                                  \
    { "name", OPT_STRING, offsetof(type, member.name), "default", NULL, NULL, 0, "NAME", "of the PluginCA" }
#define OPT_MESH_CHANGE(type, member)                                                                                   \
    { "dry-run", OPT_CHOICE, offsetof(type, member.dry_run), "none", "none|client|server", NULL, 0, "WHERE",            \
      "on Kubernetes: only print the PluginCA, or let the API server check it; nothing changes" },                      \
    { "wait", OPT_FLAG, offsetof(type, member.wait), NULL, NULL, NULL, 0, NULL,                                         \
      "on Kubernetes: until it is done" },                                                                              \
    { "wait-timeout", OPT_DURATION, offsetof(type, member.timeout_ms), "5m", "1s", "24h", 0, "DURATION",                \
      "how long --wait waits" }
/* clang-format on */

struct mesh_kube_change {
    const char *dry_run;
    bool wait;
    uint64_t timeout_ms;
};

struct mesh_kube_enable {
    const char *vault_id, *names[PART__ALL];
    uint64_t poll_ms;
    bool hold, adopt;
    const char *ca_file, *secret, *workload, *managed, *target, *trust_domain, *stock_wait;
};

/* Any of the flags says that the mesh is on Kubernetes. */
bool mesh_is_on_kube(const struct mesh_kube *k);
/* For a mesh that is not: refuses the flags that only Kubernetes has, so that "--dry-run" without
 * "--namespace" changes nothing.
 *   s   NULL for `disable`
 * Errors: INVAL (names the flag). */
MUST_USE int mesh_kube_flags_refuse(const struct mesh_kube *k, const struct mesh_kube_enable *s,
                                    const struct mesh_kube_change *c, struct err *e);
MUST_USE int mesh_kube_enable(const struct mesh_kube *k, const struct mesh_kube_enable *s,
                              const struct mesh_kube_change *c, struct err *e);
MUST_USE int mesh_kube_disable(const struct mesh_kube *k, const struct mesh_kube_change *c,
                               struct err *e);
/* r: 0; CMD_FAILED: it is not enabled. */
MUST_USE int mesh_kube_status(const struct mesh_kube *k, const char *output, struct err *e);

#endif
