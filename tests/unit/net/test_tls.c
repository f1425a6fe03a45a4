/* gRPC over TLS, the peer rules, and the proxy, with certificates made here. */
#include "mint.h"
#include "mint_list.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"
#include "net/tls_proxy.h"
#include "net/tls_stream.h"

enum { WAIT_MS = 60000 };

#define ID_A "spiffe://cluster.local/ns/shop/sa/a"
#define ID_B "spiffe://cluster.local/ns/shop/sa/b"

struct world {
    struct loop *l;
    struct timer *limit;
    struct mint_ca root, other, mid;
    struct key *key;
    bool timed_out;
    int code;
    char text[256], seen_uri[256];
    uint8_t seen_root[DIGEST_BYTES];
    const struct crls *lists;
    bool seen_revoked;
};

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
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_limit, w, &w->limit, &e));
    assert_ok(key_make(KEY_P256, &w->key, &e));
    mint_ca(&w->root, "CN=Root A", NULL);
    mint_ca(&w->other, "CN=Root B", NULL);
    mint_ca(&w->mid, "CN=Intermediate A1", &w->root);
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    timer_free(w->limit);
    loop_free(w->l);
    key_unref(w->key);
    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    mint_ca_done(&w->mid);
    free(w);
    clock_shift_for_test(0);
    return 0;
}

static void
run(struct world *w)
{
    struct err e;

    timer_set(w->limit, WAIT_MS);
    assert_ok(loop_run(w->l, &e));
    assert_false(w->timed_out);
    timer_stop(w->limit);
}

static struct tls_conf *
conf(struct world *w, bool is_server, struct cert *leaf, struct roots *roots,
     enum tls_peer_rule rule, const char *alpn)
{
    struct cert *chain[] = { w->mid.cert };
    const struct tls_conf_args a = { .is_server = is_server,
                                     .key = leaf == NULL ? NULL : w->key,
                                     .leaf = leaf,
                                     .chain = chain,
                                     .chain_n = 1,
                                     .roots = roots,
                                     .rule = rule,
                                     .alpn = alpn };
    struct tls_conf *c;
    struct err e;

    assert_ok(tls_conf_new(&a, &c, &e));
    return c;
}

static void
who(struct grpc_call *c, struct span msg, void *self)
{
    const struct tls_peer *p = grpc_peer(c);
    struct world *w = self;

    (void)msg;
    w->seen_uri[0] = '\0';
    if (p != NULL) {
        (void)snprintf(w->seen_uri, sizeof(w->seen_uri), "%.*s", SPAN_ARG(p->uri));
        memcpy(w->seen_root, p->root_id, DIGEST_BYTES);
        w->seen_revoked = tls_peer_is_revoked(p, w->lists);
    }
    grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = { { .path = "/t.T/Who", .on_request = who } };

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    (void)q;
    w->code = code;
    (void)snprintf(w->text, sizeof(w->text), "%s", msg);
    loop_stop(w->l);
}

/* One call from a client with `client` to a server with `server`; both references are taken. */
static void
call(struct world *w, struct tls_conf *server, struct tls_conf *client, const char *host,
     const char *verify_name)
{
    struct grpc_server_conf sc = { .tls = server, .methods = methods, .methods_n = 1, .self = w };
    struct grpc_client_conf cc = { .host = host, .tls = client, .verify_name = verify_name };
    const struct grpc_answer answer = { .on_done = on_done, .arg = w };
    struct grpc_server *s;
    struct grpc_client *c;
    struct err e;

    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &cc.port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &s, &e));
    assert_ok(grpc_client_new(w->l, &cc, &c, &e));
    tls_conf_unref(server);
    tls_conf_unref(client);
    assert_ok(grpc_client_call(c, "/t.T/Who", NULL, span_str(""), WAIT_MS, &answer, NULL, &e));
    run(w);
    grpc_client_free(c);
    grpc_server_free(s);
}

/* A server forgets the chain; who stands in it is known all the same. */
static void
a_revoked_intermediate_is_seen_in_the_peer_s_chain(void **state)
{
    struct world *w = *state;
    struct cert *leaf = mint_leaf(&w->mid, w->key, ID_A, 3600);
    struct cert *other = mint_leaf(&w->mid, w->key, ID_B, 3600);
    struct cert *server = mint_leaf(&w->mid, w->key, "localhost", 3600);
    const struct {
        const struct mint_ca *by;
        const struct cert *revoked;
        bool is;
    } rows[] = { { &w->root, w->mid.cert, true },
                 { &w->root, other, false },
                 { &w->mid, leaf, true },
                 { &w->mid, other, false },
                 { &w->other, w->mid.cert, false } };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct crls *lists = mint_lists(rows[i].by->cert, rows[i].by->key, 1, rows[i].revoked);

        w->lists = lists;
        call(w, conf(w, true, server, w->root.roots, TLS_PEER_OPTIONAL, "h2"),
             conf(w, false, leaf, w->root.roots, TLS_PEER_NAME, "h2"), "127.0.0.1", "localhost");
        assert_int_equal(w->code, GRPC_OK);
        assert_string_equal(w->seen_uri, ID_A);
        assert_int_equal(w->seen_revoked, rows[i].is);
        crls_unref(lists);
    }
    w->lists = NULL;
    cert_unref(leaf);
    cert_unref(other);
    cert_unref(server);
}

static void
mutual_tls_names_the_peer_and_its_root(void **state)
{
    struct world *w = *state;
    struct cert *ca_leaf = mint_leaf(&w->mid, w->key, "istiod.istio-system.svc", 3600);
    struct cert *leaf = mint_leaf(&w->mid, w->key, ID_A, 3600);

    call(w, conf(w, true, ca_leaf, w->root.roots, TLS_PEER_OPTIONAL, "h2"),
         conf(w, false, leaf, w->root.roots, TLS_PEER_NAME, "h2"), "localhost",
         "istiod.istio-system.svc");
    assert_string_equal(w->text, "");
    assert_int_equal(w->code, GRPC_OK);
    assert_string_equal(w->seen_uri, ID_A);
    assert_memory_equal(w->seen_root, cert_id(w->root.cert), DIGEST_BYTES);
    cert_unref(leaf);
    cert_unref(ca_leaf);
}

static void
client_without_certificate_is_nobody(void **state)
{
    struct world *w = *state;
    struct cert *ca_leaf = mint_leaf(&w->mid, w->key, "127.0.0.1", 3600);

    call(w, conf(w, true, ca_leaf, w->root.roots, TLS_PEER_OPTIONAL, "h2"),
         conf(w, false, NULL, w->root.roots, TLS_PEER_NAME, "h2"), "127.0.0.1", NULL);
    assert_int_equal(w->code, GRPC_OK);
    assert_string_equal(w->seen_uri, "");
    cert_unref(ca_leaf);
}

static void
servers_that_are_refused(void **state)
{
    static const struct {
        const char *san, *verify, *alpn, *part;
        bool other_root;
        int64_t life_s, shift_s;
    } rows[] = {
        { "ca.local", "cb.local", "h2", "ostname mismatch", false, 3600, 0 },
        { "127.0.0.2", "127.0.0.1", "h2", "IP address mismatch", false, 3600, 0 },
        /* specs/peers.md 5b 27: a wildcard is one whole label */
        { "*.local", "a.b.local", "h2", "ostname mismatch", false, 3600, 0 },
        { "c*.local", "ca.local", "h2", "ostname mismatch", false, 3600, 0 },
        { "*", "ca.local", "h2", "ostname mismatch", false, 3600, 0 },
        { "ca.local", "ca.local", "http/1.1", "no application protocol", false, 3600, 0 },
        { "ca.local", "ca.local", "h2", "certificate", true, 3600, 0 },
        { "ca.local", "ca.local", "h2", "expired", false, 100, 200 },
        { "ca.local", "ca.local", "h2", "not yet valid", false, 3600, -86400 * 2 },
    };
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct cert *ca_leaf = mint_leaf(&w->mid, w->key, rows[i].san, rows[i].life_s);

        clock_shift_for_test(rows[i].shift_s);
        call(w, conf(w, true, ca_leaf, NULL, TLS_PEER_NONE, rows[i].alpn),
             conf(w, false, NULL, rows[i].other_root ? w->other.roots : w->root.roots,
                  TLS_PEER_NAME, "h2"),
             "127.0.0.1", rows[i].verify);
        clock_shift_for_test(0);
        assert_int_equal(w->code, GRPC_UNAVAILABLE);
        if (strstr(w->text, rows[i].part) == NULL)
            fail_msg("row %zu: \"%s\" does not say \"%s\"", i, w->text, rows[i].part);
        cert_unref(ca_leaf);
    }
}

static void
client_certificate_of_another_root_is_refused(void **state)
{
    struct world *w = *state;
    struct cert *ca_leaf = mint_leaf(&w->mid, w->key, "127.0.0.1", 3600);
    struct cert *leaf = mint_leaf(&w->other, w->key, ID_A, 3600);

    call(w, conf(w, true, ca_leaf, w->root.roots, TLS_PEER_OPTIONAL, "h2"),
         conf(w, false, leaf, w->root.roots, TLS_PEER_NAME, "h2"), "127.0.0.1", NULL);
    assert_int_equal(w->code, GRPC_UNAVAILABLE);
    cert_unref(leaf);
    cert_unref(ca_leaf);
}

static void
wrong_settings_are_refused(void **state)
{
    struct world *w = *state;
    struct cert *leaf = mint_leaf(&w->mid, w->key, ID_A, 3600);
    const struct {
        struct tls_conf_args a;
        const char *part;
    } rows[] = {
        { { .is_server = true }, "a key and its certificate" },
        { { .is_server = true, .key = w->mid.key, .leaf = leaf }, "does not belong" },
        { { .is_server = true, .key = w->key, .leaf = leaf, .rule = TLS_PEER_SPIFFE }, "no roots" },
        { { .is_server = true, .key = w->key, .leaf = leaf, .rule = TLS_PEER_NAME }, "other side" },
        { { .rule = TLS_PEER_NONE }, "must verify" },
    };
    struct tls_conf *c;
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_true(tls_conf_new(&rows[i].a, &c, &e) < 0);
        if (strstr(e.msg, rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, e.msg);
    }
    cert_unref(leaf);
}

static void
on_never(void *arg)
{
    (void)arg;
    fail_msg("opened");
}

static void
on_never_io(bool readable, bool writable, void *arg)
{
    (void)readable;
    (void)writable;
    on_never(arg);
}

static void
on_stream_fail(const struct err *why, void *arg)
{
    struct world *w = arg;

    (void)snprintf(w->text, sizeof(w->text), "%.200s", why->msg);
    w->code = (int)why->code;
    loop_stop(w->l);
}

static void
a_handshake_has_a_time_limit(void **state)
{
    struct world *w = *state;
    struct cert *leaf = mint_leaf(&w->mid, w->key, ID_A, 3600);
    struct tls_conf *tls = conf(w, true, leaf, NULL, TLS_PEER_NONE, NULL);
    struct stream *s;
    struct err e;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    const struct stream_conf sc = { .fd = fds[0],
                                    .tls = tls,
                                    .open_ms = 30,
                                    .on_open = on_never,
                                    .on_io = on_never_io,
                                    .on_fail = on_stream_fail,
                                    .arg = w };
    assert_ok(stream_new(w->l, &sc, &s, &e));
    run(w);
    assert_int_equal(w->code, E_TIMEOUT);
    assert_string_equal(w->text, "tls: no handshake within 30 ms");
    stream_free(s);
    (void)close(fds[1]);
    tls_conf_unref(tls);
    cert_unref(leaf);
}

/* -- proxy --------------------------------------------------------------------------------------
 */

struct ends {
    struct world *w;
    const char *allow;
    char why[ERR_MSG_BYTES];
    int results;
    int plain_fd, got_fd;
    struct proxy *revokes; /* once its peer is found good, nobody is allowed any more */
    struct fd_watch *watch;
    char got[64];
    bool eof;
};

static void
recheck(void *proxy)
{
    (void)proxy_recheck(proxy);
}

static int
check(const struct tls_peer *peer, void *self, struct err *e)
{
    struct ends *x = self;

    if (!span_eq_str(peer->uri, x->allow))
        return err_set(e, E_DENIED, "%.*s is not allowed", SPAN_ARG(peer->uri));
    if (x->revokes != NULL) {
        x->allow = "nobody";
        loop_defer(x->w->l, recheck, STEAL(x->revokes));
    }
    return 0;
}

static void
on_result(const struct err *why, const char *addr, void *self)
{
    struct ends *x = self;

    assert_non_null(strstr(addr, "127.0.0.1:"));
    x->results++;
    (void)snprintf(x->why, sizeof(x->why), "%s", why == NULL ? "ok" : why->msg);
    loop_stop(x->w->l);
}

static void
on_got(void *arg)
{
    struct ends *x = arg;
    ssize_t n = read(x->got_fd, x->got + strlen(x->got), sizeof(x->got) - strlen(x->got) - 1);

    if (n <= 0) {
        x->eof = n == 0;
        fd_watch_free(STEAL(x->watch));
        loop_stop(x->w->l);
    } else if (strchr(x->got, '\n') != NULL)
        loop_stop(x->w->l);
}

struct chain {
    struct proxy *in, *out;
    struct ends in_ends, out_ends;
    int app_fd; /* listens: what is behind the inbound proxy */
    struct addr app, inbound, outbound;
};

/* client -> outbound proxy ==mTLS==> inbound proxy -> app */
static void
chain_open(struct world *w, struct chain *c, struct cert *out_leaf, struct cert *in_leaf,
           const char *in_allows, const char *out_allows)
{
    struct proxy_conf pc = { .check_peer = check, .on_result = on_result };
    struct tls_conf *t;
    struct err e;

    *c = (struct chain){ .app = { "127.0.0.1", 0 } };
    c->inbound = c->outbound = c->app;
    c->in_ends = (struct ends){ .w = w, .allow = in_allows };
    c->out_ends = (struct ends){ .w = w, .allow = out_allows };
    assert_ok(addr_listen(&c->app, false, &c->app_fd, &c->app.port, &e));
    assert_ok(addr_listen(&c->inbound, false, &pc.listen_fd, &c->inbound.port, &e));
    pc.is_inbound = true;
    pc.to = c->app;
    pc.self = &c->in_ends;
    assert_ok(proxy_new(w->l, &pc, &c->in, &e));
    assert_ok(addr_listen(&c->outbound, false, &pc.listen_fd, &c->outbound.port, &e));
    pc.is_inbound = false;
    pc.to = c->inbound;
    pc.self = &c->out_ends;
    assert_ok(proxy_new(w->l, &pc, &c->out, &e));
    t = conf(w, true, in_leaf, w->root.roots, TLS_PEER_SPIFFE, NULL);
    proxy_set_tls(c->in, t);
    tls_conf_unref(t);
    t = conf(w, false, out_leaf, w->root.roots, TLS_PEER_SPIFFE, NULL);
    proxy_set_tls(c->out, t);
    tls_conf_unref(t);
}

static void
chain_close(struct chain *c)
{
    proxy_free(c->in);
    proxy_free(c->out);
    (void)close(c->app_fd);
}

static void
piped_both_ways_with_half_close(void **state)
{
    struct world *w = *state;
    struct cert *a = mint_leaf(&w->mid, w->key, ID_A, 3600);
    struct cert *b = mint_leaf(&w->mid, w->key, ID_B, 3600);
    struct ends app = { .w = w }, client = { .w = w };
    struct chain c;
    struct err e;

    chain_open(w, &c, a, b, ID_A, ID_B);
    assert_ok(addr_connect(&c.outbound, &client.got_fd, &e));
    while (c.in_ends.results + c.out_ends.results < 2)
        run(w);
    assert_string_equal(c.in_ends.why, "ok");
    assert_string_equal(c.out_ends.why, "ok");
    assert_int_equal(proxy_connections(c.in), 1);
    app.got_fd = accept4(c.app_fd, NULL, NULL, SOCK_NONBLOCK);
    assert_true(app.got_fd >= 0);
    /* new settings leave the open connection alone */
    struct tls_conf *t = conf(w, true, b, w->other.roots, TLS_PEER_SPIFFE, NULL);
    proxy_set_tls(c.in, t);
    tls_conf_unref(t);
    assert_int_equal(write(client.got_fd, "question\n", 9), 9);
    assert_int_equal(shutdown(client.got_fd, SHUT_WR), 0);
    assert_ok(fd_watch_new(w->l, app.got_fd, on_got, &app, &app.watch, &e));
    while (!app.eof)
        run(w);
    assert_string_equal(app.got, "question\n");
    assert_int_equal(write(app.got_fd, "answer\n", 7), 7); /* the other half is open */
    (void)close(app.got_fd);
    assert_ok(fd_watch_new(w->l, client.got_fd, on_got, &client, &client.watch, &e));
    while (!client.eof)
        run(w);
    assert_string_equal(client.got, "answer\n");
    assert_int_equal(proxy_connections(c.out), 0);
    (void)close(client.got_fd);
    chain_close(&c);
    cert_unref(a);
    cert_unref(b);
}

static void
peers_that_are_not_allowed(void **state)
{
    static const struct {
        const char *in_allows, *out_allows, *in_why, *out_why;
    } rows[] = {
        { ID_B, ID_B, ID_A " is not allowed", NULL },
        { ID_A, ID_A, NULL, ID_B " is not allowed" },
    };
    struct world *w = *state;
    struct cert *a = mint_leaf(&w->mid, w->key, ID_A, 3600);
    struct cert *b = mint_leaf(&w->mid, w->key, ID_B, 3600);

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct chain c;
        struct err e;
        int fd;

        chain_open(w, &c, a, b, rows[i].in_allows, rows[i].out_allows);
        assert_ok(addr_connect(&c.outbound, &fd, &e));
        while (rows[i].in_why != NULL ? c.in_ends.results == 0 : c.out_ends.results == 0)
            run(w);
        if (rows[i].in_why != NULL)
            assert_string_equal(c.in_ends.why, rows[i].in_why);
        else
            assert_string_equal(c.out_ends.why, rows[i].out_why);
        (void)close(fd);
        chain_close(&c);
    }
    cert_unref(a);
    cert_unref(b);
}

/* The list comes between the look at the peer and the first byte to the app. */
static void
a_peer_that_is_revoked_while_the_app_is_dialled_is_refused(void **state)
{
    struct world *w = *state;
    struct cert *a = mint_leaf(&w->mid, w->key, ID_A, 3600);
    struct cert *b = mint_leaf(&w->mid, w->key, ID_B, 3600);
    struct chain c;
    struct err e;
    int fd;

    chain_open(w, &c, a, b, ID_A, ID_B);
    c.in_ends.revokes = c.in;
    assert_ok(addr_connect(&c.outbound, &fd, &e));
    while (c.in_ends.results == 0)
        run(w);
    assert_string_equal(c.in_ends.why, ID_A " is not allowed");
    assert_int_equal(proxy_connections(c.in), 0);
    (void)close(fd);
    chain_close(&c);
    cert_unref(a);
    cert_unref(b);
}

static void
plain_text_to_the_mtls_side_is_refused(void **state)
{
    struct world *w = *state;
    struct cert *b = mint_leaf(&w->mid, w->key, ID_B, 3600);
    struct chain c;
    struct err e;
    int fd;

    chain_open(w, &c, b, b, ID_A, ID_B);
    assert_ok(addr_connect(&c.inbound, &fd, &e));
    assert_int_equal(write(fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
    while (c.in_ends.results == 0)
        run(w);
    assert_non_null(strstr(c.in_ends.why, "tls: handshake"));
    assert_int_equal(proxy_connections(c.in), 0);
    (void)close(fd);
    chain_close(&c);
    cert_unref(b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_revoked_intermediate_is_seen_in_the_peer_s_chain),
        T(mutual_tls_names_the_peer_and_its_root),
        T(client_without_certificate_is_nobody),
        T(servers_that_are_refused),
        T(client_certificate_of_another_root_is_refused),
        T(wrong_settings_are_refused),
        T(a_handshake_has_a_time_limit),
        T(piped_both_ways_with_half_close),
        T(peers_that_are_not_allowed),
        T(a_peer_that_is_revoked_while_the_app_is_dialled_is_refused),
        T(plain_text_to_the_mtls_side_is_refused),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
