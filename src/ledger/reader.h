/* reader.h - the ledger as its readers see it: rows by filter, the chain's check. Layer: ledger.
 *
 * Works on a store alone, also one opened for reading only beside the process that appends: no
 * struct ledger, nothing is loaded or changed. What is in use is judged from what is durable.
 * Thread: any. Blocks: disk.
 */
#ifndef LEDGER_READER_H
#define LEDGER_READER_H

#include "ledger/ledger.h"

enum {
    LEDGER_ISSUER_MATCHES_MAX = 256, /* issuers that one filter may name */
    LEDGER_ID_PREFIX_MIN = 6,        /* hex digits of an id's prefix */
};

enum leaf_state { LEAF_IN_USE, LEAF_REPLACED, LEAF_EXPIRED };
const char *leaf_state_name(enum leaf_state s); /* "in use" */

/* All that is given must hold. */
struct ledger_query {
    const char *issuer;   /* part of the subject of the signer or the root, or its id's first
                             LEDGER_ID_PREFIX_MIN hex digits or more; NULL: any */
    const char *identity; /* exact, or a prefix and "*"; NULL: any */
    struct span serial;   /* empty: any */
    int64_t since;        /* issued at or after; INT64_MIN: any */
    bool live;            /* in use only */
    bool oldest_first;
    uint64_t limit; /* 0: all */
};
struct ledger_found {
    const struct ledger_row *row; /* all borrowed for the call */
    const uint8_t *prev, *hash;   /* DIGEST_BYTES each: of the row before, of this one */
    enum leaf_state state;        /* now */
};
typedef int ledger_found_fn(const struct ledger_found *f, void *arg, struct err *e);

/* Calls fn for each row that fits, up to the newest at the call; a negative result stops and is
 * returned. Errors: NOTFOUND (no such issuer), INVAL, LIMIT (too many issuers fit), DENIED (a row
 * on the way was edited: which), PARSE, SYS. */
MUST_USE int ledger_find(struct store *s, const struct ledger_query *q, ledger_found_fn *fn,
                         void *arg, struct err *e);

/* The newest row of a chain; a copy kept elsewhere proves that nothing before it has changed. */
struct ledger_mark {
    uint64_t seq, rows;
    uint8_t hash[DIGEST_BYTES];
};
/* Walks the whole chain, from where retention has cut it (*ret_removed: the last row that is gone,
 * and how many; seq 0: none). `mark` (NULL: none): a row that must be in it, by seq and hash.
 * Errors: DENIED (the first bad row, and what is wrong with it), NOTFOUND (the mark is of a row
 * that retention removed: nothing can be said), SYS. */
MUST_USE int ledger_check(struct store *s, const struct ledger_mark *mark, struct ledger_mark *ret,
                          struct ledger_mark *ret_removed, struct err *e);
/* The last row that retention removed, and how many there were; seq 0: none. Errors: PARSE, SYS. */
MUST_USE int ledger_removed(struct store *s, struct ledger_mark *ret, struct err *e);

/* The certificate that ledger_note_issuers kept. r: 0; STORE_ABSENT. Errors: DENIED (it is not what
 * its id says), PARSE, SYS, NOMEM. Owner of *ret: caller, cert_unref. */
MUST_USE int ledger_issuer(struct store *s, const uint8_t id[DIGEST_BYTES], struct cert **ret,
                           struct err *e);
/* Keeps another one, that no row names. Errors: LIMIT, NOMEM. */
MUST_USE int ledger_issuer_keep(struct store *s, const struct cert *c, struct err *e);

#endif
