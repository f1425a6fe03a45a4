/* evidence_book.h - private to ca/: snapshots of one replica's evidence, from the pieces that come.
 *
 * A snapshot is kept as its pieces came, which is a third of what they are unpacked; each is
 * checked when it comes, and unpacked again when its workloads are asked for. No I/O. Thread: one
 * owner.
 */
#ifndef CA_EVIDENCE_BOOK_H
#define CA_EVIDENCE_BOOK_H

#include "ca/evidence.h"

struct evidence_snapshot {
    uint64_t number; /* 0: none */
    struct evidence_loaded loaded;
    struct buf pieces; /* owned: length (size_t), bytes; length, bytes; ... */
};

struct evidence_book {                  /* zeroed at the start */
    struct evidence_snapshot now, next; /* whole; coming */
};

void evidence_book_done(struct evidence_book *b); /* forgets all; may be used again */
/* A new stream begins: numbers start anew, what is whole stays until a snapshot takes its place. */
void evidence_book_turn(struct evidence_book *b);
/* Takes one message. r: 1 a snapshot is whole now; 0. Errors: PEER (malformed, or out of order),
 * LIMIT, NOMEM: forget all. */
MUST_USE int evidence_book_take(struct evidence_book *b, struct span msg, struct err *e);
/* As evidence_client_told, of the whole snapshot. Errors: NOMEM (some were told). */
MUST_USE int evidence_book_tell(const struct evidence_book *b, ledger_workload_fn *fn, void *arg,
                                struct err *e);

#endif
