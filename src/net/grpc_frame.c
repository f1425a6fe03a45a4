#include "net/grpc_frame.h"

#include "base/str.h"
#include "net/grpc.h"

const char *
grpc_code_name(int code)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };

    return code >= 0 && (size_t)code < ARRAY_LEN(names) ? names[code] : "UNKNOWN";
}

void
grpc_reader_done(struct grpc_reader *r)
{
    buf_done(&r->msg);
    r->prefix_n = r->left = 0;
}

void
grpc_reader_next(struct grpc_reader *r)
{
    r->prefix_n = r->left = 0;
    r->msg.n = 0;
}

bool
grpc_reader_is_between(const struct grpc_reader *r)
{
    return r->prefix_n == 0;
}

static int
prefix_check(struct grpc_reader *r, struct err *e)
{
    const uint8_t *p = r->prefix;
    size_t n = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];

    if (p[0] == 1)
        return err_set(e, E_DENIED, "grpc: compressed messages are not supported; use identity");
    if (p[0] != 0)
        return err_set(e, E_PARSE, "grpc: the first byte of a message is %u, not 0 or 1", p[0]);
    if (n > r->msg.max)
        return err_set(e, E_LIMIT, "grpc: received message larger than max (%zu vs. %zu)", n,
                       r->msg.max);
    r->left = n;
    return 0;
}

int
grpc_reader_feed(struct grpc_reader *r, struct span *in, struct err *e)
{
    bool had_prefix = r->prefix_n == GRPC_PREFIX_BYTES;

    while (r->prefix_n < GRPC_PREFIX_BYTES && in->n > 0) {
        r->prefix[r->prefix_n++] = in->p[0];
        *in = span_skip(*in, 1);
    }
    if (r->prefix_n < GRPC_PREFIX_BYTES)
        return 0;
    if (!had_prefix)
        TRY(prefix_check(r, e));
    size_t n = in->n < r->left ? in->n : r->left;
    if (n > 0)
        TRY(buf_add(&r->msg, span_of(in->p, n), e));
    *in = span_skip(*in, n);
    r->left -= n;
    return r->left == 0 ? GRPC_MESSAGE : 0;
}

void
grpc_prefix(size_t n, uint8_t ret[GRPC_PREFIX_BYTES])
{
    ret[0] = 0;
    for (unsigned i = 0; i < 4; i++)
        ret[1 + i] = (uint8_t)(n >> (24 - 8 * i));
}

int
grpc_timeout_parse(struct span s, uint64_t *ret_ms, struct err *e)
{
    static const struct {
        char unit;
        uint64_t mul, div; /* to ms */
    } units[] = { { 'H', 3600000, 1 }, { 'M', 60000, 1 }, { 'S', 1000, 1 },
                  { 'm', 1, 1 },       { 'u', 1, 1000 },  { 'n', 1, 1000000 } };
    uint64_t v;

    if (s.n < 2 || s.n > 9)
        return err_set(e, E_PARSE, "grpc-timeout: 1 to 8 digits and a unit are expected");
    if (u64_parse(span_of(s.p, s.n - 1), 0, 99999999, &v, e) < 0)
        return err_wrap(e, "grpc-timeout");
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (s.p[s.n - 1] == (uint8_t)units[i].unit) {
            *ret_ms = (v * units[i].mul + units[i].div - 1) / units[i].div;
            return 0;
        }
    return err_set(e, E_PARSE, "grpc-timeout: the unit is none of H M S m u n");
}

void
grpc_timeout_text(uint64_t ms, char ret[GRPC_TIMEOUT_BYTES])
{
    uint64_t s = ms / 1000 > 99999999 ? 99999999 : ms / 1000;

    if (ms <= 99999999)
        (void)snprintf(ret, GRPC_TIMEOUT_BYTES, "%um", (unsigned)ms);
    else
        (void)snprintf(ret, GRPC_TIMEOUT_BYTES, "%uS", (unsigned)s);
}

int
grpc_percent_encode(struct buf *b, const char *text, struct err *e)
{
    static const char digits[] = "0123456789ABCDEF";

    for (const uint8_t *p = (const uint8_t *)text; *p != 0; p++) {
        uint8_t code[3] = { '%', (uint8_t)digits[*p >> 4], (uint8_t)digits[*p & 15] };
        bool plain = *p >= 0x20 && *p <= 0x7e && *p != '%';

        TRY(buf_add(b, plain ? span_of(p, 1) : span_of(code, 3), e));
    }
    return 0;
}

int
grpc_percent_decode(struct buf *b, struct span text, struct err *e)
{
    struct err ignored;
    uint8_t v;

    for (size_t i = 0; i < text.n; i++) {
        bool coded = text.p[i] == '%' && text.n - i > 2 &&
                     hex_parse(span_of(text.p + i + 1, 2), &v, 1, &ignored) == 0;

        TRY(buf_add_byte(b, coded ? v : text.p[i], e));
        i += coded ? 2 : 0;
    }
    return 0;
}

bool
grpc_content_type_ok(struct span value)
{
    static const char base[] = "application/grpc";
    size_t n = sizeof(base) - 1;

    return span_starts(value, base) &&
           (value.n == n || value.p[n] == '+' || value.p[n] == ';' || value.p[n] == ' ');
}
