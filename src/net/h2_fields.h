/* h2_fields.h - private to h2*.c: a stream's header fields, in one piece of memory. Layer: net. */
#ifndef NET_H2_FIELDS_H
#define NET_H2_FIELDS_H

#include "base/buf.h"

enum { FIELDS_MAX_BYTES = UINT16_MAX /* what struct field can point to */ };

struct field {
    uint16_t name_at, name_n, value_at, value_n; /* in `bytes` */
};

struct fields {
    struct buf bytes; /* owned; its cap is at most FIELDS_MAX_BYTES */
    size_t n, max;
    struct field *v; /* borrowed: `max` of them */
};
/* Copies both. Errors: LIMIT (fields or bytes), NOMEM; nothing is added then. */
MUST_USE int fields_add(struct fields *f, struct span name, struct span value, struct err *e);
/* The i-th value of that name; p == NULL: there are not that many. Borrowed. */
struct span fields_find(const struct fields *f, const char *name, size_t i);
void fields_wipe(struct fields *f); /* none is left, nor their memory */

#endif
