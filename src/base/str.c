#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES = 64 }; /* of the text that an error quotes */

static int
shown(struct span s)
{
    return s.n > SHOWN_BYTES ? SHOWN_BYTES : (int)s.n;
}

int
u64_parse(struct span s, uint64_t min, uint64_t max, uint64_t *ret, struct err *e)
{
    uint64_t v = 0;

    if (s.n == 0)
        return err_set(e, E_PARSE, "\"\" is not a number");
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return err_set(e, E_PARSE, "\"%.*s\" is not a number", shown(s), (const char *)s.p);
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
            return err_set(e, E_LIMIT, "\"%.*s\" is too large", shown(s), (const char *)s.p);
    }
    if (v < min || v > max)
        return err_set(e, E_LIMIT, "%llu is outside %llu..%llu", (unsigned long long)v,
                       (unsigned long long)min, (unsigned long long)max);
    *ret = v;
    return 0;
}

static const struct {
    const char *suffix;
    uint64_t ms;
} units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 } };

int
duration_ms_parse(struct span s, uint64_t *ret_ms, struct err *e)
{
    uint64_t v = 0;
    size_t digits = 0;

    if (span_eq_str(s, "0")) {
        *ret_ms = 0;
        return 0;
    }
    while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9')
        digits++;
    TRY(u64_parse(span_of(s.p, digits), 0, UINT64_MAX, &v, e));
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (!span_eq_str(span_skip(s, digits), units[i].suffix))
            continue;
        if (__builtin_mul_overflow(v, units[i].ms, &v))
            return err_set(e, E_LIMIT, "\"%.*s\" is too long", shown(s), (const char *)s.p);
        *ret_ms = v;
        return 0;
    }
    return err_set(e, E_PARSE, "\"%.*s\" is not a duration such as 90s, 2m, 24h", shown(s),
                   (const char *)s.p);
}

void
duration_ms_text(uint64_t ms, char ret[DURATION_BYTES])
{
    size_t best = 0;

    for (size_t i = 0; i + 1 < ARRAY_LEN(units); i++) /* days read worse than hours: "24h" */
        if (ms % units[i].ms == 0 && ms >= units[i].ms)
            best = i;
    (void)snprintf(ret, DURATION_BYTES, "%llu%s", (unsigned long long)(ms / units[best].ms),
                   ms == 0 ? "s" : units[best].suffix);
}

void
hex_text(struct span s, char *ret)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < s.n; i++) {
        ret[2 * i] = digits[s.p[i] >> 4];
        ret[2 * i + 1] = digits[s.p[i] & 15];
    }
    ret[2 * s.n] = '\0';
}

static int
hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int
hex_parse(struct span s, uint8_t *ret, size_t n, struct err *e)
{
    if (s.n != 2 * n)
        return err_set(e, E_PARSE, "%zu hex digits, want %zu", s.n, 2 * n);
    for (size_t i = 0; i < s.n; i++)
        if (hex_digit(s.p[i]) < 0)
            return err_set(e, E_PARSE, "not a hex digit at position %zu", i);
    for (size_t i = 0; i < n; i++)
        ret[i] = (uint8_t)(hex_digit(s.p[2 * i]) * 16 + hex_digit(s.p[2 * i + 1]));
    return 0;
}

static const char b64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char b64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int
b64_encode(struct buf *b, struct span s, const char *alphabet, bool pad, struct err *e)
{
    uint8_t *at = NULL;
    size_t n = 0;

    TRY(buf_reserve(b, (s.n + 2) / 3 * 4, &at, e));
    size_t i = 0;
    for (; s.n - i >= 3; i += 3, n += 4) {
        uint32_t v = (uint32_t)s.p[i] << 16 | (uint32_t)s.p[i + 1] << 8 | s.p[i + 2];

        at[n] = (uint8_t)alphabet[v >> 18];
        at[n + 1] = (uint8_t)alphabet[v >> 12 & 63];
        at[n + 2] = (uint8_t)alphabet[v >> 6 & 63];
        at[n + 3] = (uint8_t)alphabet[v & 63];
    }
    for (; i < s.n; i += 3) {
        size_t have = s.n - i < 3 ? s.n - i : 3;
        uint32_t v = (uint32_t)s.p[i] << 16;

        v |= have > 1 ? (uint32_t)s.p[i + 1] << 8 : 0;
        v |= have > 2 ? s.p[i + 2] : 0;
        for (size_t k = 0; k < 4; k++) {
            if (k <= have)
                at[n++] = (uint8_t)alphabet[v >> (18 - 6 * k) & 63];
            else if (pad)
                at[n++] = '=';
        }
    }
    b->n += n;
    b->p[b->n] = '\0';
    return 0;
}

/* 64: not in the alphabet. */
static uint32_t
b64_value(uint8_t c, const char *alphabet)
{
    if (c >= 'a' && c <= 'z')
        return c - (uint32_t)'a' + 26;
    if (c >= 'A' && c <= 'Z')
        return c - (uint32_t)'A';
    if (c >= '0' && c <= '9')
        return c - (uint32_t)'0' + 52;
    return c == (uint8_t)alphabet[62] ? 62 : c == (uint8_t)alphabet[63] ? 63 : 64;
}

static int
b64_decode(struct buf *b, struct span t, const char *alphabet, bool pad, struct err *e)
{
    uint8_t *at = NULL;
    size_t n = 0, bits = 0;
    uint32_t v = 0;

    if (pad && t.n % 4 != 0)
        return err_set(e, E_PARSE, "base64: %zu characters, want a multiple of 4", t.n);
    for (int k = 0; pad && k < 2 && t.n > 0 && t.p[t.n - 1] == '='; k++)
        t.n--;
    if (t.n % 4 == 1)
        return err_set(e, E_PARSE, "base64: cut short");
    TRY(buf_reserve(b, t.n / 4 * 3 + 3, &at, e));
    for (size_t i = 0; i < t.n; i++) {
        uint32_t c = b64_value(t.p[i], alphabet);

        if (c > 63)
            return err_set(e, E_PARSE, "base64: wrong character at position %zu", i);
        v = v << 6 | c;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            at[n++] = (uint8_t)(v >> bits);
        }
    }
    if ((v & ((1u << bits) - 1)) != 0)
        return err_set(e, E_PARSE, "base64: stray bits at the end");
    b->n += n;
    b->p[b->n] = '\0';
    return 0;
}

int
base64_add(struct buf *b, struct span s, struct err *e)
{
    return b64_encode(b, s, b64_std, true, e);
}

int
base64url_add(struct buf *b, struct span s, struct err *e)
{
    return b64_encode(b, s, b64_url, false, e);
}

int
base64_decode(struct buf *b, struct span text, struct err *e)
{
    return b64_decode(b, text, b64_std, true, e);
}

int
base64url_decode(struct buf *b, struct span text, struct err *e)
{
    return b64_decode(b, text, b64_url, false, e);
}

int
str_dup(struct span s, char **ret, struct err *e)
{
    if (s.n > 0 && memchr(s.p, '\0', s.n) != NULL)
        return err_set(e, E_PARSE, "a NUL byte inside a text");
    char *p = malloc(s.n + 1);
    if (p == NULL)
        return err_nomem(e);
    if (s.n > 0)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    *ret = p;
    return 0;
}

int
str_format(char **ret, struct err *e, const char *fmt, ...)
{
    va_list ap;
    char *p = NULL;

    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    if (n < 0)
        return err_nomem(e);
    *ret = p;
    return 0;
}

bool
span_cut(struct span *s, char sep, struct span *ret_head)
{
    if (s->p == NULL)
        return false;
    const uint8_t *at = s->n == 0 ? NULL : memchr(s->p, sep, s->n);
    if (at == NULL) {
        *ret_head = *s;
        *s = (struct span){ NULL, 0 };
        return true;
    }
    *ret_head = span_of(s->p, (size_t)(at - s->p));
    *s = span_skip(*s, ret_head->n + 1);
    return true;
}

static bool
is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct span
span_trim(struct span s)
{
    while (s.n > 0 && is_blank(s.p[0]))
        s = span_skip(s, 1);
    while (s.n > 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

/* RFC 3629 4: what the byte after the first may be keeps overlong forms and surrogates out. */
static const struct utf8_form {
    uint8_t first[2], second[2];
    size_t n;
} utf8_forms[] = {
    { { 0x01, 0x7f }, { 0, 0 }, 1 },       { { 0xc2, 0xdf }, { 0x80, 0xbf }, 2 },
    { { 0xe0, 0xe0 }, { 0xa0, 0xbf }, 3 }, { { 0xe1, 0xec }, { 0x80, 0xbf }, 3 },
    { { 0xed, 0xed }, { 0x80, 0x9f }, 3 }, { { 0xee, 0xef }, { 0x80, 0xbf }, 3 },
    { { 0xf0, 0xf0 }, { 0x90, 0xbf }, 4 }, { { 0xf1, 0xf3 }, { 0x80, 0xbf }, 4 },
    { { 0xf4, 0xf4 }, { 0x80, 0x8f }, 4 },
};

/* r: bytes of the character at `p`; 0: there is none. The final NUL ends a form that it cuts. */
static size_t
utf8_char(const uint8_t *p)
{
    const struct utf8_form *f = utf8_forms, *end = f + ARRAY_LEN(utf8_forms);

    while (f < end && (p[0] < f->first[0] || p[0] > f->first[1]))
        f++;
    if (f == end)
        return 0;
    for (size_t i = 1; i < f->n; i++)
        if (p[i] < (i == 1 ? f->second[0] : 0x80) || p[i] > (i == 1 ? f->second[1] : 0xbf))
            return 0;
    return f->n;
}

void
utf8_repair(char *text)
{
    uint8_t *p = (uint8_t *)text;

    while (*p != '\0') {
        size_t n = utf8_char(p);

        if (n == 0)
            *p = '?';
        p += n == 0 ? 1 : n;
    }
}
