/* callers.h - the flags that say whom a CA believes and what it is called, shared by up and ca
 * serve. Layer: cmd. */
#ifndef CMD_CALLERS_H
#define CMD_CALLERS_H

#include "ca/ca.h"
#include "cmd/kube_flags.h"

struct caller_flags {
    struct opt_list issuers, audiences, dns_names, node_accounts, cert_signers;
    struct opt_list issuer_ca_files, evidence_readers, couriers, serving_accounts, serving_names;
    const char *pods_file;
    struct kube_flags kube;
    uint64_t cluster_max_stale_ms;
    bool token_review, watch_pods;
};

/* clang-format off */
/* 0s: every row is kept. */
#define OPT_LEDGER_RETENTION(T, member)                                                            \
    { "ledger-retention", OPT_DURATION, offsetof(T, member), "0s", "0s", "876000h", 0, "DURATION",   \
      "remove rows whose leaf ended longer ago; what is left stays verifiable; 0s keeps all" }

#define OPT_CALLERS(type, member)                                                                                          \
    { "issuer", OPT_LIST, offsetof(type, member.issuers), NULL, NULL, NULL, 0, "ISS[=JWKS]",                               \
      "trusted issuer of workload tokens; its keys: a file, an https URL, \"kubernetes\" (the API server's), or, without JWKS, by discovery; repeatable" }, \
    { "issuer-ca-file", OPT_LIST, offsetof(type, member.issuer_ca_files), NULL, NULL, NULL, 0, "ISS=FILE",                 \
      "roots that vouch for an issuer's https server [the system's]; repeatable" },                                        \
    { "token-review", OPT_FLAG, offsetof(type, member.token_review), NULL, NULL, NULL, 0, NULL,                            \
      "tokens of no --issuer are judged by the Kubernetes API (TokenReview), a yes kept for 10 s" },                       \
    OPT_KUBE(type, member.kube),                                                                                           \
    { "audience", OPT_LIST, offsetof(type, member.audiences), NULL, NULL, NULL, 0, "NAME",                                 \
      "audience that tokens must have; repeatable [istio-ca]" },                                                           \
    { "pods-file", OPT_STRING, offsetof(type, member.pods_file), NULL, NULL, NULL, 0, "FILE",                              \
      "what \"kubectl get pods,serviceaccounts -A -o json\" prints: tokens bound to a pod need it to be there" },          \
    { "watch-pods", OPT_FLAG, offsetof(type, member.watch_pods), NULL, NULL, NULL, 0, NULL,                                \
      "the same from the Kubernetes API, by a watch: a deleted pod's token ends at once" },                                \
    { "cluster-max-stale", OPT_DURATION, offsetof(type, member.cluster_max_stale_ms), "5m", "5s", "24h", 0, "DURATION",    \
      "how long what --watch-pods knows is believed while the API server is away" },                                       \
    { "trusted-node-account", OPT_LIST, offsetof(type, member.node_accounts), NULL, NULL, NULL, 0, "NS/SA",                \
      "node proxy (ztunnel) that may ask for leaves of the pods on its node; needs --watch-pods or --pods-file; repeatable" },             \
    { "cert-signer", OPT_LIST, offsetof(type, member.cert_signers), NULL, NULL, NULL, 0, "NAME",                           \
      "name that a request's CertSigner may have; repeatable [meshroot]" },                                                \
    { "evidence-reader", OPT_LIST, offsetof(type, member.evidence_readers), NULL, NULL, NULL, 0, "NS/SA",                    \
      "account (the operator's) that may read what is loaded and which leaves are in use; repeatable" },                   \
    { "revocation-courier", OPT_LIST, offsetof(type, member.couriers), NULL, NULL, NULL, 0, "NS/SA",                         \
      "account (the operator's) that may tell which leaves other replicas have revoked, and is told ours; repeatable" },    \
    { "serving-account", OPT_LIST, offsetof(type, member.serving_accounts), NULL, NULL, NULL, 0, "NS/SA",                    \
      "account (the operator's) that may have certificates with a --serving-name (istiod-tls); repeatable" },              \
    { "serving-name", OPT_LIST, offsetof(type, member.serving_names), NULL, NULL, NULL, 0, "NAME",                          \
      "DNS name that such a certificate may have, such as istiod.istio-system.svc; repeatable" },                          \
    { "dns-name", OPT_LIST, offsetof(type, member.dns_names), NULL, NULL, NULL, 0, "NAME",                                 \
      "name or address in the CA's certificate; repeatable [istiod.istio-system.svc, localhost, 127.0.0.1]" }
/* clang-format on */

/* The same as a CA's settings want it; texts are borrowed from the flags but for `kept`. */
struct callers {
    struct ca_callers who; /* kube: points to the one below */
    struct kube_conf kube;
    char *kept[CA_JWKS_MAX];
};

/* Errors: INVAL (the flag, and what it must look like), NOMEM. */
MUST_USE int callers_fill(const struct caller_flags *f, struct callers *ret, struct err *e);
void callers_done(struct callers *c);

#endif
