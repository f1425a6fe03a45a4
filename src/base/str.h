/* str.h - numbers, durations, hex, base64, names. Layer: base. Thread: any. Blocks: never. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

/* A whole decimal number in [min, max]; no sign, no spaces. Errors: PARSE, LIMIT. */
MUST_USE int u64_parse(struct span s, uint64_t min, uint64_t max, uint64_t *ret, struct err *e);
/* "90s", "2m", "24h", "90d", "250ms"; a bare number has no unit and is refused (except "0").
 * Errors: PARSE (names the text), LIMIT. */
MUST_USE int duration_ms_parse(struct span s, uint64_t *ret_ms, struct err *e);
/* The shortest exact form: "2m", "36h", "1500ms". */
enum { DURATION_BYTES = 24 };
void duration_ms_text(uint64_t ms, char ret[DURATION_BYTES]);

/* Lower-case hex, 2n bytes and a NUL into `ret`. */
void hex_text(struct span s, char *ret);
/* Exactly 2n hex digits of either case into n bytes. Errors: PARSE. */
MUST_USE int hex_parse(struct span s, uint8_t *ret, size_t n, struct err *e);

/* RFC 4648 base64 with padding, and base64url without (JWT, Key Vault tokens). The decoders are
 * strict: no white space, no wrong padding, no stray bits. Errors: PARSE, LIMIT, NOMEM. */
MUST_USE int base64_add(struct buf *b, struct span s, struct err *e);
MUST_USE int base64url_add(struct buf *b, struct span s, struct err *e);
MUST_USE int base64_decode(struct buf *b, struct span text, struct err *e);
MUST_USE int base64url_decode(struct buf *b, struct span text, struct err *e);

/* A heap copy, NUL-terminated; owner: caller, free(). Errors: NOMEM, PARSE (a NUL inside). */
MUST_USE int str_dup(struct span s, char **ret, struct err *e);
MUST_USE int str_format(char **ret, struct err *e, const char *fmt, ...) PRINTF(3, 4);
/* For CLEANUP(str_freep) char *s. */
static inline void
str_free(char *s)
{
    free(s);
}
DEFINE_CLEANUP(char, str_free)

/* Bytes of `text` that belong to no character of UTF-8 (RFC 3629 4), such as the rest of one that
 * was cut at the end of a buffer, become '?', in place: JSON takes no others. */
void utf8_repair(char *text);

/* Cuts `s` at the first `sep`: the part before in *ret_head, the rest after it in *s.
 * r: true while there was a part (the last one has an empty rest and s->p == NULL afterwards). */
bool span_cut(struct span *s, char sep, struct span *ret_head);
/* Without ASCII blanks, tabs, CR and LF at both ends. */
struct span span_trim(struct span s);

#endif
