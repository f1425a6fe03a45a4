/* sds.h - private to agent/: Envoy's Secret Discovery Service v3, on the Workload API's socket,
 * from the leaf and trust set in use. Layer: agent. Thread: its loop.
 *
 * StreamSecrets (state of the world), DeltaSecrets and FetchSecrets. "default" and our SPIFFE id
 * are leaf, chain and key; "ROOTCA" and our trust domain's id are the trust set; no other name is
 * ever answered. Each change is pushed to the streams that asked for it, trust sets before leaves.
 * What a stream acknowledges, Envoy uses; what it refuses, or has not said anything about, it may
 * not. Source: specs/protos.md 2, 3; specs/istio-ca.md 7.6.
 */
#ifndef AGENT_SDS_H
#define AGENT_SDS_H

#include <jansson.h>

#include "agent/creds.h"
#include "net/grpc.h"
#include "net/loop.h"
#include "obs/metrics.h"

enum sds_name { SDS_DEFAULT, SDS_ROOTCA, SDS_ID, SDS_DOMAIN, SDS_NAME__N };
enum {
    SDS_KEYS = 1 << SDS_DEFAULT | 1 << SDS_ID, /* as a set of names: bit 1 << sds_name */
    SDS_TRUSTS = 1 << SDS_ROOTCA | 1 << SDS_DOMAIN,

    SDS_NAMES_MAX = 16,              /* in one request; beyond: RESOURCE_EXHAUSTED */
    SDS_NAME_BYTES = 2048 + 1,       /* a SPIFFE id, with its NUL */
    SDS_STRANGER_BYTES = 256,        /* of a name that is not ours, kept to say so */
    SDS_REQUEST_MAX_BYTES = 1 << 20, /* Envoy's node lists its extensions */
    SDS_UNPACK_MAX_BYTES = 8 << 20,  /* memory that one request may take while it is read */
    SDS_STREAMS_MAX = 256,
    SDS_REQUESTS_BURST = 256, /* of one stream; beyond: RESOURCE_EXHAUSTED */
    SDS_REQUESTS_PER_S = 16,
    SDS_NODE_BYTES = 256,
    SDS_REASON_BYTES = 256,
    SDS_VERSION_BYTES = 2 * 16 + 1,
    SDS_NONCE_BYTES = 24,
};

/* -- what is answered: sds_msg.c -----------------------------------------------------------------
 */

struct sds_content {
    char name[SDS_NAME__N][SDS_NAME_BYTES];
    const struct creds *creds;          /* borrowed; NULL before the first leaf */
    char version[2][SDS_VERSION_BYTES]; /* of key and leaf, of the trust set: equal for equal
                                           content */
};
/* Errors: PARSE (not a SPIFFE id). */
MUST_USE int sds_content_init(struct sds_content *c, const char *identity, struct err *e);
/* r: the names whose content has changed. */
unsigned sds_content_use(struct sds_content *c, const struct creds *creds);
const char *sds_content_version(const struct sds_content *c, enum sds_name name);

struct sds_request {
    char node[SDS_NODE_BYTES]; /* id, cut when longer; empty: none */
    char nonce[SDS_NONCE_BYTES];
    bool is_refusal;
    char reason[SDS_REASON_BYTES];
    size_t names_n;   /* wanted, strangers too */
    unsigned names;   /* wanted, or (delta) subscribed to */
    unsigned dropped; /* delta: unsubscribed */
    unsigned current; /* delta: that it holds in our version */
    size_t strangers_n;
    char strangers[SDS_NAMES_MAX][SDS_STRANGER_BYTES]; /* wanted, and not ours */
};
/* Errors: PARSE (no such message, wrong type_url), LIMIT (names, memory). */
MUST_USE int sds_request_parse(const struct sds_content *c, bool is_delta, struct span msg,
                               struct sds_request *ret, struct err *e);
/* One answer with these names, appended to `b`, which the caller wipes. pkcs8  the key, when
 * `names` has one of SDS_KEYS. removed  delta: names that do not exist; NULL. Errors: LIMIT, NOMEM.
 */
MUST_USE int sds_answer_pack(const struct sds_content *c, bool is_delta, unsigned names,
                             struct span pkcs8, const char *nonce,
                             const struct sds_request *removed, struct buf *b, struct err *e);

/* -- what a request means: sds_peer.c ------------------------------------------------------------
 */

enum sds_state { SDS_IDLE, SDS_SENT, SDS_ACKED, SDS_NACKED, SDS_STATE__N };
const char *sds_state_name(enum sds_state s);

struct sds_peer { /* what one stream has said and was told */
    bool is_delta, has_asked;
    unsigned names; /* that it wants */
    uint64_t nonce; /* of the last answer, counted from 1 */
    enum sds_state state;
};

enum sds_word { SDS_ASKS, SDS_ACKS, SDS_NACKS, SDS_STALE, SDS_LEAVES, SDS_WORD__N };
const char *sds_word_name(enum sds_word w);
/* What the request says; *ret_send are the names to be answered now. The state follows. */
enum sds_word sds_peer_take(struct sds_peer *p, const struct sds_request *q, unsigned *ret_send);
/* The names to be sent after a change of `changed`. */
unsigned sds_peer_push(const struct sds_peer *p, unsigned changed);
/* An answer is on its way; its nonce. */
void sds_peer_sent(struct sds_peer *p, char nonce[SDS_NONCE_BYTES]);

/* -- the service: sds.c --------------------------------------------------------------------------
 */

struct sds;
struct workload;

struct sds_conf {
    const char *identity; /* copied */
    uint64_t grace_ms;    /* that a client which went away has to come back, before it is not waited
                             for */
    uint64_t ack_ms;      /* a stream that has not answered a push by then is ended */
    bool may_have_clients; /* of an earlier run: they are waited for as well */
    struct metrics *metrics;
    struct workload *workload;     /* who may call, and the key; borrowed */
    void (*on_settled)(void *arg); /* sds_is_settled has become true */
    void *arg;
};
MUST_USE int sds_new(struct loop *l, const struct sds_conf *conf, struct sds **ret, struct err *e);
void sds_use(struct sds *s, const struct creds *c); /* borrowed until the next call; pushes */
/* Every client uses what it was last sent: it said so, or has been gone for grace_ms. NULL: yes. */
bool sds_is_settled(const struct sds *s);
/* Why it is not, in words for people. */
void sds_why_unsettled(const struct sds *s, char *text, size_t cap);
size_t sds_streams(const struct sds *s); /* under way; NULL: 0 */
json_t *sds_status(const struct sds *s); /* null for NULL */
void sds_metrics_refresh(struct sds *s);
void sds_free(struct sds *s); /* before the server, whose calls may still name it; NULL is fine */

/* Of the server's table; `self` is the workload. */
void sds_stream_request(struct grpc_call *c, struct span msg, void *self);
void sds_delta_request(struct grpc_call *c, struct span msg, void *self);
void sds_half_close(struct grpc_call *c, void *self);
void sds_fetch(struct grpc_call *c, struct span msg, void *self);

#endif
