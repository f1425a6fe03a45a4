/* rotate_force.c - meshroot rotate force: the held step, without its gate. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/rotate_kube.h"

struct force_conf {
    const char *state_dir, *output;
    bool force;
    struct mesh_kube kube;
    struct mesh_kube_change change;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct force_conf, state_dir),
    { "force", OPT_FLAG, offsetof(struct force_conf, force), NULL, NULL, NULL, 0, NULL,
      "yes, take the step although its gate is closed" },
    OPT_OUTPUT(struct force_conf, output),
    OPT_MESH_KUBE(struct force_conf, kube),
    OPT_MESH_CHANGE(struct force_conf, change),
    { .name = NULL },
};

static void
waiting_print(const json_t *waits_for)
{
    const json_t *w;
    size_t i;

    json_array_foreach(waits_for, i, w) {
        const char *why = json_string_value(json_object_get(w, "why"));

        printf("  %s %s: %s\n", json_string_value(json_object_get(w, "identity")),
               json_string_value(json_object_get(w, "instance")), why != NULL ? why : "");
    }
}

/* Without --force: says what is held and what forcing it risks, and changes nothing. */
static int
explain(const char *dir, struct err *e)
{
    json_t *status = NULL;

    TRY(admin_call(dir, "GET", "/v1/status", NULL, &status, e));
    const json_t *held = json_object_get(json_object_get(status, "rotation"), "held");
    if (!json_is_object(held)) {
        json_decref(status);
        return err_set(e, E_STATE, "no step is held");
    }
    const char *detail = json_string_value(json_object_get(held, "detail"));
    printf("held: %s\n", detail != NULL ? detail : "");
    waiting_print(json_object_get(held, "waits_for"));
    printf("Forcing it cuts these workloads off from their peers: handshakes fail until each has "
           "the new trust\n"
           "set and leaf. To do it all the same: meshroot rotate force --force\n");
    json_decref(status);
    return 0;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct force_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    json_t *risk = NULL;

    (void)args;
    if (mesh_is_on_kube(&c->kube))
        return rotate_kube_force(&c->kube, &c->change, c->force, c->output, e);
    TRY(mesh_kube_flags_refuse(&c->kube, NULL, &c->change, e));
    TRY(state_dir(c->state_dir, &dir, e));
    if (!c->force)
        return explain(dir, e);
    TRY(admin_call(dir, "POST", "/v1/rotate/force", NULL, &risk, e));
    if (strcmp(c->output, "json") == 0)
        return print_json(risk, e);
    printf("forced; workloads that may be cut off now:\n");
    waiting_print(json_object_get(risk, "at_risk"));
    json_decref(risk);
    return 0;
}

const struct command cmd_rotate_force = {
    "rotate force",
    "",
    0,
    0,
    opts,
    sizeof(struct force_conf),
    run,
    "take a held rotation step without its gate",
    "A rotation step waits until the evidence says that no workload is stranded by it. This takes "
    "the step that\n"
    "waits now all the same. Without --force it only says which workloads would be cut off.\n"
    "With --namespace or --kubeconfig the mesh is on Kubernetes: the annotation meshroot.io/force "
    "of the PluginCA names the\n"
    "step, and the operator takes that one and no other, or says why not.\n"
    "\n"
    "Examples:\n"
    "  meshroot rotate force             # what is held, and who is at risk\n"
    "  meshroot rotate force --force     # take the step\n"
    "  meshroot rotate force --namespace aks-istio-system\n"
    "  meshroot rotate force --namespace aks-istio-system --force --wait\n",
};
