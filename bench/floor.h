/* floor.h - what one leaf cannot cost less than: its CSR's public key made from its bytes, the
 * CSR's signature verified, the TBSCertificate signed; all in memory, contexts prepared. For a
 * connection to each leaf, OpenSSL's own handshake too (handshake.h).
 *
 * It runs in slices on a thread of its own, beside the load and in the same seconds, so that it
 * meets the same machine; only its own CPU time counts.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include "pki/pki.h"

struct floor_run;

enum floor_connect { FLOOR_KEEP, FLOOR_NEW, FLOOR_RESUMED };

MUST_USE int floor_start(struct key *ca, struct key *leaf, enum floor_connect connect,
                         struct floor_run **ret, struct err *e);
/* Microseconds for each since the last call; waits for the first slice. 0: the crypto failed. */
double floor_take(struct floor_run *f);
void floor_stop(struct floor_run *f); /* NULL is fine */

double clock_us(int id); /* of clock_gettime */

#endif
