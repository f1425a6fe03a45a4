/* fuzz_der.c - what the strict reader takes as sound, written again, is the same bytes. */
#include <stdlib.h>

#include "pki/der.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BYTES_MAX = 8192 };

/* Writes the elements of `s` back to front, as the writer works. */
static void
rewrite(struct derw *w, struct span s)
{
    struct der c = der_of(s);
    uint8_t tag;

    if (der_at_end(&c))
        return;
    struct span content = der_any(&c, &tag, NULL);
    rewrite(w, span_of(c.p, (size_t)(c.end - c.p)));
    size_t end = derw_mark(w);
    if ((tag & 0x20) != 0)
        rewrite(w, content);
    else
        derw_bytes(w, content);
    derw_wrap(w, tag, end);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t out[BYTES_MAX];
    struct der c = der_of(span_of(data, size));

    (void)der_time(&c);
    if (size > BYTES_MAX || !der_is_sound(span_of(data, size)))
        return 0;
    struct derw w = derw_of(out, sizeof(out));
    rewrite(&w, span_of(data, size));
    if (!span_eq(derw_span(&w), span_of(data, size)))
        abort();
    return 0;
}
