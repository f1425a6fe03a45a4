/* h2_conn.h - private to net/: an HTTP/2 connection on a stream: reads, feeds, and writes once per
 * turn. Layer: net. Thread: its loop.
 */
#ifndef NET_H2_CONN_H
#define NET_H2_CONN_H

#include "net/h2.h"
#include "net/loop.h"
#include "net/tls.h"

struct h2_conn;

enum {
    H2_OUTPUT_BYTES = 64 * 1024, /* gathered for one write */
    H2_STALL_MS = 30 * 1000,     /* a peer that does not read, or opens no window, is cut off */
    H2_FRAME_MS = 10 * 1000,     /* and one that takes longer for one frame, or for its first */
    H2_PING_WAIT_MS = 10 * 1000, /* for any sign of life after our PING */
};

/* Why a connection ended. */
enum h2_end {
    H2_END_PEER,     /* it went away, or both had finished */
    H2_END_OPENING,  /* no connection, or no handshake in time, or a wrong one */
    H2_END_PROTOCOL, /* not HTTP/2 */
    H2_END_FLOOD,    /* a budget of h2.h is used up */
    H2_END_DRIP,     /* H2_FRAME_MS */
    H2_END_STALL,    /* H2_STALL_MS */
    H2_END_PING,     /* H2_PING_WAIT_MS */
    H2_END__N
};
const char *h2_end_name(enum h2_end end); /* "flood": for metrics */

struct h2_conn_conf {
    int fd;                  /* taken, also on failure */
    struct tls_conf *tls;    /* a reference is taken; NULL: clear text */
    const char *verify_name; /* client; borrowed for the call */
    uint64_t open_ms;
    struct h2_conf h2;           /* its ops and self are the owner's */
    void (*on_open)(void *self); /* connected and verified; self is h2.self */
    /* Broken, closed by the peer, or done; once, and the last call: then h2_conn_free. Streams
     * under way get no on_close any more. */
    void (*on_closed)(const struct err *why, void *self);
};

MUST_USE int h2_conn_new(struct loop *l, const struct h2_conn_conf *conf, struct h2_conn **ret,
                         struct err *e);
/* Closes now. May be called from on_open, on_closed and timers, not from h2_ops (defer it there).
 * NULL is fine. */
void h2_conn_free(struct h2_conn *c);

struct h2 *h2_conn_h2(struct h2_conn *c); /* after any change to it: h2_conn_flush */
/* Sends what there is at the end of this turn. */
void h2_conn_flush(struct h2_conn *c);
const struct tls_peer *h2_conn_peer(const struct h2_conn *c);
int h2_conn_fd(const struct h2_conn *c);
bool h2_conn_is_open(const struct h2_conn *c);
enum h2_end h2_conn_end(const struct h2_conn *c); /* from on_closed on */

/* To be called from the owner's timer: cuts off a peer that drips, does not read, or (when
 * `ping_ms` is not 0) gives no sign of life for ping_ms + H2_PING_WAIT_MS; sends the PING. Returns
 * in how many ms to call again. on_closed may come before it returns. */
uint64_t h2_conn_check(struct h2_conn *c, uint64_t now_ms, uint64_t ping_ms);
uint64_t h2_conn_last_read_ms(const struct h2_conn *c);

#endif
