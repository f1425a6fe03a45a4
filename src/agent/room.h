/* room.h - private to agent/: the agent's state and what its parts ask of one another. */
#ifndef AGENT_ROOM_H
#define AGENT_ROOM_H

#include "agent/agent.h"
#include "agent/creds.h"
#include "agent/workload.h"
#include "net/addr.h"
#include "net/grpc.h"
#include "net/tls_proxy.h"

enum {
    INSTANCE_BYTES = 33,    /* 32 hex digits and NUL */
    CALL_MS = 15 * 1000,    /* deadline of one call to the CA */
    CONNECT_MS = 20 * 1000, /* as gRPC has it: who hangs up early loses its place in the queue */
    RELOAD_MS = 10 * 1000,  /* of a reload command, when none is given */
    CA_FILE_INTERVAL_MS = 10 * 1000, /* the CA's roots are read again, should no event come */
    CA_FILE_WINDOW_MS = 60 * 1000,   /* a change of them: a new leaf within this */
    WRITE_RETRY_MS = 5 * 1000,       /* after the set could not be written, or the reload failed */
    REST_MS = 1000,                  /* from a change until it is over, and memory is given back */
    STOP_MS = 8 * 1000,              /* for the goodbye: less than the 10 s of `docker stop` */
    TOKEN_MAX_BYTES = 16 * 1024,
};

struct reload;   /* reload.c */
struct keymaker; /* keymaker.c */
struct jwt_call; /* jwt.c */

struct agent_proxy {
    struct agent *agent;
    struct proxy *proxy;
    bool is_inbound;
    const char *rule; /* outbound: what the peer must match; borrowed */
    uint16_t port;
};

struct agent {
    struct agent_conf conf; /* texts are borrowed from the caller */
    struct loop *loop;
    int lock_fd;
    char instance[INSTANCE_BYTES];
    struct addr cas[GRPC_TARGETS_MAX]; /* the CA's replicas */
    size_t cas_n;
    uint64_t started_ms;

    struct creds *now;     /* in use by files and proxies; NULL before the first leaf */
    struct creds *pending; /* could not be written yet; what comes next builds on it */
    struct timer *write_retry;
    struct timer *rest; /* after a change, memory is given back */
    bool is_ready, is_stopping;

    struct grpc_client *client;      /* to the CA */
    struct ca_file *ca_file;         /* with its roots */
    bool ca_is_plain;                /* it has no trust stream: Istio's own, or another */
    uint8_t ca_tls_id[DIGEST_BYTES]; /* of what its TLS settings were made from */

    struct timer *renew_timer; /* renew.c */
    struct keymaker *keymaker;
    struct key *asking_key;
    struct grpc_request *renew_call;
    uint64_t renew_started_ms;
    unsigned renew_failures;
    int64_t renew_at_s;                  /* wall, for status */
    uint64_t renew_at_ms;                /* mono */
    unsigned bad_leaves;                 /* untrusted or revoked, in a row */
    uint8_t pushed_signer[DIGEST_BYTES]; /* for which a renewal was drawn already */
    bool roots_due;       /* the file with the CA's roots has changed since the last CSR was sent */
    bool got_answer;      /* of the call under way: one message */
    struct creds *answer; /* checked, until the trailers are there */
    struct err answer_error;

    struct timer *watch_timer; /* trust.c */
    struct grpc_request *watch_call;
    unsigned watch_failures;
    bool is_watching; /* a trust set came on this stream that is not older than ours */
    struct timer *ack_timer;
    struct grpc_request *ack_call;
    unsigned ack_failures;
    bool ack_due;
    uint64_t acked_generation;
    int64_t acked_at_s;
    uint8_t asked_serial[SERIAL_MAX_BYTES]; /* of the word under way */
    uint64_t asked_generation;

    struct reload *reload;
    struct workload *workload; /* NULL: not asked for */
    bool is_resumed;           /* began with a leaf of an earlier run */

    struct agent_proxy proxies[1 + AGENT_OUTBOUND_MAX];
    size_t proxies_n;

    struct jwt_call *jwt_calls; /* jwt.c: under way; owned by their requests */

    struct timer *stop_timer;
    loop_fn *stopped;
    void *stopped_arg;

    char last_error[ERR_MSG_BYTES];
    int64_t last_error_s;
};

/* agent.c */
void agent_note_error(struct agent *a, const char *what, const struct err *e);
/* Uses `take` from now on: settings of the proxies, files, reload; then the word. What cannot be
 * written yet is kept and tried again. */
void agent_apply(struct agent *a, struct creds *take);
/* What comes next builds on: pending or in use; NULL before the first leaf. */
const struct creds *agent_newest(const struct agent *a);
uint32_t agent_random(void);

/* connect.c: the client of the CA with the settings of now; and the headers of each call. */
MUST_USE int agent_connect(struct agent *a, struct err *e);
struct call_headers {
    struct grpc_header_kv kv[6];
    struct buf bearer; /* "Bearer ..." */
    char attempts[12];
};
/* `failures`: how often this call has been tried already. */
MUST_USE int agent_headers(const struct agent *a, unsigned failures, struct call_headers *ret,
                           struct err *e);
void agent_headers_done(struct call_headers *h);
struct ca_file; /* watches the file with the CA's roots */
MUST_USE int ca_file_new(struct agent *a, struct ca_file **ret, struct err *e);
void ca_file_free(struct ca_file *f); /* NULL is fine */

/* One call to the CA, with the credentials of now; `failures` of the same came before it. */
MUST_USE int agent_call(struct agent *a, const char *path, unsigned failures, struct span msg,
                        uint64_t timeout_ms, const struct grpc_answer *answer,
                        struct grpc_request **ret, struct err *e);

/* jwt.c: workload_jwt_port's; arg is the agent. */
MUST_USE int agent_jwt_ask(struct jwt_ask *ask, const char *const *audiences, size_t n, void *arg,
                           struct err *e);
void agent_jwt_cancel(struct agent *a);

/* renew.c */
MUST_USE int renew_init(struct agent *a, struct err *e);
void renew_schedule(struct agent *a);            /* by the leaf in use */
void renew_within(struct agent *a, uint64_t ms); /* at a random time, if that is sooner */
void renew_between(struct agent *a, uint64_t from_ms, uint64_t to_ms);
void renew_done(struct agent *a);

/* trust.c */
MUST_USE int trust_init(struct agent *a, struct err *e);
void trust_watch(struct agent *a);      /* (again) on the newest connection */
void trust_word_due(struct agent *a);   /* the word is to be said (again) */
void trust_word_go_on(struct agent *a); /* if it is due: what it waited for has come */
/* The last word. Calls fn when it is answered or failed. */
MUST_USE int trust_goodbye(struct agent *a, const struct grpc_answer *answer, struct err *e);
void trust_done(struct agent *a);

/* reload.c: the command or signal after a change; done(ok, arg) when the readers have it. */
MUST_USE int reload_new(struct agent *a, struct reload **ret, struct err *e);
enum reload_why { RELOAD_LEAF = 1, RELOAD_TRUST = 2 }; /* has changed; neither: at the start */
void reload_start(struct reload *r, unsigned why);     /* calls trust_word_due when it has worked */
json_t *reload_status(const struct reload *r);         /* null: no command and no process */
bool reload_is_settled(const struct reload *r);        /* the readers have what is in use */
void reload_free(struct reload *r);

/* keymaker.c: RSA keys take long, so they are made beside the loop. */
typedef void keymaker_fn(struct key *take_key, const struct err *why, void *arg);
MUST_USE int keymaker_start(struct loop *l, enum key_kind kind, keymaker_fn *fn, void *arg,
                            struct keymaker **ret, struct err *e);
void keymaker_free(struct keymaker *k); /* waits for the thread; NULL is fine */

/* agent_proxy.c */
MUST_USE int proxies_open(struct agent *a, struct err *e);
MUST_USE int proxies_use(struct agent *a, const struct creds *c, struct tls_conf *ret[2],
                         struct err *e); /* settings, inbound and outbound */
void proxies_set(struct agent *a, struct tls_conf *const conf[2]);
/* The peers of open connections once more: those that are revoked now are cut off. */
void proxies_recheck(struct agent *a);
void proxies_close(struct agent *a);

/* agent_metrics.c */
void count_csr(struct agent *a, bool is_retry);
void count_csr_end(struct agent *a, bool ok, double latency_ms);
void count_write_failure(struct agent *a);
void count_ca_failure(struct agent *a);
void count_started(struct agent *a);
void count_cut(struct agent *a, bool is_inbound, size_t n); /* open connections, revoked peers */
void count_handshake(struct agent *a, bool is_inbound, const struct err *why);

#endif
