/* revoked_identity.h - private to ca/: identities whose leaves of before a moment are refused.
 *
 * `ca revoke --identity` is an act with an id of its own, which each replica does once in its own
 * ledger (revoke.c); the courier carries it. A row here says that this replica has done it: so it
 * is written last, after the leaves. What is done twice by two people is two acts: no clock says
 * which came first. Until a replica has heard of it, the cut refuses the leaves that it has issued,
 * where the act is known. Source: docs/revocation.md, "An identity, on all replicas".
 *
 *   revoke-identity/<hex id>     one act, JSON
 *
 * Thread: the control loop's; cuts: any.
 */
#ifndef CA_REVOKED_IDENTITY_H
#define CA_REVOKED_IDENTITY_H

#include "net/loop.h"
#include "pki/crl.h"
#include "store/store.h"

/* The longest --max-workload-ttl there is. */
#define IDENTITY_ACT_LIFE_MAX_S (INT64_C(876000) * 3600)

enum {
    REVOKED_IDENTITIES_MAX = 1024, /* acts of which a leaf may be alive; beyond: LIMIT */
    IDENTITY_ACT_BYTES = 16,
    IDENTITY_KEY_BYTES = 64,
};

struct revoked_identity {
    uint8_t id[IDENTITY_ACT_BYTES];
    char *identity; /* owned */
    int64_t at;     /* unix seconds, of the replica where it was asked for */
    int64_t until;  /* no leaf of before `at` lives longer: the act is told until then */
    enum crl_reason reason;
    uint64_t seen_ms; /* mono, when it was first seen to be over; 0: it is not */
    bool is_kept;     /* done here, and on disk */
};

/* -- cuts: what views carry; immutable, counted references -- */

struct cuts;
struct cuts *cuts_ref(struct cuts *c);
void cuts_unref(struct cuts *c); /* NULL is fine */
bool cuts_equal(const struct cuts *a, const struct cuts *b);
/* Whether a leaf of this identity with this notBefore was issued before the identity was revoked:
 * notBefore lies LEAF_BACKDATE_S before that. One of the very second passes: it may be the next
 * one, and the serial numbers come too. NULL: nothing is revoked. */
bool cuts_refuse(const struct cuts *c, struct span identity, int64_t not_before);

/* -- the table -- */

struct revoked_identities {
    struct store *store; /* borrowed; NULL: nothing is kept */
    struct loop *loop;
    struct revoked_identity *all; /* owned; in the order in which they came */
    size_t n, cap;
    struct cuts *cuts; /* of all; NULL: none */
};
/* Errors: PARSE (which record), NOMEM, SYS. */
MUST_USE int identities_open(struct revoked_identities *t, struct store *s, struct loop *l,
                             struct err *e);
void identities_done(struct revoked_identities *t);
/* NULL: none; borrowed, until the table changes. */
struct revoked_identity *identities_find(const struct revoked_identities *t,
                                         const uint8_t id[IDENTITY_ACT_BYTES]);
size_t identities_kept(const struct revoked_identities *t);
/* It is being done: the cuts have it; v->identity is copied. Errors: LIMIT
 * (REVOKED_IDENTITIES_MAX), NOMEM, STATE (no store). */
MUST_USE int identities_begin(struct revoked_identities *t, const struct revoked_identity *v,
                              struct err *e);
/* It is not done: as if it had not begun. */
void identities_drop(struct revoked_identities *t, const uint8_t id[IDENTITY_ACT_BYTES]);
/* It is done: on disk, and then done(e, arg) on the loop, which the table outlives. Errors: NOMEM,
 * LIMIT (the store is busy). */
MUST_USE int identities_keep(struct revoked_identities *t, const uint8_t id[IDENTITY_ACT_BYTES],
                             void (*done)(const struct err *e, void *arg), void *arg,
                             struct err *e);
/* Lets go of those that are over, by both clocks, as revoked_prune; it is not told any more by
 * then, so that nobody does it again. r: whether there were any. */
bool identities_prune(struct revoked_identities *t, int64_t now, uint64_t now_ms);

/* One record in the store. ret->identity is the caller's to free. Errors: PARSE, NOMEM. */
void identity_record_key(const struct revoked_identity *v, char ret[IDENTITY_KEY_BYTES]);
MUST_USE int identity_record_write(const struct revoked_identity *v, struct buf *b, struct err *e);
MUST_USE int identity_record_read(const char *key, struct span value, struct revoked_identity *ret,
                                  struct err *e);

#endif
