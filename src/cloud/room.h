/* room.h - private to cloud/. */
#ifndef CLOUD_ROOM_H
#define CLOUD_ROOM_H

#include <jansson.h>

#include "cloud/cloud.h"
#include "obs/log.h"

enum { KID_BYTES = 64, GUID_BYTES = 37, FAILING_MAX = 64 };

/* A client id with recent wrong secrets. */
struct failing {
    char client_id[GUID_BYTES];
    uint64_t since_ms;
    unsigned n;
};

struct cloud {
    struct store *store;
    struct key *key; /* a reference */
    struct metrics *metrics;
    struct jwks *jwks;
    struct buf jwks_json;
    char tenant[64], kid[KID_BYTES];
    struct failing failing[FAILING_MAX];
    struct log_brake refusals;
};

/* A random (version 4) GUID as text. Source: RFC 9562 5.4. */
MUST_USE int guid_make(char ret[GUID_BYTES], struct err *e);

/* The app, when `secret` is its secret. r: 0; CLOUD_NO_APP unknown id. Errors: AUTH (wrong secret),
 * SYS. Blocks: disk. */
MUST_USE int app_check(struct cloud *c, const char *client_id, struct span secret,
                       struct cloud_app *ret, struct err *e);

/* POST /{tenant}/oauth2/v2.0/token and /{tenant}/oauth2/token (v1). */
void token_serve(struct cloud *c, struct http_exchange *x, struct span tenant, bool v1);

/* "https://HOST" as the client addressed us. */
void base_url(const struct http_exchange *x, char ret[512]);
void reply_json(struct http_exchange *x, int status, json_t *take_j);

#endif
