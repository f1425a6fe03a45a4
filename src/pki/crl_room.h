/* crl_room.h - private to pki/: what crl.c and crl_read.c share. */
#ifndef PKI_CRL_ROOM_H
#define PKI_CRL_ROOM_H

#include "pki/crl.h"
#include "pki/der.h"

extern const uint8_t crl_oid_number[3], crl_oid_reason[3];

/* A TBSCertList without its entries; spans are borrowed from what was read. */
struct crl_head {
    struct span algorithm, issuer; /* DER */
    struct span aki;               /* keyIdentifier; empty when absent */
    uint64_t number;               /* 0: none */
    int64_t this_update, next_update;
};
/* Calls fn for each entry, in order; a negative result stops and is returned. *ret is set to zero
 * first. Errors: PARSE, DENIED (an extension that changes what entries mean), LIMIT. */
MUST_USE int crl_tbs_read(struct span tbs, struct crl_head *ret, crl_entry_fn *fn, void *arg,
                          struct err *e);
bool crl_revokes_mark(const struct crl *c, const struct cert_mark *m);

#endif
