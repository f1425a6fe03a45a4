/* test_http_raw.c - bytes that no client of ours would send, against the HTTP server. */
#include "http_kit.h"

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
    const struct CMUnitTest tests[] = {
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
