/* rotate.h - the plan in force, its gates, and the steps towards what the vault wants. Layer:
 * rotate.
 *
 * plan.h is the protocol without any I/O, as the model states it; this is the driver: plan to the
 * store first, then to the target folder, then wait for evidence. Thread: its loop. Source:
 * design.md "Rotation"; model/rotation.pml.
 */
#ifndef ROTATE_ROTATE_H
#define ROTATE_ROTATE_H

#include <jansson.h>

#include "ledger/ledger.h"
#include "net/loop.h"
#include "obs/metrics.h"
#include "store/store.h"
#include "sync/sync.h"

struct rotate;

struct rotate_conf {
    struct store *store; /* borrowed, as all below */
    struct ledger *ledger;
    struct metrics *metrics;
    const char *target_dir;   /* the CA's folder; copied */
    bool hold_replacement;    /* root replaced straight: hold it instead of staging it */
    uint64_t renew_window_ms; /* leaves of the old signer are asked to renew within this */
    size_t replicas_n;        /* how many CA replicas must report before a gate opens */
    /* Fetches a pinned set (sync_fetch); NULL while no vault is configured. */
    int (*fetch)(void *self, const struct sync_versions *v, sync_fetched_fn *done, void *arg,
                 struct err *e);
    void *self;
};

/* Reads the plan from the store; if the target folder lags behind it, brings it up (fetching the
 * pinned signer). */
MUST_USE int rotate_new(struct loop *l, const struct rotate_conf *conf, struct rotate **ret,
                        struct err *e);
void rotate_free(struct rotate *r); /* NULL is fine */

/* What the vault holds now (sync's on_bundle). The first one ever becomes the plan. */
void rotate_want(struct rotate *r, struct bundle *b, const struct sync_versions *v);
/* A CA replica has loaded this (rule 1 and 2: "every replica hands out"). */
void rotate_replica(struct rotate *r, const char *replica, uint64_t generation,
                    const struct roots *roots, const uint8_t signer_id[DIGEST_BYTES]);
/* Evidence may have changed (an acknowledgement, a row): look at the gates soon. */
void rotate_poke(struct rotate *r);

/* Takes the step that is held now, without its gate; *ret_risk (owner: caller) says who may be
 * stranded. Errors: STATE (nothing is held). */
MUST_USE int rotate_force(struct rotate *r, json_t **ret_risk, struct err *e);
/* mesh disable: forgets plan and wanted set (store first). Errors: SYS. */
MUST_USE int rotate_reset(struct rotate *r, struct err *e);

/* {"generation","class","step","held":{"reason","waits_for":[...]},"roots":[...],"signer":{...},"wanted":{...}}
 */
json_t *rotate_status(const struct rotate *r);

#endif
