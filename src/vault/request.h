/* request.h - private to vault/: one request to the server under way, and the server's state. */
#ifndef VAULT_REQUEST_H
#define VAULT_REQUEST_H

#include "base/bucket.h"
#include "net/addr.h"
#include "pki/seal.h"
#include "vault/secret_json.h"
#include "vault/vault.h"
#include "obs/log.h"

enum {
    VAULT_NAME_BYTES = 25,
    VAULT_HOST_BYTES = 300,
    VAULT_TENANT_BYTES = 64,
    API_VERSION_BYTES = 64,
    VAULT_KEY_BYTES = 256, /* "vault/" + name + "/version/" + secret + "/" + version */
    VAULT_SEGMENTS = 4,
};

struct vault_slot { /* one vault served */
    char name[VAULT_NAME_BYTES];
    struct bucket reads, creates;
};

struct vault {
    struct vault_conf conf; /* texts replaced by the copies below */
    struct seal *seal;
    struct vault_slot slots[VAULT_MAX];
    char dns_suffix[VAULT_HOST_BYTES], authority[VAULT_HOST_BYTES], tenant[VAULT_TENANT_BYTES],
        issuer[VAULT_HOST_BYTES];
    struct log_brake strangers;     /* who has no good token */
    struct vault_request *requests; /* under way, answered or not */
};

struct vault_request;

/* One operation of the API: a row of the table in vault.c. */
struct vault_op {
    const char *name; /* "set"; in logs and metrics */
    const char *method;
    const char *path[VAULT_SEGMENTS]; /* "*" is a name or a version; NULL ends it */
    const char *action;               /* RBAC data action below Microsoft.KeyVault/vaults/ */
    enum vault_role role;             /* the least that may do it */
    bool creates;                     /* counts against the budget of creations */
    /* Answers now or later. Errors are the server's own: 500, or 503 when they pass. NULL: not
     * supported. */
    int (*run)(struct vault_request *q, struct err *e);
};

struct vault_request {
    struct vault *v;         /* NULL: the server ended meanwhile */
    struct http_exchange *x; /* NULL: the client went away */
    struct vault_request *next, **prev;
    const struct vault_op *op; /* NULL before routing */
    struct vault_slot *slot;
    int64_t start_us;
    char segments[VAULT_SEGMENTS][SECRET_NAME_BYTES];
    size_t segments_n;
    char base[VAULT_HOST_BYTES];     /* "https://host:port" as the client says it */
    char resource[VAULT_HOST_BYTES]; /* of the challenge */
    const char *authority;           /* of the challenge */
    char api_version[API_VERSION_BYTES];
    char name[SECRET_NAME_BYTES], lower[SECRET_NAME_BYTES]; /* as given, and lower-case */
    char version[SECRET_VERSION_BYTES];                     /* "": the latest */
    char oid[64], appid[64], peer[ADDR_TEXT_BYTES];
    /* writes */
    struct secret_change change;
    struct secret_meta meta; /* what is being written */
    char shown[SECRET_NAME_BYTES];
    unsigned tries;
};

/* Ends `q` with an answer, one audit line and the metrics. `j` is taken. */
void request_finish(struct vault_request *q, int status, json_t *take_j);
/* Ends `q` with the service's error shape; `inner` NULL for none. */
void request_fail(struct vault_request *q, int status, const char *code, const char *inner,
                  const char *fmt, ...) PRINTF(5, 6);
/* Ends `q` for an error of ours: 503 when it passes by itself, else 500. */
void request_fail_err(struct vault_request *q, const struct err *e);

/* Sets slot, base and resource from Host. False: answered. */
bool request_host(struct vault_request *q);
/* The caller's identity from the bearer token. False: answered with the challenge. */
bool request_authenticate(struct vault_request *q);

/* Store keys. */
void key_secret(const struct vault_request *q, const char *lower, char ret[VAULT_KEY_BYTES]);
void key_version(const struct vault_request *q, const char *lower, const char *version,
                 char ret[VAULT_KEY_BYTES]);
void key_value(const struct vault_request *q, const char *lower, const char *version,
               char ret[VAULT_KEY_BYTES]);

/* The current pointer of a secret. */
struct secret_head {
    char shown[SECRET_NAME_BYTES];      /* its name as first written */
    char current[SECRET_VERSION_BYTES]; /* version id */
    uint64_t revision;
};
/* r: 0; STORE_ABSENT. Errors: of the store; PARSE. */
MUST_USE int head_load(const struct vault_request *q, const char *lower, struct secret_head *ret,
                       struct err *e);
/* r: 0; STORE_ABSENT. `ret` is the caller's: secret_meta_done. */
MUST_USE int meta_load(const struct vault_request *q, const char *lower, const char *version,
                       struct secret_meta *ret, uint64_t *ret_revision, struct err *e);
/* q->name not found: 404 SecretNotFound. */
void request_not_found(struct vault_request *q);
/* "https://host/secrets/name[/version]". */
enum { SECRET_ID_BYTES = VAULT_HOST_BYTES + 200 };
void secret_id(const struct vault_request *q, const char *shown, const char *version,
               char ret[SECRET_ID_BYTES]);

/* Operations. */
int op_get(struct vault_request *q, struct err *e);
int op_list(struct vault_request *q, struct err *e);
int op_list_versions(struct vault_request *q, struct err *e);
int op_set(struct vault_request *q, struct err *e);
int op_update(struct vault_request *q, struct err *e);

#endif
