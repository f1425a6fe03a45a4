/* fuzz_ledger_record.c - what is read back from the store: what decodes encodes to the same bytes.
 */
#include <stdlib.h>

#include "ledger/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
same_bytes(const struct buf *b, struct span s)
{
    if (!span_eq(buf_span(b), s))
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    CLEANUP(buf_done) struct buf out = BUF_INIT(WORD_BYTES + ROW_BYTES);
    struct span s = span_of(data, n);
    struct err e = { 0 };
    struct record r;
    struct head h;
    struct word w;

    if (record_decode(s, &r, &e) == 0) {
        if (record_encode(&r, &out, &e) < 0)
            abort();
        same_bytes(&out, s);
    }
    out.n = 0;
    if (head_decode(s, &h, &e) == 0) {
        if (head_encode(&h, &out, &e) < 0)
            abort();
        same_bytes(&out, s);
    }
    out.n = 0;
    if (word_decode(s, &w, &e) == 0) {
        if (word_encode(&w, &out, &e) < 0)
            abort();
        same_bytes(&out, s);
    }
    return 0;
}
