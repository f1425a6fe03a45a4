/* ca_serve.c - meshroot ca serve: the CA alone, over a folder. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "ca/ca.h"
#include "cmd/commands.h"
#include "net/addr.h"
#include "net/http.h"
#include "obs/log.h"

struct serve_conf {
    const char *ca_dir, *state_dir, *listen, *trust_domain, *monitoring, *log_format, *port_file;
    struct opt_list issuers, audiences, names;
    uint64_t workers, default_ttl_ms, max_ttl_ms, reread_ms;
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
    { "issuer", OPT_LIST, AT(issuers), NULL, NULL, NULL, 0, "ISS=JWKS",
      "an issuer of tokens and its key set, a file or https URL; up to 4" },
    { "audience", OPT_LIST, AT(audiences), NULL, NULL, NULL, 0, "NAME", "one that tokens must be for [istio-ca]" },
    { "dns-name", OPT_LIST, AT(names), NULL, NULL, NULL, 0, "NAME",
      "names and addresses of the CA's own certificate [istiod.istio-system.svc, localhost, 127.0.0.1]" },
    { "workers", OPT_COUNT, AT(workers), "2", "1", "64", 0, "N", "threads that answer" },
    { "default-workload-ttl", OPT_DURATION, AT(default_ttl_ms), "24h", "1s", "876000h", 0, "DURATION",
      "life of a leaf that does not ask for one" },
    { "max-workload-ttl", OPT_DURATION, AT(max_ttl_ms), "2160h", "1s", "876000h", 0, "DURATION",
      "the longest life that may be asked for" },
    { "reread-interval", OPT_DURATION, AT(reread_ms), "5s", "100ms", "1h", 0, "DURATION",
      "how often the folder is read again, events or not" },
    { "self-signed", OPT_FLAG, AT(self_signed), NULL, NULL, NULL, 0, NULL,
      "with nothing in the folder, make a self-signed root (kept in STATE/self-signed)" },
    { "monitoring", OPT_STRING, AT(monitoring), "127.0.0.1:15014", NULL, NULL, 0, "ADDR",
      "/metrics, /healthz, /readyz, /status; \"off\" for none" },
    { "port-file", OPT_STRING, AT(port_file), NULL, NULL, NULL, 0, "FILE",
      "write the ports in use here, as JSON, once they are open" },
    { "log-format", OPT_CHOICE, AT(log_format), "text", "text|json", NULL, 0, "FORMAT", "of log lines" },
    { .name = NULL },
};
/* clang-format on */

struct serve { /* everything that runs, freed in reverse */
    struct loop *loop;
    struct metrics *metrics;
    struct store *store;
    struct ledger *ledger;
    struct ca *ca;
    struct http_server *http;
    char *dir, *trust_dir, *self_signed_dir;
    int lock_fd;
    uint16_t monitoring_port; /* 0: none */
};

static void
serve_done(struct serve *s)
{
    http_server_free(s->http);
    ca_free(s->ca);
    ledger_close(s->ledger);
    store_close(s->store);
    loop_free(s->loop);
    metrics_free(s->metrics);
    if (s->lock_fd >= 0)
        dir_unlock(s->lock_fd);
    free(s->dir);
    free(s->trust_dir);
    free(s->self_signed_dir);
}

/* -- monitoring -- */

static void
reply_metrics(struct serve *s, struct http_exchange *x)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(4 * 1024 * 1024);
    struct err e;

    if (metrics_text(s->metrics, &b, &e) < 0)
        http_reply(x, 500, "text/plain", span_str(e.msg));
    else
        http_reply(x, 200, "text/plain; version=0.0.4", buf_span(&b));
}

static void
reply_health(struct serve *s, struct http_exchange *x)
{
    (void)s;
    http_reply(x, 200, "text/plain", span_str("ok\n"));
}

static void
reply_ready(struct serve *s, struct http_exchange *x)
{
    bool ready = ca_is_ready(s->ca);

    http_reply(x, ready ? 200 : 503, "text/plain",
               span_str(ready ? "ready\n" : "no usable set is loaded\n"));
}

static void
reply_status(struct serve *s, struct http_exchange *x)
{
    json_t *j = ca_status(s->ca);
    char *text = json_dumps(j, JSON_INDENT(2));

    json_decref(j);
    http_reply(x, text == NULL ? 500 : 200, "application/json", span_str(text));
    free(text);
}

static const struct page {
    const char *path;
    void (*reply)(struct serve *s, struct http_exchange *x);
} pages[] = {
    { "/metrics", reply_metrics },
    { "/healthz", reply_health },
    { "/readyz", reply_ready },
    { "/status", reply_status },
};

static void
on_request(struct http_exchange *x, void *self)
{
    if (strcmp(http_method(x), "GET") != 0) {
        http_reply(x, 405, "text/plain", span_str("GET only\n"));
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(pages); i++)
        if (strcmp(http_path(x), pages[i].path) == 0) {
            pages[i].reply(self, x);
            return;
        }
    http_reply(x, 404, "text/plain", span_str("/metrics, /healthz, /readyz, /status\n"));
}

static int
monitoring_start(struct serve *s, const char *listen, struct err *e)
{
    struct http_server_conf h = { .on_request = on_request, .self = s };
    struct addr a;

    if (strcmp(listen, "off") == 0)
        return 0;
    TRY(addr_parse(listen, &a, e));
    TRY(addr_listen(&a, false, &h.listen_fd, &s->monitoring_port, e));
    TRY(http_server_new(s->loop, &h, &s->http, e));
    log_info("", "monitoring at http://%s:%u", a.host, s->monitoring_port);
    return 0;
}

/* -- settings -- */

/* "ISS=JWKS": the issuer may hold '=' only after the first. */
static int
issuer_split(const char *text, struct ca_issuer *ret, char **keep, struct err *e)
{
    const char *eq = strchr(text, '=');

    if (eq == NULL || eq == text || eq[1] == '\0')
        return err_set(e, E_INVAL, "--issuer %s: give ISSUER=JWKS, where JWKS is a file or URL",
                       text);
    TRY(str_dup(span_of(text, (size_t)(eq - text)), keep, e));
    *ret = (struct ca_issuer){ .issuer = *keep, .jwks = eq + 1 };
    return 0;
}

static int
names_fill(const struct serve_conf *o, struct ca_conf *k, struct err *e)
{
    static const char *const usual[] = { "istiod.istio-system.svc", "localhost", "127.0.0.1" };

    if (o->issuers.n > CA_JWKS_MAX || o->audiences.n >= JWT_AUDIENCES || o->names.n > CA_DNS_MAX)
        return err_set(e, E_INVAL, "at most %d --issuer, %d --audience, %d --dns-name", CA_JWKS_MAX,
                       JWT_AUDIENCES - 1, CA_DNS_MAX);
    for (size_t i = 0; i < o->audiences.n; i++)
        k->audiences[i] = o->audiences.v[i];
    k->dns_names_n = o->names.n > 0 ? o->names.n : ARRAY_LEN(usual);
    for (size_t i = 0; i < k->dns_names_n; i++)
        k->dns_names[i] = o->names.n > 0 ? o->names.v[i] : usual[i];
    return 0;
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
                         .ledger = s->ledger,
                         .metrics = s->metrics,
                         .replica = "ca" };
    char *issuers[CA_JWKS_MAX] = { NULL };

    TRY(names_fill(o, &k, e));
    int r = 0;
    for (; r == 0 && k.issuers_n < o->issuers.n; k.issuers_n++)
        r = issuer_split(o->issuers.v[k.issuers_n], &k.issuers[k.issuers_n], &issuers[k.issuers_n],
                         e);
    if (r == 0)
        r = ca_new(s->loop, &k, &s->ca, e);
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        free(issuers[i]);
    TRY(r);
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
                   s->monitoring_port);
    return file_write(path, span_str(text), 0644, e);
}

static void
on_stop(void *arg)
{
    struct serve *s = arg;

    log_info("", "stopping: calls under way are finished");
    loop_stop(s->loop);
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
    TRY(store_open_sqlite(s->dir, &s->store, e));
    TRY(ledger_open(s->store, s->metrics, &s->ledger, e));
    TRY(loop_on_signal(s->loop, SIGTERM, on_stop, s, e));
    TRY(loop_on_signal(s->loop, SIGINT, on_stop, s, e));
    TRY(ca_start(s, o, e));
    TRY(monitoring_start(s, o->monitoring, e));
    TRY(port_file_write(s, o->port_file, e));
    return loop_run(s->loop, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct serve_conf *o = conf;
    struct serve s = { .lock_fd = -1 };

    (void)args;
    log_setup(STDOUT_FILENO, LOG_INFO, o->log_format[0] == 'j');
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
    "SIGTERM finishes the calls under way, then ends.\n"
    "\n"
    "Examples:\n"
    "  meshroot ca serve --ca-dir /etc/cacerts --state-dir /var/lib/meshroot \\\n"
    "      --issuer https://kubernetes.default.svc=/etc/meshroot/jwks.json\n"
    "  meshroot ca serve --ca-dir ./cacerts --listen 127.0.0.1:0 --self-signed --monitoring off\n",
};
