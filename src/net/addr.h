/* addr.h - "host:port" texts and listening sockets. Layer: net. Thread: any. */
#ifndef NET_ADDR_H
#define NET_ADDR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

enum { HOST_BYTES = 256, ADDR_TEXT_BYTES = HOST_BYTES + 8 };

struct addr {
    char host[HOST_BYTES]; /* name, IPv4, or IPv6 without brackets */
    uint16_t port;         /* 0: the kernel picks one */
};

/* "127.0.0.1:15012", "[::1]:15012", "istiod.istio-system.svc:15012". Errors: PARSE. */
MUST_USE int addr_parse(const char *text, struct addr *ret, struct err *e);
/* Binds and listens (non-blocking, close-on-exec, SO_REUSEADDR; SO_REUSEPORT when asked). IP
 * addresses only. *ret_port is the port in use. Owner of the descriptor: caller. Errors: SYS (names
 * the address and, for "in use", says so), INVAL. */
MUST_USE int addr_listen(const struct addr *a, bool reuse_port, int *ret_fd, uint16_t *ret_port,
                         struct err *e);
/* Starts a non-blocking connect; the descriptor becomes writable when it is done or has failed. IP
 * addresses only. Owner: caller. Errors: SYS, INVAL. */
MUST_USE int addr_connect(const struct addr *a, int *ret_fd, struct err *e);
/* A listening Unix socket at `path` with `mode`; an old socket file is replaced. Errors: SYS, INVAL
 * (too long). */
MUST_USE int unix_listen(const char *path, unsigned mode, int *ret_fd, struct err *e);
/* Connects (non-blocking) to the Unix socket at `path`. Owner: caller. Errors: SYS (also: nobody
 * listens, its queue is full), INVAL (too long). */
MUST_USE int unix_connect(const char *path, int *ret_fd, struct err *e);
/* The process that connected over a Unix socket, as the kernel saw it then (SO_PEERCRED; ids of our
 * own user namespace). Errors: INVAL (not a Unix socket), SYS. */
struct unix_peer {
    int64_t pid; /* for people: it may be another process by now */
    uint32_t uid, gid;
};
MUST_USE int unix_peer_of(int fd, struct unix_peer *ret, struct err *e);
bool addr_is_ip(const char *host);
/* "127.0.0.1:40312" of the other end; "unix" for a Unix socket, "?" when it is gone. */
void addr_of_peer(int fd, char ret[ADDR_TEXT_BYTES]);

#endif
