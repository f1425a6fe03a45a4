/* revoke_serve.c - what is asked about revocations over HTTP: the calls on the admin socket, and
 * the lists on the monitoring port. */
#include <stdio.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/revoke.h"
#include "net/admin.h"
#include "net/json.h"

enum { SERIAL_HEX_MAX = 2 * SERIAL_MAX_BYTES };

/* -- admin -- */

static json_t *
leaf_json(const struct revoked *v)
{
    char serial[SERIAL_HEX_MAX + 1], signer[DIGEST_TEXT_BYTES], end[RFC3339_BYTES],
        at[RFC3339_BYTES];

    hex_text(span_of(v->entry.serial, v->entry.serial_n), serial);
    hex_text(span_of(v->signer_id, DIGEST_BYTES), signer);
    rfc3339_s(v->not_after, end);
    rfc3339_s(v->entry.revoked, at);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "serial", serial, "identity", v->identity,
                     "signer", signer, "not_after", end, "revoked", at, "reason",
                     crl_reason_name(v->entry.reason));
}

static json_t *
identity_json(const struct revoked_identity *v)
{
    char end[RFC3339_BYTES], at[RFC3339_BYTES];

    rfc3339_s(v->until, end);
    rfc3339_s(v->at, at);
    return json_pack("{s:s, s:s, s:s, s:s}", "identity", v->identity, "revoked", at, "until", end,
                     "reason", crl_reason_name(v->reason));
}

static int
request_read(struct revoke_ask *a, const json_t *q, struct err *e)
{
    const char *serial = json_string_value(json_object_get(q, "serial"));
    const char *identity = json_string_value(json_object_get(q, "identity"));
    const char *reason = json_string_value(json_object_get(q, "reason"));

    if ((serial == NULL) == (identity == NULL))
        return err_set(e, E_INVAL, "want either a serial number or an identity");
    if (reason != NULL)
        TRY(crl_reason_parse(reason, &a->entry.reason, e));
    a->is_confirmed = json_is_true(json_object_get(q, "yes"));
    if (identity != NULL) {
        struct spiffe_id id;

        TRY(spiffe_parse(span_str(identity), &id, e));
        (void)snprintf(a->identity, sizeof(a->identity), "%s", identity);
        return 0;
    }
    size_t n = strlen(serial);
    if (n == 0 || n % 2 != 0 || n > SERIAL_HEX_MAX ||
        hex_parse(span_str(serial), a->entry.serial, n / 2, e) < 0 || a->entry.serial[0] == 0)
        return err_set(e, E_INVAL, "\"%.80s\" is no serial number", serial);
    a->entry.serial_n = n / 2;
    return 0;
}

static struct revocations *
running(void *self, struct http_exchange *x)
{
    struct ca *c = *(struct ca *const *)self;
    struct err e;

    if (c != NULL)
        return c->revocations;
    (void)err_set(&e, E_STATE, "no CA runs here: the mesh is disabled");
    admin_reply_err(x, &e);
    return NULL;
}

static void
serve_revoke(void *self, struct http_exchange *x)
{
    struct revocations *r = running(self, x);
    struct span body = http_body(x);
    struct revoke_ask a = { .is_confirmed = false };
    struct err e;

    if (r == NULL)
        return;
    json_t *q = json_loadb((const char *)body.p, body.n, JSON_REJECT_DUPLICATES, NULL);
    int bad = request_read(&a, q, &e);
    json_decref(q);
    if (bad < 0)
        admin_reply_err(x, &e);
    else
        revocations_ask(r, &a, x);
}

static void
serve_revoked(void *self, struct http_exchange *x)
{
    const struct revocations *r = running(self, x);

    if (r == NULL)
        return;
    json_t *all = json_array();
    for (size_t i = 0; i < r->table.n; i++)
        all = json_array_with(all, leaf_json(&r->table.all[i]));
    json_t *identities = json_array();
    for (size_t i = 0; i < r->identities.n; i++)
        if (r->identities.all[i].is_kept)
            identities = json_array_with(identities, identity_json(&r->identities.all[i]));
    admin_reply(x, 200,
                json_pack("{s:o, s:o, s:o}", "revoked", all, "identities", identities, "lists",
                          lists_json(&r->lists)));
}

const struct admin_route ca_admin_routes[] = {
    { "POST", "/v1/ca/revoke", serve_revoke },
    { "GET", "/v1/ca/revoked", serve_revoked },
    { NULL, NULL, NULL },
};

/* -- pages -- */

enum { PAGE_MAX_AGE_S = 60 };

/* Lists are fetched by whoever checks certificates, again and again: caches may keep them for a
 * moment (RFC 5280 says how long they are good; we say when to look again). */
static void
page_reply(struct http_exchange *x, const char *type, struct span body)
{
    char age[32], tag[2 * DIGEST_BYTES + 3];
    uint8_t id[DIGEST_BYTES];
    const char *has = http_header(x, "If-None-Match");

    digest(body, id);
    tag[0] = '"';
    hex_text(span_of(id, DIGEST_BYTES), tag + 1);
    tag[2 * DIGEST_BYTES + 1] = '"';
    tag[2 * DIGEST_BYTES + 2] = '\0';
    (void)snprintf(age, sizeof(age), "max-age=%d", PAGE_MAX_AGE_S);
    http_reply_header(x, "Cache-Control", age);
    http_reply_header(x, "ETag", tag);
    if (has != NULL && strcmp(has, tag) == 0)
        http_reply(x, 304, NULL, span_str(""));
    else
        http_reply(x, 200, type, body);
}

static void
page_none(struct http_exchange *x)
{
    http_reply(x, 404, "text/plain", span_str("this CA has no signed revocation list (yet)\n"));
}

static void
page_der(const struct crl_lists *l, struct http_exchange *x)
{
    if (l->n == 0 || l->all[0].list == NULL)
        page_none(x);
    else
        page_reply(x, "application/pkix-crl", crl_der(l->all[0].list)); /* RFC 2585 4.2 */
}

static void
page_pem(const struct crl_lists *l, struct http_exchange *x)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(crls_unrefp) struct crls *all = NULL;
    struct crl *v[CA_LISTS_MAX + BUNDLE_LISTS_MAX];
    size_t n = 0;
    struct err e;

    for (size_t i = 0; i < l->n; i++)
        if (l->all[i].list != NULL)
            v[n++] = l->all[i].list;
    n += lists_above_alone(l, v + n);
    if (n == 0)
        page_none(x);
    else if (crls_new(v, n, &all, &e) < 0 || crls_to_pem(all, &pem, &e) < 0)
        http_reply(x, 500, "text/plain", span_str("out of memory\n"));
    else
        page_reply(x, "application/x-pem-file", buf_span(&pem));
}

bool
ca_page(const struct ca *c, struct http_exchange *x)
{
    static const struct {
        const char *path;
        void (*reply)(const struct crl_lists *l, struct http_exchange *x);
    } pages[] = { { "/crl", page_der }, { "/ca-crl.pem", page_pem } };

    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        if (strcmp(http_path(x), pages[i].path) != 0)
            continue;
        if (strcmp(http_method(x), "GET") != 0)
            http_reply(x, 405, "text/plain", span_str("GET only\n"));
        else if (c == NULL)
            page_none(x);
        else
            pages[i].reply(&c->revocations->lists, x);
        return true;
    }
    return false;
}
