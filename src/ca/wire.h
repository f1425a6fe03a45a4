/* wire.h - private to ca/: the two messages of Istio's call, read and written in place.
 *
 * Bounded and without recursion or allocation: protobuf-c follows nested Structs as deep as a peer
 * likes to send them. Unknown fields are skipped; of `metadata` only the two known keys are looked
 * at. Source: specs/protos.md 1.
 */
#ifndef CA_WIRE_H
#define CA_WIRE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

struct wire_request { /* spans borrowed from the message */
    struct span csr;
    int64_t validity_s;       /* 0 when absent */
    struct span impersonated; /* metadata ImpersonatedIdentity, or empty */
    struct span cert_signer;  /* metadata CertSigner, or empty */
};

/* Errors: PARSE. */
MUST_USE int wire_request_read(struct span msg, struct wire_request *ret, struct err *e);
/* One element of cert_chain. */
MUST_USE int wire_answer_add(struct buf *b, struct span text, struct err *e);

#endif
