/* lease.h - one leader among several, by a Lease. Layer: kube.
 *
 * Nobody's timestamps are believed: a candidate counts, on its own monotonic clock, how long the
 * record has not changed, and takes it over after the duration that the record names. The leader
 * counts from the moment it sent the last renewal that was accepted, and stops after the shorter
 * renew deadline. So clocks may differ by any amount; they only have to run alike. What a leader
 * writes should still name the version it read: a process that was frozen does not know it yet.
 * Source: Kubernetes API concepts "Leases", coordination.k8s.io/v1; timings of client-go.
 */
#ifndef KUBE_LEASE_H
#define KUBE_LEASE_H

#include "base/clock.h"
#include "kube/feed.h"
#include "kube/write.h"

enum {
    KUBE_LEASE_DURATION_MS = 15 * 1000, /* unchanged for so long, it is free */
    KUBE_LEASE_RENEW_MS = 10 * 1000,    /* without a renewal for so long, its leader is none */
    KUBE_LEASE_RETRY_MS = 2 * 1000,     /* between renewals; candidates: up to 2.2 times as long */
    KUBE_LEASE_DURATION_MAX_S = 3600,   /* of somebody else's record */
    KUBE_LEASE_HOLDER_BYTES = 254,
};

/* -- the protocol, without I/O ------------------------------------------------------------------
 * Thread: any. Times are of one monotonic clock. */

struct kube_lease_record {
    char holder[KUBE_LEASE_HOLDER_BYTES];                 /* "": released */
    char renewed[RFC3339_BYTES], acquired[RFC3339_BYTES]; /* only compared, never read as times */
    uint64_t duration_ms;                                 /* 1 s .. KUBE_LEASE_DURATION_MAX_S */
    int64_t transitions;
};
/* Reads a Lease. Errors: PARSE (a member of another type, a text that is too long). */
MUST_USE int kube_lease_read(const json_t *o, struct kube_lease_record *ret, struct err *e);

struct kube_lease_view { /* what one candidate knows; zeroed, with `who` and `renew_ms` set */
    const char *who;     /* borrowed */
    uint64_t renew_ms;
    struct kube_lease_record seen;
    uint64_t seen_ms; /* since when it has been unchanged, as far as we saw */
    bool has_seen;
    bool is_mine;           /* our last write was accepted, and nothing else was seen since */
    uint64_t held_until_ms; /* with is_mine */
};
enum kube_lease_move { KUBE_LEASE_WAIT, KUBE_LEASE_CREATE, KUBE_LEASE_TAKE };
/* What to do after the record was read at `now_ms`; `r` NULL: there is none. A record that names us
 * and that we did not write in this life (a restart under the same name) is waited for as
 * anybody's. */
enum kube_lease_move kube_lease_judge(struct kube_lease_view *v, const struct kube_lease_record *r,
                                      uint64_t now_ms);
/* Our write of `r`, sent at `sent_ms`, was accepted. */
void kube_lease_confirm(struct kube_lease_view *v, const struct kube_lease_record *r,
                        uint64_t sent_ms);
bool kube_lease_holds(const struct kube_lease_view *v, uint64_t now_ms);

/* -- election -----------------------------------------------------------------------------------
 */

struct kube_lease_conf {
    const char *ns, *name; /* copied */
    const char *who;       /* unique among candidates and their restarts ("POD_UID"); copied */
    uint64_t duration_ms, renew_ms, retry_ms; /* 0: as above; retry < renew < duration or INVAL */
    struct metrics *metrics;                  /* borrowed; may be NULL */
    void (*gained)(void *arg);
    /* Ours no more, and nobody else's yet unless `why` is CONFLICT: stop at once. TIMEOUT: it could
     * not be renewed. The candidacy goes on. */
    void (*lost)(const struct err *why, void *arg);
    void *arg;
};
struct kube_lease;
/* A candidate from now on. Belongs to the client's loop; the client outlives it. Errors: INVAL,
 * NOMEM. */
MUST_USE int kube_lease_new(struct loop *l, struct kube_client *c,
                            const struct kube_lease_conf *conf, struct kube_lease **ret,
                            struct err *e);
/* True between gained and lost, judged by the clock now: look before each write. */
bool kube_lease_is_held(const struct kube_lease *l);
const char *kube_lease_holder(const struct kube_lease *l);  /* as last seen; "" none; borrowed */
const char *kube_lease_trouble(const struct kube_lease *l); /* of the last try; ""; borrowed */
/* For an orderly end, when all that the leader does has stopped: no call-back of conf comes any
 * more, the record is freed so that the next one need not wait, and done(arg) is called once,
 * within KUBE_LEASE_RETRY_MS or so, whether that worked or not. */
void kube_lease_release(struct kube_lease *l, loop_fn *done, void *arg);
/* Silent, and the record stays until its time is over. Not from its own call-backs; NULL is fine.
 */
void kube_lease_free(struct kube_lease *l);
DEFINE_CLEANUP(struct kube_lease, kube_lease_free)

#endif
