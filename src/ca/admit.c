/* admit.c - a call's caller, found before its handler runs; what a refusal is to the caller. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "ca/room.h"

/* What the caller is told when it cannot be said now who it is. Words of ours, never the cause:
 * that is for the log. */
static const struct {
    const char *reason, *words;
} not_now[] = {
    { "no_keys", "the token issuer's keys are not known yet; try again" },
    { "review_failed", "the API server did not answer for the token; try again" },
    { "review_limit", "too many tokens are under review; try again" },
    { "cluster_unknown", "the state of the caller's pod is not known now; try again" },
};

void
ca_count_refusal(struct ca_worker *w, const char *reason)
{
    char labels[64];

    (void)snprintf(labels, sizeof(labels), "reason=\"%s\"", reason);
    metric_add(w->ca->conf.metrics, &ca_m_auth_failure, "", 1);
    metric_add(w->ca->conf.metrics, &ca_m_auth_reason, labels, 1);
}

static void
refuse(struct ca_worker *w, const struct ca_call *c, const struct ca_method *m, const char *reason,
       const struct err *why)
{
    bool is_final = why->code == E_AUTH || why->code == E_DENIED;
    int code = is_final               ? GRPC_UNAUTHENTICATED
               : why->code == E_LIMIT ? GRPC_RESOURCE_EXHAUSTED
                                      : GRPC_UNAVAILABLE;
    const char *words = is_final ? "request authenticate failure" /* specs/istio-ca.md 1.5 */
                                 : "the caller cannot be authenticated now; try again";

    for (size_t i = 0; i < ARRAY_LEN(not_now) && !is_final; i++)
        words = strcmp(reason, not_now[i].reason) == 0 ? not_now[i].words : words;
    ca_count_refusal(w, reason);
    if (strcmp(reason, "kid") == 0)
        ca_unknown_kid(w->ca);
    if (log_brake(&w->ca->refusals, "security", mono_ms()))
        log_error("security", "Failed to authenticate client from %s: %s", grpc_peer_addr(c->grpc),
                  why->msg);
    ca_metrics_handled(w->ca, m->name, code, c->start_us);
    grpc_finish(c->grpc, code, words);
}

void
ca_refuse(struct ca_worker *w, const struct ca_call *c, const char *method, int code,
          const char *msg)
{
    ca_metrics_handled(w->ca, method, code, c->start_us);
    grpc_finish(c->grpc, code, msg);
}

void
ca_deny(struct ca_worker *w, const struct ca_call *c, const char *method, const char *reason,
        const char *msg)
{
    ca_count_refusal(w, reason);
    if (log_brake(&w->ca->refusals, "security", mono_ms()))
        log_error("security", "%s by %s from %s is refused: %s", method, c->caller.identity,
                  grpc_peer_addr(c->grpc), msg);
    ca_refuse(w, c, method, GRPC_PERMISSION_DENIED, msg);
}

/* -- a call whose token is under review -- */

struct waiting {
    struct ca_ask ask; /* first: what comes back is this */
    struct ca_worker *worker;
    const struct ca_method *method;
    struct buf msg;
    struct ca_call call; /* call.grpc NULL: the client has gone */
};

static void
waiting_free(struct waiting *x)
{
    if (x == NULL)
        return;
    buf_wipe(&x->ask.token);
    buf_done(&x->msg);
    free(x);
}
DEFINE_CLEANUP(struct waiting, waiting_free)

static void
on_waiting_gone(void *arg)
{
    struct waiting *x = arg;

    ca_metrics_handled(x->worker->ca, x->method->name, GRPC_CANCELLED, x->call.start_us);
    x->call.grpc = NULL; /* the review's answer frees it */
}

static void
on_verdict(void *arg)
{
    CLEANUP(waiting_freep) struct waiting *x = arg;
    struct ca_worker *w = x->worker;
    struct ca_verdict *v = &x->ask.verdict;
    const char *reason = v->reason;

    w->pending--;
    if (x->call.grpc == NULL) {
        ca_worker_quit_if_idle(w);
        return;
    }
    grpc_on_gone(x->call.grpc, NULL, NULL);
    if (reason == NULL && ca_accept_claims(&w->ca->conf, &v->claims, "review", &x->call.caller,
                                           &reason, &v->why) == 0)
        x->method->handle(w, &x->call);
    else
        refuse(w, &x->call, x->method, reason, &v->why);
    ca_worker_quit_if_idle(w);
}

static int
review(struct ca_worker *w, const struct ca_call *c, struct span token, const struct ca_method *m,
       struct err *e)
{
    CLEANUP(waiting_freep) struct waiting *x = calloc(1, sizeof(*x));

    if (x == NULL)
        return err_nomem(e);
    x->ask = (struct ca_ask){ .loop = w->loop, .back = on_verdict, .token = BUF_INIT(token.n) };
    x->worker = w;
    x->method = m;
    x->call = *c;
    x->msg = BUF_INIT(c->msg.n);
    TRY(buf_add(&x->ask.token, token, e));
    TRY(buf_add(&x->msg, c->msg, e));
    x->call.msg = buf_span(&x->msg);
    digest(token, x->ask.key);
    TRY(ca_review(w->ca, &x->ask, e));
    w->pending++;
    grpc_on_gone(c->grpc, on_waiting_gone, x);
    (void)STEAL(x); /* on_verdict has it */
    return 0;
}

/* -- any call -- */

/* Before anything is spent on the call. r: true when it has been ended. Source: gRPC proposal A6.
 */
static bool
tell_to_come_back(struct ca_worker *w, const struct ca_call *c, const struct ca_method *m)
{
    const struct turnstile_caller caller = {
        .has_waited = grpc_header(c->grpc, "grpc-previous-rpc-attempts").n > 0,
        .own = grpc_connection_calls(c->grpc),
    };
    uint64_t ms = turnstile_ask(&w->queues[m->queue], &caller, mono_ms());
    char text[24];
    struct err e;

    if (ms == 0)
        return false;
    (void)snprintf(text, sizeof(text), "%" PRIu64, ms);
    (void)!grpc_trailer(c->grpc, "grpc-retry-pushback-ms", text, &e); /* a hint */
    metric_add(w->ca->conf.metrics, &ca_m_told_later, "", 1);
    ca_metrics_handled(w->ca, m->name, GRPC_RESOURCE_EXHAUSTED, c->start_us);
    grpc_finish(c->grpc, GRPC_RESOURCE_EXHAUSTED, "too many calls wait; come back later");
    return true;
}

void
ca_admit(struct ca_worker *w, struct grpc_call *g, struct span msg, const struct ca_method *m)
{
    struct ca_credentials given = { grpc_header(g, "authorization"), grpc_peer(g) };
    struct ca_call c = { .grpc = g, .msg = msg, .start_us = (uint64_t)unix_us() };
    const char *reason = "none";
    struct span token = { NULL, 0 };
    struct err why = { .code = E_NONE };

    if (tell_to_come_back(w, &c, m))
        return;
    int r = ca_authenticate(&w->ca->conf, w->view, &given, &c.caller, &token, &reason, &why);
    if (r == 0) {
        m->handle(w, &c);
        return;
    }
    if (r == CA_ASK_REVIEW) {
        reason = "review_limit";
        if (review(w, &c, token, m, &why) == 0)
            return;
    }
    refuse(w, &c, m, reason, &why);
}
