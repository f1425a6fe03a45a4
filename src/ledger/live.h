/* live.h - private to ledger/: which leaves may be in use, in memory. The caller holds the ledger's
 * lock. Times are unix seconds, given by the caller. */
#ifndef LEDGER_LIVE_H
#define LEDGER_LIVE_H

#include "ledger/record.h"

enum {
    WORD_KEPT_S = 3600 /* a word of a workload without leaves: its first row may be under way, or
                          another replica's; one that ends: as long as a leaf lives */
};

struct live;

MUST_USE int live_new(struct live **ret, struct err *e);
void live_free(struct live *v); /* NULL is fine */

/* Whether a row or a word of this workload may be new: before live_add, but not for what the disk
 * has. Errors: LIMIT (its identity has its share). */
MUST_USE int live_check(const struct live *v, const char *identity, const char *instance,
                        struct err *e);
/* Rows may come in any order of seq (backwards at start). Errors: LIMIT, NOMEM. */
MUST_USE int live_add(struct live *v, const struct ledger_row *row, int64_t now, struct err *e);
/* The row did not become durable. */
void live_remove(struct live *v, const char *identity, const char *instance, uint64_t seq);

/* Whether a word of this workload may be taken; makes the workload known when it is new. On success
 * *ret_word is what would be kept: the word before, changed by `a`, whose rows up to `newest` are
 * there. r: 0; LEDGER_STALE. Errors: DENIED, LIMIT, NOMEM. */
MUST_USE int live_word(struct live *v, const struct ledger_ack *a, uint64_t newest, int64_t now,
                       struct word *ret_word, struct err *e);
/* The word is durable, or was read at start. Errors: LIMIT, NOMEM. */
MUST_USE int live_word_set(struct live *v, const struct word *w, struct err *e);
/* It did not become durable. */
void live_word_undo(struct live *v, const struct word *w);

/* Lets go what has expired; calls gone(identity, instance, arg) for each workload that leaves. */
typedef void live_gone_fn(const char *identity, const char *instance, void *arg);
void live_prune(struct live *v, int64_t now, live_gone_fn *gone, void *arg);
/* As ledger_leaves. */
void live_issued(const struct live *v, const char *identity, int64_t now, ledger_leaf_fn *fn,
                 void *arg);
/* As ledger_workloads; with words_too as ledger_workloads_said. r: the number of leaves in use. */
size_t live_each(struct live *v, int64_t now, bool words_too, ledger_workload_fn *fn, void *arg);

#endif
