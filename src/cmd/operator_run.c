/* operator_run.c - meshroot operator run: the vault's set into a mesh on Kubernetes. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/footprint.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/kube_flags.h"
#include "kube/lease.h"
#include "net/json.h"
#include "net/monitor.h"
#include "obs/log.h"
#include "operator/operator.h"
#include "vault/client.h"

enum { NAMESPACE_FILE_BYTES = 256, WHO_BYTES = 200 };

struct run_conf {
    struct kube_flags kube;
    const char *namespace, *own_namespace, *ca_secret, *ca_pods, *istiod_pods, *ca_name, *lease,
        *token_file, *monitoring, *port_file;
    struct log_flags log;
    struct opt_list istiod_names, vault_hosts;
    uint64_t ca_port, lease_ms;
};

#define AT(member) offsetof(struct run_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "namespace", OPT_STRING, AT(namespace), "istio-system", NULL, NULL, 0, "NAME", "the mesh's: of PluginCA, cacerts and istiod" },
    { "own-namespace", OPT_STRING, AT(own_namespace), NULL, NULL, NULL, 0, "NAME", "of meshroot's CA and the lease [the pod's own, else the mesh's]" },
    OPT_KUBE(struct run_conf, kube),
    { "ca-secret", OPT_STRING, AT(ca_secret), "meshroot-ca", NULL, NULL, 0, "NAME", "the Secret that meshroot's CA mounts" },
    { "ca-pods", OPT_STRING, AT(ca_pods), "app.kubernetes.io/name=meshroot,app.kubernetes.io/component=ca", NULL, NULL, 0, "LABELS", "the CA's pods: told to look at the Secret, asked for evidence" },
    { "ca-port", OPT_COUNT, AT(ca_port), "15012", "1", "65535", 0, "PORT", "of those pods" },
    { "ca-name", OPT_STRING, AT(ca_name), NULL, NULL, NULL, 0, "NAME", "name in the CA's certificate [meshroot-ca.OWN-NAMESPACE.svc]" },
    { "istiod-pods", OPT_STRING, AT(istiod_pods), "app=istiod", NULL, NULL, 0, "LABELS", "a stock istiod's pods: told to look at cacerts" },
    { "istiod-tls-name", OPT_LIST, AT(istiod_names), NULL, NULL, NULL, 0, "NAME", "DNS name in istiod's own certificate, Secret istiod-tls, which meshroot's CA signs; none: not made; repeatable" },
    { "vault-host", OPT_LIST, AT(vault_hosts), NULL, NULL, NULL, 0, "HOST", "a PluginCA's vault is this host or a name under it, else no credential is sent; repeatable [vault.azure.net vault.azure.cn vault.usgovcloudapi.net]" },
    { "token-file", OPT_STRING, AT(token_file), NULL, NULL, NULL, 0, "FILE", "our service-account token for the CA's evidence; read again" },
    { "lease", OPT_STRING, AT(lease), "meshroot-operator", NULL, NULL, 0, "NAME", "the Lease by which one of several leads; \"off\": this one does" },
    { "lease-duration", OPT_DURATION, AT(lease_ms), "15s", "2s", "1h", 0, "DURATION", "a leader that is gone is followed after this" },
    { "monitoring", OPT_STRING, AT(monitoring), "off", NULL, NULL, 0, "ADDR", "/metrics, /healthz, /readyz, /status" },
    { "port-file", OPT_STRING, AT(port_file), NULL, NULL, NULL, 0, "FILE", "gets the port of --monitoring as JSON" },
    OPT_LOG(struct run_conf, log),
    { .name = NULL },
};
/* clang-format on */

struct running { /* freed in reverse */
    const struct run_conf *o;
    struct loop *loop;
    struct metrics *metrics;
    struct kube_conf conf;
    struct kube_client *kube;
    struct mesh_operator *op;
    struct kube_lease *lease;
    struct monitor *monitor;
    char *own_namespace, *ca_name;
    char who[WHO_BYTES];
    bool is_stopping;
};

static void
running_done(struct running *r)
{
    monitor_free(r->monitor);
    operator_free(r->op);
    kube_lease_free(r->lease);
    kube_client_free(r->kube);
    kube_conf_done(&r->conf);
    metrics_free(r->metrics);
    loop_free(r->loop);
    free(r->own_namespace);
    free(r->ca_name);
}

static bool
is_ready(void *self)
{
    return operator_is_ready(((const struct running *)self)->op);
}

static const char *
why_not_ready(void *self)
{
    return operator_why_not_ready(((struct running *)self)->op);
}

static char *
status_text(void *self)
{
    const struct running *r = self;
    json_t *j = operator_status(r->op);

    if (r->lease != NULL)
        j = json_object_with(j, "leader", json_string(kube_lease_holder(r->lease)));
    char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));
    json_decref(j);
    return text;
}

static void
on_gained(void *arg)
{
    operator_lead(((struct running *)arg)->op, true);
}

static void
on_lost(const struct err *why, void *arg)
{
    log_warn("operator", "the lease is lost: %s", why->msg);
    operator_lead(((struct running *)arg)->op, false);
}

static void
on_released(void *arg)
{
    struct running *r = arg;

    loop_stop(r->loop);
}

/* What is under way in the API server is finished there; the next one need not wait. */
static void
on_stop_signal(void *arg)
{
    struct running *r = arg;

    if (r->is_stopping) {
        loop_stop(r->loop);
        return;
    }
    r->is_stopping = true;
    log_info("operator", "stopping: the lease is released");
    operator_lead(r->op, false);
    if (r->lease == NULL)
        loop_stop(r->loop);
    else
        kube_lease_release(r->lease, on_released, r);
}

/* The pod's, as the kubelet projects it. */
static int
own_namespace(struct running *r, struct err *e)
{
    struct buf b = BUF_INIT(NAMESPACE_FILE_BYTES);
    int done = 0;

    if (r->o->own_namespace != NULL)
        return str_dup(span_str(r->o->own_namespace), &r->own_namespace, e);
    if (r->o->kube.kubeconfig == NULL && r->o->kube.server == NULL)
        done = file_read(KUBE_IN_CLUSTER_DIR "/namespace", &b, e);
    struct span ns = span_trim(buf_span(&b));
    if (done >= 0)
        done = str_dup(ns.n > 0 ? ns : span_str(r->o->namespace), &r->own_namespace, e);
    buf_done(&b);
    return done;
}

static void
who_make(struct running *r)
{
    char host[128] = "meshroot-operator";

    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(r->who, sizeof(r->who), "%.100s_%08x", host, (unsigned)random_below(UINT32_MAX));
}

static int
vault_hosts(const struct run_conf *o, struct operator_conf *c, struct err *e)
{
    /* Source: specs/azure.md 7.7. */
    static const struct opt_list azure = {
        .v = { "vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net" }, .n = 3
    };
    const struct opt_list *list = o->vault_hosts.n > 0 ? &o->vault_hosts : &azure;

    if (list->n > OPERATOR_VAULT_HOSTS)
        return err_set(e, E_INVAL, "--vault-host: at most %d of them", (int)OPERATOR_VAULT_HOSTS);
    for (size_t i = 0; i < list->n; i++) {
        if (vault_host_valid(list->v[i], e) < 0)
            return err_wrap(e, "--vault-host");
        c->vault_hosts[c->vault_hosts_n++] = list->v[i];
    }
    return 0;
}

static int
operator_open(struct running *r, struct err *e)
{
    struct operator_conf c = { .kube = r->kube,
                               .metrics = r->metrics,
                               .namespace = r->o->namespace,
                               .ca_namespace = r->own_namespace,
                               .ca_secret = r->o->ca_secret,
                               .ca_pods = r->o->ca_pods,
                               .istiod_pods = r->o->istiod_pods,
                               .identity = r->who,
                               .token_file = r->o->token_file,
                               .ca_port = (uint16_t)r->o->ca_port };

    TRY(r->o->ca_name != NULL ? str_dup(span_str(r->o->ca_name), &r->ca_name, e)
                              : str_format(&r->ca_name, e, "meshroot-ca.%s.svc", r->own_namespace));
    c.ca_name = r->ca_name;
    if (r->o->istiod_names.n > OPERATOR_ISTIOD_NAMES)
        return err_set(e, E_INVAL, "--istiod-tls-name: at most %d of them",
                       (int)OPERATOR_ISTIOD_NAMES);
    for (size_t i = 0; i < r->o->istiod_names.n; i++)
        c.istiod_names[c.istiod_names_n++] = r->o->istiod_names.v[i];
    TRY(vault_hosts(r->o, &c, e));
    TRY(operator_new(r->loop, &c, &r->op, e));
    if (strcmp(r->o->lease, "off") == 0) {
        operator_lead(r->op, true);
        return 0;
    }
    struct kube_lease_conf l = { .ns = r->own_namespace,
                                 .name = r->o->lease,
                                 .who = r->who,
                                 .duration_ms = r->o->lease_ms,
                                 .renew_ms = r->o->lease_ms * 2 / 3,
                                 .retry_ms = r->o->lease_ms * 2 / 15,
                                 .metrics = r->metrics,
                                 .gained = on_gained,
                                 .lost = on_lost,
                                 .arg = r };
    return kube_lease_new(r->loop, r->kube, &l, &r->lease, e);
}

static int
port_file_write(const struct running *r, struct err *e)
{
    char text[64];

    if (r->o->port_file == NULL)
        return 0;
    (void)snprintf(text, sizeof(text), "{\"monitoring\": %u}\n", monitor_port(r->monitor));
    return file_write(r->o->port_file, span_str(text), 0644, e);
}

static int
parts_open(struct running *r, struct err *e)
{
    TRY(kube_flags_fill(&r->o->kube, &r->conf, e));
    TRY(own_namespace(r, e));
    TRY(loop_new(&r->loop, e));
    TRY(loop_on_signal(r->loop, SIGTERM, on_stop_signal, r, e));
    TRY(loop_on_signal(r->loop, SIGINT, on_stop_signal, r, e));
    TRY(metrics_new(&r->metrics, e));
    TRY(kube_client_new(r->loop, &r->conf, r->metrics, &r->kube, e));
    TRY(operator_open(r, e));
    struct monitor_conf m = { .metrics = r->metrics,
                              .is_ready = is_ready,
                              .why_not_ready = why_not_ready,
                              .status = status_text,
                              .self = r };
    TRY(monitor_new(r->loop, r->o->monitoring, &m, &r->monitor, e));
    return port_file_write(r, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    CLEANUP(running_done) struct running r = { .o = conf };

    (void)args;
    log_flags_setup(&r.o->log);
    who_make(&r);
    TRY(parts_open(&r, e));
    return loop_run(r.loop, e);
}

const struct command cmd_operator_run = {
    "operator run",
    "",
    0,
    0,
    opts,
    sizeof(struct run_conf),
    run,
    "carry a vault's set into a mesh on Kubernetes",
    "Reconciles the PluginCA of one namespace, the mesh's: polls the vault, plans each change "
    "behind "
    "its gates (the\n"
    "plan is the ConfigMap NAMESPACE.NAME-plan in the operator's own), and writes Secret cacerts "
    "for a stock istiod, Secret "
    "meshroot-ca for meshroot's\n"
    "CA, and the trust set into ConfigMap istio-ca-root-cert of every selected namespace. What it "
    "does and what it\n"
    "waits for is in the resource's status, conditions and Events. Of several replicas one leads, "
    "by "
    "a Lease.\n"
    "SIGTERM releases the lease, then ends. docs/kubernetes.md has the procedure, "
    "docs/install-kubernetes.md the chart.\n"
    "\n"
    "Examples:\n"
    "  meshroot operator run --namespace aks-istio-system --monitoring 0.0.0.0:15014\n"
    "  meshroot operator run --kubeconfig ~/.kube/config --lease off\n",
};
