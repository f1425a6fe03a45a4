/* pem.h - splits strict PEM text into blocks, and writes it. Layer: pki, private to it.
 *
 * Linear in the input; allocates nothing while splitting. A stricter RFC 7468: a BOM and any text
 * before the first block are fine, as are CRLF and blanks at line ends; between and after blocks
 * there is nothing but white space. Thread: any.
 */
#ifndef PKI_PEM_H
#define PKI_PEM_H

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

enum { PEM_LABEL_MAX = 64 };

/* A cursor over one text; borrowed. */
struct pem {
    struct span rest;
    size_t block_n; /* blocks given so far */
    size_t line_n;  /* lines taken so far */
};

struct pem_block {
    struct span label; /* "CERTIFICATE" */
    struct span body;  /* the lines between BEGIN and END, not yet decoded */
    size_t line;       /* of its BEGIN, counted from 1 */
};

/* Starts at the head of `text`. Errors: LIMIT (larger than PEM_MAX_BYTES). */
MUST_USE int pem_open(struct span text, struct pem *ret, struct err *e);
/* The next block. r: 0 done; PEM_END no more blocks (perhaps there were none: see block_n).
 * Errors: PARSE (the line and what is wrong with it). */
enum { PEM_END = 1 };
MUST_USE int pem_next(struct pem *p, struct pem_block *ret, struct err *e);
/* The bytes of a block, appended to `out`, which the caller wipes when it is a key.
 * Errors: PARSE (headers, not base64), LIMIT, NOMEM. */
MUST_USE int pem_decode(const struct pem_block *b, struct buf *out, struct err *e);
/* Why a text has no block at all, in words for people: DER, UTF-16, empty, or just other text. */
const char *pem_why_none(struct span text);

/* Appends one block with lines of 64 characters. */
MUST_USE int pem_add(struct buf *out, const char *label, struct span der, struct err *e);

#endif
