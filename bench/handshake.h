/* handshake.h - what a connection cannot cost less than on this OpenSSL: the server's side of one
 * TLS 1.3 handshake as the CA asks for it (X25519, AES-128-GCM, its certificate and one
 * intermediate, a client certificate asked for, one ticket), then one record each way; no socket,
 * no HTTP/2. Straight on OpenSSL: it shares no code with what it is held against. */
#ifndef BENCH_HANDSHAKE_H
#define BENCH_HANDSHAKE_H

#include "pki/pki.h"

struct handshake;

/* `resumed`: each by the ticket of the one before. Owner: caller, handshake_free. Errors: CRYPTO.
 */
MUST_USE int handshake_new(struct key *ca_key, bool resumed, struct handshake **ret, struct err *e);
/* From SSL_new to SSL_free, both sides. Returns the CPU time of the client's side, in microseconds
 * of this thread; negative when it did not work. */
double handshake_run(struct handshake *h);
void handshake_free(struct handshake *h); /* NULL is fine */

#endif
