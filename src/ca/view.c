/* view.c - the bundle in force in the shape that answers need it in. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "ca/revoked_identity.h"
#include "ca/room.h"
#include "ca/wire.h"
#include "meshroot.pb-c.h"

enum { VIEW_MAX_BYTES = 1024 * 1024 };

static int
answer_tail_fill(struct ca_view *v, struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);

    for (size_t i = 0; i < bundle_chain_count(v->bundle); i++) {
        pem.n = 0;
        TRY(cert_to_pem(bundle_chain_at(v->bundle, i), &pem, e));
        TRY(wire_answer_add(&v->answer_tail, buf_span(&pem), e));
    }
    pem.n = 0;
    TRY(roots_to_pem(bundle_roots(v->bundle), &pem, e));
    return wire_answer_add(&v->answer_tail, buf_span(&pem), e);
}

static int
jwt_fill(struct ca_view *v, const struct ca_jwt *jwt, struct buf *jwks, struct err *e)
{
    const struct ca_jwt_key *k = ca_jwt_signing(jwt, mono_ms());

    if (k != NULL) {
        v->jwt_signer = signer_ref(k->signer);
        memcpy(v->jwt_kid, k->kid, sizeof(v->jwt_kid));
    }
    return jwt->n == 0 ? 0 : ca_jwt_bundle(jwt, jwks, e);
}

static int
trust_set_fill(struct ca_view *v, const struct ca_view_args *a, struct err *e)
{
    CLEANUP(buf_done) struct buf jwks = BUF_INIT(VIEW_MAX_BYTES);
    Meshroot__V1__TrustSet m = MESHROOT__V1__TRUST_SET__INIT;
    struct roots *roots = bundle_roots(v->bundle);
    ProtobufCBinaryData ders[ROOTS_MAX], signed_lists[CRLS_MAX], bare_lists[CRLS_MAX];
    uint8_t signer_id[DIGEST_BYTES], *to;

    if (a->jwt != NULL)
        TRY(jwt_fill(v, a->jwt, &jwks, e));
    for (m.n_roots = 0; m.n_roots < roots_count(roots); m.n_roots++) {
        struct span der = cert_der(roots_at(roots, m.n_roots));
        uint8_t *p;

        /* protobuf-c has no const; the bytes are only read */
        memcpy(&p, &der.p, sizeof(p));
        ders[m.n_roots] = (ProtobufCBinaryData){ der.n, p };
    }
    m.crls = signed_lists;
    m.bare_lists = bare_lists;
    for (size_t i = 0; i < crls_count(v->crls); i++) {
        const struct crl *c = crls_at(v->crls, i);
        struct span der = crl_der(c);
        uint8_t *p;

        memcpy(&p, &der.p, sizeof(p));
        *(crl_is_signed(c) ? &signed_lists[m.n_crls++] : &bare_lists[m.n_bare_lists++]) =
            (ProtobufCBinaryData){ der.n, p };
    }
    memcpy(signer_id, cert_id(bundle_signer(v->bundle)), DIGEST_BYTES);
    m.roots = ders;
    m.signer_id = (ProtobufCBinaryData){ DIGEST_BYTES, signer_id };
    if (jwks.n > 0)
        m.jwt_bundle = (ProtobufCBinaryData){ jwks.n, jwks.p };
    m.generation = v->generation;
    m.renew_window_ms = a->renew_window_ms;
    TRY(buf_reserve(&v->trust_set, meshroot__v1__trust_set__get_packed_size(&m), &to, e));
    v->trust_set.n += meshroot__v1__trust_set__pack(&m, to);
    return 0;
}

int
ca_view_new(const struct ca_view_args *a, struct ca_view **ret, struct err *e)
{
    CLEANUP(ca_view_unrefp) struct ca_view *v = calloc(1, sizeof(*v));

    if (v == NULL)
        return err_nomem(e);
    atomic_init(&v->refs, 1);
    v->alive = a->alive;
    if (v->alive != NULL)
        (void)atomic_fetch_add_explicit(v->alive, 1, memory_order_relaxed);
    v->bundle = bundle_ref(a->bundle);
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        v->keys[i] = a->keys[i] == NULL ? NULL : jwks_ref(a->keys[i]);
    v->generation = a->generation;
    (void)snprintf(v->generation_text, sizeof(v->generation_text), "%" PRIu64, a->generation);
    v->not_after = bundle_not_after(a->bundle);
    v->answer_tail = BUF_INIT(VIEW_MAX_BYTES);
    v->trust_set = BUF_INIT(VIEW_MAX_BYTES);
    v->signer = signer_ref(a->signer);
    v->crls = a->crls == NULL ? NULL : crls_ref(a->crls);
    v->cuts = a->cuts == NULL ? NULL : cuts_ref(a->cuts);
    TRY(answer_tail_fill(v, e));
    TRY(trust_set_fill(v, a, e));
    *ret = STEAL(v);
    return 0;
}

struct ca_view *
ca_view_ref(struct ca_view *v)
{
    (void)atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    return v;
}

void
ca_view_unref(struct ca_view *v)
{
    if (v == NULL || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1)
        return;
    signer_unref(v->signer);
    signer_unref(v->jwt_signer);
    bundle_unref(v->bundle);
    crls_unref(v->crls);
    cuts_unref(v->cuts);
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        jwks_unref(v->keys[i]);
    buf_done(&v->answer_tail);
    buf_done(&v->trust_set);
    if (v->alive != NULL)
        (void)atomic_fetch_sub_explicit(v->alive, 1, memory_order_acq_rel);
    free(v);
}

bool
ca_view_revokes(const struct ca_view *v, const struct tls_peer *peer)
{
    return tls_peer_is_revoked(peer, v->crls) ||
           cuts_refuse(v->cuts, peer->uri, cert_not_before(peer->leaf));
}
