#include "vault/vault.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/secret.h"
#include "base/str.h"
#include "obs/log.h"
#include "vault/request.h"

/* The service's documented budgets: secret creations, and everything else, per vault. */
enum { VAULT_CREATES_PER_10S = 300, VAULT_READS_PER_10S = 4000, REPLY_BYTES = 256 * 1024 };

#define SCOPE "vault"

static const struct metric_desc requests_total = {
    "meshroot_vault_requests_total", "Requests to the vault, by operation and status.",
    METRIC_COUNTER
};
static const struct metric_desc request_seconds = {
    "meshroot_vault_request_duration_seconds", "Seconds from a request to the vault to its answer.",
    METRIC_HISTOGRAM
};

/* The first row that fits wins: literal segments stand before "*". */
static const struct vault_op ops[] = {
    { "list", "GET", { "secrets" }, "secrets/readMetadata/action", VAULT_READER, false, op_list },
    { "restore",
      "POST",
      { "secrets", "restore" },
      "secrets/restore/action",
      VAULT_SECRETS_OFFICER,
      true,
      NULL },
    { "list-versions",
      "GET",
      { "secrets", "*", "versions" },
      "secrets/readMetadata/action",
      VAULT_READER,
      false,
      op_list_versions },
    { "backup",
      "POST",
      { "secrets", "*", "backup" },
      "secrets/backup/action",
      VAULT_SECRETS_OFFICER,
      false,
      NULL },
    { "set",
      "PUT",
      { "secrets", "*" },
      "secrets/setSecret/action",
      VAULT_SECRETS_OFFICER,
      true,
      op_set },
    { "get",
      "GET",
      { "secrets", "*" },
      "secrets/getSecret/action",
      VAULT_SECRETS_USER,
      false,
      op_get },
    { "get",
      "GET",
      { "secrets", "*", "*" },
      "secrets/getSecret/action",
      VAULT_SECRETS_USER,
      false,
      op_get },
    { "update",
      "PATCH",
      { "secrets", "*" },
      "secrets/update/action",
      VAULT_SECRETS_OFFICER,
      false,
      op_update },
    { "update",
      "PATCH",
      { "secrets", "*", "*" },
      "secrets/update/action",
      VAULT_SECRETS_OFFICER,
      false,
      op_update },
    { "delete",
      "DELETE",
      { "secrets", "*" },
      "secrets/delete",
      VAULT_SECRETS_OFFICER,
      false,
      NULL },
    { "list-deleted",
      "GET",
      { "deletedsecrets" },
      "secrets/readMetadata/action",
      VAULT_READER,
      false,
      NULL },
    { "get-deleted",
      "GET",
      { "deletedsecrets", "*" },
      "secrets/readMetadata/action",
      VAULT_READER,
      false,
      NULL },
    { "purge",
      "DELETE",
      { "deletedsecrets", "*" },
      "secrets/purge/action",
      VAULT_SECRETS_OFFICER,
      false,
      NULL },
    { "recover",
      "POST",
      { "deletedsecrets", "*", "recover" },
      "secrets/recover/action",
      VAULT_SECRETS_OFFICER,
      false,
      NULL },
};

static const char *const role_names[] = {
    [VAULT_NOBODY] = "none",
    [VAULT_READER] = "Key Vault Reader",
    [VAULT_SECRETS_USER] = "Key Vault Secrets User",
    [VAULT_SECRETS_OFFICER] = "Key Vault Secrets Officer",
};

/* -- the server ---------------------------------------------------------------------------------
 */

static int
copy(char *to, size_t cap, const char *from, const char *what, struct err *e)
{
    if (from == NULL || from[0] == '\0' || strlen(from) >= cap)
        return err_set(e, E_INVAL, "vault: %s must have 1 to %zu characters", what, cap - 1);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

/* Source: specs/azure.md 1.5. Azure wants three characters at least, as its names are for all. */
static int
vault_name_check(const char *name, struct err *e)
{
    size_t n = strlen(name);
    bool ok = n >= 1 && n < VAULT_NAME_BYTES && isalpha((unsigned char)name[0]) &&
              name[n - 1] != '-' && strstr(name, "--") == NULL;

    for (size_t i = 0; i < n; i++)
        ok = ok && (isalnum((unsigned char)name[i]) || name[i] == '-');
    return ok ? 0
              : err_set(e, E_INVAL,
                        "\"%s\" is not a vault name: 1 to 24 letters, digits and single hyphens, "
                        "a letter first",
                        name);
}

static int
vault_fill(struct vault *v, struct err *e)
{
    struct vault_conf *c = &v->conf;

    TRY(copy(v->dns_suffix, sizeof(v->dns_suffix), c->dns_suffix, "the DNS suffix", e));
    if (c->authority != NULL)
        TRY(copy(v->authority, sizeof(v->authority), c->authority, "the authority", e));
    TRY(copy(v->tenant, sizeof(v->tenant), c->tenant, "the tenant", e));
    TRY(copy(v->issuer, sizeof(v->issuer), c->issuer, "the issuer", e));
    c->dns_suffix = v->dns_suffix;
    c->tenant = v->tenant;
    c->issuer = v->issuer;
    if (c->names_n == 0 || c->names_n > VAULT_MAX)
        return err_set(e, E_INVAL, "1 to %d vault names are possible", (int)VAULT_MAX);
    for (size_t i = 0; i < c->names_n; i++) {
        TRY(vault_name_check(c->names[i], e));
        TRY(copy(v->slots[i].name, VAULT_NAME_BYTES, c->names[i], "the vault's name", e));
        for (char *p = v->slots[i].name; *p != '\0'; p++)
            *p = (char)tolower((unsigned char)*p);
        c->names[i] = v->slots[i].name;
        v->slots[i].creates = bucket_full(c->creates_per_10s, c->creates_per_10s, 10000);
        v->slots[i].reads = bucket_full(c->reads_per_10s, c->reads_per_10s, 10000);
    }
    return seal_new(secret_span(c->master_key), &v->seal, e);
}

int
vault_new(const struct vault_conf *conf, struct vault **ret, struct err *e)
{
    struct vault *v = calloc(1, sizeof(*v));

    if (v == NULL)
        return err_nomem(e);
    json_wipes_memory();
    v->conf = *conf;
    if (v->conf.creates_per_10s == 0)
        v->conf.creates_per_10s = VAULT_CREATES_PER_10S;
    if (v->conf.reads_per_10s == 0)
        v->conf.reads_per_10s = VAULT_READS_PER_10S;
    if (vault_fill(v, e) < 0) {
        vault_free(v);
        return err_result(e);
    }
    *ret = v;
    return 0;
}

/* Requests that the store still works on end themselves later. */
void
vault_free(struct vault *v)
{
    if (v == NULL)
        return;
    while (v->requests != NULL) {
        struct vault_request *q = v->requests;

        v->requests = q->next;
        q->v = NULL;
        q->slot = NULL;
        q->prev = NULL;
        if (q->x != NULL) {
            struct http_exchange *x = STEAL(q->x);

            http_reply(x, 503, NULL, (struct span){ 0 });
        }
    }
    seal_free(v->seal);
    free(v);
}

/* -- answers ------------------------------------------------------------------------------------
 */

static void
request_free(struct vault_request *q)
{
    if (q->prev != NULL) {
        *q->prev = q->next;
        if (q->next != NULL)
            q->next->prev = q->prev;
    }
    secret_change_done(&q->change);
    secret_meta_done(&q->meta);
    free(q);
}

static void
guid(char ret[37])
{
    struct err e = { 0 };
    uint8_t b[16] = { 0 };
    char h[33];

    if (random_bytes(b, sizeof(b), &e) < 0)
        b[0] = 0; /* only a label */
    hex_text(span_of(b, sizeof(b)), h);
    (void)snprintf(ret, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", h, h + 8, h + 12, h + 16, h + 20);
}

/* Source: specs/azure.md 1.9. */
static void
reply_headers(struct vault_request *q)
{
    const char *client_id = http_header(q->x, "x-ms-client-request-id");
    char id[37], network[ADDR_TEXT_BYTES + 64];
    bool is_v6 = q->peer[0] == '[';
    int host_n = (int)strcspn(q->peer + (is_v6 ? 1 : 0), is_v6 ? "]" : ":");

    guid(id);
    (void)snprintf(network, sizeof(network), "conn_type=%s;addr=%.*s;act_addr_fam=%s;",
                   is_v6 ? "Ipv6" : "Ipv4", host_n, q->peer + (is_v6 ? 1 : 0),
                   is_v6 ? "InterNetworkV6" : "InterNetwork");
    http_reply_header(q->x, "Cache-Control", "no-cache");
    http_reply_header(q->x, "Pragma", "no-cache");
    http_reply_header(q->x, "X-Content-Type-Options", "nosniff");
    http_reply_header(q->x, "x-ms-keyvault-region", "local");
    http_reply_header(q->x, "x-ms-keyvault-service-version", MESHROOT_VERSION);
    http_reply_header(q->x, "x-ms-keyvault-network-info", network);
    http_reply_header(q->x, "x-ms-request-id", id);
    if (client_id != NULL && strlen(client_id) <= 128)
        http_reply_header(q->x, "x-ms-client-request-id", client_id);
    if (http_is_tls(q->x) && q->authority == q->v->authority) /* never for localhost */
        http_reply_header(q->x, "Strict-Transport-Security", "max-age=31536000;includeSubDomains");
}

static void
request_log(struct vault_request *q, const char *op, const char *code, bool is_fault)
{
    bool is_stranger = q->oid[0] == '\0' && q->appid[0] == '\0';

    if (is_stranger && q->v != NULL && !log_brake(&q->v->strangers, SCOPE, mono_ms()))
        return;
    log_with(is_fault ? LOG_WARN : LOG_INFO, SCOPE,
             LABELS({ "operation", op }, { "status", code },
                    { "vault", q->slot == NULL ? NULL : q->slot->name },
                    { "secret", q->name[0] == '\0' ? NULL : q->name },
                    { "version", q->version[0] == '\0' ? NULL : q->version },
                    { "oid", q->oid[0] == '\0' ? NULL : q->oid },
                    { "appid", q->appid[0] == '\0' ? NULL : q->appid }, { "client", q->peer }),
             "vault request");
}

static void
request_account(struct vault_request *q, int status)
{
    const char *op = q->op == NULL ? "none" : q->op->name;
    struct buf labels = BUF_INIT(METRIC_LABELS_BYTES);
    struct err e = { 0 };
    char code[8];

    (void)snprintf(code, sizeof(code), "%d", status);
    request_log(q, op, code, status >= 500);
    if (metric_label(&labels, "operation", op, &e) == 0) {
        metric_observe(q->v == NULL ? NULL : q->v->conf.metrics, &request_seconds,
                       buf_text(&labels), (double)(unix_us() - q->start_us) / 1e6);
        if (metric_label(&labels, "code", code, &e) == 0)
            metric_add(q->v == NULL ? NULL : q->v->conf.metrics, &requests_total, buf_text(&labels),
                       1);
    }
    buf_done(&labels);
}

void
request_finish(struct vault_request *q, int status, json_t *take_j)
{
    struct buf b = BUF_INIT(REPLY_BYTES);
    struct err e = { 0 };

    if (take_j == NULL || json_add(&b, take_j, &e) < 0) {
        buf_wipe(&b);
        status = 500;
    }
    json_decref(take_j);
    request_account(q, status);
    if (q->x != NULL) {
        reply_headers(q);
        http_reply(STEAL(q->x), status, "application/json; charset=utf-8", buf_span(&b));
    }
    buf_wipe(&b);
    request_free(q);
}

void
request_fail(struct vault_request *q, int status, const char *code, const char *inner,
             const char *fmt, ...)
{
    char line[2048];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    for (char *p = line; *p != '\0'; p++) /* what was asked may be quoted, and be no UTF-8 */
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    json_t *j = inner == NULL ? json_pack("{s:{s:s,s:s}}", "error", "code", code, "message", line)
                              : json_pack("{s:{s:s,s:s,s:{s:s}}}", "error", "code", code, "message",
                                          line, "innererror", "code", inner);
    request_finish(q, status, j);
}

void
request_fail_err(struct vault_request *q, const struct err *e)
{
    static const bool is_overload[E__MAX] = {
        [E_NOMEM] = true, [E_LIMIT] = true, [E_CONFLICT] = true, [E_BUSY] = true, [E_TIMEOUT] = true
    };

    log_with(LOG_ERROR, SCOPE, LABELS({ "secret", q->name }, { "err", e->msg }),
             "vault request failed");
    if (is_overload[e->code])
        request_fail(q, 503, "ServiceUnavailable", NULL, "%s; try again later.", e->msg);
    else
        request_fail(q, 500, "InternalServerError", NULL,
                     "The vault could not complete the request; its log says why.");
}

void
request_not_found(struct vault_request *q)
{
    request_fail(q, 404, "SecretNotFound", NULL,
                 "A secret with (name/id) %s%s%s was not found in this key vault. If you recently "
                 "deleted this secret you may be able to recover it using the correct recovery "
                 "command. For help resolving this issue, please see "
                 "https://go.microsoft.com/fwlink/?linkid=2125182",
                 q->name, q->version[0] == '\0' ? "" : "/", q->version);
}

/* -- one request --------------------------------------------------------------------------------
 */

/* Decoded path segments; empty ones (doubled and trailing slashes) do not count. */
static bool
request_segments(struct vault_request *q, struct span path)
{
    struct span part;

    while (span_cut(&path, '/', &part)) {
        if (part.n == 0)
            continue;
        if (q->segments_n == VAULT_SEGMENTS || part.n >= SECRET_NAME_BYTES)
            return false;
        memcpy(q->segments[q->segments_n], part.p, part.n);
        q->segments[q->segments_n++][part.n] = '\0';
    }
    return true;
}

static bool
op_fits(const struct vault_op *op, const struct vault_request *q)
{
    for (size_t i = 0; i < VAULT_SEGMENTS; i++) {
        if (op->path[i] == NULL || i == q->segments_n)
            return op->path[i] == NULL && i == q->segments_n;
        if (strcmp(op->path[i], "*") != 0 && strcasecmp(op->path[i], q->segments[i]) != 0)
            return false;
    }
    return q->segments_n == VAULT_SEGMENTS;
}

static bool
request_route(struct vault_request *q)
{
    bool path_known = false;

    if (!request_segments(q, span_str(http_path(q->x)))) {
        request_fail(q, 400, "BadParameter", NULL,
                     "The request URI is wrong: a secret's name has 1 to %d characters.",
                     (int)SECRET_NAME_BYTES - 1);
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(ops) && q->op == NULL; i++)
        if (op_fits(&ops[i], q)) {
            path_known = true;
            if (strcmp(ops[i].method, http_method(q->x)) == 0)
                q->op = &ops[i];
        }
    if (q->op != NULL)
        return true;
    if (path_known)
        request_fail(q, 405, "MethodNotAllowed", NULL, "%s is not possible here.",
                     http_method(q->x));
    else
        request_fail(q, 404, "NotFound", NULL, "There is no such operation: %.200s",
                     http_path(q->x));
    return false;
}

/* Before anything about the secret is looked up: who may not ask does not learn what exists. */
static bool
request_authorize(struct vault_request *q)
{
    const struct vault_conf *c = &q->v->conf;
    const char *name = q->segments_n > 1 ? q->segments[1] : "";

    if (c->role(c->self, q->slot->name, q->oid) >= q->op->role)
        return true;
    request_fail(
        q, 403, "Forbidden", "ForbiddenByRbac",
        "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny "
        "assignments or role definitions were changed recently, please observe propagation "
        "time.\r\nCaller: appid=%s;oid=%s;iss=%s\r\nAction: 'Microsoft.KeyVault/vaults/%s'\r\n"
        "Resource: '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/meshroot/"
        "providers/microsoft.keyvault/vaults/%s%s%s'\r\nAssignment: (not found)\r\n"
        "DenyAssignmentId: null\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\nVault: "
        "%s;location=local\r\nRole needed: %s\r\n",
        q->appid, q->oid, q->v->issuer, q->op->action, q->slot->name,
        name[0] == '\0' ? "" : "/secrets/", name, q->slot->name, role_names[q->op->role]);
    return false;
}

/* Any version is served: clients bring a new one each year. Source: specs/azure.md 0 point 2. */
static bool
request_api_version(struct vault_request *q)
{
    const char *given = http_query(q->x, "api-version");
    size_t n = given == NULL ? 0 : strlen(given);

    if (n == 0) {
        request_fail(q, 400, "BadParameter", NULL, "api-version must be specified");
        return false;
    }
    if (n >= API_VERSION_BYTES || strspn(given, "0123456789abcdefghijklmnopqrstuvwxyz"
                                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ.-") != n) {
        request_fail(q, 400, "BadParameter", NULL, "The api-version is not a version.");
        return false;
    }
    memcpy(q->api_version, given, n + 1);
    return true;
}

static bool
request_throttle(struct vault_request *q)
{
    struct bucket *b = q->op->creates ? &q->slot->creates : &q->slot->reads;
    char text[24];

    if (bucket_take(b))
        return true;
    (void)snprintf(text, sizeof(text), "%" PRIu64, 1 + bucket_wait_ms(b) / 1000);
    http_reply_header(q->x, "Retry-After", text);
    request_fail(q, 429, "Throttled", NULL,
                 "Request was not processed because too many requests were received. Reason: "
                 "VaultRequestTypeLimitReached");
    return false;
}

/* Name and version of the path, checked before any storage is touched. */
static bool
request_names(struct vault_request *q)
{
    bool has_version = q->segments_n == 3 && strcmp(q->op->path[2], "*") == 0;

    if (q->segments_n < 2)
        return true;
    if (!secret_name_ok(q->segments[1])) {
        request_fail(q, 400, "BadParameter", NULL,
                     "The request URI contains an invalid name: %s. A secret's name has 1 to 127 "
                     "letters, digits and hyphens.",
                     q->segments[1]);
        return false;
    }
    memcpy(q->name, q->segments[1], sizeof(q->name));
    for (size_t i = 0; i < sizeof(q->lower); i++)
        q->lower[i] = (char)tolower((unsigned char)q->name[i]);
    if (!has_version)
        return true;
    if (!secret_version_ok(q->segments[2])) {
        request_fail(q, 400, "BadParameter", NULL, "Invalid secret version: %.40s", q->segments[2]);
        return false;
    }
    for (size_t i = 0; i < sizeof(q->version); i++)
        q->version[i] = (char)tolower((unsigned char)q->segments[2][i]);
    return true;
}

static void
on_gone(void *arg)
{
    struct vault_request *q = arg;

    q->x = NULL; /* what is being written is still finished, and accounted for */
}

void
vault_serve(struct vault *v, struct http_exchange *x)
{
    struct vault_request *q = calloc(1, sizeof(*q));
    struct err e = { 0 };

    if (q == NULL) {
        http_reply(x, 503, NULL, (struct span){ 0 });
        return;
    }
    *q = (struct vault_request){
        .v = v, .x = x, .next = v->requests, .prev = &v->requests, .start_us = unix_us()
    };
    if (q->next != NULL)
        q->next->prev = &q->next;
    v->requests = q;
    (void)snprintf(q->peer, sizeof(q->peer), "%s", http_peer_addr(x));
    http_on_gone(x, on_gone, q);
    /* each answers by itself when it says no; a token is asked for before anything is judged */
    if (!request_host(q) || !request_authenticate(q) || !request_route(q) || !request_names(q) ||
        !request_authorize(q) || !request_api_version(q) || !request_throttle(q))
        return;
    if (q->op->run == NULL)
        request_fail(q, 400, "NotSupported", NULL,
                     "The operation \"%s\" is not supported by this version of meshroot.",
                     q->op->name);
    else if (q->op->run(q, &e) < 0)
        request_fail_err(q, &e);
}
