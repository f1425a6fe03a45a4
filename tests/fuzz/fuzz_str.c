/* What the encoders of str.h write, their parsers read back to the same; what a parser takes, it
 * writes back to the same text (base64 is strict) or the same value (durations). */
#include <assert.h>

#include "base/clock.h"
#include "base/str.h"

enum { MAX_BYTES = 1 << 16 };

typedef int codec_fn(struct buf *b, struct span s, struct err *e);

static void
round_trip(codec_fn *encode, codec_fn *decode, struct span s)
{
    struct buf text = BUF_INIT(2 * MAX_BYTES), back = BUF_INIT(2 * MAX_BYTES);
    struct buf bytes = BUF_INIT(MAX_BYTES), again = BUF_INIT(2 * MAX_BYTES);
    struct err e;

    assert(encode(&text, s, &e) == 0 && decode(&back, buf_span(&text), &e) == 0);
    assert(span_eq(buf_span(&back), s));
    if (decode(&bytes, s, &e) == 0) {
        assert(encode(&again, buf_span(&bytes), &e) == 0);
        assert(span_eq(buf_span(&again), s));
    }
    buf_done(&text);
    buf_done(&back);
    buf_done(&bytes);
    buf_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct span s = span_of(p, n), part, rest = s;
    uint64_t v = 0, w = 1;
    uint8_t raw[64];
    char text[DURATION_BYTES], hex[2 * sizeof(raw) + 1];
    struct err e;
    size_t parts_n = 0;

    if (n > MAX_BYTES)
        return 0;
    round_trip(base64_add, base64_decode, s);
    round_trip(base64url_add, base64url_decode, s);
    if (duration_ms_parse(s, &v, &e) == 0) {
        duration_ms_text(v, text);
        assert(duration_ms_parse(span_str(text), &w, &e) == 0 && v == w);
    }
    int64_t at, again;
    char when[RFC3339_BYTES];
    if (rfc3339_parse(s, &at, &e) == 0) {
        rfc3339_s(at, when);
        assert(rfc3339_parse(span_str(when), &again, &e) == 0 && at == again);
    }
    if (u64_parse(s, 10, 1000, &v, &e) == 0)
        assert(v >= 10 && v <= 1000);
    if (n > 0 && n <= sizeof(raw)) {
        hex_text(s, hex);
        assert(hex_parse(span_str(hex), raw, n, &e) == 0 && memcmp(raw, p, n) == 0);
    }
    while (span_cut(&rest, '/', &part))
        parts_n += part.n + 1;
    assert(s.p == NULL || parts_n == n + 1);
    assert(span_trim(s).n <= n);
    return 0;
}
