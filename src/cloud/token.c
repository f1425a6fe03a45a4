/* token.c - the token endpoint: client credentials in, a signed access token out, or Entra's error.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/str.h"
#include "cloud/form.h"
#include "cloud/room.h"
#include "obs/log.h"

enum {
    FIELD_MAX_BYTES = 4096,
    TOKEN_LIFE_S = 3599,
    FAILURES_MAX = 20, /* wrong secrets for one client id in a minute; then 429 */
    FAILURES_MS = 60 * 1000,
    TOKEN_MAX_BYTES = 16 * 1024,
};

static const struct metric_desc metric_tokens = { "meshroot_cloud_token_requests_total",
                                                  "Requests to the token endpoint, by outcome.",
                                                  METRIC_COUNTER };

/* One row for each way to fail. Source: specs/azure.md 2.4. */
struct refusal {
    int status;
    const char *error;
    unsigned aadsts;
    const char *text;
};
static const struct refusal bad_secret = { 401, "invalid_client", 7000215,
                                           "Invalid client secret provided." };
static const struct refusal no_credential = {
    401, "invalid_client", 7000218,
    "The request body must contain client_secret or client_assertion."
};
static const struct refusal assertion_unsupported = {
    401, "invalid_client", 700027, "Client assertions are not configured for this application."
};
static const struct refusal unknown_app = {
    400, "unauthorized_client", 700016,
    "Application with this identifier was not found in the directory."
};
static const struct refusal unknown_tenant = { 400, "invalid_request", 90002, "Tenant not found." };
static const struct refusal bad_scope = { 400, "invalid_scope", 70011,
                                          "The provided value for scope is not valid." };
static const struct refusal bad_grant = { 400, "unsupported_grant_type", 70003,
                                          "The app requested an unsupported grant type." };
static const struct refusal bad_form = { 400, "invalid_request", 90014,
                                         "The request body is malformed." };
static const struct refusal throttled = { 429, "temporarily_unavailable", 90033,
                                          "Too many failed attempts for this application." };
static const struct refusal internal = { 500, "server_error", 90033,
                                         "A transient error has occurred." };

static void
refuse(struct cloud *c, struct http_exchange *x, const struct refusal *f)
{
    char trace[GUID_BYTES] = "", correlation[GUID_BYTES] = "", now[RFC3339_BYTES], label[64],
         text[512];
    struct err e;

    if (guid_make(trace, &e) < 0 || guid_make(correlation, &e) < 0)
        trace[0] = '\0';
    rfc3339_s(unix_s(), now);
    (void)snprintf(label, sizeof(label), "result=\"AADSTS%u\"", f->aadsts);
    metric_add(c->metrics, &metric_tokens, label, 1);
    if (log_brake(&c->refusals, "cloud", mono_ms()))
        log_with(LOG_WARN, "cloud", LABELS({ "client", http_peer_addr(x) }),
                 "token refused: %s AADSTS%u", f->error, f->aadsts);
    (void)snprintf(text, sizeof(text), "AADSTS%u: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
                   f->aadsts, f->text, trace, correlation, now);
    if (f->status == 429)
        http_reply_header(x, "Retry-After", "60");
    reply_json(x, f->status,
               json_pack("{s:s, s:s, s:[i], s:s, s:s, s:s}", "error", f->error, "error_description",
                         text, "error_codes", (int)f->aadsts, "timestamp", now, "trace_id", trace,
                         "correlation_id", correlation));
}

/* -- the limiter of guesses ----------------------------------------------------------------------
 */

static struct failing *
failing_find(struct cloud *c, const char *client_id)
{
    for (size_t i = 0; i < FAILING_MAX; i++)
        if (strcmp(c->failing[i].client_id, client_id) == 0 &&
            mono_ms() - c->failing[i].since_ms < FAILURES_MS)
            return &c->failing[i];
    return NULL;
}

static void
failing_add(struct cloud *c, const char *client_id)
{
    struct failing *f = failing_find(c, client_id);

    if (f == NULL) {
        f = &c->failing[0];
        for (size_t i = 1; i < FAILING_MAX; i++) /* the oldest gives way */
            if (c->failing[i].since_ms < f->since_ms)
                f = &c->failing[i];
        *f = (struct failing){ .since_ms = mono_ms() };
        (void)snprintf(f->client_id, sizeof(f->client_id), "%s", client_id);
    }
    f->n++;
}

/* -- the token -----------------------------------------------------------------------------------
 */

/* The audience: the scope that ends in "/.default", without exactly that; v1: the resource. */
static int
audience_get(struct span body, bool v1, struct buf *ret, struct err *e)
{
    struct buf b = BUF_INIT(FIELD_MAX_BYTES);
    int r = form_field(body, v1 ? "resource" : "scope", &b, e);
    struct span rest = buf_span(&b), word;

    if (r == 0 && v1)
        r = b.n == 0 ? FORM_ABSENT : buf_add(ret, rest, e);
    else if (r == 0) {
        static const char suffix[] = "/.default";

        r = FORM_ABSENT;
        while (r == FORM_ABSENT && span_cut(&rest, ' ', &word))
            if (word.n >= sizeof(suffix) &&
                memcmp(word.p + word.n - (sizeof(suffix) - 1), suffix, sizeof(suffix) - 1) == 0)
                r = buf_add(ret, span_of(word.p, word.n - (sizeof(suffix) - 1)), e);
    }
    buf_done(&b);
    for (size_t i = 0; r == 0 && i < ret->n; i++)
        if (ret->p[i] < 0x21 || ret->p[i] > 0x7e)
            r = FORM_ABSENT;
    return r;
}

static int
token_make(struct cloud *c, const struct cloud_app *a, const char *audience, struct buf *out,
           struct err *e)
{
    char issuer[512], uti[GUID_BYTES];
    int64_t now = unix_s();

    cloud_issuer(c, issuer);
    TRY(guid_make(uti, e));
    json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}",
                          "aud", audience, "iss", issuer, "iat", (json_int_t)now, "nbf",
                          (json_int_t)now, "exp", (json_int_t)(now + TOKEN_LIFE_S), "appid",
                          a->client_id, "appidacr", "1", "oid", a->oid, "sub", a->oid, "tid",
                          c->tenant, "idtyp", "app", "uti", uti, "ver", "1.0");
    CLEANUP(str_freep) char *text = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);
    json_decref(j);
    if (text == NULL)
        return err_nomem(e);
    return jwt_sign(c->key, c->kid, true, span_str(text), out, e);
}

static json_t *
answer_make(const char *token, const char *audience, bool v1)
{
    char life[24], expires[24], now[24];

    if (!v1)
        return json_pack("{s:s, s:i, s:i, s:s}", "token_type", "Bearer", "expires_in", TOKEN_LIFE_S,
                         "ext_expires_in", TOKEN_LIFE_S, "access_token", token);
    (void)snprintf(life, sizeof(life), "%d", TOKEN_LIFE_S);
    (void)snprintf(now, sizeof(now), "%" PRId64, unix_s());
    (void)snprintf(expires, sizeof(expires), "%" PRId64, unix_s() + TOKEN_LIFE_S);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "token_type", "Bearer", "expires_in",
                     life, "ext_expires_in", life, "expires_on", expires, "not_before", now,
                     "resource", audience, "access_token", token);
}

/* r: 0 and *ret_app; or the row that says why not, in *ret_why. */
static int
client_check(struct cloud *c, struct span body, struct cloud_app *ret_app,
             const struct refusal **ret_why)
{
    struct buf id = BUF_INIT(FIELD_MAX_BYTES), secret = BUF_INIT(FIELD_MAX_BYTES);
    struct err e = { 0 };
    int r = form_field(body, "client_id", &id, &e);
    int s = form_field(body, "client_secret", &secret, &e);
    char client_id[GUID_BYTES] = "";

    if (id.n == GUID_BYTES - 1)
        (void)snprintf(client_id, sizeof(client_id), "%s", buf_text(&id));
    for (char *p = client_id; *p != '\0'; p++)
        *p = *p >= 'A' && *p <= 'F' ? (char)(*p - 'A' + 'a') : *p;
    *ret_why = NULL;
    const struct failing *f = failing_find(c, client_id);
    if (r < 0 || s < 0) {
        *ret_why = &bad_form;
    } else if (r == FORM_ABSENT || client_id[0] == '\0') {
        *ret_why = &unknown_app;
    } else if (s == FORM_ABSENT) {
        *ret_why = form_field(body, "client_assertion", &id, &e) == 0 ? &assertion_unsupported
                                                                      : &no_credential;
    } else {
        r = app_check(c, client_id, buf_span(&secret), ret_app, &e);
        if (r == CLOUD_NO_APP)
            *ret_why = &unknown_app;
        else if (r < 0)
            *ret_why = e.code == E_AUTH ? &bad_secret : &internal;
    }
    /* the right secret is never locked out: whoever knows a client id could otherwise stop its
     * owner */
    if (*ret_why == &bad_secret || *ret_why == &unknown_app) {
        failing_add(c, client_id);
        if (f != NULL && f->n > FAILURES_MAX)
            *ret_why = &throttled;
    }
    buf_done(&id);
    buf_wipe(&secret);
    return *ret_why == NULL ? 0 : FORM_ABSENT;
}

static const struct refusal *
request_check(struct cloud *c, struct http_exchange *x, struct span tenant, struct buf *b)
{
    struct err e;

    if (tenant.n != strlen(c->tenant) ||
        strncasecmp((const char *)tenant.p, c->tenant, tenant.n) != 0)
        return &unknown_tenant;
    if (form_field(http_body(x), "grant_type", b, &e) != 0 ||
        !span_eq_str(buf_span(b), "client_credentials"))
        return &bad_grant;
    return NULL;
}

void
token_serve(struct cloud *c, struct http_exchange *x, struct span tenant, bool v1)
{
    struct buf audience = BUF_INIT(FIELD_MAX_BYTES), token = BUF_INIT(TOKEN_MAX_BYTES);
    struct cloud_app app = { 0 };
    struct err e = { 0 };
    const struct refusal *why = request_check(c, x, tenant, &audience);

    if (why == NULL && client_check(c, http_body(x), &app, &why) == 0) {
        audience.n = 0;
        if (audience_get(http_body(x), v1, &audience, &e) != 0)
            why = &bad_scope;
        else if (token_make(c, &app, buf_text(&audience), &token, &e) < 0)
            why = &internal;
    }
    if (e.code != E_NONE)
        log_debug("cloud", "token: %s", e.msg);
    http_reply_header(x, "Cache-Control", "no-store");
    http_reply_header(x, "Pragma", "no-cache");
    if (why != NULL) {
        refuse(c, x, why);
    } else {
        metric_add(c->metrics, &metric_tokens, "result=\"ok\"", 1);
        log_with(LOG_INFO, "cloud", LABELS({ "client", http_peer_addr(x) }, { "app", app.name }),
                 "token issued for %s", buf_text(&audience));
        reply_json(x, 200, answer_make(buf_text(&token), buf_text(&audience), v1));
    }
    buf_done(&audience);
    buf_wipe(&token);
}
