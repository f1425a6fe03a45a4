/* mesh_validate.c - meshroot mesh validate: restarts istiod for a new root, when that is safe. */
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/kube_flags.h"
#include "validate/validate.h"

struct mesh_validate_conf {
    const char *ns, *deployment, *profile, *secret, *config_map, *server_name, *output;
    struct kube_flags kube;
    uint64_t port, timeout_ms, leaf_life_ms, hot_wait_ms, skew_ms;
    bool workload_pods, force, dry_run;
};

#define AT(member) offsetof(struct mesh_validate_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "namespace", OPT_STRING, AT(ns), NULL, NULL, NULL, 0, "NAME", "where istiod is [istio-system; aks: aks-istio-system]" },
    { "deployment", OPT_STRING, AT(deployment), NULL, NULL, NULL, 0, "NAME", "istiod's [istiod; aks: istiod-asm-1-17]" },
    { "profile", OPT_CHOICE, AT(profile), "istio", "istio|aks", NULL, 0, "NAME", "whose names are the usual ones" },
    { "secret", OPT_STRING, AT(secret), "cacerts", NULL, NULL, 0, "NAME", "that istiod mounts" },
    { "config-map", OPT_STRING, AT(config_map), "istio-ca-root-cert", NULL, NULL, 0, "NAME", "in which istiod publishes its roots" },
    { "istiod-port", OPT_COUNT, AT(port), "15012", "1", "65535", 0, "PORT", "of istiod's pods, where they are looked at" },
    { "istiod-name", OPT_STRING, AT(server_name), NULL, NULL, NULL, 0, "NAME", "that istiod's certificate has [istiod.NAMESPACE.svc]" },
    { "leaf-life", OPT_DURATION, AT(leaf_life_ms), "24h", "1s", "876000h", 0, "DURATION",
      "the longest life of a workload's certificate: so old evidence counts for all" },
    { "clock-skew", OPT_DURATION, AT(skew_ms), "5m", "0s", "1h", 0, "DURATION", "by how much the cluster's clocks may differ" },
    { "hot-wait", OPT_DURATION, AT(hot_wait_ms), "5m", "0s", "24h", 0, "DURATION",
      "how long an istiod that takes roots without a restart is left to it" },
    { "workload-pods", OPT_FLAG, AT(workload_pods), NULL, NULL, NULL, 0, NULL,
      "all workloads are pods of this cluster: their ages are evidence too (needs to list pods everywhere)" },
    { "timeout", OPT_DURATION, AT(timeout_ms), "10m", "1s", "24h", 0, "DURATION", "for the rollout and its proof" },
    { "force", OPT_FLAG, AT(force), NULL, NULL, NULL, 0, NULL,
      "restart though workloads would be cut off, or though it has failed before; says what is risked" },
    { "dry-run", OPT_FLAG, AT(dry_run), NULL, NULL, NULL, 0, NULL, "look and judge; the server checks the patch and changes nothing" },
    OPT_OUTPUT(struct mesh_validate_conf, output),
    OPT_KUBE(struct mesh_validate_conf, kube),
    { .name = NULL },
};
/* clang-format on */

/* Lines are the answer; beside JSON they are said on stderr. */
static void
on_line(const char *text, void *arg)
{
    FILE *f = arg;

    (void)fprintf(f, "%s\n", text);
    (void)fflush(f);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct mesh_validate_conf *c = conf;
    CLEANUP(kube_conf_done) struct kube_conf kube = { .server = NULL };
    CLEANUP(validate_result_done) struct validate_result result = { .report = NULL };
    bool is_aks = strcmp(c->profile, "aks") == 0, is_json = strcmp(c->output, "json") == 0;
    struct validate_conf v = { .kube = &kube,
                               .ns = is_aks ? "aks-istio-system" : "istio-system",
                               .deployment = is_aks ? "istiod-asm-1-17" : "istiod",
                               .secret = c->secret,
                               .config_map = c->config_map,
                               .server_name = c->server_name,
                               .port = (uint16_t)c->port,
                               .timeout_ms = c->timeout_ms,
                               .leaf_life_ms = c->leaf_life_ms,
                               .hot_wait_ms = c->hot_wait_ms,
                               .skew_ms = c->skew_ms,
                               .looks_at_workloads = c->workload_pods,
                               .is_forced = c->force,
                               .is_dry_run = c->dry_run,
                               .line = on_line,
                               .arg = is_json ? stderr : stdout };

    (void)args;
    if (c->ns != NULL)
        v.ns = c->ns;
    if (c->deployment != NULL)
        v.deployment = c->deployment;
    TRY(kube_flags_fill(&c->kube, &kube, e));
    TRY(validate_run(&v, &result, e));
    if (is_json)
        TRY(print_json(json_incref(result.report), e));
    if (result.why.code == E_NONE)
        return 0;
    *e = result.why;
    return err_result(e);
}

const struct command cmd_mesh_validate = {
    "mesh validate",
    "",
    0,
    0,
    opts,
    sizeof(struct mesh_validate_conf),
    run,
    "restart a stock istiod for a new root, when that is safe",
    "What the managed add-on's validator does every ten minutes: compares the roots in the Secret "
    "with\n"
    "what istiod publishes and its pods serve, and restarts istiod when they differ; here only "
    "when no\n"
    "workload is cut off by it. Waits for the rollout, looks at every new pod, and prints what it "
    "did.\n"
    "A try that failed is not repeated until the Secret changes. An istiod with "
    "ISTIO_MULTIROOT_MESH takes\n"
    "a wider or narrower set by itself: no restart is done. Several may run at once.\n"
    "\n"
    "Exit status: 0 nothing to do, or done; 17 held, blocked or failed; 21 the rollout did not "
    "end.\n"
    "\n"
    "Examples:\n"
    "  meshroot mesh validate\n"
    "  meshroot mesh validate --profile aks --dry-run --output json\n"
    "  meshroot mesh validate --kubeconfig ~/.kube/config --workload-pods --timeout 5m\n",
};
