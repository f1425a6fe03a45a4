/* revoke_share.c - meshroot.v1.Revocations: what is revoked at another replica, and what is here.
 *
 * A call comes to a worker, the table is the control loop's: there and back, as in health.c. What
 * is told goes the way of our own revocations: on disk, into the lists, into force, and then the
 * answer. Leaves of a signer that this replica never had are said unsigned, as those of one whose
 * key is gone.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "ca/revoke_page.h"

static const char method_name[] = "ExchangeRevoked";

struct exchange {
    struct ca_worker *worker;
    struct grpc_call *call; /* the worker's; NULL: the client has gone */
    uint64_t start_us;
    struct buf request, answer;
    Meshroot__V1__RevokedPage *m; /* of the request */
    struct revocations *r;
    struct revoked told[PAGE_LEAVES_MAX]; /* that are new here; identities are owned */
    size_t n;
    int code;
    struct err why; /* of a code that is not OK; or why some were not taken */
};

static void
exchange_free(struct exchange *x)
{
    for (size_t i = 0; i < x->n; i++)
        free(x->told[i].identity);
    if (x->m != NULL)
        meshroot__v1__revoked_page__free_unpacked(x->m, NULL);
    buf_done(&x->request);
    buf_done(&x->answer);
    free(x);
}

/* -- on the worker again ------------------------------------------------------------------------
 */

static void
on_back(void *arg)
{
    struct exchange *x = arg;
    struct err e;

    ca_metrics_handled(x->worker->ca, method_name, x->call == NULL ? GRPC_CANCELLED : x->code,
                       x->start_us);
    if (x->call != NULL && x->code != GRPC_OK)
        grpc_finish(x->call, x->code, x->why.msg);
    else if (x->call != NULL && grpc_send(x->call, buf_span(&x->answer), &e) < 0)
        grpc_finish(x->call, GRPC_INTERNAL, e.msg);
    else if (x->call != NULL)
        grpc_finish(x->call, GRPC_OK, NULL);
    exchange_free(x);
}

static void
go_back(struct exchange *x)
{
    struct err e;

    if (loop_post(x->worker->loop, on_back, x, &e) == 0)
        return;
    log_error("serverca", "revoked leaves cannot be told: %s", e.msg);
    exchange_free(x); /* the call ends at its deadline */
}

/* -- on the control loop ------------------------------------------------------------------------
 */

static struct cert *
issuer_known(const struct crl_lists *l, const uint8_t id[DIGEST_BYTES])
{
    const struct crl_list *x = lists_find(l, id);

    return x == NULL ? NULL : x->cert;
}

/* Those that are done here. */
static void
identities_add(const struct revoked_identities *t, struct revoke_page *page)
{
    uint32_t at = 0;

    for (size_t i = 0; i < t->n; i++) {
        if (!t->all[i].is_kept)
            continue;
        if (at >= page->m.identities_from)
            (void)revoke_page_add_identity(page, &t->all[i]);
        at++;
    }
    page->m.identities_total = at;
}

static int
answer_make(struct exchange *x, struct err *e)
{
    const struct revoked_table *t = &x->r->table;
    struct revoke_page page;

    revoke_page_init(&page, x->m->from, x->m->identities_from);
    page.m.total = (uint32_t)t->n;
    page.m.trouble = x->why.msg[0] != '\0' ? x->why.msg : x->r->told_trouble;
    identities_add(&x->r->identities, &page);
    for (size_t i = x->m->from; i < t->n; i++) {
        const struct revoked *v = &t->all[i];

        if (!revoke_page_add(&page, v, issuer_known(&x->r->lists, v->signer_id)))
            break;
    }
    return revoke_page_pack(&page, &x->answer, e);
}

static void
answer(struct exchange *x)
{
    struct err e;

    x->code = GRPC_OK;
    if (answer_make(x, &e) < 0) {
        x->code = GRPC_RESOURCE_EXHAUSTED;
        x->why = e;
    }
    go_back(x);
}

static void
on_added(const struct err *why, void *arg)
{
    struct exchange *x = arg;

    if (!revocations_let_go(x->r)) { /* the CA has stopped, its workers are gone */
        exchange_free(x);
        return;
    }
    if (why->code == E_NONE)
        log_info("revoke", "%zu leaves are revoked, as another replica says", x->n);
    else
        x->why = *why;
    revocations_changed(x->r, "leaves were revoked at another replica");
    answer(x);
}

/* One that is new here is taken to x->told. The leaf's end is bounded by its issuer's, so that
 * nothing stays in the table for ever. r: 0. Errors: INVAL, LIMIT, NOMEM. */
static int
leaf_take(struct exchange *x, const Meshroot__V1__RevokedLeaf *m, struct err *e)
{
    struct revoked *v = &x->told[x->n];
    CLEANUP(cert_unrefp) struct cert *brought = NULL;

    TRY(revoke_leaf_read(m, v, e));
    struct cert *issuer = issuer_known(&x->r->lists, v->signer_id);
    struct span serial = span_of(v->entry.serial, v->entry.serial_n);
    bool is_old =
        v->not_after < unix_s() || revoked_find(&x->r->table, v->signer_id, serial) != NULL;
    int r = 0;

    if (!is_old && issuer == NULL) {
        r = revoke_issuer_find(x->m, v->signer_id, &brought, e);
        if (r == REVOKE_NO_ISSUER)
            r = err_set(e, E_INVAL, "the certificate that signed a revoked leaf is not there");
        else if (r == 0)
            r = lists_issuer(&x->r->lists, issuer = brought, e);
    }
    if (r == 0 && !is_old && v->not_after > cert_not_after(issuer))
        r = err_set(e, E_INVAL, "a revoked leaf lives longer than its issuer");
    if (r < 0 || is_old)
        free(STEAL(v->identity));
    else
        x->n++;
    return r;
}

/* Identities are begun, not waited for: the caller hears of them when they are done. */
static int
identity_take(struct exchange *x, const Meshroot__V1__RevokedIdentity *m, struct err *e)
{
    struct revoked_identity v;

    TRY(revoke_identity_read(m, &v, e));
    if (v.until >= unix_s())
        revocations_tell(x->r, &v);
    free(v.identity);
    return 0;
}

static void
told_take(struct exchange *x)
{
    if (x->m->n_identities == 0 && x->m->from == 0 && x->m->identities_from == 0)
        x->r->told_trouble[0] = '\0'; /* the caller knows of none that is not done here */
    for (size_t i = 0; i < x->m->n_identities; i++)
        if (identity_take(x, x->m->identities[i], &x->why) < 0) {
            x->code = GRPC_INVALID_ARGUMENT;
            go_back(x);
            return;
        }
    for (size_t i = 0; i < x->m->n_leaves; i++)
        if (leaf_take(x, x->m->leaves[i], &x->why) < 0 && x->why.code != E_LIMIT) {
            x->code = GRPC_INVALID_ARGUMENT;
            go_back(x);
            return;
        }
    if (x->n > 0 && revoked_add(&x->r->table, x->told, x->n, on_added, x, &x->why) == 0)
        revocations_hold(x->r); /* on_added comes later */
    else
        answer(x);
}

static void
on_asked(void *arg)
{
    struct exchange *x = arg;
    struct ca *c = x->worker->ca;

    if (c->is_closed) { /* its workers have ended */
        exchange_free(x);
        return;
    }
    x->r = c->revocations;
    x->m = meshroot__v1__revoked_page__unpack(NULL, x->request.n, x->request.p);
    if (x->m != NULL && x->m->n_leaves <= PAGE_LEAVES_MAX &&
        x->m->n_identities <= PAGE_IDENTITIES_MAX && c->view != NULL) {
        c->revocations->courier_ms = mono_ms();
        c->revocations->courier_takes_identities = x->m->takes_identities;
        told_take(x);
        return;
    }
    x->code = c->view == NULL ? GRPC_UNAVAILABLE : GRPC_INVALID_ARGUMENT;
    (void)err_set(&x->why, E_INVAL, "%s",
                  c->view == NULL ? "no set is loaded yet" : "the request is not a RevokedPage");
    go_back(x);
}

/* -- the call, on its worker --------------------------------------------------------------------
 */

static void
on_gone(void *arg)
{
    struct exchange *x = arg;

    x->call = NULL;
}

static int
exchange_start(struct ca_worker *w, struct ca_call *c, struct err *e)
{
    struct exchange *x = calloc(1, sizeof(*x));

    if (x == NULL)
        return err_nomem(e);
    x->worker = w;
    x->start_us = c->start_us;
    x->request = x->answer = BUF_INIT(GRPC_MAX_MESSAGE_BYTES);
    int r = buf_add(&x->request, c->msg, e);
    if (r == 0)
        r = loop_post(w->ca->loop, on_asked, x, e);
    if (r < 0) {
        exchange_free(x);
        return r;
    }
    x->call = c->grpc;
    grpc_on_gone(c->grpc, on_gone, x);
    return 0;
}

void
ca_revocations_exchange(struct ca_worker *w, struct ca_call *c)
{
    const struct ca_callers *who = &w->ca->conf.who;
    struct err e;

    if (!ca_account_is(&c->caller, who->couriers, who->couriers_n))
        ca_deny(w, c, method_name, "revocation_courier",
                "this account may not carry revocations (--revocation-courier)");
    else if (exchange_start(w, c, &e) < 0)
        ca_refuse(w, c, method_name, GRPC_RESOURCE_EXHAUSTED, e.msg);
}
