/* fuzz_seal.c - what the vault's store keeps: any bytes under any name come back as they were; what
 * is not what was sealed, or is another name's, never opens.
 *
 * The first byte: how long the name is; then the name, and what is sealed, or said to be. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "pki/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEALED_MAX = 1 << 17 };

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct seal *seal;
    struct span in = span_of(data, size);
    CLEANUP(str_freep) char *name = NULL;
    struct err e = { 0 };

    if (seal == NULL && seal_new(span_str("0123456789abcdef0123456789abcdef"), &seal, &e) < 0)
        abort();
    size_t n = size == 0 ? 0 : in.p[0] % 32;
    in = span_skip(in, 1);
    n = n < in.n ? n : in.n;
    if (str_dup(span_of(in.p, n), &name, &e) < 0)
        return 0;
    in = span_skip(in, n);

    struct buf sealed = BUF_INIT(SEALED_MAX), open = BUF_INIT(SEALED_MAX);
    if (seal_open(seal, name, in, &open, &e) == 0 || e.msg[0] == '\0' || open.n != 0)
        abort(); /* nobody has the key: nothing opens, nothing is left of it */
    if (seal_close(seal, name, in, &sealed, &e) < 0 ||
        seal_open(seal, name, buf_span(&sealed), &open, &e) < 0 || !span_eq(buf_span(&open), in))
        abort();
    open.n = 0;
    if (seal_open(seal, "another name of a secret, longer than any", buf_span(&sealed), &open,
                  &e) == 0 ||
        open.n != 0)
        abort();
    if (sealed.n > 0 && in.n > 0) {
        sealed.p[in.p[0] % sealed.n] ^= 1;
        if (seal_open(seal, name, buf_span(&sealed), &open, &e) == 0 || open.n != 0)
            abort();
    }
    buf_done(&sealed);
    buf_done(&open);
    return 0;
}
