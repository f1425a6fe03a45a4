/* trust.c - the trust stream, and our word about what we hold. The word is said only about what
 * files, proxies and their readers use from then on; again after each change and each new stream.
 */
#include <string.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "agent/trust_set.h"
#include "base/clock.h"
#include "base/str.h"
#include "meshroot.pb-c.h"
#include "obs/log.h"

#define WATCH_PATH "/meshroot.v1.Trust/Watch"
#define WORD_PATH  "/meshroot.v1.Trust/Acknowledge"

enum { MESSAGE_MAX_BYTES = 8 * 1024 };

/* -- the trust set ------------------------------------------------------------------------------
 */

/* A leaf under another signer is to be renewed, drawn once for each move, so that a fleet does not
 * come all at once. One that was taken back may come again. */
static void
follow_signer(struct agent *a, const Meshroot__V1__TrustSet *m)
{
    uint64_t from, to;

    if (!trust_set_renewal(m, agent_newest(a), &from, &to)) {
        memset(a->pushed_signer, 0, DIGEST_BYTES);
        return;
    }
    if (memcmp(a->pushed_signer, m->signer_id.data, DIGEST_BYTES) == 0)
        return;
    memcpy(a->pushed_signer, m->signer_id.data, DIGEST_BYTES);
    log_info("agent", "the signer has moved: renews within %llu ms", (unsigned long long)to);
    renew_between(a, from, to);
}

/* r: 0; TRUST_SET_OLD. */
static int
take_trust_set(struct agent *a, const Meshroot__V1__TrustSet *m, struct err *e)
{
    const struct creds *held = agent_newest(a);
    struct creds *next = NULL;
    struct err lists = { 0 };
    int r = TRY(trust_set_take(m, held, &next, &lists, e));

    if (r == TRUST_SET_OLD) {
        log_debug("agent", "a trust set of generation %llu, older than %llu, is put aside",
                  (unsigned long long)m->generation, (unsigned long long)held->generation);
        return r;
    }
    if (lists.code != E_NONE)
        agent_note_error(a, "the revocation lists are not used", &lists);
    if (r == 0)
        agent_apply(a, next);
    else if (!a->is_watching)
        trust_word_due(a); /* a new stream: the CA may have lost what we said */
    follow_signer(a, m);
    return 0;
}

static void
on_message(struct span msg, void *arg)
{
    struct agent *a = arg;
    struct err e = { 0 };
    Meshroot__V1__TrustSet *m;

    if (a->is_stopping)
        return;
    m = meshroot__v1__trust_set__unpack(NULL, msg.n, msg.p);
    if (m == NULL)
        (void)err_set(&e, E_PARSE, "not a TrustSet");
    else
        a->ca_is_plain = false; /* before the set is used: the word about it is to be said */
    int r = m == NULL ? -(int)e.code : take_trust_set(a, m, &e);
    if (r < 0)
        agent_note_error(a, "trust set", &e);
    else
        a->watch_failures = 0;
    if (r == 0) {
        a->is_watching = true;
        if (a->workload != NULL && m->jwt_bundle.len > 0)
            workload_use_jwt(a->workload, span_of(m->jwt_bundle.data, m->jwt_bundle.len));
    }
    if (m != NULL)
        meshroot__v1__trust_set__free_unpacked(m, NULL);
}

static void
watch_later(struct agent *a, struct span pushback, bool is_slow)
{
    a->watch_failures++;
    timer_set(a->watch_timer, plan_retry_ms(pushback, a->watch_failures, is_slow, agent_random()));
}

static void
on_watch_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct agent *a = arg;

    if (a->watch_call != q)
        return; /* one that another has replaced */
    a->watch_call = NULL;
    a->is_watching = false;
    if (a->is_stopping)
        return;
    if (code == GRPC_UNIMPLEMENTED) {
        if (!a->ca_is_plain)
            log_info("agent",
                     "the CA has no trust stream: the trust set comes with each certificate");
        a->ca_is_plain = true;
        a->ack_due = false;
        return; /* asked again with the next leaf */
    }
    struct span pushback = grpc_answer_trailer(q, PUSHBACK_TRAILER);
    if (code == GRPC_UNAVAILABLE &&
        pushback.n > 0) { /* the replica leaves, or the connection is old */
        log_debug("agent", "the trust stream moves to another connection");
        timer_set(a->watch_timer, plan_retry_ms(pushback, 0, false, agent_random()));
        return;
    }
    if (code != GRPC_OK) {
        struct err e = { 0 };

        if (code == GRPC_UNAVAILABLE)
            count_ca_failure(a);
        (void)err_set(&e, E_PEER, "code = %s desc = %.350s", grpc_code_name(code), msg);
        agent_note_error(a, "trust stream ended", &e);
    }
    watch_later(a, pushback, !plan_is_transient(code) && code != GRPC_OK);
}

static int
pack_watch(const struct agent *a, struct buf *out, struct err *e)
{
    Meshroot__V1__WatchRequest m = MESHROOT__V1__WATCH_REQUEST__INIT;
    uint8_t *p;

    m.instance = (char *)(uintptr_t)a->instance;
    m.generation = a->now->generation;
    TRY(buf_reserve(out, meshroot__v1__watch_request__get_packed_size(&m), &p, e));
    out->n += meshroot__v1__watch_request__pack(&m, p);
    return 0;
}

void
trust_watch(struct agent *a)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(MESSAGE_MAX_BYTES);
    const struct grpc_answer answer = { on_message, on_watch_done, a };
    struct grpc_request *before = STEAL(a->watch_call);
    struct err e = { 0 };

    if (a->is_stopping || a->now == NULL)
        return;
    a->is_watching = false;
    timer_stop(a->watch_timer);
    int r = pack_watch(a, &msg, &e);
    if (r == 0)
        r = agent_call(a, WATCH_PATH, a->watch_failures, buf_span(&msg), 0, &answer, &a->watch_call,
                       &e);
    if (before != NULL)
        grpc_cancel(before);
    if (r < 0) {
        agent_note_error(a, "trust stream", &e);
        watch_later(a, NO_PUSHBACK, true);
    }
}

static void
on_watch_timer(void *arg)
{
    trust_watch(arg);
}

/* -- the word -----------------------------------------------------------------------------------
 */

static int
pack_word(const struct agent *a, bool ended, struct buf *out, struct err *e)
{
    Meshroot__V1__Word m = MESHROOT__V1__WORD__INIT;
    ProtobufCBinaryData ids[ROOTS_MAX];
    struct span serial = cert_serial(a->now->leaf);
    uint8_t *p;

    for (size_t i = 0; i < roots_count(a->now->roots); i++)
        ids[i] = (ProtobufCBinaryData){ DIGEST_BYTES,
                                        (uint8_t *)(uintptr_t)cert_id(roots_at(a->now->roots, i)) };
    m.instance = (char *)(uintptr_t)a->instance;
    m.generation = a->now->generation;
    m.n_root_ids = roots_count(a->now->roots);
    m.root_ids = ids;
    m.leaf_generation = a->now->leaf_generation;
    m.leaf_serial = (ProtobufCBinaryData){ serial.n, (uint8_t *)(uintptr_t)serial.p };
    m.ended = ended;
    TRY(buf_reserve(out, meshroot__v1__word__get_packed_size(&m), &p, e));
    out->n += meshroot__v1__word__pack(&m, p);
    return 0;
}

static void
word_later(struct agent *a, struct span pushback, bool is_slow)
{
    a->ack_due = true;
    a->ack_failures++;
    timer_set(a->ack_timer, plan_retry_ms(pushback, a->ack_failures, is_slow, agent_random()));
}

static void say_word(struct agent *a);

static void
on_word_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct agent *a = arg;

    a->ack_call = NULL;
    if (a->is_stopping || code == GRPC_UNIMPLEMENTED)
        return; /* on_watch_done says so */
    if (code != GRPC_OK) {
        struct err e = { 0 };

        (void)err_set(&e, E_PEER, "code = %s desc = %.350s", grpc_code_name(code), msg);
        agent_note_error(a, "acknowledge", &e);
        word_later(a, grpc_answer_trailer(q, PUSHBACK_TRAILER), !plan_is_transient(code));
        return;
    }
    a->ack_failures = 0;
    a->acked_generation = a->asked_generation;
    a->acked_at_s = unix_s();
    if (a->ack_due) /* something changed meanwhile */
        say_word(a);
}

static void
say_word(struct agent *a)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(MESSAGE_MAX_BYTES);
    const struct grpc_answer answer = { .on_done = on_word_done, .arg = a };
    struct err e = { 0 };

    if (a->ack_call != NULL || a->is_stopping || !reload_is_settled(a->reload) ||
        !workload_is_settled(a->workload))
        return; /* it is said when that has ended */
    a->ack_due = false;
    timer_stop(a->ack_timer);
    if (a->ca_is_plain)
        return; /* it takes no words */
    a->asked_generation = a->now->generation;
    int r = pack_word(a, false, &msg, &e);
    if (r == 0)
        r = agent_call(a, WORD_PATH, a->ack_failures, buf_span(&msg), CALL_MS, &answer,
                       &a->ack_call, &e);
    if (r < 0) {
        agent_note_error(a, "acknowledge", &e);
        word_later(a, NO_PUSHBACK, true);
    }
}

static void
on_ack_timer(void *arg)
{
    say_word(arg);
}

void
trust_word_due(struct agent *a)
{
    a->ack_due = true;
    a->ack_failures = 0;
    say_word(a);
}

void
trust_word_go_on(struct agent *a)
{
    if (a->ack_due)
        say_word(a);
}

int
trust_goodbye(struct agent *a, const struct grpc_answer *answer, struct err *e)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(MESSAGE_MAX_BYTES);

    TRY(pack_word(a, true, &msg, e));
    return agent_call(a, WORD_PATH, 0, buf_span(&msg), STOP_MS, answer, NULL, e);
}

int
trust_init(struct agent *a, struct err *e)
{
    TRY(timer_new(a->loop, on_watch_timer, a, &a->watch_timer, e));
    return timer_new(a->loop, on_ack_timer, a, &a->ack_timer, e);
}

void
trust_done(struct agent *a)
{
    if (a->watch_timer != NULL)
        timer_stop(a->watch_timer);
    if (a->ack_timer != NULL)
        timer_stop(a->ack_timer);
    if (a->watch_call != NULL)
        grpc_cancel(STEAL(a->watch_call));
    if (a->ack_call != NULL)
        grpc_cancel(STEAL(a->ack_call));
}
