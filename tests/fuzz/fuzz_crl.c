/* fuzz_crl.c - a list that is read is read the same after it was written as PEM, and what the
 * signer's judge lets through is, byte for byte, what our writer makes. */
#include <stdlib.h>
#include <string.h>

#include "pki/crl.h"
#include "pki/issue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct leaf_template *template;

static void
start(void)
{
    struct ca_request q = { .subject = "CN=fuzz", .days = 10, .path_len = -1 };
    struct key *k = NULL;
    struct cert *c = NULL;
    struct err e;

    if (key_make(KEY_ED25519, &k, &e) < 0 || root_make(&q, k, &c, &e) < 0 ||
        leaf_template_new(c, k, &template, &e) < 0)
        abort();
    key_unref(k);
    cert_unref(c);
}

static int
is_found(const struct crl_entry *x, void *arg, struct err *e)
{
    struct crl_entry got;

    if (!crl_has(arg, span_of(x->serial, x->serial_n)) ||
        crl_entry_of(arg, span_of(x->serial, x->serial_n), &got, e) != 0)
        abort();
    return 0;
}

static void
bare_says_the_same(struct crl *c)
{
    CLEANUP(crl_unrefp) struct crl *bare = NULL;
    char name[NAME_TEXT_BYTES];
    struct err e;

    if (crl_to_bare(c, &bare, &e) < 0 || crl_is_signed(bare) || crl_count(bare) != crl_count(c) ||
        !crl_same_issuer(bare, c) || crl_next_update(bare) != crl_next_update(c))
        abort();
    crl_issuer_text(bare, name);
    if (crl_count(c) < 64 && crl_each(c, is_found, bare, &e) < 0)
        abort();
}

static void
read_twice(struct span der)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(crl_unrefp) struct crl *c = NULL;
    CLEANUP(crls_unrefp) struct crls *one = NULL, *again = NULL;
    struct err e;

    if (crl_from_der(der, &c, &e) < 0)
        return;
    if (crl_count(c) > CRL_ENTRIES_MAX || !span_eq(crl_der(c), der))
        abort();
    bare_says_the_same(c);
    if (crls_new(&c, 1, &one, &e) < 0 || crls_to_pem(one, &pem, &e) < 0 ||
        crls_from_pem(buf_span(&pem), &again, &e) < 0 || !crls_equal(one, again))
        abort();
}

/* The input as a list's entries: six bytes each. */
static void
judge(const uint8_t *data, size_t size)
{
    struct crl_entry entries[64];
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    struct crl_request q = { .number = size, .this_update = 5, .next_update = 9 + data[0] };
    struct crl_facts f;
    struct err e;

    q.entries = entries;
    for (; q.n < 64 && size >= 6 * (q.n + 1); q.n++) {
        const uint8_t *p = data + 6 * q.n;

        entries[q.n] = (struct crl_entry){ .serial = { p[0], p[1], p[2], p[3] },
                                           .serial_n = p[4] % 6,
                                           .revoked = p[5] * 100000000L,
                                           .reason = (enum crl_reason)(p[4] >> 4) };
    }
    if (crl_tbs(template, &q, &tbs, &e) < 0)
        return;
    if (crl_tbs_lint(template, buf_span(&tbs), &f, &e) < 0 || f.n != q.n)
        abort();
    size_t at = ((size_t)data[0] << 8 | data[size - 1]) % tbs.n;
    tbs.p[at] ^= data[size / 2];
    if (crl_tbs_lint(template, buf_span(&tbs), &f, &e) == 0 && f.n != q.n)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct crl_facts f;
    struct err e;

    if (template == NULL)
        start();
    if (size == 0)
        return 0;
    read_twice(span_of(data, size));
    judge(data, size);
    return crl_tbs_lint(template, span_of(data, size), &f, &e) == 0 &&
                   f.next_update <= f.this_update
               ? (abort(), 0)
               : 0;
}
