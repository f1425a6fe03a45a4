/* fuzz_workload_jwt.c - the JWT half of the Workload API between a caller and a CA, neither of
 * which is trusted: every call ends once; a token goes out, or is called good, only when a key of
 * the set has signed it for that audience and it is our identity's.
 *
 * The input is steps: a letter, a length (two bytes), bytes. K a key set, G the good one of this
 * run, F a FetchJWTSVID request, V a ValidateJWTSVID request, A the CA's answer to the oldest
 * question, S the same with the good token, N the CA says no, X the oldest caller goes away. */
#include "agent/workload_jwt.h"
#include "identity/identity.h"
#include "mint.h"
#include "net/grpc.h"
#include "workload.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_grpc_send(struct grpc_call *c, struct span msg, struct err *e);
void __wrap_grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg);
void __wrap_workload_end(struct workload *w, struct grpc_call *c, enum workload_kind kind, int code,
                         const char *why);
const struct creds *__wrap_workload_creds(const struct workload *w);

enum { CALLS_MAX = 64, ASKS_MAX = 64 };

struct call { /* stands for a struct grpc_call */
    loop_fn *gone;
    void *arg;
    bool is_open, was_sent;
};

static struct {
    struct creds *creds;
    struct buf jwks, token;
    struct call calls[CALLS_MAX];
    size_t calls_n;
    struct jwt_ask *asks[ASKS_MAX];
    size_t asks_n;
} kit;

static struct call *
call_of(struct grpc_call *c)
{
    return (struct call *)(void *)c;
}

int
__wrap_grpc_send(struct grpc_call *c, struct span msg, struct err *e)
{
    (void)e;
    if (!call_of(c)->is_open || call_of(c)->was_sent || msg.n == 0)
        abort();
    call_of(c)->was_sent = true;
    Spiffe__Workload__JwtSvidResponse *m =
        spiffe__workload__jwt_svid_response__unpack(NULL, msg.n, msg.p);
    if (m != NULL && m->n_svids > 0 &&
        (strcmp(m->svids[0]->svid, buf_text(&kit.token)) != 0 ||
         strcmp(m->svids[0]->spiffe_id, MINT_ID) != 0))
        abort(); /* the one token that its key has signed */
    if (m != NULL)
        spiffe__workload__jwt_svid_response__free_unpacked(m, NULL);
    return 0;
}

void
__wrap_grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg)
{
    call_of(c)->gone = fn;
    call_of(c)->arg = arg;
}

void
__wrap_workload_end(struct workload *w, struct grpc_call *c, enum workload_kind kind, int code,
                    const char *why)
{
    (void)w;
    (void)kind;
    if (!call_of(c)->is_open || (code == GRPC_OK) != call_of(c)->was_sent ||
        (code != GRPC_OK && (why == NULL || why[0] == '\0')))
        abort();
    call_of(c)->is_open = false;
}

const struct creds *
__wrap_workload_creds(const struct workload *w)
{
    (void)w;
    return kit.creds;
}

static int
on_ask(struct jwt_ask *q, const char *const *audiences, size_t n, void *arg, struct err *e)
{
    (void)arg;
    if (n < 1 || n > JWT_ASK_AUDIENCES)
        abort();
    for (size_t i = 0; i < n; i++)
        if (audiences[i][0] == '\0' || strlen(audiences[i]) >= JWT_AUDIENCE_BYTES)
            abort();
    if (kit.asks_n == ASKS_MAX)
        return err_set(e, E_LIMIT, "enough");
    kit.asks[kit.asks_n++] = q;
    return 0;
}

static void
start(void)
{
    char claims[256], *chain[MINT_N];
    static struct key *k;
    static struct mint m;
    struct err e;

    mint(&m);
    for (size_t i = 0; i < MINT_N; i++)
        chain[i] = (char *)m.pem[i].p;
    MUST(creds_from_answer(m.key, MINT_ID, chain, MINT_N, &kit.creds, &e));
    kit.jwks = BUF_INIT(JWT_KEYS_MAX_BYTES);
    kit.token = BUF_INIT(JWT_MAX_BYTES);
    (void)snprintf(claims, sizeof(claims),
                   "{\"aud\":\"vault\",\"exp\":4102444800,\"iat\":1,\"sub\":\"" MINT_ID "\"}");
    MUST(key_make(KEY_P256, &k, &e));
    MUST(jwks_of_key(k, "k", &kit.jwks, &e));
    MUST(jwt_sign(k, "k", false, span_str(claims), &kit.token, &e));
}

static struct grpc_call *
call_new(void)
{
    struct call *c = &kit.calls[kit.calls_n++];

    *c = (struct call){ .is_open = true };
    return (struct grpc_call *)(void *)c;
}

static void
answer(struct span token, int code, const char *why)
{
    struct jwt_ask *q = kit.asks[0];

    memmove(kit.asks, kit.asks + 1, --kit.asks_n * sizeof(struct jwt_ask *));
    workload_jwt_answer(q, token, code, why);
}

static void
caller_goes(void)
{
    for (size_t i = 0; i < kit.calls_n; i++) {
        struct call *c = &kit.calls[i];

        if (!c->is_open || c->gone == NULL)
            continue;
        c->is_open = false;
        c->gone(c->arg);
        return;
    }
}

static void
keys_use(struct workload_jwt *j, struct span jwks)
{
    struct span had = workload_jwt_keys(j);
    struct err e = { 0 };
    int r = workload_jwt_use(j, jwks, &e);
    struct span has = workload_jwt_keys(j);

    if (r < 0 ? e.msg[0] == '\0' || !span_eq(had, has) : !span_eq(has, jwks))
        abort();
}

static void
step(struct workload_jwt *j, uint8_t letter, struct span s)
{
    bool is_call = letter == 'F' || letter == 'V';

    if (is_call && kit.calls_n == CALLS_MAX)
        return;
    if (letter == 'K' && s.n > 0)
        keys_use(j, s);
    else if (letter == 'G')
        keys_use(j, buf_span(&kit.jwks));
    else if (letter == 'F')
        workload_jwt_fetch(j, call_new(), s);
    else if (letter == 'V')
        workload_jwt_validate(j, call_new(), s);
    else if (letter == 'A' && kit.asks_n > 0)
        answer(s, GRPC_OK, NULL);
    else if (letter == 'S' && kit.asks_n > 0)
        answer(buf_span(&kit.token), GRPC_OK, NULL);
    else if (letter == 'N' && kit.asks_n > 0)
        answer(span_str(""), GRPC_UNAVAILABLE, "the CA is away");
    else if (letter == 'X')
        caller_goes();
    if (letter == 'V' && kit.calls[kit.calls_n - 1].is_open)
        abort(); /* it waits for nobody */
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct workload_jwt_port port = { .ask = on_ask };
    struct span in = span_of(data, size), s;
    struct workload_jwt *j = NULL;
    struct err e;

    if (kit.creds == NULL)
        start();
    kit.calls_n = kit.asks_n = 0;
    MUST(workload_jwt_new(NULL, &port, &j, &e));
    while (in.n > 2) {
        uint8_t letter = in.p[0];

        in = span_skip(in, 1);
        if (part_cut(&in, true, &s))
            step(j, letter, s);
    }
    while (kit.asks_n > 0)
        answer(span_str(""), GRPC_UNAVAILABLE, "it ends");
    for (size_t i = 0; i < kit.calls_n; i++)
        if (kit.calls[i].is_open)
            abort();
    workload_jwt_free(j);
    return 0;
}
