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

enum { RAW_MAX = 256 * 1024, GIVE_UP_MS = 10 * 1000 };

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

static void
on_give_up(void *arg)
{
    (void)arg;
    fail_msg("no answer");
}

static void
on_gone(void *arg)
{
    struct fixture *f = arg;

    f->gone++;
    f->held = NULL;
}

static void
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

static void
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

static int
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

static int
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

static void
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

static void
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

static void
ask(struct fixture *f, const char *method, const char *path, const char *body)
{
    static const char *const headers[] = { "X-Probe: yes", NULL };
    struct http_request_conf q = { .method = method, .headers = headers, .body = span_str(body) };

    ask_conf(f, &q, path);
}

static void
request_methods_paths_and_queries(void **state)
{
    static const struct {
        const char *method, *path, *body, *want;
    } rows[] = {
        { "GET", "/a?api-version=7.4", NULL, "GET /a q=7.4 h=yes n=0 peer=1 tls=0" },
        { "PUT", "/a", NULL, "PUT /a q=- h=yes n=0 peer=1 tls=0" },
        { "PUT", "/a", "body", "PUT /a q=- h=yes n=4 peer=1 tls=0" },
        { "POST", "/a", "body", "POST /a q=- h=yes n=4 peer=1 tls=0" },
        { "PATCH", "/a", "{}", "PATCH /a q=- h=yes n=2 peer=1 tls=0" },
        { "DELETE", "/a", NULL, "DELETE /a q=- h=yes n=0 peer=1 tls=0" },
        { "HEAD", "/a", NULL, "" },
        /* specs/azure.md 0 point 3: the key of the query is encoded */
        { "GET", "/a?api%2Dversion=2025-07-01", NULL,
          "GET /a q=2025-07-01 h=yes n=0 peer=1 tls=0" },
        { "GET", "/a?x=1&api-version=a%20b+c&y", NULL, "GET /a q=a b c h=yes n=0 peer=1 tls=0" },
        { "GET", "//secrets/a%2Fb/", NULL, "GET //secrets/a/b/ q=- h=yes n=0 peer=1 tls=0" },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        ask(*state, rows[i].method, rows[i].path, rows[i].body);
        assert_int_equal(((struct fixture *)*state)->status, 200);
        assert_string_equal(buf_text(&((struct fixture *)*state)->body), rows[i].want);
    }
}

static void
bad_targets_are_400_before_the_handler(void **state)
{
    static const char *const rows[] = { "/a%00b", "/a%", "/a%2", "/a%zz", "/a?x=%00", "/a?x=%g1" };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        ask(f, "GET", rows[i], NULL);
        assert_int_equal(f->status, 400);
    }
    assert_int_equal(f->requests, 0);
}

static void
limits_of_the_target(void **state)
{
    struct fixture *f = *state;
    struct buf b = BUF_INIT(2 * HTTP_MAX_TARGET_BYTES);

    for (int n = HTTP_MAX_QUERY; n <= HTTP_MAX_QUERY + 1; n++) {
        b.n = 0;
        assert_ok(buf_add_str(&b, "/a?", &e));
        for (int i = 0; i < n; i++)
            assert_ok(buf_add_str(&b, "x=1&", &e));
        ask(f, "GET", buf_text(&b), NULL);
        assert_int_equal(f->status, n == HTTP_MAX_QUERY ? 200 : 400);
    }
    for (int n = HTTP_MAX_TARGET_BYTES; n <= HTTP_MAX_TARGET_BYTES + 1; n++) {
        b.n = 0;
        assert_ok(buf_addf(&b, &e, "/a?x=%0*d", n - 5, 0));
        ask(f, "GET", buf_text(&b), NULL);
        assert_int_equal(f->status, n == HTTP_MAX_TARGET_BYTES ? 200 : 400);
    }
    buf_done(&b);
}

static void
a_client_has_a_limit_of_requests(void **state)
{
    struct http_request_conf q = { .method = "GET", .url = "http://127.0.0.1:1/" };
    struct fixture *f = *state;

    for (int i = 0; i < HTTP_MAX_REQUESTS; i++)
        assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
    assert_err(http_send(f->client, &q, on_answer, f, NULL, &e), E_LIMIT, "1024");
    http_client_free(STEAL(f->client)); /* each ends once */
    assert_int_equal(f->answers, HTTP_MAX_REQUESTS);
}

static void
a_body_over_the_limit_is_413(void **state)
{
    struct fixture *f = *state;
    char body[1002];

    memset(body, 'x', sizeof(body));
    body[1000] = '\0';
    ask(f, "PUT", "/a", body);
    assert_int_equal(f->status, 200);
    body[1000] = 'x';
    body[1001] = '\0';
    ask(f, "PUT", "/a", body);
    assert_int_equal(f->status, 413);
    assert_int_equal(f->requests, 1);
}

static void
retry_after_and_challenge_are_read(void **state)
{
    struct fixture *f = *state;

    ask(f, "GET", "/busy", NULL);
    assert_int_equal(f->status, 429);
    assert_int_equal(f->retry_after_s, 7);
    assert_string_equal(f->challenge, "Bearer authorization=\"https://a/t\"");
    ask(f, "GET", "/busy-ms", NULL);
    assert_int_equal(f->retry_after_s, 2); /* 1500 ms, rounded up */
}

static void
an_answer_over_the_cap_is_a_limit_error(void **state)
{
    struct http_request_conf q = { .method = "GET", .max_body_bytes = 4999 };
    struct fixture *f = *state;

    ask_conf(f, &q, "/big");
    assert_int_equal(f->why.code, E_LIMIT);
    assert_non_null(strstr(f->why.msg, "127.0.0.1"));
    q.max_body_bytes = 5000;
    ask_conf(f, &q, "/big");
    assert_int_equal(f->status, 200);
}

/* Whatever the name is, the address decides; and nothing is sent (peers.md 5a 37). */
static void
peers_5a_37_where_a_request_may_lead(void **state)
{
    static const struct {
        const char *host;
        enum http_reach reach;
        bool ok;
    } rows[] = {
        { "127.0.0.1", HTTP_REACH_NO_LINK_LOCAL, true },
        { "127.0.0.1", HTTP_REACH_NO_LOOPBACK, false },
        { "localhost", HTTP_REACH_NO_LOOPBACK, false },
        { "2130706433", HTTP_REACH_NO_LOOPBACK, false }, /* 127.0.0.1 as one number */
        { "0x7f.1", HTTP_REACH_NO_LOOPBACK, false },
        { "0", HTTP_REACH_NO_LOOPBACK, false },
        { "[::ffff:127.0.0.1]", HTTP_REACH_NO_LOOPBACK, false },
        { "169.254.169.254", HTTP_REACH_NO_LINK_LOCAL, false },
        { "[fe80::1]", HTTP_REACH_NO_LINK_LOCAL, false },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char url[128];
        struct http_request_conf q = { .method = "GET", .url = url, .reach = rows[i].reach };
        size_t before = f->requests;

        (void)snprintf(url, sizeof(url), "http://%s:%u/a", rows[i].host, f->port);
        assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
        assert_ok(loop_run(f->loop, &e));
        if (rows[i].ok ? f->status != 200 : f->why.code != E_DENIED || f->requests != before)
            fail_msg("%s: status %d, %s", rows[i].host, f->status, f->why.msg);
        http_client_free(f->client); /* no connection is left that another rule has opened */
        assert_ok(http_client_new(f->loop, &f->client, &e));
    }
}

static void
failures_name_host_and_cause(void **state)
{
    static const struct {
        const char *url;
        enum err_code code;
        const char *host, *cause;
    } rows[] = {
        { "http://nowhere.invalid/x?secret=1", E_PEER, "nowhere.invalid", "could not resolve" },
        { "http://127.0.0.1:1/", E_PEER, "127.0.0.1:1", "onnect" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_request_conf q = { .method = "GET", .url = rows[i].url };

        assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
        assert_ok(loop_run(f->loop, &e));
        assert_int_equal(f->why.code, rows[i].code);
        assert_non_null(strstr(f->why.msg, rows[i].host));
        assert_non_null(strstr(f->why.msg, rows[i].cause));
        assert_null(strstr(f->why.msg, "secret"));
    }
}

static void
urls_that_are_none_are_refused(void **state)
{
    static const char *const rows[] = { "", "ftp://h/", "file:///etc/passwd", "http://", "://" };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_request_conf q = { .method = "GET", .url = rows[i] };

        assert_err(http_send(f->client, &q, on_answer, f, NULL, &e), E_INVAL, "URL");
    }
    assert_int_equal(f->answers, 0);
}

static void
no_answer_in_time_is_a_timeout(void **state)
{
    struct http_request_conf q = { .method = "GET", .timeout_ms = 30 };
    struct fixture *f = *state;
    char url[64];

    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u/hold", f->port);
    q.url = url;
    assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
    assert_ok(loop_run(f->loop, &e)); /* stopped by the handler */
    assert_non_null(f->held);
    assert_ok(loop_run(f->loop, &e));
    assert_int_equal(f->why.code, E_TIMEOUT);
    if (f->held != NULL) /* the answer comes too late for the client, and that is no harm */
        http_reply(STEAL(f->held), 200, NULL, (struct span){ 0 });
}

static void
a_cancelled_request_never_calls_back(void **state)
{
    struct http_request_conf q = { .method = "GET" };
    struct http_request *r = NULL;
    struct fixture *f = *state;
    char url[64];

    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u/hold", f->port);
    q.url = url;
    assert_ok(http_send(f->client, &q, on_answer, f, &r, &e));
    assert_ok(loop_run(f->loop, &e));
    http_cancel(r);
    ask(f, "GET", "/a", NULL); /* and the loop still turns */
    assert_int_equal(f->status, 200);
}

static void
ends_of_client_and_server_end_what_is_under_way(void **state)
{
    struct http_request_conf q = { .method = "GET" };
    struct fixture *f = *state;
    char url[64];

    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u/hold", f->port);
    q.url = url;
    assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
    assert_ok(loop_run(f->loop, &e));
    http_server_free(STEAL(f->server));
    assert_int_equal(f->gone, 1);
    http_client_free(STEAL(f->client));
    assert_int_equal(f->answers, 1);
    assert_int_equal(f->why.code, E_PEER);
}

/* -- TLS ----------------------------------------------------------------------------------------
 */

/* A self-signed certificate for 127.0.0.1's URL is enough here: what is tested is the stream. */
static struct tls_conf *
tls_make(const char *ca_path)
{
    static const char *const sans[] = { "127.0.0.1" };
    struct ca_request root_q = { .subject = "CN=test", .days = 1, .path_len = 0 };
    struct leaf_request q = { .profile = LEAF_SERVER,
                              .sans = sans,
                              .sans_n = 1,
                              .not_before = unix_s() - 60,
                              .not_after = unix_s() + 3600,
                              .serial = { 1 } };
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    struct buf spki = BUF_INIT(1024), pem = BUF_INIT(65536);
    struct tls_conf_args a = { .is_server = true, .rule = TLS_PEER_NONE };
    size_t tbs_n, sig_n, der_n;
    struct leaf_template *t;
    struct tls_conf *tls;
    struct cert *root;
    struct key *key;

    assert_ok(key_make(KEY_P256, &key, &e));
    assert_ok(root_make(&root_q, key, &root, &e));
    assert_ok(cert_to_pem(root, &pem, &e));
    assert_ok(file_write(ca_path, buf_span(&pem), 0600, &e));
    assert_ok(key_spki(key, &spki, &e));
    q.spki = buf_span(&spki);
    assert_ok(leaf_template_new(root, key, &t, &e));
    assert_ok(leaf_tbs(t, &q, tbs, &tbs_n, &e));
    assert_ok(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    assert_ok(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), der, &der_n, &e));
    assert_ok(cert_from_der(span_of(der, der_n), &a.leaf, &e));
    a.key = key;
    assert_ok(tls_conf_new(&a, &tls, &e));
    cert_unref(a.leaf);
    cert_unref(root);
    key_unref(key);
    leaf_template_free(t);
    buf_done(&spki);
    buf_done(&pem);
    return tls;
}

static void
https_with_a_body_in_the_first_request(void **state)
{
    char dir[] = "/tmp/meshroot-test-XXXXXX", ca[64], url[64];
    struct http_request_conf q = {
        .method = "PUT", .url = url, .ca_file = ca, .body = span_str("body")
    };
    struct http_server_conf conf = { .on_request = on_request, .self = *state };
    struct addr a = { "127.0.0.1", 0 };
    struct fixture *f = *state;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
    conf.tls = tls_make(ca);
    http_server_free(STEAL(f->server));
    assert_ok(addr_listen(&a, false, &conf.listen_fd, &f->port, &e));
    assert_ok(http_server_new(f->loop, &conf, &f->server, &e));
    http_server_set_tls(f->server, conf.tls);
    tls_conf_unref(conf.tls);
    (void)snprintf(url, sizeof(url), "https://127.0.0.1:%u/a", f->port);
    for (int i = 0; i < 8; i++) { /* each on a new connection: handshake, head and body together */
        http_client_free(f->client);
        assert_ok(http_client_new(f->loop, &f->client, &e));
        assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
        assert_ok(loop_run(f->loop, &e));
        assert_int_equal(f->status, 200);
        assert_non_null(strstr(buf_text(&f->body), "n=4 peer=1 tls=1"));
    }
    /* without the root, and in clear text, there is no answer */
    q.ca_file = NULL;
    assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
    assert_ok(loop_run(f->loop, &e));
    assert_int_equal(f->why.code, E_PEER);
    assert_non_null(strstr(f->why.msg, "certificate"));
    (void)unlink(ca);
    (void)rmdir(dir);
}

/* -- below the client: bytes --------------------------------------------------------------------
 */

static int
raw_connect(const struct fixture *f)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct {
        uint16_t family, port;
        uint8_t ip[4], zero[8];
    } sa = { AF_INET, (uint16_t)(f->port >> 8 | f->port << 8), { 127, 0, 0, 1 }, { 0 } };

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const void *)&sa, sizeof(sa)), 0);
    return fd;
}

static void
on_raw(void *arg)
{
    struct fixture *f = arg;
    char b[4096];
    ssize_t n = read(f->raw_fd, b, sizeof(b));

    if (n > 0)
        assert_ok(buf_add(&f->raw, span_of(b, (size_t)n), &e));
    if (n <= 0 || (f->raw_until != NULL && strstr(buf_text(&f->raw), f->raw_until) != NULL))
        loop_stop(f->loop);
}

static const char *
raw_read(struct fixture *f, const char *until)
{
    struct fd_watch *w = NULL;

    buf_done(&f->raw);
    f->raw_until = until;
    assert_ok(fd_watch_new(f->loop, f->raw_fd, on_raw, f, &w, &e));
    assert_ok(loop_run(f->loop, &e));
    fd_watch_free(w);
    return buf_text(&f->raw);
}

static const char *
raw_talk(struct fixture *f, const char *text)
{
    if (f->raw_fd >= 0)
        (void)close(f->raw_fd);
    f->raw_fd = raw_connect(f);
    assert_int_equal(write(f->raw_fd, text, strlen(text)), (ssize_t)strlen(text));
    return raw_read(f, NULL);
}

static void
raw_requests(void **state)
{
    static const struct {
        const char *what, *text, *want;
    } rows[] = {
        { "delete without content-length",
          "DELETE /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "DELETE /a q=- h=- n=0" },
        { "put without content-length", "PUT /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
          "PUT /a q=- h=- n=0" },
        { "get with content-length 0",
          "GET /a HTTP/1.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
          "GET /a q=- h=- n=0" },
        { "header names in any case", "GET /a HTTP/1.1\r\nx-probe: v\r\nConnection: close\r\n\r\n",
          "h=v" },
        { "absolute form",
          "GET http://h:1/a?api-version=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
          "GET /a q=1" },
        { "chunked body",
          "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: "
          "close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
          "PUT /a q=- h=- n=3" },
        { "expect 100-continue",
          "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: "
          "close\r\n\r\nabc",
          "n=3" },
        { "too large is said at once",
          "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n", " 413 " },
        { "unknown method", "BREW /a HTTP/1.1\r\nHost: h\r\n\r\n", " 501 " },
        { "not HTTP", "hello\r\n\r\n", " 400 " },
        { "a bad content-length", "PUT /a HTTP/1.1\r\nContent-Length: x\r\n\r\n", " 400 " },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strstr(raw_talk(*state, rows[i].text), rows[i].want) == NULL)
            fail_msg("%s: %s", rows[i].what, buf_text(&((struct fixture *)*state)->raw));
}

/* What two readers of one connection could understand differently is understood by nobody, and the
 * connection ends: no request hides in another one's body. */
static void
a_request_does_not_hide_in_another(void **state)
{
    static const struct {
        const char *what, *head;
    } rows[] = {
        { "two lengths (RFC 9112 6.3)", "Content-Length: 0\r\nContent-Length: 40\r\n" },
        { "a length and a coding (6.1)", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" },
        { "a coding that is not known (6.1)", "Transfer-Encoding: xchunked\r\n" },
        { "two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" },
        { "a coding before chunked", "Transfer-Encoding: gzip, chunked\r\n" },
        { "a space before the colon (5.1)", "Content-Length : 40\r\n" },
        { "a length with a sign", "Content-Length: +0\r\n" },
        { "a length with a comma", "Content-Length: 0, 0\r\n" },
        { "two hosts (3.2)", "Host: other\r\n" },
        { "no name", ": x\r\n" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[512];

        f->requests = 0;
        (void)snprintf(
            text, sizeof(text),
            "PUT /a HTTP/1.1\r\nHost: h\r\n%s\r\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n",
            rows[i].head);
        const char *said = raw_talk(f, text);
        if (strncmp(said, "HTTP/1.1 4", 10) != 0 || strstr(said + 10, "HTTP/1.1") != NULL ||
            f->requests != 0)
            fail_msg("%s: %zu requests, %s", rows[i].what, (size_t)f->requests, buf_text(&f->raw));
    }
}

static void
a_host_is_a_host(void **state)
{
    static const struct {
        const char *host;
        bool ok;
    } rows[] = {
        { "h", true },
        { "V-1.vault.azure.net:443", true },
        { "127.0.0.1:1", true },
        { "[::1]", true },
        { "[::1]:8443", true },
        { "a_b.example", true },
        { "a@evil", false },
        { "a/b", false },
        { "a?b", false },
        { "a b", false },
        { "[evil.example", false },
        { "[evil.example]", false },
        { "[::1]x", false },
        { "a:b", false },
        { "a\"b", false },
        { "a,b", false },
        { "a:1:2", false },
        { "\xc3\xa4", false },
        { "[]", false },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[256];

        (void)snprintf(text, sizeof(text),
                       "GET /a HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rows[i].host);
        if ((strstr(raw_talk(f, text), " 200 ") != NULL) != rows[i].ok)
            fail_msg("%s: %s", rows[i].host, buf_text(&f->raw));
    }
}

static void
expect_100_continue_is_answered_before_the_body(void **state)
{
    static const char head[] =
        "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    struct fixture *f = *state;

    f->raw_fd = raw_connect(f);
    assert_int_equal(write(f->raw_fd, head, sizeof(head) - 1), (ssize_t)sizeof(head) - 1);
    assert_non_null(strstr(raw_read(f, "\r\n\r\n"), " 100 "));
    assert_int_equal(f->requests, 0);
    assert_int_equal(write(f->raw_fd, "abc", 3), 3);
    assert_non_null(strstr(raw_read(f, "tls=0"), "n=3"));
}

static void
headers_over_the_limit_end_the_connection(void **state)
{
    struct fixture *f = *state;
    struct buf b = BUF_INIT(RAW_MAX);

    assert_ok(buf_add_str(&b, "GET /a HTTP/1.1\r\n", &e));
    for (int i = 0; i < 40; i++)
        assert_ok(buf_addf(&b, &e, "X-%d: %01000d\r\n", i, 0));
    assert_ok(buf_add_str(&b, "\r\n", &e));
    assert_null(strstr(raw_talk(f, buf_text(&b)), " 200 "));
    assert_int_equal(f->requests, 0);
    buf_done(&b);
}

static void
one_connection_serves_many_requests(void **state)
{
    static const char one[] = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    struct fixture *f = *state;

    f->raw_fd = raw_connect(f);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(f->raw_fd, one, sizeof(one) - 1), (ssize_t)sizeof(one) - 1);
        assert_non_null(strstr(raw_read(f, "tls=0"), "GET /a"));
    }
    assert_int_equal(f->requests, 3);
    /* two at once: pipelined */
    static const char two[] = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_int_equal(write(f->raw_fd, two, sizeof(two) - 1), (ssize_t)sizeof(two) - 1);
    assert_non_null(strstr(raw_read(f, NULL), "GET /b"));
}

static void
connections_over_the_limit_are_closed_at_once(void **state)
{
    struct fixture *f = *state;
    int idle[2];

    http_server_free(STEAL(f->server));
    server_start(f, 2);
    idle[0] = raw_connect(f);
    idle[1] = raw_connect(f);
    for (int i = 0; i < 3; i++) { /* the third is closed without an answer */
        if (f->raw_fd >= 0)
            (void)close(f->raw_fd);
        f->raw_fd = raw_connect(f);
        assert_string_equal(raw_read(f, NULL), "");
    }
    (void)close(idle[0]);
    (void)close(idle[1]);
    for (uint64_t end = mono_ms() + GIVE_UP_MS;
         f->requests == 0 && mono_ms() < end;) /* and room comes back */
        (void)raw_talk(f, "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_int_equal(f->requests, 1);
}

static void
unix_sockets_work_and_keep_their_mode(void **state)
{
    struct fixture *f = *state;
    char dir[] = "/tmp/meshroot-test-XXXXXX", path[64], file[64];
    struct http_server_conf conf = { .on_request = on_request, .self = f };
    struct stat st;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/s", dir);
    (void)snprintf(file, sizeof(file), "%s/file", dir);
    http_server_free(STEAL(f->server));
    for (int i = 0; i < 2; i++) { /* the second replaces the socket of the first */
        assert_ok(unix_listen(path, 0600, &conf.listen_fd, &e));
        if (i == 0)
            (void)close(conf.listen_fd);
    }
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_ok(http_server_new(f->loop, &conf, &f->server, &e));
    struct http_request_conf q = { .method = "GET", .unix_socket = path };
    ask_conf(f, &q, "/a");
    assert_int_equal(f->status, 200);
    assert_non_null(strstr(buf_text(&f->body), "GET /a"));
    (void)close(open(file, O_CREAT | O_WRONLY, 0600));
    assert_err(unix_listen(file, 0600, &conf.listen_fd, &e), E_INVAL, "not a socket");
    (void)unlink(file);
    (void)unlink(path);
    (void)rmdir(dir);
    char longer[200];
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_err(unix_listen(longer, 0600, &conf.listen_fd, &e), E_INVAL, "bytes");
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(request_methods_paths_and_queries),
        T(bad_targets_are_400_before_the_handler),
        T(limits_of_the_target),
        T(a_client_has_a_limit_of_requests),
        T(a_body_over_the_limit_is_413),
        T(retry_after_and_challenge_are_read),
        T(an_answer_over_the_cap_is_a_limit_error),
        T(peers_5a_37_where_a_request_may_lead),
        T(failures_name_host_and_cause),
        T(urls_that_are_none_are_refused),
        T(no_answer_in_time_is_a_timeout),
        T(a_cancelled_request_never_calls_back),
        T(ends_of_client_and_server_end_what_is_under_way),
        T(https_with_a_body_in_the_first_request),
        T(raw_requests),
        T(a_request_does_not_hide_in_another),
        T(a_host_is_a_host),
        T(expect_100_continue_is_answered_before_the_body),
        T(headers_over_the_limit_end_the_connection),
        T(one_connection_serves_many_requests),
        T(connections_over_the_limit_are_closed_at_once),
        T(unix_sockets_work_and_keep_their_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
