/* mesh_disable.c - meshroot mesh disable. */
#include <stdio.h>

#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/mesh_kube.h"

struct disable_conf {
    const char *state_dir;
    struct mesh_kube kube;
    struct mesh_kube_change change;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct disable_conf, state_dir),
    OPT_MESH_KUBE(struct disable_conf, kube),
    OPT_MESH_CHANGE(struct disable_conf, change),
    { .name = NULL },
};

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct disable_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    json_t *answer = NULL;

    (void)args;
    if (mesh_is_on_kube(&c->kube))
        return mesh_kube_disable(&c->kube, &c->change, e);
    TRY(mesh_kube_flags_refuse(&c->kube, NULL, &c->change, e));
    TRY(state_dir(c->state_dir, &dir, e));
    TRY(admin_call(dir, "POST", "/v1/mesh/disable", NULL, &answer, e));
    json_decref(answer);
    printf("mesh disabled; workloads keep their leaves until these expire\n");
    return 0;
}

const struct command cmd_mesh_disable = {
    "mesh disable",
    "",
    0,
    0,
    opts,
    sizeof(struct disable_conf),
    run,
    "switch the mesh off",
    "Ends the CA and forgets bundle and rotation plan. The vault and the ledger stay. Workloads "
    "keep the leaves\n"
    "that they have until these expire, but get no new ones; after enabling another root they must "
    "be restarted.\n"
    "On Kubernetes the PluginCA is deleted, and by the operator the Secrets that are ours; roots "
    "in "
    "the ConfigMaps stay\n"
    "until istiod, restarted, writes its own.\n"
    "\n"
    "Examples:\n"
    "  meshroot mesh disable\n"
    "  meshroot mesh disable --namespace aks-istio-system --wait\n"
    "  meshroot mesh disable --state-dir /var/lib/meshroot && meshroot mesh enable --key-vault-id "
    "https://v.vault.azure.net\n",
};
