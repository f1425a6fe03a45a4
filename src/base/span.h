/* span.h - borrowed bytes. Layer: base. Thread: any. */
#ifndef BASE_SPAN_H
#define BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* `n` bytes at `p`, owned by someone else, not NUL-terminated; pass by value. */
struct span {
    const uint8_t *p;
    size_t n;
};

/* The bytes of a C string, without its NUL; NULL gives the empty span. */
static inline struct span
span_str(const char *s)
{
    return (struct span){ (const uint8_t *)s, s == NULL ? 0 : strlen(s) };
}

static inline struct span
span_of(const void *p, size_t n)
{
    return (struct span){ p, n };
}

/* True when both hold the same bytes. Not constant-time: for secrets use secret_eq. */
static inline bool
span_eq(struct span a, struct span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool
span_eq_str(struct span a, const char *s)
{
    return span_eq(a, span_str(s));
}

static inline bool
span_starts(struct span a, const char *prefix)
{
    size_t n = strlen(prefix);
    return a.n >= n && memcmp(a.p, prefix, n) == 0;
}

/* The first `n` bytes dropped (all of them when there are fewer). */
static inline struct span
span_skip(struct span a, size_t n)
{
    if (n > a.n)
        n = a.n;
    return (struct span){ n == 0 ? a.p : a.p + n, a.n - n }; /* NULL + 0 is undefined */
}

/* For printf: "%.*s", SPAN_ARG(s). */
#define SPAN_ARG(s) (int)(s).n, (const char *)(s).p

#endif
