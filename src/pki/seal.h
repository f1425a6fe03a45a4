/* seal.h - envelope encryption of values at rest: AES-256-GCM under one master key. Layer: pki.
 *
 * Each value has a random data key of its own, which the master key wraps; both are bound to the
 * record's name, so that a value copied to another record does not open. Thread: any; a seal is
 * immutable. Source: NIST SP 800-38D 8.2.2 (random 96-bit nonces), design.md invariant 4.
 */
#ifndef PKI_SEAL_H
#define PKI_SEAL_H

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

struct seal;

enum {
    SEAL_KEY_BYTES = 32,
    SEAL_OVERHEAD_BYTES = 89, /* a sealed value is exactly this much longer */
    SEAL_MAX_BYTES = 1024 * 1024,
};

/* `master_key` (32 bytes) is copied to locked memory. Owner: caller, seal_free. Errors: INVAL
 * (other length), NOMEM. */
MUST_USE int seal_new(struct span master_key, struct seal **ret, struct err *e);
void seal_free(struct seal *s); /* NULL is fine */
DEFINE_CLEANUP(struct seal, seal_free)

/* Appends the sealed form of `value` (0..SEAL_MAX_BYTES) for the record `name`. Errors: LIMIT,
 * NOMEM, CRYPTO. */
MUST_USE int seal_close(const struct seal *s, const char *name, struct span value, struct buf *out,
                        struct err *e);
/* Appends the value; the caller wipes `out`. Errors: CRYPTO (damaged, of another record, or another
 * master key: names the record), LIMIT, NOMEM. */
MUST_USE int seal_open(const struct seal *s, const char *name, struct span sealed, struct buf *out,
                       struct err *e);

#endif
