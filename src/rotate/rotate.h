/* rotate.h - the plan in force, its gates, and the steps towards what the vault wants. Layer:
 * rotate.
 *
 * plan.h is the protocol without any I/O, as the model states it; this is the driver: plan to where
 * it is kept first, then to the target, then wait for evidence. Both are ports (ports.h). Thread:
 * its loop. Source: design.md "Rotation"; model/rotation.pml.
 */
#ifndef ROTATE_ROTATE_H
#define ROTATE_ROTATE_H

#include <jansson.h>

#include "ledger/ledger.h"
#include "net/loop.h"
#include "obs/metrics.h"
#include "rotate/ports.h"
#include "sync/sync.h"

struct rotate;

struct rotate_conf {
    struct rotate_plans plans;
    struct rotate_target target; /* what the CA signs with */
    struct ledger *ledger;       /* borrowed, as all below */
    /* Leaves in use from elsewhere than this process's ledger; NULL: ledger_workloads(ledger). */
    void (*workloads)(void *self, ledger_workload_fn *fn, void *arg);
    void *workloads_self;
    struct metrics *metrics;  /* may be NULL */
    bool hold_replacement;    /* root replaced straight: hold it instead of staging it */
    uint64_t renew_window_ms; /* leaves of the old signer are asked to renew within this */
    bool lists_whole; /* the target wants a revocation list for each certificate, once there is one
                         (a stock istiod) */
    int64_t min_life_s; /* a signer whose chain ends sooner is not moved to: the CA refuses one
                           with less than a leaf lifetime; 0: it must not have expired */
    uint64_t floor;    /* generations up to this one were used before; the first plan is above it */
    size_t replicas_n; /* how many CA replicas must report before a gate opens */
    /* Without a plan, a set in the target is one whose plan was lost: it is in force, and the
     * vault's is gone to by the gates. False: it is written over. */
    bool recovers;
    /* Fetches a pinned set (sync_fetch); NULL while no vault is configured. */
    int (*fetch)(void *self, const struct sync_versions *v, sync_fetched_fn *done, void *arg,
                 struct err *e);
    void *self;
};

/* Reads the plan; if the target lags behind it, brings it up (fetching the pinned signer). */
MUST_USE int rotate_new(struct loop *l, const struct rotate_conf *conf, struct rotate **ret,
                        struct err *e);
void rotate_free(struct rotate *r); /* NULL is fine */
DEFINE_CLEANUP(struct rotate, rotate_free)

/* What the vault holds now (sync's on_bundle). The first one ever becomes the plan. */
void rotate_want(struct rotate *r, struct bundle *b, const struct sync_versions *v);
/* A CA replica has loaded this (rules 2 and 3). To be called only when nothing of that replica can
 * append a ledger row, or hand out a trust set, of an older generation any more: no worker is
 * between taking an older bundle and the row of its leaf. The gates rely on it. */
void rotate_replica(struct rotate *r, const char *replica, uint64_t generation,
                    const struct roots *roots, const uint8_t signer_id[DIGEST_BYTES]);
/* The same, where the ids came over a wire. */
void rotate_replica_ids(struct rotate *r, const char *replica, uint64_t generation,
                        const uint8_t (*roots)[DIGEST_BYTES], size_t roots_n,
                        const uint8_t signer_id[DIGEST_BYTES]);
/* From now on so many replicas must report before a gate opens. */
void rotate_expect(struct rotate *r, size_t replicas_n);
/* That replica has ended for good; the gates stop waiting for it. */
void rotate_replica_gone(struct rotate *r, const char *replica);
/* A write of the target is over (`why` NULL), has failed, or somebody else changed what is there:
 * it is read anew. Not inside the target's own `write`. */
void rotate_target_moved(struct rotate *r, const struct err *why);
/* Evidence may have changed (an acknowledgement, a row): look at the gates soon. */
void rotate_poke(struct rotate *r);

/* Takes the step that is held now, without its gate; *ret_risk (owner: caller) says who may be
 * stranded: {"step","reason","detail","generation","at_risk":[as waits_for],"at_risk_total"}.
 *   only   its word ("force" in the status), which no other step has: of another generation, kind,
 *          or wish of the vault's; NULL: whichever it is
 * Errors: BUSY (a step is under way, or the vault was not read yet: look again), STATE (nothing is
 * held; another step than `only`; what holds it is no gate, so that force cannot help: says what).
 */
MUST_USE int rotate_force(struct rotate *r, const char *only, json_t **ret_risk, struct err *e);
/* How the last forced step went. r: 0 it is in force, or there was none; ROTATE_STORING it is on
 * its way to the store. Errors: as the store's; the step was not taken. */
enum { ROTATE_STORING = 1, ROTATE_WORD_BYTES = 64 };
MUST_USE int rotate_forced(const struct rotate *r, struct err *e);
/* The step of this word was forced, and none since: the plan says so, whoever drove it then. */
bool rotate_was_forced(const struct rotate *r, const char *word);
/* mesh disable: forgets plan and wanted set (store first; waits for the disk). The set in the
 * folder is the caller's to replace afterwards, by one of a generation above rotate_generation:
 * workloads hold that one, and drop what is older. The next plan goes on above both. Errors: SYS.
 */
MUST_USE int rotate_reset(struct rotate *r, struct err *e);
/* Of the plan in force; without one, the last there was (0: never one). */
uint64_t rotate_generation(const struct rotate *r);

/* Who is trusted and who signs, as the plan has it, whatever lies in the target. `roots` is
 * borrowed until the next turn. r: false, and *ret unset: there is no plan. */
struct rotate_in_force {
    uint64_t generation;
    struct roots *roots;
    uint8_t signer_id[DIGEST_BYTES], signer_root[DIGEST_BYTES];
};
bool rotate_in_force(const struct rotate *r, struct rotate_in_force *ret);

/* {"generation","class","remaining","step","settled","held":null|{"reason","detail","gated",
 * "force":null|its word,"waits_for":[{"identity","instance","why","until"}],"waits_for_total",
 * "workloads_waiting"},
 * "roots":[{"subject","id","since","not_after"}],"signer":{"subject","id","root_id","versions"},
 * "wanted":null|{"roots","signer","since"},"replicas":[{"name","generation","signer_id"}],
 * "lists":null|{"version","lists","entries","next_update","held"},
 * "last_steps":[{"time","generation","step","class","reason","forced"}]}; times are RFC 3339 or
 * null. "class" is of the change as it came, "remaining" of what is left of it. Without a plan
 * "roots" is empty and "signer" null. Owner: caller; NULL: out of memory. */
json_t *rotate_status(const struct rotate *r);

#endif
