#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUF_FIRST_BYTES = 256 };

void
buf_done(struct buf *b)
{
    free(b->p);
    b->p = NULL;
    b->n = b->cap = 0;
}

void
buf_wipe(struct buf *b)
{
    if (b->p != NULL)
        explicit_bzero(b->p, b->cap);
    buf_done(b);
}

/* Grows by copying and wiping, not by realloc: a buffer may hold key text on its way. */
static int
buf_grow(struct buf *b, size_t want, struct err *e)
{
    size_t cap = b->cap == 0 ? BUF_FIRST_BYTES : b->cap;

    while (cap < want)
        cap *= 2;
    if (cap > b->max)
        cap = b->max;
    uint8_t *p = malloc(cap + 1);
    if (p == NULL)
        return err_nomem(e);
    if (b->p != NULL) {
        memcpy(p, b->p, b->n);
        explicit_bzero(b->p, b->n);
        free(b->p);
    }
    p[b->n] = '\0';
    b->p = p;
    b->cap = cap;
    return 0;
}

int
buf_reserve(struct buf *b, size_t n, uint8_t **ret, struct err *e)
{
    size_t want;

    if (__builtin_add_overflow(b->n, n, &want) || want > b->max)
        return err_set(e, E_LIMIT, "more than %zu bytes", b->max);
    if (want > b->cap || b->p == NULL)
        TRY(buf_grow(b, want, e));
    *ret = b->p + b->n;
    return 0;
}

int
buf_add(struct buf *b, struct span s, struct err *e)
{
    uint8_t *at = NULL;

    TRY(buf_reserve(b, s.n, &at, e));
    if (s.n > 0)
        memcpy(at, s.p, s.n);
    b->n += s.n;
    b->p[b->n] = '\0';
    return 0;
}

int
buf_add_str(struct buf *b, const char *s, struct err *e)
{
    return buf_add(b, span_str(s), e);
}

int
buf_add_byte(struct buf *b, uint8_t v, struct err *e)
{
    return buf_add(b, (struct span){ &v, 1 }, e);
}

int
buf_addf(struct buf *b, struct err *e, const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;

    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return err_nomem(e);
    int r = buf_add(b, span_of(text, (size_t)n), e);
    free(text);
    return r;
}
