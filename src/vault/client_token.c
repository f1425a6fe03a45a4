/* client_token.c - one token per client, fetched once for all calls that wait for it. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "vault/client_room.h"

bool
token_usable(const struct vault_client *c)
{
    return c->token != NULL && mono_ms() < c->token_ends_ms;
}

void
token_drop(struct vault_client *c)
{
    secret_free(STEAL(c->token));
}

/* Calls that waited: on with them, or they fail for the same reason. */
static void
waiting_resume(struct vault_client *c, const struct err *why)
{
    struct vault_call *q, *next;

    for (q = c->calls; q != NULL; q = next) {
        next = q->next;
        if (!q->waits)
            continue;
        q->waits = false;
        if (why == NULL) {
            call_send(q);
        } else {
            struct err e = *why;

            call_fail(q, &e);
        }
    }
}

static int
token_keep(struct vault_client *c, const json_t *j, struct err *e)
{
    const char *token = json_string_value(json_object_get(j, "access_token"));
    const json_t *life = json_object_get(j, "expires_in");
    struct buf header = BUF_INIT(TOKEN_MAX_BYTES);
    uint64_t s = 0;

    if (json_is_integer(life) && json_integer_value(life) > 0)
        s = (uint64_t)json_integer_value(life);
    else if (!json_is_string(life) ||
             u64_parse(span_str(json_string_value(life)), 1, INT32_MAX, &s, e) < 0)
        s = 0;
    if (token == NULL || s == 0 || strpbrk(token, "\r\n ") != NULL)
        return err_set(e, E_PEER, "the answer has no access token");
    int r = buf_addf(&header, e, "Authorization: Bearer %s", token);
    token_drop(c);
    if (r == 0) /* with its NUL: it is given to curl as a text */
        r = secret_new(span_of(header.p, header.n + 1), &c->token, e);
    buf_wipe(&header);
    if (s > TOKEN_MAX_LIFE_S)
        s = TOKEN_MAX_LIFE_S;
    /* one that lives shorter than the margin still serves the calls that wait for it */
    c->token_ends_ms = mono_ms() + 1000 * (s > 2 * TOKEN_EARLY_S ? s - TOKEN_EARLY_S : s / 2 + 1);
    return r;
}

static void
on_token(const struct http_answer *a, const struct err *why, void *arg)
{
    struct vault_client *c = arg;
    struct err e = { 0 };
    int r;

    c->fetch = NULL;
    if (why != NULL) {
        e = *why;
        r = -1;
    } else if (a->status != 200) {
        r = answer_error(a, &e);
        if (e.code == E_INVAL || e.code == E_NOTFOUND) /* bad request: of our credentials */
            e.code = E_AUTH;
    } else {
        CLEANUP(json_unrefp) json_t *j = json_loadb((const char *)a->body.p, a->body.n, 0, NULL);

        r = token_keep(c, j, &e);
    }
    if (r < 0)
        (void)err_wrap(&e, "token for client %.64s", c->client_id);
    waiting_resume(c, r < 0 ? &e : NULL);
}

static int
form_add(struct buf *b, const char *name, struct span value, struct err *e)
{
    TRY(buf_addf(b, e, "%s%s=", b->n == 0 ? "" : "&", name));
    for (size_t i = 0; i < value.n; i++) {
        uint8_t ch = value.p[i];
        bool plain = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
                     (ch >= 'A' && ch <= 'Z') || ch == '-' || ch == '.' || ch == '_';

        TRY(plain ? buf_add_byte(b, ch, e) : buf_addf(b, e, "%%%02X", ch));
    }
    return 0;
}

/* A projected token is rotated by the kubelet: it is read for each use. */
static int
assertion_add(const struct vault_client *c, struct buf *form, struct err *e)
{
    struct buf token = BUF_INIT(TOKEN_MAX_BYTES);
    int r = file_read(c->assertion_file, &token, e);

    if (r == FILE_ABSENT)
        r = err_set(e, E_AUTH, "%s: there is no token for workload identity", c->assertion_file);
    if (r == 0)
        r = form_add(form, "client_assertion_type",
                     span_str("urn:ietf:params:oauth:client-assertion-type:jwt-bearer"), e);
    if (r == 0)
        r = form_add(form, "client_assertion", span_trim(buf_span(&token)), e);
    buf_wipe(&token);
    return r;
}

static int
token_form(const struct vault_client *c, struct buf *form, struct err *e)
{
    TRY(form_add(form, "grant_type", span_str("client_credentials"), e));
    TRY(form_add(form, "client_id", span_str(c->client_id), e));
    if (c->assertion_file != NULL)
        TRY(assertion_add(c, form, e));
    else
        TRY(form_add(form, "client_secret", secret_span(c->client_secret), e));
    return form_add(form, "scope", span_str(c->challenge.scope), e);
}

/* Source: specs/azure.md 2.7: the resource is the scope without "/.default". */
static int
imds_fetch(struct vault_client *c, struct err *e)
{
    static const char *const headers[] = { "Metadata: true", "Accept: application/json", NULL };
    struct buf url = BUF_INIT(BODY_BYTES);
    struct span scope = span_str(c->challenge.scope);
    size_t tail = strlen("/.default");

    if (scope.n > tail && strcmp(c->challenge.scope + scope.n - tail, "/.default") == 0)
        scope.n -= tail;
    int r = buf_addf(&url, e, "%s/metadata/identity/oauth2/token?api-version=2018-02-01", c->imds);
    if (r == 0)
        r = form_add(&url, "resource", scope, e);
    if (r == 0 && c->client_id[0] != '\0')
        r = form_add(&url, "client_id", span_str(c->client_id), e);
    struct http_request_conf q = { .method = "GET",
                                   .url = buf_text(&url),
                                   .headers = headers,
                                   .timeout_ms = c->timeout_ms,
                                   .max_body_bytes = 2 * (size_t)TOKEN_MAX_BYTES };
    if (r == 0)
        r = http_send(c->http, &q, on_token, c, &c->fetch, e);
    buf_done(&url);
    return r;
}

int
token_fetch(struct vault_client *c, struct err *e)
{
    static const char *const headers[] = { "Content-Type: application/x-www-form-urlencoded",
                                           "Accept: application/json", NULL };
    const char *tenant = c->tenant[0] != '\0' ? c->tenant : c->challenge.tenant;
    char origin[ORIGIN_BYTES], url[ORIGIN_BYTES + FIELD_BYTES + 32];
    struct buf form = BUF_INIT(BODY_BYTES);

    if (c->fetch != NULL)
        return 0;
    if (c->imds != NULL)
        return imds_fetch(c, e);
    origin_text(c->has_authority ? &c->authority : &c->challenge.authority, origin);
    (void)snprintf(url, sizeof(url), "%s/%s/oauth2/v2.0/token", origin, tenant);
    int r = token_form(c, &form, e);
    struct http_request_conf q = { .method = "POST",
                                   .url = url,
                                   .headers = headers,
                                   .body = buf_span(&form),
                                   .ca_file = c->ca_file,
                                   .timeout_ms = c->timeout_ms,
                                   .max_body_bytes = 2 * (size_t)TOKEN_MAX_BYTES };
    if (r == 0)
        r = http_send(c->http, &q, on_token, c, &c->fetch, e);
    buf_wipe(&form);
    return r;
}
