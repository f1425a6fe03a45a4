/* trust.c - meshroot.v1.Trust: the trust set out, the workload's word in. */
#include <stdlib.h>

#include "base/clock.h"
#include "ca/room.h"
#include "meshroot.pb-c.h"
#include "obs/log.h"

struct ca_watcher { /* one Watch stream; freed by on_gone or when we end it */
    struct ca_worker *worker;
    struct grpc_call *call;
    struct ca_watcher *next, **link;
    uint64_t start_us;
};

bool
ca_instance_is_sound(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    return s.n == 0 || s.n == INSTANCE_TEXT_BYTES - 1;
}

static void
watchers_count(struct ca_worker *w, long by)
{
    struct ca *c = w->ca;
    long n = atomic_fetch_add(&c->watchers_n, by) + by;

    w->watchers_n = (size_t)((long)w->watchers_n + by);
    metric_set(c->conf.metrics, &ca_m_watchers, "", (double)n);
}

static void
watcher_free(struct ca_watcher *s, int code)
{
    *s->link = s->next;
    if (s->next != NULL)
        s->next->link = s->link;
    watchers_count(s->worker, -1);
    ca_metrics_handled(s->worker->ca, "Watch", code, s->start_us);
    free(s);
}

static void
on_watcher_gone(void *arg)
{
    watcher_free(arg, GRPC_CANCELLED);
}

static void
watcher_end(struct ca_watcher *s, int code, const char *msg)
{
    struct grpc_call *c = s->call;

    watcher_free(s, code);
    grpc_finish(c, code, msg);
}

static void
watcher_send(struct ca_watcher *s)
{
    struct err e;

    if (grpc_send(s->call, buf_span(&s->worker->view->trust_set), &e) < 0)
        watcher_end(s, GRPC_RESOURCE_EXHAUSTED, "the stream is not being read");
}

void
ca_trust_changed(struct ca_worker *w)
{
    for (struct ca_watcher *s = w->watchers, *next; s != NULL; s = next) {
        next = s->next;
        watcher_send(s);
    }
}

void
ca_trust_watch(struct ca_worker *w, struct ca_call *c)
{
    const char *why = NULL;
    int refused = GRPC_OK;

    Meshroot__V1__WatchRequest *q = meshroot__v1__watch_request__unpack(NULL, c->msg.n, c->msg.p);
    bool sound = q != NULL && ca_instance_is_sound(span_str(q->instance));
    if (q != NULL)
        meshroot__v1__watch_request__free_unpacked(q, NULL);
    if (!sound)
        refused = GRPC_INVALID_ARGUMENT, why = "the request is not a WatchRequest";
    else if (w->watchers_n >= CA_WATCHERS_MAX)
        refused = GRPC_RESOURCE_EXHAUSTED, why = "too many trust streams";
    struct ca_watcher *s = refused != GRPC_OK ? NULL : calloc(1, sizeof(*s));
    if (s == NULL) {
        refused = refused == GRPC_OK ? GRPC_RESOURCE_EXHAUSTED : refused;
        ca_metrics_handled(w->ca, "Watch", refused, c->start_us);
        grpc_finish(c->grpc, refused, why == NULL ? "out of memory" : why);
        return;
    }
    *s = (struct ca_watcher){ w, c->grpc, w->watchers, &w->watchers, c->start_us };
    if (s->next != NULL)
        s->next->link = &s->next;
    w->watchers = s;
    watchers_count(w, 1);
    grpc_on_gone(c->grpc, on_watcher_gone, s);
    watcher_send(s);
}

/* -- acknowledgements -- */

struct word {
    struct ca_worker *worker;
    struct grpc_call *call; /* NULL: the client has gone */
    uint64_t start_us;
};

static void
on_word_gone(void *arg)
{
    struct word *q = arg;

    q->call = NULL;
}

static void
word_end(struct word *q, int code, const char *msg)
{
    struct err e;

    ca_metrics_handled(q->worker->ca, "Acknowledge", code, q->start_us);
    turnstile_out(&q->worker->queues[CA_QUEUE_WORDS], mono_ms());
    if (q->call != NULL && code == GRPC_OK && grpc_send(q->call, span_str(""), &e) < 0)
        grpc_finish(q->call, GRPC_INTERNAL, e.msg);
    else if (q->call != NULL)
        grpc_finish(q->call, code, msg);
    free(q);
}

static void
on_word(const struct err *e, void *arg)
{
    struct word *q = arg;
    struct ca_worker *w = q->worker;

    w->pending--;
    if (e->code == E_NONE)
        ca_evidence(w->ca);
    word_end(q, e->code == E_NONE ? GRPC_OK : GRPC_UNAVAILABLE,
             "the ledger cannot record the acknowledgement; try again");
    ca_worker_quit_if_idle(w);
}

static int
ack_fill(const Meshroot__V1__Word *m, const struct ca_caller *caller, struct ledger_ack *a,
         struct err *e)
{
    if (!ca_instance_is_sound(span_str(m->instance)) || m->instance[0] == '\0')
        return err_set(e, E_INVAL, "instance must be 32 lower-case hex digits");
    if (m->n_root_ids > ROOTS_MAX || m->leaf_serial.len > SERIAL_MAX_BYTES)
        return err_set(e, E_INVAL, "at most %d roots, and a serial of at most %d bytes", ROOTS_MAX,
                       SERIAL_MAX_BYTES);
    for (size_t i = 0; i < m->n_root_ids; i++) {
        if (m->root_ids[i].len != DIGEST_BYTES)
            return err_set(e, E_INVAL, "a root's id is the SHA-256 of its DER");
        memcpy(a->roots[i], m->root_ids[i].data, DIGEST_BYTES);
    }
    a->roots_n = m->n_root_ids;
    if (m->leaf_serial.len > 0)
        memcpy(a->serial, m->leaf_serial.data, m->leaf_serial.len);
    a->serial_n = m->leaf_serial.len;
    a->generation = m->generation;
    if (m->leaf_generation > m->generation) /* an agent's trust set is as new as its leaf */
        return err_set(e, E_INVAL, "the leaf is of a generation newer than the trust set's");
    a->leaf_generation = m->leaf_generation;
    a->ended = m->ended != 0;
    (void)snprintf(a->identity, sizeof(a->identity), "%s", caller->identity);
    (void)snprintf(a->instance, sizeof(a->instance), "%s", m->instance);
    return 0;
}

int
ca_word_read(struct span msg, const struct ca_caller *caller, struct ledger_ack *a, struct err *e)
{
    Meshroot__V1__Word *m = meshroot__v1__word__unpack(NULL, msg.n, msg.p);

    if (m == NULL)
        return err_set(e, E_INVAL, "the request is not a Word");
    int r = ack_fill(m, caller, a, e);
    meshroot__v1__word__free_unpacked(m, NULL);
    return r;
}

void
ca_trust_acknowledge(struct ca_worker *w, struct ca_call *c)
{
    struct ledger_ack a = { .generation = 0 };
    struct word *q = calloc(1, sizeof(*q));
    struct err e;

    if (q == NULL) {
        ca_metrics_handled(w->ca, "Acknowledge", GRPC_RESOURCE_EXHAUSTED, c->start_us);
        grpc_finish(c->grpc, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    *q = (struct word){ w, c->grpc, c->start_us };
    turnstile_in(&w->queues[CA_QUEUE_WORDS], mono_ms());
    if (ca_word_read(c->msg, &c->caller, &a, &e) < 0) {
        word_end(q, GRPC_INVALID_ARGUMENT, e.msg);
        return;
    }
    /* Gates believe a word of its generation, so nobody speaks of one to come. A replica that is
     * behind another says the same; the agent tries again. */
    if (a.generation > w->view->generation) {
        word_end(q, GRPC_UNAVAILABLE, "that generation is newer than what this CA hands out");
        return;
    }
    grpc_on_gone(c->grpc, on_word_gone, q);
    w->pending++;
    int r = ledger_acknowledge(w->ca->conf.ledger, &a, w->loop, on_word, q, &e);
    if (r == 0)
        return;
    w->pending--;
    if (r < 0 && log_brake(&w->ca->refusals, "serverca", mono_ms()))
        log_error("serverca", "acknowledgement of %s: %s", c->caller.identity, e.msg);
    /* a stale word was said before, better: the caller need not say it again */
    word_end(q, r > 0 ? GRPC_OK : err_meaning(e.code)->grpc_code, r > 0 ? NULL : e.msg);
}
