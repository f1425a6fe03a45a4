/* resolve.h - private to net/: host names to IP addresses, without blocking the loop. Layer: net.
 * An IP address and "localhost" need no look-up; any other name goes to getaddrinfo in a thread of
 * its own (at most RESOLVE_THREADS_MAX in the process; it may hang, and is then left behind).
 */
#ifndef NET_RESOLVE_H
#define NET_RESOLVE_H

#include "net/addr.h"
#include "net/loop.h"

enum { RESOLVE_MAX = 8, RESOLVE_THREADS_MAX = 16 };

struct resolve; /* one look-up */

/* IP addresses as text, in the order to try; or n == 0 and the reason. Called on the loop, never
 * before resolve_start returns. */
typedef void resolve_fn(const struct addr *found, size_t n, const struct err *why, void *arg);

MUST_USE int resolve_start(struct loop *l, const char *host, uint16_t port, resolve_fn *fn,
                           void *arg, struct resolve **ret, struct err *e);
/* No call comes any more. Must be called exactly once if the call-back has not come; NULL is fine.
 */
void resolve_cancel(struct resolve *r);

#endif
