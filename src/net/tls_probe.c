#include "net/tls_probe.h"

#include <openssl/ssl.h>

#include "net/loop.h"
#include "net/tls_openssl.h"
#include "net/tls_stream.h"

struct probe {
    struct loop *loop;
    struct stream *stream;
    struct tls_seen *seen;
    struct err *e;
    int r;
};

void
tls_seen_done(struct tls_seen *s)
{
    cert_unref(STEAL(s->leaf));
    s->names_n = 0;
}

static int
names_read(const SSL *ssl, struct tls_seen *ret, struct err *e)
{
    const STACK_OF(X509_NAME) *names = SSL_get0_peer_CA_list(ssl);

    for (int i = 0; i < sk_X509_NAME_num(names) && ret->names_n < TLS_SEEN_NAMES; i++) {
        unsigned char *der = NULL;
        int n = i2d_X509_NAME(sk_X509_NAME_value(names, i), &der);

        if (n <= 0)
            return err_set(e, E_PEER, "tls: the server names a client CA that is no Name");
        digest(span_of(der, (size_t)n), ret->names[ret->names_n++]);
        OPENSSL_free(der);
    }
    return 0;
}

static void
on_open(void *arg)
{
    struct probe *p = arg;
    const struct tls_peer *peer = stream_peer(p->stream);

    p->r = names_read(stream_ssl(p->stream), p->seen, p->e);
    p->seen->leaf = cert_ref(peer->leaf); /* a client's peer is always verified */
    memcpy(p->seen->root_id, peer->root_id, DIGEST_BYTES);
    loop_stop(p->loop);
}

static void
on_io(bool readable, bool writable, void *arg)
{
    const struct probe *p = arg;

    (void)readable;
    (void)writable;
    stream_want(p->stream, false, false); /* it has been seen */
}

static void
on_fail(const struct err *why, void *arg)
{
    struct probe *p = arg;

    *p->e = *why;
    p->r = err_result(why);
    loop_stop(p->loop);
}

static int
probe_run(struct probe *p, const struct tls_probe_conf *conf, struct err *e)
{
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;
    struct tls_conf_args a = { .roots = conf->roots, .rule = TLS_PEER_NAME, .alpn = conf->alpn };
    struct stream_conf s = { .verify_name = conf->name,
                             .open_ms = conf->timeout_ms == 0 ? TLS_PROBE_MS : conf->timeout_ms,
                             .on_open = on_open,
                             .on_io = on_io,
                             .on_fail = on_fail,
                             .arg = p };

    TRY(tls_conf_new(&a, &tls, e));
    TRY(addr_connect(&conf->to, &s.fd, e));
    s.tls = tls;
    TRY(stream_new(p->loop, &s, &p->stream, e));
    int r = loop_run(p->loop, e);
    stream_free(p->stream);
    return r < 0 ? r : p->r;
}

int
tls_probe(const struct tls_probe_conf *conf, struct tls_seen *ret, struct err *e)
{
    CLEANUP(loop_freep) struct loop *l = NULL;
    CLEANUP(tls_seen_done) struct tls_seen seen = { .leaf = NULL };
    struct probe p = { .seen = &seen, .e = e };

    if (conf->roots == NULL)
        return err_set(e, E_INVAL, "tls: no roots to verify %s with", conf->to.host);
    TRY(loop_new(&l, e));
    p.loop = l;
    if (probe_run(&p, conf, e) < 0)
        return err_wrap(e, "%s:%u", conf->to.host, conf->to.port);
    *ret = seen;
    seen.leaf = NULL;
    return 0;
}
