/* fuzz_ca_request.c - our in-place reader of Istio's request agrees with protobuf-c. */
#include <stdlib.h>

#include "ca/wire.h"
#include "istio_ca.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEPTH_SAFE_BYTES = 4096 }; /* protobuf-c recurses as deep as it is told to */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_request q;
    struct err e;

    bool ours = wire_request_read(span_of(data, size), &q, &e) == 0;
    if (size > DEPTH_SAFE_BYTES)
        return 0;
    Istio__V1__Auth__IstioCertificateRequest *m =
        istio__v1__auth__istio_certificate_request__unpack(NULL, size, data);
    if (m == NULL)
        return 0;
    /* what both can read is the same (a string there ends at a NUL); ours refuses tags of more than
     * 32 bits, which protobuf-c cuts short */
    if (ours && (q.validity_s != m->validity_duration ||
                 (q.csr.n > 0 && strncmp(m->csr, (const char *)q.csr.p, q.csr.n) != 0)))
        abort();
    istio__v1__auth__istio_certificate_request__free_unpacked(m, NULL);
    return 0;
}
