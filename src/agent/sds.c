/* sds.c - SDS streams: who is under way, what each was sent and has said. */
#include "agent/sds.h"

#include <stdlib.h>
#include <string.h>

#include "agent/workload.h"
#include "base/bucket.h"
#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "obs/log.h"

enum { MESSAGE_MAX_BYTES = 1024 * 1024 };

static const struct metric_desc m_requests = {
    "meshroot_agent_sds_requests_total",
    "SDS requests by API and by what they said: asked, acknowledged, refused, stale, left.",
    METRIC_COUNTER
};
static const struct metric_desc m_ended = { "meshroot_agent_sds_ended_total",
                                            "SDS streams that we ended, by gRPC code.",
                                            METRIC_COUNTER };
static const struct metric_desc m_strangers = { "meshroot_agent_sds_unknown_names_total",
                                                "Names asked for that nobody gets anything for.",
                                                METRIC_COUNTER };
static const struct metric_desc m_pushes = { "meshroot_agent_sds_pushes_total",
                                             "Changes pushed to SDS streams.", METRIC_COUNTER };
static const struct metric_desc m_streams = {
    "meshroot_agent_sds_streams",
    "SDS streams under way by state: idle, waiting (for their word), acknowledged, refused.",
    METRIC_GAUGE
};

struct stream { /* owned by the service; gone with its call */
    struct stream *next, *prev;
    struct sds *s;
    struct grpc_call *call;
    struct sds_peer peer;
    char node[SDS_NODE_BYTES], reason[SDS_REASON_BYTES];
    uint32_t uid;
    uint64_t sent_ms; /* of the last answer */
    int64_t word_s;   /* of its last acknowledgement or refusal; 0: none */
    struct bucket requests;
};

struct sds {
    struct sds_conf conf;
    struct loop *loop;
    struct sds_content content;
    struct stream *streams;
    size_t streams_n;
    struct timer *ack, *grace;
    uint64_t grace_until_ms; /* mono; somebody who holds a secret may come back until then; 0 */
    bool was_settled, is_ack_timed, is_freed;
    uint64_t acks, nacks, pushes;
    char last_refusal[SDS_NODE_BYTES + SDS_REASON_BYTES + 8];
    int64_t last_refusal_s;
};

/* -- settled ------------------------------------------------------------------------------------
 */

bool
sds_is_settled(const struct sds *s)
{
    if (s == NULL)
        return true;
    for (const struct stream *t = s->streams; t != NULL; t = t->next)
        if (t->peer.state == SDS_SENT || t->peer.state == SDS_NACKED)
            return false;
    return s->grace_until_ms == 0;
}

void
sds_why_unsettled(const struct sds *s, char *text, size_t cap)
{
    const struct stream *waiting = NULL, *refused = NULL;

    for (const struct stream *t = s->streams; t != NULL; t = t->next) {
        waiting = t->peer.state == SDS_SENT ? t : waiting;
        refused = t->peer.state == SDS_NACKED ? t : refused;
    }
    if (refused != NULL)
        (void)snprintf(text, cap, "SDS client %s refused what it was sent: %s", refused->node,
                       refused->reason);
    else if (waiting != NULL)
        (void)snprintf(text, cap, "SDS client %s has not acknowledged what it was sent",
                       waiting->node);
    else
        (void)snprintf(text, cap, "an SDS client that went away may come back");
}

/* Tells, once, that everybody is where we are. */
static void
look(struct sds *s)
{
    bool is_settled = sds_is_settled(s), was = s->was_settled;

    s->was_settled = is_settled;
    if (is_settled && !was && !s->is_freed)
        s->conf.on_settled(s->conf.arg);
}

static void
wait_for_return(struct sds *s)
{
    if (s->conf.grace_ms == 0 || s->is_freed)
        return;
    s->grace_until_ms = mono_ms() + s->conf.grace_ms;
    timer_set(s->grace, s->conf.grace_ms);
}

static void
on_grace(void *arg)
{
    struct sds *s = arg;

    s->grace_until_ms = 0;
    look(s);
}

/* -- streams ------------------------------------------------------------------------------------
 */

static void
stream_remove(struct stream *t)
{
    struct sds *s = t->s;

    if (t->prev != NULL)
        t->prev->next = t->next;
    else
        s->streams = t->next;
    if (t->next != NULL)
        t->next->prev = t->prev;
    s->streams_n--;
    free(t);
    look(s);
}

/* It may hold a secret, and go on with it: Envoy does, and comes back within 30 s. */
static void
stream_gone(void *arg)
{
    struct stream *t = arg;

    if (t->peer.nonce != 0 && t->peer.names != 0)
        wait_for_return(t->s);
    stream_remove(t);
}

static void
count_end(struct sds *s, int code)
{
    char labels[METRIC_LABELS_BYTES];

    (void)snprintf(labels, sizeof(labels), "code=\"%s\"", grpc_code_name(code));
    metric_add(s->conf.metrics, &m_ended, labels, 1);
}

static void
stream_end(struct stream *t, int code, const char *why)
{
    count_end(t->s, code);
    log_with(LOG_WARN, "sds", LABELS({ "node", t->node }, { "code", grpc_code_name(code) }),
             "a stream was ended: %s", why);
    grpc_finish(t->call, code, why); /* no on_gone after it */
    stream_gone(t);
}

/* A stream for the call, if its caller may have one; else the call is ended. */
static struct stream *
stream_new(struct sds *s, struct grpc_call *c, bool is_delta)
{
    struct unix_peer peer;
    struct stream *t;

    if (!workload_admits(s->conf.workload, c, &peer)) {
        count_end(s, GRPC_PERMISSION_DENIED);
        return NULL;
    }
    t = s->streams_n < SDS_STREAMS_MAX ? calloc(1, sizeof(*t)) : NULL;
    if (t == NULL) {
        count_end(s, GRPC_RESOURCE_EXHAUSTED);
        grpc_finish(c, GRPC_RESOURCE_EXHAUSTED, "too many streams are under way");
        return NULL;
    }
    *t = (struct stream){ .next = s->streams,
                          .s = s,
                          .call = c,
                          .peer.is_delta = is_delta,
                          .uid = peer.uid,
                          .requests = bucket_full(SDS_REQUESTS_BURST, SDS_REQUESTS_PER_S, 1000) };
    if (t->next != NULL)
        t->next->prev = t;
    s->streams = t;
    s->streams_n++;
    grpc_on_gone(c, stream_gone, t);
    return t;
}

/* -- answers ------------------------------------------------------------------------------------
 */

/* Of those asked for, what there is: nothing before the first leaf, no leaf that has expired. */
static unsigned
sendable(const struct sds *s, unsigned names)
{
    const struct creds *c = s->content.creds;

    if (c == NULL)
        return 0;
    return cert_not_after(c->leaf) > unix_s() ? names : names & ~(unsigned)SDS_KEYS;
}

static int
send_names(struct stream *t, unsigned names, const struct sds_request *removed, struct err *e)
{
    CLEANUP(buf_wipe) struct buf msg = BUF_INIT(MESSAGE_MAX_BYTES);
    struct sds *s = t->s;
    struct span pkcs8 = { NULL, 0 };
    char nonce[SDS_NONCE_BYTES];

    if ((names & SDS_KEYS) != 0)
        TRY(workload_key(s->conf.workload, &pkcs8, e));
    sds_peer_sent(&t->peer, nonce);
    s->was_settled = false;
    TRY(sds_answer_pack(&s->content, t->peer.is_delta, names, pkcs8, nonce, removed, &msg, e));
    TRY(grpc_send(t->call, buf_span(&msg), e));
    t->sent_ms = mono_ms();
    if (!s->is_ack_timed)
        timer_set(s->ack, s->conf.ack_ms);
    s->is_ack_timed = true;
    return 0;
}

/* r: false: the stream has been ended. */
static bool
answer(struct stream *t, unsigned names, const struct sds_request *removed)
{
    bool has_removed = removed != NULL && t->peer.is_delta && removed->strangers_n > 0;
    struct err e;

    names = sendable(t->s, names);
    if (names == 0 && !has_removed)
        return true;
    if (send_names(t, names, has_removed ? removed : NULL, &e) == 0)
        return true;
    stream_end(t, err_meaning(e.code)->grpc_code, e.msg);
    return false;
}

/* -- requests -----------------------------------------------------------------------------------
 */

static void
tell_strangers(struct stream *t, const struct sds_request *q)
{
    for (size_t i = 0; i < q->strangers_n; i++) {
        metric_add(t->s->conf.metrics, &m_strangers, "", 1);
        log_with(LOG_WARN, "sds", LABELS({ "node", t->node }, { "name", q->strangers[i] }),
                 "no secret of this name is served here: default, ROOTCA, %s, %s are",
                 t->s->content.name[SDS_ID], t->s->content.name[SDS_DOMAIN]);
    }
}

static void
tell_word(struct stream *t, const struct sds_request *q, enum sds_word word)
{
    struct sds *s = t->s;
    char labels[METRIC_LABELS_BYTES];

    (void)snprintf(labels, sizeof(labels), "api=\"%s\",said=\"%s\"",
                   t->peer.is_delta ? "delta" : "sotw", sds_word_name(word));
    metric_add(s->conf.metrics, &m_requests, labels, 1);
    if (word != SDS_ACKS && word != SDS_NACKS)
        return;
    t->word_s = unix_s();
    s->acks += word == SDS_ACKS;
    s->nacks += word == SDS_NACKS;
    if (word == SDS_ACKS)
        return;
    (void)snprintf(t->reason, sizeof(t->reason), "%s", q->reason);
    (void)snprintf(s->last_refusal, sizeof(s->last_refusal), "%s: %s", t->node, q->reason);
    s->last_refusal_s = t->word_s;
    log_with(LOG_WARN, "sds", LABELS({ "node", t->node }),
             "what was sent was refused, and is not acknowledged to the CA: %s", q->reason);
}

static void
take(struct stream *t, const struct sds_request *q)
{
    struct sds *s = t->s;
    unsigned names;

    if (t->node[0] == '\0') {
        if (q->node[0] == '\0') {
            stream_end(t, GRPC_INVALID_ARGUMENT, "missing node information");
            return;
        }
        (void)snprintf(t->node, sizeof(t->node), "%s", q->node);
    }
    tell_strangers(t, q);
    enum sds_word word = sds_peer_take(&t->peer, q, &names);
    tell_word(t, q, word);
    if (answer(t, names, q))
        look(s);
}

static void
on_request(struct grpc_call *c, struct span msg, struct sds *s, bool is_delta)
{
    struct stream *t = grpc_call_arg(c);
    struct sds_request q;
    struct err e;

    if (t == NULL)
        t = stream_new(s, c, is_delta);
    if (t == NULL)
        return;
    if (!bucket_take(&t->requests))
        stream_end(t, GRPC_RESOURCE_EXHAUSTED, "too many requests on one stream");
    else if (sds_request_parse(&s->content, is_delta, msg, &q, &e) < 0)
        stream_end(t, e.code == E_LIMIT ? GRPC_RESOURCE_EXHAUSTED : GRPC_INVALID_ARGUMENT, e.msg);
    else
        take(t, &q);
}

void
sds_stream_request(struct grpc_call *c, struct span msg, void *self)
{
    on_request(c, msg, workload_sds(self), false);
}

void
sds_delta_request(struct grpc_call *c, struct span msg, void *self)
{
    on_request(c, msg, workload_sds(self), true);
}

/* It has no more to ask, and takes no more: what it holds it does not use any longer. */
void
sds_half_close(struct grpc_call *c, void *self)
{
    struct stream *t = grpc_call_arg(c);

    (void)self;
    grpc_finish(c, GRPC_OK, NULL);
    if (t != NULL)
        stream_remove(t);
}

/* One answer, no stream, and no acknowledgement ever. */
void
sds_fetch(struct grpc_call *c, struct span msg, void *self)
{
    CLEANUP(buf_wipe) struct buf b = BUF_INIT(MESSAGE_MAX_BYTES);
    struct sds *s = workload_sds(self);
    struct span pkcs8 = { NULL, 0 };
    struct unix_peer peer;
    struct sds_request q;
    struct err e;

    if (!workload_admits(s->conf.workload, c, &peer))
        return;
    int r = sds_request_parse(&s->content, false, msg, &q, &e);
    unsigned names = r < 0 ? 0 : sendable(s, q.names);
    if (r == 0 && q.node[0] == '\0')
        r = err_set(&e, E_PARSE, "missing node information");
    if (r == 0 && q.strangers_n > 0)
        r = err_set(&e, E_NOTFOUND, "no secret of the name \"%s\" is served here", q.strangers[0]);
    if (r == 0 && names != q.names)
        r = err_set(&e, E_STATE, "no valid certificate is in use yet; try again");
    if (r == 0 && (names & SDS_KEYS) != 0)
        r = workload_key(s->conf.workload, &pkcs8, &e);
    if (r == 0)
        r = sds_answer_pack(&s->content, false, names, pkcs8, "1", NULL, &b, &e);
    if (r == 0)
        r = grpc_send(c, buf_span(&b), &e);
    int code = r == 0              ? GRPC_OK
               : e.code == E_PARSE ? GRPC_INVALID_ARGUMENT
               : e.code == E_STATE ? GRPC_UNAVAILABLE
                                   : err_meaning(e.code)->grpc_code;
    grpc_finish(c, code, r == 0 ? NULL : e.msg);
}

/* -- pushes -------------------------------------------------------------------------------------
 */

/* To the streams that want trust sets only, or to the others. */
static void
push(struct sds *s, unsigned changed, bool is_trust_only)
{
    for (struct stream *t = s->streams, *next; t != NULL; t = next) {
        unsigned names = sds_peer_push(&t->peer, changed);

        next = t->next;
        if (names == 0 || ((t->peer.names & SDS_KEYS) == 0) != is_trust_only)
            continue;
        s->pushes++;
        metric_add(s->conf.metrics, &m_pushes, "", 1);
        (void)answer(t, names, NULL);
    }
}

void
sds_use(struct sds *s, const struct creds *c)
{
    unsigned changed = sds_content_use(&s->content, c);

    if (changed == 0)
        return;
    push(s, changed, true); /* who is to be trusted comes before who is to be shown */
    push(s, changed, false);
    look(s);
}

/* Who has not said anything for ack_ms is not waited for any longer: it may come again. */
static void
on_ack(void *arg)
{
    struct sds *s = arg;
    uint64_t now = mono_ms(), wait = UINT64_MAX;

    for (struct stream *t = s->streams, *next; t != NULL; t = next) {
        uint64_t age = now - t->sent_ms;

        next = t->next;
        if (t->peer.state != SDS_SENT)
            continue;
        if (age >= s->conf.ack_ms)
            stream_end(t, GRPC_UNAVAILABLE, "what was sent has not been acknowledged in time");
        else if (s->conf.ack_ms - age < wait)
            wait = s->conf.ack_ms - age;
    }
    s->is_ack_timed = wait != UINT64_MAX;
    if (s->is_ack_timed)
        timer_set(s->ack, wait);
}

/* -- making and looking -------------------------------------------------------------------------
 */

int
sds_new(struct loop *l, const struct sds_conf *conf, struct sds **ret, struct err *e)
{
    struct sds *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    s->conf = *conf;
    s->loop = l;
    s->was_settled = true;
    if (sds_content_init(&s->content, conf->identity, e) < 0 ||
        timer_new(l, on_ack, s, &s->ack, e) < 0 || timer_new(l, on_grace, s, &s->grace, e) < 0) {
        sds_free(s);
        return err_wrap(e, "SDS");
    }
    s->conf.identity = s->content.name[SDS_ID];
    if (conf->may_have_clients) {
        wait_for_return(s);
        s->was_settled = sds_is_settled(s);
    }
    *ret = s;
    return 0;
}

size_t
sds_streams(const struct sds *s)
{
    return s == NULL ? 0 : s->streams_n;
}

static json_t *
stream_json(const struct stream *t)
{
    json_t *names = json_array();

    for (unsigned i = 0; i < SDS_NAME__N; i++)
        if ((t->peer.names >> i & 1) != 0)
            names = json_array_with(names, json_string(t->s->content.name[i]));
    return json_pack("{s:s, s:I, s:s, s:o, s:s, s:o, s:o}", "node", t->node, "uid",
                     (json_int_t)t->uid, "api", t->peer.is_delta ? "delta" : "sotw", "names", names,
                     "state", sds_state_name(t->peer.state), "word_at", json_time(t->word_s),
                     "reason", t->peer.state == SDS_NACKED ? json_string(t->reason) : json_null());
}

json_t *
sds_status(const struct sds *s)
{
    json_t *streams;

    if (s == NULL)
        return json_null();
    streams = json_array();
    for (const struct stream *t = s->streams; t != NULL; t = t->next)
        streams = json_array_with(streams, stream_json(t));
    return json_pack("{s:o, s:I, s:I, s:I, s:b, s:b, s:o, s:o}", "streams", streams, "pushes",
                     (json_int_t)s->pushes, "acknowledged", (json_int_t)s->acks, "refused",
                     (json_int_t)s->nacks, "settled", sds_is_settled(s), "waits_for_return",
                     s->grace_until_ms != 0, "last_refusal",
                     s->last_refusal_s == 0 ? json_null() : json_string(s->last_refusal),
                     "last_refusal_at", json_time(s->last_refusal_s));
}

void
sds_metrics_refresh(struct sds *s)
{
    size_t n[SDS_STATE__N] = { 0 };
    char labels[METRIC_LABELS_BYTES];

    if (s == NULL)
        return;
    for (const struct stream *t = s->streams; t != NULL; t = t->next)
        n[t->peer.state]++;
    for (size_t i = 0; i < SDS_STATE__N; i++) {
        (void)snprintf(labels, sizeof(labels), "state=\"%s\"", sds_state_name((enum sds_state)i));
        metric_set(s->conf.metrics, &m_streams, labels, (double)n[i]);
    }
}

void
sds_free(struct sds *s)
{
    if (s == NULL)
        return;
    s->is_freed = true;
    timer_free(s->ack);
    timer_free(s->grace);
    loop_defer(s->loop, free, s);
}
