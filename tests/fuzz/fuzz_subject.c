/* fuzz_subject.c - a subject as people type it: refused with a reason, or in the certificate. */
#include <stdlib.h>

#include "base/str.h"
#include "pki/issue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct key *key;
    CLEANUP(str_freep) char *text = NULL;
    CLEANUP(cert_unrefp) struct cert *c = NULL;
    CLEANUP(cert_unrefp) struct cert *again = NULL;
    struct err e = { 0 };

    if (key == NULL && key_make(KEY_P256, &key, &e) < 0)
        abort();
    if (str_dup(span_of(data, n), &text, &e) < 0)
        return 0;
    struct ca_request q = { .subject = text, .days = 1, .path_len = -1 };
    if (root_make(&q, key, &c, &e) < 0) {
        if (e.msg[0] == '\0')
            abort();
        return 0;
    }
    if (cert_from_der(cert_der(c), &again, &e) < 0 || !cert_is_self_signed(again) ||
        cert_subject_der(again).n <= 2)
        abort();
    return 0;
}
