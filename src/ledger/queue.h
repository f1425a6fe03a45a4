/* queue.h - private to ledger/: rows on their way to the disk, and their answers. Layer: ledger.
 *
 * A queue owns what is in it. Thread: any, one at a time (the ledger's lock); fifo_answer without
 * that lock, for answers may call back into the ledger.
 */
#ifndef LEDGER_QUEUE_H
#define LEDGER_QUEUE_H

#include "ledger/ledger.h"
#include "ledger/record.h"

enum { LEDGER_ANSWER_RETRY_US = 10000 }; /* a loop whose queue of calls is full */

struct pending {
    struct pending *next;
    struct loop *loop; /* where it is answered; NULL: at once, on the thread that answers */
    ledger_done_fn *done;
    void *arg;
    struct err err;
    struct record rec;
    char key[ROW_KEY_BYTES];
    struct buf bytes; /* owned */
};
void pending_free(struct pending *p);

struct fifo {
    struct pending *first, **last;
    size_t n;
};
void fifo_init(struct fifo *f);
void fifo_add(struct fifo *f, struct pending *take_p);
struct pending *fifo_take(struct fifo *f); /* owner: caller; NULL: it is empty */
/* Empties it: each is answered on its loop and freed, with one call for each loop, so that a worker
 * wakes once for a batch. Blocks: while a loop's queue of calls is full. */
void fifo_answer(struct fifo *f);

#endif
