/* http_target.h - private to net/: the request target, decoded. Layer: net. Thread: any.
 * Source: RFC 9112 3.2, RFC 3986 2.1; specs/azure.md 0 points 3 and 4.
 */
#ifndef NET_HTTP_TARGET_H
#define NET_HTTP_TARGET_H

#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"

enum { HTTP_MAX_QUERY = 32, HTTP_MAX_TARGET_BYTES = 8 * 1024 };

struct http_target {
    char *text;       /* owned; everything below points into it */
    const char *path; /* starts with '/', duplicate slashes kept */
    size_t query_n;
    struct {
        const char *name, *value;
    } query[HTTP_MAX_QUERY];
};

/* Takes origin-form ("/a?b=c") or absolute-form apart and decodes it; '+' in the query is a space.
 * Errors: PARSE (a broken escape, %00, a control character: says which), LIMIT, NOMEM. */
MUST_USE int http_target_parse(struct span raw, struct http_target *ret, struct err *e);
/* Frees; twice is harmless. */
void http_target_done(struct http_target *t);
/* The first value of that name; NULL when absent. Borrowed. */
const char *http_target_query(const struct http_target *t, const char *name);

#endif
