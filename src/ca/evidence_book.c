/* evidence_book.c - see evidence_book.h. */
#include "ca/evidence_book.h"

#include "meshroot.pb-c.h"

enum { KEPT_MAX_BYTES = EVIDENCE_MAX_BYTES + EVIDENCE_MAX_BYTES / 8 };

void
evidence_book_done(struct evidence_book *b)
{
    buf_done(&b->now.pieces);
    buf_done(&b->next.pieces);
    *b = (struct evidence_book){ .now = { .number = 0 } };
}

void
evidence_book_turn(struct evidence_book *b)
{
    buf_done(&b->next.pieces);
    b->next = (struct evidence_snapshot){ .number = 0 };
    b->now.number = 0;
}

/* -- what came ----------------------------------------------------------------------------------
 */

static bool
ids_ok(const ProtobufCBinaryData *ids, size_t n, size_t max)
{
    for (size_t i = 0; i < n && n <= max; i++)
        if (ids[i].len != DIGEST_BYTES)
            return false;
    return n <= max;
}

static bool
workload_ok(const Meshroot__V1__EvidenceWorkload *w)
{
    return w->identity[0] != '\0' && strlen(w->identity) < LEDGER_IDENTITY_BYTES &&
           strlen(w->instance) < INSTANCE_TEXT_BYTES &&
           (w->leaves > 0 || (w->said > 0 && w->instance[0] != '\0')) &&
           ids_ok(w->ack_roots, w->n_ack_roots, ROOTS_MAX) &&
           ids_ok(w->leaf_roots, w->n_leaf_roots, EVIDENCE_IDS_MAX) &&
           ids_ok(w->leaf_signers, w->n_leaf_signers, EVIDENCE_IDS_MAX) &&
           (w->n_leaf_root_generations == 0 || w->n_leaf_root_generations == w->n_leaf_roots);
}

static int
loaded_take(const Meshroot__V1__EvidenceLoaded *m, struct evidence_loaded *ret, struct err *e)
{
    *ret = (struct evidence_loaded){ .generation = m->generation, .roots_n = m->n_root_ids };
    if (m->replica[0] == '\0' || strlen(m->replica) >= sizeof(ret->replica) ||
        !ids_ok(m->root_ids, m->n_root_ids, ROOTS_MAX) ||
        (m->ledger_id.len != 0 && m->ledger_id.len != LEDGER_ID_BYTES) ||
        (m->generation > 0 && (m->n_root_ids == 0 || m->signer_id.len != DIGEST_BYTES)))
        return err_set(e, E_PEER, "evidence: what the replica has loaded is malformed");
    (void)snprintf(ret->replica, sizeof(ret->replica), "%s", m->replica);
    for (size_t i = 0; i < m->n_root_ids; i++)
        memcpy(ret->roots[i], m->root_ids[i].data, DIGEST_BYTES);
    if (m->signer_id.len == DIGEST_BYTES)
        memcpy(ret->signer_id, m->signer_id.data, DIGEST_BYTES);
    if (m->ledger_id.len > 0)
        memcpy(ret->ledger_id, m->ledger_id.data, LEDGER_ID_BYTES);
    return 0;
}

static int
piece_check(const struct evidence_book *b, const Meshroot__V1__EvidencePiece *m, struct err *e)
{
    bool begins = b->next.number == 0;

    if (begins ? m->loaded == NULL || m->number <= b->now.number
               : m->loaded != NULL || m->number != b->next.number)
        return err_set(e, E_PEER, "evidence: a piece that does not follow the one before");
    for (size_t i = 0; i < m->n_workloads; i++)
        if (!workload_ok(m->workloads[i]))
            return err_set(e, E_PEER, "evidence: a malformed workload");
    return 0;
}

static int
piece_keep(struct evidence_snapshot *s, struct span msg, struct err *e)
{
    size_t n = msg.n;

    s->pieces.max = KEPT_MAX_BYTES;
    TRY(buf_add(&s->pieces, span_of((const uint8_t *)&n, sizeof(n)), e));
    return buf_add(&s->pieces, msg, e);
}

/* r: 1 a snapshot is whole now. */
static int
piece_take(struct evidence_book *b, const Meshroot__V1__EvidencePiece *m, struct span msg,
           struct err *e)
{
    bool is_still_so = b->next.number == 0 && m->number == b->now.number && m->number > 0;

    if (is_still_so && m->n_workloads == 0 && m->loaded == NULL && m->last)
        return 0;
    TRY(piece_check(b, m, e));
    if (m->loaded != NULL)
        TRY(loaded_take(m->loaded, &b->next.loaded, e));
    b->next.number = m->number;
    TRY(piece_keep(&b->next, msg, e));
    if (!m->last)
        return 0;
    buf_done(&b->now.pieces);
    b->now = b->next;
    b->next = (struct evidence_snapshot){ .number = 0 };
    return 1;
}

int
evidence_book_take(struct evidence_book *b, struct span msg, struct err *e)
{
    Meshroot__V1__EvidencePiece *m = meshroot__v1__evidence_piece__unpack(NULL, msg.n, msg.p);

    if (m == NULL)
        return err_set(e, E_PEER, "evidence: not an EvidencePiece");
    int r = piece_take(b, m, msg, e);
    meshroot__v1__evidence_piece__free_unpacked(m, NULL);
    return r;
}

/* -- what is told -------------------------------------------------------------------------------
 */

static void
ids_copy(uint8_t (*ret)[DIGEST_BYTES], const ProtobufCBinaryData *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        memcpy(ret[i], ids[i].data, DIGEST_BYTES);
}

/* As the ledger would call it. */
static void
workload_tell(const Meshroot__V1__EvidenceWorkload *m, ledger_workload_fn *fn, void *arg)
{
    uint8_t acks[ROOTS_MAX][DIGEST_BYTES], roots[EVIDENCE_IDS_MAX][DIGEST_BYTES],
        signers[EVIDENCE_IDS_MAX][DIGEST_BYTES];
    const struct ledger_workload w = { .identity = m->identity,
                                       .instance = m->instance,
                                       .can_acknowledge = m->instance[0] != '\0',
                                       .ack_generation = m->ack_generation,
                                       .ack_roots = (const uint8_t(*)[DIGEST_BYTES])acks,
                                       .ack_roots_n = m->n_ack_roots,
                                       .min_row_generation = m->min_row_generation,
                                       .leaves_n = m->leaves,
                                       .leaf_roots = (const uint8_t(*)[DIGEST_BYTES])roots,
                                       .leaf_roots_n = m->n_leaf_roots,
                                       .leaf_signers = (const uint8_t(*)[DIGEST_BYTES])signers,
                                       .leaf_signers_n = m->n_leaf_signers,
                                       .last_not_after = m->last_not_after,
                                       .said = m->said,
                                       .last_issued = m->last_issued,
                                       .used_issued = m->used_issued,
                                       .used_generation = m->used_generation,
                                       .ended_generation = m->ended_generation,
                                       .leaf_root_generations = m->n_leaf_root_generations == 0
                                                                    ? NULL
                                                                    : m->leaf_root_generations };

    ids_copy(acks, m->ack_roots, m->n_ack_roots);
    ids_copy(roots, m->leaf_roots, m->n_leaf_roots);
    ids_copy(signers, m->leaf_signers, m->n_leaf_signers);
    fn(&w, arg);
}

int
evidence_book_tell(const struct evidence_book *b, ledger_workload_fn *fn, void *arg, struct err *e)
{
    struct span rest = buf_span(&b->now.pieces);

    while (rest.n > 0) {
        size_t n;

        memcpy(&n, rest.p, sizeof(n));
        Meshroot__V1__EvidencePiece *m =
            meshroot__v1__evidence_piece__unpack(NULL, n, rest.p + sizeof(n));
        if (m == NULL)
            return err_nomem(e);
        for (size_t i = 0; i < m->n_workloads; i++)
            workload_tell(m->workloads[i], fn, arg);
        meshroot__v1__evidence_piece__free_unpacked(m, NULL);
        rest = span_skip(rest, sizeof(n) + n);
    }
    return 0;
}
