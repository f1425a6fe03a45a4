/* player.c - see player.h. */
#include "player.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/plan.h"
#include "base/clock.h"
#include "base/str.h"
#include "istio_ca.pb-c.h"
#include "pki/leaf.h"

#define CREATE_PATH "/istio.v1.auth.IstioCertificateService/CreateCertificate"
#define WATCH_PATH  "/meshroot.v1.Trust/Watch"
#define WORD_PATH   "/meshroot.v1.Trust/Acknowledge"

enum {
    CALL_MS = 15 * 1000, /* these two as the agent's */
    CONNECT_MS = 20 * 1000,
    MESSAGE_BYTES = 32 * 1024,
};

static void word_due(struct player *p);

static void
identity_of(const struct player *p, char ret[128])
{
    (void)snprintf(ret, 128, "spiffe://cluster.local/ns/bench/sa/fleet%zu",
                   p->index % p->fleet->conf.identities);
}

/* -- few connect at one time ---------------------------------------------------------------------
 */

static loop_fn *const call_now[CALL__N] = { player_ask, player_watch, player_word };

static void
door_next(struct fleet *f)
{
    if (f->is_calling)
        return;
    f->is_calling = true;
    while (f->dialling < f->conf.dial && f->queue != NULL) {
        struct player *p = f->queue;

        f->queue = p->behind;
        if (f->queue == NULL)
            f->queue_end = &f->queue;
        p->door = DOOR_DIALS;
        f->dialling++;
        for (size_t i = 0; i < CALL__N; i++)
            if (p->wants[i]) {
                p->wants[i] = false;
                call_now[i](p);
            }
    }
    f->is_calling = false;
}

/* r: false when the call is made later, in its turn. */
static bool
door_may_call(struct player *p, enum call call)
{
    struct fleet *f = p->fleet;

    if (p->door == DOOR_DIALS || p->door == DOOR_OPEN)
        return true;
    p->wants[call] = true;
    if (p->door == DOOR_SHUT) {
        p->door = DOOR_QUEUED;
        p->behind = NULL;
        *f->queue_end = p;
        f->queue_end = &p->behind;
    }
    door_next(f);
    return false; /* its turn may have come already */
}

static void
door_set(struct player *p, enum door to)
{
    struct fleet *f = p->fleet;
    bool was_dialling = p->door == DOOR_DIALS;

    if (p->door == DOOR_QUEUED)
        return; /* a call of the connection before */
    p->door = to;
    if (!was_dialling)
        return;
    f->dialling--;
    door_next(f);
}

static void
door_answered(struct player *p, int code)
{
    bool is_shut = code == GRPC_UNAVAILABLE || code == GRPC_DEADLINE_EXCEEDED;

    door_set(p, is_shut ? DOOR_SHUT : DOOR_OPEN);
}

/* -- failures, and when to try again -------------------------------------------------------------
 */

static void
count_failure(struct fleet *f, int code, const char *msg)
{
    uint64_t *n = code == GRPC_RESOURCE_EXHAUSTED  ? &f->stats.refused
                  : code == GRPC_UNAVAILABLE       ? &f->stats.cut_off
                  : code == GRPC_DEADLINE_EXCEEDED ? &f->stats.late
                                                   : &f->stats.failed;

    ++*n;
    if (n == &f->stats.cut_off)
        (void)snprintf(f->stats.last_cut, sizeof(f->stats.last_cut), "%.200s", msg);
    if (n == &f->stats.failed)
        (void)snprintf(f->stats.last_failure, sizeof(f->stats.last_failure), "%s: %.200s",
                       grpc_code_name(code), msg == NULL ? "" : msg);
}

static void
try_later(struct player *p, struct timer *t, unsigned *failures, int code, const char *msg,
          const struct grpc_request *q)
{
    struct fleet *f = p->fleet;
    uint32_t random = (uint32_t)random_below((uint64_t)1 << 32);

    struct span pushback = grpc_answer_trailer(q, PUSHBACK_TRAILER);

    ++*failures;
    f->stats.told_when += pushback.n > 0;
    count_failure(f, code, msg);
    if (code == GRPC_UNAVAILABLE)
        p->shows_old = p->leaf != NULL && f->conf.shows_leaf;
    timer_set(t, plan_retry_ms(pushback, *failures, !plan_is_transient(code), random));
}

/* -- calls ---------------------------------------------------------------------------------------
 */

/* A connection that is made from now on shows the leaf. */
static int
show_leaf(struct player *p, struct err *e)
{
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;
    const struct tls_conf_args a = { .roots = p->fleet->conf.roots,
                                     .rule = TLS_PEER_NAME,
                                     .alpn = "h2",
                                     .key = p->key,
                                     .leaf = p->leaf,
                                     .chain = &p->signer,
                                     .chain_n = 1 };

    p->shows_old = false;
    TRY(tls_conf_new(&a, &tls, e));
    grpc_client_set_tls(p->client, tls);
    return 0;
}

static int
call(struct player *p, const char *path, unsigned failures, struct span msg, uint64_t timeout_ms,
     const struct grpc_answer *answer, struct grpc_request **ret, struct err *e)
{
    const struct fleet *f = p->fleet;
    char attempts[12];
    const struct grpc_header_kv headers[] = {
        { "meshroot-instance", p->instance },
        { "authorization", buf_text(&f->tokens[p->index % f->conf.identities]) },
        { failures > 0 ? "grpc-previous-rpc-attempts" : NULL, attempts },
        { NULL, NULL }
    };

    (void)snprintf(attempts, sizeof(attempts), "%u", failures);
    if (p->shows_old)
        TRY(show_leaf(p, e));
    return grpc_client_call(p->client, path, headers, msg, timeout_ms, answer, ret, e);
}

/* -- the leaf ------------------------------------------------------------------------------------
 */

/* The intermediate is the same text for everyone. */
static int
signer_of(struct fleet *f, const char *pem, struct cert **ret, struct err *e)
{
    struct cert *c;
    size_t n;

    if (f->seen_signer == NULL || !span_eq_str(buf_span(&f->seen_pem), pem)) {
        TRY(certs_from_pem(span_str(pem), &c, 1, &n, e));
        cert_unref(f->seen_signer);
        f->seen_signer = c;
        f->seen_pem.n = 0;
        TRY(buf_add_str(&f->seen_pem, pem, e));
    }
    *ret = cert_ref(f->seen_signer);
    return 0;
}

static int
leaf_check(const struct player *p, const struct cert *leaf, struct cert *signer, struct err *e)
{
    const struct fleet *f = p->fleet;
    char identity[128];
    struct span uri;
    struct cert *root;

    identity_of(p, identity);
    if (TRY(cert_spiffe_uri(leaf, &uri, e)) == CERT_NO_URI || !span_eq_str(uri, identity))
        return err_set(e, E_DENIED, "a leaf of somebody else: %.*s, not %s", (int)uri.n,
                       (const char *)uri.p, identity);
    if (p->index % FLEET_LOOK_AT != 0)
        return 0;
    if (!cert_key_matches(leaf, p->asking_key))
        return err_set(e, E_DENIED, "a leaf of another key");
    return roots_verify(f->conf.roots, leaf, &signer, 1, &root, e);
}

static int
leaf_take(struct player *p, const Istio__V1__Auth__IstioCertificateResponse *m, struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *leaf = NULL;
    CLEANUP(cert_unrefp) struct cert *signer = NULL;
    size_t n;

    if (m->n_cert_chain < 3)
        return err_set(e, E_PARSE, "an answer of %zu certificates", m->n_cert_chain);
    TRY(certs_from_pem(span_str(m->cert_chain[0]), &leaf, 1, &n, e));
    TRY(signer_of(p->fleet, m->cert_chain[1], &signer, e));
    TRY(leaf_check(p, leaf, signer, e));
    cert_unref(p->leaf);
    cert_unref(p->signer);
    key_unref(p->key);
    p->leaf = STEAL(leaf);
    p->signer = STEAL(signer);
    p->key = STEAL(p->asking_key);
    p->is_new_leaf = true;
    return 0;
}

static void
on_leaf_message(struct span msg, void *arg)
{
    struct player *p = arg;
    struct err e;
    Istio__V1__Auth__IstioCertificateResponse *m =
        istio__v1__auth__istio_certificate_response__unpack(NULL, msg.n, msg.p);

    if (m == NULL)
        (void)err_set(&e, E_PARSE, "not an IstioCertificateResponse");
    if (m == NULL || leaf_take(p, m, &e) < 0)
        fleet_fail(p->fleet, "leaf", &e);
    if (m != NULL)
        istio__v1__auth__istio_certificate_response__free_unpacked(m, NULL);
}

static void
on_leaf(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct player *p = arg;
    struct fleet *f = p->fleet;
    uint64_t generation = p->generation;
    struct err e;

    p->asking = NULL;
    if (p->client == NULL)
        return; /* player_stop */
    door_answered(p, code);
    if (code != GRPC_OK || !p->is_new_leaf) {
        try_later(p, p->renew, &p->ask_failures, code == GRPC_OK ? GRPC_INTERNAL : code, msg, q);
        return;
    }
    p->ask_failures = 0;
    p->is_new_leaf = false;
    f->stats.leaves++;
    if (p->leaf_at_ms == 0) {
        p->leaf_at_ms = mono_ms();
        fleet_begin_next(f);
    }
    if (u64_parse(grpc_answer_trailer(q, "meshroot-generation"), 1, INT64_MAX, &generation, &e) < 0)
        fleet_fail(f, "meshroot-generation", &e);
    else if (generation > p->generation)
        p->generation = generation;
    if (p->watching == NULL)
        player_watch(p);
    else
        word_due(p);
}

/* A new key for every leaf; the same request again until it is answered: ten thousand agents have
 * ten thousand processors for their retries, and we have one. */
static int
request_make(struct player *p, struct err *e)
{
    CLEANUP(buf_done) struct buf csr = BUF_INIT(CSR_MAX_BYTES);
    Istio__V1__Auth__IstioCertificateRequest m = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_REQUEST__INIT;
    char identity[128];
    uint8_t *at;

    if (p->asking_key != NULL)
        return 0;
    identity_of(p, identity);
    p->request.n = 0;
    TRY(key_make(KEY_P256, &p->asking_key, e));
    TRY(csr_make(p->asking_key, identity, &csr, e));
    m.csr = (char *)csr.p;
    TRY(buf_reserve(&p->request, istio__v1__auth__istio_certificate_request__get_packed_size(&m),
                    &at, e));
    p->request.n += istio__v1__auth__istio_certificate_request__pack(&m, at);
    return 0;
}

static int
ask(struct player *p, struct err *e)
{
    const struct grpc_answer answer = { on_leaf_message, on_leaf, p };

    TRY(request_make(p, e));
    return call(p, CREATE_PATH, p->ask_failures, buf_span(&p->request), CALL_MS, &answer,
                &p->asking, e);
}

void
player_ask(void *arg)
{
    struct player *p = arg;
    struct err e;

    if (p->asking != NULL || !door_may_call(p, CALL_CREATE))
        return;
    p->is_new_leaf = false;
    if (ask(p, &e) < 0)
        fleet_fail(p->fleet, "ask", &e);
}

/* -- the trust stream ----------------------------------------------------------------------------
 */

static int
trust_new(struct span msg, struct trust **ret, struct err *e)
{
    struct trust *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return err_nomem(e);
    t->bytes = BUF_INIT(MESSAGE_BYTES);
    t->set = meshroot__v1__trust_set__unpack(NULL, msg.n, msg.p);
    int r = t->set == NULL || t->set->n_roots == 0 || t->set->n_roots > ROOTS_MAX
                ? err_set(e, E_PARSE, "not a TrustSet")
                : buf_add(&t->bytes, msg, e);
    for (size_t i = 0; r == 0 && i < t->set->n_roots; i++) {
        digest(span_of(t->set->roots[i].data, t->set->roots[i].len), t->id_bytes[i]);
        t->ids[i] = (ProtobufCBinaryData){ DIGEST_BYTES, t->id_bytes[i] };
    }
    if (r == 0)
        *ret = t;
    else
        free(t);
    return r;
}

static int
trust_get(struct fleet *f, struct span msg, const struct trust **ret, struct err *e)
{
    struct trust *t = f->trusts;

    while (t != NULL && !span_eq(buf_span(&t->bytes), msg))
        t = t->next;
    if (t == NULL) {
        TRY(trust_new(msg, &t, e));
        t->next = f->trusts;
        f->trusts = t;
    }
    *ret = t;
    return 0;
}

/* As the agent does it: within the window, drawn once for each signer. */
static void
follow_signer(struct player *p, const Meshroot__V1__TrustSet *m)
{
    if (m->signer_id.len != DIGEST_BYTES || m->renew_window_ms == 0 || p->signer == NULL ||
        memcmp(cert_id(p->signer), m->signer_id.data, DIGEST_BYTES) == 0 ||
        memcmp(p->pushed_signer, m->signer_id.data, DIGEST_BYTES) == 0)
        return;
    memcpy(p->pushed_signer, m->signer_id.data, DIGEST_BYTES);
    timer_set(p->renew, random_below(m->renew_window_ms + 1));
}

static void
on_trust(struct span msg, void *arg)
{
    struct player *p = arg;
    struct fleet *f = p->fleet;
    const struct trust *t;
    struct err e;

    door_answered(p, GRPC_OK);
    if (trust_get(f, msg, &t, &e) < 0) {
        fleet_fail(f, "trust set", &e);
        return;
    }
    if (plan_generation(p->generation, t->set->generation) == PLAN_DROP)
        return;
    bool is_news = !p->is_streaming || f->held[p->index] != t;
    p->is_streaming = true;
    p->watch_failures = 0;
    p->generation = t->set->generation;
    f->held[p->index] = t;
    if (p->generation > f->generation)
        f->generation = p->generation;
    if (is_news)
        word_due(p);
    follow_signer(p, t->set);
}

static void
on_watch_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct player *p = arg;

    if (p->watching != q)
        return;
    p->watching = NULL;
    p->is_streaming = false;
    if (p->client == NULL)
        return; /* player_stop */
    door_answered(p, code);
    try_later(p, p->watch, &p->watch_failures, code, msg, q);
}

void
player_watch(void *arg)
{
    struct player *p = arg;
    const struct grpc_answer answer = { on_trust, on_watch_done, p };
    Meshroot__V1__WatchRequest m = MESHROOT__V1__WATCH_REQUEST__INIT;
    uint8_t bytes[64];
    struct err e;

    if (p->watching != NULL || !door_may_call(p, CALL_WATCH))
        return;
    m.instance = p->instance;
    m.generation = p->generation;
    size_t n = meshroot__v1__watch_request__pack(&m, bytes); /* 2 + 32 + 11 at most */
    if (call(p, WATCH_PATH, p->watch_failures, span_of(bytes, n), 0, &answer, &p->watching, &e) < 0)
        fleet_fail(p->fleet, "watch", &e);
}

/* -- the word ------------------------------------------------------------------------------------
 */

static void
on_word_message(struct span msg, void *arg)
{
    (void)msg;
    (void)arg;
}

static void
on_word_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct player *p = arg;

    p->saying = NULL;
    if (p->client == NULL)
        return; /* player_stop */
    door_answered(p, code);
    if (code != GRPC_OK) {
        p->word_is_due = true;
        try_later(p, p->word, &p->word_failures, code, msg, q);
        return;
    }
    p->fleet->stats.words++;
    p->word_failures = 0;
    p->said_trust = p->saying_trust;
    p->said_generation = p->saying_trust->set->generation;
    memcpy(p->said_signer, p->saying_signer, DIGEST_BYTES);
    if (p->back_at_ms == 0 && p->is_streaming)
        p->back_at_ms = mono_ms();
    if (p->word_is_due)
        player_word(p);
}

static int
say(struct player *p, struct err *e)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(MESSAGE_BYTES);
    const struct grpc_answer answer = { on_word_message, on_word_done, p };
    const struct trust *t = p->fleet->held[p->index];
    Meshroot__V1__Word m = MESHROOT__V1__WORD__INIT;
    struct span serial = cert_serial(p->leaf);
    ProtobufCBinaryData ids[ROOTS_MAX];
    uint8_t number[SERIAL_MAX_BYTES], *at;

    memcpy(ids, t->ids, sizeof(ids));
    memcpy(number, serial.p, serial.n);
    m.instance = p->instance;
    m.generation = t->set->generation;
    m.n_root_ids = t->set->n_roots;
    m.root_ids = ids;
    m.leaf_serial = (ProtobufCBinaryData){ serial.n, number };
    TRY(buf_reserve(&msg, meshroot__v1__word__get_packed_size(&m), &at, e));
    msg.n += meshroot__v1__word__pack(&m, at);
    p->saying_trust = t;
    memcpy(p->saying_signer, cert_id(p->signer), DIGEST_BYTES);
    return call(p, WORD_PATH, p->word_failures, buf_span(&msg), CALL_MS, &answer, &p->saying, e);
}

void
player_word(void *arg)
{
    struct player *p = arg;
    struct err e;

    if (p->saying != NULL || p->leaf == NULL || p->fleet->held[p->index] == NULL)
        return; /* it is said when that has ended */
    if (!door_may_call(p, CALL_WORD))
        return;
    p->word_is_due = false;
    timer_stop(p->word);
    if (say(p, &e) < 0)
        fleet_fail(p->fleet, "word", &e);
}

static void
word_due(struct player *p)
{
    p->word_is_due = true;
    player_word(p);
}

/* -- its life ------------------------------------------------------------------------------------
 */

int
player_make(struct fleet *f, size_t i, struct err *e)
{
    struct player *p = &f->players[i];
    uint8_t id[INSTANCE_BYTES / 2];

    p->fleet = f;
    p->index = i;
    p->request = BUF_INIT(MESSAGE_BYTES);
    TRY(random_bytes(id, sizeof(id), e));
    hex_text(span_of(id, sizeof(id)), p->instance);
    TRY(timer_new(f->conf.loop, player_ask, p, &p->renew, e));
    TRY(timer_new(f->conf.loop, player_watch, p, &p->watch, e));
    return timer_new(f->conf.loop, player_word, p, &p->word, e);
}

int
player_connect(struct player *p, struct err *e)
{
    const struct grpc_client_conf c = { .host = "127.0.0.1",
                                        .port = p->fleet->conf.port,
                                        .verify_name = "localhost",
                                        .tls = p->fleet->tls,
                                        .connect_ms = CONNECT_MS };

    return grpc_client_new(p->fleet->conf.loop, &c, &p->client, e);
}

void
player_stop(struct player *p)
{
    p->watching = NULL; /* on_watch_done finds another call */
    if (p->renew != NULL)
        timer_stop(p->renew);
    if (p->watch != NULL)
        timer_stop(p->watch);
    if (p->word != NULL)
        timer_stop(p->word);
    grpc_client_free(STEAL(p->client));
    p->asking = p->saying = NULL;
    key_unref(STEAL(p->asking_key));
    key_unref(STEAL(p->key));
    cert_unref(STEAL(p->leaf));
    cert_unref(STEAL(p->signer));
    p->is_streaming = p->word_is_due = p->shows_old = false;
    p->door = DOOR_SHUT;
    memset(p->wants, 0, sizeof(p->wants));
    p->ask_failures = p->watch_failures = p->word_failures = 0;
    p->leaf_at_ms = p->back_at_ms = 0;
}

void
player_done(struct player *p)
{
    player_stop(p);
    timer_free(p->renew);
    timer_free(p->watch);
    timer_free(p->word);
    buf_done(&p->request);
}
