/* ledger.h - the append-only record of every leaf, and who uses which. Layer: ledger.
 *
 * A row is durable before its leaf leaves the process (group commit). Rows are chained by SHA-256.
 * From the rows and the workloads' own words the ledger knows which leaves may still be in use: a
 * leaf is in use when it is issued, not expired, and its holder has not said that it uses a newer
 * one; a row written after that word stays in use. Source: design.md invariant 3, "Rotation" rules
 * 2 and 3; model/rotation.pml (`ledger`, `ack`).
 *
 * Thread: any (one lock inside; an exception to "no locks above store/", because every worker
 * appends).
 */
#ifndef LEDGER_LEDGER_H
#define LEDGER_LEDGER_H

#include "base/err.h"
#include "net/loop.h"
#include "obs/metrics.h"
#include "pki/bundle.h"
#include "pki/pki.h"
#include "store/store.h"

enum {
    LEDGER_ID_BYTES = 16,
    LEDGER_IDENTITY_BYTES = 512,
    INSTANCE_TEXT_BYTES = 33, /* 16 random bytes as hex: one running (or resumed) agent */
    LEDGER_AUTH_BYTES = 160,
    LEDGER_KEY_ID_BYTES = 64,
    LEDGER_LEAVES_MAX = 4 * 1024 * 1024, /* issued and not expired, in memory; beyond: LIMIT */
    LEDGER_WORKLOADS_MAX = 1024 * 1024,  /* with such a leaf, or a word of the last hour */
    LEDGER_ISSUERS_MAX = 65536,          /* distinct roots and intermediates of those leaves */
    LEDGER_IDENTITY_LEAVES_MAX = LEDGER_LEAVES_MAX / 4, /* of one identity; beyond: LIMIT */
    LEDGER_IDENTITY_WORKLOADS_MAX = LEDGER_WORKLOADS_MAX / 16,
    LEDGER_WAITING_MAX = 65536, /* rows on their way to the disk */
};

struct ledger_row {
    uint8_t version; /* of the row's layout: 0 the newest; 1 has no key_id */
    uint64_t seq;    /* set by ledger_append; grows, with gaps where the disk refused rows */
    uint8_t serial[SERIAL_MAX_BYTES];
    size_t serial_n;
    char identity[LEDGER_IDENTITY_BYTES]; /* SPIFFE id */
    char instance[INSTANCE_TEXT_BYTES];   /* "" for clients that cannot say (a stock Istio agent) */
    uint8_t signer_id[DIGEST_BYTES];      /* cert_id of the intermediate */
    uint8_t root_id[DIGEST_BYTES];        /* cert_id of the root it chains to */
    uint8_t key_id[LEDGER_KEY_ID_BYTES];  /* of the signer's key, as the leaf's AKI names it */
    size_t key_id_n;                      /* 0: the intermediate has none */
    int64_t not_before, not_after, issued; /* unix seconds */
    uint64_t generation; /* of the bundle it was issued under, and of the trust set beside it */
    char auth[LEDGER_AUTH_BYTES]; /* "jwt:<jti or sub hash>" or "cert:<serial>" */
};

struct ledger;

/* Reads the words and, from the newest row back to where no leaf can be alive any more, the rows,
 * whose chain it checks on the way; about 3 us for each. Errors: PARSE (a broken chain: which row),
 * SYS, LIMIT. */
MUST_USE int ledger_open(struct store *s, struct metrics *m, struct ledger **ret, struct err *e);
/* LEDGER_ID_BYTES, random, made at the first start and kept with the rows: another id under the
 * same name means that the rows of before are lost. Borrowed; never changes. */
const uint8_t *ledger_id(const struct ledger *l);
/* After its loops have stopped, before its store is closed. Waits for what is on its way; NULL is
 * fine. */
void ledger_close(struct ledger *l);
/* From now on rows whose leaf expired longer ago than `keep_ms` are removed in the background, from
 * the oldest on and never the newest; what is left stays verifiable (reader.h). Called once at
 * most. Errors: SYS (no thread), NOMEM. */
MUST_USE int ledger_keep_for(struct ledger *l, uint64_t keep_ms, struct err *e);

/* Appends; done(e, arg) on `loop` once durable (e->code == E_NONE) or not (then it does not exist,
 * nor do those appended behind it meanwhile). The row counts as in use from this call on. `done`
 * may be NULL. Errors: LIMIT, NOMEM, INVAL (no identity, no serial). */
typedef void ledger_done_fn(const struct err *e, void *arg);
MUST_USE int ledger_append(struct ledger *l, const struct ledger_row *row, struct loop *loop,
                           ledger_done_fn *done, void *arg, struct err *e);

/* Keeps the certificates of the bundle's signer and roots, which rows name by id, so that they can
 * be asked for by subject; on disk before any row that is appended afterwards. Errors: LIMIT,
 * NOMEM. */
MUST_USE int ledger_note_issuers(struct ledger *l, const struct bundle *b, struct err *e);

/* A workload's word: it holds this trust set, of this generation, and uses this leaf (serial_n 0:
 * none yet), whose row, here or in another replica's ledger, is of leaf_generation (0: it does not
 * say). */
struct ledger_ack {
    char identity[LEDGER_IDENTITY_BYTES], instance[INSTANCE_TEXT_BYTES];
    uint64_t generation;
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    size_t roots_n;
    uint8_t serial[SERIAL_MAX_BYTES];
    size_t serial_n;
    uint64_t leaf_generation;
    bool ended; /* it says that it stops and has wiped its key: nothing of it is in use */
};
/* Durable before `done`. A word for an instance of another identity is DENIED; one of an older
 * generation than the last is dropped (r > 0, and `done` is not called). Only words about leaves
 * that are in the ledger under that identity and instance retire rows. A later word about an
 * earlier leaf (the workload went back to it) brings what lies between back into use. Errors:
 * DENIED, INVAL (no instance), LIMIT, NOMEM. */
enum { LEDGER_STALE = 1 };
MUST_USE int ledger_acknowledge(struct ledger *l, const struct ledger_ack *a, struct loop *loop,
                                ledger_done_fn *done, void *arg, struct err *e);

/* One workload instance with leaves in use (or one identity's instance-less clients, instance "").
 */
struct ledger_workload {
    const char *identity, *instance; /* borrowed for the call */
    bool can_acknowledge;            /* it has an instance id */
    uint64_t ack_generation;         /* 0: never acknowledged */
    const uint8_t (*ack_roots)[DIGEST_BYTES];
    size_t ack_roots_n;
    uint64_t min_row_generation;               /* the oldest generation among its leaves in use */
    size_t leaves_n;                           /* in use */
    const uint8_t (*leaf_roots)[DIGEST_BYTES]; /* the distinct roots of its leaves in use */
    size_t leaf_roots_n;
    const uint64_t *leaf_root_generations; /* beside leaf_roots: the newest generation among its
                                              leaves in use under each; NULL: not known */
    const uint8_t (*leaf_signers)[DIGEST_BYTES]; /* the distinct signers of its leaves in use */
    size_t leaf_signers_n;
    int64_t last_not_after; /* when the last of them ends */
    /* For who puts several ledgers together (ca/evidence.h): unix seconds by this machine's clock.
     */
    int64_t said;             /* its last word; 0: none */
    int64_t last_issued;      /* the newest of its leaves in use */
    int64_t used_issued;      /* the leaf that its last word names; 0: none, one that is not of this
                                 ledger, or said before this process began */
    uint64_t used_generation; /* of the leaf that its last word names, whoever issued it; 0: not
                                 known */
    uint64_t ended_generation; /* its last word ends it: nothing up to this generation is in use,
                                  whoever issued it; 0: it has not ended, or has not said this */
};
typedef void ledger_workload_fn(const struct ledger_workload *w, void *arg);
/* Calls fn for each workload with at least one leaf in use now (expired rows are let go first). fn
 * must not call the ledger. */
void ledger_workloads(struct ledger *l, ledger_workload_fn *fn, void *arg);

/* The same, and each that has said a word within the hour though no leaf of this ledger is in use
 * by it (leaves_n 0): replicas' ledgers know parts of one workload. */
void ledger_workloads_said(struct ledger *l, ledger_workload_fn *fn, void *arg);

/* One leaf that has not expired, whether its holder has replaced it or not. */
struct ledger_leaf {
    const char *identity, *instance; /* all borrowed for the call */
    struct span serial;
    const uint8_t *signer_id; /* DIGEST_BYTES */
    int64_t not_after;
    uint64_t seq;
};
typedef void ledger_leaf_fn(const struct ledger_leaf *leaf, void *arg);
/* Calls fn for each such leaf of `identity` (NULL: of all), also for those whose row is on its way
 * to the disk; the newest seq so far. fn must not call the ledger. About 30 ns a leaf of all. */
uint64_t ledger_leaves(struct ledger *l, const char *identity, ledger_leaf_fn *fn, void *arg);

/* Rows, newest first, at most `limit`, older than seq `before` (0: from the newest). Blocks: disk.
 */
typedef int ledger_row_fn(const struct ledger_row *row, void *arg, struct err *e);
MUST_USE int ledger_rows(struct ledger *l, uint64_t before, size_t limit, ledger_row_fn *fn,
                         void *arg, struct err *e);
/* Walks the whole chain. Errors: DENIED (the first bad row, and what is wrong with it). Blocks:
 * disk. */
MUST_USE int ledger_verify(struct ledger *l, uint64_t *ret_rows, struct err *e);
/* Whether rows can be written just now: as store_health. */
MUST_USE int ledger_health(struct ledger *l, struct err *e);
uint64_t ledger_count(struct ledger *l); /* rows ever appended */

#endif
