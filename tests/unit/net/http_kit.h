/* http_kit.h - a server and a client on one loop. */
#ifndef TESTS_UNIT_NET_HTTP_KIT_H
#define TESTS_UNIT_NET_HTTP_KIT_H

#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "net/addr.h"
#include "net/http.h"
#include "net/http_target.h"
#include "pki/issue.h"
#include "pki/leaf.h"

enum { RAW_MAX = 256 * 1024, GIVE_UP_MS = 60 * 1000 };

struct fixture {
    struct loop *loop;
    struct http_server *server;
    struct http_client *client;
    struct timer *give_up;
    uint16_t port;
    size_t requests, gone;
    struct http_exchange *held; /* of path /hold */
    /* the client's last answer */
    size_t answers;
    int status;
    uint64_t retry_after_s;
    char challenge[200];
    struct buf body;
    struct err why;
    /* the raw socket */
    int raw_fd;
    struct buf raw;
    const char *raw_until; /* stop when it has come; NULL: at the end */
};

static struct err e;

static inline void
on_give_up(void *arg)
{
    (void)arg;
    fail_msg("no answer");
}

static inline void
on_gone(void *arg)
{
    struct fixture *f = arg;

    f->gone++;
    f->held = NULL;
}

static inline void
on_request(struct http_exchange *x, void *self)
{
    struct fixture *f = self;
    const char *q = http_query(x, "api-version"), *h = http_header(x, "X-Probe");
    struct buf b = BUF_INIT(4096);

    f->requests++;
    if (strcmp(http_path(x), "/hold") == 0) {
        f->held = x;
        http_on_gone(x, on_gone, f);
        loop_stop(f->loop);
        return;
    }
    if (strncmp(http_path(x), "/busy", 5) == 0) {
        http_reply_header(x,
                          strcmp(http_path(x), "/busy-ms") == 0 ? "retry-after-ms" : "Retry-After",
                          strcmp(http_path(x), "/busy") == 0 ? "7" : "1500");
        http_reply_header(x, "WWW-Authenticate", "Bearer authorization=\"https://a/t\"");
        http_reply(x, 429, NULL, (struct span){ 0 });
        return;
    }
    if (strcmp(http_path(x), "/big") == 0) {
        static const char big[5000];

        http_reply(x, 200, "application/octet-stream", span_of(big, sizeof(big)));
        return;
    }
    assert_ok(buf_addf(&b, &e, "%s %s q=%s h=%s n=%zu peer=%d tls=%d", http_method(x), http_path(x),
                       q == NULL ? "-" : q, h == NULL ? "-" : h, http_body(x).n,
                       strncmp(http_peer_addr(x), "127.0.0.1:", 10) == 0, http_is_tls(x)));
    http_reply(x, 200, "text/plain", buf_span(&b));
    buf_done(&b);
}

static inline void
server_start(struct fixture *f, size_t max_connections)
{
    struct addr a = { "127.0.0.1", 0 };
    struct http_server_conf conf = { .on_request = on_request,
                                     .self = f,
                                     .max_body_bytes = 1000,
                                     .max_connections = max_connections };

    assert_ok(addr_listen(&a, false, &conf.listen_fd, &f->port, &e));
    assert_ok(http_server_new(f->loop, &conf, &f->server, &e));
}

static inline int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->body = BUF_INIT(RAW_MAX);
    f->raw = BUF_INIT(RAW_MAX);
    f->raw_fd = -1;
    assert_ok(loop_new(&f->loop, &e));
    assert_ok(http_client_new(f->loop, &f->client, &e));
    assert_ok(timer_new(f->loop, on_give_up, f, &f->give_up, &e));
    timer_set(f->give_up, GIVE_UP_MS);
    server_start(f, 0);
    *state = f;
    return 0;
}

static inline int
teardown(void **state)
{
    struct fixture *f = *state;

    if (f->raw_fd >= 0)
        (void)close(f->raw_fd);
    http_client_free(f->client);
    http_server_free(f->server);
    timer_free(f->give_up);
    loop_free(f->loop);
    buf_done(&f->body);
    buf_done(&f->raw);
    free(f);
    return 0;
}

static inline void
on_answer(const struct http_answer *a, const struct err *why, void *arg)
{
    struct fixture *f = arg;

    f->answers++;
    f->body.n = 0;
    f->status = 0;
    if (why != NULL) {
        f->why = *why;
    } else {
        f->why.code = E_NONE;
        f->status = a->status;
        f->retry_after_s = a->retry_after_s;
        (void)snprintf(f->challenge, sizeof(f->challenge), "%s",
                       a->www_authenticate == NULL ? "" : a->www_authenticate);
        assert_ok(buf_add(&f->body, a->body, &e));
    }
    loop_stop(f->loop);
}

static inline void
ask_conf(struct fixture *f, struct http_request_conf *q, const char *path)
{
    char url[HTTP_MAX_TARGET_BYTES + 100];

    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u%s", f->port, path);
    q->url = url;
    assert_ok(http_send(f->client, q, on_answer, f, NULL, &e));
    assert_int_equal(f->answers, 0); /* never before it returns */
    assert_ok(loop_run(f->loop, &e));
    assert_int_equal(f->answers, 1);
    f->answers = 0;
}

static inline void
ask(struct fixture *f, const char *method, const char *path, const char *body)
{
    static const char *const headers[] = { "X-Probe: yes", NULL };
    struct http_request_conf q = { .method = method, .headers = headers, .body = span_str(body) };

    ask_conf(f, &q, path);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
