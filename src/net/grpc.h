/* grpc.h - gRPC server and client: nghttp2, the five-byte prefix, deadlines, trailers. Layer: net.
 *
 * One server or client belongs to one loop. Handlers complete asynchronously: they may answer in
 * the callback or any time later on the loop. Messages are bytes; the room that owns a service
 * packs and unpacks them. Source: specs/protos.md 0, specs/istio-ca.md 1.8; gRPC over HTTP/2
 * protocol.
 */
#ifndef NET_GRPC_H
#define NET_GRPC_H

#include "base/err.h"
#include "base/span.h"
#include "net/addr.h"
#include "net/loop.h"
#include "net/tls.h"
#include "obs/metrics.h"

enum grpc_code {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};
const char *grpc_code_name(int code); /* "UNAUTHENTICATED" */

/* Default limits; each has a test that reaches it. */
enum {
    GRPC_MAX_MESSAGE_BYTES = 64 * 1024,
    GRPC_MAX_HEADER_BYTES = 32 * 1024,
    GRPC_MAX_STREAMS = 128,       /* under way per connection */
    GRPC_MAX_CONNECTIONS = 20000, /* per server object; beyond it accept pauses */
    GRPC_HANDSHAKE_MS = 10 * 1000,
    /* Connections that are being opened, per server object; beyond it accept pauses, and who comes
     * waits in the kernel's queue, where waiting costs nothing: of thousands that come at once the
     * first are served soon, rather than all too late. One that takes longer than
     * GRPC_OPENING_MS goes on but no longer counts, so that silent peers keep nobody out. */
    GRPC_MAX_OPENING = 32,
    GRPC_OPENING_MS = 250,
    GRPC_IDLE_MS = 30 * 60 * 1000, /* a connection without streams and pings */
    GRPC_MAX_CALL_MS = 10 * 1000,  /* unary: no call is left hanging */
    /* A connection is ended in two steps, so that no call is lost: it is asked for no new ones, and
     * so long after takes none. */
    GRPC_RETIRE_MS = 200,
    GRPC_RETIRE_GRACE_MS = 10 * 1000, /* then calls under way have so long; a drain says its own */
};

/* -- server -------------------------------------------------------------------------------------
 */

struct grpc_server;
struct grpc_call; /* one exchange; valid from on_request until grpc_finish or on_gone */

struct grpc_method {
    const char *path; /* "/istio.v1.auth.IstioCertificateService/CreateCertificate": compared byte
                         for byte */
    bool streams;     /* answers with a stream: no GRPC_MAX_CALL_MS */
    /* The one request message, complete; `msg` is borrowed for the call of this function. */
    void (*on_request)(struct grpc_call *c, struct span msg, void *self);
    /* In its place, for a method that takes a stream of requests (`streams` is set): each message
     * as it comes, and then, once, that no more will come; NULL: the call ends with OK there.
     * Either may answer, and may end the call. */
    void (*on_message)(struct grpc_call *c, struct span msg, void *self);
    void (*on_half_close)(struct grpc_call *c, void *self);
};

struct grpc_server_conf {
    int listen_fd;        /* from addr_listen; taken */
    struct tls_conf *tls; /* a reference is taken; NULL: clear text over a Unix socket */
    const struct grpc_method
        *methods; /* static; anything else is UNIMPLEMENTED before any handler */
    size_t methods_n;
    void *self;               /* given to the handlers */
    size_t max_message_bytes; /* 0: GRPC_MAX_MESSAGE_BYTES; beyond: RESOURCE_EXHAUSTED */
    size_t max_connections;   /* 0: GRPC_MAX_CONNECTIONS */
    size_t max_opening;       /* 0: GRPC_MAX_OPENING */
    size_t max_per_uid; /* Unix socket: connections of one uid, beyond it closed at once; 0: all */
    /* A connection older than this, one tenth more or less by chance, is ended as by a drain, so
     * that clients spread over replicas again; 0: never. */
    uint64_t max_age_ms;
    bool sends_secrets; /* keys: what is sent is wiped from our buffers as soon as it is out */
    /* Counts the connections that were cut, by why (meshroot_grpc_connections_cut_total, reasons of
     * net/h2_conn.h); `name` is the listener's there, static. NULL: not counted. */
    struct metrics *metrics;
    const char *name;
};

MUST_USE int grpc_server_new(struct loop *l, const struct grpc_server_conf *conf,
                             struct grpc_server **ret, struct err *e);
/* New connections use it from now on; open ones keep theirs. */
void grpc_server_set_tls(struct grpc_server *s, struct tls_conf *tls);
size_t grpc_server_connections(const struct grpc_server *s);
size_t grpc_server_opening(const struct grpc_server *s); /* of those: counted by max_opening */
/* Stops listening, after who has connected already is taken in, and sends GOAWAY. Lets unary calls
 * under way, or on their way, finish up to `grace_ms`. Ends streams with UNAVAILABLE at once and
 * grpc-retry-pushback-ms 0: come again, elsewhere (they have no end of their own; on_gone comes).
 * Closes; then calls done(arg). */
void grpc_server_drain(struct grpc_server *s, uint64_t grace_ms, loop_fn *done, void *arg);
/* Closes everything now; handlers under way get on_gone. NULL is fine. */
void grpc_server_free(struct grpc_server *s);

/* A request header or metadata value, lower-case name; the first of several; empty when absent.
 * Borrowed. Of a method with `streams` and on_request only until that returns. */
struct span grpc_header(const struct grpc_call *c, const char *name);
/* How many values that header has (some are honoured only when there is exactly one). */
size_t grpc_header_count(const struct grpc_call *c, const char *name);
/* The verified TLS peer; NULL when it showed no certificate. Borrowed. */
const struct tls_peer *grpc_peer(const struct grpc_call *c);
/* How many calls are under way on its connection, itself included; at most GRPC_MAX_STREAMS. */
size_t grpc_connection_calls(const struct grpc_call *c);
const char *grpc_peer_addr(const struct grpc_call *c); /* "127.0.0.1:40312" */
/* unix_peer_of its connection. */
MUST_USE int grpc_peer_unix(const struct grpc_call *c, struct unix_peer *ret, struct err *e);
/* Handler state hung on the call; on_gone(arg) is called if the client goes away or the deadline
 * passes before grpc_finish; after it `c` must not be used. */
void grpc_on_gone(struct grpc_call *c, loop_fn *fn, void *arg);
void *grpc_call_arg(const struct grpc_call *c); /* that was hung on it; NULL before */
/* Adds a trailer (before grpc_finish). */
MUST_USE int grpc_trailer(struct grpc_call *c, const char *name, const char *value, struct err *e);
/* Sends one message (copied). Streams may call it many times. Errors: LIMIT (the client does not
 * read: more than 1 MiB waits), NOMEM. */
MUST_USE int grpc_send(struct grpc_call *c, struct span msg, struct err *e);
/* Ends the call; `msg` is for people, percent-encoded here; NULL for none. `c` is gone afterwards.
 */
void grpc_finish(struct grpc_call *c, int code, const char *msg);

/* -- client -------------------------------------------------------------------------------------
 */

struct grpc_client;  /* one connection to one server, made when first needed and again after it
                        breaks */
struct grpc_request; /* one call under way */

enum { GRPC_TARGETS_MAX = 4 };

struct grpc_client_conf {
    /* Dialled and, with TLS_PEER_NAME, verified; copied. "/...": a Unix socket. Of several
     * addresses behind a name one is taken by chance, and the others when it cannot be reached, or
     * ends a connection: at once. */
    const char *host;
    uint16_t port;
    const struct addr *others; /* servers that do as well, in the same way; copied */
    size_t others_n;           /* < GRPC_TARGETS_MAX */
    const char *verify_name;   /* NULL: the host that is dialled */
    struct tls_conf *tls;      /* a reference is taken */
    uint64_t connect_ms;       /* 0: 5 s */
    uint64_t keepalive_ms;     /* HTTP/2 PING when idle with streams open; 0: 30 s */
};

struct grpc_header_kv {
    const char *name, *value; /* lower-case name; borrowed */
};

struct grpc_answer {
    void (*on_message)(struct span msg, void *arg);
    /* Always called once, last: code, and the server's message or our own error text. `trailer`
     * looks up a trailer of the answer. */
    void (*on_done)(int code, const char *msg, const struct grpc_request *q, void *arg);
    void *arg;
};

MUST_USE int grpc_client_new(struct loop *l, const struct grpc_client_conf *conf,
                             struct grpc_client **ret, struct err *e);
/* New connections use it from now on; an open one is kept until it ends. */
void grpc_client_set_tls(struct grpc_client *c, struct tls_conf *tls);
/* Lets calls under way finish on the old connection and makes the next call dial anew. One that is
 * being made is given up: it has the settings of before. */
void grpc_client_reconnect(struct grpc_client *c);
/* Cancels all calls (each on_done gets CANCELLED) and closes. NULL is fine. */
void grpc_client_free(struct grpc_client *c);

/* Starts a call with one request message (copied); answers come on the loop, never before it
 * returns. headers     ended by a row without name; NULL for none timeout_ms  sent as grpc-timeout
 * and kept here; 0 for streams without end ret         borrowed, valid until on_done; may be NULL
 */
MUST_USE int grpc_client_call(struct grpc_client *c, const char *path,
                              const struct grpc_header_kv *headers, struct span msg,
                              uint64_t timeout_ms, const struct grpc_answer *answer,
                              struct grpc_request **ret, struct err *e);
void grpc_cancel(struct grpc_request *q); /* on_done comes with CANCELLED */
struct span grpc_answer_trailer(const struct grpc_request *q,
                                const char *name); /* inside on_done */

#endif
