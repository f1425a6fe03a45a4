/* tls_proxy.h - an L4 proxy: accepts, dials, and pipes, with mTLS on one side. Layer: net.
 *
 * Half-closes are passed on, back-pressure is by two fixed buffers for each connection. Each new
 * connection uses the settings of now; open ones are untouched by a change. Thread: its loop.
 */
#ifndef NET_TLS_PROXY_H
#define NET_TLS_PROXY_H

#include <stdbool.h>

#include "net/addr.h"
#include "net/loop.h"
#include "net/tls.h"

struct proxy;

enum {
    PROXY_BUFFER_BYTES = 16 * 1024, /* each way */
    PROXY_MAX_CONNECTIONS = 4096,   /* beyond it accept pauses */
    PROXY_OPEN_MS = 10 * 1000,      /* for each side: connect and handshake */
    PROXY_IDLE_MS = 60 * 60 * 1000, /* nothing moved either way */
};

struct proxy_conf {
    int listen_fd;    /* taken, also on failure */
    bool is_inbound;  /* TLS on the accepted side; otherwise on the dialled side */
    struct addr to;   /* a name is resolved for each connection */
    size_t max_n;     /* 0: PROXY_MAX_CONNECTIONS */
    uint64_t idle_ms; /* 0: PROXY_IDLE_MS */
    /* The verified peer of the TLS side. Errors: DENIED closes the connection. */
    int (*check_peer)(const struct tls_peer *peer, void *self, struct err *e);
    /* Once for each accepted connection: piping (`why` NULL), or why not. */
    void (*on_result)(const struct err *why, const char *client_addr, void *self);
    void *self;
};

/* Accepts nothing before the first proxy_set_tls; until then connections wait in the kernel. */
MUST_USE int proxy_new(struct loop *l, const struct proxy_conf *conf, struct proxy **ret,
                       struct err *e);
void proxy_set_tls(struct proxy *p, struct tls_conf *tls); /* a reference is taken */
/* Asks check_peer again for each open connection, and ends those that it refuses now; how many.
 * The clear side sees a break, not an end. */
size_t proxy_recheck(struct proxy *p);
size_t proxy_connections(const struct proxy *p);
void proxy_free(struct proxy *p); /* closes everything; NULL is fine */

#endif
