/* The splitter: blocks come in order and lie inside the input, and what a block decodes to is what
 * it decodes to again after being written. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pki/pem.h"
#include "pki/pki.h"

static void
check_round_trip(const struct pem_block *b)
{
    struct buf der = BUF_INIT(PEM_MAX_BYTES), text = BUF_INIT(2 * PEM_MAX_BYTES);
    struct buf again = BUF_INIT(PEM_MAX_BYTES);
    char label[PEM_LABEL_MAX + 1];
    struct pem_block b2;
    struct pem p;
    struct err e;

    if (pem_decode(b, &der, &e) < 0) {
        assert(der.n == 0 && e.msg[0] != '\0');
        buf_done(&der);
        return;
    }
    memcpy(label, b->label.p, b->label.n);
    label[b->label.n] = '\0';
    assert(pem_add(&text, label, buf_span(&der), &e) == 0);
    assert(pem_open(buf_span(&text), &p, &e) == 0);
    assert(pem_next(&p, &b2, &e) == 0 && span_eq(b2.label, b->label) && b2.line == 1);
    assert(pem_decode(&b2, &again, &e) == 0 && span_eq(buf_span(&der), buf_span(&again)));
    assert(pem_next(&p, &b2, &e) == PEM_END && p.block_n == 1);
    buf_done(&der);
    buf_done(&text);
    buf_done(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *at = data;
    struct pem_block b;
    struct pem p;
    struct err e;
    size_t blocks = 0, line = 0;
    int r;

    assert(pem_why_none(span_of(data, n)) != NULL);
    if (pem_open(span_of(data, n), &p, &e) < 0)
        return 0;
    while ((r = pem_next(&p, &b, &e)) == 0) {
        assert(b.label.n >= 1 && b.label.n <= PEM_LABEL_MAX && b.line > line);
        assert(b.label.p >= at && b.body.p >= b.label.p + b.label.n);
        assert(b.body.p + b.body.n <= data + n);
        at = b.body.p + b.body.n;
        line = b.line;
        blocks++;
        check_round_trip(&b);
    }
    assert(blocks == p.block_n);
    assert(r == PEM_END || (r == -(int)E_PARSE && e.msg[0] != '\0'));
    return 0;
}
