/* agent_proxy.c - the L4 proxies: whom they let in, whom they talk to, and with what. */
#include <string.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "obs/log.h"

static int
check_peer(const struct tls_peer *peer, void *self, struct err *e)
{
    const struct agent_proxy *p = self;
    const struct agent_conf *c = &p->agent->conf;
    struct span td;

    if (spiffe_uri_check(peer->uri, &td, e) < 0)
        return err_set(e, E_DENIED, "the peer's certificate has no SPIFFE id");
    if (tls_peer_is_revoked(peer, p->agent->now->crls))
        return err_set(e, E_DENIED, "the certificate of peer %.*s, or its intermediate, is revoked",
                       peer->uri.n > 256 ? 256 : (int)peer->uri.n, (const char *)peer->uri.p);
    if (!p->is_inbound && allow_rule_matches(p->rule, peer->uri))
        return 0;
    for (size_t i = 0; p->is_inbound && i < c->allow_n; i++)
        if (allow_rule_matches(c->allow[i], peer->uri))
            return 0;
    return err_set(e, E_DENIED, "peer %.*s is not allowed: %s",
                   peer->uri.n > 256 ? 256 : (int)peer->uri.n, (const char *)peer->uri.p,
                   p->is_inbound ? "no rule of --allow" : p->rule);
}

static void
on_result(const struct err *why, const char *client_addr, void *self)
{
    const struct agent_proxy *p = self;

    count_handshake(p->agent, p->is_inbound, why);
    if (why == NULL)
        return;
    log_with(
        why->code == E_DENIED ? LOG_INFO : LOG_DEBUG, "proxy",
        LABELS({ "client", client_addr }, { "direction", p->is_inbound ? "inbound" : "outbound" }),
        "connection refused: %s", why->msg);
}

static int
open_one(struct agent *a, bool is_inbound, const char *text, struct err *e)
{
    struct agent_proxy *p = &a->proxies[a->proxies_n];
    struct proxy_conf conf = {
        .is_inbound = is_inbound, .check_peer = check_peer, .on_result = on_result, .self = p
    };
    struct addr listen;

    *p = (struct agent_proxy){ .agent = a, .is_inbound = is_inbound };
    if (is_inbound)
        TRY(plan_inbound_parse(text, &listen, &conf.to, e));
    else
        TRY(plan_outbound_parse(text, &listen, &conf.to, &p->rule, e));
    TRY(addr_listen(&listen, false, &conf.listen_fd, &p->port, e));
    TRY(proxy_new(a->loop, &conf, &p->proxy, e));
    a->proxies_n++;
    return 0;
}

int
proxies_open(struct agent *a, struct err *e)
{
    if (a->conf.inbound != NULL)
        TRY(open_one(a, true, a->conf.inbound, e));
    if (a->conf.outbound_n > AGENT_OUTBOUND_MAX || a->conf.allow_n > AGENT_ALLOW_MAX)
        return err_set(e, E_LIMIT, "more than %d rules", (int)AGENT_OUTBOUND_MAX);
    for (size_t i = 0; i < a->conf.outbound_n; i++)
        TRY(open_one(a, false, a->conf.outbound[i], e));
    return 0;
}

int
proxies_use(struct agent *a, const struct creds *c, struct tls_conf *ret[2], struct err *e)
{
    (void)a;
    for (int i = 0; i < 2; i++) {
        const struct tls_conf_args args = { .is_server = i == 0,
                                            .key = c->key,
                                            .leaf = c->leaf,
                                            .chain = c->chain,
                                            .chain_n = c->chain_n,
                                            .roots = c->roots,
                                            .rule = TLS_PEER_SPIFFE };
        TRY(tls_conf_new(&args, &ret[i], e));
    }
    return 0;
}

void
proxies_set(struct agent *a, struct tls_conf *const conf[2])
{
    for (size_t i = 0; i < a->proxies_n; i++)
        proxy_set_tls(a->proxies[i].proxy, conf[a->proxies[i].is_inbound ? 0 : 1]);
}

void
proxies_recheck(struct agent *a)
{
    for (size_t i = 0; i < a->proxies_n; i++) {
        size_t n = proxy_recheck(a->proxies[i].proxy);

        count_cut(a, a->proxies[i].is_inbound, n);
        if (n > 0)
            log_info("proxy", "%zu open %s connections are ended: their peers are revoked", n,
                     a->proxies[i].is_inbound ? "inbound" : "outbound");
    }
}

void
proxies_close(struct agent *a)
{
    for (size_t i = 0; i < a->proxies_n; i++)
        proxy_free(STEAL(a->proxies[i].proxy));
    a->proxies_n = 0;
}
