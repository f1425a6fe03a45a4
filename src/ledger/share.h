/* share.h - private to ledger/: how much of the memory each identity has, so that no workload can
 * take it all: what one has too much of is refused to it, and to nobody else. */
#ifndef LEDGER_SHARE_H
#define LEDGER_SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct share {
    struct share *next; /* in its bucket */
    size_t workloads_n, leaves_n;
    char identity[];
};

struct shares {
    struct share **buckets; /* owned */
    size_t buckets_n, n;
    uint64_t seed;
};

MUST_USE int shares_init(struct shares *s, uint64_t seed, struct err *e);
void shares_done(struct shares *s);
/* The one of `identity`, made when it is new. Errors: NOMEM. */
MUST_USE int shares_get(struct shares *s, const char *identity, struct share **ret, struct err *e);
/* NULL when it has nothing. */
const struct share *shares_find(const struct shares *s, const char *identity);
/* Lets go of one without workloads. */
void shares_drop(struct shares *s, struct share *x);

#endif
