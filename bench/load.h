/* load.h - callers of a CA under test: a fixed number of calls under way on a fixed number of
 * connections, or one new connection for each call. A connection is one agent, with its token. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "net/grpc.h"
#include "scene.h"

enum { LOAD_CONNECTIONS_MAX = 64, LOAD_CALLS_MAX = 256 };

enum load_connect {
    LOAD_KEEP,   /* connections stay */
    LOAD_FRESH,  /* a new one for each call, by a client that remembers nothing */
    LOAD_RESUME, /* a new one for each call, by a client that resumes when it may */
};

struct load_conf {
    const struct scene *scene;
    uint16_t port;
    size_t connections, calls; /* calls under way on each */
    enum load_connect connect;
    bool no_token; /* for a server that does not ask who calls */
};

struct load;
MUST_USE int load_new(const struct load_conf *conf, struct load **ret, struct err *e);
/* Makes `n` calls and waits for the last answer. Errors: PEER (a call failed: why). */
MUST_USE int load_run(struct load *l, size_t n, struct err *e);
void load_free(struct load *l); /* NULL is fine */

#endif
