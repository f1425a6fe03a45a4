/* plan.h - the rotation protocol without I/O, clock or allocation. Layer: rotate (private).
 *
 * The plan says what the fleet is given now; the wanted set says where the operator wants it.
 * plan_next takes one small step from the one towards the other, or says why not yet. The four
 * rules of design.md "Rotation" are all here; tests/unit/rotate/test_model.c plays
 * model/rotation.pml against this code, and shows for each rule that a run without it strands a
 * workload. Thread: any. Source: design.md "Rotation"; model/rotation.pml.
 */
#ifndef ROTATE_PLAN_H
#define ROTATE_PLAN_H

#include <jansson.h>

#include "ledger/ledger.h"
#include "pki/pki.h"
#include "sync/sync.h"

enum {
    PLAN_WAITS_MAX = 16, /* named in a held step; all are counted */
    PLAN_WHY_BYTES = 128,
    PLAN_DETAIL_BYTES = 256,
    PLAN_JSON_BYTES = 256 * 1024, /* = STORE_VALUE_BYTES */
    PLAN_WORD_BYTES = 64,         /* = ROTATE_WORD_BYTES */
};

#define GENERATION_MAX (UINT64_C(1) << 62) /* no number that was handed out comes near it */

/* Which intermediate signs, under which root, presented with which chain, and the vault's versions
 * it came from (not compared: the same content set again is no change). */
struct plan_signer {
    uint8_t id[DIGEST_BYTES];       /* cert_id of ca-cert */
    uint8_t root_id[DIGEST_BYTES];  /* cert_id of the root it chains to */
    uint8_t chain_id[DIGEST_BYTES]; /* SHA-256 over the ids of the chain as presented */
    struct sync_versions versions;
};

struct plan_root {
    uint8_t id[DIGEST_BYTES];
    uint64_t since; /* the generation in which it last came in */
};

/* In force: a value, copied freely. generation >= 1; 1..ROOTS_MAX roots, signer.root_id among them.
 */
struct plan {
    uint64_t generation;
    struct plan_root roots[ROOTS_MAX];
    size_t roots_n;
    struct plan_signer signer;
    char forced[PLAN_WORD_BYTES]; /* the last step that was forced (rotate_force); "": none was */
};

/* From one bundle, so consistent: signer.root_id is among the roots. */
struct plan_wanted {
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    size_t roots_n;
    struct plan_signer signer;
};

/* -- classes (design.md, the table) --------------------------------------------------------------
 * A reordered or re-wrapped set is CLASS_NONE: sets of certificates are compared. An inconsistent
 * one never comes here: bundle_new refuses it.
 */
enum plan_class {
    CLASS_NONE,
    CLASS_INTERMEDIATE,             /* another intermediate under the root that signs now */
    CLASS_ROOT_ADDED,               /* the signer stays under its root */
    CLASS_BOTH_AT_ONCE,             /* a root comes in, and the signer goes under another root */
    CLASS_SIGNER_MOVED,             /* the same roots, the signer under another of them */
    CLASS_ROOT_REMOVED,             /* the signer stays under its root */
    CLASS_SIGNER_MOVED_AND_REMOVED, /* the last two at once */
    CLASS_ROOT_REPLACED,            /* roots come in and roots go */
    CLASS__N
};
enum plan_class plan_classify(const struct plan *in_force, const struct plan_wanted *wanted);
const char *plan_class_name(enum plan_class c); /* "root added" */
const char *plan_class_text(enum plan_class c); /* what happens, one sentence */

/* -- evidence ------------------------------------------------------------------------------------
 */

/* What one CA replica has loaded. It reports a generation only when nothing of it can append a
 * ledger row, or hand out a trust set, of an older one any more. */
struct plan_replica {
    const char *name;
    uint64_t generation;
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    size_t roots_n;
    uint8_t signer_id[DIGEST_BYTES];
};

struct plan_evidence {
    const struct plan_replica *replicas; /* borrowed */
    size_t replicas_n;
    /* Calls fn for each workload with a leaf in use (ledger_workloads). */
    void (*workloads)(void *self, ledger_workload_fn *fn, void *arg);
    void *self;
};

/* One bit for each rule, for the test that leaves one out and sees a workload stranded. "..." is a
 * part of the rule above it, which goes with it. */
enum plan_rule {
    RULE_WIDEN_FIRST = 1 << 0,        /* 1 */
    RULE_REPLICA_TRUST = 1 << 1,      /* 2: every replica hands out the root */
    RULE_REPLICA_GENERATION = 1 << 2, /* 2: ... in a generation since it last came in */
    RULE_WORKLOAD_TRUST = 1 << 3,     /* 2: every workload has acknowledged the root */
    RULE_ACK_GENERATION = 1 << 4,     /* 2: ... in a generation since it last came in */
    RULE_ROW_GENERATION = 1 << 5,     /* 2: who cannot acknowledge: every leaf is that new */
    RULE_REPLICA_SIGNER = 1 << 6,     /* 3: the signer has moved on every replica */
    RULE_SIGNER_GENERATION = 1 << 7,  /* 3: ... in the plan's generation */
    RULE_LEDGER = 1 << 8,             /* 3: no leaf in use under the root that goes */
    RULE__ALL = (1 << 9) - 1,
};

struct plan_settings {
    bool hold_replacement; /* CLASS_ROOT_REPLACED waits for a person */
    size_t replicas_n;     /* so many must have reported */
    unsigned left_out;     /* enum plan_rule bits that are not applied; 0 but in tests */
};

/* -- one step ------------------------------------------------------------------------------------
 */

enum plan_step_kind { STEP_NONE, STEP_WIDEN, STEP_MOVE_SIGNER, STEP_NARROW, STEP_HELD, STEP__N };
const char *plan_step_name(enum plan_step_kind k); /* "widen" */
const char *plan_step_why(enum plan_step_kind k);  /* why the step was safe to take */

enum plan_hold {
    HOLD_NONE,
    HOLD_REPLICAS,    /* replicas have not loaded what they must */
    HOLD_TRUST,       /* workloads have not acknowledged the root that is to sign */
    HOLD_LEAVES,      /* leaves in use chain to the root that is to go */
    HOLD_REPLACEMENT, /* by the setting */
    HOLD_ROOTS_MAX,   /* old and new roots together are too many; cannot be forced */
    HOLD__N
};
const char *plan_hold_name(enum plan_hold h); /* "trust"; in status, log and metric */

struct plan_wait {
    char identity[LEDGER_IDENTITY_BYTES]; /* SPIFFE id, or the replica's name */
    char instance[INSTANCE_TEXT_BYTES];   /* "" for a replica, or who cannot say */
    char why[PLAN_WHY_BYTES];
    int64_t until; /* unix seconds: its leaves end then at the latest; 0: no end is known */
};

struct plan_step {
    enum plan_step_kind kind;
    struct plan next; /* after the step; of a held one: what force would do */
    /* STEP_HELD */
    enum plan_step_kind gated; /* the step that waits */
    enum plan_hold hold;
    char detail[PLAN_DETAIL_BYTES];
    struct plan_wait waits[PLAN_WAITS_MAX];
    size_t waits_n;
    size_t waits_total, workloads_waiting; /* all; of them workloads */
    size_t workloads_n;                    /* looked at */
};

/* The plan of a mesh that has none: what is wanted, at once. */
void plan_first(const struct plan_wanted *w, uint64_t generation, struct plan *ret);

/* One step from `p` towards `w`. Changing `w` between any two calls is safe: the next step goes
 * towards the new one. *ret is written whole but for unused waits. */
void plan_next(const struct plan *p, const struct plan_wanted *w, const struct plan_evidence *ev,
               const struct plan_settings *s, struct plan_step *ret);

/* NULL when the root is not in the plan. */
const struct plan_root *plan_find_root(const struct plan *p, const uint8_t id[DIGEST_BYTES]);
bool plan_signer_eq(const struct plan_signer *a, const struct plan_signer *b);

/* -- in the store (plan_json.c) ------------------------------------------------------------------
 */

/* `roots` holds the plan's roots (more are fine). Owner: caller, free(). Errors: NOMEM, LIMIT. */
MUST_USE int plan_to_json(const struct plan *p, const struct roots *roots, char **ret,
                          struct err *e);
/* Strict: every field, no other, ids that match their certificates. *ret_roots: owner: caller,
 * roots_unref. Errors: PARSE (what and where), NOMEM. */
MUST_USE int plan_from_json(struct span text, struct plan *ret, struct roots **ret_roots,
                            struct err *e);

/* Borrowed from `roots`; NULL when it is not among them. */
struct cert *plan_roots_find(const struct roots *roots, const uint8_t id[DIGEST_BYTES]);

#endif
