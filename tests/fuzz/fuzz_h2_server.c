/* Any bytes into a server's connection without TLS: it answers or closes, keeps no connection, and
 * its handlers see only whole messages of known methods. The client's preface is put in front when
 * the first byte is even. */
#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"
#include "net/grpc_server.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"

enum { ANSWER_MAX_BYTES = 1 << 20 };

static struct loop *loop;
static struct grpc_server *server;
static struct grpc_call *held;

static void
gone(void *arg)
{
    (void)arg;
    held = NULL;
}

static void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct err e;

    (void)self;
    assert(msg.n <= 1024);
    if (grpc_send(c, msg, &e) < 0)
        grpc_finish(c, GRPC_RESOURCE_EXHAUSTED, e.msg);
    else
        grpc_finish(c, GRPC_OK, NULL);
}

static void
hold(struct grpc_call *c, struct span msg, void *self)
{
    (void)msg;
    (void)self;
    if (held != NULL) {
        grpc_finish(c, GRPC_UNAVAILABLE, "one at a time");
        return;
    }
    held = c;
    grpc_on_gone(c, gone, NULL);
}

static void
chat(struct grpc_call *c, struct span msg, void *self)
{
    struct err e;

    (void)self;
    assert(msg.n <= 1024);
    if (grpc_send(c, msg, &e) < 0)
        grpc_finish(c, GRPC_RESOURCE_EXHAUSTED, e.msg);
    else if (msg.n > 0 && msg.p[0] == 'q')
        grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = {
    { .path = "/t.T/Chat", .streams = true, .on_message = chat },
    { .path = "/t.T/Echo", .on_request = echo },
    { .path = "/t.T/Hold", .streams = true, .on_request = hold }
};

static void
start(void)
{
    struct grpc_server_conf conf = { .methods = methods,
                                     .methods_n = ARRAY_LEN(methods),
                                     .max_message_bytes = 1024 };
    struct addr a = { "127.0.0.1", 0 };
    uint16_t port;
    struct err e;

    (void)signal(SIGPIPE, SIG_IGN);
    assert(loop_new(&loop, &e) == 0);
    assert(addr_listen(&a, false, &conf.listen_fd, &port, &e) == 0);
    assert(grpc_server_new(loop, &conf, &server, &e) == 0);
}

struct client {
    int fd;
    struct fd_watch *watch;
    size_t got;
};

/* Reads until the server closes. */
static void
on_answer(void *arg)
{
    struct client *c = arg;
    char bytes[16384];
    ssize_t n = read(c->fd, bytes, sizeof(bytes));

    if (n > 0) {
        c->got += (size_t)n;
        assert(c->got <= ANSWER_MAX_BYTES);
        return;
    }
    loop_stop(loop);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct client c = { .fd = -1 };
    struct err e;
    int fds[2];

    if (server == NULL)
        start();
    if (n > 32768)
        return 0;
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    c.fd = fds[0];
    assert(grpc_server_adopt(server, fds[1], &e) == 0);
    assert(fd_watch_new(loop, c.fd, on_answer, &c, &c.watch, &e) == 0);
    if (n > 0 && p[0] % 2 == 0)
        assert(send(c.fd, PREFACE, sizeof(PREFACE) - 1, MSG_NOSIGNAL) > 0);
    if (n > 1)
        (void)!send(c.fd, p + 1, n - 1, MSG_NOSIGNAL);
    (void)shutdown(c.fd, SHUT_WR);
    assert(loop_run(loop, &e) == 0);
    assert(grpc_server_connections(server) == 0 && held == NULL);
    fd_watch_free(c.watch);
    (void)close(c.fd);
    return 0;
}
