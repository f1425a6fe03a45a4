/* up.c - meshroot up: vault, sync, rotation and CA in one process. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "cmd/callers.h"
#include "cmd/commands.h"
#include "mesh/mesh.h"
#include "obs/log.h"

struct up_conf {
    const char *state_dir, *ca_listen, *vault_listen, *monitoring, *vault_name, *trust_domain,
        *port_file;
    struct log_flags log;
    struct caller_flags callers;
    uint64_t workers, default_ttl_ms, max_ttl_ms, renew_window_ms, reread_ms, jwt_publish_ms,
        keep_ms;
};

#define AT(member) offsetof(struct up_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    OPT_STATE_DIR(struct up_conf, state_dir),
    { "ca-listen", OPT_STRING, AT(ca_listen), "127.0.0.1:15012", NULL, NULL, 0, "ADDR", "where the CA answers agents" },
    { "vault-listen", OPT_STRING, AT(vault_listen), "127.0.0.1:8443", NULL, NULL, 0, "ADDR", "where the vault answers" },
    { "monitoring", OPT_STRING, AT(monitoring), "127.0.0.1:15014", NULL, NULL, 0, "ADDR", "/metrics, /healthz, /readyz; \"off\" for none" },
    { "vault-name", OPT_STRING, AT(vault_name), "meshroot", NULL, NULL, 0, "NAME", "name of our own vault" },
    { "trust-domain", OPT_STRING, AT(trust_domain), "cluster.local", NULL, NULL, 0, "NAME", "of the identities that are issued" },
    OPT_CALLERS(struct up_conf, callers),
    { "workers", OPT_COUNT, AT(workers), "2", "1", "64", 0, "N", "CA threads" },
    { "default-workload-ttl", OPT_DURATION, AT(default_ttl_ms), "24h", "1m", "2160h", 0, "DURATION", "lifetime of a leaf that asks for none" },
    { "max-workload-ttl", OPT_DURATION, AT(max_ttl_ms), "2160h", "1m", "8760h", 0, "DURATION", "longest lifetime that may be asked for" },
    { "renew-window", OPT_DURATION, AT(renew_window_ms), "60s", "100ms", "24h", 0, "DURATION", "leaves of the old signer renew at random times within this" },
    { "jwt-publish", OPT_DURATION, AT(jwt_publish_ms), "30s", "0s", "1h", 0, "DURATION", "a new signer's key is published so long before it signs JWT-SVIDs" },
    { "reread-interval", OPT_DURATION, AT(reread_ms), "10s", "100ms", "1h", 0, "DURATION", "how often files are read again besides their events" },
    OPT_LEDGER_RETENTION(struct up_conf, keep_ms),
    { "port-file", OPT_STRING, AT(port_file), NULL, NULL, NULL, 0, "FILE", "write the ports in use as JSON once ready" },
    OPT_LOG(struct up_conf, log),
    { .name = NULL },
};
/* clang-format on */

static int
ports_write(struct mesh *m, const char *path, struct err *e)
{
    json_t *j = mesh_ports(m);
    char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));
    int r = text == NULL ? err_nomem(e) : file_write(path, span_str(text), 0644, e);

    free(text);
    json_decref(j);
    return r;
}

static void
on_stop_signal(void *arg)
{
    log_info("", "stopping on a signal");
    loop_stop(arg);
}

static int
serve(struct loop *l, const struct mesh_conf *conf, const char *port_file, struct err *e)
{
    struct mesh *m = NULL;

    TRY(loop_on_signal(l, SIGTERM, on_stop_signal, l, e));
    TRY(loop_on_signal(l, SIGINT, on_stop_signal, l, e));
    TRY(mesh_new(l, conf, &m, e));
    int r = port_file != NULL ? ports_write(m, port_file, e) : 0;
    if (r == 0) {
        log_info("", "meshroot %s is up; state in %s", MESHROOT_VERSION, conf->state_dir);
        r = loop_run(l, e);
    }
    mesh_free(m);
    return r;
}

static int
run(const void *opt_conf, const struct opt_args *args, struct err *e)
{
    const struct up_conf *c = opt_conf;
    CLEANUP(str_freep) char *dir = NULL;
    CLEANUP(loop_freep) struct loop *l = NULL;
    CLEANUP(callers_done) struct callers who = { .who = { .issuers_n = 0 } };

    (void)args;
    log_flags_setup(&c->log);
    open_files_raise();
    TRY(state_dir(c->state_dir, &dir, e));
    struct mesh_conf m = {
        .state_dir = dir,
        .ca_listen = c->ca_listen,
        .vault_listen = c->vault_listen,
        .monitoring_listen = c->monitoring,
        .vault_name = c->vault_name,
        .trust_domain = c->trust_domain,
        .workers = c->workers,
        .default_ttl_ms = c->default_ttl_ms,
        .max_ttl_ms = c->max_ttl_ms,
        .ledger_keep_ms = c->keep_ms,
        .renew_window_ms = c->renew_window_ms,
        .reread_ms = c->reread_ms,
        .jwt_publish_ms = c->jwt_publish_ms,
    };
    TRY(callers_fill(&c->callers, &who, e));
    m.who = who.who;
    TRY(loop_new(&l, e));
    return serve(l, &m, c->port_file, e);
}

const struct command cmd_up = {
    "up",
    "",
    0,
    0,
    opts,
    sizeof(struct up_conf),
    run,
    "run vault, sync, rotation and CA in one process",
    "Runs the whole mesh root on one machine: a Key Vault-compatible vault, the sync that reads "
    "four\n"
    "secrets from it, the rotation with its gates, and the CA that signs workloads. State is kept "
    "in\n"
    "one folder, which one process at a time may use; a kill at any moment loses nothing.\n"
    "The mesh starts disabled; \"meshroot mesh enable\" switches it on, and a restart goes on from "
    "there.\n"
    "A vault other than its own is asked with AZURE_TENANT_ID, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET of the environment; MESHROOT_VAULT_CA_FILE has roots that vouch for it.\n"
    "\n"
    "Examples:\n"
    "  meshroot up\n"
    "  meshroot up --state-dir /var/lib/meshroot --issuer "
    "https://issuer.example=/etc/meshroot/jwks.json\n"
    "  meshroot up --ca-listen 10.0.0.5:15012 --dns-name ca.mesh.example --log-format json\n",
};
