/* server.h - a CA under test in a child process: the whole one, as `meshroot ca serve` runs it, or
 * the bare one: TLS, gRPC, our DER, the key in the process; no authentication, no ledger. */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include <sys/types.h>

#include "scene.h"

enum server_kind { SERVER_FULL, SERVER_BARE };

struct server {
    pid_t pid, signer; /* signer 0: none */
    uint16_t port;
};

MUST_USE int server_start(const struct scene *s, enum server_kind kind, size_t workers,
                          struct server *ret, struct err *e);
void server_stop(struct server *s); /* twice is harmless */
/* CPU time of server and signer process so far, all threads; microseconds. */
double server_cpu_us(const struct server *s);

#endif
