/* der.h - private to pki/: strict DER, bounded, for the hot path. Thread: any; no state.
 *
 * Reader: a cursor that goes bad and stays bad; look once at the end. Only what DER allows:
 * definite minimal lengths, tag numbers below 31, nothing trailing. Source: X.690 8.1, 10.1.
 * Writer: fills a fixed buffer from its end towards its start, so that a length is known when its
 * header is written; goes bad when it is full.
 */
#ifndef PKI_DER_H
#define PKI_DER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

/* clang-format off */
enum der_tag {
    DER_BOOLEAN = 0x01, DER_INTEGER = 0x02, DER_BIT_STRING = 0x03, DER_OCTET_STRING = 0x04,
    DER_NULL = 0x05, DER_OID = 0x06, DER_ENUMERATED = 0x0a, DER_UTF8_STRING = 0x0c, DER_NUMERIC_STRING = 0x12,
    DER_PRINTABLE_STRING = 0x13, DER_T61_STRING = 0x14, DER_IA5_STRING = 0x16, DER_UTC_TIME = 0x17,
    DER_GENERALIZED_TIME = 0x18, DER_UNIVERSAL_STRING = 0x1c, DER_BMP_STRING = 0x1e,
    DER_SEQUENCE = 0x30, DER_SET = 0x31,
    DER_CONTEXT = 0x80, DER_CONTEXT_CONSTRUCTED = 0xa0,
};
/* clang-format on */

enum { DER_DEPTH_MAX = 8, DER_OID_MAX_BYTES = 64 };

/* -- reading -- */

struct der {
    const uint8_t *p, *end;
    bool bad;
};

struct der der_of(struct span s);
/* Nothing is left, or it went bad. */
bool der_at_end(const struct der *c);
/* The tag of the next element; 0 at the end or when bad. */
uint8_t der_peek(const struct der *c);
/* The next element of whatever tag: its content, and with its header in *ret_whole (may be NULL).
 * Empty spans when bad. */
struct span der_any(struct der *c, uint8_t *ret_tag, struct span *ret_whole);
/* The content of the next element, which must have `tag`. */
struct span der_take(struct der *c, uint8_t tag);
/* The same with its header. */
struct span der_take_whole(struct der *c, uint8_t tag);
/* A cursor over the content of the next element; bad when the tag is another. */
struct der der_enter(struct der *c, uint8_t tag);
/* Takes a non-negative INTEGER, minimal; its bytes without a sign byte. */
struct span der_uint(struct der *c);
/* Takes an OBJECT IDENTIFIER of good form. */
struct span der_oid(struct der *c);
/* Takes a BIT STRING without unused bits. */
struct span der_bits(struct der *c);
/* BOOLEAN DEFAULT FALSE: true when the next element is TRUE; FALSE written out is bad. */
bool der_default_false(struct der *c);
/* Takes a UTCTime (1950..2049) or GeneralizedTime (other years), in seconds, UTC. RFC 5280 4.1.2.5.
 */
int64_t der_time(struct der *c);
/* One element of any type that fills the cursor's rest, of good form down to DER_DEPTH_MAX. */
bool der_is_sound(struct span s);
/* A cursor that is not bad and has nothing left. */
bool der_done(const struct der *c);

/* -- writing -- */

struct derw {
    uint8_t *buf;
    size_t cap, at; /* bytes buf[at .. cap) are written */
    bool bad;
};

struct derw derw_of(uint8_t *buf, size_t cap);
void derw_bytes(struct derw *w, struct span s);
/* Puts tag and length in front of what was written since `end`, a former derw_mark. */
size_t derw_mark(const struct derw *w);
void derw_wrap(struct derw *w, uint8_t tag, size_t end);
/* A whole element. */
void derw_put(struct derw *w, uint8_t tag, struct span content);
/* A non-negative INTEGER from big-endian bytes: leading zeros dropped, sign byte added. */
void derw_uint(struct derw *w, struct span big_endian);
/* UTCTime for 1950..2049, else GeneralizedTime. Bad outside 1950..9999. */
void derw_time(struct derw *w, int64_t t_unix_s);
struct span derw_span(const struct derw *w);
/* Moves what was written to the start of the buffer; its length, 0 when bad. */
size_t derw_finish(struct derw *w);

#endif
