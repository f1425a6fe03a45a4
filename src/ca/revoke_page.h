/* revoke_page.h - private to ca/: a page of revoked leaves and identities, as replicas tell them
 * one another (meshroot.v1.Revocations). No I/O. Thread: any.
 */
#ifndef CA_REVOKE_PAGE_H
#define CA_REVOKE_PAGE_H

#include "ca/revoke.h"
#include "ca/revoked_identity.h"
#include "meshroot.pb-c.h"

enum {
    PAGE_LEAVES_MAX = 64,
    PAGE_ISSUERS_MAX = 16,
    PAGE_IDENTITIES_MAX = 16,
    PAGE_BYTES = 56 * 1024, /* about; less than GRPC_MAX_MESSAGE_BYTES */
};

/* One that is being written; what is added is borrowed until it is packed. */
struct revoke_page {
    Meshroot__V1__RevokedPage m;
    Meshroot__V1__RevokedLeaf leaves[PAGE_LEAVES_MAX], *at[PAGE_LEAVES_MAX];
    ProtobufCBinaryData issuers[PAGE_ISSUERS_MAX];
    Meshroot__V1__RevokedIdentity identities[PAGE_IDENTITIES_MAX],
        *identities_at[PAGE_IDENTITIES_MAX];
    size_t bytes;
};

void revoke_page_init(struct revoke_page *p, uint32_t from, uint32_t identities_from);
/* Whether it has found room; `issuer` signed it (NULL: nobody knows it any more). */
bool revoke_page_add(struct revoke_page *p, const struct revoked *v, const struct cert *issuer);
/* Before the leaves, so that all PAGE_IDENTITIES_MAX have room. */
bool revoke_page_add_identity(struct revoke_page *p, const struct revoked_identity *v);
/* Errors: NOMEM, LIMIT. */
MUST_USE int revoke_page_pack(const struct revoke_page *p, struct buf *out, struct err *e);

/* What one says: sound, if it is about a leaf of that issuer. identity is the caller's to free.
 * Errors: INVAL (which part), NOMEM. */
MUST_USE int revoke_leaf_read(const Meshroot__V1__RevokedLeaf *m, struct revoked *ret,
                              struct err *e);
/* The same for an identity. */
MUST_USE int revoke_identity_read(const Meshroot__V1__RevokedIdentity *m,
                                  struct revoked_identity *ret, struct err *e);
/* The certificate of this id among a page's issuers. r: 0; REVOKE_NO_ISSUER. Errors: PARSE, INVAL
 * (no CA's), NOMEM. Owner of *ret: caller. */
enum { REVOKE_NO_ISSUER = 1 };
MUST_USE int revoke_issuer_find(const Meshroot__V1__RevokedPage *m, const uint8_t id[DIGEST_BYTES],
                                struct cert **ret, struct err *e);

#endif
