/* health.c - grpc.health.v1.Health/Check: the truth of /readyz on the CA's own port.
 *
 * The control loop knows it, so a worker asks there, one question at a time for all who wait: no
 * number of probes is a burden, and a control loop that hangs is not healthy. Nobody is asked who
 * he is: a probe has no token. Source: gRPC health checking protocol.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "ca/room.h"
#include "health.pb-c.h"

enum { TELL_RETRY_US = 1000 };

static const char method_name[] = "HealthCheck";

struct ca_health_call { /* one that waits; freed by on_gone or by its answer */
    struct ca_worker *worker;
    struct grpc_call *call;
    struct ca_health_call *next, **link;
    uint64_t start_us;
};

static void
waiting_free(struct ca_health_call *h, int code)
{
    *h->link = h->next;
    if (h->next != NULL)
        h->next->link = h->link;
    ca_metrics_handled(h->worker->ca, method_name, code, h->start_us);
    free(h);
}

static void
on_gone(void *arg)
{
    waiting_free(arg, GRPC_CANCELLED);
}

static void
answer(struct ca_health_call *h, bool is_ready)
{
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct grpc_call *c = h->call;
    uint8_t msg[16];
    struct err e;

    m.status = is_ready ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                        : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    waiting_free(h, GRPC_OK);
    if (grpc_send(c, span_of(msg, grpc__health__v1__health_check_response__pack(&m, msg)), &e) < 0)
        grpc_finish(c, GRPC_RESOURCE_EXHAUSTED, e.msg);
    else
        grpc_finish(c, GRPC_OK, NULL);
}

/* -- the question, to the control loop and back -- */

struct question {
    struct ca_worker *worker;
    bool is_ready;
};

static void
on_told(void *arg)
{
    struct question *q = arg;
    struct ca_worker *w = q->worker;

    w->health_is_asked = false;
    while (w->health != NULL)
        answer(w->health, q->is_ready);
    free(q);
}

static void
on_asked(void *arg)
{
    struct question *q = arg;
    struct ca *c = q->worker->ca;
    struct err e;

    if (c->is_closed) { /* its workers have ended */
        free(q);
        return;
    }
    q->is_ready = ca_is_ready(c);
    while (loop_post(q->worker->loop, on_told, q, &e) < 0)
        (void)usleep(TELL_RETRY_US); /* without an answer no other question would be asked */
}

static int
ask(struct ca_worker *w, struct err *e)
{
    struct question *q;

    if (w->health_is_asked)
        return 0;
    q = calloc(1, sizeof(*q));
    if (q == NULL)
        return err_nomem(e);
    q->worker = w;
    int r = loop_post(w->ca->loop, on_asked, q, e);
    if (r < 0) {
        free(q);
        return r;
    }
    w->health_is_asked = true;
    return 0;
}

/* The empty name is the whole server; the others are one with it. */
static bool
is_ours(const char *service)
{
    static const char *const names[] = { "", "istio.v1.auth.IstioCertificateService",
                                         "meshroot.v1.Trust" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(service, names[i]) == 0)
            return true;
    return false;
}

static void
check(struct ca_worker *w, struct grpc_call *g, uint64_t start_us)
{
    const struct ca_call c = { .grpc = g, .start_us = start_us };
    struct ca_health_call *h = calloc(1, sizeof(*h));
    struct err e;

    if (h == NULL || ask(w, &e) < 0) {
        free(h);
        ca_refuse(w, &c, method_name, GRPC_RESOURCE_EXHAUSTED, "health cannot be asked now");
        return;
    }
    *h = (struct ca_health_call){ w, g, w->health, &w->health, start_us };
    if (h->next != NULL)
        h->next->link = &h->next;
    w->health = h;
    grpc_on_gone(g, on_gone, h);
}

void
ca_health_check(struct grpc_call *g, struct span msg, void *worker)
{
    const struct ca_call c = { .grpc = g, .start_us = (uint64_t)unix_us() };
    Grpc__Health__V1__HealthCheckRequest *m =
        grpc__health__v1__health_check_request__unpack(NULL, msg.n, msg.p);
    bool is_known = m != NULL && is_ours(m->service);

    if (is_known)
        check(worker, g, c.start_us);
    else
        ca_refuse(worker, &c, method_name, m == NULL ? GRPC_INVALID_ARGUMENT : GRPC_NOT_FOUND,
                  m == NULL ? "the request is not a HealthCheckRequest" : "unknown service");
    if (m != NULL)
        grpc__health__v1__health_check_request__free_unpacked(m, NULL);
}
