/* Four texts, parted by a line of "====", as bundle_new takes them. A bundle that is accepted keeps
 * its promises: the key matches, each link verifies, its parts written again give the same bundle.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pki/bundle.h"

#define CUT "====\n"

static void
split(struct span in, struct span parts[PART__N])
{
    for (int i = 0; i < PART__N; i++) {
        const uint8_t *at = in.n == 0 ? NULL : memmem(in.p, in.n, CUT, strlen(CUT));
        size_t n = at == NULL || i == PART__N - 1 ? in.n : (size_t)(at - in.p);

        parts[i] = span_of(in.p, n);
        in = span_skip(in, n + (at == NULL ? 0 : strlen(CUT)));
    }
}

static void
check_promises(const struct bundle *b)
{
    struct buf text[PART__N];
    struct span parts[PART__N];
    struct bundle *again = NULL;
    struct cert *root = NULL, *path[CHAIN_MAX];
    struct err e;
    size_t n = bundle_chain_count(b);

    assert(n <= CHAIN_MAX && cert_is_ca(bundle_signer(b)));
    assert(cert_key_matches(bundle_signer(b), bundle_key(b)));
    assert(roots_has(bundle_roots(b), cert_id(bundle_signer_root(b))));
    for (size_t i = 0; i < n; i++) {
        path[i] = bundle_chain_at(b, i);
        assert(cert_is_ca(path[i]) && cert_not_after(path[i]) >= bundle_not_after(b));
    }
    assert(roots_verify(bundle_roots(b), bundle_signer(b), path, n, &root, &e) == 0);
    for (int i = 0; i < PART__N; i++) {
        text[i] = BUF_INIT(PEM_MAX_BYTES);
        assert(bundle_part_pem(b, (enum bundle_part)i, &text[i], &e) == 0);
        parts[i] = buf_span(&text[i]);
    }
    assert(bundle_new(parts, &again, &e) == 0);
    assert(roots_equal(bundle_roots(again), bundle_roots(b)));
    bundle_unref(again);
    for (int i = 0; i < PART__N; i++)
        buf_wipe(&text[i]);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct span parts[PART__N];
    struct bundle *b = NULL;
    struct err e;

    split(span_of(data, n), parts);
    int r = bundle_new(parts, &b, &e);
    if (r < 0) {
        size_t named = 0;

        assert(b == NULL && r == -(int)e.code && e.code != E_NONE);
        for (int i = 0; i < PART__N; i++)
            named += strncmp(e.msg, bundle_file_names[i], strlen(bundle_file_names[i])) == 0;
        assert(named == 1 || e.code == E_NOMEM);
        return 0;
    }
    check_promises(b);
    bundle_unref(b);
    return 0;
}
