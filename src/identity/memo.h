/* memo.h - private to identity/: what a key set has vouched for already, by the SHA-256 of the
 * token. Layer: identity.
 *
 * It belongs to one immutable key set and ends with it, so a change of keys forgets everything.
 * It spares the form and the signature of the very same bytes, nothing else: issuer, audience and
 * time are judged at every call. Bounded: MEMO_TOKENS tokens of MEMO_CONTENT_BYTES; in a full set
 * of places the one unused for longest goes. Thread: any.
 */
#ifndef IDENTITY_MEMO_H
#define IDENTITY_MEMO_H

#include "base/buf.h"
#include "pki/pki.h"

enum { MEMO_WAYS = 4, MEMO_TOKENS = 2048, MEMO_CONTENT_BYTES = 2048 };

struct memo;
MUST_USE int memo_new(struct memo **ret, struct err *e);
void memo_free(struct memo *m); /* NULL is fine */

/* Appends the content to `out`; false: not known. */
bool memo_find(struct memo *m, const uint8_t id[DIGEST_BYTES], struct buf *out);
/* Best effort: too long, or no memory, is not remembered. */
void memo_add(struct memo *m, const uint8_t id[DIGEST_BYTES], struct span content);

#endif
