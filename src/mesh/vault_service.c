#include "mesh/vault_service.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "cloud/cloud.h"
#include "mesh/vault_keys.h"
#include "net/addr.h"
#include "net/http.h"
#include "obs/log.h"
#include "vault/vault.h"

enum { SERVICE_PATH_BYTES = 1024, RENEW_MS = 24 * 3600 * 1000, CREDENTIALS_BYTES = 4096 };

#define DEFAULT_SUFFIX "vault.azure.net"
#define LOGIN_HOST     "login.microsoftonline.com"

struct vault_service {
    struct loop *loop;
    struct store *store; /* borrowed */
    char state_dir[SERVICE_PATH_BYTES / 2], dns_suffix[HOST_BYTES], tenant[VAULT_TENANT_TEXT];
    char url[ADDR_TEXT_BYTES + 16];
    struct addr listen;
    struct secret *master;
    struct seal *seal;
    struct key *token_key, *root_key;
    struct cert *root;
    struct tls_conf *tls;
    struct cloud *cloud;
    struct vault *vault;
    struct http_server *http;
    struct timer *renew;
    char sans[VAULT_SANS][HOST_BYTES];
    const char *sans_at[VAULT_SANS];
    size_t sans_n;
};

/* -- requests -----------------------------------------------------------------------------------
 */

static void
on_request(struct http_exchange *x, void *self)
{
    struct vault_service *s = self;

    if (cloud_serves(s->cloud, http_path(x)))
        cloud_serve(s->cloud, x);
    else
        vault_serve(s->vault, x);
}

static const struct {
    const char *name;
    enum vault_role role;
} roles[] = {
    { "Key Vault Administrator", VAULT_SECRETS_OFFICER },
    { "Key Vault Secrets Officer", VAULT_SECRETS_OFFICER },
    { "Key Vault Secrets User", VAULT_SECRETS_USER },
    { "Key Vault Reader", VAULT_READER },
};

static enum vault_role
role_of(void *self, const char *vault, const char *oid)
{
    struct vault_service *s = self;
    struct cloud_app app;
    struct err e = { 0 };

    (void)vault; /* for now a role holds in all vaults of the service */
    if (cloud_app_by_oid(s->cloud, oid, &app, &e) != 0)
        return VAULT_NOBODY;
    for (size_t i = 0; i < ARRAY_LEN(roles); i++)
        if (strcmp(roles[i].name, app.role) == 0)
            return roles[i].role;
    return VAULT_NOBODY;
}

/* -- credentials of the first start -------------------------------------------------------------
 */

static int
credentials_write(struct vault_service *s, const char *path, const char *name, const char *role,
                  struct err *e)
{
    CLEANUP(secret_freep) struct secret *secret = NULL;
    struct cloud_app app;

    TRY(cloud_app_add(s->cloud, name, role, &app, &secret, e));
    struct span text = secret_span(secret);
    json_t *j = json_pack("{s:s,s:s,s:s%}", "tenant", s->tenant, "client_id", app.client_id,
                          "client_secret", text.p, text.n);
    char *json = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));
    int r = json == NULL ? err_nomem(e) : file_write_new(path, span_str(json), 0600, e);

    if (json != NULL)
        explicit_bzero(json, strlen(json));
    free(json);
    json_decref(j);
    return r;
}

/* The file is the last step: when it is there, its app is. */
static int
credentials_make(struct vault_service *s, struct err *e)
{
    static const char *const apps[][2] = { { "admin", "Key Vault Secrets Officer" },
                                           { "sync", "Key Vault Secrets User" } };
    char path[SERVICE_PATH_BYTES];

    (void)snprintf(path, sizeof(path), "%s/credentials", s->state_dir);
    TRY(dir_make_own(path, e));
    for (size_t i = 0; i < ARRAY_LEN(apps); i++) {
        (void)snprintf(path, sizeof(path), "%s/credentials/%s.json", s->state_dir, apps[i][0]);
        if (access(path, F_OK) < 0)
            TRY(credentials_write(s, path, apps[i][0], apps[i][1], e));
    }
    return 0;
}

/* -- start --------------------------------------------------------------------------------------
 */

static int
san_add(struct vault_service *s, struct err *e, const char *name, const char *suffix)
{
    char *san = s->sans[s->sans_n];

    int n = snprintf(san, HOST_BYTES, "%s%s", name, suffix);
    if (n < 0 || n >= HOST_BYTES)
        return err_set(e, E_INVAL, "the name %s%s is too long", name, suffix);
    for (size_t i = 0; i < s->sans_n; i++)
        if (strcmp(s->sans[i], san) == 0)
            return 0;
    s->sans_at[s->sans_n++] = san;
    return 0;
}

/* A wildcard stands for one label: every vault of the suffix. It is not accepted right below a top
 * level name, so NAME.localhost is named one by one. Source: specs/azure.md 2.8, RFC 6125 6.4.3. */
static int
sans_fill(struct vault_service *s, const struct vault_service_conf *conf, struct err *e)
{
    bool is_any = strcmp(s->listen.host, "0.0.0.0") == 0 || strcmp(s->listen.host, "::") == 0;

    if (conf->names_n == 0 || conf->names_n > VAULT_SERVICE_NAMES)
        return err_set(e, E_INVAL, "1 to %d vault names are possible", (int)VAULT_SERVICE_NAMES);
    TRY(san_add(s, e, "*.", s->dns_suffix));
    TRY(san_add(s, e, LOGIN_HOST, ""));
    TRY(san_add(s, e, "localhost", ""));
    TRY(san_add(s, e, "127.0.0.1", ""));
    for (size_t i = 0; i < conf->names_n; i++)
        TRY(san_add(s, e, conf->names[i], ".localhost"));
    return is_any ? 0 : san_add(s, e, s->listen.host, "");
}

static int
tls_renew(struct vault_service *s, struct err *e)
{
    struct tls_conf *fresh = NULL;

    TRY(serving_tls(s->root, s->root_key, s->sans_at, s->sans_n, &fresh, e));
    tls_conf_unref(s->tls);
    s->tls = fresh;
    return 0;
}

/* Daily, of 90 days: many failures fit in between. */
static void
on_renew(void *arg)
{
    struct vault_service *s = arg;
    struct err e = { 0 };

    timer_set(s->renew, RENEW_MS);
    if (tls_renew(s, &e) < 0)
        log_error("vault", "the listener keeps its certificate: %s", e.msg);
    else
        http_server_set_tls(s->http, s->tls);
}

static int
keys_open(struct vault_service *s, const struct vault_service_conf *conf, struct err *e)
{
    char path[SERVICE_PATH_BYTES];

    (void)snprintf(path, sizeof(path), "%s/master.key", s->state_dir);
    TRY(master_key_open(s->store, conf->master_key_file == NULL ? path : conf->master_key_file,
                        &s->master, e));
    TRY(seal_new(secret_span(s->master), &s->seal, e));
    TRY(kept_tenant(s->store, conf->tenant, s->tenant, e));
    TRY(kept_key(s->store, s->seal, "vault-service/token-key", KEY_RSA2048, &s->token_key, e));
    TRY(kept_key(s->store, s->seal, "vault-service/tls-root-key", KEY_P256, &s->root_key, e));
    TRY(kept_root(s->store, s->root_key, &s->root, e));
    TRY(sans_fill(s, conf, e));
    return tls_renew(s, e);
}

/* Clients find a vault under the cloud's name by a proxy or a resolver of their own, and the token
 * service of that name with it. Under a name of our own (a Service in a cluster) there is only us.
 */
static bool
has_cloud_name(const struct vault_service *s)
{
    return strcmp(s->dns_suffix, DEFAULT_SUFFIX) == 0;
}

static int
rooms_open(struct vault_service *s, const struct vault_service_conf *conf, struct err *e)
{
    struct cloud_conf cloud = { s->store, s->token_key, s->tenant, conf->metrics };
    char issuer[512];

    TRY(cloud_new(&cloud, &s->cloud, e));
    cloud_issuer(s->cloud, issuer);
    struct vault_conf vault = { .loop = s->loop,
                                .store = s->store,
                                .master_key = s->master,
                                .names_n = conf->names_n,
                                .dns_suffix = s->dns_suffix,
                                .authority = has_cloud_name(s) ? "https://" LOGIN_HOST : NULL,
                                .tenant = s->tenant,
                                .keys = cloud_jwks(s->cloud),
                                .issuer = issuer,
                                .role = role_of,
                                .self = s,
                                .metrics = conf->metrics };
    memcpy(vault.names, conf->names, conf->names_n * sizeof(conf->names[0]));
    TRY(vault_new(&vault, &s->vault, e));
    return credentials_make(s, e);
}

static int
listen_open(struct vault_service *s, struct metrics *metrics, struct err *e)
{
    struct http_server_conf http = { .tls = s->tls,
                                     .on_request = on_request,
                                     .self = s,
                                     .max_body_bytes = VAULT_SERVICE_BODY_BYTES,
                                     .metrics = metrics,
                                     .name = "vault" };
    bool is_v6 = strchr(s->listen.host, ':') != NULL;
    bool is_any = strcmp(s->listen.host, "0.0.0.0") == 0 || strcmp(s->listen.host, "::") == 0;
    uint16_t port;

    TRY(addr_listen(&s->listen, false, &http.listen_fd, &port, e));
    TRY(http_server_new(s->loop, &http, &s->http, e));
    (void)snprintf(s->url, sizeof(s->url), "https://%s%s%s:%u", is_v6 && !is_any ? "[" : "",
                   is_any ? "127.0.0.1" : s->listen.host, is_v6 && !is_any ? "]" : "", port);
    TRY(timer_new(s->loop, on_renew, s, &s->renew, e));
    timer_set(s->renew, RENEW_MS);
    return 0;
}

/* What clients need to find and trust us; the address comes last, when all else is in place. */
static int
files_write(struct vault_service *s, struct err *e)
{
    char path[SERVICE_PATH_BYTES], line[sizeof(s->url) + 2];
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);

    (void)snprintf(path, sizeof(path), "%s/vault-ca.pem", s->state_dir);
    int r = cert_to_pem(s->root, &pem, e);
    if (r == 0)
        r = file_write(path, buf_span(&pem), 0644, e);
    buf_done(&pem);
    TRY(r);
    (void)snprintf(path, sizeof(path), "%s/vault.url", s->state_dir);
    (void)snprintf(line, sizeof(line), "%s\n", s->url);
    return file_write(path, span_str(line), 0644, e);
}

static int
service_fill(struct vault_service *s, const struct vault_service_conf *conf, struct err *e)
{
    const char *suffix = conf->dns_suffix == NULL ? DEFAULT_SUFFIX : conf->dns_suffix;

    if (strlen(conf->state_dir) >= sizeof(s->state_dir))
        return err_set(e, E_INVAL, "the path of the state folder is longer than %zu characters",
                       sizeof(s->state_dir) - 1);
    if (strlen(suffix) >= sizeof(s->dns_suffix))
        return err_set(e, E_INVAL, "the DNS suffix is too long");
    (void)snprintf(s->state_dir, sizeof(s->state_dir), "%s", conf->state_dir);
    (void)snprintf(s->dns_suffix, sizeof(s->dns_suffix), "%s", suffix);
    s->store = conf->store;
    TRY(addr_parse(conf->listen, &s->listen, e));
    TRY(keys_open(s, conf, e));
    TRY(rooms_open(s, conf, e));
    TRY(listen_open(s, conf->metrics, e));
    return files_write(s, e);
}

int
vault_service_new(struct loop *l, const struct vault_service_conf *conf, struct vault_service **ret,
                  struct err *e)
{
    struct vault_service *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    s->loop = l;
    if (service_fill(s, conf, e) < 0) {
        vault_service_free(s);
        return err_wrap(e, "vault service");
    }
    *ret = s;
    return 0;
}

void
vault_service_free(struct vault_service *s)
{
    if (s == NULL)
        return;
    vault_free(s->vault); /* answers what is under way, so before its listener */
    http_server_free(s->http);
    cloud_free(s->cloud);
    timer_free(s->renew);
    tls_conf_unref(s->tls);
    cert_unref(s->root);
    key_unref(s->root_key);
    key_unref(s->token_key);
    seal_free(s->seal);
    secret_free(s->master);
    free(s);
}

const char *
vault_service_url(const struct vault_service *s)
{
    return s->url;
}
