/* fuzz_form.c - any body: no crash; what is found holds no NUL and is no longer than what was sent.
 */
#include <stdlib.h>
#include <string.h>

#include "cloud/form.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct buf b = BUF_INIT(4096);
    struct err e = { 0 };
    int r = form_field(span_of(data, n), "scope", &b, &e);

    if (r == 0 && (b.n > n || (b.n > 0 && memchr(b.p, '\0', b.n) != NULL)))
        abort();
    if (r < 0 && e.msg[0] == '\0')
        abort();
    buf_done(&b);
    return 0;
}
