/* revoke_page.c - see revoke_page.h. */
#include "ca/revoke_page.h"

#include "base/clock.h"
#include "base/str.h"

enum {
    LEAF_HEAD = 160, /* of one leaf in a page, besides its identity: not more */
    IDENTITY_HEAD = 96,
};

void
revoke_page_init(struct revoke_page *p, uint32_t from, uint32_t identities_from)
{
    meshroot__v1__revoked_page__init(&p->m);
    p->m.from = from;
    p->m.leaves = p->at;
    p->m.issuers = p->issuers;
    p->m.identities_from = identities_from;
    p->m.identities = p->identities_at;
    p->m.takes_identities = true;
    p->bytes = 0;
}

/* protobuf-c has no const; the bytes are only read. */
static ProtobufCBinaryData
bytes_of(struct span s)
{
    return (ProtobufCBinaryData){ s.n, (uint8_t *)(uintptr_t)s.p };
}

static bool
issuer_is_in(const struct revoke_page *p, struct span der)
{
    for (size_t i = 0; i < p->m.n_issuers; i++)
        if (span_eq(span_of(p->issuers[i].data, p->issuers[i].len), der))
            return true;
    return false;
}

bool
revoke_page_add(struct revoke_page *p, const struct revoked *v, const struct cert *issuer)
{
    struct span der = issuer == NULL ? span_str("") : cert_der(issuer);
    bool is_in = issuer == NULL || issuer_is_in(p, der);
    size_t more = LEAF_HEAD + strlen(v->identity) + (is_in ? 0 : der.n);

    if (p->m.n_leaves == PAGE_LEAVES_MAX || (!is_in && p->m.n_issuers == PAGE_ISSUERS_MAX) ||
        (p->m.n_leaves > 0 && p->bytes + more > PAGE_BYTES))
        return false;
    Meshroot__V1__RevokedLeaf *m = &p->leaves[p->m.n_leaves];
    meshroot__v1__revoked_leaf__init(m);
    m->signer_id = bytes_of(span_of(v->signer_id, DIGEST_BYTES));
    m->serial = bytes_of(span_of(v->entry.serial, v->entry.serial_n));
    m->not_after = v->not_after;
    m->revoked = v->entry.revoked;
    m->reason = (char *)(uintptr_t)crl_reason_name(v->entry.reason);
    m->identity = v->identity;
    p->at[p->m.n_leaves++] = m;
    if (!is_in)
        p->issuers[p->m.n_issuers++] = bytes_of(der);
    p->bytes += more;
    return true;
}

bool
revoke_page_add_identity(struct revoke_page *p, const struct revoked_identity *v)
{
    if (p->m.n_identities == PAGE_IDENTITIES_MAX)
        return false;
    Meshroot__V1__RevokedIdentity *m = &p->identities[p->m.n_identities];
    meshroot__v1__revoked_identity__init(m);
    m->id = bytes_of(span_of(v->id, IDENTITY_ACT_BYTES));
    m->identity = v->identity;
    m->revoked = v->at;
    m->until = v->until;
    m->reason = (char *)(uintptr_t)crl_reason_name(v->reason);
    p->identities_at[p->m.n_identities++] = m;
    p->bytes += IDENTITY_HEAD + strlen(v->identity);
    return true;
}

int
revoke_page_pack(const struct revoke_page *p, struct buf *out, struct err *e)
{
    uint8_t *at;

    TRY(buf_reserve(out, meshroot__v1__revoked_page__get_packed_size(&p->m), &at, e));
    out->n += meshroot__v1__revoked_page__pack(&p->m, at);
    return 0;
}

int
revoke_leaf_read(const Meshroot__V1__RevokedLeaf *m, struct revoked *ret, struct err *e)
{
    struct span domain;
    int64_t now = unix_s();
    struct revoked v = { .not_after = m->not_after, .entry.revoked = m->revoked };

    if (m->signer_id.len != DIGEST_BYTES)
        return err_set(e, E_INVAL, "a signer's id is the SHA-256 of its certificate");
    if (m->serial.len < 1 || m->serial.len > SERIAL_MAX_BYTES || m->serial.data[0] == 0)
        return err_set(e, E_INVAL, "a serial number is 1 to %d bytes, the first not zero",
                       (int)SERIAL_MAX_BYTES);
    if (strlen(m->identity) >= LEDGER_IDENTITY_BYTES ||
        spiffe_uri_check(span_str(m->identity), &domain, e) < 0)
        return err_set(e, E_INVAL, "the identity of a revoked leaf is no SPIFFE id");
    if (m->revoked <= 0)
        return err_set(e, E_INVAL, "a leaf was revoked at no time");
    TRY(crl_reason_parse(m->reason, &v.entry.reason, e));
    memcpy(v.signer_id, m->signer_id.data, DIGEST_BYTES);
    memcpy(v.entry.serial, m->serial.data, v.entry.serial_n = m->serial.len);
    if (v.entry.revoked > now) /* its clock is ahead; a list names no time to come */
        v.entry.revoked = now;
    TRY(str_dup(span_str(m->identity), &v.identity, e));
    *ret = v;
    return 0;
}

int
revoke_identity_read(const Meshroot__V1__RevokedIdentity *m, struct revoked_identity *ret,
                     struct err *e)
{
    struct revoked_identity v = { .at = m->revoked, .until = m->until };
    struct spiffe_id id;
    int64_t now = unix_s();

    if (m->id.len != IDENTITY_ACT_BYTES)
        return err_set(e, E_INVAL, "the id of a revoked identity is %d bytes",
                       (int)IDENTITY_ACT_BYTES);
    if (spiffe_parse(span_str(m->identity), &id, e) < 0)
        return err_set(e, E_INVAL, "what is revoked is no workload's SPIFFE id");
    if (m->revoked <= 0 || m->until < m->revoked ||
        m->until > now + IDENTITY_ACT_LIFE_MAX_S + REVOKED_KEPT_S)
        return err_set(e, E_INVAL, "an identity was revoked at no time, or until none");
    TRY(crl_reason_parse(m->reason, &v.reason, e));
    memcpy(v.id, m->id.data, IDENTITY_ACT_BYTES);
    if (v.at > now) /* its clock is ahead: what is issued here from now on is not refused */
        v.at = now;
    TRY(str_dup(span_str(m->identity), &v.identity, e));
    *ret = v;
    return 0;
}

int
revoke_issuer_find(const Meshroot__V1__RevokedPage *m, const uint8_t id[DIGEST_BYTES],
                   struct cert **ret, struct err *e)
{
    uint8_t d[DIGEST_BYTES];

    for (size_t i = 0; i < m->n_issuers && i < PAGE_ISSUERS_MAX; i++) {
        struct span der = span_of(m->issuers[i].data, m->issuers[i].len);

        digest(der, d);
        if (memcmp(d, id, DIGEST_BYTES) != 0)
            continue;
        TRY(cert_from_der(der, ret, e));
        if (cert_is_ca(*ret))
            return 0;
        cert_unref(STEAL(*ret));
        return err_set(e, E_INVAL, "the issuer of a revoked leaf is no CA");
    }
    return REVOKE_NO_ISSUER;
}
