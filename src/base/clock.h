/* clock.h - the two clocks, and one way to set them in tests. Layer: base. Thread: any. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"

uint64_t mono_ms(void); /* monotonic milliseconds; for intervals and deadlines */
int64_t unix_s(void);   /* wall clock, seconds since 1970; for certificates and records */
int64_t unix_us(void);  /* wall clock, microseconds; for log lines */

/* Moves both wall clocks by `s` seconds from now on (tests of expiry; 0 restores). */
void clock_shift_for_test(int64_t s);

enum { RFC3339_BYTES = 32 };
/* "2026-11-23T21:12:40Z" into `ret`; years 0..9999. */
void rfc3339_s(int64_t t_unix_s, char ret[RFC3339_BYTES]);
/* "2026-11-23T21:12:40.123456Z" into `ret`. Source: specs/istio-ca.md 8.4. */
void rfc3339_us(int64_t t_unix_us, char ret[RFC3339_BYTES]);
/* "2026-11-23T21:12:40Z", or with a fraction, which is dropped; UTC only, as Kubernetes writes it.
 * Errors: PARSE. Source: RFC 3339 5.6. */
MUST_USE int rfc3339_parse(struct span s, int64_t *ret_unix_s, struct err *e);

/* A uniformly random number in [0, n); n == 0 gives 0. Not for keys. */
uint64_t random_below(uint64_t n);
/* Fills with the kernel's generator. Errors: SYS. */
MUST_USE int random_bytes(void *p, size_t n, struct err *e);

#endif
