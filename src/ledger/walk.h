/* walk.h - private to ledger/: reading rows in pages, so that no lock of the store is held while
 * others wait. Thread: any. Blocks: disk. */
#ifndef LEDGER_WALK_H
#define LEDGER_WALK_H

#include "ledger/reader.h"
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
/* What retention has removed: the head as it was at the last of those rows. The same. */
MUST_USE int floor_read(struct store *s, struct head *ret, struct err *e);
MUST_USE int rows_exist(struct store *s, bool *ret, struct err *e);
/* As ledger_check. */
MUST_USE int rows_verify(struct store *s, const struct ledger_mark *mark, struct head *ret,
                         struct head *ret_floor, struct err *e);

/* The issuers that a filter names. */
struct issuer_ids {
    size_t n;
    uint8_t v[LEDGER_ISSUER_MATCHES_MAX][DIGEST_BYTES];
    char prefix[DIGEST_TEXT_BYTES]; /* hex; "": none */
};
MUST_USE int issuers_put(struct store *s, const struct bundle *b, struct err *e);
/* Errors: NOTFOUND, LIMIT, DENIED, PARSE, SYS. */
MUST_USE int issuers_match(struct store *s, const char *text, struct issuer_ids *ret,
                           struct err *e);
bool issuer_is_in(const struct issuer_ids *ids, const uint8_t id[DIGEST_BYTES]);

#endif
