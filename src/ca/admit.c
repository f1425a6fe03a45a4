/* admit.c - a call's caller, found before its handler runs; what a refusal is to the caller. */
#include <stdio.h>

#include "base/clock.h"
#include "ca/room.h"

/* What the caller is told when it cannot be said now who it is. Words of ours, never the cause:
 * that is for the log. */
static const struct {
    const char *reason, *words;
} not_now[] = {
    { "no_keys", "the token issuer's keys are not known yet; try again" },
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
ca_admit(struct ca_worker *w, struct grpc_call *g, struct span msg, const struct ca_method *m)
{
    struct ca_credentials given = { grpc_header(g, "authorization"), grpc_peer(g) };
    struct ca_call c = { .grpc = g, .msg = msg, .start_us = (uint64_t)unix_us() };
    const char *reason = "none";
    struct span token = { NULL, 0 };
    struct err why = { .code = E_NONE };

    if (ca_authenticate(&w->ca->conf, w->view, &given, &c.caller, &token, &reason, &why) == 0)
        m->handle(w, &c);
    else
        refuse(w, &c, m, reason, &why);
}
