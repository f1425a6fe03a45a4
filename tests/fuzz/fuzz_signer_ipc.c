/* fuzz_signer_ipc.c - whatever the signer's parent sends, each whole request gets one answer, and
 * what is signed is a leaf within its bounds. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pki/issue.h"
#include "signer/ipc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LIFE_S = 86400 };
static struct ipc_table table;
static struct leaf_template *leaf;
static uint8_t good[TBS_MAX_BYTES];
static size_t good_n;

static void
start(void)
{
    static const char *const sans[] = { "spiffe://td/ns/a/sa/b" };
    struct ca_request r = { .subject = "CN=fuzz", .days = 10, .path_len = -1 };
    struct buf spki = BUF_INIT(1024);
    struct ipc_held *h = calloc(1, sizeof(*h));
    struct key *k;
    struct cert *c;
    struct err e;
    int64_t now = unix_s();

    if (h == NULL || key_make(KEY_ED25519, &k, &e) < 0 || root_make(&r, k, &c, &e) < 0 ||
        leaf_template_new(c, NULL, &leaf, &e) < 0 || leaf_template_new(c, k, &h->leaf, &e) < 0 ||
        key_spki(k, &spki, &e) < 0)
        abort();
    struct leaf_request q = { .spki = buf_span(&spki),
                              .sans = sans,
                              .sans_n = 1,
                              .not_before = now,
                              .not_after = now + LIFE_S,
                              .serial = { 1 } };
    if (leaf_tbs(leaf, &q, good, &good_n, &e) < 0)
        abort();
    ipc_table_init(&table, LIFE_S, "cluster.local");
    h->refs = 1;
    h->id = 1;
    h->not_after = cert_not_after(c);
    table.held[0] = h;
    buf_done(&spki);
    cert_unref(c);
    key_unref(k);
}

static void
answer_check(const struct ipc_frame *q, const struct buf *out)
{
    struct span s = buf_span(out);
    struct leaf_facts facts;
    struct ipc_frame f;
    struct err e;

    if (ipc_take(&s, &f, &e) != 0 || s.n != 0 || f.tag != q->tag || f.code >= E__MAX)
        abort();
    if (f.code == E_NONE && q->code == IPC_JWT) { /* what is signed is never DER */
        if (f.body.n > SIGNER_JWT_MAX_BYTES || !span_starts(f.body, "eyJ"))
            abort();
        return;
    }
    if (f.code == E_NONE && (q->code != IPC_SIGN || leaf_tbs_lint(leaf, q->body, &facts, &e) < 0 ||
                             facts.not_after > unix_s() + LIFE_S + SIGNER_CLOCK_S))
        abort();
}

/* First byte 0: the input is frames; else it is laid over a good TBSCertificate, which is signed.
 */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct ipc_frame q;
    struct err e;

    if (leaf == NULL)
        start();
    if (size < 4)
        return 0;
    struct span s = span_of(data + 1, size - 1);
    while (data[0] == 0 && ipc_take(&s, &q, &e) == 0) {
        if (q.code == IPC_DROP)
            continue; /* the one signer stays */
        out.n = 0;
        if (ipc_serve(&table, &q, q.id % 2 == 0, -1, &out, &e) < 0)
            abort();
        answer_check(&q, &out);
    }
    if (data[0] != 0) {
        uint8_t tbs[TBS_MAX_BYTES];
        size_t at = ((size_t)data[1] << 8 | data[2]) % good_n;

        memcpy(tbs, good, good_n);
        for (size_t i = 3; i < size && at + i - 3 < good_n; i++)
            tbs[at + i - 3] = data[i];
        q = (struct ipc_frame){ IPC_SIGN, 1, 7, span_of(tbs, good_n) };
        if (ipc_serve(&table, &q, false, -1, &out, &e) < 0)
            abort();
        answer_check(&q, &out);
    }
    buf_done(&out);
    return 0;
}
