/* walk.h - private to ledger/: reading rows in pages, so that no lock of the store is held while
 * others wait. Thread: any. Blocks: disk. */
#ifndef LEDGER_WALK_H
#define LEDGER_WALK_H

#include "ledger/record.h"

/* r: 0 go on; WALK_ENOUGH. */
typedef int record_fn(const struct record *rec, void *arg, struct err *e);
enum { WALK_ENOUGH = 1 };

/* Calls fn for each row, from the one after (before, when reverse) `seq` on; 0: from the end.
 * Errors: PARSE, DENIED (a row that was edited or moved: which), SYS; those of fn. */
MUST_USE int rows_walk(struct store *s, uint64_t seq, bool reverse, record_fn *fn, void *arg,
                       struct err *e);
/* All zero when there is none. */
MUST_USE int head_read(struct store *s, struct head *ret, struct err *e);
MUST_USE int rows_exist(struct store *s, bool *ret, struct err *e);
/* As ledger_verify. */
MUST_USE int rows_verify(struct store *s, uint64_t *ret_rows, struct err *e);

#endif
