/* fuzz_leaf_lint.c - a certificate that the lint lets out is, but for its signature, the one asked
 * for. */
#include <stdlib.h>
#include <string.h>

#include "pki/issue.h"
#include "pki/leaf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct leaf_template *template;
static uint8_t tbs[TBS_MAX_BYTES];
static size_t tbs_n;
static const char *const sans[] = { "spiffe://td/ns/a/sa/b" };
/* P-256, a fixed point: the corpus has to fit the request */
static const uint8_t spki[91] = { 0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48,
                                  0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
                                  0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04 };
static const struct leaf_request request = { .spki = { spki, sizeof(spki) },
                                             .sans = sans,
                                             .sans_n = 1,
                                             .not_before = 1700000000,
                                             .not_after = 1700086400,
                                             .serial = { 1 } };

static void
start(void)
{
    struct ca_request q = { .subject = "CN=fuzz", .days = 10, .path_len = -1 };
    struct key *k = NULL;
    struct cert *c = NULL;
    struct err e;

    if (key_make(KEY_ED25519, &k, &e) < 0 || root_make(&q, k, &c, &e) < 0 ||
        leaf_template_new(c, k, &template, &e) < 0 ||
        leaf_tbs(template, &request, tbs, &tbs_n, &e) < 0)
        abort();
    key_unref(k);
    cert_unref(c);
}

/* The first byte says how: 0 the input is a whole certificate; else it is laid over a good one. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t der[LEAF_MAX_BYTES], sig[64] = { 0 };
    size_t n;
    struct err e;

    if (template == NULL)
        start();
    if (size < 4)
        return 0;
    if (data[0] == 0) {
        if (leaf_lint(template, &request, span_of(data + 1, size - 1), &e) == 0 &&
            memmem(data, size, tbs, tbs_n) == NULL)
            abort();
        return 0;
    }
    if (leaf_finish(template, span_of(tbs, tbs_n), span_of(sig, sizeof(sig)), der, &n, &e) < 0)
        abort();
    size_t at = ((size_t)data[1] << 8 | data[2]) % n;
    for (size_t i = 3; i < size && at + i - 3 < n; i++)
        der[at + i - 3] = data[i];
    if (leaf_lint(template, &request, span_of(der, n), &e) == 0 &&
        memmem(der, n, tbs, tbs_n) == NULL)
        abort();
    return 0;
}
