/* worker.c - one thread: a loop, a listening socket, the services. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "ca/room.h"
#include "obs/log.h"

static void
on_create(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_LEAVES, "CreateCertificate",
                                        ca_create_certificate };
    struct ca_worker *w = self;

    metric_add(w->ca->conf.metrics, &ca_m_csr, "", 1);
    ca_admit(self, c, msg, &m);
}

static void
on_watch(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_WORDS, "Watch", ca_trust_watch };

    ca_admit(self, c, msg, &m);
}

static void
on_acknowledge(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_WORDS, "Acknowledge", ca_trust_acknowledge };

    ca_admit(self, c, msg, &m);
}

static void
on_sign_jwt(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_LEAVES, "SignJwt", ca_sign_jwt };

    ca_admit(self, c, msg, &m);
}

static void
on_evidence_watch(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_WORDS, "Evidence", ca_evidence_watch };

    ca_admit(self, c, msg, &m);
}

static void
on_sign_serving(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_LEAVES, "SignServing", ca_sign_serving };

    ca_admit(self, c, msg, &m);
}

static void
on_exchange(struct grpc_call *c, struct span msg, void *self)
{
    static const struct ca_method m = { CA_QUEUE_WORDS, "ExchangeRevoked",
                                        ca_revocations_exchange };

    ca_admit(self, c, msg, &m);
}

static const struct grpc_method methods[] = {
    { .path = "/istio.v1.auth.IstioCertificateService/CreateCertificate", .on_request = on_create },
    { .path = "/meshroot.v1.Trust/Watch", .streams = true, .on_request = on_watch },
    { .path = "/meshroot.v1.Trust/Acknowledge", .on_request = on_acknowledge },
    { .path = "/meshroot.v1.Trust/SignJwt", .on_request = on_sign_jwt },
    { .path = "/grpc.health.v1.Health/Check", .on_request = ca_health_check },
    { .path = "/meshroot.v1.Serving/Sign", .on_request = on_sign_serving },
    { .path = "/meshroot.v1.Revocations/Exchange", .on_request = on_exchange },
    { .path = "/meshroot.v1.Evidence/Watch", .streams = true, .on_request = on_evidence_watch },
};

struct change { /* one message to a worker */
    struct ca_worker *worker;
    struct ca_view *view;
    struct tls_conf *tls;
};

static void
change_free(struct change *m)
{
    if (m == NULL)
        return;
    ca_view_unref(m->view);
    tls_conf_unref(m->tls);
    free(m);
}
DEFINE_CLEANUP(struct change, change_free)

static int
serve(struct ca_worker *w, struct tls_conf *tls, struct err *e)
{
    struct grpc_server_conf conf = { .listen_fd = w->listen_fd,
                                     .tls = tls,
                                     .methods = methods,
                                     .methods_n = ARRAY_LEN(methods),
                                     .self = w,
                                     .max_age_ms = w->ca->conf.max_connection_age_ms,
                                     .metrics = w->ca->conf.metrics,
                                     .name = "ca" };

    if (w->server != NULL) {
        grpc_server_set_tls(w->server, tls);
        return 0;
    }
    if (w->listen_fd < 0)
        return err_set(e, E_STATE, "the worker's socket is closed");
    w->listen_fd = -1; /* taken, also on failure */
    return grpc_server_new(w->loop, &conf, &w->server, e);
}

static void
on_change(void *arg)
{
    CLEANUP(change_freep) struct change *m = arg;
    struct ca_worker *w = m->worker;
    struct ca_view *old = w->view;
    struct err e;

    if (w->is_stopping)
        return;
    w->view = STEAL(m->view);
    if (serve(w, m->tls, &e) < 0)
        log_error("serverca", "a worker cannot serve: %s", e.msg);
    if (old != NULL && !span_eq(buf_span(&old->trust_set), buf_span(&w->view->trust_set)))
        ca_trust_changed(w);
    ca_view_unref(old);
}

int
ca_worker_set(struct ca_worker *w, struct ca_view *v, struct tls_conf *tls, struct err *e)
{
    CLEANUP(change_freep) struct change *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    *m = (struct change){ w, ca_view_ref(v), tls_conf_ref(tls) };
    TRY(loop_post(w->loop, on_change, m, e));
    (void)STEAL(m); /* on_change has it */
    return 0;
}

struct said_change {
    struct ca_worker *worker;
    struct ca_said said;
};

static void
on_said(void *arg)
{
    struct said_change *m = arg;

    m->worker->said = m->said;
    (void)atomic_fetch_add(&m->worker->ca->evidence_n, 1);
    free(m);
}

int
ca_worker_say(struct ca_worker *w, const struct ca_said *said, struct err *e)
{
    struct said_change *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    *m = (struct said_change){ w, *said };
    int r = loop_post(w->loop, on_said, m, e);
    if (r < 0)
        free(m);
    return r;
}

static void *
worker_main(void *arg)
{
    struct ca_worker *w = arg;
    struct err e;

    if (loop_run(w->loop, &e) < 0)
        log_error("serverca", "a worker's loop ended: %s", e.msg);
    return NULL;
}

int
ca_worker_start(struct ca *c, struct ca_worker *w, int listen_fd, struct err *e)
{
    *w = (struct ca_worker){ .ca = c,
                             .listen_fd = listen_fd,
                             .queues = { [CA_QUEUE_LEAVES].places = CA_LEAVES_WAITING,
                                         [CA_QUEUE_WORDS].places = CA_WORDS_WAITING } };
    for (size_t i = 0; i < CA_QUEUE__N && c->conf.max_waiting > 0; i++)
        w->queues[i].places = c->conf.max_waiting;
    TRY(loop_new(&w->loop, e));
    TRY(signer_lane_new(c->signer, w->loop, &w->lane, e));
    int no = pthread_create(&w->thread, NULL, worker_main, w);
    if (no != 0)
        return err_sys(e, no, "cannot start a worker");
    w->is_running = true;
    return 0;
}

/* The last answer of signer and ledger has come and the server is empty: nothing will touch this
 * loop any more. */
void
ca_worker_quit_if_idle(struct ca_worker *w)
{
    struct err e;

    if (!w->is_stopping || !w->is_drained || w->pending > 0 || w->is_quit)
        return;
    w->is_quit = true;
    if (loop_post(w->ca->loop, ca_worker_has_quit, w->ca, &e) < 0)
        log_error("serverca", "a worker's end cannot be told: %s", e.msg);
    loop_stop(w->loop);
}

static void
on_drained(void *arg)
{
    struct ca_worker *w = arg;

    w->is_drained = true;
    ca_worker_quit_if_idle(w);
}

static void
on_stop(void *arg)
{
    struct ca_worker *w = arg;

    if (w->is_stopping)
        return;
    w->is_stopping = true;
    if (w->server != NULL)
        grpc_server_drain(w->server, w->ca->conf.drain_ms, on_drained, w);
    else
        on_drained(w);
}

void
ca_worker_stop(struct ca_worker *w)
{
    struct err e;

    if (w->is_running && loop_post(w->loop, on_stop, w, &e) < 0)
        log_error("serverca", "cannot stop a worker: %s", e.msg);
}

void
ca_worker_join(struct ca_worker *w)
{
    if (w->is_running)
        (void)pthread_join(w->thread, NULL);
    w->is_running = false;
    grpc_server_free(w->server);
    signer_lane_free(w->lane);
    ca_issues_free(w);
    loop_free(w->loop);
    ca_view_unref(w->view);
    if (w->listen_fd >= 0)
        (void)close(w->listen_fd);
    /* its questions to the control loop may still wait there: they ask whether the CA is closed */
    *w = (struct ca_worker){ .ca = w->ca, .listen_fd = -1 };
}
