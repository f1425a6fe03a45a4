/* kube_flags.h - the flags that say where the Kubernetes API is, shared by all who ask it. Layer:
 * cmd. */
#ifndef CMD_KUBE_FLAGS_H
#define CMD_KUBE_FLAGS_H

#include "config/opts.h"
#include "kube/kube.h"

struct kube_flags {
    const char *server, *ca_file, *token_file, *cert_file, *key_file, *kubeconfig, *context;
};

/* clang-format off */
#define OPT_KUBE(type, member)                                                                                             \
    { "kubeconfig", OPT_STRING, offsetof(type, member.kubeconfig), NULL, NULL, NULL, 0, "FILE",                            \
      "where the Kubernetes API is and who we are there [the cluster that it runs in]" },                                  \
    { "kube-context", OPT_STRING, offsetof(type, member.context), NULL, NULL, NULL, 0, "NAME",                             \
      "context of the kubeconfig [its current one]" },                                                                     \
    { "kube-server", OPT_STRING, offsetof(type, member.server), NULL, NULL, NULL, 0, "URL",                                \
      "https URL of the Kubernetes API, with the four below, instead of a kubeconfig" },                                   \
    { "kube-ca-file", OPT_STRING, offsetof(type, member.ca_file), NULL, NULL, NULL, 0, "FILE",                             \
      "roots that vouch for it [the system's]" },                                                                          \
    { "kube-token-file", OPT_STRING, offsetof(type, member.token_file), NULL, NULL, NULL, 0, "FILE",                       \
      "our token there; read again" },                                                                                     \
    { "kube-client-cert", OPT_STRING, offsetof(type, member.cert_file), NULL, NULL, NULL, 0, "FILE",                       \
      "our client certificate there" },                                                                                    \
    { "kube-client-key", OPT_STRING, offsetof(type, member.key_file), NULL, NULL, NULL, 0, "FILE",                         \
      "its key" }
/* clang-format on */

/* Without any flag: the cluster that the process runs in. Owner: caller, kube_conf_done. Errors:
 * INVAL (flags that do not go together), and as kube_conf_from_file and kube_conf_in_cluster. */
MUST_USE int kube_flags_fill(const struct kube_flags *f, struct kube_conf *ret, struct err *e);

#endif
