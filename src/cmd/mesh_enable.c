/* mesh_enable.c - meshroot mesh enable, with the flags of the managed add-on. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/mesh_kube.h"
#include "mesh/settings.h"
#include "net/json.h"

struct enable_conf {
    const char *state_dir, *vault_id, *names[PART__ALL];
    uint64_t poll_ms;
    bool hold;
    struct mesh_kube kube;
    struct mesh_kube_enable on_kube; /* what only Kubernetes has */
    struct mesh_kube_change change;
};

#define AT(member) offsetof(struct enable_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    OPT_STATE_DIR(struct enable_conf, state_dir),
    { "key-vault-id", OPT_STRING, AT(vault_id), NULL, NULL, NULL, 0, "ID", "the vault: an ARM resource id, or its https URL" },
    { "root-cert-object-name", OPT_STRING, AT(names[PART_ROOT_CERT]), NULL, NULL, NULL, 0, "NAME", "secret with the roots [root-cert]" },
    { "ca-cert-object-name", OPT_STRING, AT(names[PART_CA_CERT]), NULL, NULL, NULL, 0, "NAME", "secret with the intermediate [ca-cert]" },
    { "ca-key-object-name", OPT_STRING, AT(names[PART_CA_KEY]), NULL, NULL, NULL, 0, "NAME", "secret with its key [ca-key]" },
    { "cert-chain-object-name", OPT_STRING, AT(names[PART_CERT_CHAIN]), NULL, NULL, NULL, 0, "NAME", "secret with the chain [cert-chain]" },
    { "ca-crl-object-name", OPT_STRING, AT(names[PART_CA_CRL]), NULL, NULL, NULL, 0, "NAME", "secret with the revocation lists of root and intermediates [none]" },
    { "rotation-poll-interval", OPT_DURATION, AT(poll_ms), "2m", "1s", "24h", 0, "DURATION", "how often the vault is asked for new versions" },
    { "hold-root-replacement", OPT_FLAG, AT(hold), NULL, NULL, NULL, 0, NULL, "hold a root replaced straight by another, instead of staging it" },
    OPT_MESH_KUBE(struct enable_conf, kube),
    { "vault-ca-file", OPT_STRING, AT(on_kube.ca_file), NULL, NULL, NULL, 0, "FILE", "on Kubernetes: roots that vouch for the vault [the system's]" },
    { "credential-secret", OPT_STRING, AT(on_kube.secret), NULL, NULL, NULL, 0, "NAME", "on Kubernetes: Secret with tenant, client_id, client_secret for the vault; or" },
    { "workload-identity", OPT_STRING, AT(on_kube.workload), NULL, NULL, NULL, 0, "TENANT/CLIENT", "on Kubernetes: the operator's federated identity; or" },
    { "managed-identity", OPT_STRING, AT(on_kube.managed), NULL, NULL, NULL, 0, "CLIENT", "on Kubernetes: an identity of the machine; \"system\": its own" },
    { "target", OPT_CHOICE, AT(on_kube.target), "istiod", "istiod|meshroot|both", NULL, 0, "WHO", "on Kubernetes: who signs with the set" },
    { "mesh-trust-domain", OPT_STRING, AT(on_kube.trust_domain), NULL, NULL, NULL, 0, "NAME", "on Kubernetes [cluster.local]" },
    { "stock-wait", OPT_STRING, AT(on_kube.stock_wait), NULL, NULL, NULL, 0, "DURATION", "on Kubernetes: longest life of a leaf; how long clients that say no word are waited for [24h]" },
    { "adopt", OPT_FLAG, AT(on_kube.adopt), NULL, NULL, NULL, 0, NULL, "on Kubernetes: take over a Secret cacerts that somebody else made" },
    OPT_MESH_CHANGE(struct enable_conf, change),
    { .name = NULL },
};
static const char *const members[PART__ALL] = {
    [PART_ROOT_CERT] = "root_cert_object_name", [PART_CA_CERT] = "ca_cert_object_name",
    [PART_CA_KEY] = "ca_key_object_name", [PART_CERT_CHAIN] = "cert_chain_object_name",
    [PART_CA_CRL] = "ca_crl_object_name",
};
/* clang-format on */

static json_t *
settings_make(const struct enable_conf *c)
{
    json_t *j = json_pack("{s:s, s:I, s:b}", "mode",
                          mesh_mode_name(c->vault_id != NULL ? MESH_PLUGGED_IN : MESH_SELF_SIGNED),
                          "poll_ms", (json_int_t)c->poll_ms, "hold_replacement", (int)c->hold);

    if (c->vault_id != NULL)
        j = json_object_with(j, "key_vault_id", json_string(c->vault_id));
    for (size_t i = 0; i < PART__ALL; i++)
        if (c->names[i] != NULL)
            j = json_object_with(j, members[i], json_string(c->names[i]));
    return j;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct enable_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    json_t *q, *answer = NULL;

    (void)args;
    if (mesh_is_on_kube(&c->kube)) {
        struct mesh_kube_enable s = c->on_kube;

        s.vault_id = c->vault_id;
        memcpy(s.names, c->names, sizeof(s.names));
        s.poll_ms = c->poll_ms;
        s.hold = c->hold;
        return mesh_kube_enable(&c->kube, &s, &c->change, e);
    }
    TRY(mesh_kube_flags_refuse(&c->kube, &c->on_kube, &c->change, e));
    for (size_t i = 0; i < PART__ALL; i++)
        if (c->names[i] != NULL && c->vault_id == NULL)
            return err_set(
                e, E_INVAL,
                "object names need --key-vault-id; without both the mesh gets a self-signed root");
    TRY(state_dir(c->state_dir, &dir, e));
    q = settings_make(c);
    if (q == NULL)
        return err_nomem(e);
    TRY(admin_call(dir, "POST", "/v1/mesh/enable", q, &answer, e));
    json_decref(answer);
    printf("mesh enabled: %s\n",
           c->vault_id != NULL ? "plug-in CA certificates" : "self-signed root");
    return 0;
}

const struct command cmd_mesh_enable = {
    "mesh enable",
    "",
    0,
    0,
    opts,
    sizeof(struct enable_conf),
    run,
    "switch the mesh on: plugged-in CA, or self-signed",
    "Switches the mesh on. With --key-vault-id the CA signs with the intermediate that the vault's "
    "four secrets\n"
    "hold: they are read and checked first, and if they are no bundle nothing changes. Without it "
    "the CA makes a\n"
    "self-signed root of its own. A mesh that runs self-signed must be disabled before it can be "
    "plugged in.\n"
    "With --ca-crl-object-name a fifth secret has the revocation lists of the CAs, the root's over "
    "its intermediates:\n"
    "what they revoke is refused everywhere. A bad list blocks no key; one that revokes the "
    "intermediate stops the set.\n"
    "With --namespace or --kubeconfig the mesh is on Kubernetes: the command writes the PluginCA "
    "that "
    "meshroot operator\n"
    "run reconciles.\n"
    "\n"
    "Examples:\n"
    "  meshroot mesh enable --key-vault-id https://127.0.0.1:8443\n"
    "  meshroot mesh enable --namespace aks-istio-system --workload-identity TENANT/CLIENT --wait "
    "\\\n"
    "      --key-vault-id "
    "/subscriptions/S/resourceGroups/G/providers/Microsoft.KeyVault/vaults/acme\n"
    "  meshroot mesh enable --root-cert-object-name root-cert --ca-cert-object-name ca-cert \\\n"
    "      --ca-key-object-name ca-key --cert-chain-object-name cert-chain \\\n"
    "      --key-vault-id "
    "/subscriptions/S/resourceGroups/G/providers/Microsoft.KeyVault/vaults/meshroot\n"
    "  meshroot mesh enable        # a self-signed root\n",
};
