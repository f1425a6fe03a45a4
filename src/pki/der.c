/* der.c - see der.h. */
#include "pki/der.h"

#include <time.h>

struct der
der_of(struct span s)
{
    return (struct der){ .p = s.p, .end = s.n == 0 ? s.p : s.p + s.n };
}

static struct span
der_fail(struct der *c)
{
    c->bad = true;
    return (struct span){ NULL, 0 };
}

bool
der_at_end(const struct der *c)
{
    return c->bad || c->p == c->end;
}

bool
der_done(const struct der *c)
{
    return !c->bad && c->p == c->end;
}

uint8_t
der_peek(const struct der *c)
{
    return der_at_end(c) ? 0 : *c->p;
}

/* The length octets at *p; false when they are not the shortest form or run over. */
static bool
length_read(const uint8_t **p, const uint8_t *end, size_t *ret)
{
    if (*p == end)
        return false;
    uint8_t first = *(*p)++;
    size_t n = first & 0x7f, v = 0;

    if (first < 0x80) {
        *ret = first;
        return true;
    }
    if (n == 0 || n > 3 || (size_t)(end - *p) < n || **p == 0)
        return false;
    while (n-- > 0)
        v = v << 8 | *(*p)++;
    *ret = v;
    return v >= 0x80;
}

struct span
der_any(struct der *c, uint8_t *ret_tag, struct span *ret_whole)
{
    const uint8_t *start = c->p, *p = c->p;
    size_t n = 0;

    *ret_tag = 0;
    if (ret_whole != NULL)
        *ret_whole = (struct span){ NULL, 0 };
    if (der_at_end(c))
        return der_fail(c);
    uint8_t tag = *p++;
    if ((tag & 0x1f) == 0x1f || !length_read(&p, c->end, &n) || (size_t)(c->end - p) < n)
        return der_fail(c);
    c->p = p + n;
    *ret_tag = tag;
    if (ret_whole != NULL)
        *ret_whole = span_of(start, (size_t)(c->p - start));
    return span_of(p, n);
}

static struct span
take(struct der *c, uint8_t want, bool whole)
{
    struct span all;
    uint8_t tag;
    struct span s = der_any(c, &tag, &all);

    if (c->bad || tag != want)
        return der_fail(c);
    return whole ? all : s;
}

struct span
der_take(struct der *c, uint8_t tag)
{
    return take(c, tag, false);
}

struct span
der_take_whole(struct der *c, uint8_t tag)
{
    return take(c, tag, true);
}

struct der
der_enter(struct der *c, uint8_t tag)
{
    struct span s = der_take(c, tag);
    struct der inner = der_of(s);

    inner.bad = c->bad;
    return inner;
}

/* X.690 8.3.2: the first nine bits are neither all zero nor all one. */
static bool
integer_is_sound(struct span s)
{
    if (s.n == 0)
        return false;
    return s.n == 1 || !((s.p[0] == 0 && s.p[1] < 0x80) || (s.p[0] == 0xff && s.p[1] >= 0x80));
}

struct span
der_uint(struct der *c)
{
    struct span s = der_take(c, DER_INTEGER);

    if (c->bad || !integer_is_sound(s) || s.p[0] >= 0x80)
        return der_fail(c);
    return s.n > 1 && s.p[0] == 0 ? span_skip(s, 1) : s;
}

/* X.690 8.19: no subidentifier starts with 0x80, the last one ends. */
static bool
oid_is_sound(struct span s)
{
    if (s.n == 0 || s.n > DER_OID_MAX_BYTES || s.p[s.n - 1] >= 0x80)
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == 0x80 && (i == 0 || s.p[i - 1] < 0x80))
            return false;
    return true;
}

struct span
der_oid(struct der *c)
{
    struct span s = der_take(c, DER_OID);

    return c->bad || !oid_is_sound(s) ? der_fail(c) : s;
}

/* X.690 11.2.1: unused bits are zero. */
static bool
bits_are_sound(struct span s)
{
    if (s.n == 0 || s.p[0] > 7 || (s.n == 1 && s.p[0] != 0))
        return false;
    return s.n == 1 || (s.p[s.n - 1] & ((1U << s.p[0]) - 1)) == 0;
}

struct span
der_bits(struct der *c)
{
    struct span s = der_take(c, DER_BIT_STRING);

    return c->bad || s.n == 0 || s.p[0] != 0 ? der_fail(c) : span_skip(s, 1);
}

bool
der_default_false(struct der *c)
{
    if (der_peek(c) != DER_BOOLEAN)
        return false;
    struct span s = der_take(c, DER_BOOLEAN);

    if (c->bad || s.n != 1 || s.p[0] != 0xff)
        (void)der_fail(c);
    return !c->bad;
}

/* Two decimal digits at *p in [min, max], or -1. */
static int
two_digits(const uint8_t **p, int min, int max)
{
    const uint8_t *d = *p;

    *p += 2;
    if (d[0] < '0' || d[0] > '9' || d[1] < '0' || d[1] > '9')
        return -1;
    int v = (d[0] - '0') * 10 + (d[1] - '0');
    return v < min || v > max ? -1 : v;
}

int64_t
der_time(struct der *c)
{
    uint8_t tag;
    struct span s = der_any(c, &tag, NULL);
    bool utc = tag == DER_UTC_TIME;
    const uint8_t *p = s.p;

    if (c->bad || (!utc && tag != DER_GENERALIZED_TIME) || s.n != (utc ? 13 : 15) ||
        s.p[s.n - 1] != 'Z') {
        (void)der_fail(c);
        return 0;
    }
    int century = utc ? 0 : two_digits(&p, 0, 99), year = two_digits(&p, 0, 99);
    struct tm tm = { .tm_mon = two_digits(&p, 1, 12) - 1 };

    tm.tm_mday = two_digits(&p, 1, 31);
    tm.tm_hour = two_digits(&p, 0, 23);
    tm.tm_min = two_digits(&p, 0, 59);
    tm.tm_sec = two_digits(&p, 0, 59);
    bool bad = century < 0 || year < 0 || tm.tm_mon < 0 || tm.tm_mday < 0 || tm.tm_hour < 0 ||
               tm.tm_min < 0 || tm.tm_sec < 0;
    int full = utc ? (year < 50 ? 2000 : 1900) + year : century * 100 + year;
    struct tm normal = tm;

    normal.tm_year = tm.tm_year = full - 1900;
    int64_t t = timegm(&normal);
    /* 31 April was normalised to 1 May: refused; RFC 5280 wants UTCTime up to 2049 */
    if (bad || normal.tm_mday != tm.tm_mday || (!utc && full >= 1950 && full < 2050)) {
        (void)der_fail(c);
        return 0;
    }
    return t;
}

static bool
primitive_is_sound(uint8_t tag, struct span s)
{
    switch (tag) {
    case 0:
        return false; /* end-of-contents has no place in DER */
    case DER_BOOLEAN:
        return s.n == 1 && (s.p[0] == 0 || s.p[0] == 0xff);
    case DER_INTEGER:
    case 0x0a: /* ENUMERATED */
        return integer_is_sound(s);
    case DER_BIT_STRING:
        return bits_are_sound(s);
    case DER_NULL:
        return s.n == 0;
    case DER_OID:
        return oid_is_sound(s);
    case DER_UNIVERSAL_STRING:
        return s.n % 4 == 0;
    case DER_BMP_STRING:
        return s.n % 2 == 0;
    case DER_SEQUENCE & 0x1f:
    case DER_SET & 0x1f:
        return false; /* these are constructed */
    default:
        return true;
    }
}

static bool
element_is_sound(struct der *c, int depth)
{
    uint8_t tag;
    struct span s = der_any(c, &tag, NULL);

    if (c->bad || depth > DER_DEPTH_MAX)
        return false;
    if ((tag & 0x20) == 0)
        return (tag & 0xc0) != 0 || primitive_is_sound(tag, s);
    if ((tag & 0xc0) == 0 && tag != DER_SEQUENCE && tag != DER_SET)
        return false; /* strings are primitive in DER */
    for (struct der inner = der_of(s); !der_at_end(&inner);)
        if (!element_is_sound(&inner, depth + 1))
            return false;
    return true;
}

bool
der_is_sound(struct span s)
{
    struct der c = der_of(s);

    return element_is_sound(&c, 0) && der_done(&c);
}

struct derw
derw_of(uint8_t *buf, size_t cap)
{
    return (struct derw){ .buf = buf, .cap = cap, .at = cap };
}

void
derw_bytes(struct derw *w, struct span s)
{
    if (w->bad || s.n > w->at) {
        w->bad = true;
        return;
    }
    w->at -= s.n;
    if (s.n > 0)
        memcpy(w->buf + w->at, s.p, s.n);
}

size_t
derw_mark(const struct derw *w)
{
    return w->at;
}

void
derw_wrap(struct derw *w, uint8_t tag, size_t end)
{
    size_t n = end - w->at;
    uint8_t head[5];
    size_t at = sizeof(head);

    if (w->bad || n > 0xffffff) {
        w->bad = true;
        return;
    }
    if (n < 0x80) {
        head[--at] = (uint8_t)n;
    } else {
        uint8_t octets = 0;

        for (size_t v = n; v > 0; v >>= 8, octets++)
            head[--at] = (uint8_t)v;
        head[--at] = (uint8_t)(0x80 | octets);
    }
    head[--at] = tag;
    derw_bytes(w, span_of(head + at, sizeof(head) - at));
}

void
derw_put(struct derw *w, uint8_t tag, struct span content)
{
    size_t end = derw_mark(w);

    derw_bytes(w, content);
    derw_wrap(w, tag, end);
}

void
derw_uint(struct derw *w, struct span v)
{
    static const uint8_t zero;
    size_t end = derw_mark(w);

    while (v.n > 0 && v.p[0] == 0)
        v = span_skip(v, 1);
    derw_bytes(w, v);
    if (v.n == 0 || v.p[0] >= 0x80)
        derw_bytes(w, span_of(&zero, 1));
    derw_wrap(w, DER_INTEGER, end);
}

void
derw_time(struct derw *w, int64_t t_unix_s)
{
    time_t t = (time_t)t_unix_s;
    struct tm tm;
    uint8_t text[15];

    if (gmtime_r(&t, &tm) == NULL || tm.tm_year < 50 || tm.tm_year > 9999 - 1900) {
        w->bad = true;
        return;
    }
    int year = tm.tm_year + 1900;
    const int pairs[] = { year / 100, year % 100, tm.tm_mon + 1, tm.tm_mday,
                          tm.tm_hour, tm.tm_min,  tm.tm_sec };
    size_t n = 0;

    /* no snprintf: this is the hot path */
    for (size_t i = year < 2050 ? 1 : 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        text[n++] = (uint8_t)('0' + pairs[i] / 10);
        text[n++] = (uint8_t)('0' + pairs[i] % 10);
    }
    text[n++] = 'Z';
    derw_put(w, year < 2050 ? DER_UTC_TIME : DER_GENERALIZED_TIME, span_of(text, n));
}

struct span
derw_span(const struct derw *w)
{
    return w->bad ? (struct span){ NULL, 0 } : span_of(w->buf + w->at, w->cap - w->at);
}

size_t
derw_finish(struct derw *w)
{
    size_t n = w->cap - w->at;

    if (w->bad)
        return 0;
    memmove(w->buf, w->buf + w->at, n);
    w->at = w->cap - n;
    return n;
}
