/* revoke.c - leaves are revoked by serial or identity: on disk, then in the lists, then in force;
 * an identity at another replica too, by way of its courier (revoked_identity.h).
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

enum { VIEWS_AGAIN_MS = 5, ROWS_PAGE = 256 };

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
    uint8_t act[IDENTITY_ACT_BYTES]; /* of an identity: among r->identities while is_begun */
    bool is_begun, is_told;          /* is_told: another replica has, x is NULL */
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
    identities_done(&m->pub.identities);
    free(m);
}

static void into_force(struct revocations *r, const char *why);

/* An identity that is not done stays as it was; what was recorded of its leaves stands. */
static void
act_drop(struct job *j)
{
    if (!j->is_begun)
        return;
    identities_drop(&j->r->identities, j->act);
    j->is_begun = false;
    if (!room_of(j->r)->is_closed)
        into_force(j->r, "an identity is not revoked after all");
}

static void
told_fail(struct revocations *r, const char *identity, const struct err *why)
{
    struct err e = *why;

    (void)err_wrap(&e, "%.200s is not revoked here", identity);
    if (strcmp(e.msg, r->told_trouble) != 0)
        log_error("revoke", "another replica has revoked an identity: %s", e.msg);
    memcpy(r->told_trouble, e.msg, sizeof(r->told_trouble));
}

static void
job_fail(struct job *j, const struct err *e)
{
    struct revocations_room *m = room_of(j->r);

    act_drop(j);
    if (j->x != NULL)
        admin_reply_err(j->x, e);
    if (j->is_told && !m->is_closed)
        told_fail(j->r, j->identity, e);
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
    char hex[2 * SERIAL_MAX_BYTES + 1];

    j->newest = ledger_leaves(j->r->ca->conf.ledger, by_serial ? NULL : j->identity, on_leaf, j);
    if (j->is_short)
        return err_nomem(e);
    /* Where there are others, they may have some. */
    if (j->n + j->already > 0 || (!by_serial && (j->is_told || j->r->ca->conf.who.couriers_n > 0)))
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

static void
into_force(struct revocations *r, const char *why)
{
    bool is_new = lists_update(&r->lists);

    if (is_new || (r->ca->view != NULL && !cuts_equal(r->ca->view->cuts, r->identities.cuts)))
        ca_load_view(r->ca, why);
    numbers_show(r);
}

void
revocations_changed(struct revocations *r, const char *why)
{
    lists_dirty(&r->lists);
    into_force(r, why);
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
    (void)identities_prune(&r->identities, unix_s(), mono_ms());
    into_force(r, "the revocation lists have changed");
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

struct cuts *
revocations_cuts(const struct revocations *r)
{
    return r->identities.cuts;
}

struct crls *
revocations_handed_out(const struct revocations *r)
{
    return r->lists.handed_out;
}

/* Whether what is revoked here gets to other replicas: "yes", "none" (there is no courier), "old"
 * (the operator's version carries serial numbers alone), "away". */
static const char *
carried_text(const struct revocations *r)
{
    if (r->ca->conf.who.couriers_n == 0)
        return "none";
    if (r->courier_ms == 0 || mono_ms() - r->courier_ms > CA_COURIER_AWAY_MS)
        return "away";
    return r->courier_takes_identities ? "yes" : "old";
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
    if (j->identity[0] != '\0')
        o = json_object_with(o, "carried", json_string(carried_text(j->r)));
    if (j->x != NULL)
        admin_reply(j->x, 200, o);
    else
        json_decref(o);
    job_free(j);
    room_free_if_idle(m);
}

static void job_add(struct job *j);

static void
on_kept(const struct err *why, void *arg)
{
    struct job *j = arg;

    j->is_at_store = false;
    if (why->code != E_NONE) {
        job_fail(j, why);
        return;
    }
    log_info("revoke", "%s is revoked%s: %zu leaves of this replica", j->identity,
             j->is_told ? ", as another replica says" : "", j->added + j->already);
    if (j->is_told)
        j->r->told_trouble[0] = '\0';
    job_answer(j);
}

/* The last of it: from now on this replica says that it has done it. */
static void
job_keep(struct job *j)
{
    struct err e;

    j->is_at_store = true;
    if (identities_keep(&j->r->identities, j->act, on_kept, j, &e) == 0)
        return;
    j->is_at_store = false;
    job_fail(j, &e);
}

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
        job_keep(j);
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
look_later(struct job *j)
{
    struct err e;

    if (timer_new(j->r->ca->loop, on_again, j, &j->again, &e) < 0)
        job_fail(j, &e);
    else
        timer_set(j->again, 0);
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
    if (j->entry.serial_n > 0)
        job_answer(j);
    else if (j->is_last_look)
        job_keep(j);
    else
        look_later(j);
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

/* No leaf that was issued before now lives longer. */
static int64_t
longest_end(const struct ca_conf *conf, int64_t now)
{
    int64_t life = (int64_t)(conf->max_ttl_ms / 1000);

    if (conf->who.serving_accounts_n > 0 && life < SIGNER_SERVER_LIFE_S)
        life = SIGNER_SERVER_LIFE_S;
    return now + life;
}

static int
act_begin(struct job *j, const struct revoked_identity *told, struct err *e)
{
    int64_t now = unix_s();
    struct revoked_identity v = { .at = now,
                                  .until = longest_end(&j->r->ca->conf, now),
                                  .reason = j->entry.reason };

    if (told != NULL)
        v = *told;
    else
        TRY(random_bytes(v.id, sizeof(v.id), e));
    v.identity = j->identity;
    memcpy(j->act, v.id, sizeof(j->act));
    TRY(identities_begin(&j->r->identities, &v, e));
    j->is_begun = true;
    return 0;
}

static void
job_start(struct job *j, const struct revoked_identity *told)
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
    bool by_serial = j->entry.serial_n > 0;
    if (!by_serial && act_begin(j, told, &e) < 0) {
        job_fail(j, &e);
        return;
    }
    if (j->n > 0) {
        job_add(j);
    } else if (by_serial) {
        job_answer(j); /* it was revoked before */
    } else {
        revocations_changed(j->r, "an identity was revoked");
        look_later(j);
    }
}

static struct job *
job_new(struct revocations *r, struct http_exchange *x)
{
    struct job *j = calloc(1, sizeof(*j));

    if (j == NULL)
        return NULL;
    *j = (struct job){ .next = room_of(r)->jobs, .r = r, .x = x };
    room_of(r)->jobs = j;
    return j;
}

void
revocations_ask(struct revocations *r, const struct revoke_ask *a, struct http_exchange *x)
{
    struct job *j = job_new(r, x);
    struct err e;

    if (j == NULL) {
        (void)err_nomem(&e);
        admin_reply_err(x, &e);
        return;
    }
    j->entry = a->entry;
    j->is_confirmed = a->is_confirmed;
    (void)snprintf(j->identity, sizeof(j->identity), "%s", a->identity);
    http_on_gone(x, on_client_gone, j);
    job_start(j, NULL);
}

void
revocations_tell(struct revocations *r, const struct revoked_identity *v)
{
    size_t n = 0;

    for (const struct job *j = room_of(r)->jobs; j != NULL; j = j->next)
        n += j->is_told;
    if (n >= CA_REVOKE_TOLD_MAX || identities_find(&r->identities, v->id) != NULL)
        return; /* or it is under way */
    struct job *j = job_new(r, NULL);
    if (j == NULL)
        return;
    j->is_told = j->is_confirmed = true;
    j->entry.reason = v->reason;
    (void)snprintf(j->identity, sizeof(j->identity), "%s", v->identity);
    job_start(j, v);
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
        r = identities_open(&m->pub.identities, c->conf.store, c->loop, e);
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
    return json_pack("{s:I, s:I, s:o, s:s}", "revoked", (json_int_t)r->table.n, "identities",
                     (json_int_t)identities_kept(&r->identities), "lists", lists_json(&r->lists),
                     "trouble", r->lists.trouble);
}
