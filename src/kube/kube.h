/* kube.h - a client of the Kubernetes API on a loop. Layer: kube.
 *
 * One client belongs to one loop; other threads post to it. It keeps connections, re-reads its
 * token file (kubelet rotates it) and tries again what may be tried again, within the time that the
 * caller gives. Source: Kubernetes API conventions, API concepts; specs/protos.md 6.
 */
#ifndef KUBE_KUBE_H
#define KUBE_KUBE_H

#include <jansson.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"
#include "net/loop.h"
#include "obs/metrics.h"

/* -- where the API server is, and who we are there --------------------------------------------- */

struct kube_conf {              /* texts owned; kube_conf_done */
    char *server;               /* "https://10.0.0.1:6443" */
    char *ca_file;              /* PEM; NULL: the system's roots */
    char *token_file;           /* or NULL */
    char *cert_file, *key_file; /* client certificate; or NULL */
    char *ca_pem;               /* the same as text, before a file; or NULL. All wiped */
    char *cert_pem, *key_pem;
    char *token;
    json_t *exec;   /* a kubeconfig's exec plug-in (kube/exec.h), checked; or NULL */
    char *exec_dir; /* what its command's relative path is beside; "" the working folder */
};
void kube_conf_done(struct kube_conf *c); /* wipes; twice is harmless */
/* As a pod finds it: KUBERNETES_SERVICE_HOST and _PORT, and the projected files. Errors: NOTFOUND
 * (not in a cluster: names the variable), INVAL, NOMEM. */
#define KUBE_IN_CLUSTER_DIR "/var/run/secrets/kubernetes.io/serviceaccount"
MUST_USE int kube_conf_in_cluster(struct kube_conf *ret, struct err *e);
/* A kubeconfig (YAML, or JSON, which is YAML): the context of that name; NULL: the current one.
 * Relative paths are beside the file. Files are read again when they are rotated; the members
 * "...-data" and "token" are as good as the file was. Data goes before a file, a token's file
 * before a token; an exec plug-in is alone. A proxy, another server name, an unverified server,
 * passwords, auth providers and impersonation are refused by name, never passed over. What is
 * secret is wiped, but for what libyaml keeps while it reads. Errors: NOTFOUND, PARSE, LIMIT, SYS.
 * Blocks: disk. */
MUST_USE int kube_conf_from_file(const char *path, const char *context, struct kube_conf *ret,
                                 struct err *e);
/* As kubectl reads KUBECONFIG: paths with colons between. Of a cluster, user or context that
 * several files have, and of the current context, the first file's counts; a file that is not there
 * is passed over, unless none is. Errors: as above. */
MUST_USE int kube_conf_from_files(const char *list, const char *context, struct kube_conf *ret,
                                  struct err *e);
MUST_USE int kube_conf_read(struct span text, const char *path, const char *context,
                            struct kube_conf *ret, struct err *e);

/* -- the client -------------------------------------------------------------------------------- */

enum {
    KUBE_DEADLINE_MS = 10 * 1000,          /* of a request that names none */
    KUBE_MAX_BODY_BYTES = 4 * 1024 * 1024, /* of an answer */
    KUBE_MAX_REQUESTS = 256,               /* under way; beyond: LIMIT */
    KUBE_CONNECTIONS = 32,                 /* for calls; each stream has one more of its own */
    KUBE_TOKEN_MAX_BYTES = 16 * 1024,
    KUBE_TOKEN_EVERY_MS = 10 * 1000, /* how old a read token may be; a 401 reads it at once */
    KUBE_RETRY_FIRST_MS = 100,       /* doubled up to the next, half of it random */
    KUBE_RETRY_MAX_MS = 5 * 1000,
};

struct kube_client;
/* `conf` is copied. A token comes from a file, the kubeconfig, or an exec plug-in, which is run
 * when a request needs it and kept until its credentials end or are answered 401. Errors: INVAL
 * (not an https URL, a file that is missing), NOMEM. */
MUST_USE int kube_client_new(struct loop *l, const struct kube_conf *conf, struct metrics *metrics,
                             struct kube_client **ret, struct err *e);
/* Requests under way end with PEER. Not inside a call-back of its own. NULL is fine. */
void kube_client_free(struct kube_client *c);
DEFINE_CLEANUP(struct kube_client, kube_client_free)
const char *kube_client_server(const struct kube_client *c); /* borrowed, for messages */
/* Told of each try that failed with `why` and is made again, until `until_ms` (mono_ms). */
typedef void kube_retry_fn(const struct err *why, uint64_t until_ms, void *arg);
void kube_client_on_retry(struct kube_client *c, kube_retry_fn *fn, void *arg);

struct kube_request {
    const char *method;    /* "GET", "POST", "PATCH", ... */
    const char *path;      /* "/api/v1/...": with its query, escaped; copied */
    struct span body;      /* copied; wiped afterwards, it may hold a token */
    const char *type;      /* of the body; NULL: application/json */
    uint64_t deadline_ms;  /* for all tries together; 0: KUBE_DEADLINE_MS */
    bool is_safe;          /* may be sent twice although it is not a GET */
    size_t max_body_bytes; /* 0: KUBE_MAX_BODY_BYTES */
    /* A stream: the body of a 2xx answer goes here (net/http.h), with the call's `arg`; such a call
     * is not tried again, and its good end has neither body nor `why`. */
    int (*on_data)(struct span piece, void *arg, struct err *e);
};
/* Exactly one call: `body` (borrowed; an object) on 2xx, or `why`: AUTH (401), DENIED (403: the
 * server's words, which name verb and resource), NOTFOUND, CONFLICT and EXISTS (409), STATE (410:
 * what was asked about is too long ago; 504 as it has not come yet; 403 as the namespace is being
 * terminated), INVAL (400, 415, 422), BUSY (429 and 503, with retry_after_s), PEER
 * (other 5xx, no connection, no JSON), TIMEOUT, LIMIT. 429 and what is safe are tried again while
 * the deadline lasts. */
typedef void kube_done_fn(const json_t *body, const struct err *why, void *arg);
struct kube_call;
/* Never calls back before it returns. `ret` may be NULL. Errors: LIMIT, NOMEM, INVAL. */
MUST_USE int kube_send(struct kube_client *c, const struct kube_request *q, kube_done_fn *done,
                       void *arg, struct kube_call **ret, struct err *e);
void kube_cancel(struct kube_call *q); /* no call-back comes any more; NULL is fine */

/* -- TokenReview ------------------------------------------------------------------------------- */

enum { KUBE_TEXT_BYTES = 512, KUBE_REVIEW_MAX_AUDIENCES = 8 };

struct kube_review { /* what the API server says of a token; texts "" when absent */
    bool is_authenticated;
    char error[KUBE_TEXT_BYTES];
    char username[KUBE_TEXT_BYTES], uid[64];
    bool is_service_account; /* in the group system:serviceaccounts */
    bool has_audience;       /* status.audiences has one of those asked for */
    char pod_name[256], pod_uid[64], node_name[256], credential_id[128];
};
/* `review` on any sound answer (borrowed), or `why` as above, and PEER (not a TokenReview). */
typedef void kube_review_fn(const struct kube_review *review, const struct err *why, void *arg);
/* Asks about `token` (copied, wiped) for `audiences` (1.., ended by NULL). */
MUST_USE int kube_token_review(struct kube_client *c, struct span token,
                               const char *const *audiences, uint64_t deadline_ms,
                               kube_review_fn *done, void *arg, struct err *e);
/* Reads the answer's object. Errors: PEER (not a TokenReview, a member of another type, a text
 * that is too long). */
MUST_USE int kube_review_read(const json_t *o, const char *const *audiences,
                              struct kube_review *ret, struct err *e);

#endif
