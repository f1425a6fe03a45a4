/* fuzz_evidence.c - what a replica tells: what is told on is within its bounds, and a snapshot is
 * whole or not there. The input is a row of messages, each behind its length (two bytes). */
#include <stdlib.h>
#include <string.h>

#include "ca/evidence_book.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct count {
    size_t n;
    uint64_t sum;
};

static void
on_workload(const struct ledger_workload *w, void *arg)
{
    struct count *c = arg;

    if (w->identity[0] == '\0' || strlen(w->identity) >= LEDGER_IDENTITY_BYTES ||
        strlen(w->instance) >= INSTANCE_TEXT_BYTES || w->ack_roots_n > ROOTS_MAX ||
        w->leaf_roots_n > EVIDENCE_IDS_MAX || w->leaf_signers_n > EVIDENCE_IDS_MAX ||
        (w->leaves_n == 0 && w->instance[0] == '\0') ||
        w->can_acknowledge != (w->instance[0] != '\0'))
        abort();
    for (size_t i = 0; i < w->leaf_roots_n; i++)
        c->sum += w->leaf_roots[i][0] + w->leaf_roots[i][DIGEST_BYTES - 1] +
                  (w->leaf_root_generations == NULL ? 0 : w->leaf_root_generations[i]);
    for (size_t i = 0; i < w->ack_roots_n; i++)
        c->sum += w->ack_roots[i][0];
    c->n++;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct evidence_book b = { .now = { .number = 0 } };
    uint64_t number = 0;
    struct err e;

    while (size > 2) {
        size_t n = (size_t)(data[0] << 8 | data[1]);

        n = n < size - 2 ? n : size - 2;
        int r = evidence_book_take(&b, span_of(data + 2, n), &e);
        data += 2 + n;
        size -= 2 + n;
        if (r < 0)
            break;
        if (r == 1 && (b.now.number <= number || b.next.number != 0))
            abort();
        if (r == 0 && b.now.number != number)
            abort();
        number = b.now.number;
    }
    struct count one = { .n = 0 }, two = { .n = 0 };
    if (evidence_book_tell(&b, on_workload, &one, &e) == 0 &&
        (evidence_book_tell(&b, on_workload, &two, &e) < 0 || one.n != two.n || one.sum != two.sum))
        abort();
    if (number == 0 && one.n > 0)
        abort();
    if (number > 0 && (b.now.loaded.replica[0] == '\0' || b.now.loaded.roots_n > ROOTS_MAX))
        abort();
    evidence_book_done(&b);
    return 0;
}
