/* tls_bio.h - private to net/tls*.c: the socket as OpenSSL sees it. Layer: net.
 *
 * OpenSSL's own socket BIO asks the kernel once more after everything has been read, and lets each
 * of its writes out as a packet. This one remembers that the socket is empty, and may leave a write
 * with the kernel until the next one (MSG_MORE).
 */
#ifndef NET_TLS_BIO_H
#define NET_TLS_BIO_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/err.h"

struct tls_bio {
    int fd;            /* borrowed */
    bool speaks_first; /* client: a write follows the handshake at once */
    bool holds;        /* what is written may wait for what follows */
    bool is_drained; /* the last read took all there was: nothing to read until the loop says so */
    bool has_ended;  /* the socket has said so */
    const SSL *ssl;  /* whose it is */
};

/* `ssl` reads and writes through `b`, which lives as long as it. Errors: NOMEM. */
MUST_USE int tls_bio_set(SSL *ssl, struct tls_bio *b, struct err *e);

#endif
