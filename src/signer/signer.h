/* signer.h - the one place that uses an intermediate's key. Layer: signer.
 *
 * Asynchronous in shape, because the key is to move into a child process that sees no network; for
 * now it signs in the caller's thread. Thread: any (immutable after signer_new).
 * Source: design.md invariant 4.
 */
#ifndef SIGNER_SIGNER_H
#define SIGNER_SIGNER_H

#include "base/err.h"
#include "pki/leaf.h"

struct loop;
struct signer;

/* Takes references to the key. Errors: DENIED (the key is not the certificate's), as
 * leaf_template_new. Owner: caller. */
MUST_USE int signer_new(const struct cert *cert, struct key *key, struct signer **ret,
                        struct err *e);
void signer_free(struct signer *s); /* NULL is fine; when no call is under way */
DEFINE_CLEANUP(struct signer, signer_free)
/* What leaf_tbs, leaf_finish and leaf_lint need; borrowed. */
const struct leaf_template *signer_template(const struct signer *s);

/* `why` NULL: `signature` (borrowed for the call) covers `tbs`. */
typedef void signer_done_fn(struct span signature, const struct err *why, void *arg);
/* Signs one TBSCertificate (borrowed until done). Exactly one call of done, on `loop`'s thread: the
 * caller's; it may come before signer_sign returns. */
void signer_sign(struct signer *s, struct span tbs, struct loop *loop, signer_done_fn *done,
                 void *arg);

#endif
