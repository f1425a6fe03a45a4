/* keep_port.h - a port that a server comes back to stays ours while nobody listens on it: the
 * kernel may give it to any other socket meanwhile, one of our own clients' too. */
#ifndef TESTS_UNIT_KEEP_PORT_H
#define TESTS_UNIT_KEEP_PORT_H

#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* For servers of 127.0.0.1 with SO_REUSEADDR, as addr_listen's are. r: close(2) it to let go. */
static inline int
keep_port(uint16_t *ret_port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    socklen_t n = sizeof(at);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

#endif
