/* fuzz_revoked.c - a page of revoked leaves and identities, from a courier or a replica: what is
 * sound is written as it was read, and fits a page. */
#include <stdlib.h>
#include <string.h>

#include "ca/revoke_page.h"
#include "net/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The same leaf, written and read again; a date to come is moved to now the first time. */
static void
check(const struct revoked *v)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(GRPC_MAX_MESSAGE_BYTES);
    struct revoke_page page;
    struct revoked w;
    struct err e;

    revoke_page_init(&page, 0, 0);
    if (!revoke_page_add(&page, v, NULL) || revoke_page_pack(&page, &b, &e) < 0)
        abort();
    Meshroot__V1__RevokedPage *m = meshroot__v1__revoked_page__unpack(NULL, b.n, b.p);
    if (m == NULL || m->n_leaves != 1 || revoke_leaf_read(m->leaves[0], &w, &e) < 0)
        abort();
    if (w.entry.serial_n != v->entry.serial_n || w.not_after != v->not_after ||
        w.entry.revoked != v->entry.revoked || w.entry.reason != v->entry.reason ||
        memcmp(w.entry.serial, v->entry.serial, v->entry.serial_n) != 0 ||
        memcmp(w.signer_id, v->signer_id, DIGEST_BYTES) != 0 ||
        strcmp(w.identity, v->identity) != 0)
        abort();
    free(w.identity);
    meshroot__v1__revoked_page__free_unpacked(m, NULL);
}

static void
check_identity(const struct revoked_identity *v)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(GRPC_MAX_MESSAGE_BYTES);
    struct revoke_page page;
    struct revoked_identity w;
    struct err e;

    revoke_page_init(&page, 0, 0);
    for (size_t i = 0; i < PAGE_IDENTITIES_MAX; i++)
        if (!revoke_page_add_identity(&page, v))
            abort();
    if (revoke_page_add_identity(&page, v) || revoke_page_pack(&page, &b, &e) < 0)
        abort();
    Meshroot__V1__RevokedPage *m = meshroot__v1__revoked_page__unpack(NULL, b.n, b.p);
    if (m == NULL || m->n_identities != PAGE_IDENTITIES_MAX ||
        revoke_identity_read(m->identities[0], &w, &e) < 0)
        abort();
    if (memcmp(w.id, v->id, sizeof(w.id)) != 0 || strcmp(w.identity, v->identity) != 0 ||
        w.at != v->at || w.until != v->until || w.reason != v->reason)
        abort();
    free(w.identity);
    meshroot__v1__revoked_page__free_unpacked(m, NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    Meshroot__V1__RevokedPage *m = meshroot__v1__revoked_page__unpack(NULL, n, data);
    struct err e;

    for (size_t i = 0; m != NULL && i < m->n_leaves; i++) {
        struct cert *issuer = NULL;
        struct revoked v;

        if (revoke_leaf_read(m->leaves[i], &v, &e) < 0)
            continue;
        if (revoke_issuer_find(m, v.signer_id, &issuer, &e) == 0)
            cert_unref(issuer);
        check(&v);
        free(v.identity);
    }
    for (size_t i = 0; m != NULL && i < m->n_identities; i++) {
        struct revoked_identity v;

        if (revoke_identity_read(m->identities[i], &v, &e) < 0)
            continue;
        check_identity(&v);
        free(v.identity);
    }
    if (m != NULL)
        meshroot__v1__revoked_page__free_unpacked(m, NULL);
    return 0;
}
