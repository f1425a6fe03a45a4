/* tls.h - TLS 1.2 and 1.3 settings for servers and clients. Layer: net.
 *
 * A tls_conf is immutable and reference-counted: a reload makes a new one, new connections use it,
 * open ones keep theirs. Resumption never skips authentication: only sessions in which the peer
 * showed no certificate are resumed (its caller is known by the token of each call), by tickets
 * whose keys are the conf's own, so that new roots, a new CRL or a new certificate end them all.
 * There is no cache by session id. Thread: any. Source: specs/istio-ca.md 2.2, peers.md 5b (23,
 * 24).
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include "base/span.h"
#include "pki/crl.h"

struct tls_conf;

enum tls_peer_rule {
    TLS_PEER_NONE,     /* server: do not ask for a client certificate */
    TLS_PEER_OPTIONAL, /* server: ask; one that is given must verify */
    TLS_PEER_SPIFFE, /* server or client: the peer must show a chain to `roots`; its name is checked
                        by the caller from tls_peer (mTLS between workloads) */
    TLS_PEER_NAME,   /* client: chain to `roots` and the DNS name or IP address the caller dials */
};

struct tls_conf_args {
    bool is_server;
    struct key *key; /* references are taken; NULL: no certificate of our own (client) */
    struct cert *leaf;
    struct cert *const *chain; /* intermediates */
    size_t chain_n;
    struct roots *roots; /* NULL with TLS_PEER_NONE; NULL with TLS_PEER_NAME: the system's roots */
    enum tls_peer_rule rule;
    const char *alpn; /* "h2", "http/1.1" or NULL; when given, a peer without it is refused */
    /* Server: gives out tickets (TLS_TICKET_LIFE_S) and takes them; none to a client of TLS 1.3
     * that does not say that it resumes with a fresh exchange. Client without a certificate: keeps
     * the newest session per server name and offers it while the server's leaf is valid. */
    bool resumes;
};

enum { TLS_TICKET_LIFE_S = 3600, TLS_TICKETS = 1 /* per handshake */ };

MUST_USE int tls_conf_new(const struct tls_conf_args *a, struct tls_conf **ret, struct err *e);
struct tls_conf *tls_conf_ref(struct tls_conf *c);
void tls_conf_unref(struct tls_conf *c); /* NULL is fine */
DEFINE_CLEANUP(struct tls_conf, tls_conf_unref)

/* The verified peer of one connection; all zero when it showed no certificate (or, at a client,
 * when the session of a verified one was resumed). */
struct tls_peer {
    struct cert *leaf;             /* a reference: tls_peer_done */
    struct span uri;               /* its one URI SAN, borrowed from leaf; empty when none */
    uint8_t root_id[DIGEST_BYTES]; /* the root its chain ended in */
    struct cert_mark *above;       /* of the intermediates between the two; owned */
    size_t above_n;
};
void tls_peer_done(struct tls_peer *p);
/* The leaf, or an intermediate of its chain, is revoked. */
bool tls_peer_is_revoked(const struct tls_peer *p, const struct crls *lists);

#endif
