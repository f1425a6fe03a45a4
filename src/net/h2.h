/* h2.h - private to net/: one HTTP/2 connection as bytes in, bytes out; no sockets. Layer: net.
 *
 * On nghttp2, which only h2.c sees. Bounded: streams, header bytes and fields, bytes that wait in
 * each stream, and what a peer may do that costs us and moves nothing (resets, pings, settings,
 * priorities, empty frames): past the budget the connection ends with ENHANCE_YOUR_CALM.
 * Source: RFC 9113; specs/peers.md 5c (42); CVE-2023-44487, CVE-2019-9512..9518, CVE-2025-8671.
 */
#ifndef NET_H2_H
#define NET_H2_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

enum {
    H2_FIELDS_MAX = 64,                  /* header fields of one stream, trailers included */
    H2_OUT_MAX_BYTES = 1024 * 1024 + 64, /* of one stream that wait to be sent */
    H2_RESETS_BURST = 1000,              /* streams that ended in a reset ... */
    H2_RESETS_PER_S = 33,
    H2_IDLE_FRAMES_BURST = 10000, /* frames that move nothing ... */
    H2_IDLE_FRAMES_PER_S = 1000,
    H2_IDLE_FRAMES_PAID = 8, /* by each header block: clients say PING and WINDOW_UPDATE about it */
    H2_POOL_MAX = 256,       /* streams kept for reuse */
};

struct h2;
struct h2_stream;
/* What connections of one loop share: finished streams, kept for their memory, and a buffer that
 * goes to whoever sends, so that idle connections hold none. */
struct h2_pool;

struct h2_nv {
    struct span name, value; /* name in lower case */
};

struct h2_ops {
    /* A header block is complete (request, response, or trailers); look it up with h2_field. A
     * server gets a stream first here. `end`: nothing follows. */
    void (*on_headers)(struct h2_stream *st, bool end, void *self);
    void (*on_data)(struct h2_stream *st, struct span s, void *self);
    void (*on_end)(struct h2_stream *st, void *self); /* the peer finished it */
    /* The stream is gone; 0 when both sides had finished. Its fields may be read for the last time.
     */
    void (*on_close)(struct h2_stream *st, uint32_t code, void *self);
    void (*on_goaway)(void *self);   /* no new stream will be accepted; NULL: ignored */
    void (*on_settings)(void *self); /* h2_room may have changed; NULL: ignored */
};

struct h2_conf {
    bool is_server;
    uint32_t max_streams;    /* that the peer may have open */
    size_t max_header_bytes; /* beyond: h2_fields_too_big */
    bool sends_secrets;      /* server: bodies are wiped from memory when they are out */
    const struct h2_ops *ops;
    void *self;
    struct h2_pool *pool; /* borrowed */
};

MUST_USE int h2_pool_new(struct h2_pool **ret, struct err *e);
void h2_pool_free(struct h2_pool *p); /* after its connections; NULL is fine */

MUST_USE int h2_new(const struct h2_conf *conf, struct h2 **ret, struct err *e);
void h2_free(struct h2 *h); /* streams go without on_close; NULL is fine */

/* Takes what the peer sent; calls back. Errors: PEER (not HTTP/2; the connection is to be closed
 * after what h2_output has), NOMEM. */
MUST_USE int h2_input(struct h2 *h, struct span s, struct err *e);
/* Appends what is to be sent to `b`, until it holds `enough` or nothing is left. Errors: PEER,
 * NOMEM, LIMIT. */
MUST_USE int h2_output(struct h2 *h, struct buf *b, size_t enough, struct err *e);
/* Server: what h2_output appended last is about the connection only (SETTINGS, its ACK, windows),
 * and all calls under way have been read: what follows is an answer. */
bool h2_answer_is_due(const struct h2 *h);
/* An empty buffer of at most `max` bytes for what h2_output appends. Given back, its memory is kept
 * for the next one; the caller has wiped what must not stay. */
struct buf h2_pool_take_buf(struct h2_pool *p, size_t max);
void h2_pool_give_buf(struct h2_pool *p, struct buf *b);

/* Nothing more to send or receive: close. */
bool h2_is_done(const struct h2 *h);
/* The peer used up its budget; the connection is ending. */
bool h2_is_flooded(const struct h2 *h);
/* The error that our GOAWAY named; 0: none was sent, or it named none. */
uint32_t h2_error_said(const struct h2 *h);
/* Whole frames (a header block is one) that came, and bytes of bodies that went: a peer that only
 * drips, or never opens its window, moves neither. */
uint64_t h2_frames_in(const struct h2 *h);
uint64_t h2_body_out(const struct h2 *h);
bool h2_body_waits(const struct h2 *h); /* for the peer's window, or for us to write */

/* Client: a new stream; `end`: no body follows. Errors: LIMIT (the peer allows no more streams, or
 * numbers are used up), NOMEM. */
MUST_USE int h2_request(struct h2 *h, const struct h2_nv *nv, size_t n, bool end, void *user,
                        struct h2_stream **ret, struct err *e);
/* How many streams more the peer allows now. */
size_t h2_room(const struct h2 *h);
/* Server: the response's header block. `end`: no body and no trailers follow. */
MUST_USE int h2_respond(struct h2_stream *st, const struct h2_nv *nv, size_t n, bool end,
                        struct err *e);
/* Adds to the body. Errors: LIMIT (H2_OUT_MAX_BYTES wait), NOMEM. */
MUST_USE int h2_send(struct h2_stream *st, struct span a, struct span b, struct err *e);
/* Ends the body, with trailers when n > 0 (server). */
MUST_USE int h2_finish(struct h2_stream *st, const struct h2_nv *nv, size_t n, struct err *e);
enum { H2_NO_ERROR = 0, H2_INTERNAL = 2, H2_REFUSED = 7, H2_CANCEL = 8, H2_CALM = 11 };
void h2_reset(struct h2_stream *st, uint32_t code); /* on_close follows, not before h2_output */
void h2_ping(struct h2 *h);
void h2_goaway(struct h2 *h); /* takes no new streams; those under way go on */
/* Server: asks for no new streams, but takes those that are on their way; h2_goaway follows.
 * Source: RFC 9113 6.8. */
void h2_goaway_soon(struct h2 *h);

void *h2_user(const struct h2_stream *st);
void h2_set_user(struct h2_stream *st, void *user);
/* The i-th value of a field; empty with p == NULL when there are not that many. Borrowed. */
struct span h2_field(const struct h2_stream *st, const char *name, size_t i);
/* What came is not needed any more: its memory is wiped and freed. */
void h2_forget_fields(struct h2_stream *st);
bool h2_fields_too_big(const struct h2_stream *st);

#endif
