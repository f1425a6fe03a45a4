/* operator.h - carries a vault's bundle into one mesh on Kubernetes, as its PluginCA says. Layer:
 * operator.
 *
 * Watches the PluginCAs of one namespace, the mesh's. The oldest is in force; another one is told
 * so, for there is one `cacerts`. While it leads it polls the vault (sync/), plans (rotate/, plan
 * in a ConfigMap), writes Secrets and ConfigMaps, and says in status and Events what it does and
 * what it waits for. Thread: its loop. Source: ARCHITECTURE.md "On Kubernetes"; specs/istio-ca.md
 * 5, 6.
 */
#ifndef OPERATOR_OPERATOR_H
#define OPERATOR_OPERATOR_H

#include <jansson.h>

#include "kube/kube.h"
#include "net/loop.h"
#include "obs/metrics.h"

struct mesh_operator;

enum { OPERATOR_ISTIOD_NAMES = 8, OPERATOR_VAULT_HOSTS = 16 };

struct operator_conf {
    struct kube_client *kube; /* borrowed, as the next */
    struct metrics *metrics;
    const char *namespace;    /* of PluginCA, cacerts and istiod; all texts are copied */
    const char *ca_namespace; /* of meshroot-ca, the Secret and the pods */
    const char *ca_secret;    /* "meshroot-ca" */
    const char *ca_pods;      /* label selector of the CA's pods */
    const char *istiod_pods;  /* of a stock istiod's: "app=istiod" */
    const char *identity;     /* in Events: who says it, such as the pod's name */
    const char *token_file;   /* for the CA's Evidence: our service-account token; NULL: none */
    /* In istiod's own certificate (Secret istiod-tls), which our CA signs; none: it is not made. */
    const char *istiod_names[OPERATOR_ISTIOD_NAMES];
    size_t istiod_names_n;
    /* Hosts, and names under them, that a PluginCA's vault may have: whoever writes one decides by
     * it where our credentials go. */
    const char *vault_hosts[OPERATOR_VAULT_HOSTS];
    size_t vault_hosts_n;
    const char *ca_name; /* in the CA's certificate: "meshroot-ca.meshroot-system.svc" */
    uint16_t ca_port;
};

MUST_USE int operator_new(struct loop *l, const struct operator_conf *conf,
                          struct mesh_operator **ret, struct err *e);
void operator_free(struct mesh_operator *o); /* what is in the cluster stays; NULL is fine */
/* It leads from now on, or no more: then nothing is written any more. */
void operator_lead(struct mesh_operator *o, bool leads);
/* The PluginCAs are known, and, of the leader, what is in force could be read. */
bool operator_is_ready(const struct mesh_operator *o);
const char *operator_why_not_ready(struct mesh_operator *o); /* one line with its end */
/* {"leads","namespace","plugin_ca":null|{"name","status":{as in the resource},"sync","rotation"}};
 * owner: caller. */
json_t *operator_status(const struct mesh_operator *o);

#endif
