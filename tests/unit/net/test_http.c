/* test_http.c - the HTTP client against the server. */
#include "http_kit.h"

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

#define LABEL_64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

static void
failures_name_host_and_cause(void **state)
{
    static const struct {
        const char *url;
        enum err_code code;
        const char *host, *cause;
    } rows[] = {
        /* a label of 64 letters: no name server is asked, here or wherever this runs */
        { "http://" LABEL_64 ".invalid/x?secret=1", E_PEER, LABEL_64 ".invalid",
          "could not resolve" },
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
    while (f->requests == 0) { /* the time may be over before the server has been asked */
        f->answers = 0;
        assert_ok(http_send(f->client, &q, on_answer, f, NULL, &e));
        while (f->answers == 0)
            assert_ok(loop_run(f->loop, &e)); /* stopped by the handler too */
        assert_int_equal(f->why.code, E_TIMEOUT);
        q.timeout_ms *= 2;
    }
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

int
main(void)
{
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
