/* form.h - private to cloud/: application/x-www-form-urlencoded bodies. */
#ifndef CLOUD_FORM_H
#define CLOUD_FORM_H

#include "base/buf.h"

/* The decoded value of the first field `name` into `ret` (cleared first; the caller wipes it when
 * it is a secret). r: 0 done; FORM_ABSENT no such field. Errors: PARSE (a broken escape, a NUL),
 * LIMIT. Source: WHATWG URL 5.1. */
enum { FORM_ABSENT = 1 };
MUST_USE int form_field(struct span body, const char *name, struct buf *ret, struct err *e);

#endif
