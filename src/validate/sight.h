/* sight.h - one look at everything the verdict rests on. Layer: validate (private). */
#ifndef VALIDATE_SIGHT_H
#define VALIDATE_SIGHT_H

#include "net/addr.h"
#include "validate/decide.h"
#include "validate/deployment.h"
#include "validate/session.h"

struct sight {                   /* all owned; zeroed, then sight_done */
    struct validate_facts facts; /* pods: the ones below */
    struct validate_pod pods[VALIDATE_PODS_MAX];
    char ips[VALIDATE_PODS_MAX][HOST_BYTES];
    struct validate_istiod istiod;
    struct validate_memory memory;
    json_t *deployment;
    struct roots *wanted, *loaded, *all;
    uint8_t roots_digest[DIGEST_BYTES]; /* SHA-256 of the Secret's root-cert.pem */
    struct buf wanted_text;
};
void sight_done(struct sight *s); /* twice is harmless */

/* Errors: as validate_run's. The key in the Secret is not looked at, and wiped. */
MUST_USE int sight_take(struct session *s, struct sight *ret, struct err *e);
/* The Secret again, and nothing else. */
MUST_USE int sight_take_secret(struct session *s, struct sight *t, struct err *e);
/* ConfigMap and pods again, for the Secret that was read. */
MUST_USE int sight_take_loaded(struct session *s, struct sight *t, struct err *e);
MUST_USE int sight_take_deployment(struct session *s, struct sight *t, struct err *e);
/* facts.workloads_since. Errors: DENIED (pods of the whole cluster may not be listed), ... */
MUST_USE int sight_take_workloads(struct session *s, struct sight *t, struct err *e);

#endif
