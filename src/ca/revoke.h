/* revoke.h - private to ca/: which leaves are revoked, and the lists that say so.
 *
 * revoked.c keeps the table, on disk before anything acts on it, revoked_identity.c that of
 * identities; lists.c makes one revocation list for each signer whose leaves may be alive; revoke.c
 * is the operation; revoke_share.c tells other replicas, and is told; revoke_serve.c has the calls
 * over HTTP. All on the control loop. Source: RFC 5280 5; specs/peers.md 29 ("revoked and
 * unexpired: in the list").
 *
 *   revoked/<hex id of the signer>/<hex serial>   one leaf, JSON
 *   crl/<hex id of the signer>                    its last signed list, DER
 */
#ifndef CA_REVOKE_H
#define CA_REVOKE_H

#include "ca/revoked_identity.h"
#include "ca/room.h"
#include "pki/crl.h"

enum {
    REVOKED_MAX = CRL_ENTRIES_MAX, /* not expired, in all; beyond: LIMIT */
    REVOKED_KEPT_S = 3600,         /* after the leaf's end: clocks differ */
    CA_LISTS_MAX = 16,             /* signers with a list at one time */
    CA_CRL_LIFE_S = 7 * 86400,     /* of a list, at least */
    CA_CRL_SPARE_S = 2 * 86400,    /* and at least so long after its signer's last leaf */
    CA_CRL_EVERY_S = 86400,        /* a new one, whether anything has changed or not */
    CA_REVOKE_ASKS_ABOVE = 16,     /* leaves at once: wants to be confirmed */
    CA_REVOKE_TOLD_MAX = 16, /* identities that others have revoked, being done here at once */
    CA_COURIER_AWAY_MS = 30 * 1000, /* the operator comes every COURIER_EVERY_MS */
};

/* -- the table: revoked.c -- */

struct revoked {
    uint8_t signer_id[DIGEST_BYTES];
    struct crl_entry entry;
    int64_t not_after;
    char *identity;   /* owned */
    uint64_t seen_ms; /* mono, when it was first seen to be over; 0: it is not */
};

struct revoked_table {
    struct store *store; /* borrowed; NULL: nothing is kept */
    struct loop *loop;
    struct revoked *all; /* owned; in the order in which they came */
    size_t n, cap;
};
MUST_USE int revoked_open(struct revoked_table *t, struct store *s, struct loop *l, struct err *e);
void revoked_done(struct revoked_table *t);
const struct revoked *revoked_find(const struct revoked_table *t,
                                   const uint8_t signer_id[DIGEST_BYTES], struct span serial);
/* Puts `n` of them (identities are copied; none is in the table) on disk and, once they are there,
 * into the table; then done, on the loop. n > 0. Errors: LIMIT (REVOKED_MAX), NOMEM, STATE. */
MUST_USE int revoked_add(struct revoked_table *t, const struct revoked *v, size_t n,
                         void (*done)(const struct err *e, void *arg), void *arg, struct err *e);
/* Lets go of those whose leaf is over (revoked_may_go). r: whether there were any. */
bool revoked_prune(struct revoked_table *t, int64_t now, uint64_t now_ms);

/* What ended at `end` (unix seconds) is over by the wall clock for REVOKED_KEPT_S, and by the
 * monotonic one too: a clock that jumped gives nothing back. *seen_ms (mono) is the caller's, of
 * each one: when it was first seen to be over; 0: it is not. */
bool revoked_may_go(int64_t end, uint64_t *seen_ms, int64_t now, uint64_t now_ms);
/* Nothing when there is no store. What a busy one keeps, the next start reads and lets go. */
void revoked_record_delete(struct store *s, const char *key);

/* One of its records in the store; the key starts with REVOKED_PREFIX. ret->identity is the
 * caller's to free. Errors: PARSE, NOMEM. */
enum { REVOKED_KEY_BYTES = 192 };
void revoked_record_key(const struct revoked *v, char ret[REVOKED_KEY_BYTES]);
MUST_USE int revoked_record_write(const struct revoked *v, struct buf *b, struct err *e);
MUST_USE int revoked_record_read(const char *key, struct span value, struct revoked *ret,
                                 struct err *e);

/* -- the lists: lists.c -- */

struct crl_list {
    uint8_t signer_id[DIGEST_BYTES];
    struct cert *cert;     /* NULL: nobody knows it any more */
    struct signer *signer; /* NULL: its key is gone, since a start that came after it */
    struct crl *list;      /* the last signed one; NULL */
    struct crl *bare;      /* what is to be said beyond that, unsigned; NULL */
    bool is_dirty;         /* the table has changed since */
};

struct crl_lists {
    struct ca *ca;
    struct revoked_table *table;
    struct crl_list all[CA_LISTS_MAX]; /* the first n; the one in force is the first */
    size_t n;
    struct crls *above;      /* those of the CAs above, which came with the set; NULL: none */
    struct crls *handed_out; /* what views carry; NULL: nothing is revoked */
    char trouble[ERR_MSG_BYTES];
};
MUST_USE int lists_open(struct crl_lists *l, struct ca *c, struct revoked_table *t, struct err *e);
void lists_done(struct crl_lists *l);
/* This signer is about to sign: it comes first, with a list from before its first leaf on. Its
 * predecessor's key stays loaded until the last of its leaves is over. */
void lists_signer(struct crl_lists *l, struct cert *cert, struct signer *s);
/* Leaves of this one are revoked, though it never signed here: a list without a key, at the end,
 * unless there is one. Its certificate is kept for the next start. Errors: LIMIT, NOMEM. */
MUST_USE int lists_issuer(struct crl_lists *l, struct cert *cert, struct err *e);
/* Of this signer; NULL: none. Borrowed, until the lists change. */
const struct crl_list *lists_find(const struct crl_lists *l, const uint8_t signer_id[DIGEST_BYTES]);
/* The lists that came with the set (NULL: none): they go along with ours. What one says of leaves
 * of a signer of ours goes into our list of that signer: verifiers look at one. */
void lists_above(struct crl_lists *l, struct crls *above);
/* The signed ones of `above` that are no signer's of ours. ret has room for BUNDLE_LISTS_MAX. */
size_t lists_above_alone(const struct crl_lists *l, struct crl **ret);
/* The table has changed for all signers. */
void lists_dirty(struct crl_lists *l);
/* Makes what is due; what cannot be signed now is said unsigned and tried again. r: whether
 * handed_out is another. */
bool lists_update(struct crl_lists *l);
/* [{"signer","id","number","this_update","next_update","entries","signed","key_held"}] */
json_t *lists_json(const struct crl_lists *l);

/* -- all of it: revoke.c -- */

struct revocations {
    struct ca *ca;
    struct revoked_table table;
    struct revoked_identities identities;
    struct crl_lists lists;
    uint64_t courier_ms; /* mono, when one was here last; 0: since the start none was */
    bool courier_takes_identities;
    char told_trouble[ERR_MSG_BYTES]; /* why an identity that was told is not revoked here; "" */
};
/* As `ca revoke` asks; x is answered, once. */
struct revoke_ask {
    struct crl_entry entry; /* serial (serial_n 0: by identity), reason */
    char identity[LEDGER_IDENTITY_BYTES];
    bool is_confirmed;
};
void revocations_ask(struct revocations *r, const struct revoke_ask *a, struct http_exchange *x);
/* Another replica has revoked this identity: done here too, once, in a while; when it is, it is
 * among the kept. What cannot be begun now is told again. v->identity is copied. */
void revocations_tell(struct revocations *r, const struct revoked_identity *v);
/* The table has changed: into the lists, into force. */
void revocations_changed(struct revocations *r, const char *why);
/* Stays in memory until it is let go. r: false: it was closed meanwhile, and may be gone now. */
void revocations_hold(struct revocations *r);
bool revocations_let_go(struct revocations *r);

#endif
