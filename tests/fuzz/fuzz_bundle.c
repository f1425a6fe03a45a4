/* Four texts, parted by a line of "====", as bundle_new takes them, and a fifth as the lists beside
 * them. A bundle that is accepted keeps its promises: the key matches, each link verifies, its
 * parts written again give the same bundle; so do lists: each is signed by a certificate of the
 * bundle. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pki/bundle.h"

#define CUT "====\n"

static void
split(struct span in, struct span parts[PART__ALL])
{
    for (int i = 0; i < PART__ALL; i++) {
        const uint8_t *at = in.n == 0 ? NULL : memmem(in.p, in.n, CUT, strlen(CUT));
        size_t n = at == NULL || i == PART__ALL - 1 ? in.n : (size_t)(at - in.p);

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

static bool
is_signed_here(const struct bundle *b, const struct crl *c)
{
    struct err e;

    for (size_t i = 0; i < bundle_chain_count(b); i++)
        if (crl_verify(c, bundle_chain_at(b, i), &e) == 0)
            return true;
    for (size_t i = 0; i < roots_count(bundle_roots(b)); i++)
        if (crl_verify(c, roots_at(bundle_roots(b), i), &e) == 0)
            return true;
    return false;
}

static void
check_lists(const struct bundle *b, struct span pem)
{
    CLEANUP(buf_done) struct buf text = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(crls_unrefp) struct crls *lists = NULL, *again = NULL;
    CLEANUP(bundle_unrefp) struct bundle *with = NULL;
    struct cert_mark m;
    struct err e;

    if (bundle_lists_read(b, pem, &lists, &e) < 0) {
        assert(lists == NULL && e.msg[0] != '\0');
        return;
    }
    assert(crls_count(lists) <= BUNDLE_LISTS_MAX);
    for (size_t i = 0; i < crls_count(lists); i++)
        assert(is_signed_here(b, crls_at(lists, i)));
    assert(bundle_lists_follow(lists, lists, &e) == 0);
    bool is_spared = bundle_lists_spare(b, lists, &e) == 0, is_in = false;
    for (size_t i = 0; i < bundle_chain_count(b); i++) {
        cert_mark_of(bundle_chain_at(b, i), &m);
        assert(crls_revoke(lists, bundle_chain_at(b, i)) == crls_revoke_mark(lists, &m));
        is_in = is_in || crls_revoke_mark(lists, &m);
    }
    assert(is_spared == !is_in);
    assert(bundle_with_lists(b, lists, &with, &e) == 0);
    assert(bundle_part_pem(with, PART_CA_CRL, &text, &e) == 0);
    assert(bundle_lists_read(b, buf_span(&text), &again, &e) == 0 && crls_equal(again, lists));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct span parts[PART__ALL];
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
    check_lists(b, parts[PART_CA_CRL]);
    bundle_unref(b);
    return 0;
}
