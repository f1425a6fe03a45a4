/* renew.c - key, CSR, CreateCertificate, and when to do it again. One call at a time; the leaf in
 * use stays until a checked one is there. */
#include <string.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "base/clock.h"
#include "base/str.h"
#include "google_struct.pb-c.h"
#include "istio_ca.pb-c.h"
#include "obs/log.h"
#include "pki/leaf.h"

#define CREATE_PATH "/istio.v1.auth.IstioCertificateService/CreateCertificate"

enum { REQUEST_MAX_BYTES = 32 * 1024 };

static void
set_timer(struct agent *a, uint64_t ms)
{
    a->renew_at_ms = mono_ms() + ms;
    a->renew_at_s = unix_s() + (int64_t)(ms / 1000);
    timer_set(a->renew_timer, ms);
}

void
renew_schedule(struct agent *a)
{
    const struct creds *c = a->now;

    a->renew_failures = 0;
    set_timer(a, plan_renew_ms(c->received_s, cert_not_after(c->leaf), unix_s(), agent_random()));
    if (a->roots_due) /* they have changed while the leaf was on its way */
        renew_within(a, CA_FILE_WINDOW_MS);
}

void
renew_within(struct agent *a, uint64_t ms)
{
    renew_between(a, 0, ms);
}

void
renew_between(struct agent *a, uint64_t from_ms, uint64_t to_ms)
{
    uint64_t in = from_ms + random_below(to_ms - from_ms + 1), now = mono_ms();

    if (a->is_stopping || a->renew_call != NULL || a->keymaker != NULL)
        return; /* on its way */
    if (a->renew_at_ms == 0 || a->renew_at_ms > now + in)
        set_timer(a, in);
}

static void
failed(struct agent *a, const struct err *why, struct span pushback, bool is_slow)
{
    key_unref(a->asking_key);
    a->asking_key = NULL;
    creds_free(a->answer);
    a->answer = NULL;
    a->renew_failures++;
    count_csr_end(a, false, (double)(mono_ms() - a->renew_started_ms));
    agent_note_error(a, "failed to sign CSR", why);
    set_timer(a, plan_retry_ms(pushback, a->renew_failures, is_slow, agent_random()));
}

/* -- the answer ---------------------------------------------------------------------------------
 */

/* The message is checked here; whether it is used depends on the trailers. */
static void
on_message(struct span msg, void *arg)
{
    struct agent *a = arg;

    if (a->got_answer)
        return;
    a->got_answer = true;
    Istio__V1__Auth__IstioCertificateResponse *m =
        istio__v1__auth__istio_certificate_response__unpack(NULL, msg.n, msg.p);
    if (m == NULL) {
        (void)err_set(&a->answer_error, E_PARSE,
                      "the CA's answer is not an IstioCertificateResponse");
        return;
    }
    (void)!creds_from_answer(a->asking_key, a->conf.identity, m->cert_chain, m->n_cert_chain,
                             &a->answer, &a->answer_error);
    istio__v1__auth__istio_certificate_response__free_unpacked(m, NULL);
}

/* The generation of what the answer carries, which the leaf's row has in the CA's ledger; a CA that
 * names none has one trust set for ever. */
static int
answer_generation(const struct agent *a, const struct grpc_request *q, struct creds *c,
                  struct err *e)
{
    struct span s = grpc_answer_trailer(q, "meshroot-generation");
    const struct creds *held = agent_newest(a);
    uint64_t held_n = held == NULL ? 0 : held->generation;

    if (s.n > 0 && u64_parse(s, 0, INT64_MAX, &c->leaf_generation, e) < 0)
        return err_wrap(e, "meshroot-generation");
    c->generation = s.n > 0 ? c->leaf_generation : held_n;
    if (plan_generation(held_n, c->generation) == PLAN_DROP)
        return err_set(
            e, E_STATE,
            "the answer is of generation %llu, older than %llu that is in use: put aside",
            (unsigned long long)c->generation, (unsigned long long)held_n);
    return 0;
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct agent *a = arg;
    struct err e = { 0 };
    int r = 0;

    a->renew_call = NULL;
    if (a->is_stopping)
        return;
    if (code != GRPC_OK) {
        if (code == GRPC_UNAVAILABLE)
            count_ca_failure(a);
        r = err_set(&e, E_PEER, "create certificate: rpc error: code = %s desc = %.350s",
                    grpc_code_name(code), msg);
    } else if (a->answer == NULL && !a->got_answer)
        r = err_set(&e, E_PEER, "create certificate: no message in the answer");
    else if (a->answer == NULL) {
        e = a->answer_error;
        r = -(int)e.code;
    } else
        r = answer_generation(a, q, a->answer, &e);
    if (r < 0) {
        failed(a, &e, grpc_answer_trailer(q, PUSHBACK_TRAILER),
               code != GRPC_OK && !plan_is_transient(code));
        return;
    }
    struct creds *c = STEAL(a->answer);
    const struct creds *held = agent_newest(a);
    if (held != NULL && held->crls != NULL) /* the answer brings none */
        c->crls = crls_ref(held->crls);
    key_unref(a->asking_key);
    a->asking_key = NULL;
    count_csr_end(a, true, (double)(mono_ms() - a->renew_started_ms));
    a->last_error[0] = '\0';
    agent_apply(a, c);
    if (a->pending != NULL)
        a->renew_at_ms = 0; /* not in use yet: nothing to renew until it is */
}

/* -- the request --------------------------------------------------------------------------------
 */

static int
pack_request(struct agent *a, struct buf *out, struct err *e)
{
    CLEANUP(buf_done) struct buf csr = BUF_INIT(CSR_MAX_BYTES);
    Istio__V1__Auth__IstioCertificateRequest m = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_REQUEST__INIT;
    Meshroot__Pb__Struct metadata = MESHROOT__PB__STRUCT__INIT;
    Meshroot__Pb__Struct__FieldsEntry entry = MESHROOT__PB__STRUCT__FIELDS_ENTRY__INIT;
    Meshroot__Pb__Struct__FieldsEntry *entries[] = { &entry };
    Meshroot__Pb__Value signer = MESHROOT__PB__VALUE__INIT;
    uint8_t *p;

    TRY(csr_make(a->asking_key, a->conf.identity, &csr, e));
    m.csr = (char *)csr.p;
    m.validity_duration = (int64_t)(a->conf.ttl_ms / 1000);
    if (a->conf.cert_signer != NULL) {
        signer.kind_case = MESHROOT__PB__VALUE__KIND_STRING_VALUE;
        signer.string_value = (char *)(uintptr_t)a->conf.cert_signer;
        entry.key = (char *)(uintptr_t) "CertSigner";
        entry.value = &signer;
        metadata.n_fields = 1;
        metadata.fields = entries;
        m.metadata = &metadata;
    }
    size_t n = istio__v1__auth__istio_certificate_request__get_packed_size(&m);
    TRY(buf_reserve(out, n, &p, e));
    out->n += istio__v1__auth__istio_certificate_request__pack(&m, p);
    return 0;
}

static int
ask(struct agent *a, struct err *e)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(REQUEST_MAX_BYTES);
    const struct grpc_answer answer = { on_message, on_done, a };
    struct call_headers h;

    TRY(pack_request(a, &msg, e));
    TRY(agent_connect(a, e));
    TRY(agent_headers(a, a->renew_failures, &h, e));
    a->got_answer = a->roots_due = false;
    int r = grpc_client_call(a->client, CREATE_PATH, h.kv, buf_span(&msg), CALL_MS, &answer,
                             &a->renew_call, e);
    agent_headers_done(&h);
    return r;
}

static void
on_key(struct key *take_key, const struct err *why, void *arg)
{
    struct agent *a = arg;
    struct err e = { 0 };

    keymaker_free(STEAL(a->keymaker));
    if (take_key == NULL) {
        failed(a, why, NO_PUSHBACK, true);
        return;
    }
    a->asking_key = take_key;
    count_csr(a, a->renew_failures > 0);
    if (ask(a, &e) < 0)
        failed(a, &e, NO_PUSHBACK, true);
}

/* A new key for every leaf. */
static void
on_timer(void *arg)
{
    struct agent *a = arg;
    struct err e = { 0 };

    if (a->is_stopping || a->renew_call != NULL || a->keymaker != NULL)
        return;
    a->renew_started_ms = mono_ms();
    if (keymaker_start(a->loop, a->conf.key_kind, on_key, a, &a->keymaker, &e) < 0)
        failed(a, &e, NO_PUSHBACK, true);
}

int
renew_init(struct agent *a, struct err *e)
{
    return timer_new(a->loop, on_timer, a, &a->renew_timer, e);
}

void
renew_done(struct agent *a)
{
    if (a->renew_timer != NULL)
        timer_stop(a->renew_timer);
    keymaker_free(STEAL(a->keymaker));
    if (a->renew_call != NULL)
        grpc_cancel(STEAL(a->renew_call));
    key_unref(STEAL(a->asking_key));
}
