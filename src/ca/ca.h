/* ca.h - the mesh CA: authenticates callers, signs leaves, hands out trust sets. Layer: ca.
 *
 * One control loop (the caller's) and N workers, each a thread with a loop and a listening socket
 * of its own. A worker reads an immutable, reference-counted view of the bundle in force, which a
 * reload swaps. Source: specs/istio-ca.md 1 to 5; design.md invariants 2 to 4, 7 to 9;
 * proto/meshroot.proto.
 */
#ifndef CA_CA_H
#define CA_CA_H

#include <jansson.h>

#include "identity/cluster.h"
#include "identity/identity.h"
#include "kube/kube.h"
#include "ledger/ledger.h"
#include "net/admin.h"
#include "net/loop.h"
#include "obs/metrics.h"
#include "sync/sync.h"

struct ca;

enum {
    CA_JWKS_MAX = 4,
    CA_DNS_MAX = 8,
    CA_NODE_ACCOUNTS_MAX = 8,
    CA_CERT_SIGNERS_MAX = 8,
    CA_EVIDENCE_READERS_MAX = 4,
    CA_COURIERS_MAX = 4,
    CA_SERVING_ACCOUNTS_MAX = 4,
    CA_SERVING_NAMES_MAX = 8, /* of one certificate, too */
};

struct ca_issuer {                       /* one trusted issuer of tokens */
    const char *issuer, *jwks, *ca_file; /* exact iss; where its keys are (identity/jwks_source.h;
                                            NULL: by discovery); roots for https or NULL */
};

/* Whom a CA believes, and what it is called. */
struct ca_callers {
    struct ca_issuer issuers[CA_JWKS_MAX];
    size_t issuers_n;
    const char *audiences[JWT_AUDIENCES]; /* default "istio-ca" */
    const char *dns_names[CA_DNS_MAX];    /* of our own certificate */
    size_t dns_names_n;
    /* What the cluster knows: bound tokens are checked with it on every call, and node proxies.
     * Neither: tokens are good until they expire, and nobody may impersonate. */
    const struct cluster *cluster; /* borrowed, outlives the CA; or */
    const char *pods_file;         /* the CA reads it (identity/pods_file.h); or */
    uint64_t pods_max_stale_ms;    /* not 0: the CA watches them through `kube`, and believes what
                                      it knows for so long (identity/pods_watch.h) */
    const struct kube_conf *kube;  /* where the API server is, for keys and reviews; read by ca_new
                                      only; NULL: not known */
    /* Not 0: tokens of no issuer above are judged by the API server; needs `kube`. (No bool:
     * gcc 12.2 with -ftrivial-auto-var-init=zero clears bytes of dns_names for the hole behind
     * one.) */
    uint64_t token_review;
    const char *node_accounts[CA_NODE_ACCOUNTS_MAX]; /* "NS/SA" of trusted node proxies */
    size_t node_accounts_n;
    /* What a request's CertSigner may be, besides empty; none: "meshroot". */
    const char *cert_signers[CA_CERT_SIGNERS_MAX];
    size_t cert_signers_n;
    const char *evidence_readers[CA_EVIDENCE_READERS_MAX]; /* "NS/SA": may read ca/evidence.h */
    size_t evidence_readers_n;
    const char *couriers[CA_COURIERS_MAX]; /* "NS/SA": may tell what other replicas have revoked */
    size_t couriers_n;
    /* "NS/SA" that may have certificates of servers (istiod-tls), and the DNS names in them. */
    const char *serving_accounts[CA_SERVING_ACCOUNTS_MAX];
    size_t serving_accounts_n;
    const char *serving_names[CA_SERVING_NAMES_MAX];
    size_t serving_names_n;
};

struct ca_conf {
    const char *dir;             /* the set it signs with: watched, and re-read by content */
    const char *self_signed_dir; /* where a self-signed root is kept when `dir` has no set; NULL:
                                    not allowed, wait */
    uint64_t first_generation; /* a self-signed root has at least this one: above what workloads may
                                  hold from before `mesh disable`; 0 or 1: no such past */
    const char *token_uri;     /* keys are in this PKCS#11 token (RFC 7512); NULL: in ca-key.pem */
    const char *token_reads;   /* the folder that its module may read; NULL: none */
    const char *listen;        /* "127.0.0.1:15012"; port 0 picks one */
    size_t workers;            /* 1..64 */
    size_t max_waiting; /* calls of one kind and worker that wait; 0: the defaults of room.h */
    const char *trust_domain;
    struct ca_callers who;
    uint64_t default_ttl_ms, max_ttl_ms;
    uint64_t reread_ms;             /* content re-read interval */
    uint64_t jwt_publish_ms;        /* a new signer's key is published for so long before it signs
                                       JWT-SVIDs: longer than the slowest replica takes to see a set */
    uint64_t max_connection_age_ms; /* grpc_server_conf; 0: none */
    uint64_t drain_ms;              /* calls under way have so long at the end; 0: CA_DRAIN_MS */
    struct ledger *ledger;          /* borrowed */
    struct store *store; /* where revoked leaves are kept; borrowed; NULL: none can be revoked */
    struct metrics *metrics;
    const char *replica;   /* this replica's name */
    const char *trust_dir; /* where root-cert.pem, what callers verify us with, and the local
                              generation are written at each load; NULL: nowhere */
    /* A set was loaded, and no call that started under an older one is left: nothing writes a row
     * or hands out a trust set of an older generation any more (rotate_replica relies on it). */
    void (*on_loaded)(uint64_t generation, const struct roots *roots,
                      const uint8_t signer_id[DIGEST_BYTES], void *arg);
    /* A workload acknowledged, or a row was written: gates may open. */
    void (*on_evidence)(void *arg);
    void *arg;
};

/* What can be judged of `conf` without opening anything; ca_new does it too. Errors: INVAL. */
MUST_USE int ca_conf_check(const struct ca_conf *conf, struct err *e);
/* Texts in `conf` are copied. Binds at once; answers from the first set on. Errors: SYS (the
 * address is in use), INVAL, NOMEM. */
MUST_USE int ca_new(struct loop *l, const struct ca_conf *conf, struct ca **ret, struct err *e);
/* From now on it says that it is not ready, and serves as before: whoever sends callers here has
 * time to send them elsewhere. */
void ca_leave(struct ca *c);
/* Leaves, stops listening, lets calls under way finish (conf.drain_ms at most), ends streams so
 * that their clients come again elsewhere, and then calls done(arg), once. ca_free follows. Source:
 * grpc_server_drain. */
void ca_drain(struct ca *c, loop_fn *done, void *arg);
/* Drains, unless that is done, and stops the workers. Blocks for as long. NULL is fine. */
enum { CA_DRAIN_MS = 3000 };
void ca_free(struct ca *c);
uint16_t ca_port(const struct ca *c);
uint64_t ca_generation(const struct ca *c); /* of the set that is loaded; 0: none */
/* True once a set is loaded and calls are answered, and while leaves can be signed and recorded. */
bool ca_is_ready(const struct ca *c);
/* Why it is not, one line with its end; borrowed until the next call. */
const char *ca_why_not_ready(struct ca *c);
/* Before /metrics: gauges that are looked up when asked for. */
void ca_metrics_refresh(struct ca *c);
/* Answers what is a page of the CA's: /crl (DER, of the signer in force), /ca-crl.pem (of every
 * signer whose leaves may be alive). c NULL: there is none. r: whether it was one. */
bool ca_page(const struct ca *c, struct http_exchange *x);
/* Calls of the admin socket; `self` is a struct ca *const *, whose NULL says that none runs:
 *   POST /v1/ca/revoke   {"serial"|"identity", "reason", "yes"}
 *   GET  /v1/ca/revoked {"revoked":[{"serial","identity","signer","not_after","revoked","reason"}],
 *                         "lists":[{"signer","id","signed","key_held","number",...}]} */
extern const struct admin_route ca_admin_routes[];
/* The set changed on disk by our own hand: read it now. */
void ca_poke(struct ca *c);

/* {"mode":"plugged-in|self-signed|none","signer":{"kind","token","up","pid","restarts",...},"jwt":{"signs","published":[...]},"generation","versions":{...},"roots":[{...}],"intermediate":{...},"chain":[...],
 *  "server":{...},"callers":{"issuers":[{"issuer","keys_from","keys","trouble"}],"token_review","node_accounts","kubernetes","pods":{"file","known","trouble"}},"loaded","present","agents_connected","refused":"..."}
 * ; owner: caller. */
json_t *ca_status(const struct ca *c);

#endif
