/* workload_jwt.h - private to agent/: the JWT half of the Workload API. Layer: agent. Thread: its
 * loop.
 *
 * Tokens come from the CA, one question for all who wait for the same audiences, and are kept until
 * half of their life is over. The key set comes with the trust set. Source: specs/protos.md 5;
 * SPIFFE JWT-SVID 4, 5; SPIFFE Workload API 6.
 */
#ifndef AGENT_WORKLOAD_JWT_H
#define AGENT_WORKLOAD_JWT_H

#include <jansson.h>

#include "agent/workload.h"

enum {
    JWT_CACHE_MAX = 64,    /* tokens kept; beyond, the one that ends first goes */
    JWT_ASKS_MAX = 64,     /* questions under way at the CA; beyond: RESOURCE_EXHAUSTED */
    JWT_WAITING_MAX = 256, /* calls that wait for them; beyond: RESOURCE_EXHAUSTED */
    JWT_ASK_AUDIENCES = 8,
    JWT_AUDIENCE_BYTES = 256, /* with its NUL */
    JWT_KEYS_MAX_BYTES = 64 * 1024,
    STRUCT_DEPTH_MAX = 16,
};

struct workload_jwt;

/* `w` and `port` are borrowed. Owner: caller. Errors: NOMEM. */
MUST_USE int workload_jwt_new(struct workload *w, const struct workload_jwt_port *port,
                              struct workload_jwt **ret, struct err *e);
/* No question may be under way at the port any more. NULL is fine. */
void workload_jwt_free(struct workload_jwt *j);

/* The key set as the CA gave it. r: 0; JWT_KEYS_SAME. Errors: PARSE, LIMIT: the former one stays.
 */
enum { JWT_KEYS_SAME = 1 };
MUST_USE int workload_jwt_use(struct workload_jwt *j, struct span jwks, struct err *e);
/* It; empty before the first one. Borrowed. */
struct span workload_jwt_keys(const struct workload_jwt *j);

/* Calls that are admitted; they end them. */
void workload_jwt_fetch(struct workload_jwt *j, struct grpc_call *c, struct span msg);
void workload_jwt_validate(struct workload_jwt *j, struct grpc_call *c, struct span msg);

/* A JSON object as google.protobuf.Struct, appended. Errors: LIMIT (deeper than STRUCT_DEPTH_MAX).
 */
MUST_USE int struct_encode(const json_t *o, struct buf *out, struct err *e);

#endif
