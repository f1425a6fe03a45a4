/* http.h - HTTP/1.1 server (libevent) and client (libcurl) on a loop. Layer: net. */
#ifndef NET_HTTP_H
#define NET_HTTP_H

#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"
#include "net/loop.h"
#include "net/tls.h"
#include "obs/metrics.h"

/* -- server -------------------------------------------------------------------------------------
 */

struct http_server;
struct http_exchange; /* one request and its answer; valid until http_reply, or on_gone */

enum {
    HTTP_MAX_BODY_BYTES = 64 * 1024,
    HTTP_MAX_HEADER_BYTES = 32 * 1024,
    HTTP_MAX_CONNECTIONS = 1024,
    HTTP_IDLE_S = 60,
    HTTP_REQUEST_MS = 90 * 1000, /* from the connection or the last answer to the next whole request
                                    (and the TLS handshake, and the answer's way out): HTTP_IDLE_S,
                                    and 30 s for who only drips */
    HTTP_MAX_REQUESTS = 1024,    /* under way in one client; beyond: LIMIT */
    HTTP_HOST_CONNECTIONS = 8,   /* of a client, to one host; http_client_limit */
};

struct http_server_conf {
    int listen_fd;        /* from addr_listen, or a listening Unix socket; taken */
    struct tls_conf *tls; /* a reference is taken; NULL: clear text (loopback, Unix socket) */
    /* Every request of any method and path. May answer later. */
    void (*on_request)(struct http_exchange *x, void *self);
    void *self;
    size_t max_body_bytes;  /* 0: HTTP_MAX_BODY_BYTES; beyond: 413 */
    size_t max_connections; /* 0: HTTP_MAX_CONNECTIONS; beyond: closed at once */
    uint64_t request_ms;    /* 0: HTTP_REQUEST_MS; beyond: cut off */
    /* Counts what was cut or closed at once (meshroot_http_connections_cut_total); `name` is the
     * listener's there, static. NULL: not counted. */
    struct metrics *metrics;
    const char *name;
};

MUST_USE int http_server_new(struct loop *l, const struct http_server_conf *conf,
                             struct http_server **ret, struct err *e);
void http_server_set_tls(struct http_server *s, struct tls_conf *tls);
void http_server_free(struct http_server *s); /* NULL is fine */

const char *http_method(const struct http_exchange *x); /* "GET" */
/* Path, percent-decoded, duplicate slashes kept; no query. A %00 or a broken escape is answered 400
 * before any handler. Borrowed. */
const char *http_path(const struct http_exchange *x);
/* Query parameter by name, both sides decoded ("api%2Dversion=7.4" is found as "api-version"); NULL
 * when absent. */
const char *http_query(const struct http_exchange *x, const char *name);
const char *http_header(const struct http_exchange *x, const char *name); /* NULL when absent */
struct span http_body(const struct http_exchange *x);
const char *http_peer_addr(const struct http_exchange *x);
bool http_is_tls(const struct http_exchange *x);
/* Calls fn(arg) if the connection or the server goes away first; afterwards `x` must not be used.
 * (While an answer is awaited a client that hung up may be noticed only when it is written.) */
void http_on_gone(struct http_exchange *x, loop_fn *fn, void *arg);
void http_reply_header(struct http_exchange *x, const char *name, const char *value);
/* Ends the exchange; `type` NULL for no body. `x` is gone afterwards. */
void http_reply(struct http_exchange *x, int status, const char *type, struct span body);

/* -- client -------------------------------------------------------------------------------------
 */

struct http_client; /* keeps connections alive; one per loop is enough */
struct http_request;

/* Where a request may lead; each rule shuts out more. Looked at when the name is resolved, so no
 * name gets around it. A rule other than ANY also means: no proxy, which would resolve it
 * elsewhere. */
enum http_reach {
    HTTP_REACH_ANY,
    HTTP_REACH_NO_LINK_LOCAL, /* not link-local, no cloud's metadata service */
    HTTP_REACH_NO_LOOPBACK,   /* nor this host */
    HTTP_REACH__N
};

struct http_request_conf {
    const char *method, *url;
    const char *const *headers;            /* "name: value", ended by NULL; NULL for none */
    struct span body;                      /* copied */
    const char *ca_file;                   /* PEM roots for this server; NULL: the system's */
    const char *cert_file, *key_file;      /* PEM, our client certificate; NULL: none */
    struct span ca_pem, cert_pem, key_pem; /* the same as text, before a file; empty: the file.
                                              Copied; the key is wiped */
    const char *unix_socket;               /* path; NULL: TCP */
    enum http_reach reach;                 /* DENIED where it may not */
    uint64_t timeout_ms;                   /* 0: 10 s */
    size_t max_body_bytes;                 /* 0: 1 MiB; beyond: LIMIT */
    /* Where the body of a 2xx answer goes piece by piece, instead of into the answer: of any length
     * while timeout_ms lasts. Called with the `arg` of the request; <0 ends it, with that reason.
     * It may neither cancel the request nor free the client. NULL: the answer has the body. */
    int (*on_data)(struct span piece, void *arg, struct err *e);
};

struct http_answer {
    int status;
    struct span body;
    uint64_t
        retry_after_s; /* from Retry-After (seconds or date) or retry-after-ms; 0 when absent */
    const char *www_authenticate; /* NULL when absent */
    const char *content_type;     /* NULL when absent */
};

/* Exactly one call: `a` on any HTTP answer, or `why` (PEER, TIMEOUT, LIMIT, DENIED; names host and
 * cause).
 * Redirects are not followed; proxies of the environment are honoured except for Unix sockets and
 * loopback hosts; TLS >= 1.2. */
typedef void http_done_fn(const struct http_answer *a, const struct err *why, void *arg);

/* r: 1 the URL's host is this one by its name ("localhost", 127.x, [::1]); 0 it is not. Errors:
 * INVAL (not an http or https URL). */
MUST_USE int http_url_is_loopback(const char *url, struct err *e);
MUST_USE int http_client_new(struct loop *l, struct http_client **ret, struct err *e);
/* So many connections to one host at once, 1..HTTP_MAX_REQUESTS; HTTP_HOST_CONNECTIONS unless it is
 * said. What is beyond waits, in its time. */
void http_client_limit(struct http_client *c, size_t connections);
void http_client_free(struct http_client *c); /* calls under way end with `why`; NULL is fine */
/* Never calls back before it returns. `ret` may be NULL. Errors: INVAL (the URL), LIMIT, NOMEM. */
MUST_USE int http_send(struct http_client *c, const struct http_request_conf *q, http_done_fn *done,
                       void *arg, struct http_request **ret, struct err *e);
void http_cancel(struct http_request *q); /* no call-back comes any more */

/* For commands: sends and waits on a loop of its own. `ret_body` is the caller's. Errors: PEER,
 * TIMEOUT, LIMIT. */
MUST_USE int http_fetch(const struct http_request_conf *q, int *ret_status, struct buf *ret_body,
                        struct err *e);

#endif
