/* crl.c - writes and judges the revocation lists of our own signers. */
#include "pki/crl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "pki/crl_room.h"
#include "pki/leaf_template.h"

const uint8_t crl_oid_number[3] = { 0x55, 0x1d, 0x14 }; /* 2.5.29.20 */
const uint8_t crl_oid_reason[3] = { 0x55, 0x1d, 0x15 }; /* 2.5.29.21 */

enum { HEAD_MAX_BYTES = 2 * 1024 /* all but the entries */, ENTRY_MAX_BYTES = 56 };
_Static_assert(HEAD_MAX_BYTES + CRL_ENTRIES_MAX * ENTRY_MAX_BYTES + SIGNATURE_MAX_BYTES <=
                   CRL_MAX_BYTES,
               "a full list fits");
_Static_assert(CRLS_MAX_BYTES / 48 * 65 + CRLS_MAX * 64 < PEM_MAX_BYTES, "as PEM too");

/* -- reasons -- */

static const char *const reasons[CRL_REASON__MAX + 1] = {
    [CRL_UNSPECIFIED] = "unspecified",
    [CRL_KEY_COMPROMISE] = "keyCompromise",
    [CRL_CA_COMPROMISE] = "cACompromise",
    [CRL_AFFILIATION_CHANGED] = "affiliationChanged",
    [CRL_SUPERSEDED] = "superseded",
    [CRL_CESSATION_OF_OPERATION] = "cessationOfOperation",
    [CRL_PRIVILEGE_WITHDRAWN] = "privilegeWithdrawn",
};

const char *
crl_reason_name(enum crl_reason r)
{
    return (unsigned)r > CRL_REASON__MAX ? NULL : reasons[r];
}

int
crl_reason_parse(const char *name, enum crl_reason *ret, struct err *e)
{
    for (unsigned i = 0; i <= CRL_REASON__MAX; i++)
        if (reasons[i] != NULL && strcmp(reasons[i], name) == 0) {
            *ret = (enum crl_reason)i;
            return 0;
        }
    return err_set(e, E_INVAL,
                   "\"%.40s\" is no reason; want unspecified, keyCompromise, cACompromise, "
                   "affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn",
                   name);
}

/* -- writing -- */

/* SEQUENCE { oid, OCTET STRING of what was written since `end` }. */
static void
extension_wrap(struct derw *w, const uint8_t oid[3], size_t end)
{
    derw_wrap(w, DER_OCTET_STRING, end);
    derw_put(w, DER_OID, span_of(oid, 3));
    derw_wrap(w, DER_SEQUENCE, end);
}

static void
extensions_write(struct derw *w, const struct leaf_template *t, uint64_t number)
{
    size_t all = derw_mark(w), end = all;
    uint8_t be[8];

    for (size_t i = 0; i < sizeof(be); i++)
        be[i] = (uint8_t)(number >> (56 - 8 * i));
    derw_uint(w, span_of(be, sizeof(be)));
    extension_wrap(w, crl_oid_number, end);
    if (t->ski_n > 0) {
        end = derw_mark(w);
        derw_put(w, DER_CONTEXT, span_of(t->ski, t->ski_n));
        derw_wrap(w, DER_SEQUENCE, end);
        extension_wrap(w, leaf_oid_aki, end);
    }
    derw_wrap(w, DER_SEQUENCE, all);
    derw_wrap(w, DER_CONTEXT_CONSTRUCTED, all);
}

/* RFC 5280 5.3.1: an unspecified reason is left out. */
static void
entry_write(struct derw *w, const struct crl_entry *x)
{
    size_t end = derw_mark(w);
    uint8_t reason = (uint8_t)x->reason;

    if (x->reason != CRL_UNSPECIFIED) {
        derw_put(w, DER_ENUMERATED, span_of(&reason, 1));
        extension_wrap(w, crl_oid_reason, end);
        derw_wrap(w, DER_SEQUENCE, end);
    }
    derw_time(w, x->revoked);
    derw_uint(w, span_of(x->serial, x->serial_n));
    derw_wrap(w, DER_SEQUENCE, end);
}

static int
request_check(const struct crl_request *q, struct err *e)
{
    if (q->this_update < 0 || q->next_update <= q->this_update)
        return err_set(e, E_INVAL, "the list's times are out of order");
    if (q->n > CRL_ENTRIES_MAX)
        return err_set(e, E_LIMIT, "more than %d entries in one list", CRL_ENTRIES_MAX);
    for (size_t i = 0; i < q->n; i++) {
        const struct crl_entry *x = &q->entries[i];

        if (x->serial_n == 0 || x->serial_n > SERIAL_MAX_BYTES || x->serial[0] == 0 ||
            crl_reason_name(x->reason) == NULL)
            return err_set(e, E_INVAL, "an entry without a serial number, or of no known reason");
    }
    return 0;
}

int
crl_tbs(const struct leaf_template *t, const struct crl_request *q, struct buf *out, struct err *e)
{
    static const uint8_t version2[] = { DER_INTEGER, 1, 1 };
    size_t cap = HEAD_MAX_BYTES + q->n * ENTRY_MAX_BYTES;
    uint8_t *to;

    TRY(request_check(q, e));
    TRY(buf_reserve(out, cap, &to, e));
    struct derw w = derw_of(to, cap);
    size_t end = derw_mark(&w);
    extensions_write(&w, t, q->number);
    size_t list = derw_mark(&w);
    for (size_t i = q->n; i-- > 0;)
        entry_write(&w, &q->entries[i]);
    if (q->n > 0) /* RFC 5280 5.1.2.6: absent when empty */
        derw_wrap(&w, DER_SEQUENCE, list);
    derw_time(&w, q->next_update);
    derw_time(&w, q->this_update);
    derw_bytes(&w, span_of(t->issuer, t->issuer_n));
    derw_bytes(&w, t->algorithm);
    derw_bytes(&w, span_of(version2, sizeof(version2)));
    derw_wrap(&w, DER_SEQUENCE, end);
    size_t n = derw_finish(&w);
    if (n == 0)
        return err_set(e, E_LIMIT, "the revocation list does not fit");
    out->n += n;
    return 0;
}

int
crl_finish(const struct leaf_template *t, struct span tbs, struct span signature, struct buf *out,
           struct err *e)
{
    static const uint8_t no_unused_bits;
    size_t cap = tbs.n + signature.n + t->algorithm.n + 32;
    uint8_t *to;

    TRY(buf_reserve(out, cap, &to, e));
    struct derw w = derw_of(to, cap);
    size_t end = derw_mark(&w);
    derw_bytes(&w, signature);
    derw_bytes(&w, span_of(&no_unused_bits, 1));
    derw_wrap(&w, DER_BIT_STRING, end);
    derw_bytes(&w, t->algorithm);
    derw_bytes(&w, tbs);
    derw_wrap(&w, DER_SEQUENCE, end);
    size_t n = derw_finish(&w);
    if (n == 0)
        return err_set(e, E_LIMIT, "the revocation list does not fit");
    out->n += n;
    return 0;
}

/* -- judging -- */

struct collecting {
    struct crl_entry *entries; /* owned */
    size_t n, cap;
};

static int
entry_collect(const struct crl_entry *x, void *arg, struct err *e)
{
    struct collecting *c = arg;

    if (c->n == c->cap) {
        size_t cap = c->cap == 0 ? 64 : 2 * c->cap;
        struct crl_entry *p = realloc(c->entries, cap * sizeof(*p));

        if (p == NULL)
            return err_nomem(e);
        c->entries = p;
        c->cap = cap;
    }
    c->entries[c->n++] = *x;
    return 0;
}

static int
as_we_write(const struct leaf_template *t, struct span tbs, const struct crl_request *q,
            struct err *e)
{
    CLEANUP(buf_done) struct buf again = BUF_INIT(CRL_MAX_BYTES);

    TRY(crl_tbs(t, q, &again, e));
    if (!span_eq(buf_span(&again), tbs))
        return err_set(e, E_DENIED,
                       "it is a list of this signer's name and key, in the one form that is "
                       "signed (RFC 5280 5.1)");
    return 0;
}

int
crl_tbs_lint(const struct leaf_template *t, struct span tbs, struct crl_facts *ret, struct err *e)
{
    struct collecting c = { .n = 0 };
    struct crl_head h = { .number = 0 };
    int r = crl_tbs_read(tbs, &h, entry_collect, &c, e);
    struct crl_request q = { .number = h.number,
                             .this_update = h.this_update,
                             .next_update = h.next_update,
                             .entries = c.entries,
                             .n = c.n };

    if (r == 0)
        r = as_we_write(t, tbs, &q, e);
    free(c.entries);
    if (r < 0) {
        e->code = e->code == E_NOMEM ? E_NOMEM : E_DENIED;
        return err_wrap(e, "crl lint");
    }
    *ret = (struct crl_facts){ h.number, h.this_update, h.next_update, q.n };
    return 0;
}
