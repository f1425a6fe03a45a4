/* buf.h - owned bytes that grow up to a cap given at creation. Layer: base. Thread: one owner. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"

struct buf {
    uint8_t *p; /* owned; always followed by a NUL when p != NULL, so text may be printed */
    size_t n;   /* bytes in use */
    size_t cap; /* bytes allocated, without the NUL */
    size_t max; /* never more than this */
};

/* An empty buffer that may hold at most `max` bytes; allocates nothing. */
#define BUF_INIT(max_bytes) ((struct buf){ .max = (max_bytes) })

/* Frees the bytes; twice is harmless. buf_wipe overwrites them first (key material in transit). */
void buf_done(struct buf *b);
void buf_wipe(struct buf *b);

/* Appends. On failure the buffer is unchanged. Errors: LIMIT (would exceed max), NOMEM. */
MUST_USE int buf_add(struct buf *b, struct span s, struct err *e);
MUST_USE int buf_add_str(struct buf *b, const char *s, struct err *e);
MUST_USE int buf_add_byte(struct buf *b, uint8_t v, struct err *e);
MUST_USE int buf_addf(struct buf *b, struct err *e, const char *fmt, ...) PRINTF(3, 4);

/* Makes room for `n` more bytes and returns where they go in *ret; the caller then adds to b->n
 * what it wrote. Errors: LIMIT, NOMEM. */
MUST_USE int buf_reserve(struct buf *b, size_t n, uint8_t **ret, struct err *e);

static inline struct span
buf_span(const struct buf *b)
{
    return (struct span){ b->p, b->n };
}

/* The text so far, NUL-terminated; "" when empty. Borrowed until the next change. */
static inline const char *
buf_text(const struct buf *b)
{
    return b->p == NULL ? "" : (const char *)b->p;
}

#endif
