/* revoke.c - leaves are revoked by serial or identity: on disk, then in the lists, then in force.
 *
 * A leaf that is being issued while its identity is revoked must not slip through. From the moment
 * that the workers have the new view no revoked certificate opens a call (authn.c) or takes its
 * leaf (create_certificate.c); when no call holds an older view, the rows that came meanwhile by a
 * client certificate are looked through once more.
 */
#include "ca/revoke.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/admin.h"
#include "net/json.h"
#include "obs/log.h"

enum { VIEWS_AGAIN_MS = 5, ROWS_PAGE = 256, SERIAL_HEX_MAX = 2 * SERIAL_MAX_BYTES };

static const struct metric_desc
    m_revoked = { "meshroot_revoked_leaves", "Leaves revoked and not expired.", METRIC_GAUGE },
    m_unsigned = { "meshroot_crl_unsigned",
                   "Signers whose revocation list is not signed as it should be.", METRIC_GAUGE },
    m_next = { "meshroot_crl_next_update_timestamp_seconds",
               "When the revocation list of the signer in force runs out, in unix time.",
               METRIC_GAUGE };

/* One revocation under way. */
struct job {
    struct job *next;
    struct revocations *r;
    struct http_exchange *x; /* NULL: the client has gone */
    struct crl_entry entry;  /* serial (serial_n 0: by identity), reason */
    char identity[LEDGER_IDENTITY_BYTES];
    bool is_confirmed;
    struct revoked *found; /* owned; to be added */
    size_t n, cap, added, already;
    bool is_short; /* out of memory while looking */
    uint64_t newest;
    bool is_last_look, is_at_store;
    struct timer *again;
};

struct revocations_room {
    struct revocations pub;
    struct job *jobs;
    size_t held_n;
    bool is_closed;
};

static struct revocations_room *
room_of(struct revocations *r)
{
    return (struct revocations_room *)(void *)r;
}

/* -- jobs -- */

static void
found_done(struct job *j)
{
    for (size_t i = 0; i < j->n; i++)
        free(j->found[i].identity);
    j->n = 0;
}

static void
job_free(struct job *j)
{
    struct job **at = &room_of(j->r)->jobs;

    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    if (j->again != NULL)
        timer_free(j->again);
    found_done(j);
    free(j->found);
    free(j);
}

static void
room_free_if_idle(struct revocations_room *m)
{
    if (!m->is_closed || m->jobs != NULL || m->held_n > 0)
        return;
    lists_done(&m->pub.lists);
    revoked_done(&m->pub.table);
    free(m);
}

static void
job_fail(struct job *j, const struct err *e)
{
    struct revocations_room *m = room_of(j->r);

    if (j->x != NULL)
        admin_reply_err(j->x, e);
    job_free(j);
    room_free_if_idle(m);
}

static void
on_client_gone(void *arg)
{
    struct job *j = arg;

    j->x = NULL;
}

/* -- which leaves -- */

static void
found_add(struct job *j, const uint8_t signer_id[DIGEST_BYTES], struct span serial,
          int64_t not_after, const char *identity)
{
    struct revoked v = { .not_after = not_after, .entry = j->entry };
    struct err e;

    if (revoked_find(&j->r->table, signer_id, serial) != NULL) {
        j->already++;
        return;
    }
    if (j->n > REVOKED_MAX)
        return; /* revoked_add says it */
    if (j->n == j->cap) {
        size_t cap = j->cap == 0 ? 16 : 2 * j->cap;
        struct revoked *p = realloc(j->found, cap * sizeof(*p));

        j->is_short = j->is_short || p == NULL;
        if (p == NULL)
            return;
        j->found = p;
        j->cap = cap;
    }
    memcpy(v.signer_id, signer_id, DIGEST_BYTES);
    memcpy(v.entry.serial, serial.p, v.entry.serial_n = serial.n);
    v.entry.revoked = unix_s();
    if (str_dup(span_str(identity), &v.identity, &e) < 0)
        j->is_short = true;
    else
        j->found[j->n++] = v;
}

static void
on_leaf(const struct ledger_leaf *leaf, void *arg)
{
    struct job *j = arg;

    if (j->entry.serial_n > 0 &&
        !span_eq(leaf->serial, span_of(j->entry.serial, j->entry.serial_n)))
        return;
    found_add(j, leaf->signer_id, leaf->serial, leaf->not_after, leaf->identity);
}

static int
leaves_find(struct job *j, struct err *e)
{
    bool by_serial = j->entry.serial_n > 0;
    char hex[SERIAL_HEX_MAX + 1];

    j->newest = ledger_leaves(j->r->ca->conf.ledger, by_serial ? NULL : j->identity, on_leaf, j);
    if (j->is_short)
        return err_nomem(e);
    if (j->n + j->already > 0)
        return 0;
    hex_text(span_of(j->entry.serial, j->entry.serial_n), hex);
    if (by_serial)
        return err_set(e, E_NOTFOUND,
                       "no leaf with serial number %s is in the ledger and not expired; meshroot "
                       "ledger show %s says whether there ever was one",
                       hex, hex);
    return err_set(e, E_NOTFOUND,
                   "no leaf of %s is in the ledger and not expired; meshroot ledger list "
                   "--identity shows its leaves",
                   j->identity);
}

/* -- into force -- */

static void
numbers_show(struct revocations *r)
{
    struct metrics *m = r->ca->conf.metrics;
    size_t n = 0;

    for (size_t i = 0; i < r->lists.n; i++)
        n += r->lists.all[i].bare != NULL;
    metric_set(m, &m_revoked, "", (double)r->table.n);
    metric_set(m, &m_unsigned, "", (double)n);
    if (r->lists.n > 0 && r->lists.all[0].list != NULL)
        metric_set(m, &m_next, "", (double)crl_next_update(r->lists.all[0].list));
}

void
revocations_changed(struct revocations *r, const char *why)
{
    lists_dirty(&r->lists);
    if (lists_update(&r->lists))
        ca_load_view(r->ca, why);
    numbers_show(r);
}

void
revocations_hold(struct revocations *r)
{
    room_of(r)->held_n++;
}

bool
revocations_let_go(struct revocations *r)
{
    struct revocations_room *m = room_of(r);
    bool is_open = !m->is_closed;

    m->held_n--;
    room_free_if_idle(m);
    return is_open;
}

void
revocations_tick(struct revocations *r)
{
    if (revoked_prune(&r->table, unix_s(), mono_ms()))
        lists_dirty(&r->lists);
    if (lists_update(&r->lists))
        ca_load_view(r->ca, "the revocation lists have changed");
    numbers_show(r);
}

void
revocations_signer(struct revocations *r, struct cert *cert, struct signer *s)
{
    lists_signer(&r->lists, cert, s);
    (void)lists_update(&r->lists); /* the caller makes the view */
    numbers_show(r);
}

void
revocations_above(struct revocations *r, struct crls *above)
{
    lists_above(&r->lists, above);
}

struct crls *
revocations_handed_out(const struct revocations *r)
{
    return r->lists.handed_out;
}

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

static void
job_answer(struct job *j)
{
    struct revocations_room *m = room_of(j->r);
    const struct crl_lists *l = &j->r->lists;
    json_t *o = json_pack("{s:I, s:I, s:I, s:o}", "revoked", (json_int_t)j->added, "already",
                          (json_int_t)j->already, "in_force", (json_int_t)j->r->table.n, "lists",
                          lists_json(l));

    if (l->trouble[0] != '\0')
        o = json_object_with(o, "trouble", json_string(l->trouble));
    if (j->x != NULL)
        admin_reply(j->x, 200, o);
    else
        json_decref(o);
    job_free(j);
    room_free_if_idle(m);
}

static void job_add(struct job *j);

/* Rows behind the last look that a client certificate of this identity brought: it may have been
 * one of those that are revoked now. */
static int
row_look(const struct ledger_row *row, void *arg, struct err *e)
{
    struct job *j = arg;

    (void)e;
    if (row->seq > j->newest && strcmp(row->identity, j->identity) == 0 &&
        strstr(row->auth, "cert:") != NULL)
        found_add(j, row->signer_id, span_of(row->serial, row->serial_n), row->not_after,
                  row->identity);
    j->is_last_look = row->seq > j->newest; /* more may lie behind */
    return 0;
}

static void
last_look(struct job *j)
{
    size_t n = ROWS_PAGE;
    struct err e;

    found_done(j);
    do {
        found_done(j);
        j->is_last_look = false;
        if (ledger_rows(j->r->ca->conf.ledger, 0, n, row_look, j, &e) < 0) {
            job_fail(j, &e);
            return;
        }
        n *= 4;
    } while (j->is_last_look);
    j->is_last_look = true;
    if (j->n > 0)
        job_add(j);
    else
        job_answer(j);
}

static void
on_again(void *arg)
{
    struct job *j = arg;

    if (atomic_load_explicit(&j->r->ca->views_alive, memory_order_acquire) > 1)
        timer_set(j->again, VIEWS_AGAIN_MS);
    else
        last_look(j);
}

static void
on_added(const struct err *why, void *arg)
{
    struct job *j = arg;
    struct revocations *r = j->r;
    struct err e = *why;

    j->is_at_store = false;
    if (room_of(r)->is_closed) {
        (void)err_set(&e, E_STATE, "the CA has stopped; what is recorded is in force when it runs");
        job_fail(j, &e);
        return;
    }
    revocations_changed(r, "leaves were revoked");
    if (e.code != E_NONE) {
        job_fail(j, &e);
        return;
    }
    j->added += j->n;
    log_info("revoke", "%zu leaves are revoked (%s), in force: %zu", j->n,
             crl_reason_name(j->entry.reason), r->table.n);
    if (j->entry.serial_n > 0 || j->is_last_look)
        job_answer(j);
    else if (timer_new(r->ca->loop, on_again, j, &j->again, &e) < 0)
        job_fail(j, &e);
    else
        timer_set(j->again, 0);
}

static void
job_add(struct job *j)
{
    struct err e;

    j->is_at_store = true;
    if (revoked_add(&j->r->table, j->found, j->n, on_added, j, &e) == 0)
        return;
    j->is_at_store = false;
    job_fail(j, &e);
}

static void
job_start(struct job *j)
{
    struct err e;

    if (leaves_find(j, &e) < 0) {
        job_fail(j, &e);
        return;
    }
    if (j->n > CA_REVOKE_ASKS_ABOVE && !j->is_confirmed) {
        (void)err_set(&e, E_DENIED,
                      "this revokes %zu leaves of %s, whose holders are cut off until they renew; "
                      "nothing has changed; to do it: --yes",
                      j->n, j->identity);
        job_fail(j, &e);
        return;
    }
    if (j->n == 0)
        job_answer(j); /* all of them were revoked before */
    else
        job_add(j);
}

/* -- admin -- */

static int
request_read(struct job *j, const json_t *q, struct err *e)
{
    const char *serial = json_string_value(json_object_get(q, "serial"));
    const char *identity = json_string_value(json_object_get(q, "identity"));
    const char *reason = json_string_value(json_object_get(q, "reason"));

    if ((serial == NULL) == (identity == NULL))
        return err_set(e, E_INVAL, "want either a serial number or an identity");
    if (reason != NULL)
        TRY(crl_reason_parse(reason, &j->entry.reason, e));
    j->is_confirmed = json_is_true(json_object_get(q, "yes"));
    if (identity != NULL) {
        struct spiffe_id id;

        TRY(spiffe_parse(span_str(identity), &id, e));
        (void)snprintf(j->identity, sizeof(j->identity), "%s", identity);
        return 0;
    }
    size_t n = strlen(serial);
    if (n == 0 || n % 2 != 0 || n > SERIAL_HEX_MAX ||
        hex_parse(span_str(serial), j->entry.serial, n / 2, e) < 0 || j->entry.serial[0] == 0)
        return err_set(e, E_INVAL, "\"%.80s\" is no serial number", serial);
    j->entry.serial_n = n / 2;
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
    struct err e;

    if (r == NULL)
        return;
    struct job *j = calloc(1, sizeof(*j));
    if (j == NULL) {
        (void)err_nomem(&e);
        admin_reply_err(x, &e);
        return;
    }
    *j = (struct job){ .next = room_of(r)->jobs, .r = r, .x = x };
    room_of(r)->jobs = j;
    json_t *q = json_loadb((const char *)body.p, body.n, JSON_REJECT_DUPLICATES, NULL);
    int bad = request_read(j, q, &e);
    json_decref(q);
    if (bad < 0) {
        job_fail(j, &e);
        return;
    }
    http_on_gone(x, on_client_gone, j);
    job_start(j);
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
    admin_reply(x, 200, json_pack("{s:o, s:o}", "revoked", all, "lists", lists_json(&r->lists)));
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

/* -- start and end -- */

int
revocations_new(struct ca *c, struct revocations **ret, struct err *e)
{
    struct revocations_room *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    m->pub.ca = c;
    int r = revoked_open(&m->pub.table, c->conf.store, c->loop, e);
    if (r == 0)
        r = lists_open(&m->pub.lists, c, &m->pub.table, e);
    if (r < 0) {
        revocations_free(&m->pub);
        return err_result(e);
    }
    *ret = &m->pub;
    return 0;
}

void
revocations_free(struct revocations *r)
{
    struct revocations_room *m = r == NULL ? NULL : room_of(r);
    struct err e;

    if (m == NULL)
        return;
    m->is_closed = true;
    (void)err_set(&e, E_STATE, "the CA is stopping");
    for (struct job *j = m->jobs, *next; j != NULL; j = next) {
        next = j->next;
        if (j->x != NULL)
            admin_reply_err(j->x, &e);
        j->x = NULL;
        if (!j->is_at_store)
            job_free(j);
    }
    room_free_if_idle(m);
}

json_t *
revocations_status(const struct revocations *r)
{
    return json_pack("{s:I, s:o, s:s}", "revoked", (json_int_t)r->table.n, "lists",
                     lists_json(&r->lists), "trouble", r->lists.trouble);
}
