/* courier.h - carries revocations between the replicas of one CA: what one has, all get. Layer: ca.
 *
 * A replica takes calls, and makes none; so the operator, which knows them all, goes round: it asks
 * each for all that it has revoked, and tells it what the others have. What a replica had stays
 * known here when it has gone. Thread: its loop. Source: proto/meshroot.proto, Revocations;
 * docs/revocation.md.
 */
#ifndef CA_COURIER_H
#define CA_COURIER_H

#include "ca/evidence.h"

enum {
    COURIER_STOPS_MAX = 32,        /* replicas */
    COURIER_EVERY_MS = 2000,       /* each is asked so often */
    COURIER_LATER_MS = 10000,      /* after a failure */
    COURIER_DENIED_MS = 60 * 1000, /* ... that only a person can mend */
};

struct courier;
struct courier_stop; /* one replica */

/* One call to a replica (meshroot.v1.Revocations/Exchange). `done` comes once, later, unless the
 * one who is asked has been given up (courier_part). Errors: as evidence_client_sign's. */
typedef void courier_answer_fn(struct span answer, const struct err *why, void *arg);
struct courier_port {
    int (*exchange)(void *self, struct span request, courier_answer_fn *done, void *arg,
                    struct err *e);
    void *self;
};
struct courier_port evidence_client_courier_port(struct evidence_client *c);

/* Errors: NOMEM, SYS. */
MUST_USE int courier_new(struct loop *l, struct courier **ret, struct err *e);
void courier_free(struct courier *c); /* NULL is fine; parts from all */
/* `name` is for the log, copied. Errors: LIMIT, NOMEM. */
MUST_USE int courier_join(struct courier *c, const struct courier_port *port, const char *name,
                          struct courier_stop **ret, struct err *e);
void courier_part(struct courier_stop *s);     /* before its client is freed; NULL is fine */
size_t courier_count(const struct courier *c); /* leaves that are carried */

#endif
