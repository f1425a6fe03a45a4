/* workload.h - private to agent/: the SPIFFE Workload API on a Unix socket, from the leaf and trust
 * set in use. Layer: agent. Thread: its loop.
 *
 * FetchX509SVID and FetchX509Bundles: the first answer at once, then a full snapshot at each
 * change; so FetchJWTBundles. FetchJWTSVID and ValidateJWTSVID are in workload_jwt.c. WIT-SVIDs are
 * UNIMPLEMENTED. A caller is known by what
 * the kernel says of the process that connected. The same socket serves Envoy, when asked to:
 * sds.h. Source: specs/protos.md 5; SPIFFE Workload API.
 */
#ifndef AGENT_WORKLOAD_H
#define AGENT_WORKLOAD_H

#include <jansson.h>

#include "agent/creds.h"
#include "net/loop.h"
#include "obs/metrics.h"

enum {
    WORKLOAD_UIDS_MAX = 32,
    WORKLOAD_CONNECTIONS_MAX = 512, /* beyond it the kernel's queue holds the next ones */
    WORKLOAD_PER_UID_MAX = 128,     /* connections of one uid; beyond it they are closed at once */
    WORKLOAD_STREAMS_MAX = 1024,    /* under way in all; beyond: RESOURCE_EXHAUSTED */
    WORKLOAD_SETTLE_MS = 500,       /* from a push until its readers are taken to use it */
    WORKLOAD_MESSAGE_MAX_BYTES = 512 * 1024,
    WORKLOAD_PATH_BYTES = 108, /* sun_path, with its NUL */
};

struct workload;

/* -- the CA, for JWT-SVIDs: a port that the agent fills -- */

struct jwt_ask;
struct workload_jwt_port {
    /* Asks for a token of these audiences (borrowed for the call); workload_jwt_answer(q, ...) is
     * called once for it, never before this returns, unless it failed. */
    int (*ask)(struct jwt_ask *q, const char *const *audiences, size_t n, void *arg, struct err *e);
    void *arg;
};
/* The token, with code GRPC_OK; or another code and why. `q` is gone afterwards. */
void workload_jwt_answer(struct jwt_ask *q, struct span token, int code, const char *why);

struct workload_conf {
    const char *socket; /* "/run/meshroot/agent.sock" or "unix:///run/..."; borrowed for the call */
    const uint32_t *uids;         /* that may call; copied */
    size_t uids_n;                /* 0: root and our own */
    const struct sds_conf *sds;   /* serve Envoy as well; copied, but for what we know; NULL: not */
    struct workload_jwt_port jwt; /* where JWT-SVIDs come from; no question may be under way when
                                     the workload is freed */
    struct metrics *metrics;
    void (*on_settled)(void *arg); /* workload_is_settled has become true; NULL */
    void *arg;
};

/* Makes the socket's folder when it is missing. A folder in which others may put another socket in
 * the place of ours is refused. The socket is 0600 when nobody but root and we may call, else 0666:
 * who calls is checked by uid. Errors: DENIED (the folder), STATE (another process serves there),
 * INVAL, LIMIT, SYS. */
MUST_USE int workload_new(struct loop *l, const struct workload_conf *conf, struct workload **ret,
                          struct err *e);
/* From now on `c` (borrowed until the next call) is what is answered; it is pushed to the streams
 * that it means a change for. */
void workload_use(struct workload *w, const struct creds *c);
/* The JWKS of the trust domain, as the CA gave it: what is not one is logged, and the former one
 * stays. It is pushed when it is new. */
void workload_use_jwt(struct workload *w, struct span jwks);
/* False for WORKLOAD_SETTLE_MS after a push to somebody, and while an SDS client has not
 * acknowledged: what was pushed may not be in use there yet. A NULL is settled. */
bool workload_is_settled(const struct workload *w);
/* Why it is not, in words for people; empty when it is. */
void workload_why_unsettled(const struct workload *w, char *text, size_t cap);
/* Some process has, or may have, been given a private key. */
bool workload_gave_key(const struct workload *w);
/* {"endpoint","uids":[...],"streams","pushes","refused"}; null for NULL. */
json_t *workload_status(const struct workload *w);
void workload_metrics_refresh(struct workload *w); /* NULL is fine */
/* Ends every stream and removes the socket. NULL is fine. */
void workload_free(struct workload *w);

/* -- for workload_jwt.c --------------------------------------------------------------------------
 */

enum workload_kind {
    WORKLOAD_SVID,
    WORKLOAD_BUNDLES,
    WORKLOAD_JWT_BUNDLES,
    WORKLOAD_JWT_SVID,
    WORKLOAD_VALIDATE,
    WORKLOAD_KINDS_N
};
const struct creds *workload_creds(const struct workload *w); /* borrowed; NULL before the first */
/* Ends a call, and counts it. */
struct grpc_call;
void workload_end(struct workload *w, struct grpc_call *c, enum workload_kind kind, int code,
                  const char *why);

/* -- for SDS -------------------------------------------------------------------------------------
 */

struct grpc_call;
struct unix_peer;

struct sds *workload_sds(const struct workload *w);
/* The caller's uid is allowed; else the call is ended with PERMISSION_DENIED. */
MUST_USE bool workload_admits(struct workload *w, struct grpc_call *c, struct unix_peer *ret);
/* The key in use as PKCS#8, which is then taken to have been given away. Borrowed until
 * workload_use. */
MUST_USE int workload_key(struct workload *w, struct span *ret_pkcs8, struct err *e);

/* -- messages: workload_msg.c --------------------------------------------------------------------
 */

/* One answer, appended to `b`. That of FetchX509SVID has the key (`pkcs8`): the caller wipes it;
 * that of FetchX509Bundles has not. Errors: LIMIT, NOMEM, PARSE, DENIED (the leaf has no SPIFFE
 * id). */
MUST_USE int workload_svid_pack(const struct creds *c, struct span pkcs8, struct buf *b,
                                struct err *e);
MUST_USE int workload_bundles_pack(const struct creds *c, struct span pkcs8, struct buf *b,
                                   struct err *e);
/* That of FetchJWTBundles: `jwks` under our trust domain. */
MUST_USE int workload_jwt_bundles_pack(const struct creds *c, struct span jwks, struct buf *b,
                                       struct err *e);

/* -- the socket: workload_socket.c ---------------------------------------------------------------
 */

/* Its absolute path, without "unix://". Errors: INVAL (another scheme, not absolute, too long). */
MUST_USE int workload_path(const char *text, char ret[WORKLOAD_PATH_BYTES], struct err *e);
/* As workload_new says. */
MUST_USE int workload_listen(const char *path, bool is_private, int *ret_fd, struct err *e);

#endif
