/* What a probe sees of a server that runs on another thread. */
#include "mint.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"
#include "net/tls_probe.h"

#define NAME "istiod.istio-system.svc"

enum { PATIENCE_MS = 60 * 1000 };

struct world {
    struct loop *l;
    struct mint_ca root, other, mid;
    struct key *key;
    struct cert *leaf;
    struct grpc_server *server;
    struct addr at;
    pthread_t thread;
};

static void *
serve(void *arg)
{
    struct world *w = arg;
    struct err e;

    assert_ok(loop_run(w->l, &e));
    return NULL;
}

static void
on_stop(void *arg)
{
    loop_stop(arg);
}

/* A server with the roots that it takes client certificates of; NULL: it does not ask. */
static void
start(struct world *w, struct roots *client_roots)
{
    struct cert *chain[] = { w->mid.cert };
    const struct tls_conf_args a = { .is_server = true,
                                     .key = w->key,
                                     .leaf = w->leaf,
                                     .chain = chain,
                                     .chain_n = 1,
                                     .roots = client_roots,
                                     .rule =
                                         client_roots == NULL ? TLS_PEER_NONE : TLS_PEER_OPTIONAL,
                                     .alpn = "h2" };
    struct grpc_server_conf sc = { .tls = NULL };
    struct err e;

    w->at = (struct addr){ "127.0.0.1", 0 };
    assert_ok(loop_new(&w->l, &e));
    assert_ok(tls_conf_new(&a, &sc.tls, &e));
    assert_ok(addr_listen(&w->at, false, &sc.listen_fd, &w->at.port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    tls_conf_unref(sc.tls);
    assert_int_equal(pthread_create(&w->thread, NULL, serve, w), 0);
}

static void
stop(struct world *w)
{
    struct err e;

    assert_ok(loop_post(w->l, on_stop, w->l, &e));
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    grpc_server_free(w->server);
    loop_free(w->l);
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    assert_ok(key_make(KEY_P256, &w->key, &e));
    mint_ca(&w->root, "CN=Root A", NULL);
    mint_ca(&w->other, "CN=Root B", NULL);
    mint_ca(&w->mid, "CN=Intermediate A1", &w->root);
    w->leaf = mint_leaf(&w->mid, w->key, NAME, 3600);
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    mint_ca_done(&w->mid);
    cert_unref(w->leaf);
    key_unref(w->key);
    free(w);
    return 0;
}

static void
it_sees_the_leaf_and_its_root(void **state)
{
    struct world *w = *state;
    struct tls_seen seen;
    struct roots *both;
    struct err e;

    start(w, NULL);
    assert_ok(roots_union(w->root.roots, w->other.roots, &both, &e));
    const struct tls_probe_conf conf = { w->at, NAME, both, "h2", PATIENCE_MS };
    assert_ok(tls_probe(&conf, &seen, &e));
    assert_memory_equal(cert_id(seen.leaf), cert_id(w->leaf), DIGEST_BYTES);
    assert_memory_equal(seen.root_id, cert_id(w->root.cert), DIGEST_BYTES);
    assert_int_equal(seen.names_n, 0);
    tls_seen_done(&seen);
    tls_seen_done(&seen);
    roots_unref(both);
    stop(w);
}

static void
what_is_refused(void **state)
{
    struct world *w = *state;
    const struct {
        const char *name;
        struct roots *roots;
        const char *alpn;
        enum err_code code;
        const char *part;
    } rows[] = {
        { "istiod.other.svc", w->root.roots, "h2", E_DENIED, "ostname mismatch" },
        { NAME, w->other.roots, "h2", E_DENIED, "127.0.0.1:" },
        { NAME, w->root.roots, "http/1.1", E_PEER, "no application protocol" },
        { NAME, NULL, "h2", E_INVAL, "no roots" },
    };
    struct tls_seen seen = { .leaf = NULL };
    struct err e;

    start(w, NULL);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct tls_probe_conf conf = { w->at, rows[i].name, rows[i].roots, rows[i].alpn,
                                             PATIENCE_MS };

        assert_err(tls_probe(&conf, &seen, &e), rows[i].code, rows[i].part);
        assert_null(seen.leaf);
    }
    stop(w);
}

static void
nobody_and_somebody_who_says_nothing(void **state)
{
    struct world *w = *state;
    struct tls_seen seen = { .leaf = NULL };
    struct addr at = { "127.0.0.1", 0 };
    struct err e;
    int fd;

    assert_ok(addr_listen(&at, false, &fd, &at.port, &e));
    const struct tls_probe_conf silent = { at, NAME, w->root.roots, "h2", 50 };
    assert_err(tls_probe(&silent, &seen, &e), E_TIMEOUT, "no handshake within 50 ms");
    (void)close(fd);
    const struct tls_probe_conf gone = { at, NAME, w->root.roots, "h2", PATIENCE_MS };
    assert_err(tls_probe(&gone, &seen, &e), E_SYS, "127.0.0.1:");
    assert_null(seen.leaf);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_sees_the_leaf_and_its_root),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(nobody_and_somebody_who_says_nothing),
    };

    (void)signal(SIGPIPE, SIG_IGN); /* a probe is gone before the server has said all */
    return cmocka_run_group_tests(tests, setup, teardown);
}
