/* record.h - private to ledger/: what the store holds. Thread: any.
 *
 *   ledger/row/<16 hex digits of seq>   2, seq, hash of the row before, fields, own hash;
 *                                       1: without a key id
 *   ledger/head                         1, seq, rows, longest lifetime, hash of the newest row
 *   ledger/floor                        the same, as it was at the last row that retention removed
 *   ledger/ident                        16 random bytes, from its first start
 *   ledger/issuer/<hex id>              DER of a signer or root that rows may name
 *   fleet/<identity>/<instance>         the workload's last word: 1, or 2 when it says how old its
 *                                       leaf is
 *
 * Numbers are big endian, texts have their length in front. A row's own hash is the SHA-256 of all
 * bytes before it, so of the hash before it as well: whoever edits, removes or reorders rows has to
 * write every later one anew, and the head, a copy of which anyone may keep.
 */
#ifndef LEDGER_RECORD_H
#define LEDGER_RECORD_H

#include "ledger/ledger.h"

#define ROW_PREFIX    "ledger/row/"
#define HEAD_KEY      "ledger/head"
#define FLOOR_KEY     "ledger/floor"
#define IDENT_KEY     "ledger/ident"
#define ISSUER_PREFIX "ledger/issuer/"
#define FLEET_PREFIX  "fleet/"

enum { ISSUER_KEY_BYTES = sizeof(ISSUER_PREFIX) + DIGEST_TEXT_BYTES };
enum { HORIZON_SLACK_S = 86400 }; /* clocks that went backwards by less do not hide a row */
enum { ROW_BYTES = 1536, HEAD_BYTES = 64, WORD_BYTES = 2048, ROW_KEY_BYTES = 32 };

struct head {
    uint64_t seq, rows;
    int64_t max_ttl_s; /* the longest not_after - issued of any row so far */
    uint8_t hash[DIGEST_BYTES];
};

struct record {
    struct ledger_row row;
    uint8_t prev[DIGEST_BYTES], hash[DIGEST_BYTES];
};

/* A workload's last word, as kept. */
struct word {
    char identity[LEDGER_IDENTITY_BYTES], instance[INSTANCE_TEXT_BYTES];
    uint64_t generation;
    uint64_t used_seq; /* rows before it are no longer in use; 0: it has not said */
    int64_t said;      /* unix seconds */
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    size_t roots_n;
    uint64_t leaf_generation, ended_generation; /* struct ledger_workload's used_generation, ... */
    bool is_of_here; /* it named a leaf of this ledger, or none; not kept on disk */
};

/* What is in the store, or made anew there: durable then. Errors: PARSE, SYS. Blocks: disk. */
MUST_USE int ident_load(struct store *s, uint8_t ret[LEDGER_ID_BYTES], struct err *e);
void row_key(uint64_t seq, char ret[ROW_KEY_BYTES]);
void fleet_key(const char *identity, const char *instance, char ret[STORE_KEY_BYTES + 1]);

/* Sets r->hash. Errors: LIMIT, NOMEM. */
MUST_USE int record_encode(struct record *r, struct buf *out, struct err *e);
/* Errors: PARSE (not such a record), DENIED (the hash is not that of the content). */
MUST_USE int record_decode(struct span s, struct record *ret, struct err *e);
MUST_USE int head_encode(const struct head *h, struct buf *out, struct err *e);
MUST_USE int head_decode(struct span s, struct head *ret, struct err *e);
MUST_USE int word_encode(const struct word *w, struct buf *out, struct err *e);
MUST_USE int word_decode(struct span s, struct word *ret, struct err *e);

#endif
