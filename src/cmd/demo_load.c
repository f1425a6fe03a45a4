#include "cmd/demo_load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/addr.h"

enum { NONCE_BYTES = 16, IO_TIMEOUT_S = 20, ACCEPT_TICK_MS = 200 };

struct echo {
    pthread_t thread;
    int fd;
    struct demo_load *load;
};

struct pair {
    pthread_t thread;
    uint16_t port;
    struct demo_load *load;
};

struct demo_load {
    struct echo echo[DEMO_ECHO_MAX];
    struct pair pair[DEMO_PAIRS_MAX];
    int kept[DEMO_ECHO_MAX]; /* sockets that keep a port */
    size_t echo_n, pair_n, kept_n;
    uint64_t pause_ms;
    atomic_bool stop_pairs, stop_echo;
    _Atomic uint64_t tried, failed;
    pthread_mutex_t lock;
    struct err first; /* under the lock: of the first that failed; E_NONE: none has */
};

/* Of accept and recv. None for connect and send: with one they fail with EINTR when the process is
 * stopped and continued (signal(7)), and loopback takes these few bytes at once. */
static void
timeout_set(int fd, time_t s, suseconds_t us)
{
    struct timeval t = { s, us };

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

/* All `n` bytes. Errors: SYS, TIMEOUT. */
static int
read_whole(int fd, uint8_t *p, size_t n, struct err *e)
{
    for (size_t have = 0; have < n;) {
        ssize_t r = recv(fd, p + have, n - have, 0);

        if (r == 0)
            return err_set(e, E_SYS, "the connection was closed after %zu of %zu bytes", have, n);
        if (r < 0 && errno != EINTR) /* which is: stopped and continued, signal(7) */
            return errno == EAGAIN ? err_set(e, E_TIMEOUT, "no answer in %d s", IO_TIMEOUT_S)
                                   : err_sys(e, errno, "recv");
        have += r > 0 ? (size_t)r : 0;
    }
    return 0;
}

static void *
echo_main(void *arg)
{
    struct echo *s = arg;
    uint8_t b[NONCE_BYTES];
    struct err e;

    while (!atomic_load(&s->load->stop_echo)) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            continue; /* the tick of SO_RCVTIMEO */
        timeout_set(fd, IO_TIMEOUT_S, 0);
        if (read_whole(fd, b, sizeof(b), &e) == 0)
            (void)!send(fd, b, sizeof(b), MSG_NOSIGNAL);
        (void)close(fd);
    }
    return NULL;
}

static int
one_handshake_on(int fd, uint16_t port, struct err *e)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    uint8_t sent[NONCE_BYTES], got[NONCE_BYTES];

    timeout_set(fd, IO_TIMEOUT_S, 0);
    TRY(random_bytes(sent, sizeof(sent), e));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        return err_sys(e, errno, "connect");
    if (send(fd, sent, sizeof(sent), MSG_NOSIGNAL) != (ssize_t)sizeof(sent))
        return err_sys(e, errno, "send");
    TRY(read_whole(fd, got, sizeof(got), e));
    return memcmp(sent, got, sizeof(sent)) == 0 ? 0 : err_set(e, E_SYS, "other bytes came back");
}

static int
one_handshake(uint16_t port, struct err *e)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return err_sys(e, errno, "socket");
    int done = one_handshake_on(fd, port, e);
    (void)close(fd);
    return done;
}

static void
failed_note(struct demo_load *l, uint16_t port, const struct err *why)
{
    (void)pthread_mutex_lock(&l->lock);
    if (l->first.code == E_NONE)
        (void)err_set(&l->first, why->code, "a handshake through 127.0.0.1:%u: %s", port, why->msg);
    (void)pthread_mutex_unlock(&l->lock);
    atomic_fetch_add(&l->failed, 1);
}

static void *
pair_main(void *arg)
{
    struct pair *p = arg;
    struct demo_load *l = p->load;
    struct err e;

    while (!atomic_load(&l->stop_pairs)) {
        if (one_handshake(p->port, &e) < 0)
            failed_note(l, p->port, &e);
        atomic_fetch_add(&l->tried, 1);
        (void)usleep((useconds_t)(l->pause_ms * 1000)); /* the pace of the load */
    }
    return NULL;
}

int
demo_load_new(size_t n, uint16_t ret_ports[DEMO_ECHO_MAX], struct demo_load **ret, struct err *e)
{
    struct addr any = { .host = "127.0.0.1" };
    struct demo_load *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    (void)pthread_mutex_init(&l->lock, NULL);
    for (size_t i = 0; i < n && i < DEMO_ECHO_MAX; i++) {
        struct echo *s = &l->echo[i];

        s->load = l;
        if (addr_listen(&any, false, &s->fd, &ret_ports[i], e) < 0) {
            demo_load_free(l);
            return err_result(e);
        }
        (void)fcntl(s->fd, F_SETFL, fcntl(s->fd, F_GETFL) & ~O_NONBLOCK);
        timeout_set(s->fd, 0, ACCEPT_TICK_MS * 1000);
        if (pthread_create(&s->thread, NULL, echo_main, s) != 0) {
            (void)close(s->fd);
            demo_load_free(l);
            return err_set(e, E_SYS, "cannot start a thread");
        }
        l->echo_n++;
    }
    *ret = l;
    return 0;
}

/* Bound and not listening: who asks for any port is given another one, who asks for this one with
 * SO_REUSEADDR gets it. */
int
demo_load_keep_port(struct demo_load *l, uint16_t *ret_port, struct err *e)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof(at);
    int one = 1;

    if (l->kept_n == DEMO_ECHO_MAX)
        return err_set(e, E_LIMIT, "more than %d ports are kept", (int)DEMO_ECHO_MAX);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_sys(e, errno, "socket");
    l->kept[l->kept_n++] = fd;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&at, n) < 0 || getsockname(fd, (struct sockaddr *)&at, &n) < 0)
        return err_sys(e, errno, "a free port of 127.0.0.1");
    *ret_port = ntohs(at.sin_port);
    return 0;
}

int
demo_load_start(struct demo_load *l, const uint16_t *ports, size_t n, uint64_t pause_ms,
                struct err *e)
{
    l->pause_ms = pause_ms;
    for (size_t i = 0; i < n && i < DEMO_PAIRS_MAX; i++) {
        l->pair[i] = (struct pair){ .port = ports[i], .load = l };
        if (pthread_create(&l->pair[i].thread, NULL, pair_main, &l->pair[i]) != 0)
            return err_set(e, E_SYS, "cannot start a thread");
        l->pair_n++;
    }
    return 0;
}

void
demo_load_count(struct demo_load *l, uint64_t *ret_tried, uint64_t *ret_failed,
                struct err *ret_first)
{
    *ret_failed = l != NULL ? atomic_load(&l->failed) : 0;
    *ret_tried = l != NULL ? atomic_load(&l->tried) : 0;
    if (ret_first == NULL)
        return;
    *ret_first = (struct err){ 0 };
    if (l != NULL) {
        (void)pthread_mutex_lock(&l->lock);
        *ret_first = l->first;
        (void)pthread_mutex_unlock(&l->lock);
    }
}

void
demo_load_stop(struct demo_load *l)
{
    if (l == NULL)
        return;
    atomic_store(&l->stop_pairs, true);
    for (size_t i = 0; i < l->pair_n; i++)
        (void)pthread_join(l->pair[i].thread, NULL);
    l->pair_n = 0;
}

void
demo_load_free(struct demo_load *l)
{
    if (l == NULL)
        return;
    demo_load_stop(l);
    atomic_store(&l->stop_echo, true);
    for (size_t i = 0; i < l->echo_n; i++) {
        (void)pthread_join(l->echo[i].thread, NULL);
        (void)close(l->echo[i].fd);
    }
    for (size_t i = 0; i < l->kept_n; i++)
        (void)close(l->kept[i]);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}
