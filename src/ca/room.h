/* room.h - private to ca/: what its files share. */
#ifndef CA_ROOM_H
#define CA_ROOM_H

#include <pthread.h>
#include <stdatomic.h>

#include "ca/ca.h"
#include "ca/turnstile.h"
#include "identity/cluster.h"
#include "identity/jwks_source.h"
#include "identity/pods_file.h"
#include "identity/pods_watch.h"
#include "kube/kube.h"
#include "net/filewatch.h"
#include "net/grpc.h"
#include "obs/log.h"
#include "pki/crl.h"
#include "signer/signer.h"

enum {
    CA_WORKERS_MAX = 64,
    CA_WATCHERS_MAX = 20000,                 /* Trust.Watch streams of one worker */
    CA_SERVER_LEAF_S = SIGNER_SERVER_LIFE_S, /* our own serving certificate, at most */
    CA_CLOCK_STEP_S = 5,                     /* from tick to tick: more is said loudly */
    CA_TICK_MS = 30 * 1000,                  /* half-life of that, expiry gauges, a held set */
    CA_TEXTS_MAX = 68,
    CA_LEAVES_WAITING = 512, /* of one worker: half of SIGNER_LANE_CALLS */
    CA_WORDS_WAITING = 4096,
    /* tokens that the API server judges */
    CA_REVIEW_FLIGHTS_MAX = 64,       /* under way at once */
    CA_REVIEW_WAITING_MAX = 4096,     /* calls that wait for one */
    CA_REVIEW_DEADLINE_MS = 8 * 1000, /* all tries together: less than GRPC_MAX_CALL_MS */
    CA_REVIEW_KEEP_MS = 10 * 1000,    /* a yes */
    CA_REVIEW_KEEP_NO_MS = 2 * 1000,  /* a no: an account may be too new for the API server */
};

struct ca_worker;

/* -- jwt_keys.c: the keys of JWT-SVIDs; control thread -- */

enum { CA_JWT_KEYS_MAX = 8, CA_JWK_BYTES = 2048, CA_JWT_SLACK_S = 60 };

struct ca_jwt_key {
    char kid[JWK_THUMBPRINT_BYTES], jwk[CA_JWK_BYTES];
    struct signer *signer; /* a reference; NULL: the key is not loaded (any more) */
    uint64_t ready_ms;     /* mono_ms: from then on it may sign */
    uint64_t gone_ms;      /* mono_ms: its last token has expired; 0: it is in use, or will be */
};
struct ca_jwt {
    struct ca_jwt_key keys[CA_JWT_KEYS_MAX]; /* the last one is the signer's in force */
    size_t n;
};
void ca_jwt_done(struct ca_jwt *j);
void ca_jwt_copy(const struct ca_jwt *from, struct ca_jwt *ret);
/* `cert` and `s` (a reference is taken) are in force from now on. Errors: INVAL (Ed25519: *j is as
 * it was), PARSE. */
MUST_USE int ca_jwt_use(struct ca_jwt *j, const struct cert *cert, struct signer *s,
                        uint64_t publish_ms, uint64_t now_ms, struct err *e);
/* A new signer process has the key in force, as `s`, and no other. */
void ca_jwt_adopt(struct ca_jwt *j, struct signer *s);
/* The key that signs now; NULL: none may. */
const struct ca_jwt_key *ca_jwt_signing(const struct ca_jwt *j, uint64_t now_ms);
/* Lets go of what is over. r: true when something has changed. *ret_next_ms: when to call again; 0:
 * nothing is waited for. */
bool ca_jwt_tick(struct ca_jwt *j, uint64_t now_ms, uint64_t *ret_next_ms);
/* The JWKS that workloads get. Source: RFC 7517 5; SPIFFE JWT-SVID 5. */
MUST_USE int ca_jwt_bundle(const struct ca_jwt *j, struct buf *out, struct err *e);
/* With the moments, for the next start; and back. Errors: PARSE. */
extern const char ca_jwt_file[];
MUST_USE int ca_jwt_write(const struct ca_jwt *j, uint64_t now_ms, struct buf *out, struct err *e);
MUST_USE int ca_jwt_recall(struct span text, uint64_t publish_ms, uint64_t now_ms,
                           struct ca_jwt *ret, struct err *e);

/* -- view: everything a worker needs to answer, immutable, reference-counted (any thread) -- */

struct cuts;

struct ca_view {
    atomic_uint refs;
    atomic_size_t *alive; /* counts the CA's views, which it outlives; NULL: nobody counts */
    struct bundle *bundle;
    struct signer *signer;
    struct jwks *keys[CA_JWKS_MAX]; /* by issuer; NULL: not read yet */
    struct crls *crls;              /* NULL: nothing is revoked */
    struct cuts *cuts;              /* revoked identities (revoked_identity.h); NULL: none */
    uint64_t generation;
    char generation_text[24];
    int64_t not_after;      /* the end of the chain: no leaf outlives it */
    struct buf answer_tail; /* cert_chain[1..], encoded: intermediates, then the whole trust set */
    struct buf trust_set;   /* meshroot.v1.TrustSet, encoded */
    struct signer *jwt_signer; /* signs JWT-SVIDs; NULL: nobody may yet */
    char jwt_kid[JWK_THUMBPRINT_BYTES];
};

struct ca_view_args {
    struct bundle *bundle;    /* a reference is taken */
    struct signer *signer;    /* of the bundle's intermediate; a reference is taken */
    struct jwks *const *keys; /* CA_JWKS_MAX, references are taken */
    struct crls *crls;        /* a reference is taken; NULL: none */
    uint64_t generation, renew_window_ms;
    const struct ca_jwt *jwt; /* references are taken; NULL: no JWT-SVIDs */
    atomic_size_t *alive;
    struct cuts *cuts; /* a reference is taken; NULL: none */
};
MUST_USE int ca_view_new(const struct ca_view_args *a, struct ca_view **ret, struct err *e);
struct ca_view *ca_view_ref(struct ca_view *v);
void ca_view_unref(struct ca_view *v); /* NULL is fine */
DEFINE_CLEANUP(struct ca_view, ca_view_unref)
/* The peer's leaf, an intermediate of its chain, or its identity since is revoked. */
bool ca_view_revokes(const struct ca_view *v, const struct tls_peer *peer);

/* -- authn: who calls -- */

struct ca_caller {
    char identity[SPIFFE_ID_BYTES];
    char auth[LEDGER_AUTH_BYTES]; /* for the ledger */
    struct node_proxy proxy;      /* what a token says of its pod; empty for a certificate */
};
struct ca_credentials {
    struct span authorization;   /* header value, or empty */
    const struct tls_peer *peer; /* NULL: showed no certificate */
};
/* Client certificate first, then the bearer token, as istiod's order is. Nothing else of a call
 * says who calls. r: 0 done; CA_ASK_REVIEW the token (borrowed, in *ret_token) is for the cluster's
 * API server to judge. Errors, each with the reason word for metrics in *ret_reason (static): AUTH;
 * every other code (BUSY: keys or cluster not known yet, NOMEM, ...) means that it cannot be told
 * now. Source: specs/istio-ca.md 3. */
enum { CA_ASK_REVIEW = 1 };
MUST_USE int ca_authenticate(const struct ca_conf *conf, const struct ca_view *v,
                             const struct ca_credentials *c, struct ca_caller *ret,
                             struct span *ret_token, const char **ret_reason, struct err *e);
/* The second half, for the claims of a token that is verified, here or by the API server: its pod
 * and account are there still, and it names a workload. Never kept: asked for every call. `kind`
 * goes into the ledger: "jwt", "review". */
MUST_USE int ca_accept_claims(const struct ca_conf *conf, const struct jwt_claims *claims,
                              const char *kind, struct ca_caller *ret, const char **ret_reason,
                              struct err *e);
/* A node proxy asks for a leaf of `wanted`: `who` becomes that identity, and its auth says who
 * asked. Errors: AUTH, BUSY; as node_rule_check. */
MUST_USE int ca_impersonate(const struct ca_conf *conf, struct span wanted, struct ca_caller *who,
                            struct err *e);

/* -- admission: a handler runs when it is known who calls -- */

struct ca_call { /* valid while the handler runs */
    struct grpc_call *grpc;
    struct span msg;
    uint64_t start_us;
    struct ca_caller caller;
};
typedef void ca_handler(struct ca_worker *w, struct ca_call *c);
/* What waits for signer and ledger, and for the ledger alone: each has places of its own, so that
 * neither keeps the other out. */
enum ca_queue { CA_QUEUE_LEAVES, CA_QUEUE_WORDS, CA_QUEUE__N };
struct ca_method {
    enum ca_queue queue;
    const char *name; /* for metrics */
    ca_handler *handle;
};
/* Turns the call away when too many wait (RESOURCE_EXHAUSTED, with the time to come back in the
 * trailer grpc-retry-pushback-ms: gRPC proposal A6), before anything is spent on it. Else finds the
 * caller and runs the handler, at once or after a review, or ends the call: UNAUTHENTICATED, which
 * agents do not try again, or UNAVAILABLE and RESOURCE_EXHAUSTED, which they do. Counts and logs a
 * refusal. Source: specs/istio-ca.md 1.5, 1.7. */
void ca_admit(struct ca_worker *w, struct grpc_call *c, struct span msg, const struct ca_method *m);
/* Counts a caller turned away, and logs it unless strangers fill the log. */
void ca_count_refusal(struct ca_worker *w, const char *reason);

/* -- reviews: tokens that the API server judges; on the control loop, asked by workers -- */

struct ca_reviews;
struct ca_verdict {
    const char *reason; /* NULL: `claims` are true; else the metric's word, and `why` */
    struct jwt_claims claims;
    struct err why; /* AUTH: no; anything else: it cannot be told now */
};
struct ca_ask { /* one call that waits; owner: who asks, from `back` on */
    struct loop *loop;
    loop_fn *back; /* called on `loop` with the ask, `verdict` filled, exactly once */
    struct ca_reviews *reviews;
    struct ca_ask *next;
    uint8_t key[DIGEST_BYTES]; /* SHA-256 of the token */
    struct buf token;
    struct ca_verdict verdict;
};
MUST_USE int ca_reviews_new(struct ca *c, struct err *e);
/* Answers all that wait, now and from now on; ends the client of the API server. Before the workers
 * are stopped. */
void ca_reviews_close(struct ca *c);
void ca_reviews_free(struct ca *c); /* after they have ended */
/* Thread: any. Errors: LIMIT (CA_REVIEW_WAITING_MAX, or the CA is stopping): `back` does not come.
 */
MUST_USE int ca_review(struct ca *c, struct ca_ask *q, struct err *e);

/* -- lifetimes -- */

/* The end of a leaf asked for with `validity_s` (<= 0: the default). Errors: INVAL (above the
 * maximum: specs/istio-ca.md 1.5's words), STATE (the signer has expired). Source: 4.4. */
MUST_USE int ca_not_after(const struct ca_conf *conf, const struct ca_view *v, int64_t now,
                          int64_t validity_s, int64_t *ret, struct err *e);

/* -- our own serving certificate -- */

struct ca_server_cert {
    struct key *key;
    struct cert *leaf;
    int64_t half_life; /* unix seconds: when to make the next one */
};
void ca_server_cert_done(struct ca_server_cert *c); /* twice is harmless */
MUST_USE int ca_server_cert_make(const struct ca_conf *conf, const struct ca_view *v,
                                 struct ca_server_cert *ret, struct err *e);
MUST_USE int ca_server_tls(const struct ca_server_cert *c, const struct ca_view *v,
                           struct tls_conf **ret, struct err *e);

/* -- workers -- */

struct ca_watcher;
struct ca_evidence_stream;
struct ca_health_call;
struct issue;

/* What ca_load_say has said: nothing of the CA is of an older generation any more. */
struct ca_said {
    uint64_t generation; /* 0: nothing was said yet */
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    size_t roots_n;
    uint8_t signer_id[DIGEST_BYTES];
};

struct ca_worker {
    struct ca *ca;
    struct loop *loop;
    struct signer_lane *lane; /* used on its own thread */
    int listen_fd;            /* -1 once the server has it */
    pthread_t thread;
    bool is_running;
    /* from here on: its own thread only */
    struct grpc_server *server;
    struct ca_view *view;
    struct ca_watcher *watchers;
    struct ca_evidence_stream *evidence_streams;
    size_t evidence_streams_n;
    struct ca_health_call *health; /* calls that wait for one answer */
    bool health_is_asked;
    struct ca_said said; /* as far as this thread was told */
    struct turnstile queues[CA_QUEUE__N];
    size_t watchers_n, pending; /* pending: calls that wait for the signer or the ledger */
    struct issue *free_issues;  /* CreateCertificate's memory, used again */
    size_t free_issues_n;
    struct buf pem, answer;
    bool is_stopping, is_drained, is_quit;
};
MUST_USE int ca_worker_start(struct ca *c, struct ca_worker *w, int listen_fd, struct err *e);
/* Hands a view and TLS settings to one worker; references are taken. */
MUST_USE int ca_worker_set(struct ca_worker *w, struct ca_view *v, struct tls_conf *tls,
                           struct err *e);
/* Tells one worker what was said. */
MUST_USE int ca_worker_say(struct ca_worker *w, const struct ca_said *said, struct err *e);
void ca_worker_stop(struct ca_worker *w); /* begins the drain */
void ca_worker_join(struct ca_worker *w); /* waits, frees */
loop_fn ca_worker_has_quit;               /* on the control loop, with the CA */
void ca_worker_quit_if_idle(struct ca_worker *w);
void ca_issues_free(struct ca_worker *w); /* when no call is under way any more */

/* Handlers of callers that are known. */
ca_handler ca_create_certificate, ca_trust_watch, ca_trust_acknowledge, ca_sign_jwt;
ca_handler ca_evidence_watch, ca_sign_serving, ca_revocations_exchange;
void ca_health_check(struct grpc_call *g, struct span msg, void *worker); /* of any caller */
/* Whether the caller is one of these accounts of our trust domain ("NS/SA"). */
bool ca_account_is(const struct ca_caller *c, const char *const *accounts, size_t n);
/* One leaf for a caller who may have it: CSR checked, signed, row durable, then the answer. */
struct ca_leaf_ask {
    const char *method;       /* for metrics; static */
    const char *const *names; /* of a server, each as long-lived as the CA */
    size_t names_n;           /* 0: a workload's, with the caller's identity */
    struct span csr;          /* PEM or DER */
    int64_t validity_s;       /* 0: the default */
    struct span instance;     /* "" or what ca_instance_is_sound has seen */
};
void ca_issue(struct ca_worker *w, struct ca_call *c, const struct ca_leaf_ask *a);
/* Ends a call before anything was begun for it; counted. */
void ca_refuse(struct ca_worker *w, const struct ca_call *c, const char *method, int code,
               const char *msg);
/* Ends a call that its caller may not make: PERMISSION_DENIED, counted and logged. */
void ca_deny(struct ca_worker *w, const struct ca_call *c, const char *method, const char *reason,
             const char *msg);
/* The code for why the signer did not sign: what a later call may be spared is told apart. */
int ca_sign_code(const struct err *why);
void ca_trust_changed(struct ca_worker *w); /* the view has another trust set */
bool ca_instance_is_sound(struct span s);   /* "" or 32 lower-case hex digits */
/* A workload's Word as the caller said it. Errors: INVAL. Thread: any. */
MUST_USE int ca_word_read(struct span msg, const struct ca_caller *caller, struct ledger_ack *ret,
                          struct err *e);
/* -- revocation: revoke.c, revoked.c, lists.c; the control loop's -- */

struct revocations;
MUST_USE int revocations_new(struct ca *c, struct revocations **ret, struct err *e);
void revocations_free(struct revocations *r); /* NULL is fine */
/* The lists that come with the set which is about to be in force; NULL: none. Before
 * revocations_signer. */
void revocations_above(struct revocations *r, struct crls *above);
/* This signer is about to sign: its list is made, its predecessor's is made to last. */
void revocations_signer(struct revocations *r, struct cert *cert, struct signer *s);
/* What views carry; borrowed; NULL: nothing is revoked. */
struct crls *revocations_handed_out(const struct revocations *r);
struct cuts *revocations_cuts(const struct revocations *r); /* the same */
void revocations_tick(struct revocations *r);               /* and when a signer process has come */
json_t *revocations_status(const struct revocations *r);

/* -- control -- */

enum ca_mode { CA_MODE_NONE, CA_MODE_PLUGGED_IN, CA_MODE_SELF_SIGNED };

struct ca_loaded { /* what is in force, and where it came from */
    enum ca_mode mode;
    bool is_ours;          /* a self-signed set of conf.self_signed_dir */
    struct bundle *bundle; /* without its key, which the signer process has */
    struct signer *signer;
    struct set_manifest manifest;
    uint64_t generation;
    uint8_t content_id[DIGEST_BYTES]; /* of the parts */
};

struct ca_jwks { /* one issuer's keys */
    struct ca *ca;
    size_t index;
    struct jwks_source *source;
    struct jwks *keys;
};

struct ca {
    struct loop *loop;
    struct ca_conf conf;
    char *texts[CA_TEXTS_MAX]; /* owned copies behind conf */
    size_t texts_n;
    struct signer_process *signer;
    bool signer_is_lost; /* a new child does not hold the key in force yet */
    struct filewatch *watch;
    struct timer *tick, *say;
    int64_t tick_s; /* both clocks at the last tick */
    uint64_t tick_ms;
    struct ca_jwks jwks[CA_JWKS_MAX];
    struct pods_file *pods;
    struct pods_watch *pods_watch;
    struct kube_client *kube;
    struct ca_reviews *reviews; /* NULL: tokens are not reviewed */
    struct ca_loaded loaded;
    struct ca_view *view;
    struct tls_conf *tls;
    struct ca_server_cert server;
    struct ca_jwt jwt;
    struct timer *jwt_timer;
    struct revocations *revocations;
    struct crls *above; /* the lists of the CAs in the set that are in force; NULL: none */
    char above_why[ERR_MSG_BYTES];   /* why those beside the set are not; "": they are */
    uint8_t loaded_id[DIGEST_BYTES]; /* filewatch_present_id when it was loaded */
    char refused[ERR_MSG_BYTES];     /* "" when what is present is loaded */
    char why_not_ready[ERR_MSG_BYTES + 1];
    struct ca_worker workers[CA_WORKERS_MAX];
    size_t workers_n;
    uint16_t port;
    bool is_closed;   /* ca_free was called; what was posted before finds this */
    bool is_stopping; /* ca_leave, ca_drain: not ready any more */
    size_t drained_n; /* workers that have ended */
    loop_fn *on_drained;
    void *drained_arg;
    /* touched by every thread */
    struct log_brake refusals; /* of calls */
    atomic_bool evidence_posted, kid_posted;
    atomic_long watchers_n;
    atomic_size_t views_alive;
    atomic_uint_fast64_t evidence_n; /* grows with each row, word, and load that is said */
};

/* load.c: what may be loaded, and how it becomes the view in force. */
filewatch_fn ca_load_changed;
filewatch_error_fn ca_load_failed;
/* Looks again at a set that was refused: time mends some reasons (not yet valid, out of memory),
 * and a self-signed set that is gone (the mesh was disabled) another. */
void ca_load_again(struct ca *c);
/* The signer process has come (again), or gone. */
void ca_load_signer(bool is_up, void *arg);
loop_fn ca_load_jwt;               /* a moment of the keys of JWT-SVIDs has come */
void ca_load_recall(struct ca *c); /* at the start: what was kept of them */

/* self_signed.c: makes the set of conf.self_signed_dir, its key by the signer process. Errors: SYS,
 * and as signer_make_root. */
MUST_USE int ca_self_signed_make(struct ca *c, struct err *e);
bool ca_self_signed_is_kept(const struct ca *c); /* one lies there; its key is not touched */
loop_fn ca_load_say; /* on_loaded and evidence, once no call holds an older view */
/* Something beside the set has changed (issuers' keys, revocation): a view of the same set. */
void ca_load_view(struct ca *c, const char *why);
void ca_load_server_cert(struct ca *c); /* at half-life */
/* above.c: the lists of the CAs in the set (ca-crl.pem), on their own merits. Which go with `b`:
 * those beside it, or, when they are not to be used, the ones in force as far as they fit. *ret
 * NULL: none; owner: caller. Errors: DENIED (they revoke what would sign), NOMEM. */
MUST_USE int ca_above_choose(struct ca *c, const struct bundle *b, const struct set_manifest *m,
                             struct crls **ret, struct err *e);
void ca_above_put(struct ca *c, struct crls *take);
/* At the start: those of the last run, in TRUST_DIR. */
void ca_above_recall(struct ca *c);
json_t *ca_above_status(const struct ca *c);
/* The rules for one new set against what is loaded; r: 0 load it; CA_LOAD_SAME nothing new.
 * *ret_reason is the metric's word. Errors: DENIED, STATE. */
enum { CA_LOAD_SAME = 1 };
MUST_USE int ca_load_check(const struct ca_conf *conf, const struct ca_loaded *now,
                           const struct ca_loaded *next, const char **ret_reason, struct err *e);

loop_fn ca_tick;                   /* every CA_TICK_MS: what time has brought about */
void ca_evidence(struct ca *c);    /* any thread: on_evidence soon, on the control loop */
void ca_unknown_kid(struct ca *c); /* any thread: fetch the key sets soon */

/* ca_metrics.c */
extern const struct metric_desc ca_m_csr, ca_m_auth_failure, ca_m_sign_error, ca_m_issued,
    ca_m_auth_reason, ca_m_handled, ca_m_seconds, ca_m_generation, ca_m_refused, ca_m_is_present,
    ca_m_watchers, ca_m_told_later, ca_m_reloads, ca_m_jwt_issued, ca_m_clock_steps, ca_m_signer_up,
    ca_m_signer_starts;
void ca_metrics_expiry(struct ca *c);
void ca_metrics_start(struct ca *c); /* before anything is loaded */
void ca_metrics_signer(struct ca *c);
void ca_metrics_handled(struct ca *c, const char *method, int code, uint64_t start_us);

#endif
