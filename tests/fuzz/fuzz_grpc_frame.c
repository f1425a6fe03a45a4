/* Any bytes, cut in two ways, give the same messages; percent coding round-trips; a timeout is
 * bounded. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "net/grpc_frame.h"

enum { MAX_MESSAGE = 4096, MAX_PIECE = 7 };

/* A digest of the messages that come out, and how it ends. */
static uint64_t
messages(struct span s, size_t piece)
{
    struct grpc_reader r = GRPC_READER_INIT(MAX_MESSAGE);
    struct err e;
    uint64_t sum = 14695981039346656037u;
    int m = 0;

    while (s.n > 0 && m >= 0) {
        struct span part = span_of(s.p, s.n < piece ? s.n : piece);
        size_t before = part.n;

        m = grpc_reader_feed(&r, &part, &e);
        assert(m < 0 || m == GRPC_MESSAGE || part.n == 0);
        assert(r.msg.n <= MAX_MESSAGE);
        s = span_skip(s, m < 0 ? s.n : before - part.n);
        if (m != GRPC_MESSAGE)
            continue;
        for (size_t i = 0; i < r.msg.n; i++)
            sum = (sum ^ r.msg.p[i]) * 1099511628211u;
        sum = (sum ^ r.msg.n) * 1099511628211u;
        grpc_reader_next(&r);
    }
    sum = (sum ^ (uint64_t)(m < 0)) * 1099511628211u;
    grpc_reader_done(&r);
    return sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct buf coded = BUF_INIT(1 << 20), plain = BUF_INIT(1 << 20);
    struct span s = span_of(p, n);
    struct err e;
    uint64_t ms;
    char *text = malloc(n + 1);

    assert(text != NULL);
    memcpy(text, p, n);
    text[n] = '\0';
    assert(messages(s, n + 1) == messages(s, 1));
    assert(messages(s, n + 1) == messages(s, MAX_PIECE));
    if (grpc_timeout_parse(s, &ms, &e) == 0)
        assert(n >= 2 && n <= 9 && ms <= 99999999ull * 3600000);
    if (grpc_percent_encode(&coded, text, &e) == 0) {
        for (size_t i = 0; i < coded.n; i++)
            assert(coded.p[i] >= 0x20 && coded.p[i] <= 0x7e);
        assert(grpc_percent_decode(&plain, buf_span(&coded), &e) == 0);
        assert(span_eq_str(buf_span(&plain), text));
    }
    (void)grpc_content_type_ok(s);
    buf_done(&coded);
    buf_done(&plain);
    free(text);
    return 0;
}
