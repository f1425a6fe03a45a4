/* fuzz_replica.c - what a replica of the CA answers its operator: evidence, a server's certificate,
 * pages of revoked leaves. What is known of it is a whole snapshot; every question ends once, well
 * with texts or with a word; what is carried between replicas is bounded.
 *
 * The input is steps: a letter, a length (two bytes), bytes. W a message of the evidence stream, w
 * the stream ends, Q asks for a certificate, A a message that answers the newest question, E ends
 * it (its bytes: an error's words; none: OK). The gRPC client is the
 * target's own, by --wrap. */
#include <fcntl.h>
#include <unistd.h>

#include "ca/courier.h"
#include "ca/evidence.h"
#include "ca/revoke.h"
#include "mint.h"
#include "net/grpc.h"
#include "obs/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_grpc_client_new(struct loop *l, const struct grpc_client_conf *conf,
                           struct grpc_client **ret, struct err *e);
void __wrap_grpc_client_free(struct grpc_client *c);
void __wrap_grpc_client_reconnect(struct grpc_client *c);
int __wrap_grpc_client_call(struct grpc_client *c, const char *path,
                            const struct grpc_header_kv *headers, struct span msg,
                            uint64_t timeout_ms, const struct grpc_answer *answer,
                            struct grpc_request **ret, struct err *e);
void __wrap_grpc_cancel(struct grpc_request *q);
struct span __wrap_grpc_answer_trailer(const struct grpc_request *q, const char *name);

enum { CALLS_MAX = 128, STEPS_MAX = 256 };

struct call { /* stands for a struct grpc_request */
    struct grpc_answer answer;
    bool is_open, is_watch;
};

static struct {
    struct call calls[CALLS_MAX];
    size_t calls_n;
    struct evidence_client *client;
    struct courier_stop *stop;
    unsigned asked, ended;
    char token[64];
    struct mint mint;
} kit;

int
__wrap_grpc_client_new(struct loop *l, const struct grpc_client_conf *conf,
                       struct grpc_client **ret, struct err *e)
{
    (void)l;
    (void)conf;
    (void)e;
    *ret = (struct grpc_client *)(void *)&kit;
    return 0;
}

void
__wrap_grpc_client_free(struct grpc_client *c)
{
    (void)c;
    for (size_t i = 0; i < kit.calls_n; i++)
        if (kit.calls[i].is_open) {
            kit.calls[i].is_open = false;
            kit.calls[i].answer.on_done(GRPC_CANCELLED, "freed", NULL, kit.calls[i].answer.arg);
        }
}

void
__wrap_grpc_client_reconnect(struct grpc_client *c)
{
    (void)c;
}

int
__wrap_grpc_client_call(struct grpc_client *c, const char *path,
                        const struct grpc_header_kv *headers, struct span msg, uint64_t timeout_ms,
                        const struct grpc_answer *answer, struct grpc_request **ret, struct err *e)
{
    (void)c;
    (void)timeout_ms;
    if (strcmp(headers[0].name, "authorization") != 0 || msg.n > GRPC_MAX_MESSAGE_BYTES)
        abort();
    if (kit.calls_n == CALLS_MAX)
        return err_set(e, E_LIMIT, "enough");
    struct call *q = &kit.calls[kit.calls_n++];
    *q = (struct call){ *answer, true, strstr(path, "Watch") != NULL };
    if (ret != NULL)
        *ret = (struct grpc_request *)(void *)q;
    return 0;
}

void
__wrap_grpc_cancel(struct grpc_request *q)
{
    struct call *c = (struct call *)(void *)q;

    if (c != NULL && c->is_open) {
        c->is_open = false; /* its end comes, and is nobody's */
        c->answer.on_done(GRPC_CANCELLED, "cancelled", q, c->answer.arg);
    }
}

struct span
__wrap_grpc_answer_trailer(const struct grpc_request *q, const char *name)
{
    (void)q;
    (void)name;
    return span_str("");
}

static void
on_signed(struct span chain, struct span roots, const struct err *why, void *arg)
{
    (void)arg;
    kit.ended++;
    if (why != NULL ? why->code == E_NONE || why->msg[0] == '\0' : chain.n == 0 || roots.n == 0)
        abort();
}

static void
certificate_ask(void)
{
    const char *const names[] = { "istiod.mesh.svc" };
    const struct serving_request q = {
        .csr = span_str("a CSR"), .names = names, .names_n = 1, .instance = "i"
    };
    struct err e;

    kit.asked += evidence_client_sign(kit.client, &q, on_signed, NULL, &e) == 0;
}

static struct call *
call_newest(bool is_watch)
{
    for (size_t i = kit.calls_n; i > 0; i--)
        if (kit.calls[i - 1].is_open && kit.calls[i - 1].is_watch == is_watch)
            return &kit.calls[i - 1];
    return NULL;
}

static void
call_end(struct call *c, struct span words)
{
    char text[256];
    size_t n = words.n < sizeof(text) - 1 ? words.n : sizeof(text) - 1;

    if (n > 0)
        memcpy(text, words.p, n);
    text[n] = '\0';
    c->is_open = false;
    c->answer.on_done(n == 0 ? GRPC_OK : GRPC_UNAVAILABLE, text, NULL, c->answer.arg);
}

static void
on_turn(void *arg)
{
    loop_stop(arg);
}

static void
turn(struct loop *l)
{
    struct err e;

    MUST(loop_post(l, on_turn, l, &e));
    MUST(loop_run(l, &e));
}

static void
step(struct loop *l, uint8_t letter, struct span s)
{
    struct call *c = call_newest(letter == 'W' || letter == 'w');
    uint64_t before = 0;
    const struct evidence_loaded *now = evidence_client_loaded(kit.client);

    if (now != NULL)
        before = now->generation;
    if (letter == 'Q')
        certificate_ask();
    else if ((letter == 'W' || letter == 'A') && c != NULL && s.n > 0)
        c->answer.on_message(s, c->answer.arg);
    else if (letter == 'E' && c != NULL)
        call_end(c, s);
    else if (letter == 'w' && c != NULL)
        call_end(c, span_str("it leaves"));
    else
        turn(l);
    now = evidence_client_loaded(kit.client);
    if (letter != 'W' && now != NULL && now->generation != before)
        abort(); /* only the stream tells what is loaded */
    if (now != NULL && (now->replica[0] == '\0' || now->roots_n > ROOTS_MAX))
        abort();
}

static void
start(void)
{
    int fd;

    log_setup(2, LOG_ERROR, false);
    mint(&kit.mint);
    (void)snprintf(kit.token, sizeof(kit.token), "/tmp/fuzz_replica_XXXXXX");
    fd = mkstemp(kit.token);
    if (fd < 0 || write(fd, "token", 5) != 5)
        abort();
    (void)close(fd);
}

static void
open_all(struct loop *l, struct courier **ret, struct err *e)
{
    struct roots *roots = NULL;

    MUST(roots_from_certs(&kit.mint.cert[MINT_ROOT], 1, &roots, e));
    const struct evidence_conf conf = {
        .host = "127.0.0.1", .port = 1, .roots = roots, .token_file = kit.token
    };
    MUST(evidence_client_new(l, &conf, &kit.client, e));
    const struct courier_port port = evidence_client_courier_port(kit.client);
    MUST(courier_new(l, ret, e));
    MUST(courier_join(*ret, &port, "replica-0", &kit.stop, e));
    roots_unref(roots);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size), s;
    struct courier *c = NULL;
    struct loop *l = NULL;
    struct err e;

    if (kit.mint.key == NULL)
        start();
    kit.calls_n = 0;
    kit.asked = kit.ended = 0;
    MUST(loop_new(&l, &e));
    open_all(l, &c, &e);
    turn(l);
    for (size_t i = 0; i < STEPS_MAX && in.n > 2; i++) {
        uint8_t letter = in.p[0];

        in = span_skip(in, 1);
        if (part_cut(&in, true, &s))
            step(l, letter, s);
    }
    if (courier_count(c) > 2 * (size_t)REVOKED_MAX)
        abort();
    struct call *q;
    while ((q = call_newest(false)) != NULL)
        call_end(q, span_str("it ends"));
    if (kit.asked != kit.ended)
        abort();
    courier_free(c);
    evidence_client_free(kit.client);
    loop_free(l);
    return 0;
}
