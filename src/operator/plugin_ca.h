/* plugin_ca.h - the resource PluginCA (meshroot.io/v1alpha1) as a struct. Layer: operator. Thread:
 * any.
 *
 * The API server holds an object against the schema in deploy/helm/meshroot/crds/pluginca.yaml;
 * this reader trusts neither, for the CRD that is installed may be of another version: what an
 * older one does not know has its default here, what a newer one has is refused by name.
 */
#ifndef OPERATOR_PLUGIN_CA_H
#define OPERATOR_PLUGIN_CA_H

#include <jansson.h>

#include "kube/write.h"
#include "mesh/settings.h"

#define PLUGIN_CA_API "meshroot.io/v1alpha1"
extern const struct kube_kind kube_plugin_ca;

enum {
    PLUGIN_NAME_BYTES = 254,
    PLUGIN_NS_BYTES = 64,
    PLUGIN_UID_BYTES = 64,
    PLUGIN_ID_BYTES = 128, /* tenant and client ids */
    PLUGIN_DOMAIN_BYTES = 254,
    PLUGIN_CA_BUNDLE_BYTES = 65536,
};

enum vault_login { LOGIN_WORKLOAD, LOGIN_MANAGED, LOGIN_SECRET, LOGIN__N };

struct plugin_ca {
    char ns[PLUGIN_NS_BYTES], name[PLUGIN_NAME_BYTES], uid[PLUGIN_UID_BYTES];
    int64_t revision; /* metadata.generation: of the spec */
    bool is_going;    /* it is being deleted, and waits for our finalizer */
    bool has_finalizer;

    char vault_url[VAULT_URL_BYTES];
    char *ca_bundle; /* PEM; owned; NULL: the system's roots */
    enum vault_login login;
    char tenant[PLUGIN_ID_BYTES], client_id[PLUGIN_ID_BYTES]; /* "" where the login has none */
    char secret[PLUGIN_NAME_BYTES];                           /* LOGIN_SECRET */
    char object_names[PART__ALL][SECRET_NAME_BYTES];          /* no lists: that of ca-crl is "" */
    uint64_t poll_ms;
    bool to_istiod, to_meshroot; /* one of them at least */
    char trust_domain[PLUGIN_DOMAIN_BYTES];
    json_t *selector; /* owned: a LabelSelector; NULL: all namespaces */
    uint64_t ttl_ms, renew_window_ms, stock_wait_ms, mount_wait_ms;
    bool hold_replacement, adopt;
};

#define PLUGIN_FINALIZER "meshroot.io/plugged-in"
#define PLUGIN_FORCE     "meshroot.io/force" /* an annotation: the word of the step to be forced */

/* Reads an object of the API server. *ret is written on success only; owner: caller,
 * plugin_ca_done. Errors: INVAL ("spec.pollInterval: ...": the field, the reason, the remedy),
 * NOMEM. */
MUST_USE int plugin_ca_read(const json_t *object, struct plugin_ca *ret, struct err *e);
void plugin_ca_done(struct plugin_ca *p); /* twice is harmless */
/* Both say the same to vault, sync and rotation: nothing has to be opened anew. */
bool plugin_ca_same(const struct plugin_ca *a, const struct plugin_ca *b);

/* Whether a LabelSelector (NULL or empty: everything) takes an object with these labels (NULL:
 * none). Source: Kubernetes apimachinery meta/v1 LabelSelector. */
bool selector_takes(const json_t *selector, const json_t *labels);

#endif
