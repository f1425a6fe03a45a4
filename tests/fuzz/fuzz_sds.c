/* fuzz_sds.c - any messages one after the other on one SDS stream: only our names are ever sent or
 * kept, nothing that is asked for goes unanswered, and only the last answer's nonce is a word. */
#include <stdlib.h>
#include <string.h>

#include "agent/sds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sds_content content;

static void
check(const struct sds_peer *before, const struct sds_peer *p, const struct sds_request *q,
      enum sds_word word, unsigned send)
{
    char last[SDS_NONCE_BYTES];
    const unsigned all = SDS_KEYS | SDS_TRUSTS;

    (void)snprintf(last, sizeof(last), "%llu", (unsigned long long)before->nonce);
    bool is_last = before->nonce != 0 && strcmp(last, q->nonce) == 0;
    if (((p->names | send) & ~all) != 0 || (send & ~p->names) != 0)
        abort();
    if ((word == SDS_ACKS || word == SDS_NACKS) && !is_last)
        abort();
    if ((word == SDS_NACKS) != (is_last && q->is_refusal))
        abort();
    if (p->state == SDS_ACKED && before->state == SDS_NACKED)
        abort(); /* without an answer in between */
    if (q->names_n > SDS_NAMES_MAX || q->strangers_n > q->names_n)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct sds_peer p = { .is_delta = size > 0 && (data[0] & 1) != 0 };
    char nonce[SDS_NONCE_BYTES];
    struct sds_request q;
    struct err e;

    if (content.name[SDS_ID][0] == '\0' &&
        sds_content_init(&content, "spiffe://td/ns/n/sa/a", &e) < 0)
        abort();
    (void)snprintf(content.version[0], SDS_VERSION_BYTES, "1");
    for (in = span_skip(in, 1); in.n > 1;) { /* length, message */
        size_t n = in.p[0] < in.n - 1 ? in.p[0] : in.n - 1;
        struct sds_peer before = p;
        unsigned send;

        int r = sds_request_parse(&content, p.is_delta, span_of(in.p + 1, n), &q, &e);
        in = span_skip(in, n + 1);
        if (r < 0)
            continue;
        enum sds_word word = sds_peer_take(&p, &q, &send);
        check(&before, &p, &q, word, send);
        if (send != 0)
            sds_peer_sent(&p, nonce);
    }
    return 0;
}
