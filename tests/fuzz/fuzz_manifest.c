/* A set of files is taken whole or not at all, whatever the manifest says; what set_parse takes,
 * set_write's reader would take again with the same manifest. The four files are good ones; the
 * lists beside them, which are the input too, block nothing. */
#include <assert.h>
#include <stdlib.h>

#include "base/str.h"
#include "pki/issue.h"
#include "sync/sync.h"

enum { MAX_BYTES = 4096 };

/* A self-signed bundle's files, made once. */
static struct buf *
good_files(void)
{
    static struct buf files[SET_FILES];
    struct ca_request q = { .subject = "CN=fuzz", .days = 100, .path_len = 0 };
    struct key *k = NULL;
    struct cert *c = NULL;
    struct err e;

    if (files[0].p != NULL)
        return files;
    for (size_t i = 0; i < SET_FILES; i++)
        files[i] = BUF_INIT(PEM_MAX_BYTES);
    if (key_make(KEY_P256, &k, &e) < 0 || root_make(&q, k, &c, &e) < 0 ||
        cert_to_pem(c, &files[PART_ROOT_CERT], &e) < 0 ||
        cert_to_pem(c, &files[PART_CA_CERT], &e) < 0 ||
        key_to_pem(k, &files[PART_CA_KEY], &e) < 0 ||
        cert_to_pem(c, &files[PART_CERT_CHAIN], &e) < 0)
        abort();
    key_unref(k);
    cert_unref(c);
    return files;
}

/* Puts the real signer's id where the input says SIGNER, so that the fuzzer gets past that check.
 */
static int
manifest_fill(struct span s, const char *signer, struct buf *out, struct err *e)
{
    static const char mark[] = "SIGNER";

    while (s.n > 0) {
        const uint8_t *at = memmem(s.p, s.n, mark, sizeof(mark) - 1);
        size_t n = at == NULL ? s.n : (size_t)(at - s.p);

        TRY(buf_add(out, span_of(s.p, n), e));
        if (at != NULL)
            TRY(buf_add_str(out, signer, e));
        s = span_skip(s, at == NULL ? n : n + sizeof(mark) - 1);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct buf *files = good_files();
    bool present[SET_FILES] = { true, true, true, true, true, true };
    static char signer[DIGEST_TEXT_BYTES];
    struct bundle *b = NULL;
    struct set_manifest m = { .generation = 77 };
    struct err e;

    if (n > MAX_BYTES)
        return 0;
    if (signer[0] == '\0') {
        present[SET_MANIFEST] = false;
        assert(set_parse(files, present, &b, &m, &e) == 0 && m.generation == 0);
        hex_text(span_of(cert_id(bundle_signer(b)), DIGEST_BYTES), signer);
        bundle_unref(b);
        b = NULL;
        m.generation = 77;
        present[SET_MANIFEST] = true;
    }
    files[SET_MANIFEST].n = files[PART_CA_CRL].n = 0;
    if (buf_add(&files[PART_CA_CRL], span_of(p, n), &e) < 0 ||
        manifest_fill(span_of(p, n), signer, &files[SET_MANIFEST], &e) < 0)
        return 0;
    int r = set_parse(files, present, &b, &m, &e);
    assert(r <= 0);
    if (r < 0)
        assert(b == NULL && m.generation == 77 && e.code != E_NONE && e.msg[0] != '\0');
    assert(r < 0 || (bundle_lists(b) == NULL) || m.lists_why.code == E_NONE);
    for (size_t i = 0; r == 0 && i < PART__ALL; i++)
        assert(memchr(m.versions.v[i], '\0', VERSION_TEXT_BYTES) != NULL);
    bundle_unref(b);
    return 0;
}
