/* reach.h - private to net/: which addresses a URL of somebody else's choice may lead to. Layer:
 * net. Source: peers.md 5a 37, 38 (CVE-2026-41413); RFC 3927, 4291, 6890; the clouds' metadata
 * services.
 */
#ifndef NET_REACH_H
#define NET_REACH_H

#include <sys/socket.h>

#include "net/http.h"

/* Whether a connection to that address is allowed. An address of another family than IPv4 and IPv6
 * is not. IPv4 inside IPv6 (mapped, NAT64, 6to4) counts as what it is. Thread: any. */
bool reach_allows(enum http_reach reach, const struct sockaddr *to);

#endif
