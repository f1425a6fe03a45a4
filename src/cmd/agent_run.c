/* agent_run.c - meshroot agent run: the workload's side, beside the workload. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/file.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "net/monitor.h"
#include "obs/log.h"

struct run_conf {
    const char *dir, *ca_addr, *ca_name, *ca_root, *token_file, *identity, *key_type, *inbound;
    const char *cluster_id, *cert_signer, *reload_command, *workload_socket, *monitoring,
        *port_file;
    struct log_flags log;
    struct opt_list allow, outbound, workload_uids;
    uint64_t ttl_ms, reload_pid, reload_timeout_ms, sds_grace_ms, sds_ack_ms;
    bool ephemeral, sds;
};

#define AT(member) offsetof(struct run_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "dir", OPT_STRING, AT(dir), NULL, NULL, NULL, OPT_REQUIRED, "DIR",
      "where key.pem, cert-chain.pem, root-cert.pem go, and what is kept over a restart" },
    { "identity", OPT_STRING, AT(identity), NULL, NULL, NULL, OPT_REQUIRED, "SPIFFE-ID",
      "to ask for: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT" },
    { "ca-addr", OPT_STRING, AT(ca_addr), "127.0.0.1:15012", NULL, NULL, 0, "ADDR[,ADDR...]",
      "where the CA is: up to 4 replicas, or a name with several addresses; another one at once when one leaves" },
    { "ca-name", OPT_STRING, AT(ca_name), NULL, NULL, NULL, 0, "NAME",
      "name in the CA's certificate [the host of --ca-addr]" },
    { "ca-root-cert", OPT_STRING, AT(ca_root), NULL, NULL, NULL, OPT_REQUIRED, "FILE",
      "roots that vouch for the CA; watched (a mounted ConfigMap too), read for each connection" },
    { "token-file", OPT_STRING, AT(token_file), NULL, NULL, NULL, 0, "FILE",
      "token that proves who we are; read again for each call; without it only a kept leaf does" },
    { "cluster-id", OPT_STRING, AT(cluster_id), NULL, NULL, NULL, 0, "NAME",
      "header ClusterID of each call, for an istiod that knows several clusters" },
    { "cert-signer", OPT_STRING, AT(cert_signer), NULL, NULL, NULL, 0, "NAME",
      "metadata CertSigner of each request, for a CA with several signers" },
    { "key-type", OPT_CHOICE, AT(key_type), "p256", "p256|p384|rsa2048|rsa3072|rsa4096|ed25519", NULL, 0,
      "TYPE", "of the key; a new one for each certificate (Envoy has no ed25519)" },
    { "ttl", OPT_DURATION, AT(ttl_ms), "0", "0", "876000h", 0, "DURATION",
      "life to ask for; 0: what the CA gives" },
    { "inbound", OPT_STRING, AT(inbound), NULL, NULL, NULL, 0, "LISTEN=TO",
      "take mTLS on LISTEN, hand clear text to TO" },
    { "allow", OPT_LIST, AT(allow), NULL, NULL, NULL, 0, "RULE",
      "who may come in: a SPIFFE id, with * for one segment or the tail" },
    { "outbound", OPT_LIST, AT(outbound), NULL, NULL, NULL, 0, "LISTEN=PEER=RULE",
      "take clear text on LISTEN, talk mTLS to PEER, which must match RULE" },
    { "reload-command", OPT_STRING, AT(reload_command), NULL, NULL, NULL, 0, "COMMAND",
      "run after each change of the files: words split at spaces, no shell" },
    { "reload-timeout", OPT_DURATION, AT(reload_timeout_ms), "10s", "100ms", "1h", 0, "DURATION",
      "it is killed then, with what it has started" },
    { "reload-pid", OPT_COUNT, AT(reload_pid), "0", "0", "4194304", 0, "PID",
      "process that gets a SIGHUP after each change; 0: none" },
    { "workload-socket", OPT_STRING, AT(workload_socket), NULL, NULL, NULL, 0, "PATH",
      "serve the SPIFFE Workload API (X.509) there: an absolute path, or unix:///path" },
    { "workload-allow-uid", OPT_LIST, AT(workload_uids), NULL, NULL, NULL, 0, "UID",
      "whose processes may use it; repeatable [root and the agent's own uid]" },
    { "sds", OPT_FLAG, AT(sds), NULL, NULL, NULL, 0, NULL,
      "serve Envoy's SDS v3 on --workload-socket too: \"default\" and \"ROOTCA\"" },
    { "sds-ack-timeout", OPT_DURATION, AT(sds_ack_ms), "30s", "100ms", "1h", 0, "DURATION",
      "an Envoy that has not acknowledged a push by then is cut off, and may come again" },
    { "sds-grace", OPT_DURATION, AT(sds_grace_ms), "35s", "0", "1h", 0, "DURATION",
      "an Envoy whose stream broke has this long to come back before a rotation goes on without it" },
    { "monitoring", OPT_STRING, AT(monitoring), "127.0.0.1:15020", NULL, NULL, 0, "ADDR",
      "/metrics, /healthz, /readyz, /status; \"off\" for none" },
    { "port-file", OPT_STRING, AT(port_file), NULL, NULL, NULL, 0, "FILE",
      "the ports in use, as JSON, once listening" },
    { "ephemeral", OPT_FLAG, AT(ephemeral), NULL, NULL, NULL, 0, NULL,
      "at the end wipe the key and tell the CA that it is not in use any more" },
    OPT_LOG(struct run_conf, log),
    { .name = NULL },
};
/* clang-format on */

struct running { /* everything, freed in reverse */
    const struct run_conf *o;
    struct loop *loop;
    struct metrics *metrics;
    struct agent *agent;
    struct monitor *monitor, *own; /* the port, and DIR/agent.sock */
    bool is_stopping;
};

static void
running_done(struct running *s)
{
    monitor_free(s->own);
    monitor_free(s->monitor);
    agent_free(s->agent);
    loop_free(s->loop);
    metrics_free(s->metrics);
}

/* -- monitoring -- */

static void
refresh(void *self)
{
    struct running *s = self;

    agent_metrics_refresh(s->agent);
}

static bool
is_ready(void *self)
{
    const struct running *s = self;

    return agent_is_ready(s->agent);
}

static char *
status_text(void *self)
{
    const struct running *s = self;
    json_t *j = agent_status(s->agent);
    char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));

    json_decref(j);
    return text;
}

/* For `agent status --dir`. The agent is as good without it. */
static void
own_start(struct running *s, const struct monitor_conf *m)
{
    CLEANUP(str_freep) char *dir = realpath(s->o->dir, NULL);
    CLEANUP(str_freep) char *path = NULL;
    struct err e = { 0 };

    if (dir == NULL)
        (void)err_sys(&e, errno, "%s", s->o->dir);
    else if (str_format(&path, &e, "%s/agent.sock", dir) == 0 &&
             monitor_new(s->loop, path, m, &s->own, &e) == 0)
        return;
    log_warn("agent", "agent status --dir will not work: %s", e.msg);
}

static int
monitoring_start(struct running *s, const char *listen, struct err *e)
{
    struct monitor_conf m = { .metrics = s->metrics,
                              .refresh = refresh,
                              .is_ready = is_ready,
                              .not_ready = "no valid certificate is in use; see /status\n",
                              .status = status_text,
                              .self = s };

    TRY(monitor_new(s->loop, listen, &m, &s->monitor, e));
    own_start(s, &m);
    return 0;
}

/* -- start and end -- */

/* {"inbound": 8443, "outbound": [9001], "monitoring": 15020}; null for what is not there. */
static int
port_file_write(const struct running *s, struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(4096);
    size_t i = s->o->inbound == NULL ? 0 : 1;

    if (s->o->port_file == NULL)
        return 0;
    if (i == 1)
        TRY(buf_addf(&b, e, "{\"inbound\": %u, \"outbound\": [", agent_port(s->agent, 0)));
    else
        TRY(buf_add_str(&b, "{\"inbound\": null, \"outbound\": [", e));
    for (size_t k = 0; k < s->o->outbound.n; k++)
        TRY(buf_addf(&b, e, "%s%u", k == 0 ? "" : ", ", agent_port(s->agent, i + k)));
    if (monitor_port(s->monitor) == 0)
        TRY(buf_add_str(&b, "], \"monitoring\": null}\n", e));
    else
        TRY(buf_addf(&b, e, "], \"monitoring\": %u}\n", monitor_port(s->monitor)));
    return file_write(s->o->port_file, buf_span(&b), 0644, e);
}

static void
on_stopped(void *arg)
{
    struct running *s = arg;

    loop_stop(s->loop);
}

static void
on_signal(void *arg)
{
    struct running *s = arg;

    if (s->is_stopping) {
        loop_stop(s->loop); /* asked twice: now */
        return;
    }
    s->is_stopping = true;
    log_info("", s->o->ephemeral ? "stopping: wipes the key and tells the CA"
                                 : "stopping: certificate and key are kept for the next start");
    agent_stop(s->agent, s->o->ephemeral, on_stopped, s);
}

static void
on_ready(void *arg)
{
    (void)arg;
    log_info("", "ready: the certificate is in use");
}

static int
uids_parse(const struct opt_list *l, struct agent_conf *c, struct err *e)
{
    uint64_t v;

    if (l->n > AGENT_UIDS_MAX)
        return err_set(e, E_INVAL, "at most %d --workload-allow-uid", (int)AGENT_UIDS_MAX);
    if (l->n > 0 && c->workload_socket == NULL)
        return err_set(e, E_INVAL, "--workload-allow-uid without --workload-socket");
    if (c->sds && c->workload_socket == NULL)
        return err_set(e, E_INVAL, "--sds without --workload-socket, where it would be served");
    for (size_t i = 0; i < l->n; i++) {
        if (u64_parse(span_str(l->v[i]), 0, UINT32_MAX - 1, &v, e) < 0) {
            e->code = E_INVAL;
            return err_wrap(e, "--workload-allow-uid \"%.40s\" is not a user's number", l->v[i]);
        }
        c->workload_uids[c->workload_uids_n++] = (uint32_t)v;
    }
    return 0;
}

static int
agent_start(struct running *s, struct err *e)
{
    const struct run_conf *o = s->o;
    struct agent_conf c = { .dir = o->dir,
                            .ca_addr = o->ca_addr,
                            .ca_name = o->ca_name,
                            .ca_root = o->ca_root,
                            .token_file = o->token_file,
                            .identity = o->identity,
                            .cluster_id = o->cluster_id,
                            .cert_signer = o->cert_signer,
                            .ttl_ms = o->ttl_ms,
                            .reload_command = o->reload_command,
                            .reload_timeout_ms = o->reload_timeout_ms,
                            .reload_pid = (int64_t)o->reload_pid,
                            .inbound = o->inbound,
                            .allow_n = o->allow.n,
                            .outbound_n = o->outbound.n,
                            .workload_socket = o->workload_socket,
                            .sds = o->sds,
                            .sds_grace_ms = o->sds_grace_ms,
                            .sds_ack_ms = o->sds_ack_ms,
                            .metrics = s->metrics,
                            .on_ready = on_ready,
                            .arg = s };

    TRY(key_kind_parse(o->key_type, &c.key_kind, e));
    if (o->allow.n > AGENT_ALLOW_MAX || o->outbound.n > AGENT_OUTBOUND_MAX)
        return err_set(e, E_INVAL, "at most %d --allow and %d --outbound", (int)AGENT_ALLOW_MAX,
                       (int)AGENT_OUTBOUND_MAX);
    TRY(uids_parse(&o->workload_uids, &c, e));
    for (size_t i = 0; i < o->allow.n; i++)
        c.allow[i] = o->allow.v[i];
    for (size_t i = 0; i < o->outbound.n; i++)
        c.outbound[i] = o->outbound.v[i];
    return agent_new(s->loop, &c, &s->agent, e);
}

static int
start(struct running *s, struct err *e)
{
    TRY(metrics_new(&s->metrics, e));
    TRY(loop_new(&s->loop, e));
    TRY(loop_on_signal(s->loop, SIGTERM, on_signal, s, e));
    TRY(loop_on_signal(s->loop, SIGINT, on_signal, s, e));
    TRY(agent_start(s, e));
    TRY(monitoring_start(s, s->o->monitoring, e));
    TRY(port_file_write(s, e));
    return loop_run(s->loop, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    struct running s = { .o = conf };

    (void)args;
    log_flags_setup(&s.o->log);
    int r = start(&s, e);
    running_done(&s);
    return r;
}

const struct command cmd_agent_run = {
    "agent run",
    "",
    0,
    0,
    opts,
    sizeof(struct run_conf),
    run,
    "run the workload's side: certificate, trust, files, mTLS proxy",
    "Makes a key, gets a certificate for --identity from the CA, renews it at half of its life "
    "(old one\n"
    "kept until the new one works), and follows the CA's trust set. Both are used by the next "
    "handshake;\n"
    "open connections go on. The files in --dir change as one (DIR/..data is swapped), then "
    "--reload-command\n"
    "runs or --reload-pid gets a SIGHUP; only when that has worked is the CA told that the new "
    "roots are\n"
    "in use. After a restart a certificate that is still valid is used again.\n"
    "The command finds MESHROOT_DIR, MESHROOT_IDENTITY, MESHROOT_GENERATION, and MESHROOT_REASON "
    "(start, certificate,\n"
    "trust, or both) in its environment. It never runs twice at once; a change meanwhile runs it "
    "again.\n"
    "\n"
    "The CA is ours, or any with Istio's CertificateService (istiod, at CA_ADDR): then the trust "
    "set "
    "is what comes\n"
    "with each certificate, and a change of --ca-root-cert asks for a new one within a minute.\n"
    "\n"
    "With --inbound and --outbound it is an mTLS proxy: workloads speak clear text to it on this "
    "machine.\n"
    "SIGTERM keeps the key for the next start; with --ephemeral it is wiped, and the CA is told.\n"
    "\n"
    "With --workload-socket it serves the SPIFFE Workload API: workloads with a SPIFFE library get "
    "key,\n"
    "certificate and trust set from there (SPIFFE_ENDPOINT_SOCKET=unix:///PATH), and each change "
    "at once.\n"
    "JWT-SVIDs too, which the CA signs (one that is not ours has none). A caller is known by\n"
    "its uid. It must stay on the stream, as these libraries do: a rotation takes what was pushed "
    "for in\n"
    "use half a second later, and does not see a key that was fetched once and kept. With "
    "--ephemeral the\n"
    "CA is then not told that the key has gone, because workloads may hold it.\n"
    "\n"
    "With --sds the same socket serves Envoy: its Secret Discovery Service v3, state of the world "
    "and "
    "delta.\n"
    "\"default\" (or the SPIFFE id) is key and certificate, \"ROOTCA\" (or spiffe://TRUST-DOMAIN) "
    "the trust\n"
    "set; no other name is answered. What Envoy acknowledges is in use: the CA is told of a change "
    "only when\n"
    "every Envoy that is connected has acknowledged it. One that refuses it holds a rotation (see "
    "/status), and\n"
    "so does one that went away, for --sds-grace.\n"
    "\n"
    "Examples:\n"
    "  meshroot agent run --dir /run/certs --identity spiffe://cluster.local/ns/shop/sa/web \\\n"
    "      --ca-root-cert /etc/meshroot/root-cert.pem --token-file /run/secrets/token \\\n"
    "      --reload-command \"nginx -s reload\"\n"
    "  meshroot agent run --dir ./web --identity spiffe://cluster.local/ns/shop/sa/web \\\n"
    "      --ca-root-cert ca/root-cert.pem --token-file web.jwt \\\n"
    "      --inbound 0.0.0.0:8443=127.0.0.1:8080 --allow 'spiffe://cluster.local/ns/shop/*' \\\n"
    "      --outbound 127.0.0.1:9001=db:8443=spiffe://cluster.local/ns/shop/sa/db\n"
    "  meshroot agent run --dir ./web --identity spiffe://cluster.local/ns/shop/sa/web \\\n"
    "      --ca-root-cert ca/root-cert.pem --token-file web.jwt \\\n"
    "      --workload-socket /run/meshroot/web.sock --workload-allow-uid 1001 --sds\n",
};
