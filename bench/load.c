/* load.c - see load.h. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>

static const char method[] = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

struct lane { /* one call slot of one connection */
    struct load *load;
    struct grpc_client *client;
    const struct scene_caller *caller;
};

struct load {
    struct load_conf conf;
    struct loop *loop;
    struct tls_conf *tls;
    struct grpc_client *clients[LOAD_CONNECTIONS_MAX];
    struct lane lanes[LOAD_CALLS_MAX];
    size_t lanes_n, left, under_way;
    char failure[256];
};

static void lane_call(struct lane *lane);

static int
tls_make(const struct load *l, struct tls_conf **ret, struct err *e)
{
    const struct tls_conf_args a = { .roots = l->conf.scene->roots,
                                     .rule = TLS_PEER_NAME,
                                     .alpn = "h2",
                                     .resumes = l->conf.connect == LOAD_RESUME };

    return tls_conf_new(&a, ret, e);
}

static int
client_make(const struct load *l, struct grpc_client **ret, struct err *e)
{
    struct grpc_client_conf c = {
        .host = "127.0.0.1", .port = l->conf.port, .verify_name = "localhost", .tls = l->tls
    };
    CLEANUP(tls_conf_unrefp) struct tls_conf *fresh = NULL;

    if (l->conf.connect == LOAD_FRESH) {
        TRY(tls_make(l, &fresh, e));
        c.tls = fresh;
    }
    return grpc_client_new(l->loop, &c, ret, e);
}

int
load_new(const struct load_conf *conf, struct load **ret, struct err *e)
{
    struct load *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    l->conf = *conf;
    l->lanes_n = conf->connections * conf->calls;
    int r = conf->connections > LOAD_CONNECTIONS_MAX || l->lanes_n > LOAD_CALLS_MAX
                ? err_set(e, E_INVAL, "too many calls")
                : loop_new(&l->loop, e);
    if (r == 0)
        r = tls_make(l, &l->tls, e);
    for (size_t i = 0; r == 0 && conf->connect == LOAD_KEEP && i < conf->connections; i++)
        r = client_make(l, &l->clients[i], e);
    for (size_t i = 0; i < l->lanes_n && r == 0; i++)
        l->lanes[i] = (struct lane){ l, l->clients[i % conf->connections],
                                     &conf->scene->callers[i % conf->connections] };
    if (r < 0)
        load_free(l);
    else
        *ret = l;
    return r;
}

static void
on_message(struct span msg, void *arg)
{
    (void)msg;
    (void)arg;
}

static void
fail(struct load *l, const char *what, const char *why)
{
    if (l->failure[0] == '\0')
        (void)snprintf(l->failure, sizeof(l->failure), "%s: %.200s", what, why == NULL ? "" : why);
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct lane *lane = arg;
    struct load *l = lane->load;

    (void)q;
    l->under_way--;
    if (code != GRPC_OK)
        fail(l, grpc_code_name(code), msg);
    if (l->conf.connect != LOAD_KEEP)
        grpc_client_free(STEAL(lane->client));
    if (l->left > 0 && l->failure[0] == '\0')
        lane_call(lane);
    if (l->under_way == 0)
        loop_stop(l->loop);
}

static void
lane_call(struct lane *lane)
{
    struct load *l = lane->load;
    const struct grpc_header_kv with_token[] = {
        { "authorization", buf_text(&lane->caller->token) }, { NULL, NULL }
    };
    const struct grpc_header_kv *headers = l->conf.no_token ? NULL : with_token;
    const struct grpc_answer answer = { on_message, on_done, lane };
    struct err e;

    l->left--;
    if ((lane->client == NULL && client_make(l, &lane->client, &e) < 0) ||
        grpc_client_call(lane->client, method, headers, buf_span(&lane->caller->request), 10000,
                         &answer, NULL, &e) < 0)
        fail(l, "call", e.msg);
    else
        l->under_way++;
}

int
load_run(struct load *l, size_t n, struct err *e)
{
    l->left = n;
    for (size_t i = 0; i < l->lanes_n && l->left > 0; i++)
        lane_call(&l->lanes[i]);
    if (l->under_way > 0)
        TRY(loop_run(l->loop, e));
    if (l->failure[0] != '\0')
        return err_set(e, E_PEER, "a call failed: %s", l->failure);
    return 0;
}

void
load_free(struct load *l)
{
    if (l == NULL)
        return;
    for (size_t i = 0; i < l->conf.connections; i++)
        grpc_client_free(l->clients[i]);
    for (size_t i = 0; l->conf.connect != LOAD_KEEP && i < l->lanes_n; i++)
        grpc_client_free(l->lanes[i].client);
    tls_conf_unref(l->tls);
    loop_free(l->loop);
    free(l);
}
