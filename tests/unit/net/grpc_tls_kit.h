/* grpc_tls_kit.h - a gRPC server over TLS, clients that trust it, and a loop that runs until
 * something is so. */
#ifndef TESTS_UNIT_NET_GRPC_TLS_KIT_H
#define TESTS_UNIT_NET_GRPC_TLS_KIT_H

#include "mint.h"
#include "until.h"

#include <unistd.h>

#include "net/addr.h"
#include "net/grpc.h"

struct world {
    struct loop *l;
    struct mint_ca root;
    struct key *key;
    struct cert *leaf;
    struct grpc_server *server;
    uint16_t port;
    size_t calls_n; /* that the server has got */
    int code;       /* of the last answer; -1: none yet */
    /* what the loop runs for */
    bool (*until)(struct world *w);
};

static inline bool
is_so(void *arg)
{
    struct world *w = arg;

    return w->until(w);
}

static inline void
run_until(struct world *w, bool (*until)(struct world *w))
{
    w->until = until;
    assert_true(loop_until(w->l, is_so, w));
}

static inline struct world *
world_open(void)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    w->code = -1;
    mint_ca(&w->root, "CN=Root", NULL);
    assert_ok(key_make(KEY_P256, &w->key, &e));
    w->leaf = mint_leaf(&w->root, w->key, "ca.local", 7200);
    assert_ok(loop_new(&w->l, &e));
    return w;
}

static inline void
world_close(struct world *w)
{
    grpc_server_free(w->server);
    loop_free(w->l);
    cert_unref(w->leaf);
    key_unref(w->key);
    mint_ca_done(&w->root);
    free(w);
}

/* The settings of either end, which resume as a CA's do; owner: caller. */
static inline struct tls_conf *
tls(const struct world *w, bool is_server)
{
    const struct tls_conf_args a = { .is_server = is_server,
                                     .key = is_server ? w->key : NULL,
                                     .leaf = is_server ? w->leaf : NULL,
                                     .roots = w->root.roots,
                                     .rule = is_server ? TLS_PEER_OPTIONAL : TLS_PEER_NAME,
                                     .alpn = "h2",
                                     .resumes = true };
    struct tls_conf *c;
    struct err e;

    assert_ok(tls_conf_new(&a, &c, &e));
    return c;
}

static inline void
echo(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    struct err e;

    w->calls_n++;
    assert_ok(grpc_send(c, msg, &e));
    grpc_finish(c, GRPC_OK, NULL);
}

/* Opens the world's server with `sc`, whose listener is made here and whose tls is taken. */
static inline void
serve(struct world *w, struct grpc_server_conf sc)
{
    struct err e;

    sc.self = w;
    assert_ok(addr_listen(&(struct addr){ "127.0.0.1", 0 }, false, &sc.listen_fd, &w->port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    tls_conf_unref(sc.tls);
}

static inline void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    (void)msg;
    (void)q;
    w->code = code;
}

static inline void
on_message(struct span msg, void *arg)
{
    (void)msg;
    (void)arg;
}

static inline bool
is_answered(struct world *w)
{
    return w->code >= 0;
}

/* A new client, which has called /t.T/Echo; `code` says how that ended. Owner: caller. */
static inline struct grpc_client *
ask_once(struct world *w, uint64_t timeout_ms)
{
    const struct grpc_answer answer = { on_message, on_done, w };
    const struct grpc_client_conf cc = {
        .host = "127.0.0.1", .port = w->port, .verify_name = "ca.local", .tls = tls(w, false)
    };
    struct grpc_client *client;
    struct err e;

    w->code = -1;
    assert_ok(grpc_client_new(w->l, &cc, &client, &e));
    tls_conf_unref(cc.tls);
    assert_ok(
        grpc_client_call(client, "/t.T/Echo", NULL, span_str("x"), timeout_ms, &answer, NULL, &e));
    run_until(w, is_answered);
    return client;
}

#endif
