/* secret.h - bytes that must not leak: locked, left out of dumps and forks, wiped. Layer: base.
 *
 * Not printable and not addable to a buf by type. Thread: one owner.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"

struct secret; /* own mapping: mlock (best effort), MADV_DONTDUMP, MADV_WIPEONFORK */

/* Copies `s` (1..1 MiB). Owner: caller, secret_free. Errors: NOMEM, LIMIT. Blocks: never. */
MUST_USE int secret_new(struct span s, struct secret **ret, struct err *e);
/* `n` bytes from the kernel's generator. Errors: NOMEM, SYS. */
MUST_USE int secret_random(size_t n, struct secret **ret, struct err *e);
/* Wipes and unmaps; NULL is fine. */
void secret_free(struct secret *s);
DEFINE_CLEANUP(struct secret, secret_free)

/* Borrowed until secret_free; for handing to a cryptographic call, never for printing. */
struct span secret_span(const struct secret *s);

/* free() for what may have held a secret and came from malloc; wipes all of it. NULL is fine. */
void free_wiped(void *p);

/* Constant time in the content, not in the length. */
bool secret_eq(struct span a, struct span b);

#endif
