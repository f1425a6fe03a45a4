/* tls_probe.h - one handshake with a server, to see what it serves. Layer: net. */
#ifndef NET_TLS_PROBE_H
#define NET_TLS_PROBE_H

#include "net/addr.h"
#include "pki/pki.h"

enum { TLS_SEEN_NAMES = 64, TLS_PROBE_MS = 5 * 1000 };

struct tls_probe_conf {
    struct addr to;      /* an IP address */
    const char *name;    /* DNS name that its certificate must have */
    struct roots *roots; /* that its chain must end in */
    const char *alpn;    /* as of tls_conf_args */
    uint64_t timeout_ms; /* connect and handshake together; 0: TLS_PROBE_MS */
};

struct tls_seen {
    struct cert *leaf;             /* verified; a reference: tls_seen_done */
    uint8_t root_id[DIGEST_BYTES]; /* the root that its chain ends in */
    /* SHA-256 of each Name that the server says it would take client certificates of; none when it
     * does not ask for any, or does not say. The first TLS_SEEN_NAMES. Source: RFC 8446 4.2.4,
     * RFC 5246 7.4.4. */
    uint8_t names[TLS_SEEN_NAMES][DIGEST_BYTES];
    size_t names_n;
};
void tls_seen_done(struct tls_seen *s); /* twice is harmless */

/* Connects, looks, closes. Errors: SYS, PEER, TIMEOUT (nobody there), DENIED, CRYPTO (not the chain
 * or the name), NOMEM. For commands: blocks on a loop of its own. */
MUST_USE int tls_probe(const struct tls_probe_conf *conf, struct tls_seen *ret, struct err *e);

#endif
