/* grpc_server.h - private to net/ and its tests: a server on a connected socket. */
#ifndef NET_GRPC_SERVER_H
#define NET_GRPC_SERVER_H

#include "net/grpc.h"

/* Serves one connected, non-blocking socket as if it had been accepted. Takes the descriptor, also
 * on failure. Errors: NOMEM. */
MUST_USE int grpc_server_adopt(struct grpc_server *s, int take_fd, struct err *e);
bool grpc_server_is_draining(const struct grpc_server *s);

#endif
