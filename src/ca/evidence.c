/* evidence.c - the client of meshroot.v1.Evidence; see evidence.h. */
#include "ca/evidence.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "ca/ca.h"
#include "ca/courier.h"
#include "ca/evidence_book.h"
#include "meshroot.pb-c.h"
#include "net/grpc.h"
#include "pki/leaf.h"

#define WATCH_PATH "/meshroot.v1.Evidence/Watch"
#define SIGN_PATH  "/meshroot.v1.Serving/Sign"
#define CARRY_PATH "/meshroot.v1.Revocations/Exchange"

enum {
    AGAIN_MIN_MS = 100, /* after a failure: doubles ... */
    AGAIN_MAX_MS = 5000,
    BEARER_MAX_BYTES = 16 * 1024,
    CALL_MS = 10 * 1000,
    CHAIN_MAX_BYTES = 512 * 1024,
};

struct evidence_client {
    struct loop *loop;
    char *token_file;
    struct grpc_client *grpc;
    struct grpc_request *call; /* NULL: none is under way */
    struct timer *timer;       /* the next try; or, with a call, when it is given up */
    unsigned failures;
    struct evidence_book book;
    bool is_known, lost_is_said, is_freed;
    bool is_moving; /* to another stream; what is known stays for so long */
    void (*on_change)(struct evidence_client *c, void *arg);
    void (*on_lost)(struct evidence_client *c, const struct err *why, void *arg);
    void *arg;
};

/* -- the stream ---------------------------------------------------------------------------------
 */

static void
lost(struct evidence_client *c, const struct err *why)
{
    uint64_t ms = AGAIN_MIN_MS;

    evidence_book_done(&c->book);
    c->is_known = c->is_moving = false;
    for (unsigned i = 0; i < c->failures && ms < AGAIN_MAX_MS; i++)
        ms *= 2;
    c->failures++;
    timer_set(c->timer, ms < AGAIN_MAX_MS ? ms : AGAIN_MAX_MS);
    if (c->lost_is_said)
        return;
    c->lost_is_said = true;
    if (c->on_lost != NULL)
        c->on_lost(c, why, c->arg);
}

/* The call's own end comes later, and is nobody's any more. */
static void
give_up(struct evidence_client *c, const struct err *why)
{
    grpc_cancel(STEAL(c->call));
    grpc_client_reconnect(c->grpc);
    lost(c, why);
}

static void
on_message(struct span msg, void *arg)
{
    struct evidence_client *c = arg;
    struct err e = { 0 };

    if (c->call == NULL)
        return; /* given up */
    int r = evidence_book_take(&c->book, msg, &e);
    if (r < 0) {
        give_up(c, &e);
        return;
    }
    timer_set(c->timer, c->is_moving && r == 0 ? EVIDENCE_MOVE_MS : EVIDENCE_LOST_MS);
    if (r == 0)
        return;
    c->is_moving = false;
    c->failures = 0;
    c->is_known = true;
    c->lost_is_said = false;
    if (c->on_change != NULL)
        c->on_change(c, c->arg);
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct evidence_client *c = arg;
    struct err e = { 0 };

    if (c->call != q)
        return; /* given up */
    c->call = NULL;
    if (code == GRPC_UNAVAILABLE && c->is_known && !c->is_moving &&
        grpc_answer_trailer(q, "grpc-retry-pushback-ms").n > 0) { /* the connection is old */
        evidence_book_turn(&c->book);
        c->is_moving = true;
        timer_set(c->timer, 0);
        return;
    }
    (void)err_set(&e, code == GRPC_PERMISSION_DENIED ? E_DENIED : E_PEER,
                  "the replica's evidence: code = %s desc = %.350s", grpc_code_name(code), msg);
    lost(c, &e);
}

static int
bearer_read(const struct evidence_client *c, struct buf *ret, struct err *e)
{
    CLEANUP(buf_wipe) struct buf b = BUF_INIT(BEARER_MAX_BYTES);

    if (TRY(file_read(c->token_file, &b, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "our token, %s, does not exist", c->token_file);
    struct span token = span_trim(buf_span(&b));
    for (size_t i = 0; i < token.n; i++)
        if (token.p[i] <= ' ' || token.p[i] > '~')
            token.n = 0;
    if (token.n == 0)
        return err_set(e, E_PARSE, "%s is not one token", c->token_file);
    TRY(buf_add_str(ret, "Bearer ", e));
    return buf_add(ret, token, e);
}

static int
ask(struct evidence_client *c, struct err *e)
{
    const struct grpc_answer answer = { on_message, on_done, c };
    CLEANUP(buf_wipe) struct buf bearer = BUF_INIT(BEARER_MAX_BYTES + 16);

    TRY(bearer_read(c, &bearer, e));
    const struct grpc_header_kv headers[] = { { "authorization", buf_text(&bearer) },
                                              { NULL, NULL } };
    return grpc_client_call(c->grpc, WATCH_PATH, headers, span_str(""), 0, &answer, &c->call, e);
}

static void
on_timer(void *arg)
{
    struct evidence_client *c = arg;
    struct err e = { 0 };

    if (c->call != NULL) {
        (void)err_set(&e, E_TIMEOUT, "the replica has said nothing for %d s",
                      (int)(c->is_moving ? EVIDENCE_MOVE_MS : EVIDENCE_LOST_MS) / 1000);
        give_up(c, &e);
        return;
    }
    timer_set(c->timer, c->is_moving ? EVIDENCE_MOVE_MS : EVIDENCE_LOST_MS);
    if (ask(c, &e) < 0)
        lost(c, &e);
}

/* -- the public face ----------------------------------------------------------------------------
 */

static int
tls_of(struct roots *roots, struct tls_conf **ret, struct err *e)
{
    const struct tls_conf_args a = { .roots = roots, .rule = TLS_PEER_NAME, .alpn = "h2" };

    return tls_conf_new(&a, ret, e);
}

DEFINE_CLEANUP(struct evidence_client, evidence_client_free)

int
evidence_client_new(struct loop *l, const struct evidence_conf *conf, struct evidence_client **ret,
                    struct err *e)
{
    CLEANUP(evidence_client_freep) struct evidence_client *c = calloc(1, sizeof(*c));
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;

    if (c == NULL)
        return err_nomem(e);
    *c = (struct evidence_client){
        .loop = l, .on_change = conf->on_change, .on_lost = conf->on_lost, .arg = conf->arg
    };
    evidence_book_done(&c->book);
    TRY(str_dup(span_str(conf->token_file), &c->token_file, e));
    TRY(tls_of(conf->roots, &tls, e));
    const struct grpc_client_conf g = {
        .host = conf->host, .port = conf->port, .verify_name = conf->verify_name, .tls = tls
    };
    TRY(grpc_client_new(l, &g, &c->grpc, e));
    TRY(timer_new(l, on_timer, c, &c->timer, e));
    timer_set(c->timer, 0);
    *ret = STEAL(c);
    return 0;
}

static void
client_destroy(void *arg)
{
    struct evidence_client *c = arg;

    timer_free(c->timer);
    free(c);
}

void
evidence_client_free(struct evidence_client *c)
{
    if (c == NULL)
        return;
    c->call = NULL; /* its end is nobody's */
    c->is_freed = true;
    if (c->timer != NULL)
        timer_stop(c->timer);
    grpc_client_free(c->grpc);
    evidence_book_done(&c->book);
    free(c->token_file);
    loop_defer(c->loop, client_destroy, c);
}

int
evidence_client_set_roots(struct evidence_client *c, struct roots *roots, struct err *e)
{
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;

    TRY(tls_of(roots, &tls, e));
    grpc_client_set_tls(c->grpc, tls);
    return 0;
}

const struct evidence_loaded *
evidence_client_loaded(const struct evidence_client *c)
{
    return c->is_known ? &c->book.now.loaded : NULL;
}

void
evidence_client_told(struct evidence_client *c, ledger_workload_fn *fn, void *arg)
{
    struct err e;

    if (c->is_known && evidence_book_tell(&c->book, fn, arg, &e) < 0 && c->call != NULL)
        give_up(c, &e); /* out of memory: what cannot be shown is not known */
}

/* -- a server's certificate ----------------------------------------------------------------------
 */

struct signing {
    struct evidence_client *client;
    struct buf chain, roots;
    struct err why; /* of an answer that is none */
    serving_done_fn *done;
    void *arg;
};

static void
signing_free(struct signing *s)
{
    if (s == NULL)
        return;
    buf_done(&s->chain);
    buf_done(&s->roots);
    free(s);
}
DEFINE_CLEANUP(struct signing, signing_free)

static int
chain_take(struct signing *s, const Meshroot__V1__ServingAnswer *m, struct err *e)
{
    if (m == NULL || m->n_cert_chain < 2)
        return err_set(e, E_PEER, "the CA's answer is not a ServingAnswer");
    for (size_t i = 0; i + 1 < m->n_cert_chain; i++)
        TRY(buf_add_str(&s->chain, m->cert_chain[i], e));
    TRY(buf_add_str(&s->roots, m->cert_chain[m->n_cert_chain - 1], e));
    if (s->chain.n == 0 || s->roots.n == 0)
        return err_set(e, E_PEER, "the CA's answer has an empty chain, or no roots");
    return 0;
}

static void
on_signed(struct span msg, void *arg)
{
    struct signing *s = arg;
    Meshroot__V1__ServingAnswer *m = meshroot__v1__serving_answer__unpack(NULL, msg.n, msg.p);

    s->chain.n = s->roots.n = 0;
    (void)!chain_take(s, m, &s->why);
    if (m != NULL)
        meshroot__v1__serving_answer__free_unpacked(m, NULL);
}

static void
on_sign_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    CLEANUP(signing_freep) struct signing *s = arg;
    enum err_code kind = code == GRPC_PERMISSION_DENIED || code == GRPC_UNAUTHENTICATED ? E_DENIED
                         : code == GRPC_INVALID_ARGUMENT                                ? E_INVAL
                                                                                        : E_PEER;

    (void)q;
    if (s->client->is_freed)
        return;
    if (code != GRPC_OK)
        (void)err_set(&s->why, kind, "the CA: code = %s desc = %.350s", grpc_code_name(code), msg);
    else if (s->why.code == E_NONE && s->chain.n == 0)
        (void)err_set(&s->why, E_PEER, "the CA's answer is empty");
    s->done(buf_span(&s->chain), buf_span(&s->roots), s->why.code == E_NONE ? NULL : &s->why,
            s->arg);
}

static int
request_pack(const struct serving_request *q, struct buf *out, struct err *e)
{
    CLEANUP(buf_done) struct buf csr = BUF_INIT(CSR_MAX_BYTES);
    Meshroot__V1__ServingRequest m = MESHROOT__V1__SERVING_REQUEST__INIT;
    uint8_t *p;

    TRY(buf_add(&csr, q->csr, e));
    m.csr = (char *)csr.p;
    m.names = (char **)(uintptr_t)q->names; /* only read */
    m.n_names = q->names_n;
    m.validity_s = q->validity_s;
    TRY(buf_reserve(out, meshroot__v1__serving_request__get_packed_size(&m), &p, e));
    out->n += meshroot__v1__serving_request__pack(&m, p);
    return 0;
}

int
evidence_client_sign(struct evidence_client *c, const struct serving_request *q,
                     serving_done_fn *done, void *arg, struct err *e)
{
    CLEANUP(buf_wipe) struct buf bearer = BUF_INIT(BEARER_MAX_BYTES + 16);
    CLEANUP(buf_done) struct buf msg = BUF_INIT(2 * CSR_MAX_BYTES);
    CLEANUP(signing_freep) struct signing *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    if (q->csr.n == 0 || q->names_n < 1 || q->names_n > CA_SERVING_NAMES_MAX)
        return err_set(e, E_INVAL, "a server's certificate needs a CSR and 1 to %d names",
                       (int)CA_SERVING_NAMES_MAX);
    *s = (struct signing){ .client = c,
                           .chain = BUF_INIT(CHAIN_MAX_BYTES),
                           .roots = BUF_INIT(CHAIN_MAX_BYTES),
                           .done = done,
                           .arg = arg };
    TRY(bearer_read(c, &bearer, e));
    TRY(request_pack(q, &msg, e));
    const struct grpc_header_kv headers[] = { { "authorization", buf_text(&bearer) },
                                              { "meshroot-instance", q->instance },
                                              { NULL, NULL } };
    const struct grpc_answer answer = { on_signed, on_sign_done, s };
    TRY(grpc_client_call(c->grpc, SIGN_PATH, headers, buf_span(&msg), CALL_MS, &answer, NULL, e));
    (void)STEAL(s); /* on_sign_done has it */
    return 0;
}

/* -- revocations, carried -------------------------------------------------------------------------
 */

struct carrying {
    struct evidence_client *client;
    struct buf answer;
    courier_answer_fn *done;
    void *arg;
    bool got_it;
    struct err why;
};

static void
carrying_free(struct carrying *x)
{
    if (x == NULL)
        return;
    buf_done(&x->answer);
    free(x);
}
DEFINE_CLEANUP(struct carrying, carrying_free)

static void
on_carried(struct span msg, void *arg)
{
    struct carrying *x = arg;

    x->answer.n = 0;
    x->got_it = buf_add(&x->answer, msg, &x->why) == 0;
}

static void
on_carry_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    CLEANUP(carrying_freep) struct carrying *x = arg;
    bool is_final = code == GRPC_PERMISSION_DENIED || code == GRPC_UNAUTHENTICATED ||
                    code == GRPC_UNIMPLEMENTED;

    (void)q;
    if (x->client->is_freed)
        return;
    if (code != GRPC_OK)
        (void)err_set(&x->why, is_final ? E_DENIED : E_PEER, "code = %s desc = %.350s",
                      grpc_code_name(code), msg);
    else if (!x->got_it && x->why.code == E_NONE)
        (void)err_set(&x->why, E_PEER, "the replica's answer is empty");
    x->done(buf_span(&x->answer), x->why.code == E_NONE ? NULL : &x->why, x->arg);
}

static int
exchange(void *self, struct span request, courier_answer_fn *done, void *arg, struct err *e)
{
    struct evidence_client *c = self;
    CLEANUP(buf_wipe) struct buf bearer = BUF_INIT(BEARER_MAX_BYTES + 16);
    CLEANUP(carrying_freep) struct carrying *x = calloc(1, sizeof(*x));

    if (x == NULL)
        return err_nomem(e);
    *x = (struct carrying){
        .client = c, .answer = BUF_INIT(GRPC_MAX_MESSAGE_BYTES), .done = done, .arg = arg
    };
    TRY(bearer_read(c, &bearer, e));
    const struct grpc_header_kv headers[] = { { "authorization", buf_text(&bearer) },
                                              { NULL, NULL } };
    const struct grpc_answer answer = { on_carried, on_carry_done, x };
    TRY(grpc_client_call(c->grpc, CARRY_PATH, headers, request, CALL_MS, &answer, NULL, e));
    (void)STEAL(x); /* on_carry_done has it */
    return 0;
}

struct courier_port
evidence_client_courier_port(struct evidence_client *c)
{
    return (struct courier_port){ exchange, c };
}
