/* fuzz_trust_set.c - any messages on an agent's trust stream: what is held keeps its leaf and has a
 * root or more, generations never fall, what is refused says why and changes nothing, and lists
 * that cannot be used leave those of before.
 *
 * The input is a row of messages, each behind its length (two bytes). */
#include "agent/trust_set.h"
#include "mint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct creds *first;

static void
start(void)
{
    static struct mint m;
    char *chain[MINT_N];
    struct err e;

    mint(&m);
    for (size_t i = 0; i < MINT_N; i++)
        chain[i] = (char *)m.pem[i].p;
    MUST(creds_from_answer(m.key, MINT_ID, chain, MINT_N, &first, &e));
    first->generation = first->leaf_generation = 1;
}

static void
check(const struct creds *held, const Meshroot__V1__TrustSet *m, const struct creds *next,
      const struct err *lists)
{
    if (next->generation != m->generation || next->generation < held->generation ||
        next->leaf != held->leaf || next->key != held->key ||
        next->leaf_generation != held->leaf_generation || roots_count(next->roots) == 0 ||
        roots_count(next->roots) > ROOTS_MAX || roots_count(next->roots) > m->n_roots)
        abort();
    if (lists->code != E_NONE && (lists->msg[0] == '\0' || next->crls != held->crls))
        abort();
    if (m->n_crls + m->n_bare_lists == 0 && lists->code == E_NONE && next->crls != NULL)
        abort();
    if (roots_count(held->roots) > 0 && creds_leaf_is_trusted(next) &&
        !roots_has(next->roots, next->leaf_root_id))
        abort();
}

static void
renewal(const struct creds *held, const Meshroot__V1__TrustSet *m)
{
    uint64_t from = 0, to = 0;

    if (trust_set_renewal(m, held, &from, &to) &&
        (from > to || to - from > RENEW_WINDOW_MAX_MS || to - from > m->renew_window_ms ||
         memcmp(m->signer_id.data, held->signer_id, DIGEST_BYTES) == 0))
        abort();
}

/* What is held after the message; `held` is let go of when it is another. */
static struct creds *
take(struct creds *held, struct span msg)
{
    Meshroot__V1__TrustSet *m = meshroot__v1__trust_set__unpack(NULL, msg.n, msg.p);
    struct creds *next = NULL;
    struct err lists = { 0 }, e = { 0 };

    if (m == NULL)
        return held;
    int r = trust_set_take(m, held, &next, &lists, &e);
    if ((r == 0) != (next != NULL) || (r < 0 && (e.msg[0] == '\0' || lists.code != E_NONE)) ||
        (r == TRUST_SET_OLD) != (m->generation < held->generation))
        abort();
    if (r == 0)
        check(held, m, next, &lists);
    if (r >= 0)
        renewal(held, m);
    meshroot__v1__trust_set__free_unpacked(m, NULL);
    if (next == NULL)
        return held;
    if (held != first)
        creds_free(held);
    return next;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size), msg;
    struct creds *held;

    if (first == NULL)
        start();
    held = first;
    while (part_cut(&in, true, &msg))
        held = take(held, msg);
    if (held != first)
        creds_free(held);
    return 0;
}
