/* vault_serve.c - meshroot vault serve: the vault alone, as a process of its own. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "mesh/vault_service.h"
#include "net/monitor.h"
#include "obs/log.h"

struct serve_conf {
    const char *state_dir, *listen, *dns_suffix, *tenant, *master_key_file, *monitoring, *port_file;
    struct log_flags log;
    struct opt_list names;
};

#define AT(member) offsetof(struct serve_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "listen", OPT_STRING, AT(listen), "127.0.0.1:8443", NULL, NULL, 0, "ADDR", "where the vault and its token endpoint answer" },
    { "vault-name", OPT_LIST, AT(names), NULL, NULL, NULL, 0, "NAME", "a vault to serve, by its first DNS label; up to 3 [meshroot]" },
    { "dns-suffix", OPT_STRING, AT(dns_suffix), "vault.azure.net", NULL, NULL, 0, "NAME", "what stands after the vault's name in URLs; with one of your own the vault is its own token endpoint" },
    { "tenant", OPT_STRING, AT(tenant), NULL, NULL, NULL, 0, "GUID", "tenant of tokens and callers [made at first start]" },
    { "master-key-file", OPT_STRING, AT(master_key_file), NULL, NULL, NULL, 0, "FILE", "key that all values are sealed with [STATE/master.key]" },
    { "monitoring", OPT_STRING, AT(monitoring), "off", NULL, NULL, 0, "ADDR", "/metrics, /healthz, /readyz" },
    { "port-file", OPT_STRING, AT(port_file), NULL, NULL, NULL, 0, "FILE", "write {\"vault\": URL, \"monitoring\": PORT} once ready" },
    OPT_LOG(struct serve_conf, log),
    OPT_STATE_DIR(struct serve_conf, state_dir),
    { .name = NULL },
};
/* clang-format on */

static void
on_stop_signal(void *arg)
{
    log_info("", "stopping on a signal");
    loop_stop(arg);
}

static int
ready(const struct serve_conf *c, const char *dir, const struct vault_service *v,
      const struct monitor *m, struct err *e)
{
    char text[512];

    log_info("vault", "serving %s; state in %s", vault_service_url(v), dir);
    if (c->port_file == NULL)
        return 0;
    (void)snprintf(text, sizeof(text), "{\"vault\": \"%s\", \"monitoring\": %u}\n",
                   vault_service_url(v), monitor_port(m));
    return file_write(c->port_file, span_str(text), 0644, e);
}

/* The port is open only while the vault answers. */
static bool
is_ready(void *self)
{
    (void)self;
    return true;
}

static int
serve(const struct serve_conf *c, const char *dir, struct store *store, struct loop *l,
      struct err *e)
{
    struct vault_service *v = NULL;
    CLEANUP(metrics_freep) struct metrics *metrics = NULL;
    struct monitor *monitor = NULL;
    struct vault_service_conf conf = { .store = store,
                                       .state_dir = dir,
                                       .listen = c->listen,
                                       .names = { "meshroot" },
                                       .names_n = 1,
                                       .dns_suffix = c->dns_suffix,
                                       .tenant = c->tenant,
                                       .master_key_file = c->master_key_file };

    if (c->names.n > VAULT_SERVICE_NAMES)
        return err_set(e, E_INVAL, "at most %d --vault-name", (int)VAULT_SERVICE_NAMES);
    for (size_t i = 0; i < c->names.n; i++)
        conf.names[i] = c->names.v[i];
    conf.names_n = c->names.n > 0 ? c->names.n : 1;
    TRY(loop_on_signal(l, SIGTERM, on_stop_signal, l, e));
    TRY(loop_on_signal(l, SIGINT, on_stop_signal, l, e));
    TRY(metrics_new(&metrics, e));
    conf.metrics = metrics;
    TRY(vault_service_new(l, &conf, &v, e));
    struct monitor_conf pages = { .metrics = metrics, .is_ready = is_ready };
    int r = monitor_new(l, c->monitoring, &pages, &monitor, e);
    if (r == 0)
        r = ready(c, dir, v, monitor, e);
    if (r == 0)
        r = loop_run(l, e);
    monitor_free(monitor);
    vault_service_free(v);
    return r;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct serve_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    struct store *store = NULL;
    struct loop *l = NULL;
    int lock = -1;

    (void)args;
    log_flags_setup(&c->log);
    TRY(state_dir(c->state_dir, &dir, e));
    TRY(dir_make_own(dir, e));
    TRY(dir_lock(dir, &lock, e));
    int r = store_open_sqlite(dir, &store, e);
    if (r == 0)
        r = loop_new(&l, e);
    if (r == 0)
        r = serve(c, dir, store, l, e);
    store_close(store); /* commits what waits; its answers go to the loop */
    loop_free(l);
    dir_unlock(lock);
    return r;
}

const struct command cmd_vault_serve = {
    "vault serve",
    "",
    0,
    0,
    opts,
    sizeof(struct serve_conf),
    run,
    "serve a vault that speaks the Azure Key Vault secrets API",
    "Serves one or more vaults, and the token endpoint that their clients need, over HTTPS. At "
    "the\n"
    "first start it makes what it needs in the state folder: master.key, the root of its own\n"
    "certificate (vault-ca.pem), and two callers, credentials/admin.json (reads and writes) and\n"
    "credentials/sync.json (reads). Values are encrypted at rest. SIGTERM stops it.\n"
    "\n"
    "Examples:\n"
    "  meshroot vault serve --state-dir ./state --vault-name prod\n"
    "  meshroot vault serve --listen 0.0.0.0:443 --vault-name prod --vault-name staging\n",
};
