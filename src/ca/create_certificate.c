/* create_certificate.c - one CSR in, one chain out; the row is durable before the leaf leaves.
 *
 * The call's view is taken once: identity, template, ledger row and answer are of one generation
 * even when a reload falls in between. Source: specs/istio-ca.md 1.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "ca/room.h"
#include "ca/wire.h"
#include "obs/log.h"

static const char method_name[] = "CreateCertificate";

struct issue {
    struct ca_worker *worker;
    struct ca_view *view;   /* a reference */
    struct grpc_call *call; /* NULL: the client has gone */
    uint64_t start_us;
    struct ca_caller caller;
    const char *method; /* for metrics */
    const char *sans[CA_SERVING_NAMES_MAX];
    struct leaf_request request;
    struct buf csr; /* DER; request.spki points into it */
    struct ledger_row row;
    size_t tbs_n, leaf_n;
    struct issue *next; /* of the worker's free ones */
    /* what lies from here on is not cleared between calls */
    uint8_t tbs[TBS_MAX_BYTES], leaf[LEAF_MAX_BYTES];
};

enum { FREE_ISSUES_MAX = 256 }; /* kept by a worker */

static struct issue *
issue_get(struct ca_worker *w)
{
    struct issue *q = w->free_issues;

    if (q == NULL)
        return calloc(1, sizeof(*q));
    w->free_issues = q->next;
    w->free_issues_n--;
    struct buf csr = q->csr;
    memset(q, 0, offsetof(struct issue, tbs));
    q->csr = csr;
    q->csr.n = 0;
    return q;
}

void
ca_issues_free(struct ca_worker *w)
{
    while (w->free_issues != NULL) {
        struct issue *q = w->free_issues;

        w->free_issues = q->next;
        buf_done(&q->csr);
        free(q);
    }
    w->free_issues_n = 0;
    buf_done(&w->pem);
    buf_done(&w->answer);
}

static void
issue_free(struct issue *q)
{
    struct ca_worker *w = q->worker;

    turnstile_out(&w->queues[CA_QUEUE_LEAVES], mono_ms());
    ca_view_unref(q->view);
    if (w->free_issues_n >= FREE_ISSUES_MAX) {
        buf_done(&q->csr);
        free(q);
        return;
    }
    q->next = w->free_issues;
    w->free_issues = q;
    w->free_issues_n++;
}

static void
on_gone(void *arg)
{
    struct issue *q = arg;

    q->call = NULL; /* the signer's or the ledger's answer frees it */
}

/* Ends the call, counts it, lets go of everything. */
static void
issue_end(struct issue *q, int code, const char *msg)
{
    struct ca *ca = q->worker->ca;

    if (q->call != NULL) {
        ca_metrics_handled(ca, q->method, code, q->start_us);
        grpc_finish(q->call, code, msg);
    } else {
        ca_metrics_handled(ca, q->method, GRPC_CANCELLED, q->start_us);
    }
    issue_free(q);
}

/* Source: specs/istio-ca.md 1.5. */
static void
issue_refuse(struct issue *q, int code, const char *kind, const struct err *why)
{
    struct ca *ca = q->worker->ca;
    char msg[ERR_MSG_BYTES + 32], labels[64];

    (void)snprintf(msg, sizeof(msg), "CSR signing error (%s)", why->msg);
    (void)snprintf(labels, sizeof(labels), "error=\"%s\"", kind);
    metric_add(ca->conf.metrics, &ca_m_sign_error, labels, 1);
    if (log_brake(&ca->refusals, "serverca", mono_ms()))
        log_with(LOG_ERROR, "serverca",
                 LABELS({ "client", q->call == NULL ? NULL : grpc_peer_addr(q->call) },
                        { "id", q->caller.identity }),
                 "CSR signing error: %s", why->msg);
    issue_end(q, code, msg);
}

/* -- the answer -- */

/* Into the worker's own memory, which is as large as the largest answer so far. */
static int
answer_build(const struct issue *q, struct span *ret, struct err *e)
{
    struct buf *pem = &q->worker->pem, *b = &q->worker->answer;
    uint8_t *unused;

    pem->n = b->n = 0;
    pem->max = 2 * LEAF_MAX_BYTES;
    b->max = 2 * LEAF_MAX_BYTES + 16 + q->view->answer_tail.n;
    TRY(buf_reserve(b, b->max, &unused, e));
    TRY(leaf_to_pem(span_of(q->leaf, q->leaf_n), pem, e));
    TRY(wire_answer_add(b, buf_span(pem), e));
    TRY(buf_add(b, buf_span(&q->view->answer_tail), e));
    *ret = buf_span(b);
    return 0;
}

/* The caller's certificate was revoked while its leaf was made: the workers have known it since
 * (revoke.c), so no leaf goes out that the last look at the ledger has not seen. */
static bool
caller_is_revoked(const struct issue *q)
{
    const struct tls_peer *peer = q->call == NULL ? NULL : grpc_peer(q->call);

    return peer != NULL && peer->leaf != NULL && strstr(q->caller.auth, "cert:") != NULL &&
           ca_view_revokes(q->worker->view, peer);
}

static void
answer(struct issue *q)
{
    struct span msg;
    struct err e;

    metric_add(q->worker->ca->conf.metrics, &ca_m_issued, "", 1);
    if (q->call == NULL) {
        issue_end(q, GRPC_CANCELLED, NULL);
        return;
    }
    if (caller_is_revoked(q)) {
        ca_count_refusal(q->worker, "cert_revoked");
        issue_end(q, GRPC_UNAUTHENTICATED, "request authenticate failure");
        return;
    }
    if (answer_build(q, &msg, &e) < 0 ||
        grpc_trailer(q->call, "meshroot-generation", q->view->generation_text, &e) < 0 ||
        grpc_send(q->call, msg, &e) < 0)
        issue_end(q, err_meaning(e.code)->grpc_code, e.msg);
    else
        issue_end(q, GRPC_OK, NULL);
}

static void
log_held_back(struct ca_worker *w, const struct err *why)
{
    if (log_brake(&w->ca->refusals, "serverca", mono_ms()))
        log_error("serverca", "a leaf is held back, its row is not in the ledger: %s", why->msg);
}

static void
on_row(const struct err *e, void *arg)
{
    struct issue *q = arg;
    struct ca_worker *w = q->worker;

    w->pending--;
    if (e->code != E_NONE) {
        log_held_back(w, e);
        issue_end(q, GRPC_UNAVAILABLE, "the ledger cannot record the certificate; try again");
    } else {
        ca_evidence(w->ca);
        answer(q);
    }
    ca_worker_quit_if_idle(w);
}

/* -- the leaf -- */

static void
row_fill(struct issue *q)
{
    struct ledger_row *r = &q->row;
    const struct leaf_request *l = &q->request;
    struct span serial = span_of(l->serial, sizeof(l->serial));

    while (serial.n > 1 && serial.p[0] == 0)
        serial = span_skip(serial, 1);
    memcpy(r->serial, serial.p, r->serial_n = serial.n);
    (void)snprintf(r->identity, sizeof(r->identity), "%s", q->caller.identity);
    (void)snprintf(r->auth, sizeof(r->auth), "%s", q->caller.auth);
    memcpy(r->signer_id, cert_id(bundle_signer(q->view->bundle)), DIGEST_BYTES);
    memcpy(r->root_id, cert_id(bundle_signer_root(q->view->bundle)), DIGEST_BYTES);
    struct span key_id = cert_ski(bundle_signer(q->view->bundle));
    if (key_id.n > 0) /* LEAF_AKI_MAX bounds it where the set was loaded */
        memcpy(r->key_id, key_id.p, r->key_id_n = key_id.n);
    r->not_before = l->not_before;
    r->not_after = l->not_after;
    r->issued = unix_s();
    r->generation = q->view->generation;
}

/* What a later call may be spared is told apart from what only a person can mend. */
int
ca_sign_code(const struct err *why)
{
    static const struct {
        enum err_code code;
        int grpc;
    } rows[] = { { E_PEER, GRPC_UNAVAILABLE }, /* no signer process */
                 { E_TIMEOUT, GRPC_UNAVAILABLE },
                 { E_NOTFOUND, GRPC_UNAVAILABLE }, /* a new one, which lacks this key */
                 { E_LIMIT, GRPC_RESOURCE_EXHAUSTED } };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].code == why->code)
            return rows[i].grpc;
    return GRPC_INTERNAL;
}

static void
row_append(struct issue *q, struct span signature)
{
    struct ca_worker *w = q->worker;
    const struct leaf_template *t = signer_template(q->view->signer);
    struct err e;

    if (leaf_finish(t, span_of(q->tbs, q->tbs_n), signature, q->leaf, &q->leaf_n, &e) < 0 ||
        leaf_lint(t, &q->request, span_of(q->leaf, q->leaf_n), &e) < 0) {
        issue_refuse(q, GRPC_INTERNAL, "CERT_GEN_ERROR", &e);
        return;
    }
    row_fill(q);
    w->pending++;
    if (ledger_append(w->ca->conf.ledger, &q->row, w->loop, on_row, q, &e) < 0) {
        w->pending--;
        log_held_back(w, &e);
        issue_end(q, e.code == E_LIMIT ? GRPC_RESOURCE_EXHAUSTED : GRPC_UNAVAILABLE,
                  "the ledger cannot record the certificate; try again");
    }
}

static void
on_signed(struct span signature, const struct err *why, void *arg)
{
    struct issue *q = arg;
    struct ca_worker *w = q->worker;

    w->pending--;
    if (why != NULL)
        issue_refuse(q, ca_sign_code(why), "CERT_GEN_ERROR", why);
    else if (q->call == NULL)
        issue_end(q, GRPC_CANCELLED, NULL); /* the client has gone: no leaf, no row */
    else
        row_append(q, signature);
    ca_worker_quit_if_idle(w);
}

/* -- the request -- */

/* What can be wrong with a CSR is the caller's to mend, whichever code it has here. */
static int
csr_take(struct issue *q, struct span pem, struct err *e)
{
    struct csr csr;

    q->csr.max = CSR_MAX_BYTES;
    TRY(csr_from_pem(pem, &q->csr, e));
    TRY(csr_parse(buf_span(&q->csr), &csr, e));
    TRY(csr_verify(buf_span(&q->csr), &csr, e));
    q->request.spki = csr.spki;
    return 0;
}

static void
issue_start(struct issue *q, const struct ca_leaf_ask *a)
{
    struct ca *ca = q->worker->ca;
    struct leaf_request *l = &q->request;
    int64_t now = unix_s();
    struct err e;

    if (csr_take(q, a->csr, &e) < 0) {
        issue_refuse(q, GRPC_INVALID_ARGUMENT, "CSR_ERROR", &e);
        return;
    }
    if (ca_not_after(&ca->conf, q->view, now, a->validity_s, &l->not_after, &e) < 0) {
        bool asked_too_much = e.code == E_INVAL;

        issue_refuse(q, asked_too_much ? GRPC_INVALID_ARGUMENT : GRPC_INTERNAL,
                     asked_too_much ? "TTL_ERROR" : "CERT_GEN_ERROR", &e);
        return;
    }
    q->sans[0] = q->caller.identity;
    for (size_t i = 0; i < a->names_n; i++)
        q->sans[i] = a->names[i];
    l->profile = a->names_n > 0 ? LEAF_SERVER : LEAF_WORKLOAD;
    l->sans = q->sans;
    l->sans_n = a->names_n > 0 ? a->names_n : 1;
    l->not_before = now - LEAF_BACKDATE_S;
    if (random_bytes(l->serial, sizeof(l->serial), &e) < 0 ||
        leaf_tbs(signer_template(q->view->signer), l, q->tbs, &q->tbs_n, &e) < 0) {
        issue_refuse(q, GRPC_INTERNAL, "CERT_GEN_ERROR", &e);
        return;
    }
    q->worker->pending++;
    signer_sign(q->worker->lane, q->view->signer, span_of(q->tbs, q->tbs_n), on_signed, q);
}

void
ca_issue(struct ca_worker *w, struct ca_call *c, const struct ca_leaf_ask *a)
{
    struct issue *q = issue_get(w);

    if (q == NULL) {
        ca_refuse(w, c, a->method, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    q->worker = w;
    q->view = ca_view_ref(w->view);
    q->call = c->grpc;
    q->start_us = c->start_us;
    q->caller = c->caller;
    q->method = a->method;
    turnstile_in(&w->queues[CA_QUEUE_LEAVES], mono_ms());
    (void)snprintf(q->row.instance, sizeof(q->row.instance), "%.*s", SPAN_ARG(a->instance));
    grpc_on_gone(c->grpc, on_gone, q);
    issue_start(q, a);
}

/* -- the request's form -- */

static void
refuse_early(struct ca_worker *w, const struct ca_call *c, int code, const char *msg)
{
    ca_refuse(w, c, method_name, code, msg);
}

/* istiod's own CA takes any name and ignores it; here a name that is not ours is a wish that cannot
 * be met. Source: specs/istio-ca.md 1.2. */
static int
cert_signer_check(const struct ca_conf *conf, struct span asked, struct err *e)
{
    CLEANUP(buf_done) struct buf known = BUF_INIT(CA_CERT_SIGNERS_MAX * K8S_NAME_BYTES);

    if (asked.n == 0)
        return 0;
    for (size_t i = 0; i < conf->who.cert_signers_n; i++) {
        if (span_eq_str(asked, conf->who.cert_signers[i]))
            return 0;
        TRY(buf_addf(&known, e, "%s%s", i == 0 ? "" : ", ", conf->who.cert_signers[i]));
    }
    return err_set(e, E_INVAL, "CertSigner \"%.*s\" is not known here; leave it empty, or: %s",
                   asked.n > 128 || !k8s_subdomain_ok(asked) ? 3 : (int)asked.n,
                   asked.n > 128 || !k8s_subdomain_ok(asked) ? "..." : (const char *)asked.p,
                   buf_text(&known));
}

static int
request_read(const struct ca_conf *conf, struct span msg, struct span instance,
             struct wire_request *ret, struct err *e)
{
    TRY(wire_request_read(msg, ret, e));
    if (!ca_instance_is_sound(instance))
        return err_set(e, E_INVAL, "meshroot-instance must be 32 lower-case hex digits");
    return cert_signer_check(conf, ret->cert_signer, e);
}

/* Source: specs/istio-ca.md 1.5, 1.6, 3.4. */
static void
refuse_proxy(struct ca_worker *w, const struct ca_call *c, const struct err *why)
{
    bool is_final = why->code == E_AUTH || why->code == E_DENIED;

    ca_count_refusal(w, is_final ? "impersonation" : "cluster_unknown");
    if (log_brake(&w->ca->refusals, "serverca", mono_ms()))
        log_with(LOG_WARN, "serverca",
                 LABELS({ "client", grpc_peer_addr(c->grpc) }, { "id", c->caller.identity }),
                 "impersonation failed for identity %s, error: %s", c->caller.identity, why->msg);
    refuse_early(w, c, is_final ? GRPC_UNAUTHENTICATED : GRPC_UNAVAILABLE,
                 is_final ? "request impersonation authentication failure"
                          : "the state of the node's pods is not known now; try again");
}

void
ca_create_certificate(struct ca_worker *w, struct ca_call *c)
{
    struct span instance = grpc_header(c->grpc, "meshroot-instance");
    struct wire_request wire;
    struct err e = { .code = E_NONE };

    if (request_read(&w->ca->conf, c->msg, instance, &wire, &e) != 0) {
        refuse_early(w, c, GRPC_INVALID_ARGUMENT, e.msg);
        return;
    }
    if (wire.impersonated.n > 0 &&
        ca_impersonate(&w->ca->conf, wire.impersonated, &c->caller, &e) != 0) {
        refuse_proxy(w, c, &e);
        return;
    }
    const struct ca_leaf_ask a = {
        .method = method_name, .csr = wire.csr, .validity_s = wire.validity_s, .instance = instance
    };
    ca_issue(w, c, &a);
}
