/* Which writes may wait in the kernel for the next one, and that none waits for ever. send(2) is
 * ours here: it notes what it is asked, and asks the kernel. */
#include "mint.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"

enum { WAIT_MS = 60000, STEP_MS = 5, SENDS_MAX = 32 };

#define PREFACE  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SETTINGS "\0\0\0\4\0\0\0\0\0"
#define ACK      "\0\0\0\4\1\0\0\0\0"

struct sends {
    bool more[SENDS_MAX];
    size_t n;
};

static struct sends by_server, by_client;
static uint16_t server_port; /* host order */

ssize_t __real_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags);

ssize_t
__wrap_send(int fd, const void *p, size_t n, int flags)
{
    struct sockaddr_in us = { 0 };
    socklen_t us_n = sizeof(us);
    ssize_t r = __real_send(fd, p, n, flags);

    if (r > 0 && getsockname(fd, (struct sockaddr *)&us, &us_n) == 0) {
        struct sends *s = ntohs(us.sin_port) == server_port ? &by_server : &by_client;

        assert_true(s->n < SENDS_MAX);
        s->more[s->n++] = (flags & MSG_MORE) != 0;
    }
    return r;
}

struct world {
    struct loop *l;
    struct timer *step;
    struct mint_ca root;
    struct key *key;
    struct cert *leaf;
    struct grpc_server *server;
    int fd; /* the raw client's; -1: none */
    uint8_t got[4096];
    size_t got_n, calls_n;
    int code; /* of the last answer; -1: none yet */
    const char *want;
    size_t want_n; /* to be found in `got`; 0: the loop runs for the answer */
    uint64_t by_ms;
    bool gave_up;
};

static void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    struct err e;

    w->calls_n++;
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

static void
never(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;

    (void)c;
    (void)msg;
    w->calls_n++;
}

static const struct grpc_method methods[] = {
    { .path = "/t.T/Echo", .on_request = echo },
    { .path = "/t.T/Never", .streams = true, .on_request = never },
};

static bool
is_there(struct world *w)
{
    if (w->want_n == 0)
        return w->code >= 0;
    ssize_t r = recv(w->fd, w->got + w->got_n, sizeof(w->got) - w->got_n, MSG_DONTWAIT);

    assert_int_not_equal(r, 0);
    w->got_n += r > 0 ? (size_t)r : 0;
    return memmem(w->got, w->got_n, w->want, w->want_n) != NULL;
}

static void
on_step(void *arg)
{
    struct world *w = arg;

    w->gave_up = mono_ms() > w->by_ms;
    if (w->gave_up || is_there(w))
        loop_stop(w->l);
    else
        timer_set(w->step, STEP_MS);
}

/* Until `want` has come to the raw client; NULL: until the client's call is answered. */
static void
run_until(struct world *w, const char *want, size_t n)
{
    struct err e;

    w->want = want;
    w->want_n = n;
    w->by_ms = mono_ms() + WAIT_MS;
    timer_set(w->step, 0);
    assert_ok(loop_run(w->l, &e));
    assert_false(w->gave_up);
}

static struct tls_conf *
tls(struct world *w, bool is_server)
{
    const struct tls_conf_args a = { .is_server = is_server,
                                     .key = is_server ? w->key : NULL,
                                     .leaf = is_server ? w->leaf : NULL,
                                     .roots = w->root.roots,
                                     .rule = is_server ? TLS_PEER_OPTIONAL : TLS_PEER_NAME,
                                     .alpn = "h2",
                                     .resumes = true };
    struct tls_conf *c;
    struct err e;

    assert_ok(tls_conf_new(&a, &c, &e));
    return c;
}

static void
serve(struct world *w, struct tls_conf *take_tls)
{
    struct grpc_server_conf sc = {
        .methods = methods, .methods_n = ARRAY_LEN(methods), .self = w, .tls = take_tls
    };
    struct err e;

    assert_ok(
        addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &server_port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    tls_conf_unref(take_tls);
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    *w = (struct world){ .fd = -1, .code = -1 };
    by_server = by_client = (struct sends){ .n = 0 };
    mint_ca(&w->root, "CN=Root", NULL);
    assert_ok(key_make(KEY_P256, &w->key, &e));
    w->leaf = mint_leaf(&w->root, w->key, "ca.local", 7200);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_step, w, &w->step, &e));
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    grpc_server_free(w->server);
    timer_free(w->step);
    loop_free(w->l);
    if (w->fd >= 0)
        (void)close(w->fd);
    cert_unref(w->leaf);
    key_unref(w->key);
    mint_ca_done(&w->root);
    free(w);
    return 0;
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    (void)msg;
    (void)q;
    w->code = code;
}

static void
on_message(struct span msg, void *arg)
{
    (void)msg;
    (void)arg;
}

static void
ticket_and_last_flight_wait_for_what_follows(void **state)
{
    struct world *w = *state;
    const struct grpc_answer answer = { on_message, on_done, w };
    struct grpc_client *client;
    struct err e;

    serve(w, tls(w, true));
    const struct grpc_client_conf cc = {
        .host = "127.0.0.1", .port = server_port, .verify_name = "ca.local", .tls = tls(w, false)
    };
    assert_ok(grpc_client_new(w->l, &cc, &client, &e));
    tls_conf_unref(cc.tls);
    assert_ok(grpc_client_call(client, "/t.T/Echo", NULL, span_str("x"), 0, &answer, NULL, &e));
    run_until(w, NULL, 0);
    assert_int_equal(w->code, GRPC_OK);
    assert_true(by_client.n >= 3); /* hello, Finished, request */
    assert_false(by_client.more[0]);
    assert_true(by_client.more[1]);
    assert_false(by_client.more[2]);
    assert_true(by_server.n >= 3); /* its flight, the ticket, SETTINGS; the answer is the last */
    assert_false(by_server.more[0]);
    assert_true(by_server.more[1]);
    assert_false(by_server.more[by_server.n - 1]);
    grpc_client_free(client);
}

static void
frame(struct buf *b, uint8_t type, uint8_t flags, uint8_t id, struct span s)
{
    const uint8_t head[9] = { 0, (uint8_t)(s.n >> 8), (uint8_t)s.n, type, flags, 0, 0, 0, id };
    struct err e;

    assert_ok(buf_add(b, span_of(head, sizeof(head)), &e));
    assert_ok(buf_add(b, s, &e));
}

/* Says preface, SETTINGS and a request for `path`, whole or not, in one write; HPACK: literals
 * without indexing. */
static void
ask(struct world *w, const char *path, bool is_whole)
{
    const char *const words[] = { ":method", "POST",     ":scheme",      "http",
                                  ":path",   path,       ":authority",   "a",
                                  "te",      "trailers", "content-type", "application/grpc" };
    struct buf b = BUF_INIT(4096), head = BUF_INIT(1024);
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        const uint8_t n[2] = { 0, (uint8_t)strlen(words[i]) };

        assert_ok(buf_add(&head, i % 2 == 0 ? span_of(n, 2) : span_of(n + 1, 1), &e));
        assert_ok(buf_add(&head, span_str(words[i]), &e));
    }
    assert_ok(buf_add(&b, span_of(PREFACE SETTINGS, sizeof(PREFACE SETTINGS) - 1), &e));
    frame(&b, 1, 4, 1, buf_span(&head)); /* HEADERS, END_HEADERS */
    if (is_whole)
        frame(&b, 0, 1, 1, span_of("\0\0\0\0\1x", 6)); /* DATA, END_STREAM */
    assert_int_equal(__real_send(w->fd, b.p, b.n, MSG_NOSIGNAL), b.n);
    buf_done(&b);
    buf_done(&head);
}

/* A connection in clear text whose server has said its SETTINGS. */
static void
dial(struct world *w)
{
    struct err e;

    serve(w, NULL);
    assert_ok(addr_connect(&(struct addr){ "127.0.0.1", server_port }, &w->fd, &e));
    run_until(w, "\4\0\0\0\0\0", 6); /* SETTINGS of the server */
    assert_false(by_server.more[by_server.n - 1]);
}

static void
an_ack_waits_for_the_answer_but_not_for_ever(void **state)
{
    struct world *w = *state;

    dial(w);
    ask(w, "/t.T/Never", true);
    run_until(w, ACK, sizeof(ACK) - 1);
    assert_int_equal(w->calls_n, 1);
    assert_true(by_server.more[by_server.n - 1]);
}

static void
the_answer_does_not_wait(void **state)
{
    struct world *w = *state;

    dial(w);
    ask(w, "/t.T/Echo", true);
    run_until(w, "\0\0\0\0\1x", 6);
    assert_int_equal(w->calls_n, 1);
    assert_false(by_server.more[by_server.n - 1]);
}

static void
nothing_waits_while_a_request_is_not_whole(void **state)
{
    struct world *w = *state;

    dial(w);
    ask(w, "/t.T/Echo", false);
    run_until(w, ACK, sizeof(ACK) - 1);
    for (size_t i = 0; i < by_server.n; i++)
        assert_false(by_server.more[i]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ticket_and_last_flight_wait_for_what_follows, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_ack_waits_for_the_answer_but_not_for_ever, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_answer_does_not_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_waits_while_a_request_is_not_whole, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
