/* tls_openssl.h - private to net/tls*.c and the HTTP server: OpenSSL behind a tls_conf. */
#ifndef NET_TLS_OPENSSL_H
#define NET_TLS_OPENSSL_H

#include <openssl/ssl.h>

#include "net/tls.h"

/* A connection object with everything set: verification at the time of now, ALPN, and for
 * TLS_PEER_NAME the name (DNS or IP; NULL is refused there) with SNI. Role as in the conf. Owner:
 * caller, SSL_free. It holds what it needs of `c`. Errors: CRYPTO, NOMEM, INVAL. */
MUST_USE int tls_ssl_new(struct tls_conf *c, const char *verify_name, SSL **ret, struct err *e);

/* After the handshake, once: checks ALPN, key usages and the number of URI SANs, and fills *ret
 * (all zero when the peer showed no certificate). A server's `ssl` then has no more of the peer's
 * than the leaf, which *ret shares. Errors: DENIED, PEER. */
MUST_USE int tls_peer_of(const struct tls_conf *c, SSL *ssl, struct tls_peer *ret, struct err *e);

/* The connection object of an open TLS stream (tls_stream.h), borrowed, to be looked at only; NULL:
 * clear text. */
struct stream;
SSL *stream_ssl(const struct stream *s);

/* Why the last call on `ssl` failed, in words: verification result first. Returns -code. */
int tls_error(const SSL *ssl, const char *what, struct err *e);

#endif
