/* tls_stream.h - private to net/: a non-blocking byte stream, TLS or clear, on a loop. Layer: net.
 *
 * Connecting and the TLS handshake happen by themselves, within one time limit; then the owner is
 * told when it may read and write. A callback may call stream_free. Thread: its loop.
 */
#ifndef NET_TLS_STREAM_H
#define NET_TLS_STREAM_H

#include <stdbool.h>

#include "base/span.h"
#include "net/loop.h"
#include "net/tls.h"

struct stream;

struct stream_conf {
    int fd;                  /* connected or connecting, non-blocking; taken, also on failure */
    struct tls_conf *tls;    /* a reference is taken; NULL: clear text */
    const char *verify_name; /* TLS_PEER_NAME; borrowed for the call */
    uint64_t open_ms;        /* connect and handshake together; 0: no limit */
    bool is_accepted;        /* with `tls`: the peer has connected to us, and speaks first */
    bool speaks_first;       /* on_open, or the turn of it, always writes something */
    /* Connected, and the peer is verified; never before stream_new returns. Reading is on. */
    void (*on_open)(void *arg);
    /* As asked by stream_want; level-triggered for what the kernel holds. */
    void (*on_io)(bool readable, bool writable, void *arg);
    /* Could not be opened; once, and the last call. */
    void (*on_fail)(const struct err *why, void *arg);
    void *arg;
};

MUST_USE int stream_new(struct loop *l, const struct stream_conf *conf, struct stream **ret,
                        struct err *e);
/* Says close_notify when that needs no waiting, and closes. NULL is fine; no callback comes. */
void stream_free(struct stream *s);

enum { STREAM_AGAIN = 1, STREAM_END = 2 };
/* Some bytes into `p`. r: 0 *ret_n > 0; STREAM_AGAIN none now; STREAM_END the peer has finished
 * sending (with close_notify when TLS). Errors: PEER (also: cut off without close_notify), SYS. */
MUST_USE int stream_read(struct stream *s, uint8_t *p, size_t cap, size_t *ret_n, struct err *e);
/* Some of `b`. r: 0 *ret_n > 0; STREAM_AGAIN. The same bytes must be offered again. */
MUST_USE int stream_write(struct stream *s, struct span b, size_t *ret_n, struct err *e);
/* Whether what is written from now on may wait for what follows it: the kernel sends it with the
 * next write that may not, and after 200 ms at the latest. For what says nothing by itself. */
void stream_hold(struct stream *s, bool on);
/* Finishes sending: close_notify, shutdown(2) when clear. r: 0; STREAM_AGAIN call again. */
MUST_USE int stream_finish(struct stream *s, struct err *e);

/* All that came out of the kernel so far has been read: asking once more would say STREAM_AGAIN, if
 * nothing has come since, which on_io would say. */
bool stream_is_drained(const struct stream *s);

/* Bytes are here that on_io has not been called for; in on_open: it will be, this turn. */
bool stream_has_more(const struct stream *s);
void stream_want(struct stream *s, bool readable, bool writable);
/* The owner stopped reading early (its budget is used up): on_io comes again. */
void stream_again(struct stream *s);

/* The verified peer; NULL when it showed no certificate. Borrowed. */
const struct tls_peer *stream_peer(const struct stream *s);
int stream_fd(const struct stream *s);

#endif
