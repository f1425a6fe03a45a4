#include "net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/str.h"

enum { BACKLOG = 1024 };

union sock_addr {
    struct sockaddr any;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};

static bool
host_byte_ok(uint8_t b, bool bracketed)
{
    if ((b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') || b == '.')
        return true;
    return bracketed ? b == ':' : b == '-' || b == '_';
}

int
addr_parse(const char *text, struct addr *ret, struct err *e)
{
    struct span s = span_str(text), host, port;
    bool bracketed = s.n > 0 && s.p[0] == '[';
    struct addr a = { .port = 0 };
    uint64_t n;

    const uint8_t *colon = s.n == 0 ? NULL : memrchr(s.p, ':', s.n);
    if (colon == NULL)
        return err_set(e, E_PARSE, "address \"%.80s\" is not HOST:PORT", text == NULL ? "" : text);
    host = span_of(s.p, (size_t)(colon - s.p));
    port = span_skip(s, host.n + 1);
    if (bracketed) {
        if (host.n < 3 || host.p[host.n - 1] != ']')
            return err_set(e, E_PARSE, "address \"%.80s\": \"[\" without \"]\"", text);
        host = span_of(host.p + 1, host.n - 2);
    }
    if (host.n == 0 || host.n >= HOST_BYTES)
        return err_set(e, E_PARSE, "address \"%.80s\": the host is %s", text,
                       host.n == 0 ? "empty; 127.0.0.1 is this machine" : "too long");
    for (size_t i = 0; i < host.n; i++)
        if (!host_byte_ok(host.p[i], bracketed))
            return err_set(e, E_PARSE, "address \"%.80s\": bad host (IPv6 needs brackets)", text);
    if (u64_parse(port, 0, UINT16_MAX, &n, e) < 0)
        return err_wrap(e, "address \"%.80s\": port", text);
    memcpy(a.host, host.p, host.n);
    a.port = (uint16_t)n;
    *ret = a;
    return 0;
}

static socklen_t
sock_addr_fill(const struct addr *a, union sock_addr *ret)
{
    *ret = (union sock_addr){ .any.sa_family = AF_UNSPEC };
    if (inet_pton(AF_INET, a->host, &ret->in4.sin_addr) == 1) {
        ret->in4.sin_family = AF_INET;
        ret->in4.sin_port = htons(a->port);
        return sizeof(ret->in4);
    }
    if (inet_pton(AF_INET6, a->host, &ret->in6.sin6_addr) == 1) {
        ret->in6.sin6_family = AF_INET6;
        ret->in6.sin6_port = htons(a->port);
        return sizeof(ret->in6);
    }
    return 0;
}

static int
bind_and_listen(int fd, const struct addr *a, const union sock_addr *sa, socklen_t n,
                bool reuse_port, uint16_t *ret_port, struct err *e)
{
    union sock_addr got = { .any = { 0 } };
    socklen_t got_n = sizeof(got);
    int one = 1;

    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0))
        return err_sys(e, errno, "socket option");
    if (bind(fd, &sa->any, n) < 0 || listen(fd, BACKLOG) < 0)
        return errno == EADDRINUSE
                   ? err_sys(e, errno,
                             "cannot listen on %s:%u: the address is in use; another process "
                             "listens there, or choose another port (0: any)",
                             a->host, a->port)
                   : err_sys(e, errno, "cannot listen on %s:%u", a->host, a->port);
    if (getsockname(fd, &got.any, &got_n) < 0)
        return err_sys(e, errno, "getsockname");
    *ret_port = ntohs(got.any.sa_family == AF_INET ? got.in4.sin_port : got.in6.sin6_port);
    return 0;
}

int
addr_listen(const struct addr *a, bool reuse_port, int *ret_fd, uint16_t *ret_port, struct err *e)
{
    union sock_addr sa;
    socklen_t n = sock_addr_fill(a, &sa);

    if (n == 0)
        return err_set(e, E_INVAL, "cannot listen on \"%s\": an IP address is needed", a->host);
    int fd = socket(sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_sys(e, errno, "socket");
    if (bind_and_listen(fd, a, &sa, n, reuse_port, ret_port, e) < 0) {
        (void)close(fd);
        return err_result(e);
    }
    *ret_fd = fd;
    return 0;
}

int
addr_connect(const struct addr *a, int *ret_fd, struct err *e)
{
    union sock_addr sa;
    socklen_t n = sock_addr_fill(a, &sa);

    if (n == 0)
        return err_set(e, E_INVAL, "\"%s\" is not an IP address", a->host);
    int fd = socket(sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_sys(e, errno, "socket");
    if (connect(fd, &sa.any, n) < 0 && errno != EINPROGRESS) {
        int no = errno;

        (void)close(fd);
        return err_sys(e, no, "cannot connect to %s:%u", a->host, a->port);
    }
    *ret_fd = fd;
    return 0;
}

bool
addr_is_ip(const char *host)
{
    struct addr a = { .port = 0 };
    union sock_addr sa;
    size_t n = strlen(host);

    if (n >= sizeof(a.host))
        return false;
    memcpy(a.host, host, n);
    return sock_addr_fill(&a, &sa) != 0;
}

void
addr_of_peer(int fd, char ret[ADDR_TEXT_BYTES])
{
    union sock_addr sa = { .any.sa_family = AF_UNSPEC };
    socklen_t n = sizeof(sa);
    char host[INET6_ADDRSTRLEN] = "";

    if (getpeername(fd, &sa.any, &n) < 0)
        sa.any.sa_family = AF_UNSPEC;
    if (sa.any.sa_family == AF_INET &&
        inet_ntop(AF_INET, &sa.in4.sin_addr, host, sizeof(host)) != NULL)
        (void)snprintf(ret, ADDR_TEXT_BYTES, "%s:%u", host, ntohs(sa.in4.sin_port));
    else if (sa.any.sa_family == AF_INET6 &&
             inet_ntop(AF_INET6, &sa.in6.sin6_addr, host, sizeof(host)) != NULL)
        (void)snprintf(ret, ADDR_TEXT_BYTES, "[%s]:%u", host, ntohs(sa.in6.sin6_port));
    else
        (void)snprintf(ret, ADDR_TEXT_BYTES, "%s", sa.any.sa_family == AF_UNIX ? "unix" : "?");
}
