/* driver.h - what the files of the driver share. Layer: rotate (private). Thread: the loop. */
#ifndef ROTATE_DRIVER_H
#define ROTATE_DRIVER_H

#include <assert.h>

#include "rotate/plan.h"
#include "rotate/rotate.h"

enum {
    REPLICAS_MAX = 64,
    REPLICA_NAME_BYTES = 64,
    HISTORY_N = 16,
    ROOTS_TEXT_BYTES = 1024,
    ACTION_WHY_BYTES = 160,
    GATE_LOOK_MS = 500,       /* rows expire without anybody's word: look again while held */
    TARGET_LOOK_MS = 10000,   /* invariant 7: the folder is re-read by content */
    RETRY_MIN_MS = 250,       /* store, folder or vault failed: doubles, with jitter ... */
    RETRY_MAX_MS = 30 * 1000, /* ... up to this */
    POKE_MS = 20,             /* a burst of acknowledgements is looked at once ... */
    POKE_SHARE = 10, /* ... and looking takes a tenth of the time at most, however big the fleet */
};

static_assert((int)PLAN_WORD_BYTES == (int)ROTATE_WORD_BYTES, "a plan holds any word");

/* What keeps the driver, not a gate, from going on. */
enum trouble {
    TROUBLE_NONE,
    TROUBLE_STORE,
    TROUBLE_TARGET,
    TROUBLE_SIGNER,
    TROUBLE_SHORT_LIFE,
    TROUBLE_REVOKED,
    TROUBLE__N
};
extern const char *const trouble_names[TROUBLE__N]; /* also reasons of status and metric */

/* What holds the vault's revocation lists back: they may not be taken; the target wants more. */
enum lists_why { LISTS_WHY_TAKE, LISTS_WHY_WHOLE, LISTS_WHY__N };

struct replica {
    char name[REPLICA_NAME_BYTES];
    struct plan_replica loaded; /* loaded.name is unset: names move with the array */
};

/* One plan that is put in force: what it is called and why it is safe, for log and history. */
struct action {
    const char *step; /* static: "first", "widen", ... */
    char why[ACTION_WHY_BYTES];
    const char *class; /* static */
    bool forced;
};

struct past {
    struct action action;
    uint64_t generation;
    int64_t at; /* unix seconds */
};

/* A plan on its way to the store, and who is told: `r` is NULL once the driver is gone. */
struct commit {
    struct rotate *r;
    struct plan next;
    struct roots *roots;   /* owned */
    struct bundle *signer; /* owned; NULL: the signer stays */
    struct action action;
    bool moves_lists;   /* to ... */
    struct crls *lists; /* owned; NULL: none */
    char lists_version[VERSION_TEXT_BYTES];
};

/* A pinned signer on its way from the vault. */
struct fetch {
    struct rotate *r; /* NULL once the driver is gone */
};

struct rotate {
    struct loop *loop;
    struct rotate_conf conf;
    struct timer *timer;

    bool has_plan;
    struct plan plan;
    struct roots *roots; /* of the plan; owned */
    uint64_t revision;   /* of its key; 0: none */

    uint64_t floor; /* the last generation before a reset */

    bool is_seen;          /* the target has held a plan of ours since we read the plan */
    bool is_writing;       /* the target has a write under way, and will tell */
    bool lagging;          /* the folder does not hold the plan, as far as we know */
    uint64_t ahead;        /* generation in the folder that is newer than the plan's; 0: none */
    struct bundle *signer; /* owned; of a step that is not in the folder yet; else NULL */
    uint64_t target_look_at;
    char signer_subject[NAME_TEXT_BYTES]; /* of the plan's, once it was seen */

    /* The revocation lists beside the signer; lists.c. They lie in the target, not in the plan: no
     * workload is stranded by their absence, and the vault's next answer brings them. */
    struct crls *lists; /* owned; NULL: none are in force */
    char lists_version[VERSION_TEXT_BYTES];
    /* Why the vault's are not in force; "": they are. */
    char lists_why[LISTS_WHY__N][ERR_MSG_BYTES];

    struct bundle *want; /* owned; NULL: not known yet */
    struct plan_wanted wanted;
    enum plan_class want_class; /* when it came */
    int64_t want_at;

    struct replica replicas[REPLICAS_MAX];
    size_t replicas_n;

    struct commit *commit; /* under way; owned by the store's answer */
    struct err forced;     /* how the last forced step went */
    struct fetch *fetch;   /* under way; owned by the vault's answer */
    enum trouble trouble;
    struct err trouble_why;
    uint64_t retry_ms, retry_at;

    bool poked;
    uint64_t gates_ms;        /* what the last look at the ledger took */
    struct plan_step step;    /* as last looked at */
    uint64_t held_generation; /* that the log has told of, with ... */
    enum plan_hold held_told;
    enum plan_step_kind held_gated;

    struct past past[HISTORY_N];
    size_t past_n; /* ever; past[past_n % HISTORY_N] is the next */
};

/* target.c: brings the target (below "the folder") to the plan if it is not there, from what is at
 * hand: the step's own bundle, the folder's, the wanted one; then by fetching the pinned versions,
 * when `may_fetch`. Sets lagging, ahead, and trouble. */
void target_bring_up(struct rotate *r, bool may_fetch);
/* Generation of the set in the folder; 0 when there is none that can be read. */
uint64_t target_generation(const struct rotate *r);
void signer_of(const struct bundle *b, const struct sync_versions *v, struct plan_signer *ret);

/* rotate.c. One look: at most one step, and none while one is under way, or not in the folder yet.
 */
void rotate_look(void *rotate);
void rotate_look_soon(struct rotate *r, uint64_t ms);
/* Logs a new reason once, remembers it for status, and sets the time of the next try. */
void rotate_trouble(struct rotate *r, enum trouble what, const struct err *why);
void rotate_trouble_over(struct rotate *r);

/* commit.c. What the store has becomes what is in force; it may have none. */
MUST_USE int rotate_plan_load(struct rotate *r, struct err *e);
/* Puts `next` in force: into the store now, acted on when it is durable there. `signer` may be
 * NULL. */
MUST_USE int rotate_plan_put(struct rotate *r, const struct plan *next, struct roots *roots,
                             struct bundle *signer, const struct action *a, struct err *e);

/* lists.c. Those of the target, at the start. */
void rotate_lists_recall(struct rotate *r);
void rotate_lists_forget(struct rotate *r);
/* The vault's are other ones than those in force, and may be taken: with `signer`, which the plan
 * will have then. Notes why not. */
bool rotate_lists_are_due(struct rotate *r, const struct bundle *signer);
/* The same, for the signer that the target has now. */
bool rotate_lists_are_due_now(struct rotate *r);
bool rotate_lists_are_pending(const struct rotate *r); /* for the status: not settled yet */
/* The vault's become those in force. */
void rotate_lists_go_along(const struct rotate *r, struct commit *c);
void rotate_lists_committed(struct rotate *r, struct commit *c);
void rotate_lists_action(const struct rotate *r, struct action *a);
/* What goes with `b` into the target; *ret NULL: none. Owner: caller. Errors: NOMEM. */
MUST_USE int rotate_lists_for(struct rotate *r, const struct bundle *b, struct crls **ret,
                              struct err *e);
json_t *rotate_lists_json(const struct rotate *r); /* for the status */

/* metrics.c */
void rotate_metrics(const struct rotate *r);
void rotate_metrics_step(const struct rotate *r, const struct action *a);
void rotate_log_held(struct rotate *r);

/* status.c */
/* Of the step that is held; "": none is that could be forced. */
void rotate_word(const struct rotate *r, char ret[ROTATE_WORD_BYTES]);
json_t *waits_to_json(const struct plan_step *st); /* NULL: out of memory */

#endif
