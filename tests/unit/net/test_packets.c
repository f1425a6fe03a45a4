/* Which writes may wait in the kernel for the next one, and that none waits for ever. send(2) is
 * ours here: it notes what it is asked, and asks the kernel. */
#include "grpc_tls_kit.h"

#include <arpa/inet.h>
#include <sys/socket.h>

enum { SENDS_MAX = 32 };

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

/* A client in clear text. */
static struct {
    int fd; /* -1: none */
    uint8_t got[4096];
    size_t got_n;
    const char *want; /* to be found in `got` */
    size_t want_n;
} raw;

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
    ssize_t r = recv(raw.fd, raw.got + raw.got_n, sizeof(raw.got) - raw.got_n, MSG_DONTWAIT);

    (void)w;
    assert_int_not_equal(r, 0);
    raw.got_n += r > 0 ? (size_t)r : 0;
    return memmem(raw.got, raw.got_n, raw.want, raw.want_n) != NULL;
}

/* Until that has come to the raw client. */
static void
run_until_got(struct world *w, const char *want, size_t n)
{
    raw.want = want;
    raw.want_n = n;
    run_until(w, is_there);
}

/* take_tls NULL: in clear text. */
static void
open_server(struct world *w, struct tls_conf *take_tls)
{
    serve(w, (struct grpc_server_conf){
                 .methods = methods, .methods_n = ARRAY_LEN(methods), .tls = take_tls });
    server_port = w->port;
}

static int
setup(void **state)
{
    by_server = by_client = (struct sends){ .n = 0 };
    raw.fd = -1;
    raw.got_n = 0;
    *state = world_open();
    return 0;
}

static int
teardown(void **state)
{
    world_close(*state);
    if (raw.fd >= 0)
        (void)close(raw.fd);
    return 0;
}

static void
ticket_and_last_flight_wait_for_what_follows(void **state)
{
    struct world *w = *state;

    open_server(w, tls(w, true));
    struct grpc_client *client = ask_once(w, 0);
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
ask(const char *path, bool is_whole)
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
    assert_int_equal(__real_send(raw.fd, b.p, b.n, MSG_NOSIGNAL), b.n);
    buf_done(&b);
    buf_done(&head);
}

/* A connection in clear text whose server has said its SETTINGS. */
static void
dial(struct world *w)
{
    struct err e;

    open_server(w, NULL);
    assert_ok(addr_connect(&(struct addr){ "127.0.0.1", server_port }, &raw.fd, &e));
    run_until_got(w, "\4\0\0\0\0\0", 6); /* SETTINGS of the server */
    assert_false(by_server.more[by_server.n - 1]);
}

static void
an_ack_waits_for_the_answer_but_not_for_ever(void **state)
{
    struct world *w = *state;

    dial(w);
    ask("/t.T/Never", true);
    run_until_got(w, ACK, sizeof(ACK) - 1);
    assert_int_equal(w->calls_n, 1);
    assert_true(by_server.more[by_server.n - 1]);
}

static void
the_answer_does_not_wait(void **state)
{
    struct world *w = *state;

    dial(w);
    ask("/t.T/Echo", true);
    run_until_got(w, "\0\0\0\0\1x", 6);
    assert_int_equal(w->calls_n, 1);
    assert_false(by_server.more[by_server.n - 1]);
}

static void
nothing_waits_while_a_request_is_not_whole(void **state)
{
    struct world *w = *state;

    dial(w);
    ask("/t.T/Echo", false);
    run_until_got(w, ACK, sizeof(ACK) - 1);
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
