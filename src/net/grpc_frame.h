/* grpc_frame.h - private to net/: the pure parts of gRPC over HTTP/2: the five-byte prefix,
 * grpc-timeout, percent coding, status texts. Layer: net. Thread: any. No I/O.
 * Source: gRPC over HTTP/2 protocol, "Length-Prefixed-Message", "Timeout", "Status-Message".
 */
#ifndef NET_GRPC_FRAME_H
#define NET_GRPC_FRAME_H

#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

enum { GRPC_PREFIX_BYTES = 5, GRPC_TIMEOUT_BYTES = 12 };

/* Takes messages out of a byte stream that comes in pieces of any size. */
struct grpc_reader {
    uint8_t prefix[GRPC_PREFIX_BYTES];
    size_t prefix_n; /* of those are there */
    size_t left;     /* bytes of the message that are missing */
    struct buf msg;  /* its cap is the limit */
};
#define GRPC_READER_INIT(max_bytes) ((struct grpc_reader){ .msg = BUF_INIT(max_bytes) })
void grpc_reader_done(struct grpc_reader *r); /* twice is harmless */

/* Takes from *in (advanced). r: 0 all taken, no message is whole yet; GRPC_MESSAGE r->msg is one:
 * call grpc_reader_next before the next byte. Errors: LIMIT (longer than the cap: said as soon as
 * the prefix is there), DENIED (compressed), PARSE (flag neither 0 nor 1), NOMEM. */
enum { GRPC_MESSAGE = 1 };
MUST_USE int grpc_reader_feed(struct grpc_reader *r, struct span *in, struct err *e);
void grpc_reader_next(struct grpc_reader *r); /* keeps the memory */
/* No byte of a message has come: the stream may end here. */
bool grpc_reader_is_between(const struct grpc_reader *r);

/* The prefix of an uncompressed message of `n` bytes. */
void grpc_prefix(size_t n, uint8_t ret[GRPC_PREFIX_BYTES]);

/* 1 to 8 digits and one of H M S m u n, to milliseconds, rounded up. Errors: PARSE. */
MUST_USE int grpc_timeout_parse(struct span s, uint64_t *ret_ms, struct err *e);
/* In milliseconds, or in seconds when that has over 8 digits. */
void grpc_timeout_text(uint64_t ms, char ret[GRPC_TIMEOUT_BYTES]);

/* grpc-message: everything but printable ASCII, and "%", as %XX. Decoding takes a broken escape as
 * it stands: the text is for people. Errors: LIMIT, NOMEM. */
MUST_USE int grpc_percent_encode(struct buf *b, const char *text, struct err *e);
MUST_USE int grpc_percent_decode(struct buf *b, struct span text, struct err *e);

/* "application/grpc", alone or followed by "+..." or ";...". */
bool grpc_content_type_ok(struct span value);

#endif
