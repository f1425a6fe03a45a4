/* grpc_server.h - private to net/ and its tests: a server's connections and calls; grpc_call.c
 * holds the calls, grpc_server.c the connections and the listener. */
#ifndef NET_GRPC_SERVER_H
#define NET_GRPC_SERVER_H

#include "net/addr.h"
#include "net/grpc.h"
#include "net/grpc_frame.h"
#include "net/h2_conn.h"

struct event;
struct server_conn;

struct grpc_call {
    struct grpc_call *next, *prev; /* of its connection; of the pool (next only) */
    struct server_conn *conn;
    struct h2_stream *st;
    const struct grpc_method *method;
    struct grpc_reader reader;
    uint64_t deadline_ms;  /* mono; 0: none */
    uint64_t answer_by_ms; /* of a stream, once its request is there */
    loop_fn *on_gone;
    void *gone_arg;
    struct buf trailers; /* name NUL value NUL, in the order given */
    bool is_our_limit;   /* deadline_ms is ours (GRPC_MAX_CALL_MS), not the caller's */
    bool is_handed;      /* on_request has been called */
    bool has_headers;    /* sent */
};

/* How a connection is ended: RFC 9113 6.8. */
enum retire {
    RETIRE_NOT,
    RETIRE_ASKED, /* a GOAWAY that still takes what is on its way; streams are ended */
    RETIRE_LAST   /* the last GOAWAY: no new calls */
};

struct server_conn {
    struct server_conn *next, *prev;
    struct grpc_server *s;
    struct h2_conn *io;
    struct grpc_call *calls;
    struct timer *tick;
    uint64_t tick_at_ms, last_call_ms;
    enum retire retire;
    uint64_t retire_at_ms; /* mono: the next step; UINT64_MAX: none */
    bool is_opening;       /* counted by opening_n */
    char addr[ADDR_TEXT_BYTES];
    uint32_t uid; /* when max_per_uid is set */
};

struct grpc_server {
    struct grpc_server_conf conf;
    struct loop *loop;
    struct event *accept_ev;
    struct timer *accept_retry, *grace, *trim;
    struct h2_pool *streams;
    struct grpc_call *free_calls;
    size_t free_calls_n;
    struct server_conn *conns;
    size_t conns_n, opening_n;
    size_t untrimmed_n; /* connections made since memory was given back */
    bool is_draining, is_freed;
    loop_fn *drained;
    void *drained_arg;
};

/* Serves one connected, non-blocking socket as if it had been accepted. Takes the descriptor, also
 * on failure. Errors: NOMEM, LIMIT (max_per_uid), SYS, INVAL. */
MUST_USE int grpc_server_adopt(struct grpc_server *s, int take_fd, struct err *e);
/* The connection's timer rings at `at_ms` at the latest. */
void server_conn_tick_by(struct server_conn *c, uint64_t at_ms, uint64_t now_ms);

extern const struct h2_ops server_call_ops; /* `self` is the server_conn */
/* Ends it for a reason that is not the handler's: tells both sides. */
void server_call_fail(struct grpc_call *call, int code, const char *msg);
/* A stream that is to be opened again, at once, on another connection. */
void server_call_move(struct grpc_call *call);
void server_call_gone(struct grpc_call *call); /* tells the handler, if one holds it; lets go */
void server_call_free(struct grpc_call *call); /* one that is kept for reuse */

#endif
