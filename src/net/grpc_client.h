/* grpc_client.h - private to net/: a client's calls and connections; grpc_client_call.c holds the
 * calls, grpc_client.c the connections and time. */
#ifndef NET_GRPC_CLIENT_H
#define NET_GRPC_CLIENT_H

#include "net/addr.h"
#include "net/grpc.h"
#include "net/grpc_frame.h"
#include "net/h2_conn.h"
#include "net/resolve.h"

struct client_conn;

/* Where a call is. */
enum at { AT_WAITING, AT_SENT, AT_ENDED };

struct grpc_request {
    struct grpc_request *next, *prev; /* in the list that `at` names */
    enum at at;
    struct grpc_client *client;
    struct client_conn *conn; /* AT_SENT */
    struct h2_stream *st;     /* AT_SENT, and inside on_done when an answer came */
    struct grpc_answer answer;
    struct buf head; /* "name\0value\0"...: path first, then the caller's headers */
    size_t head_n;   /* pairs */
    struct buf body; /* prefix and message, until it is sent */
    struct grpc_reader reader;
    uint64_t deadline_ms; /* mono; 0: none */
    uint64_t timeout_ms;
    int code; /* AT_ENDED; or, before, -1: not known yet */
    char text[ERR_MSG_BYTES];
};

struct request_list {
    struct grpc_request *head, *tail;
    size_t n;
};

struct client_conn {
    struct client_conn *next; /* of the old ones */
    struct grpc_client *client;
    struct h2_conn *io;
    struct addr at;
    struct request_list sent;
    bool is_closing;     /* takes no new calls */
    bool is_ended_by_us; /* and the server would have taken more */
};

struct grpc_client {
    struct loop *loop;
    struct addr targets[GRPC_TARGETS_MAX];
    size_t targets_n, target, tried_n; /* the one to dial; how many failed before it */
    struct addr left;                  /* where a connection was ended last: tried last */
    struct addr kept;                  /* where we ended one: tried first */
    char *verify_name;                 /* NULL: the target's host */
    struct tls_conf *tls;
    uint64_t connect_ms, keepalive_ms;
    struct h2_pool *streams;
    struct client_conn *conn; /* in use or being made; NULL: dial at the next call */
    struct client_conn *old;  /* with calls under way */
    struct resolve *resolving;
    struct addr found[RESOLVE_MAX]; /* addresses to try, found_at next */
    size_t found_n, found_at;
    struct request_list waiting, ended;
    struct timer *tick;
    uint64_t tick_at_ms, dial_by_ms;
    bool sweep_is_due, is_freed;
};

/* What the server that is dialled is called: to be verified, and as :authority. Borrowed. */
const char *client_server_name(const struct grpc_client *c);
extern const struct h2_ops client_call_ops; /* `self` is the client_conn */
/* Off its list, the last word said, gone. */
void client_request_done(struct grpc_request *q, int code, const char *text);
/* The same, but at the end of the turn: for callers that must not be called back. */
void client_request_end(struct grpc_request *q, int code, const char *text);
void client_fail_waiting(struct grpc_client *c, const char *text); /* all of them: UNAVAILABLE */
void client_send_waiting(struct grpc_client *c); /* as many as the connection takes */

/* At the end of this turn: calls that end, connections that are finished, dialling. */
void client_sweep_soon(struct grpc_client *c);
/* The client's timer rings at `at_ms` at the latest. */
void client_tick_by(struct grpc_client *c, uint64_t at_ms, uint64_t now_ms);

#endif
