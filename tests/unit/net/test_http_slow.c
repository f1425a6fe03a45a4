/* Clients of the HTTP server that drip: cut off, and counted; those that wait for an answer are
 * not.
 */
#include "unit.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/http.h"

enum { REQUEST_MS = 1000, DRIP_MS = 5, GIVE_UP_MS = 60000, PEERS = 4 };

struct world;

struct peer { /* says `head`, then a byte of `drip` again and again; reads what comes */
    struct world *w;
    int fd;
    struct fd_watch *watch;
    struct timer *timer;
    const char *drip;
    size_t at;
    char got[512];
    size_t got_n;
    bool is_cut;
};

struct world {
    struct loop *l;
    struct timer *limit;
    struct metrics *metrics;
    struct http_server *server;
    uint16_t port;
    struct http_exchange *held;
    struct peer peers[PEERS];
    size_t waits_for; /* peers that are to be cut */
    bool timed_out;
};

static void
on_request(struct http_exchange *x, void *self)
{
    struct world *w = self;

    if (strcmp(http_path(x), "/hold") == 0)
        w->held = x;
    else
        http_reply(x, 200, "text/plain", span_str("now"));
}

static void
on_limit(void *arg)
{
    struct world *w = arg;

    w->timed_out = true;
    loop_stop(w->l);
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct http_server_conf c = { .on_request = on_request, .self = w, .name = "test" };
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_limit, w, &w->limit, &e));
    assert_ok(metrics_new(&w->metrics, &e));
    c.metrics = w->metrics;
    c.request_ms = REQUEST_MS;
    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &c.listen_fd, &w->port, &e));
    assert_ok(http_server_new(w->l, &c, &w->server, &e));
    *state = w;
    return 0;
}

static void
peer_end(struct peer *p)
{
    fd_watch_free(STEAL(p->watch));
    timer_free(STEAL(p->timer));
    if (p->fd > 0)
        (void)close(p->fd);
    p->fd = 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < PEERS; i++)
        peer_end(&w->peers[i]);
    http_server_free(w->server);
    timer_free(w->limit);
    loop_free(w->l);
    metrics_free(w->metrics);
    free(w);
    return 0;
}

static void
on_readable(void *arg)
{
    struct peer *p = arg;
    ssize_t n = read(p->fd, p->got + p->got_n, sizeof(p->got) - 1 - p->got_n);

    if (n > 0) {
        p->got_n += (size_t)n;
        if (p->drip == NULL)
            loop_stop(p->w->l);
        return;
    }
    p->is_cut = true;
    timer_stop(p->timer);
    fd_watch_free(STEAL(p->watch));
    if (--p->w->waits_for == 0)
        loop_stop(p->w->l);
}

static void
on_drip(void *arg)
{
    struct peer *p = arg;

    (void)!send(p->fd, p->drip + p->at, 1, MSG_NOSIGNAL);
    p->at = p->drip[p->at + 1] == '\0' ? 0 : p->at + 1;
    timer_set(p->timer, DRIP_MS);
}

static struct peer *
peer(struct world *w, size_t i, const char *head, const char *drip)
{
    struct peer *p = &w->peers[i];
    struct err e;

    *p = (struct peer){ .w = w, .drip = drip };
    assert_ok(addr_connect(&(struct addr){ "127.0.0.1", w->port }, &p->fd, &e));
    assert_ok(fd_watch_new(w->l, p->fd, on_readable, p, &p->watch, &e));
    assert_ok(timer_new(w->l, on_drip, p, &p->timer, &e));
    (void)!send(p->fd, head, strlen(head), MSG_NOSIGNAL);
    if (drip != NULL) {
        w->waits_for++;
        on_drip(p);
    }
    return p;
}

static void
run(struct world *w)
{
    struct err e;

    timer_set(w->limit, GIVE_UP_MS);
    assert_ok(loop_run(w->l, &e));
    timer_stop(w->limit);
    assert_false(w->timed_out);
}

static void
who_drips_is_cut(void **state)
{
    struct world *w = *state;

    (void)peer(w, 0, "GET / HTTP/1.1\r\nHost: a\r\n", "x-a: b\r\n");
    (void)peer(w, 1, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", "b");
    (void)peer(w, 2, "", "\r\n");
    /* a whole request first, then one that drips on the same connection */
    struct peer *second =
        peer(w, 3, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n", "y: b\r\n");
    run(w);
    for (size_t i = 0; i < PEERS; i++)
        assert_true(w->peers[i].is_cut);
    assert_non_null(strstr(second->got, "now"));
    assert_true(metric_value(w->metrics, "meshroot_http_connections_cut_total",
                             "listener=\"test\",reason=\"drip\"") >= 3);
}

/* The one that waits was there first, and is there when another that came after it is cut. */
static void
who_waits_for_an_answer_is_not(void **state)
{
    struct world *w = *state;
    struct peer *waits = peer(w, 0, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n", NULL);

    (void)peer(w, 1, "GET / HTTP/1.1\r\nHost: a\r\n", "x-a: b\r\n");
    run(w);
    assert_true(w->peers[1].is_cut);
    assert_false(waits->is_cut);
    assert_non_null(w->held);
    http_reply(STEAL(w->held), 200, "text/plain", span_str("late"));
    while (strstr(waits->got, "late") == NULL)
        run(w);
    assert_false(waits->is_cut);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = { T(who_drips_is_cut), T(who_waits_for_an_answer_is_not) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
