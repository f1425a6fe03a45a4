/* workload_msg.c - what the Workload API answers, packed. */
#include <string.h>

#include "agent/workload.h"
#include "identity/identity.h"
#include "workload.pb-c.h"

enum { ID_MAX_BYTES = 4 * 1024, CERTS_MAX_BYTES = 256 * 1024 };

static ProtobufCBinaryData
bytes_of(const struct buf *b)
{
    return (ProtobufCBinaryData){ b->n, b->p };
}

/* The leaf's one SPIFFE id as text, and the id of its trust domain. */
static int
ids_of(const struct creds *c, struct buf *id, struct buf *domain, struct err *e)
{
    struct span uri, td;
    int r = TRY(cert_spiffe_uri(c->leaf, &uri, e));

    if (r == CERT_NO_URI)
        return err_set(e, E_DENIED, "the leaf has no SPIFFE id");
    TRY(spiffe_uri_check(uri, &td, e));
    TRY(buf_add(id, uri, e));
    TRY(buf_add_str(domain, "spiffe://", e));
    return buf_add(domain, td, e);
}

static int
add_roots(const struct creds *c, struct buf *b, struct err *e)
{
    for (size_t i = 0; i < roots_count(c->roots); i++)
        TRY(buf_add(b, cert_der(roots_at(c->roots, i)), e));
    return 0;
}

static int
add_chain(const struct creds *c, struct buf *b, struct err *e)
{
    TRY(buf_add(b, cert_der(c->leaf), e));
    for (size_t i = 0; i < c->chain_n; i++)
        TRY(buf_add(b, cert_der(c->chain[i]), e));
    return 0;
}

/* Lists that others may have; how many. */
static size_t
lists_of(const struct creds *c, ProtobufCBinaryData ret[CRLS_MAX])
{
    size_t n = 0;

    for (size_t i = 0; crls_are_for_all(c->crls, c->roots) && i < crls_count(c->crls); i++) {
        const struct crl *x = crls_at(c->crls, i);

        if (crl_is_signed(x))
            ret[n++] = (ProtobufCBinaryData){ crl_der(x).n, (uint8_t *)(uintptr_t)crl_der(x).p };
    }
    return n;
}

int
workload_svid_pack(const struct creds *c, struct span pkcs8, struct buf *b, struct err *e)
{
    CLEANUP(buf_done) struct buf id = BUF_INIT(ID_MAX_BYTES);
    CLEANUP(buf_done) struct buf domain = BUF_INIT(ID_MAX_BYTES);
    CLEANUP(buf_done) struct buf chain = BUF_INIT(CERTS_MAX_BYTES);
    CLEANUP(buf_done) struct buf roots = BUF_INIT(CERTS_MAX_BYTES);
    Spiffe__Workload__SvidResponse m = SPIFFE__WORKLOAD__SVID_RESPONSE__INIT;
    Spiffe__Workload__Svid svid = SPIFFE__WORKLOAD__SVID__INIT;
    Spiffe__Workload__Svid *all[] = { &svid };
    ProtobufCBinaryData lists[CRLS_MAX];
    uint8_t *p;

    TRY(ids_of(c, &id, &domain, e));
    TRY(add_chain(c, &chain, e));
    TRY(add_roots(c, &roots, e));
    svid.spiffe_id = (char *)id.p;
    svid.x509_svid = bytes_of(&chain);
    svid.x509_svid_key = (ProtobufCBinaryData){ pkcs8.n, (uint8_t *)(uintptr_t)pkcs8.p };
    svid.bundle = bytes_of(&roots);
    m.crl = lists;
    m.n_crl = lists_of(c, lists);
    m.n_svids = 1;
    m.svids = all;
    TRY(buf_reserve(b, spiffe__workload__svid_response__get_packed_size(&m), &p, e));
    b->n += spiffe__workload__svid_response__pack(&m, p);
    return 0;
}

int
workload_bundles_pack(const struct creds *c, struct span pkcs8, struct buf *b, struct err *e)
{
    (void)pkcs8;
    CLEANUP(buf_done) struct buf id = BUF_INIT(ID_MAX_BYTES);
    CLEANUP(buf_done) struct buf domain = BUF_INIT(ID_MAX_BYTES);
    CLEANUP(buf_done) struct buf roots = BUF_INIT(CERTS_MAX_BYTES);
    Spiffe__Workload__BundlesResponse m = SPIFFE__WORKLOAD__BUNDLES_RESPONSE__INIT;
    Spiffe__Workload__BundlesResponse__BundlesEntry own =
        SPIFFE__WORKLOAD__BUNDLES_RESPONSE__BUNDLES_ENTRY__INIT;
    Spiffe__Workload__BundlesResponse__BundlesEntry *all[] = { &own };
    ProtobufCBinaryData lists[CRLS_MAX];
    uint8_t *p;

    TRY(ids_of(c, &id, &domain, e));
    TRY(add_roots(c, &roots, e));
    own.key = (char *)domain.p;
    own.value = bytes_of(&roots);
    m.crl = lists;
    m.n_crl = lists_of(c, lists);
    m.n_bundles = 1;
    m.bundles = all;
    TRY(buf_reserve(b, spiffe__workload__bundles_response__get_packed_size(&m), &p, e));
    b->n += spiffe__workload__bundles_response__pack(&m, p);
    return 0;
}

int
workload_jwt_bundles_pack(const struct creds *c, struct span jwks, struct buf *b, struct err *e)
{
    CLEANUP(buf_done) struct buf id = BUF_INIT(ID_MAX_BYTES);
    CLEANUP(buf_done) struct buf domain = BUF_INIT(ID_MAX_BYTES);
    Spiffe__Workload__JwtBundlesResponse m = SPIFFE__WORKLOAD__JWT_BUNDLES_RESPONSE__INIT;
    Spiffe__Workload__JwtBundlesResponse__BundlesEntry own =
        SPIFFE__WORKLOAD__JWT_BUNDLES_RESPONSE__BUNDLES_ENTRY__INIT;
    Spiffe__Workload__JwtBundlesResponse__BundlesEntry *all[] = { &own };
    uint8_t *p;

    TRY(ids_of(c, &id, &domain, e));
    own.key = (char *)domain.p;
    own.value = (ProtobufCBinaryData){ jwks.n, (uint8_t *)(uintptr_t)jwks.p };
    m.n_bundles = 1;
    m.bundles = all;
    TRY(buf_reserve(b, spiffe__workload__jwt_bundles_response__get_packed_size(&m), &p, e));
    b->n += spiffe__workload__jwt_bundles_response__pack(&m, p);
    return 0;
}
