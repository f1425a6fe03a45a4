/* ca_serve.c - meshroot ca serve: the CA alone, over a folder. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "ca/ca.h"
#include "cmd/callers.h"
#include "cmd/commands.h"
#include "net/monitor.h"
#include "obs/log.h"
#include "signer/signer.h"

struct serve_conf {
    const char *ca_dir, *state_dir, *listen, *trust_domain, *monitoring, *port_file;
    struct log_flags log;
    struct caller_flags callers;
    uint64_t workers, default_ttl_ms, max_ttl_ms, reread_ms, jwt_publish_ms, keep_ms;
    uint64_t max_age_ms, drain_ms, drain_delay_ms;
    const char *signer, *signer_reads, *replica;

    bool self_signed;
};

#define AT(member) offsetof(struct serve_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "ca-dir", OPT_STRING, AT(ca_dir), NULL, NULL, NULL, OPT_REQUIRED, "DIR",
      "folder with root-cert.pem, ca-cert.pem, ca-key.pem, cert-chain.pem; watched" },
    OPT_STATE_DIR(struct serve_conf, state_dir),
    { "listen", OPT_STRING, AT(listen), "127.0.0.1:15012", NULL, NULL, 0, "ADDR", "where agents call; port 0 picks one" },
    { "trust-domain", OPT_STRING, AT(trust_domain), "cluster.local", NULL, NULL, 0, "NAME", "of every identity" },
    OPT_CALLERS(struct serve_conf, callers),
    { "signer", OPT_STRING, AT(signer), "file", NULL, NULL, 0, "file|URI",
      "where the key is: \"file\" (ca-key.pem), or a PKCS#11 token (RFC 7512)" },
    { "signer-reads", OPT_STRING, AT(signer_reads), NULL, NULL, NULL, 0, "DIR",
      "the folder that the token's module reads while it signs (SoftHSM: directories.tokendir)" },
    { "replica", OPT_STRING, AT(replica), NULL, NULL, NULL, 0, "NAME",
      "this replica's name in its evidence [the host's, which is the pod's]" },
    { "workers", OPT_COUNT, AT(workers), "2", "1", "64", 0, "N", "threads that answer" },
    { "default-workload-ttl", OPT_DURATION, AT(default_ttl_ms), "24h", "1s", "876000h", 0, "DURATION",
      "life of a leaf that does not ask for one" },
    { "max-workload-ttl", OPT_DURATION, AT(max_ttl_ms), "2160h", "1s", "876000h", 0, "DURATION",
      "the longest life that may be asked for" },
    { "reread-interval", OPT_DURATION, AT(reread_ms), "5s", "100ms", "1h", 0, "DURATION",
      "how often the folder is read again, events or not" },
    { "jwt-publish", OPT_DURATION, AT(jwt_publish_ms), "2m", "0s", "1h", 0, "DURATION",
      "a new intermediate's key is published so long before it signs JWT-SVIDs" },
    { "max-connection-age", OPT_DURATION, AT(max_age_ms), "30m", "0s", "24h", 0, "DURATION",
      "connections are ended then, calls finished, so that agents spread over replicas; a tenth more or less; 0s: never" },
    { "drain-delay", OPT_DURATION, AT(drain_delay_ms), "0s", "0s", "5m", 0, "DURATION",
      "SIGTERM: not ready for so long, serving as before, until nobody is sent here any more" },
    { "drain-timeout", OPT_DURATION, AT(drain_ms), "10s", "100ms", "5m", 0, "DURATION",
      "then: calls under way have so long" },
    OPT_LEDGER_RETENTION(struct serve_conf, keep_ms),
    { "self-signed", OPT_FLAG, AT(self_signed), NULL, NULL, NULL, 0, NULL,
      "with nothing in the folder, make a self-signed root (kept in STATE/self-signed)" },
    { "monitoring", OPT_STRING, AT(monitoring), "127.0.0.1:15014", NULL, NULL, 0, "ADDR",
      "/metrics, /healthz, /readyz, /status; \"off\" for none" },
    { "port-file", OPT_STRING, AT(port_file), NULL, NULL, NULL, 0, "FILE",
      "write the ports in use here, as JSON, once they are open" },
    OPT_LOG(struct serve_conf, log),
    { .name = NULL },
};
/* clang-format on */

struct serve { /* everything that runs, freed in reverse */
    struct loop *loop;
    struct metrics *metrics;
    struct store *store;
    struct ledger *ledger;
    struct ca *ca;
    struct monitor *monitor;
    struct admin *admin;
    struct timer *leave;
    uint64_t drain_delay_ms;
    bool is_leaving, is_draining;
    char *dir, *trust_dir, *self_signed_dir;
    int lock_fd;
};

static void
serve_done(struct serve *s)
{
    admin_free(s->admin);
    monitor_free(s->monitor);
    ca_free(s->ca);
    ledger_close(s->ledger);
    store_close(s->store);
    timer_free(s->leave);
    loop_free(s->loop);
    metrics_free(s->metrics);
    if (s->lock_fd >= 0)
        dir_unlock(s->lock_fd);
    free(s->dir);
    free(s->trust_dir);
    free(s->self_signed_dir);
}

static bool
is_ready(void *self)
{
    const struct serve *s = self;

    return ca_is_ready(s->ca);
}

static const char *
why_not_ready(void *self)
{
    const struct serve *s = self;

    return ca_why_not_ready(s->ca);
}

static void
refresh(void *self)
{
    const struct serve *s = self;

    ca_metrics_refresh(s->ca);
}

static char *
status_text(void *self)
{
    const struct serve *s = self;
    json_t *j = ca_status(s->ca);
    char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));

    json_decref(j);
    return text;
}

static bool
page(struct http_exchange *x, void *self)
{
    const struct serve *s = self;

    return ca_page(s->ca, x);
}

static void
serve_status(void *self, struct http_exchange *x)
{
    const struct serve *s = self;

    admin_reply(x, 200, ca_status(s->ca));
}

static const struct admin_route routes[] = { { "GET", "/v1/ca/status", serve_status },
                                             { NULL, NULL, NULL } };

static int
admin_start(struct serve *s, struct err *e)
{
    struct admin_conf a = { .state_dir = s->dir,
                            .tables = { { routes, s }, { ca_admin_routes, &s->ca } },
                            .metrics = s->metrics,
                            .monitor = s->monitor };

    return admin_new(s->loop, &a, &s->admin, e);
}

static int
monitoring_start(struct serve *s, const char *listen, struct err *e)
{
    struct monitor_conf m = { .metrics = s->metrics,
                              .is_ready = is_ready,
                              .why_not_ready = why_not_ready,
                              .refresh = refresh,
                              .status = status_text,
                              .page = page,
                              .self = s };

    return monitor_new(s->loop, listen, &m, &s->monitor, e);
}

static int
ca_start(struct serve *s, const struct serve_conf *o, struct err *e)
{
    struct ca_conf k = { .dir = o->ca_dir,
                         .self_signed_dir = o->self_signed ? s->self_signed_dir : NULL,
                         .trust_dir = s->trust_dir,
                         .listen = o->listen,
                         .workers = (size_t)o->workers,
                         .trust_domain = o->trust_domain,
                         .default_ttl_ms = o->default_ttl_ms,
                         .max_ttl_ms = o->max_ttl_ms,
                         .reread_ms = o->reread_ms,
                         .jwt_publish_ms = o->jwt_publish_ms,
                         .max_connection_age_ms = o->max_age_ms,
                         .drain_ms = o->drain_ms,
                         .ledger = s->ledger,
                         .store = s->store,
                         .metrics = s->metrics,
                         .replica = o->replica };
    char host_name[HOST_NAME_MAX + 1] = "";
    bool in_token = strcmp(o->signer, "file") != 0;
    CLEANUP(callers_done) struct callers who = { .who = { .issuers_n = 0 } };

    if (in_token)
        TRY(signer_uri_check(o->signer, e));
    else if (o->signer_reads != NULL)
        return err_set(e, E_INVAL,
                       "--signer-reads is for the module of a token: --signer pkcs11:...");
    if (o->replica == NULL) {
        if (gethostname(host_name, sizeof(host_name) - 1) < 0)
            return err_sys(e, errno, "our host's name (--replica gives another)");
        k.replica = host_name;
    }
    k.token_uri = in_token ? o->signer : NULL;
    k.token_reads = o->signer_reads;
    TRY(callers_fill(&o->callers, &who, e));
    k.who = who.who;
    TRY(ca_new(s->loop, &k, &s->ca, e));
    log_info("", "starting secure gRPC discovery service at %s, port %u", o->listen,
             ca_port(s->ca));
    return 0;
}

static int
port_file_write(const struct serve *s, const char *path, struct err *e)
{
    char text[96];

    if (path == NULL)
        return 0;
    (void)snprintf(text, sizeof(text), "{\"ca\": %u, \"monitoring\": %u}\n", ca_port(s->ca),
                   monitor_port(s->monitor));
    return file_write(path, span_str(text), 0644, e);
}

static void
on_drained(void *arg)
{
    struct serve *s = arg;

    loop_stop(s->loop);
}

static void
on_left(void *arg)
{
    struct serve *s = arg;

    if (s->is_draining)
        return;
    s->is_draining = true;
    log_info("", "stopping: calls under way are finished");
    ca_drain(s->ca, on_drained, s);
}

/* A second signal does not wait for whoever still sends callers here. */
static void
on_stop(void *arg)
{
    struct serve *s = arg;

    if (s->is_leaving || s->drain_delay_ms == 0) {
        on_left(s);
        return;
    }
    s->is_leaving = true;
    ca_leave(s->ca);
    log_info("", "leaving: not ready, serving for %llu ms more",
             (unsigned long long)s->drain_delay_ms);
    timer_set(s->leave, s->drain_delay_ms);
}

static int
serve_start(struct serve *s, const struct serve_conf *o, struct err *e)
{
    TRY(state_dir(o->state_dir, &s->dir, e));
    TRY(dir_make_own(s->dir, e));
    TRY(dir_lock(s->dir, &s->lock_fd, e));
    TRY(str_format(&s->trust_dir, e, "%s/trust", s->dir));
    TRY(str_format(&s->self_signed_dir, e, "%s/self-signed", s->dir));
    TRY(metrics_new(&s->metrics, e));
    TRY(loop_new(&s->loop, e));
    /* heard when all is there: the first process of a container has no other end by a signal */
    TRY(loop_on_signal(s->loop, SIGTERM, on_stop, s, e));
    TRY(loop_on_signal(s->loop, SIGINT, on_stop, s, e));
    TRY(store_open_sqlite(s->dir, &s->store, e));
    TRY(ledger_open(s->store, s->metrics, &s->ledger, e));
    if (o->keep_ms > 0)
        TRY(ledger_keep_for(s->ledger, o->keep_ms, e));
    s->drain_delay_ms = o->drain_delay_ms;
    TRY(timer_new(s->loop, on_left, s, &s->leave, e));
    TRY(ca_start(s, o, e));
    TRY(monitoring_start(s, o->monitoring, e));
    TRY(admin_start(s, e));
    TRY(port_file_write(s, o->port_file, e));
    return loop_run(s->loop, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct serve_conf *o = conf;
    struct serve s = { .lock_fd = -1 };

    (void)args;
    log_flags_setup(&o->log);
    open_files_raise();
    int r = serve_start(&s, o, e);
    serve_done(&s);
    return r;
}

const struct command cmd_ca_serve = {
    "ca serve",
    "",
    0,
    0,
    opts,
    sizeof(struct serve_conf),
    run,
    "run the mesh CA over a folder with four files",
    "Signs workload certificates for Istio's agents, ztunnel and meshroot's own, with the "
    "intermediate\n"
    "in --ca-dir. The folder is watched and read again by content: a new intermediate, key or set "
    "of\n"
    "roots is in force within seconds, and a set that does not belong together is refused while "
    "the\n"
    "last good one stays. Every certificate is in the ledger (STATE/meshroot.db) before it "
    "leaves.\n"
    "The roots that vouch for the CA are written to STATE/trust/root-cert.pem.\n"
    "With --signer pkcs11:... no file holds the key: the folder has the three certificates, and "
    "the\n"
    "signer process asks the token. The URI needs ?module-path=/... and pin-source=file:/...; it "
    "may\n"
    "name one key (object=, id=), else the key of ca-cert.pem is found by itself, also after a\n"
    "rotation.\n"
    "SIGTERM: /readyz is 503 for --drain-delay, then no new connections; calls under way are\n"
    "finished within --drain-timeout, trust streams are told to come again elsewhere.\n"
    "\n"
    "Examples:\n"
    "  meshroot ca serve --ca-dir /etc/cacerts --state-dir /var/lib/meshroot \\\n"
    "      --issuer https://kubernetes.default.svc=/etc/meshroot/jwks.json\n"
    "  meshroot ca serve --ca-dir /etc/cacerts --signer-reads /var/lib/softhsm/tokens --signer \\\n"
    "      "
    "'pkcs11:token=mesh?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pin'\n"
    "  meshroot ca serve --ca-dir ./cacerts --listen 127.0.0.1:0 --self-signed --monitoring off\n",
};
