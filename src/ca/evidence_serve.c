/* evidence_serve.c - meshroot.v1.Evidence: what this replica has loaded, and its leaves in use.
 *
 * A stream's snapshot is taken in two looks: first what is loaded (only what ca_load_say has said),
 * then the ledger. No row of an older generation comes after the first, so the second has them all.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "ca/evidence.h"
#include "ca/room.h"
#include "ca/wire.h"
#include "meshroot.pb-c.h"

enum {
    LOOK_MS = 100,         /* whether there is something new */
    FULL_MS = 10,          /* the client does not read as fast as we write */
    SHARE = 10,            /* snapshots take a tenth of the time, however big the fleet */
    PIECE_HEAD_MAX = 4096, /* of a piece, besides the workloads */
};

struct ca_evidence_stream { /* freed by on_gone or when we end it */
    struct ca_worker *worker;
    struct grpc_call *call;
    struct ca_evidence_stream *next, **link;
    uint64_t start_us;
    struct timer *timer;
    struct buf body; /* the snapshot's workloads, encoded; empty between snapshots */
    size_t at;       /* so much of it is sent */
    bool is_sending;
    struct ca_said said; /* of the snapshot */
    uint64_t number;     /* of the snapshot; 0: none yet */
    uint64_t seen;       /* ca->evidence_n before it was taken */
    uint8_t id[DIGEST_BYTES];
    uint64_t from_ms, due_ms, quiet_ms; /* mono: it began; the next one may, must be taken */
};

static void
stream_destroy(void *arg)
{
    struct ca_evidence_stream *s = arg;

    timer_free(s->timer);
    free(s);
}

/* Its memory goes at the end of the turn: its own timer may be what has called. */
static void
stream_free(struct ca_evidence_stream *s, int code)
{
    *s->link = s->next;
    if (s->next != NULL)
        s->next->link = s->link;
    s->worker->evidence_streams_n--;
    ca_metrics_handled(s->worker->ca, "Evidence", code, s->start_us);
    buf_done(&s->body);
    timer_stop(s->timer);
    loop_defer(s->worker->loop, stream_destroy, s);
}

static void
on_gone(void *arg)
{
    stream_free(arg, GRPC_CANCELLED);
}

static void
stream_end(struct ca_evidence_stream *s, int code, const char *msg)
{
    struct grpc_call *c = s->call;

    stream_free(s, code);
    grpc_finish(c, code, msg);
}

/* -- one snapshot -------------------------------------------------------------------------------
 */

struct walk {
    struct buf *body, one;
    int r;
    struct err e;
};

/* protobuf-c has no const; the bytes are only read. */
static ProtobufCBinaryData
bytes_of(const uint8_t *p)
{
    return (ProtobufCBinaryData){ DIGEST_BYTES, (uint8_t *)(uintptr_t)p };
}

static int
ids_fill(ProtobufCBinaryData *ret, const uint8_t (*ids)[DIGEST_BYTES], size_t n, struct err *e)
{
    if (n > EVIDENCE_IDS_MAX)
        return err_set(e, E_LIMIT, "a workload has leaves of more than %d roots or signers",
                       (int)EVIDENCE_IDS_MAX);
    for (size_t i = 0; i < n; i++)
        ret[i] = bytes_of(ids[i]);
    return 0;
}

static int
workload_add(struct walk *k, const struct ledger_workload *w, struct err *e)
{
    ProtobufCBinaryData acks[EVIDENCE_IDS_MAX], roots[EVIDENCE_IDS_MAX], signers[EVIDENCE_IDS_MAX];
    Meshroot__V1__EvidenceWorkload m = MESHROOT__V1__EVIDENCE_WORKLOAD__INIT;
    uint8_t *p;

    TRY(ids_fill(acks, w->ack_roots, w->ack_roots_n, e));
    TRY(ids_fill(roots, w->leaf_roots, w->leaf_roots_n, e));
    TRY(ids_fill(signers, w->leaf_signers, w->leaf_signers_n, e));
    m.identity = (char *)(uintptr_t)w->identity;
    m.instance = (char *)(uintptr_t)w->instance;
    m.ack_generation = w->ack_generation;
    m.ack_roots = acks, m.n_ack_roots = w->ack_roots_n;
    m.min_row_generation = w->min_row_generation;
    m.leaves = w->leaves_n;
    m.leaf_roots = roots, m.n_leaf_roots = w->leaf_roots_n;
    m.leaf_signers = signers, m.n_leaf_signers = w->leaf_signers_n;
    m.last_not_after = w->last_not_after;
    m.said = w->said;
    m.last_issued = w->last_issued;
    m.used_issued = w->used_issued;
    m.used_generation = w->used_generation;
    m.ended_generation = w->ended_generation;
    m.leaf_root_generations = (uint64_t *)(uintptr_t)w->leaf_root_generations; /* only read */
    m.n_leaf_root_generations = w->leaf_root_generations == NULL ? 0 : w->leaf_roots_n;
    k->one.n = 0;
    TRY(buf_reserve(&k->one, meshroot__v1__evidence_workload__get_packed_size(&m), &p, e));
    k->one.n = meshroot__v1__evidence_workload__pack(&m, p);
    return wire_answer_add(k->body, buf_span(&k->one), e); /* field 1 of the piece */
}

static void
on_workload(const struct ledger_workload *w, void *arg)
{
    struct walk *k = arg;

    if (k->r == 0)
        k->r = workload_add(k, w, &k->e);
}

static void
snapshot_id(const struct ca_evidence_stream *s, uint8_t ret[DIGEST_BYTES])
{
    uint8_t both[2][DIGEST_BYTES];

    digest(buf_span(&s->body), both[0]);
    digest(span_of((const uint8_t *)&s->said, sizeof(s->said)), both[1]);
    digest(span_of(both[0], sizeof(both)), ret);
}

/* *ret_is_new: it says something else than the last one. */
static int
snapshot_take(struct ca_evidence_stream *s, bool *ret_is_new, struct err *e)
{
    struct ca_worker *w = s->worker;
    uint8_t id[DIGEST_BYTES];
    struct walk k = { .body = &s->body, .one = BUF_INIT(EVIDENCE_PIECE_BYTES) };

    s->body = BUF_INIT(EVIDENCE_MAX_BYTES);
    s->at = 0;
    s->said = w->said;
    s->seen = atomic_load(&w->ca->evidence_n);
    ledger_workloads_said(w->ca->conf.ledger, on_workload, &k);
    buf_done(&k.one);
    if (k.r < 0) {
        *e = k.e;
        return err_result(e);
    }
    snapshot_id(s, id);
    *ret_is_new = s->number == 0 || memcmp(id, s->id, DIGEST_BYTES) != 0;
    memcpy(s->id, id, DIGEST_BYTES);
    s->number += *ret_is_new;
    return 0;
}

/* -- its pieces ---------------------------------------------------------------------------------
 */

/* As many whole workloads from `s->at` on as a piece takes, and one at least. */
static struct span
piece_body(const struct ca_evidence_stream *s)
{
    struct span rest = span_skip(buf_span(&s->body), s->at);
    size_t n = 0;

    while (n < rest.n) {
        size_t at = n + 1, len = 0; /* behind the tag: the length */

        for (unsigned shift = 0;; shift += 7) {
            len |= (size_t)(rest.p[at] & 0x7f) << shift;
            if (rest.p[at++] < 0x80)
                break;
        }
        if (n > 0 && at + len > EVIDENCE_PIECE_BYTES)
            break;
        n = at + len;
    }
    return span_of(rest.p, n);
}

static int
piece_build(const struct ca_evidence_stream *s, struct span body, bool is_first, bool is_last,
            struct buf *out, struct err *e)
{
    Meshroot__V1__EvidencePiece m = MESHROOT__V1__EVIDENCE_PIECE__INIT;
    Meshroot__V1__EvidenceLoaded l = MESHROOT__V1__EVIDENCE_LOADED__INIT;
    ProtobufCBinaryData roots[ROOTS_MAX];
    uint8_t *p;

    for (l.n_root_ids = 0; l.n_root_ids < s->said.roots_n; l.n_root_ids++)
        roots[l.n_root_ids] = bytes_of(s->said.roots[l.n_root_ids]);
    l.replica = (char *)(uintptr_t)s->worker->ca->conf.replica;
    l.generation = s->said.generation;
    l.root_ids = roots;
    l.signer_id = bytes_of(s->said.signer_id);
    l.ledger_id =
        (ProtobufCBinaryData){ LEDGER_ID_BYTES,
                               (uint8_t *)(uintptr_t)ledger_id(s->worker->ca->conf.ledger) };
    m.number = s->number;
    m.last = is_last;
    m.loaded = is_first ? &l : NULL;
    TRY(buf_reserve(out, meshroot__v1__evidence_piece__get_packed_size(&m), &p, e));
    out->n += meshroot__v1__evidence_piece__pack(&m, p);
    return body.n == 0 ? 0 : buf_add(out, body, e);
}

static int
piece_send(struct ca_evidence_stream *s, struct span body, bool is_first, bool is_last,
           struct err *e)
{
    CLEANUP(buf_done) struct buf out = BUF_INIT(PIECE_HEAD_MAX + body.n);

    TRY(piece_build(s, body, is_first, is_last, &out, e));
    return grpc_send(s->call, buf_span(&out), e);
}

/* r: 0 all is sent, or the rest when there is room. */
static int
pieces_send(struct ca_evidence_stream *s, struct err *e)
{
    uint64_t now = mono_ms(), took;

    do {
        struct span body = piece_body(s);
        int r = piece_send(s, body, s->at == 0, s->at + body.n == s->body.n, e);

        if (r < 0 && e->code == E_LIMIT) {
            timer_set(s->timer, FULL_MS); /* the connection's own watch cuts who never reads */
            return 0;
        }
        if (r < 0)
            return r;
        s->at += body.n;
    } while (s->at < s->body.n);
    s->is_sending = false;
    buf_done(&s->body);
    took = SHARE * (now - s->from_ms);
    s->due_ms = s->from_ms + (took > EVIDENCE_EVERY_MS ? took : EVIDENCE_EVERY_MS);
    s->quiet_ms = now + EVIDENCE_QUIET_MS;
    timer_set(s->timer, LOOK_MS);
    return 0;
}

/* -- time ---------------------------------------------------------------------------------------
 */

static int
stream_step(struct ca_evidence_stream *s, struct err *e)
{
    uint64_t now = mono_ms();
    bool is_new = false;

    if (s->is_sending)
        return pieces_send(s, e);
    bool changed = s->seen != atomic_load(&s->worker->ca->evidence_n);
    if (now < s->due_ms || (!changed && now < s->quiet_ms)) {
        timer_set(s->timer, LOOK_MS);
        return 0;
    }
    s->from_ms = now;
    TRY(snapshot_take(s, &is_new, e));
    s->is_sending = is_new;
    if (is_new)
        return pieces_send(s, e);
    buf_done(&s->body);
    s->due_ms = now + EVIDENCE_EVERY_MS;
    s->quiet_ms = now + EVIDENCE_QUIET_MS;
    timer_set(s->timer, LOOK_MS);
    return piece_send(s, span_str(""), false, true, e); /* it is still so */
}

static void
on_timer(void *arg)
{
    struct ca_evidence_stream *s = arg;
    struct err e = { 0 };

    if (stream_step(s, &e) == 0)
        return;
    log_error("serverca", "evidence cannot be told: %s", e.msg);
    stream_end(s, GRPC_RESOURCE_EXHAUSTED, e.msg);
}

/* -- the call -----------------------------------------------------------------------------------
 */

static int
stream_new(struct ca_worker *w, struct ca_call *c, struct err *e)
{
    struct ca_evidence_stream *s;

    if (w->evidence_streams_n >= EVIDENCE_STREAMS_MAX)
        return err_set(e, E_LIMIT, "too many streams of evidence: at most %d",
                       (int)EVIDENCE_STREAMS_MAX);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    *s = (struct ca_evidence_stream){ .worker = w,
                                      .call = c->grpc,
                                      .next = w->evidence_streams,
                                      .link = &w->evidence_streams,
                                      .start_us = c->start_us };
    if (timer_new(w->loop, on_timer, s, &s->timer, e) < 0) {
        free(s);
        return err_result(e);
    }
    if (s->next != NULL)
        s->next->link = &s->next;
    w->evidence_streams = s;
    w->evidence_streams_n++;
    grpc_on_gone(c->grpc, on_gone, s);
    timer_set(s->timer, 0);
    return 0;
}

void
ca_evidence_watch(struct ca_worker *w, struct ca_call *c)
{
    const struct ca_callers *who = &w->ca->conf.who;
    struct err e = { 0 };

    if (!ca_account_is(&c->caller, who->evidence_readers, who->evidence_readers_n)) {
        ca_deny(w, c, "Evidence", "evidence_reader",
                "this account may not read the CA's evidence (--evidence-reader)");
        return;
    }
    if (stream_new(w, c, &e) == 0)
        return;
    ca_refuse(w, c, "Evidence", GRPC_RESOURCE_EXHAUSTED, e.msg);
}
