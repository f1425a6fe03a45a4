/* versions.h - the vault's versions of a set, as a Secret's annotation has them. Thread: any.
 * Layer: operator (private). */
#ifndef OPERATOR_VERSIONS_H
#define OPERATOR_VERSIONS_H

#include "sync/sync.h"

/* {"root-cert":"...","ca-cert":...}. r: 0; -1: not all four are there. */
MUST_USE int versions_read(const char *text, struct sync_versions *ret);
/* Owner: caller, free(). Errors: NOMEM. */
MUST_USE int versions_text(const struct sync_versions *v, char **ret, struct err *e);

#endif
