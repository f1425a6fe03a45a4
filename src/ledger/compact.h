/* compact.h - private to ledger/: removes old rows, so that what is left can be verified. Layer:
 * ledger. */
#ifndef LEDGER_COMPACT_H
#define LEDGER_COMPACT_H

#include "ledger/record.h"

enum {
    COMPACT_ROWS = STORE_TXN_OPS - 2, /* of one transaction: and the floor, twice */
    COMPACT_EVERY_S = 60,             /* when there is nothing to remove */
};

/* One transaction: at most COMPACT_ROWS of the oldest rows whose leaf ended before `before` go, and
 * the floor moves to the last of them; never the newest row. *ret_n: how many. Errors: DENIED (the
 * chain is broken there: nothing is removed), CONFLICT, SYS. Blocks: disk. */
MUST_USE int compact_step(struct store *s, int64_t before, size_t *ret_n, struct err *e);

/* A thread that does so all the time, for leaves that ended `keep_s` ago. */
struct compactor;
MUST_USE int compactor_new(struct store *s, struct metrics *m, int64_t keep_s,
                           struct compactor **ret, struct err *e);
void compactor_free(struct compactor *c); /* NULL is fine; waits for the step under way */

#endif
