/* http_head.h - private to net/: what of a request's header fields two readers could understand
 * differently. Layer: net. Thread: any. Source: RFC 9112 3.2, 5.1, 6.1 to 6.3; RFC 3986 3.2.2.
 */
#ifndef NET_HTTP_HEAD_H
#define NET_HTTP_HEAD_H

#include "base/attr.h"
#include "base/err.h"

struct http_head { /* zeroed at the start of a request */
    unsigned hosts, lengths, codings;
};

/* One field, in any order. Errors: PARSE (a name that is no token, a second Host, Content-Length or
 * Transfer-Encoding, both of the last two, a length that is no number, a coding but chunked, a Host
 * that is no host and port). */
MUST_USE int http_head_see(struct http_head *h, const char *name, const char *value, struct err *e);

#endif
