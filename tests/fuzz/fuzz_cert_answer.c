/* fuzz_cert_answer.c - a CA's answer to CreateCertificate, around a good one of this run: it is
 * taken with the leaf that is for our key and our identity only, under a root that it brings; any
 * other is refused with a word, and gives nothing.
 *
 * The input is the elements of the answer: a letter and a length (two bytes). L, I, R stand for the
 * good leaf, intermediate, root; with bytes behind them, these are laid over the PEM, from where
 * the first two say; T is the bytes themselves, a text; M ends the answer and is a whole message.
 */
#include "agent/creds.h"
#include "istio_ca.pb-c.h"
#include "mint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ELEMENTS_MAX = 16 };

static struct mint kit;

static char *
element(uint8_t letter, struct span with)
{
    size_t which = letter == 'L' ? MINT_LEAF : letter == 'I' ? MINT_INTERMEDIATE : MINT_ROOT;
    struct buf b = BUF_INIT(1 << 20);
    struct err e;

    MUST(buf_add(&b, letter == 'T' ? with : buf_span(&kit.pem[which]), &e));
    MUST(buf_add_byte(&b, 0, &e));
    if (letter != 'T' && with.n > 2) {
        size_t at = (size_t)(with.p[0] << 8 | with.p[1]) % b.n;
        for (size_t i = 2; i < with.n && at + i - 2 < b.n - 1; i++)
            b.p[at + i - 2] = with.p[i];
    }
    return (char *)b.p;
}

static void
judge(char *const *chain, size_t n)
{
    struct creds *c = NULL;
    struct err e = { 0 };
    int r = creds_from_answer(kit.key, MINT_ID, chain, n, &c, &e);

    if ((r == 0) != (c != NULL) || (r < 0 && e.msg[0] == '\0'))
        abort();
    if (r < 0)
        return;
    if (!span_eq(cert_der(c->leaf), cert_der(kit.cert[MINT_LEAF])) || c->chain_n > CHAIN_MAX ||
        roots_count(c->roots) > ROOTS_MAX || !creds_leaf_is_trusted(c) || c->crls != NULL ||
        memcmp(c->leaf_root_id, cert_id(kit.cert[MINT_ROOT]), DIGEST_BYTES) != 0 ||
        memcmp(c->signer_id, cert_id(kit.cert[MINT_INTERMEDIATE]), DIGEST_BYTES) != 0)
        abort();
    creds_free(c);
}

static void
judge_message(struct span msg)
{
    Istio__V1__Auth__IstioCertificateResponse *m =
        istio__v1__auth__istio_certificate_response__unpack(NULL, msg.n, msg.p);

    if (m == NULL)
        return;
    judge(m->cert_chain, m->n_cert_chain);
    istio__v1__auth__istio_certificate_response__free_unpacked(m, NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size), with;
    char *chain[ELEMENTS_MAX];
    size_t n = 0;

    if (kit.key == NULL)
        mint(&kit);
    while (n < ELEMENTS_MAX && in.n > 2) {
        uint8_t letter = in.p[0];

        in = span_skip(in, 1);
        if (letter == 'M') {
            judge_message(in);
            break;
        }
        if (!part_cut(&in, true, &with))
            break;
        chain[n++] = element(letter, with);
    }
    judge(chain, n);
    for (size_t i = 0; i < n; i++)
        free(chain[i]);
    return 0;
}
