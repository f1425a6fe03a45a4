/* jwt_sign.c - meshroot.v1.Trust/SignJwt: a JWT-SVID for the caller's own identity, and no other's.
 *
 * Its trace is a log line and a metric, not a row of the ledger: no gate of a rotation asks for
 * tokens, none outlives SIGNER_JWT_LIFE_S, and none can be revoked, so a row would be durable for
 * years about what is over in minutes. The line names who, for whom, by which key, until when.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "ca/room.h"
#include "meshroot.pb-c.h"

enum { NAMES_BYTES = 512 };

static const char method_name[] = "SignJwt";

struct asked {
    struct ca_worker *worker;
    struct ca_view *view;   /* a reference */
    struct grpc_call *call; /* NULL: the client has gone */
    uint64_t start_us;
    char identity[SPIFFE_ID_BYTES], audiences[NAMES_BYTES];
};

static void
on_gone(void *arg)
{
    struct asked *q = arg;

    q->call = NULL;
}

static void
asked_end(struct asked *q, int code, const char *msg)
{
    turnstile_out(&q->worker->queues[CA_QUEUE_LEAVES], mono_ms());
    ca_metrics_handled(q->worker->ca, method_name, code, q->start_us);
    if (q->call != NULL)
        grpc_finish(q->call, code, msg);
    ca_view_unref(q->view);
    free(q);
}

static int
answer_send(struct asked *q, struct span token, struct err *e)
{
    CLEANUP(buf_done)
    struct buf text = BUF_INIT(SIGNER_JWT_MAX_BYTES + 1), msg = BUF_INIT(2 * SIGNER_JWT_MAX_BYTES);
    Meshroot__V1__JwtAnswer m = MESHROOT__V1__JWT_ANSWER__INIT;
    uint8_t *to;

    TRY(buf_add(&text, token, e));
    m.token = (char *)text.p;
    TRY(buf_reserve(&msg, meshroot__v1__jwt_answer__get_packed_size(&m), &to, e));
    msg.n += meshroot__v1__jwt_answer__pack(&m, to);
    return grpc_send(q->call, buf_span(&msg), e);
}

static void
on_token(struct span token, const struct err *why, void *arg)
{
    struct asked *q = arg;
    struct ca_worker *w = q->worker;
    struct err e;

    w->pending--;
    if (why != NULL) {
        if (log_brake(&w->ca->refusals, "serverca", mono_ms()))
            log_error("serverca", "JWT-SVID of %s: %s", q->identity, why->msg);
        /* what the signer refuses here is the audience: the subject is the caller's */
        asked_end(q, why->code == E_DENIED ? GRPC_INVALID_ARGUMENT : ca_sign_code(why), why->msg);
    } else if (q->call == NULL) {
        asked_end(q, GRPC_CANCELLED, NULL);
    } else {
        metric_add(w->ca->conf.metrics, &ca_m_jwt_issued, "", 1);
        log_with(
            LOG_INFO, "jwt",
            LABELS({ "id", q->identity }, { "aud", q->audiences }, { "kid", q->view->jwt_kid }),
            "issued a JWT-SVID");
        if (answer_send(q, token, &e) < 0)
            asked_end(q, err_meaning(e.code)->grpc_code, e.msg);
        else
            asked_end(q, GRPC_OK, NULL);
    }
    ca_worker_quit_if_idle(w);
}

/* For the log: the names of the audiences, or as many as fit. */
static void
names_put(const Meshroot__V1__JwtRequest *m, char ret[NAMES_BYTES])
{
    size_t n = 0;

    for (size_t i = 0; i < m->n_audiences && n < NAMES_BYTES; i++)
        n += (size_t)snprintf(ret + n, NAMES_BYTES - n, "%s%.64s", i == 0 ? "" : ",",
                              m->audiences[i]);
}

static int
asked_send(struct ca_worker *w, struct ca_call *c, const Meshroot__V1__JwtRequest *m)
{
    struct asked *q = calloc(1, sizeof(*q));

    if (q == NULL)
        return GRPC_RESOURCE_EXHAUSTED;
    *q = (struct asked){ .worker = w, .view = ca_view_ref(w->view), .call = c->grpc };
    q->start_us = c->start_us;
    (void)snprintf(q->identity, sizeof(q->identity), "%s", c->caller.identity);
    names_put(m, q->audiences);
    struct signer_jwt ask = { .kid = w->view->jwt_kid, .subject = q->identity };
    for (; ask.audiences_n < m->n_audiences; ask.audiences_n++)
        ask.audiences[ask.audiences_n] = m->audiences[ask.audiences_n];
    grpc_on_gone(c->grpc, on_gone, q);
    turnstile_in(&w->queues[CA_QUEUE_LEAVES], mono_ms());
    w->pending++;
    signer_jwt_sign(w->lane, w->view->jwt_signer, &ask, on_token, q);
    return GRPC_OK;
}

void
ca_sign_jwt(struct ca_worker *w, struct ca_call *c)
{
    Meshroot__V1__JwtRequest *m = meshroot__v1__jwt_request__unpack(NULL, c->msg.n, c->msg.p);
    int code = GRPC_INVALID_ARGUMENT;
    const char *why = "the request is not a JwtRequest";

    if (m != NULL && (m->n_audiences < 1 || m->n_audiences > SIGNER_JWT_AUDIENCES))
        why = "a JWT-SVID has 1 to 8 audiences";
    else if (m != NULL && w->view->jwt_signer == NULL)
        code = GRPC_UNAVAILABLE,
        why = "the key that will sign JWT-SVIDs is still being published; try again";
    else if (m != NULL)
        code = asked_send(w, c, m), why = "out of memory";
    if (m != NULL)
        meshroot__v1__jwt_request__free_unpacked(m, NULL);
    if (code == GRPC_OK)
        return;
    ca_metrics_handled(w->ca, method_name, code, c->start_us);
    grpc_finish(c->grpc, code, why);
}
